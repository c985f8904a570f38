"""The adaptive gate: whether a prompt is about to bring a concept in, told from the text alone.

A text cross-attention moves an image's features by the *values* of the prompt's tokens. All tokens have
much in common; with that as origin, the values' directions say what sets a token apart from others::

    n   = mean over neutral words of their token's context                       [C]
    u_c = V(x_c) - V(n)      token c of the concept, encoded alone               [C']
    v_j = V(x_j) - V(n)      token j of the prompt                               [C']
    s_c = max over j of cos(v_j, u_c)

``s_c`` is about 1 where a token moves the features as the concept itself would, also where the prompt does
not name the concept: "wizard" has much of "star" in a model in which wizards come with stars. Contexts
``x`` are taken at one norm, so that emphasis, which multiplies them, does not change their directions; how
much of it there is, the norms tell: ``e_j = ||x_j|| / ||x_c||``.

``s`` is calibrated on the model at hand, for every token of a concept in every layer: ``m`` is the median
of ``s`` over neutral prompts, ``A`` over anchors, prompts that name the concept. Where these two do not
separate (an article, a layer that does not tell), token and layer are left out. Over the layers kept, and
then with the maximum over the concept's tokens, ::

    z = mean of (s - m) / (A - m)                   0 as in neutral prompts, 1 as where the concept is named
    g = clamp((z - LOW) / (HIGH - LOW), 0, 1)       the gate
    f = clamp((mean of max over j of e_j cos(v_j, u_c))^EMPHASIS, 1, MAX_FACTOR)

The factor is there so that "(star:1.6)" does not get past, with an exponent since emphasis multiplies keys,
too, so that the image attends such a token the more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .calibration import ANCHORS, NEUTRAL_PROMPTS, NEUTRAL_WORDS, CalibrationCache, Encode

VERSION = 3
LOW, HIGH = 0.5, 0.6
EMPHASIS = 1.4
MAX_FACTOR = 6.0
MIN_SPAN = 0.2
# Anchors besides those of probes: among other words, and behind them.
MORE_ANCHORS = (
    "something with a {} in a scene", "an old photo of a thing and a {}", "{}, a detailed drawing",
)  # fmt: skip

# The values [B, T, C'] that an attention layer makes of contexts [B, T, C].
Values = Callable[[nn.Module, Tensor], Tensor]


def cosines(prompt: Tensor, concept: Tensor, origin: Tensor) -> Tensor:
    """``cos(v_j, u_c)``, ``[R, T, J]``, of values ``prompt [R, T, C']`` and ``concept [J, C']`` with the
    value ``origin [C']``."""
    u = F.normalize(concept.float() - origin.float(), dim=-1)
    v = F.normalize(prompt.float() - origin.float(), dim=-1)
    return v @ u.T


class _Texts:
    """Contexts ``[R, n*T, C]`` of ``n`` chunks as the gate compares them: all tokens but each chunk's BOS, at
    the norm that a chunk ``empty [T, C]`` has, and ``norms [R, n*(T-1)]``, what they had."""

    def __init__(self, contexts: Tensor, empty: Tensor):
        tokens = contexts.unflatten(1, (-1, len(empty)))[:, :, 1:].flatten(1, 2)
        self.norms = tokens.float().norm(dim=-1)
        norm = empty.float().norm(dim=-1).mean()
        self.contexts = (tokens * (norm / self.norms.clamp_min(1e-6))[..., None]).to(contexts.dtype)

    @property
    def words(self) -> Tensor:
        """Each text's first token ``[R, C]``."""
        return self.contexts[:, 0]


@dataclass(frozen=True)
class Calibration:
    """Of a concept: ``n`` (``origin``, ``[C]``), and by layer ``m`` (``neutral``) and ``A`` (``anchor``) of
    its tokens, ``[J]`` each."""

    origin: tuple[float, ...]
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
        tables = ({n: tuple(map(float, s)) for n, s in stored[t].items()} for t in ("neutral", "anchor"))
        return cls(tuple(map(float, stored["origin"])), *tables)


class _Concept:
    """One concept of a gate: values ``[J, C']`` of its tokens and the origin's ``[C']`` by layer and, as
    tensors ``[L, J]``, its calibration."""

    def __init__(
        self,
        context: Tensor,
        tokens: Sequence[int],
        empty: Tensor,
        layers: Mapping[str, nn.Module],
        values: Values,
        calibration: Calibration,
    ):
        self.values, self.origins, self.norms = _own_values(
            context, tokens, empty, torch.tensor(calibration.origin).to(context), layers, values
        )
        tables = (calibration.neutral, calibration.anchor, calibration.keeps())
        self.neutral, self.anchor, self.keep = (
            torch.tensor([list(table[name]) for name in layers], device=context.device) for table in tables
        )
        # A concept that nothing tells from neutral prompts is always erased: there is no way to know.
        self.told = bool(self.keep.any())

    def __call__(self, norms: Tensor, prompt: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """``z`` and what ``f`` is a power of, each ``[R]``, of prompts with these ``norms [R, T]`` and values
        ``[R, T, C']`` by layer."""
        if not self.told:
            return torch.ones(len(norms), device=norms.device), torch.ones(len(norms), device=norms.device)
        cos = torch.stack([cosines(prompt[n], self.values[n], self.origins[n]) for n in self.values], dim=1)
        span = (self.anchor - self.neutral).clamp_min(MIN_SPAN)
        emphasis = norms[:, None, :, None] / self.norms

        z = self._mean((cos.amax(2) - self.neutral) / span)
        return z, self._mean((emphasis * cos).amax(2))

    def _mean(self, by_layer: Tensor) -> Tensor:
        """Over the layers kept, ``[R, L, J]``, and then the largest of the tokens kept in any, ``[R]``."""
        mean = (by_layer * self.keep).sum(1) / self.keep.sum(0).clamp_min(1)
        return mean[:, self.keep.any(0)].amax(1)


def _own_values(
    context: Tensor,
    tokens: Sequence[int],
    empty: Tensor,
    origin: Tensor,
    layers: Mapping[str, nn.Module],
    values: Values,
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """By layer, the values ``[J, C']`` of a concept's tokens and ``[C']`` of the origin; and these tokens'
    norms ``[J]``."""
    texts = _Texts(context[None], empty)
    index = [token - 1 for token in tokens]
    own = torch.cat([texts.contexts[0, index], origin[None].to(context.dtype)])[None]
    both = {name: values(layer, own)[0] for name, layer in layers.items()}
    return {n: v[:-1] for n, v in both.items()}, {n: v[-1] for n, v in both.items()}, texts.norms[0, index]


@dataclass(frozen=True)
class Decision:
    """For rows of a U-Net batch and concepts, each ``[R, K]``: calibrated likeness ``z`` (here
    ``presence``), gate ``g`` and factor ``f``."""

    presence: Tensor
    gate: Tensor
    factor: Tensor


def decide(presence: Tensor, emphasis: Tensor) -> Decision:
    """``g`` and ``f`` from ``z`` and what ``f`` is a power of."""
    gate = ((presence - LOW) / (HIGH - LOW)).clamp(0, 1)
    return Decision(presence, gate, emphasis.clamp_min(1).pow(EMPHASIS).clamp_max(MAX_FACTOR))


class PromptGate:
    """The gate of several concepts on one model, from prompts' contexts alone.

    ``contexts [K, T, C]`` are the concepts encoded alone, ``tokens`` their own positions in these, ``empty
    [T, C]`` the empty prompt; ``layers`` the text cross-attention layers by name.
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
        self.layers, self.values, self.empty = layers, values, empty
        self.concepts = [
            _Concept(context, own, empty, layers, values, calibration)
            for context, own, calibration in zip(contexts, tokens, calibrations)
        ]

    @property
    def untold(self) -> list[int]:
        """The concepts that nothing tells from neutral prompts on this model, so that every image counts as
        one of them."""
        return [k for k, concept in enumerate(self.concepts) if not concept.told]

    def __call__(self, contexts: Tensor) -> Decision:
        """For prompts' contexts ``[R, n*T, C]``."""
        texts = _Texts(contexts, self.empty)
        prompt = {n: self.values(layer, texts.contexts) for n, layer in self.layers.items()}
        presence, emphasis = zip(*(concept(texts.norms, prompt) for concept in self.concepts))
        return decide(torch.stack(presence, 1), torch.stack(emphasis, 1))


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

    Costs one encoding of neutral words, neutral prompts and anchors and a few matrix products; no U-Net call.
    """
    key = ""
    if cache:
        pair = torch.stack([context, empty])
        made = (values(layer, pair) for layer in layers.values())
        key = cache.key("gate", VERSION, MORE_ANCHORS, concept, tuple(tokens), pair, *made)
        if known := cache.read(key, Calibration.of):
            return known
    origin = _Texts(encode(NEUTRAL_WORDS), empty).words.float().mean(0)
    own, origins, _ = _own_values(context, tokens, empty, origin, layers, values)
    anchors = [anchor.format(concept) for anchor in (*ANCHORS, *MORE_ANCHORS)]
    texts = _Texts(encode([*NEUTRAL_PROMPTS, *anchors]), empty).contexts
    neutral, anchor = {}, {}
    for name, layer in layers.items():
        s = cosines(values(layer, texts), own[name], origins[name]).amax(1)
        neutral[name] = tuple(s[: len(NEUTRAL_PROMPTS)].quantile(0.5, dim=0).tolist())
        anchor[name] = tuple(s[len(NEUTRAL_PROMPTS) :].quantile(0.5, dim=0).tolist())
    calibration = Calibration(tuple(origin.tolist()), neutral, anchor)
    if cache:
        cache.write(key, asdict(calibration))
    return calibration
