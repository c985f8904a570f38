"""Builds the eraser of one sampling pass from encoded concepts and an encoder of texts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .calibration import CalibrationCache, Encode, Report
from .eraser import (
    ConceptEraser,
    ContextTransform,
    EncodedConcept,
    Mode,
    layer_values,
    text_cross_attention,
)
from .gate import Calibration, PromptGate, calibrate
from .maps import FormingMaps, mapped_layer
from .probe_maker import ProbeMaker
from .probes import WATCHED_AT, Denoiser, Probe, Sight, probed_layers
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
    report: Report | None = None,
    checkpoint: str = "",
) -> ConceptEraser:
    """The :class:`ConceptEraser` of a mode, with its gate and watch calibrated.

    ``encode(texts)`` gives contexts ``[B, T, C]``, each text encoded alone; ``empty [T, C]`` is that of the
    empty prompt; ``denoiser`` is the model around ``unet``. Calibrations are read from and written to
    ``cache``; ``report`` is told how far they are. ``checkpoint`` is what tells this model's file from
    others: with it, what was learnt with another LoRA or size is used where it still holds.
    Without ``watches``, the adaptive mode goes by the prompt alone. ``goes_on`` says that another model will
    take over (:meth:`ConceptEraser.take_over`). With ``maps``, the evidence says where each concept was
    forming.
    """
    training_steps = len(denoiser.alphas_cumprod)
    layers = text_cross_attention(unet)
    values = layer_values(context_transform)
    gate = sight = None
    calibrations, probes = calibrate_concepts(
        unet,
        concepts,
        empty,
        encode,
        denoiser,
        context_transform=context_transform,
        cache=cache,
        report=report,
        checkpoint=checkpoint,
        gate=mode in ("adaptive", "strict"),
        probes=mode == "adaptive" and watches or maps,
    )
    if calibrations:
        contexts = torch.stack([c.context for c in concepts])
        gate = PromptGate(layers, values, contexts, [c.tokens for c in concepts], empty, calibrations)
        for k in gate.untold:
            _log.warning(
                "EIUP: this checkpoint makes of %r what it makes of prompts that say nothing in particular. "
                "It is erased in every image, and may change each of them a little",
                concepts[k].name,
            )
    if probes:
        sight = Sight(probed_layers(layers), probes, empty.device)
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


def calibrate_concepts(
    unet: nn.Module,
    concepts: Sequence[EncodedConcept],
    empty: Tensor,
    encode: Encode,
    denoiser: Denoiser,
    *,
    context_transform: ContextTransform | None = None,
    cache: CalibrationCache | None,
    report: Report | None = None,
    checkpoint: str = "",
    gate: bool = True,
    probes: bool = True,
) -> tuple[list[Calibration], list[Probe]]:
    """What the modes adaptive and strict and maps need for these concepts, read from ``cache`` or made and
    kept there, where :func:`build_eraser` finds it: the ``gate``'s calibrations and the watch's ``probes``;
    empty lists where these are not wanted.

    The arguments are those of :func:`build_eraser`.
    """
    calibrations: list[Calibration] = []
    if gate:
        layers, values = text_cross_attention(unet), layer_values(context_transform)
        calibrations = [
            calibrate(c.name, c.context, c.tokens, empty, layers, values, encode, cache) for c in concepts
        ]
    if not probes:
        return calibrations, []
    make_probes = ProbeMaker(
        unet,
        empty,
        encode,
        denoiser,
        context_transform=context_transform,
        cache=cache,
        report=report,
        checkpoint=checkpoint,
    )
    return calibrations, make_probes(concepts)
