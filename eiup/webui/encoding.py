"""Concepts through the webui's own prompt path: textual inversion, LoRA, CLIP skip and the
checkpoint's tokenizer apply to them as to any prompt."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules import devices, prompt_parser, shared
from modules.hypernetworks import hypernetwork

from ..concepts import Concept
from ..eraser import EncodedConcept
from ..errors import ErasureError, RequestError

CHUNK_TOKENS = 75


def encode(
    model: nn.Module, concepts: tuple[Concept, ...], strength: float, width: int, height: int
) -> tuple[list[EncodedConcept], Tensor]:
    """The concepts, each encoded alone, and the empty prompt's context ``[77, C]``.

    Raises :class:`RequestError` for a concept of more than 75 tokens or of none.
    """
    conditioner = model.cond_stage_model
    if not hasattr(conditioner, "process_texts"):
        raise ErasureError(
            f"the text encoder {type(conditioner).__name__} has no prompt chunks. Use a checkpoint of the "
            "SD1, SD2 or SDXL family, or switch EIUP off"
        )
    counts = [_count_tokens(conditioner, concept) for concept in concepts]
    prompts = prompt_parser.SdConditioning([c.text for c in concepts] + [""], width=width, height=height)
    with torch.no_grad(), devices.autocast():
        contexts = model.get_learned_conditioning(prompts)
    if isinstance(contexts, dict):  # SDXL
        contexts = contexts["crossattn"]
    encoded = [
        EncodedConcept(concept.text, context, tuple(range(1, count + 1)), strength * concept.weight)
        for concept, context, count in zip(concepts, contexts, counts)
    ]
    return encoded, contexts[-1]


def _count_tokens(conditioner: nn.Module, concept: Concept) -> int:
    chunks, count = conditioner.process_texts([concept.text])
    if len(chunks[0]) > 1 or count > CHUNK_TOKENS:
        raise RequestError(
            "concepts", concept.text, f"at most {CHUNK_TOKENS} tokens a concept", f"This one has {count}."
        )
    if count < 1:
        raise RequestError("concepts", concept.text, "a concept that this model's vocabulary has tokens for")
    return count


def through_hypernetworks(layer: nn.Module, contexts: Tensor) -> tuple[Tensor, Tensor]:
    """The contexts for keys and values, as the host's own cross-attention would see them."""
    if not shared.loaded_hypernetworks:
        return contexts, contexts
    return hypernetwork.apply_hypernetworks(shared.loaded_hypernetworks, contexts, layer)
