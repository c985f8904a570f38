"""The accordion in txt2img and img2img, its infotext fields, and the settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from modules import shared
from modules.infotext_utils import PasteField
from modules.ui_components import InputAccordion

from ..request import FIELD, FIELDS, INFOTEXT_KEY, ErasureRequest


def accordion(elem_id: Callable[[str], str]) -> list[Any]:
    """Build the accordion; its components in the order of :data:`eiup.request.FIELDS`."""
    fields = dict(FIELD)
    with InputAccordion(False, label=fields["enabled"].label, elem_id=elem_id("enabled")) as enabled:
        concepts = gr.Textbox(
            label=fields["concepts"].label,
            info=fields["concepts"].help,
            placeholder="nudity\nwatermark:1.5",
            lines=3,
            elem_id=elem_id("concepts"),
        )
        strength = _slider("strength", elem_id, step=0.05)
        with gr.Row():
            start = _slider("start", elem_id, step=0.01)
            end = _slider("end", elem_id, step=0.01)
        mode = gr.Radio(
            list(fields["mode"].choices),
            value=fields["mode"].default,
            label=fields["mode"].label,
            info=fields["mode"].help,
            elem_id=elem_id("mode"),
        )
        preserve = gr.Checkbox(
            fields["preserve"].default,
            label=fields["preserve"].label,
            info=fields["preserve"].help,
            elem_id=elem_id("preserve"),
        )
    return [enabled, concepts, strength, start, end, mode, preserve]


def _slider(name: str, elem_id: Callable[[str], str], step: float) -> gr.Slider:
    field = FIELD[name]
    return gr.Slider(
        field.minimum,
        field.maximum,
        field.default,
        step=step,
        label=field.label,
        info=field.help,
        elem_id=elem_id(name),
    )


def infotext_fields(components: list[Any]) -> list[PasteField]:
    """How PNG Info, "Send to" and the API's ``infotext`` fill the components."""
    return [
        PasteField(component, lambda infotext, name=field.name: _from_infotext(infotext, name))
        for field, component in zip(FIELDS, components)
    ]


def _from_infotext(infotext: dict[str, Any], name: str) -> Any:
    if INFOTEXT_KEY not in infotext:
        # Such an image was made without erasure; the other values are left as they are.
        return False if name == "enabled" else None
    return ErasureRequest.from_infotext(infotext[INFOTEXT_KEY]).to_fields()[name]


def settings() -> None:
    """Add EIUP's section to the webui's settings."""
    section = ("eiup", "EIUP")
    options = {
        "eiup_journal": (True, "Keep a journal of what was suppressed, image by image"),
        "eiup_journal_prompts": (False, "Record prompts in the journal"),
    }
    for name, (default, label) in options.items():
        shared.opts.add_option(name, shared.OptionInfo(default, label, section=section))
