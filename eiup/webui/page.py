"""The accordion in txt2img and img2img, its infotext fields, and the settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from modules import shared
from modules.infotext_utils import PasteField
from modules.ui_components import InputAccordion

from .. import texts
from ..concepts import parse_concepts
from ..errors import RequestError
from ..request import FIELD, FIELDS, INFOTEXT_KEY, ErasureRequest
from . import policy_panel, preset_controls, result_panel
from .errors_shown import error_as_html
from .stores import current_checkpoint, feedback_store, preset_store
from .token_counter import token_counter


def accordion(elem_id: Callable[[str], str]) -> list[Any]:
    """Build the accordion; its components in the order of :data:`eiup.request.FIELDS`."""
    fields = dict(FIELD)
    # Under a policy, javascript/eiup-policy.js ticks it: the value here is what the API takes for asked.
    with InputAccordion(False, label=fields["enabled"].label, elem_id=elem_id("enabled")) as enabled:
        enabled.accordion.open = policy_panel.is_locked()
        policy_panel.build(elem_id)
        concepts = gr.Textbox(
            label=fields["concepts"].label,
            info=fields["concepts"].help,
            placeholder="nudity\nwatermark:1.5",
            lines=3,
            elem_id=elem_id("concepts"),
        )
        token_counter(concepts, elem_id)
        gr.HTML("<span></span>", elem_id=elem_id("named"), elem_classes=["eiup-aid"])  # for eiup-hints.js
        preset_controls.build(concepts, elem_id)
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
        policy_panel.begin_with_first_mode(mode)
        preserve = _checkbox("preserve", elem_id)
        with gr.Row():
            maps = _checkbox("maps", elem_id)
            compare = _checkbox("compare", elem_id)
        policy_panel.offer_only_allowed([strength, start, end, mode, preserve, compare])
        use_feedback = _feedback(concepts, elem_id)
        result_panel.build(elem_id)
    return [enabled, concepts, strength, start, end, mode, preserve, use_feedback, maps, compare]


def _feedback(concepts: gr.Textbox, elem_id: Callable[[str], str]) -> gr.Checkbox:
    """Buttons that flag the last images, and what has been learnt for the loaded checkpoint."""
    with gr.Accordion(texts.FEEDBACK, open=False, elem_id=elem_id("feedback_panel")):
        use = _checkbox("feedback", elem_id)
        with gr.Row():
            survived = gr.Button(texts.SURVIVED, size="sm", elem_id=elem_id("survived"))
            spoilt = gr.Button(texts.SPOILT, size="sm", elem_id=elem_id("spoilt"))
            reset = gr.Button(texts.FORGET, size="sm", elem_id=elem_id("reset_feedback"))
        learnt = gr.HTML(elem_id=elem_id("learnt"))
    survived.click(partial(_flag, "survived"), [concepts], [learnt], show_progress=False)
    spoilt.click(partial(_flag, "spoilt"), [concepts], [learnt], show_progress=False)
    reset.click(_reset, [], [learnt], show_progress=False)
    return use


def _flag(verdict: str, text: str) -> str:
    """Flag every concept that is typed; returns what has been learnt, as HTML."""
    try:
        concepts = parse_concepts(text, resolve=preset_store().resolver())
        if not concepts:
            raise RequestError("concepts", text, "at least one concept to give feedback on")
        for concept in concepts:
            feedback_store().flag(current_checkpoint(), concept.text, verdict)
    except RequestError as error:
        return error_as_html(error)
    return _learnt()


def _reset() -> str:
    feedback_store().reset(current_checkpoint())
    return _learnt()


def _learnt() -> str:
    factors = feedback_store().factors(current_checkpoint())
    listed = ", ".join(f"{escape(concept)} \u00d7{factor:g}" for concept, factor in sorted(factors.items()))
    return f"<p><span>{texts.ON_THIS_CHECKPOINT}</span> <span>{listed or texts.NOTHING_LEARNT}</span></p>"


def _checkbox(name: str, elem_id: Callable[[str], str]) -> gr.Checkbox:
    field = FIELD[name]
    return gr.Checkbox(field.default, label=field.label, info=field.help, elem_id=elem_id(name))


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
    return ErasureRequest.from_infotext(infotext[INFOTEXT_KEY]).to_fields().get(name)


def settings() -> None:
    """Add EIUP's section to the webui's settings."""
    section = ("eiup", "EIUP")
    options = {
        "eiup_journal": (True, texts.KEEP_JOURNAL),
        "eiup_journal_prompts": (False, texts.RECORD_PROMPTS),
        "eiup_journal_days": (0, texts.KEEP_DAYS),
        "eiup_journal_megabytes": (100, texts.MEGABYTES_A_FILE),
        "eiup_save_maps": (False, texts.SAVE_MAPS),
    }
    for name, (default, label) in options.items():
        shared.opts.add_option(name, shared.OptionInfo(default, label, section=section))
