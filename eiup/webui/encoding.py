"""Concepts through the webui's own prompt path: textual inversion, LoRA, CLIP skip and the
checkpoint's tokenizer apply to them as to any prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules import devices, prompt_parser, shared
from modules.hypernetworks import hypernetwork

from ..concepts import Concept
from ..eraser import EncodedConcept
from ..errors import ErasureError, RequestError

CHUNK_TOKENS = 75
# Of all concepts together: memory grows with their number, and with its square.
MAX_TOKENS = 1024
_ALLOWED = f"at most {CHUNK_TOKENS} tokens a concept, without BREAK"


class ConceptEncoder:
    """Encodes for one sampling pass with the webui's current ``model``."""

    def __init__(self, model: nn.Module, width: int, height: int):
        self.model, self.size = model, {"width": width, "height": height}
        self.conditioner = conditioner_of(model)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Contexts ``[B, 77, C]`` of texts of at most 75 tokens, each encoded as a prompt of its own."""
        conditioning = self.conditioning(texts)
        return conditioning["crossattn"] if isinstance(conditioning, dict) else conditioning

    def conditioning(self, texts: Sequence[str]) -> Tensor | dict[str, Tensor]:
        """As the webui has it: contexts, for SDXL in a dict with a pooled vector of each text."""
        prompts = prompt_parser.SdConditioning(list(texts), **self.size)
        with torch.no_grad(), devices.autocast():
            return self.model.get_learned_conditioning(prompts)

    def concepts(self, concepts: Sequence[Concept], strength: float) -> tuple[list[EncodedConcept], Tensor]:
        """The concepts, each encoded alone, and the empty prompt's context ``[77, C]``.

        Raises :class:`RequestError` for a concept of more than 75 tokens or of none, and for too many tokens
        in all.
        """
        counts = [check_token_count(self.conditioner, concept) for concept in concepts]
        if sum(counts) > MAX_TOKENS:
            raise RequestError(
                "concepts",
                f"{len(counts)} concepts of {sum(counts)} tokens",
                f"at most {MAX_TOKENS} tokens in all",
                "Use fewer or shorter ones.",
            )
        contexts = self([*(c.text for c in concepts), ""])
        encoded = [
            EncodedConcept(concept.text, context, tuple(range(1, count + 1)), strength * concept.weight)
            for concept, context, count in zip(concepts, contexts, counts)
        ]
        return encoded, contexts[-1]


def conditioner_of(model: nn.Module) -> nn.Module:
    """The webui's text encoder of ``model``. Raises :class:`ErasureError` where it does not have chunks."""
    conditioner = model.cond_stage_model
    if not hasattr(conditioner, "process_texts"):
        raise ErasureError(
            f"the text encoder {type(conditioner).__name__} has no prompt chunks. Use a checkpoint "
            "of the SD1, SD2 or SDXL family, or switch EIUP off"
        )
    return conditioner


def count_tokens(conditioner: nn.Module, concept: Concept) -> int:
    """The concept's tokens, also where they are too many.

    Raises :class:`RequestError` for a concept of none, or of few in more than one chunk.
    """
    chunks, count = conditioner.process_texts([concept.text])
    if len(chunks[0]) > 1 and count <= CHUNK_TOKENS:
        raise RequestError("concepts", concept.text, _ALLOWED, "BREAK starts a second chunk in it.")
    if count < 1:
        raise RequestError("concepts", concept.text, "a concept that this model's vocabulary has tokens for")
    return count


def check_token_count(conditioner: nn.Module, concept: Concept) -> int:
    """The concept's tokens. Raises :class:`RequestError` where they are none or too many."""
    count = count_tokens(conditioner, concept)
    if count > CHUNK_TOKENS:
        raise RequestError("concepts", concept.text, _ALLOWED, f"This one has {count}.")
    return count


def through_hypernetworks(layer: nn.Module, contexts: Tensor) -> tuple[Tensor, Tensor]:
    """The contexts for keys and values, as the host's own cross-attention would see them."""
    if not shared.loaded_hypernetworks:
        return contexts, contexts
    return hypernetwork.apply_hypernetworks(shared.loaded_hypernetworks, contexts, layer)
