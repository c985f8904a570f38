"""The webui's model as concepts are calibrated with it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules import paths, sd_unet

from ..calibration import CalibrationCache
from ..errors import ErasureError
from ..probes import Denoiser
from . import unet_guard
from .encoding import ConceptEncoder

# Latents of probes are square, of about the images' area, in these steps and at most this large.
_STEP, _LARGEST = 16, 64


def erasable_unet(model: nn.Module) -> nn.Module:
    """The U-Net of ``model``. Raises :class:`ErasureError` where another one runs in its place."""
    if sd_unet.current_unet is not None:
        raise ErasureError(
            "the U-Net is replaced by another implementation (such as TensorRT), in which concepts "
            "cannot be erased. Choose SD Unet: None in the settings, or switch EIUP off"
        )
    return model.model.diffusion_model


def calibration_cache() -> CalibrationCache:
    """Where calibrations are kept: ``cache/eiup`` in the webui's data folder."""
    return CalibrationCache(Path(paths.data_path) / "cache" / "eiup")


def checkpoint_identity(model: Any) -> str:
    """What tells the checkpoint of ``model`` from all others: its hash, or its file where the webui has not
    made one (``--no-hashing``)."""
    info = model.sd_checkpoint_info
    known = getattr(info, "sha256", None) or getattr(model, "sd_model_hash", None)
    if known:
        return str(known)
    file = Path(info.filename)
    try:
        about = file.stat()
    except OSError:
        return file.name
    return f"{file.name} {about.st_size} {about.st_mtime_ns}"


def denoiser_of(model: nn.Module, encode: ConceptEncoder, width: int, height: int) -> Denoiser:
    """For images of ``width x height`` pixels. The empty prompt's pooled vector, where there is one (SDXL),
    serves for all prompts; further channels of the U-Net's input (inpainting) are zeros."""
    unet = model.model.diffusion_model
    channels = unet.out_channels
    side = _STEP * round((width * height) ** 0.5 / 8 / _STEP)
    side = min(max(side, _STEP), _LARGEST)
    alphas = model.alphas_cumprod.float()
    parameterization = "v" if getattr(model, "parameterization", "eps") == "v" else "eps"

    @cache
    def empty() -> Any:
        return encode.conditioning([""])

    def predict(x: Tensor, timestep: int, contexts: Tensor) -> Tensor:
        t = torch.full((len(x),), timestep, device=x.device)
        if isinstance(empty(), dict):
            vector = empty()["vector"][:1].expand(len(x), -1)
            cond: dict[str, Any] = {"crossattn": contexts, "vector": vector}
        else:
            cond = {"c_crossattn": [contexts]}
        if (more := unet.in_channels - channels) > 0:
            cond["c_concat"] = [x.new_zeros(len(x), more, *x.shape[2:])]
        with unet_guard.calibrating():
            output = model.apply_model(x, t, cond).float()
        if parameterization != "v":
            return output
        alpha = alphas[timestep].to(x.device)
        return alpha.sqrt() * output + (1 - alpha).sqrt() * x

    return Denoiser(predict, alphas, (channels, side, side), parameterization)
