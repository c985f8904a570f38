"""Requests and responses of the API."""

from __future__ import annotations

import inspect
import typing
from typing import Any, Optional

from PIL import Image
from pydantic import BaseModel, Field, create_model

from modules.processing import StableDiffusionProcessingImg2Img, StableDiffusionProcessingTxt2Img

# Arguments of p that requests cannot set.
NOT_IN_REQUESTS = {
    "self", "sd_model", "outpath_samples", "outpath_grids", "sampler_index", "extra_generation_params",
    "overlay_images", "do_not_reload_embeddings", "seed_enable_extras", "prompt_for_display",
    "ddim_discretize",
}  # fmt: skip

FOR_BOTH = {
    "sampler_index": (str, "Euler"),
    "script_name": (str, None),
    "script_args": (list, []),
    "send_images": (bool, True),
    "save_images": (bool, False),
    "alwayson_scripts": (dict, {}),
    "force_task_id": (str, None),
    "infotext": (str, None),
}
FOR_IMG2IMG = {
    "init_images": (list, None),
    "denoising_strength": (float, 0.75),
    "mask": (str, None),
    "include_init_images": (bool, False),
}


def _request_model(name: str, processing: type, further: dict[str, tuple[type, Any]]) -> type[BaseModel]:
    """A model with a field for each argument of ``p``, and further ones."""
    hints = typing.get_type_hints(processing)
    fields = {}
    for argument, parameter in inspect.signature(processing.__init__).parameters.items():
        if argument in NOT_IN_REQUESTS:
            continue
        kind = hints[argument]
        kind = getattr(kind, "type", kind)  # of an InitVar
        fields[argument] = (Optional[str if kind is Image.Image else kind], parameter.default)
    fields |= {key: (Optional[kind], default) for key, (kind, default) in further.items()}
    return create_model(name, **fields)


StableDiffusionTxt2ImgProcessingAPI = _request_model(
    "StableDiffusionProcessingTxt2Img", StableDiffusionProcessingTxt2Img, FOR_BOTH
)
StableDiffusionImg2ImgProcessingAPI = _request_model(
    "StableDiffusionProcessingImg2Img", StableDiffusionProcessingImg2Img, FOR_BOTH | FOR_IMG2IMG
)


class ImageResponse(BaseModel):
    """Base64 images, the request, and ``Processed.js()``."""

    images: Optional[list[str]] = None
    parameters: dict
    info: str


TextToImageResponse = ImageToImageResponse = ImageResponse


class PNGInfoRequest(BaseModel):
    image: str = Field(description="base64 encoded image")


class PNGInfoResponse(BaseModel):
    info: str
    items: dict
    parameters: dict


class ProgressRequest(BaseModel):
    skip_current_image: bool = False


class ProgressResponse(BaseModel):
    progress: float
    eta_relative: float
    state: dict
    current_image: Optional[str] = None
    textinfo: Optional[str] = None


class SamplerItem(BaseModel):
    name: str
    aliases: list[str]
    options: dict[str, str]


class SchedulerItem(BaseModel):
    name: str
    label: str
    aliases: Optional[list[str]]
    default_rho: Optional[float]
    need_inner_model: Optional[bool]


class SDModelItem(BaseModel):
    title: str
    model_name: str
    hash: Optional[str]
    sha256: Optional[str]
    filename: str
    config: Optional[str]


class ScriptsList(BaseModel):
    txt2img: list[str]
    img2img: list[str]


class ScriptArg(BaseModel):
    label: Optional[str] = None
    value: Optional[Any] = None
    minimum: Optional[Any] = None
    maximum: Optional[Any] = None
    step: Optional[Any] = None
    choices: Optional[list[str]] = None


class ScriptInfo(BaseModel):
    name: Optional[str] = None
    is_alwayson: Optional[bool] = None
    is_img2img: Optional[bool] = None
    args: list[ScriptArg]


def describe_script(script, controls) -> ScriptInfo:
    """What ``/sdapi/v1/script-info`` says of a script: its components in the order of ``ui()``."""
    args = []
    for control in controls:
        given = {
            name: value for name in ("value", "minimum", "maximum", "step")
            if (value := getattr(control, name, None)) is not None
        }  # fmt: skip
        choices = getattr(control, "choices", None)
        if choices is not None:
            given["choices"] = [choice[0] if isinstance(choice, tuple) else choice for choice in choices]
        args.append(ScriptArg(label=control.label or "", **given))
    return ScriptInfo(name=script.name, is_alwayson=script.alwayson, is_img2img=script.is_img2img, args=args)
