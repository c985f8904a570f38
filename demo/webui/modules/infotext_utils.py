"""Infotexts: parsing them, and filling the page's fields from them."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
from typing import Any

import gradio as gr
from PIL import Image

from modules import errors, images, prompt_parser, script_callbacks, shared
from modules.paths import data_path

# The name that this module had before, which extensions still import.
sys.modules["modules.generation_parameters_copypaste"] = sys.modules[__name__]

_PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d+)x(\d+)")
type_of_gr_update = type(gr.update())

# What an infotext means by leaving a label out.
IMPLIED = {
    "Clip skip": "1",
    "Hires resize-1": 0,
    "Hires resize-2": 0,
    "Hires sampler": "Use same sampler",
    "Hires schedule type": "Use same scheduler",
    "Hires checkpoint": "Use same checkpoint",
    "Hires prompt": "",
    "Hires negative prompt": "",
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
    "Inpaint area": "Whole picture",
    "Masked area padding": 32,
    "RNG": "GPU",
    "Schedule type": "Automatic",
    "Schedule max sigma": 0,
    "Schedule min sigma": 0,
    "Schedule rho": 0,
    "VAE Encoder": "Full",
    "VAE Decoder": "Full",
    "FP8 weight": "Disable",
    "Refiner switch by sampling steps": False,
}


class PasteField(tuple):
    """A component and what it takes from an infotext: a label, or a function of the parsed infotext.

    ``api`` is the field of an API request that stands for the component.
    """

    def __new__(cls, component, target, *, api: str | None = None):
        return super().__new__(cls, (component, target))

    def __init__(self, component, target, *, api: str | None = None):
        self.component = component
        self.api = api
        self.label = target if isinstance(target, str) else None
        self.function = target if callable(target) else None


class ParamBinding:
    """A button that fills a tab's fields, from a text, an image, or another tab."""

    def __init__(
        self, paste_button, tabname: str, source_text_component=None, source_image_component=None,
        source_tabname: str | None = None, override_settings_component=None,
        paste_field_names: list | None = None,
    ):  # fmt: skip
        self.paste_button = paste_button
        self.tabname = tabname
        self.source_text_component = source_text_component
        self.source_image_component = source_image_component
        self.source_tabname = source_tabname
        self.override_settings_component = override_settings_component
        self.paste_field_names = paste_field_names or []


paste_fields: dict[str, dict[str, Any]] = {}
registered_param_bindings: list[ParamBinding] = []
infotext_to_setting_name_mapping: list[tuple[str, str]] = []


def reset() -> None:
    paste_fields.clear()
    registered_param_bindings.clear()


# ---- text ---------------------------------------------------------------------------------


def quote(text: Any) -> Any:
    """The value, as a JSON string when it holds a comma, a colon or a newline."""
    return json.dumps(text, ensure_ascii=False) if any(mark in str(text) for mark in ",:\n") else text


def unquote(text: str) -> str:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_generation_parameters(x: str, skip_fields: list[str] | None = None) -> dict[str, Any]:
    """Labels and values of an infotext; the prompts are ``Prompt`` and ``Negative prompt``.

    The last line counts as parameters when it has at least three. ``Size: 64x96`` becomes ``Size-1`` and
    ``Size-2``. Labels that are left out are set to what that implies.
    """
    lines = x.strip().split("\n")
    parameters = _PARAMETER.findall(lines[-1])
    if len(parameters) < 3:
        parameters = []
    else:
        lines.pop()
    texts: dict[str, list[str]] = {"Prompt": [], "Negative prompt": []}
    into = "Prompt"
    for line in (line.strip() for line in lines):
        if line.startswith("Negative prompt:"):
            into, line = "Negative prompt", line.removeprefix("Negative prompt:").strip()
        # Empty lines at the start of a prompt are dropped.
        if line or texts[into]:
            texts[into].append(line)

    res: dict[str, Any] = {}
    for label, value in parameters:
        value = unquote(value)
        size = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if size:
            res[f"{label}-1"], res[f"{label}-2"] = size.groups()
        else:
            res[label] = value
    res |= {label: "\n".join(found) for label, found in texts.items()}
    for label, value in IMPLIED.items():
        res.setdefault(label, value)
    pieces = [
        piece for text in texts.values() for piece in prompt_parser.parse_prompt_attention("\n".join(text))
    ]
    if any(weight != 1.0 and text != "BREAK" for text, weight in pieces):
        res.setdefault("Emphasis", "Original")
    for label in shared.opts.infotext_skip_pasting if skip_fields is None else skip_fields:
        res.pop(label, None)
    return res


# ---- settings -----------------------------------------------------------------------------


def _labels_of_settings() -> list[tuple[str, str]]:
    known = [(info.infotext, key) for key, info in shared.opts.data_labels.items() if info.infotext]
    return known + infotext_to_setting_name_mapping


def create_override_settings_dict(text_pairs: list[str]) -> dict[str, Any]:
    """``override_settings`` of ``["Clip skip: 2", ...]``."""
    given = {}
    for pair in text_pairs:
        label, value = pair.split(":", maxsplit=1)
        given[label] = value.strip()
    return {
        key: shared.opts.cast_value(key, given[label])
        for label, key in _labels_of_settings()
        if label in given
    }


def get_override_settings(params: dict[str, Any], *, skip_fields=None) -> list[tuple[str, str, Any]]:
    """(label, setting, value) for what an infotext wants other than it is set."""
    found = []
    for label, key in _labels_of_settings():
        if label in (skip_fields or ()) or params.get(label) is None:
            continue
        if key == "sd_model_checkpoint" and shared.opts.disable_weights_auto_swap:
            continue
        value = shared.opts.cast_value(key, params[label])
        if value != getattr(shared.opts, key, None):
            found.append((label, key, value))
    return found


# ---- the page -----------------------------------------------------------------------------


def image_from_url_text(filedata) -> Image.Image | None:
    """The image of what a gallery or an image component holds: a file of the server, or base64."""
    if isinstance(filedata, list):
        filedata = filedata[0] if filedata else None
    if filedata is None:
        return None
    if isinstance(filedata, dict) and filedata.get("is_file"):
        path = os.path.abspath(filedata["name"].rsplit("?", 1)[0])
        allowed = shared.demo is not None and any(path in files for files in shared.demo.temp_file_sets)
        assert allowed, "trying to open image file outside of allowed directories"
        return images.read(path)
    return images.read(io.BytesIO(base64.b64decode(filedata.removeprefix("data:image/png;base64,"))))


def send_image_and_dimensions(x) -> tuple:
    image = x if isinstance(x, Image.Image) else image_from_url_text(x)
    if shared.opts.send_size and isinstance(image, Image.Image):
        return image, image.width, image.height
    return image, gr.update(), gr.update()


def add_paste_fields(tabname: str, init_img, fields: list | None, override_settings_component=None) -> None:
    """Tell which components of a tab take what."""
    fields = [field if isinstance(field, PasteField) else PasteField(*field) for field in fields or []]
    paste_fields[tabname] = {
        "init_img": init_img, "fields": fields, "override_settings_component": override_settings_component,
    }  # fmt: skip


def create_buttons(tabs_list: list[str]) -> dict[str, gr.Button]:
    return {tab: gr.Button(f"Send to {tab}", elem_id=f"{tab}_tab") for tab in tabs_list}


def register_paste_params_button(binding: ParamBinding) -> None:
    registered_param_bindings.append(binding)


def bind_buttons(buttons: dict, send_image, send_generate_info) -> None:
    """An older way to register several buttons."""
    for tabname, button in buttons.items():
        is_tab = isinstance(send_generate_info, str)
        register_paste_params_button(
            ParamBinding(
                button,
                tabname,
                source_image_component=send_image,
                source_text_component=None if is_tab else send_generate_info,
                source_tabname=send_generate_info if is_tab else None,
            )  # fmt: skip
        )


def connect_paste_params_buttons() -> None:
    """Make the registered buttons work; the tabs must exist."""
    for binding in registered_param_bindings:
        target = paste_fields[binding.tabname]
        fields = target["fields"]
        if binding.source_image_component is not None and target["init_img"] is not None:
            _connect_image(binding, target["init_img"], fields)
        if binding.source_text_component is not None:
            override = binding.override_settings_component or target["override_settings_component"]
            connect_paste(
                binding.paste_button, fields, binding.source_text_component, override, binding.tabname
            )
        if binding.source_tabname is not None:
            names = ["Prompt", "Negative prompt", "Steps", "Face restoration", *binding.paste_field_names]
            names += ["Seed"] if shared.opts.send_seed else []
            source = paste_fields[binding.source_tabname]["fields"]
            binding.paste_button.click(
                fn=lambda *values: values,
                inputs=[field for field, name in source if name in names],
                outputs=[field for field, name in fields if name in names],
                show_progress=False,
            )
        binding.paste_button.click(
            fn=None, _js=f"switch_to_{binding.tabname}", inputs=None, outputs=None, show_progress=False
        )


def _connect_image(binding: ParamBinding, destination, fields: list[PasteField]) -> None:
    size = [field for field, name in fields if name in ("Size-1", "Size-2")]
    from_gallery = isinstance(binding.source_image_component, gr.Gallery)
    binding.paste_button.click(
        fn=send_image_and_dimensions if len(size) == 2 else image_from_url_text,
        _js="extract_image_from_gallery" if from_gallery else None,
        inputs=[binding.source_image_component],
        outputs=[destination, *size] if len(size) == 2 else [destination],
        show_progress=False,
    )


def _as_update(component, value):
    """A gradio update that sets a component to a value read from text; no change where it does not fit."""
    if value is None:
        return gr.update()
    if isinstance(value, type_of_gr_update):
        return value
    kind = type(component.value)
    try:
        if kind is bool and value == "False":
            return gr.update(value=False)
        return gr.update(value=float(value) if kind is int else kind(value))
    except Exception:
        return gr.update()


def connect_paste(button, paste_fields: list, input_comp, override_settings_component, tabname: str) -> None:
    """Make a button fill the fields from the infotext in ``input_comp``, or from the last generation."""
    fields = list(paste_fields)
    if override_settings_component is not None:
        handled = {key for _, key in fields if isinstance(key, str)}

        def paste_settings(params: dict[str, Any]):
            pairs = [
                f"{label}: {value}" for label, _, value in get_override_settings(params, skip_fields=handled)
            ]
            return gr.Dropdown.update(value=pairs, choices=pairs, visible=bool(pairs))

        fields.append((override_settings_component, paste_settings))

    def value_for(params: dict[str, Any], key) -> Any:
        if not callable(key):
            return params.get(key)
        try:
            return key(params)
        except Exception:
            errors.report(f"Error executing {key}", exc_info=True)
            return None

    def paste(text: str) -> list:
        last = os.path.join(data_path, "params.txt")
        if not text and os.path.isfile(last):
            with open(last, encoding="utf8") as file:
                text = file.read()
        params = parse_generation_parameters(text)
        script_callbacks.infotext_pasted_callback(text, params)
        return [_as_update(component, value_for(params, key)) for component, key in fields]

    button.click(
        fn=paste, inputs=[input_comp], outputs=[component for component, _ in fields], show_progress=False
    )
    button.click(fn=None, _js=f"recalculate_prompts_{tabname}", inputs=[], outputs=[], show_progress=False)
