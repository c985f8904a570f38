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
from .errors import NotFiniteError
from .precision import full_precision
from .sketch import EMPTY_TOKENS

VERSION = 4
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


def directions(values: Tensor, origin: Tensor) -> Tensor:
    """What sets ``values [..., C']`` apart from ``origin [C']``: of length 1, in float32."""
    return F.normalize(values.float() - origin.float(), dim=-1)


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


class _Tokens:
    """The tokens of those concepts of a gate that have one ``origin``, side by side: ``J`` in all.

    By layer, directions ``[J, C']`` and the origin's value ``[C']``; norms ``[J]``; of the calibrations,
    ``neutral``, ``span`` and ``keep``, each ``[L, J]``.
    """

    def __init__(self) -> None:
        self.concepts: list[int] = []
        self.owner: list[int] = []
        self._parts: list[tuple[dict[str, Tensor], Tensor, Calibration]] = []

    def add(self, concept: int, values: dict[str, Tensor], norms: Tensor, calibration: Calibration) -> None:
        self.owner += [len(self.concepts)] * len(norms)
        self.concepts.append(concept)
        self._parts.append((values, norms, calibration))

    def settle(self, origins: Mapping[str, Tensor]) -> None:
        """All are added; ``origins`` are the origin's values."""
        values, norms, calibrations = zip(*self._parts)
        self.origins, self.norms = origins, torch.cat(norms)
        self.directions = {n: torch.cat([directions(v[n], o) for v in values]) for n, o in origins.items()}
        tables = ((c.neutral, c.anchor, c.keeps()) for c in calibrations)
        self.neutral, anchor, self.keep = (
            torch.cat([torch.tensor([table[n] for n in origins]) for table in of_kind], dim=1).to(self.norms)
            for of_kind in zip(*tables)
        )
        self.span = (anchor - self.neutral).clamp_min(MIN_SPAN)
        self._kept_layers = self.keep.sum(0)
        # Of each concept its tokens, the first one again where it has fewer than others.
        tokens = [[j for j, k in enumerate(self.owner) if k == index] for index in range(len(self.concepts))]
        most = max(map(len, tokens))
        self._of_concept = torch.tensor([t + t[:1] * (most - len(t)) for t in tokens], device=norms[0].device)

    def __call__(self, norms: Tensor, prompt: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """``z`` and what ``f`` is a power of, each ``[R, K]``, of prompts with these ``norms [R, T]`` and
        values ``[R, T, C']`` by layer."""
        emphasis = norms[:, :, None] / self.norms
        s, emphasised = [], []
        for name, own in self.directions.items():
            cos = directions(prompt[name], self.origins[name]) @ own.T
            s.append(cos.amax(1))
            emphasised.append((emphasis * cos).amax(1))
        z = self._mean((torch.stack(s, dim=1) - self.neutral) / self.span)
        return z, self._mean(torch.stack(emphasised, dim=1))

    def _mean(self, by_layer: Tensor) -> Tensor:
        """Over the layers kept, ``[R, L, J]``, and then the largest of a concept's tokens kept in any,
        ``[R, K]``; 1 where none is: there is no way to know, so it counts as there."""
        mean = (by_layer * self.keep).sum(1) / self._kept_layers.clamp_min(1)
        mean = mean.masked_fill(self._kept_layers == 0, float("-inf"))
        largest = mean[:, self._of_concept].amax(2)
        return largest.masked_fill(largest == float("-inf"), 1.0)


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
        self.calibrations = tuple(calibrations)
        groups: dict[tuple[float, ...], _Tokens] = {}
        origins: dict[tuple[float, ...], dict[str, Tensor]] = {}
        for k, (context, own, calibration) in enumerate(zip(contexts, tokens, calibrations)):
            origin = torch.tensor(calibration.origin).to(context)
            of_tokens, of_origin, norms = _own_values(context, own, empty, origin, layers, values)
            groups.setdefault(calibration.origin, _Tokens()).add(k, of_tokens, norms, calibration)
            origins[calibration.origin] = of_origin
        self._groups = list(groups.values())
        with full_precision(empty.device):
            for origin, group in groups.items():
                group.settle(origins[origin])
        # Where the concepts are among those of all groups.
        order = [k for group in self._groups for k in group.concepts]
        self._order = torch.tensor(order).argsort().to(empty.device)

    @property
    def untold(self) -> list[int]:
        """The concepts that nothing tells from neutral prompts on this model, so that every image counts as
        one of them."""
        return [k for k, c in enumerate(self.calibrations) if not any(any(t) for t in c.keeps().values())]

    def __call__(self, contexts: Tensor) -> Decision:
        """For prompts' contexts ``[R, n*T, C]``."""
        texts = _Texts(contexts, self.empty)
        prompt = {n: self.values(layer, texts.contexts) for n, layer in self.layers.items()}
        with full_precision(contexts.device):
            presence, emphasis = zip(*(group(texts.norms, prompt) for group in self._groups))
            presence, emphasis = (torch.cat(x, dim=1)[:, self._order] for x in (presence, emphasis))
            return decide(presence, emphasis)


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
        rows = torch.cat([context[list(tokens)], empty[EMPTY_TOKENS]])[None]
        # In one tensor, so that a GPU is waited for once.
        made = torch.cat([x.flatten().float() for x in (rows, *(values(y, rows) for y in layers.values()))])
        key = cache.key("gate", VERSION, MORE_ANCHORS, concept, tuple(tokens), made)
        if known := cache.read(key, Calibration.of):
            return known
    origin = _Texts(encode(NEUTRAL_WORDS), empty).words.float().mean(0)
    own, origins, _ = _own_values(context, tokens, empty, origin, layers, values)
    anchors = [anchor.format(concept) for anchor in (*ANCHORS, *MORE_ANCHORS)]
    texts = _Texts(encode([*NEUTRAL_PROMPTS, *anchors]), empty).contexts
    neutral, anchor = {}, {}
    for name, layer in layers.items():
        of_texts = values(layer, texts)
        with full_precision(empty.device):
            origin_value = origins[name]
            s = (directions(of_texts, origin_value) @ directions(own[name], origin_value).T).amax(1)
            neutral[name] = tuple(s[: len(NEUTRAL_PROMPTS)].quantile(0.5, dim=0).tolist())
            anchor[name] = tuple(s[len(NEUTRAL_PROMPTS) :].quantile(0.5, dim=0).tolist())
        if not s.isfinite().all():
            raise NotFiniteError(f"what tells whether a prompt brings {concept!r} in")
    calibration = Calibration(tuple(origin.tolist()), neutral, anchor)
    if cache:
        cache.write(key, asdict(calibration))
    return calibration
