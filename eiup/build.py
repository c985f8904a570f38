"""Builds the eraser of one sampling pass from encoded concepts and an encoder of texts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from .calibration import CalibrationCache, Encode
from .eraser import (
    ConceptEraser,
    ContextTransform,
    EncodedConcept,
    Mode,
    layer_values,
    text_cross_attention,
)
from .gate import PromptGate, calibrate
from .maps import FormingMaps, mapped_layer
from .probes import WATCHED_AT, WEIGHT, Denoiser, Probe, ProbeMaker, Sight, probed_layers
from .schedule import Window
from .watch import LATE, Watch

_log = logging.getLogger(__name__)


def build_eraser(
    unet: nn.Module,
    concepts: Sequence[EncodedConcept],
    empty: Tensor,
    encode: Encode,
    denoiser: Denoiser,
    *,
    mode: Mode,
    window: Window | None = None,
    context_transform: ContextTransform | None = None,
    cache: CalibrationCache | None = None,
    watches: bool = True,
    goes_on: bool = False,
    maps: bool = False,
) -> ConceptEraser:
    """The :class:`ConceptEraser` of a mode, with its gate and watch calibrated.

    ``encode(texts)`` gives contexts ``[B, T, C]``, each text encoded alone; ``empty [T, C]`` is that of the
    empty prompt; ``denoiser`` is the model around ``unet``. Calibrations are read from and written to
    ``cache``. Without ``watches``, the adaptive mode goes by the prompt alone. ``goes_on`` says that another
    model will take over (:meth:`ConceptEraser.take_over`). With ``maps``, the evidence says where each
    concept was forming.
    """
    training_steps = len(denoiser.alphas_cumprod)
    layers = text_cross_attention(unet)
    values = layer_values(context_transform)
    gate = sight = None
    if mode in ("adaptive", "strict"):
        calibrations = [
            calibrate(c.name, c.context, c.tokens, empty, layers, values, encode, cache) for c in concepts
        ]
        contexts = torch.stack([c.context for c in concepts])
        gate = PromptGate(layers, values, contexts, [c.tokens for c in concepts], empty, calibrations)
        for k in gate.untold:
            _log.warning(
                "EIUP: this checkpoint makes of %r what it makes of prompts that say nothing in particular. "
                "It is erased in every image, and may change each of them a little",
                concepts[k].name,
            )
    if mode == "adaptive" and watches or maps:
        looked_at = probed_layers(layers)
        make_probe = ProbeMaker(looked_at, empty, encode, denoiser, cache)

        def probe_of(concept: EncodedConcept) -> Probe:
            pair = torch.stack([concept.context, empty])
            # By the values that its layers make of a concept, a model is known from others.
            depends_on = (concept.tokens, pair, *(values(layer, pair) for layer in layers.values()))
            alone = [replace(concept, weight=WEIGHT)]
            return make_probe(
                concept.name,
                depends_on,
                lambda: ConceptEraser(unet, alone, empty, None, context_transform, training_steps),
            )

        sight = Sight(looked_at, [probe_of(concept) for concept in concepts], empty.device)
    again_from = WATCHED_AT if goes_on else LATE
    return ConceptEraser(
        unet,
        concepts,
        empty,
        window,
        context_transform,
        training_steps,
        mode=mode,
        gate=gate,
        watch=Watch(sight, window, again_from) if mode == "adaptive" and watches else None,
        maps=FormingMaps(mapped_layer(layers), sight) if maps else None,
    )
