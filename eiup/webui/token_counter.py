"""How long the concepts are, in the checkpoint's tokens, below the box that they are typed into."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import gradio as gr

from modules import sd_models

from ..concepts import Concept, parse_concepts
from ..errors import EiupError
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
    """HTML: the concepts that are too long, or else the longest, or what is wrong with the text."""
    model = sd_models.model_data.sd_model
    if model is None:
        return ""
    try:
        conditioner = conditioner_of(model)
        concepts = parse_concepts(text, resolve=preset_store().resolver())
        counts = [(count_tokens(conditioner, concept), concept) for concept in concepts]
    except EiupError as error:
        return error_as_html(error, "span")
    too_long = [pair for pair in counts if pair[0] > CHUNK_TOKENS]
    longest = [max(counts, key=lambda pair: pair[0])] if counts else []
    return ", ".join(_shown(*pair) for pair in too_long or longest)


def _shown(tokens: int, concept: Concept) -> str:
    text = concept.text
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[: _SHOWN_CHARACTERS - 3]}..."
    attribute = " class='error'" if tokens > CHUNK_TOKENS else ""
    return f"<span{attribute}>{escape(text)} {tokens}/{CHUNK_TOKENS}</span>"
