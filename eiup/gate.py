"""The adaptive gate: whether a prompt is about to bring a concept in, told from the text alone.

A text cross-attention moves an image's features by the *values* of the prompt's tokens. With the values
of the empty prompt at the same position as origin, ::

    u_c = V(c_k)_c - V(empty)_c      token c of the concept, encoded alone      [C]
    v_j = V(p)_j - V(empty)_j        token j of the prompt                      [C]
    s_c = max over j of <v_j, u_c> / ||u_c||^2

``s_c`` is about 1 where a token moves the features as the concept itself would, also where the prompt does
not name the concept: "wizard" has much of "star" in a model in which wizards come with stars.

``s`` has no scale of its own, so every token of a concept is calibrated on the model at hand: ``m`` is the
median of ``s`` over neutral prompts, ``A`` over anchors, prompts that name the concept. Where these two do
not separate (an article, a layer that does not tell), token and layer are left out. Over the layers kept,
and then with the maximum over the concept's tokens, ::

    z = min of (s - m) / (A - m)                    0 as in neutral prompts, 1 as where the concept is named
    g = clamp((z - LOW) / (HIGH - LOW), 0, 1)       the gate
    f = clamp((mean of s / A)^EMPHASIS, 1, MAX_FACTOR)      so that "(star:1.6)" does not get past

The exponent is there since emphasis multiplies keys, too, so that the image attends such a token the more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .calibration import ANCHORS, NEUTRAL_PROMPTS, CalibrationCache, Encode

VERSION = 2
LOW, HIGH = 0.62, 0.70
EMPHASIS = 1.4
MAX_FACTOR = 6.0
MIN_SPAN = 0.3

# The values [B, T, C'] that an attention layer makes of contexts [B, T, C].
Values = Callable[[nn.Module, Tensor], Tensor]


def likeness(prompt: Tensor, concept: Tensor, empty: Tensor, tokens: Sequence[int]) -> Tensor:
    """``s`` of each of the concept's ``tokens``, positions in its context: ``[R, J]``.

    Values: ``prompt [R, n*T, C]`` (``n`` chunks), ``concept [T, C]``, ``empty [T, C]``.
    """
    u = (concept - empty)[list(tokens)].float()
    v = prompt.unflatten(1, (-1, len(empty))).float() - empty.float()
    return (v @ u.T / u.square().sum(-1).clamp_min(1e-12)).amax(dim=(1, 2))


@dataclass(frozen=True)
class Calibration:
    """``m`` (``neutral``) and ``A`` (``anchor``) of a concept's tokens, ``[J]`` each, by layer."""

    neutral: Mapping[str, tuple[float, ...]]
    anchor: Mapping[str, tuple[float, ...]]

    def keeps(self) -> dict[str, list[bool]]:
        """Which tokens tell the concept from neutral prompts, by layer."""
        return {
            name: [a - m >= MIN_SPAN for m, a in zip(self.neutral[name], self.anchor[name])]
            for name in self.neutral
        }

    @classmethod
    def of(cls, stored: Any) -> Calibration:
        """From the JSON of :func:`dataclasses.asdict`."""
        tables = (stored["neutral"], stored["anchor"])
        return cls(*({name: tuple(map(float, s)) for name, s in table.items()} for table in tables))


def gate_layers(layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The layers whose values are compared: those of the U-Net's down path and middle, which tell best."""
    return {n: layer for n, layer in layers.items() if not n.startswith("output_blocks")} or dict(layers)


class _Concept:
    """One concept of a gate: its values and, as tensors ``[L, J]``, its calibration."""

    def __init__(self, tokens: Sequence[int], values: Mapping[str, Tensor], calibration: Calibration):
        self.tokens, self.values = tokens, values
        device = next(iter(values.values())).device
        as_tensor = lambda table: torch.tensor([list(table[n]) for n in values], device=device)  # noqa: E731
        self.neutral, self.anchor = as_tensor(calibration.neutral), as_tensor(calibration.anchor)
        self.keep = as_tensor(calibration.keeps())
        # A concept that nothing tells from neutral prompts is always erased: there is no way to know.
        self.told = bool(self.keep.any())

    def __call__(self, prompt: Mapping[str, Tensor], empty: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """``z`` and ``s / A``, each ``[R]``, of prompts with these values."""
        rows = next(iter(prompt.values()))
        if not self.told:
            return torch.ones(len(rows)).to(self.keep.device), torch.ones(len(rows)).to(self.keep.device)
        s = torch.stack([likeness(prompt[n], v, empty[n], self.tokens) for n, v in self.values.items()], 1)
        span = (self.anchor - self.neutral).clamp_min(MIN_SPAN)

        z = ((s - self.neutral) / span).masked_fill(~self.keep, torch.inf).amin(1)
        ratio = (s / self.anchor.clamp_min(MIN_SPAN) * self.keep).sum(1) / self.keep.sum(0).clamp_min(1)
        told = self.keep.any(0)
        return z[:, told].amax(1), ratio[:, told].amax(1)


@dataclass(frozen=True)
class Decision:
    """For rows of a U-Net batch and concepts, each ``[R, K]``: calibrated likeness ``z`` (here
    ``presence``), gate ``g`` and factor ``f``."""

    presence: Tensor
    gate: Tensor
    factor: Tensor


def decide(presence: Tensor, ratio: Tensor) -> Decision:
    """``g`` and ``f`` from ``z`` and ``s / A``."""
    gate = ((presence - LOW) / (HIGH - LOW)).clamp(0, 1)
    return Decision(presence, gate, ratio.clamp_min(1).pow(EMPHASIS).clamp_max(MAX_FACTOR))


class PromptGate:
    """The gate of several concepts on one model, from prompts' contexts alone.

    ``contexts [K, T, C]`` are the concepts encoded alone, ``tokens`` their own positions in these, ``empty
    [T, C]`` the empty prompt; ``layers`` as from :func:`gate_layers`.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        values: Values,
        contexts: Tensor,
        tokens: Sequence[Sequence[int]],
        empty: Tensor,
        calibrations: Sequence[Calibration],
    ):
        self.layers, self.values = layers, values
        self.empty = {n: values(layer, empty[None])[0] for n, layer in layers.items()}
        of_concepts = {n: values(layer, contexts) for n, layer in layers.items()}
        self.concepts = [
            _Concept(tokens[k], {n: v[k] for n, v in of_concepts.items()}, calibration)
            for k, calibration in enumerate(calibrations)
        ]

    def __call__(self, contexts: Tensor) -> Decision:
        """For prompts' contexts ``[R, n*T, C]``."""
        prompt = {n: self.values(layer, contexts) for n, layer in self.layers.items()}
        presence, ratio = zip(*(concept(prompt, self.empty) for concept in self.concepts))
        return decide(torch.stack(presence, 1), torch.stack(ratio, 1))


# ------------------------------------------------------------------------------------ calibration


def calibrate(
    concept: str,
    context: Tensor,
    tokens: Sequence[int],
    empty: Tensor,
    layers: Mapping[str, nn.Module],
    values: Values,
    encode: Encode,
    cache: CalibrationCache | None = None,
) -> Calibration:
    """Calibrate ``concept``, whose own context is ``context [T, C]``, or read that from ``cache``.

    Costs one encoding of the neutral prompts and anchors and a few matrix products; no U-Net call.
    """
    own = {n: values(layer, torch.stack([context, empty])) for n, layer in layers.items()}
    key = cache.key("gate", VERSION, concept, tuple(tokens), context, empty, *own.values()) if cache else ""
    if cache and (known := cache.read(key, Calibration.of)):
        return known
    prompts = [*NEUTRAL_PROMPTS, *(anchor.format(concept) for anchor in ANCHORS)]
    contexts = encode(prompts)
    neutral, anchor = {}, {}
    for name, layer in layers.items():
        s = likeness(values(layer, contexts), own[name][0], own[name][1], tokens)
        neutral[name] = tuple(s[: len(NEUTRAL_PROMPTS)].quantile(0.5, dim=0).tolist())
        anchor[name] = tuple(s[len(NEUTRAL_PROMPTS) :].quantile(0.5, dim=0).tolist())
    calibration = Calibration(neutral, anchor)
    if cache:
        cache.write(key, asdict(calibration))
    return calibration
