"""Builds the eraser of one sampling pass from encoded concepts and an encoder of texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .eraser import (
    ConceptEraser,
    ContextTransform,
    EncodedConcept,
    Mode,
    References,
    layer_values,
    text_cross_attention,
)
from .gate import ANCHORS, NEUTRAL_PROMPTS, CalibrationCache, Encode, PromptGate, calibrate, gate_layers
from .schedule import Window


def build_eraser(
    unet: nn.Module,
    concepts: Sequence[EncodedConcept],
    empty: Tensor,
    encode: Encode,
    *,
    mode: Mode,
    window: Window | None = None,
    context_transform: ContextTransform | None = None,
    training_steps: int = 1000,
    cache: CalibrationCache | None = None,
) -> ConceptEraser:
    """The :class:`ConceptEraser` of a mode, with its gate calibrated.

    ``encode(texts)`` gives contexts ``[B, T, C]``, each text encoded alone; ``empty [T, C]`` is that of the
    empty prompt. Calibrations are read from and written to ``cache``.
    """
    gate = references = None
    if mode in ("adaptive", "strict"):
        layers = gate_layers(text_cross_attention(unet))
        values = layer_values(context_transform)
        calibrations = [
            calibrate(c.name, c.context, c.tokens, empty, layers, values, encode, cache) for c in concepts
        ]
        contexts = torch.stack([c.context for c in concepts])
        gate = PromptGate(layers, values, contexts, [c.tokens for c in concepts], empty, calibrations)
    if mode == "strict":
        anchors = [anchor.format(concept.name) for concept in concepts for anchor in ANCHORS]
        references = References(
            encode(list(NEUTRAL_PROMPTS)), encode(anchors).unflatten(0, (len(concepts), len(ANCHORS)))
        )
    return ConceptEraser(
        unet, concepts, empty, window, context_transform, training_steps,
        mode=mode, gate=gate, references=references,
    )  # fmt: skip
