"""How long the concepts are, in the checkpoint's tokens, below the box that they are typed into."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import gradio as gr

from modules import sd_models

from .. import texts
from ..concepts import Concept, parse_concepts
from ..errors import EiupError
from ..policy import enforce
from ..request import ErasureRequest
from . import in_force
from .encoding import CHUNK_TOKENS, conditioner_of, count_tokens
from .errors_shown import error_as_html
from .stores import preset_store

_SHOWN_CHARACTERS = 40


def token_counter(concepts: gr.Textbox, elem_id: Callable[[str], str]) -> None:
    """The counter, and the button by which ``javascript/eiup-tokens.js`` asks for it."""
    shown = gr.HTML(elem_id=elem_id("tokens"), elem_classes=["eiup-aid"])
    button = gr.Button("", visible=False, elem_id=elem_id("count_tokens"))
    # Not in the webui's queue: it is to answer while images are generated, too.
    button.click(count, [concepts], [shown], queue=False, show_progress=False)
    # What gradio writes into the box, such as a preset or an infotext's concepts, is not typed; it is
    # in the box a moment after this.
    concepts.change(fn=None, _js="() => { setTimeout(eiup.updateAll); }")


def count(text: str) -> str:
    """HTML: the concepts that are too long, or else the longest, or what is wrong with the text, also for
    the server's policy."""
    model = sd_models.model_data.sd_model
    if model is None:
        return ""
    try:
        conditioner = conditioner_of(model)
        concepts = parse_concepts(text, resolve=preset_store().resolver())
        if (policy := in_force.policy()) is not None:
            enforce(policy, ErasureRequest(True, tuple(concepts)))
        counts = [(count_tokens(conditioner, concept), concept) for concept in concepts]
    except EiupError as error:
        return error_as_html(error, "span")
    too_long = [pair for pair in counts if pair[0] > CHUNK_TOKENS]
    if too_long:
        return _shown(texts.TOO_LONG, too_long, " class='error'")
    longest = max(counts, key=lambda pair: pair[0], default=None)
    return _shown(texts.LONGEST, [longest]) if longest else ""


def _shown(heading: str, counts: list[tuple[int, Concept]], attribute: str = "") -> str:
    """``heading`` and concepts, each with its tokens and the most that it may have."""
    shown = (f"<b>{escape(_cut(concept.text))}</b>, {tokens}/{CHUNK_TOKENS}" for tokens, concept in counts)
    parts = f"<span>{heading}</span> {'; '.join(shown)} <span>{texts.TOKENS_ALLOWED}</span>"
    return f"<span{attribute}>{parts}</span>"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."
