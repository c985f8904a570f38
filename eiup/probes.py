"""Probes: what tells that a concept is forming in an image, from the U-Net's features.

With ``h`` the features that enter the first text cross-attention layers of the up path, side by side, a
linear discriminant tells the concept's positions from all others::

    v = (C + shrinkage)^-1 (mu_1 - mu_0)
    r = max over positions of <v, h - mu_0>
    q = (r - low) / (high - low)

``mu_1`` is the mean of ``h`` where the concept is: in images of prompts that name it, the positions that
change most when it is erased from the same noise. ``mu_0`` and ``C`` are mean and covariance over other
positions: those of the same images that hardly change, so that what comes along with the concept does not
tell; and all of other images: the same with the concept erased, and those of neutral prompts. Nine of ten of
the images that name it reach ``high``, and nine of ten of the erased ones stay below ``low``. So do nine of
ten of the neutral ones that are nearer to these; the others show the concept, too. So ``q`` is 1 and more
where the concept is, 0 and less where it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .calibration import ANCHORS, NEUTRAL_PROMPTS, CalibrationCache, Encode
from .places import smooth
from .rows import Rows, conditional_then_unconditional

VERSION = 4
# Sampling progress for which probes are made: early enough to begin anew, late enough to see something.
WATCHED_AT = 0.36
LAYERS = 2
SHRINKAGE = 0.05
# Of the largest change that erasing makes to the clean prediction: where the concept is, and where not.
REGION = 0.7
ELSEWHERE = 0.3
# Of the median over images that name a concept: how far these have to be from others.
LEAST_SPAN = 0.1
# Of neutral images: how many at most may show a concept that is told from others.
MOST_NEUTRAL = 0.5

# How probes are made: images of each anchor and neutral prompt, denoiser calls before the look, guidance and
# the weight of erasing.
IMAGES_PER_ANCHOR = 3
IMAGES_PER_NEUTRAL = 2
CALLS = 6
CFG_SCALE = 6.0
WEIGHT = 2.0
BATCH = 8
_CONSTANTS = (
    "probe", VERSION, WATCHED_AT, LAYERS, SHRINKAGE, REGION, ELSEWHERE, LEAST_SPAN, MOST_NEUTRAL,
    IMAGES_PER_ANCHOR, IMAGES_PER_NEUTRAL, CALLS, CFG_SCALE, WEIGHT,
)  # fmt: skip


@dataclass(frozen=True)
class Denoiser:
    """The model as a probe is made with it.

    ``predict(x [B, *shape], timestep, contexts [B, T, C])`` is the predicted noise, without guidance;
    ``shape`` that of latents, ``(channels, height, width)``.
    """

    predict: Callable[[Tensor, int, Tensor], Tensor]
    alphas_cumprod: Tensor
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Probe:
    """``q = max over positions of <direction, h> - offset``, for features ``h [D]``."""

    direction: tuple[float, ...]
    offset: float

    @classmethod
    def of(cls, stored: Any) -> Probe:
        """From the JSON of :func:`dataclasses.asdict`."""
        return cls(tuple(map(float, stored["direction"])), float(stored["offset"]))


class Sight:
    """What the probes of several concepts see in the ``layers`` of a U-Net call."""

    def __init__(self, layers: Sequence[nn.Module], probes: Sequence[Probe], device: torch.device):
        self.layers = tuple(layers)
        self._directions = torch.tensor([probe.direction for probe in probes], device=device)
        self._offsets = torch.tensor([probe.offset for probe in probes], device=device)
        self._features: dict[nn.Module, Tensor] = {}

    def keep(self, layer: nn.Module, features: Tensor) -> None:
        """What enters the attention of ``layer`` in this U-Net call, ``[B, N, D_layer]``."""
        if layer in self.layers:
            self._features[layer] = features

    def forget(self) -> None:
        """The U-Net call is over."""
        self._features.clear()

    def q(self, rows: slice | Tensor) -> Tensor:
        """``q`` at every position of the ``rows`` of the U-Net call, ``[R, N, K]``, on the CPU."""
        h = torch.cat([self._features[layer][rows].float() for layer in self.layers], dim=-1)
        return (h @ self._directions.T - self._offsets).cpu()


def probed_layers(layers: Mapping[str, nn.Module]) -> list[nn.Module]:
    """The layers whose features are looked at: the first of the up path, where images are smallest."""
    up = [layer for name, layer in layers.items() if name.startswith("output_blocks")]
    return (up or list(layers.values()))[:LAYERS]


class ProbeMaker:
    """Makes probes on one model, whose ``layers`` are looked at and whose empty prompt is ``empty [T, C]``.

    A probe costs 336 rows of U-Net calls, and the first one 448 more for neutral prompts.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        empty: Tensor,
        encode: Encode,
        denoiser: Denoiser,
        cache: CalibrationCache | None = None,
    ):
        self.encode, self.denoiser, self.cache = encode, denoiser, cache
        self._sample = _Sampling(layers, denoiser, empty)
        self._neutral: Tensor | None = None

    def __call__(self, concept: str, depends_on: Sequence[Any], erase: Callable[[], Any]) -> Probe:
        """The probe of ``concept``, made or read from the cache, which has one for each ``depends_on``.

        ``erase()`` is a context manager that erases the concept with the weight ``WEIGHT`` while it is
        entered, and wants the rows of each U-Net call in its ``rows``.
        """
        key = self.cache.key(*_CONSTANTS, concept, self.denoiser.shape, *depends_on) if self.cache else ""
        if self.cache and (known := self.cache.read(key, Probe.of)):
            return known
        if self._neutral is None:
            texts = self.encode(list(NEUTRAL_PROMPTS)).repeat_interleave(IMAGES_PER_NEUTRAL, 0)
            self._neutral, _ = self._sample(texts, seed=1001)
        anchors = self.encode([a.format(concept) for a in ANCHORS]).repeat_interleave(IMAGES_PER_ANCHOR, 0)
        shown, clean = self._sample(anchors, seed=1)
        erased, erased_clean = self._sample(anchors, seed=1, erase=erase)
        where, elsewhere = _regions(clean - erased_clean, shown.shape[1])
        probe = fit(shown, where, elsewhere, erased, self._neutral)
        if self.cache:
            self.cache.write(key, asdict(probe))
        return probe


def fit(shown: Tensor, where: Tensor, elsewhere: Tensor, erased: Tensor, neutral: Tensor) -> Probe:
    """The probe that tells the features ``shown [B, N, D]`` at ``where [B, N]`` from those ``elsewhere
    [B, N]`` and from other images', ``erased`` and ``neutral``. Where they are hardly told apart, as for a
    word that the model does not know, or where neutral images mostly show it, it is one that never sees
    anything."""
    others = torch.cat([erased.flatten(0, 1), neutral.flatten(0, 1), shown[elsewhere]])
    mean = others.mean(0)
    centred = others - mean
    covariance = centred.T @ centred / len(centred)
    ridge = covariance.diagonal().mean().clamp_min(1e-12) * torch.eye(len(mean), device=mean.device)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * ridge
    direction = torch.linalg.solve(covariance, shown[where].mean(0) - mean)

    in_shown, in_erased, in_neutral = (
        ((features - mean) @ direction).amax(dim=1) for features in (shown, erased, neutral)
    )
    low, high = in_erased.quantile(0.9), in_shown.quantile(0.1)
    without = in_neutral[in_neutral < (low + high) / 2]
    if len(without) < (1 - MOST_NEUTRAL) * len(in_neutral):
        return Probe((0.0,) * len(mean), 0.0)
    low = torch.maximum(low, without.quantile(0.9))
    if high - low < LEAST_SPAN * in_shown.median():
        return Probe((0.0,) * len(mean), 0.0)
    direction = direction / (high - low)
    return Probe(tuple(direction.tolist()), float(mean @ direction + low / (high - low)))


def _regions(change: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """Where ``change [B, C, H, W]`` is large and where it is small, in ``positions`` of a smaller square map:
    each ``[B, N]``."""
    energy = smooth(change.square().sum(dim=1, keepdim=True))
    energy = F.adaptive_avg_pool2d(energy, round(positions**0.5)).flatten(1)
    most = energy.amax(dim=1, keepdim=True)
    return energy >= REGION * most, energy < ELSEWHERE * most


class _Sampling:
    """Samples up to ``WATCHED_AT`` by DDIM (arXiv 2010.02502, eta 0), for features and clean predictions."""

    def __init__(self, layers: Sequence[nn.Module], denoiser: Denoiser, empty: Tensor):
        self.layers, self.denoiser, self.empty = layers, denoiser, empty
        last = len(denoiser.alphas_cumprod) - 1
        self.timesteps = [round(last * (1 - WATCHED_AT * call / CALLS)) for call in range(CALLS + 1)]

    def __call__(
        self, contexts: Tensor, seed: int, erase: Callable[[], Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features ``[B, N, D]`` and clean predictions ``[B, *shape]`` of contexts ``[B, T, C]``; image ``i``
        begins with the noise of ``seed + i``."""
        parts = []
        for start in range(0, len(contexts), BATCH):
            part = contexts[start : start + BATCH]
            generators = (torch.Generator().manual_seed(seed + start + i) for i in range(len(part)))
            noise = torch.stack([torch.randn(self.denoiser.shape, generator=g) for g in generators])
            if erase is None:
                parts.append(self._sample(part, noise.to(part.device)))
            else:
                with erase() as eraser:
                    parts.append(self._sample(part, noise.to(part.device), eraser))
        features, clean = zip(*parts)
        return torch.cat(features), torch.cat(clean)

    def _sample(self, contexts: Tensor, x: Tensor, eraser: Any = None) -> tuple[Tensor, Tensor]:
        count = len(contexts)
        both = torch.cat([contexts, self.empty.expand_as(contexts)])
        rows: Rows = conditional_then_unconditional(count, CFG_SCALE)
        seen: dict[nn.Module, Tensor] = {}
        for timestep, following in zip(self.timesteps, [*self.timesteps[1:], None]):
            alpha = self.denoiser.alphas_cumprod[timestep].to(x.device, torch.float32)
            if eraser is not None:
                eraser.rows = rows
            with _KeepingInputs(self.layers, seen):
                noise = self.denoiser.predict(torch.cat([x, x]), timestep, both).float()
            conditional, unconditional = noise.chunk(2)
            noise = unconditional + CFG_SCALE * (conditional - unconditional)
            clean = (x - (1 - alpha).sqrt() * noise) / alpha.sqrt()
            if following is not None:
                alpha = self.denoiser.alphas_cumprod[following].to(x.device, torch.float32)
                x = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        return torch.cat([seen[layer][:count].float() for layer in self.layers], dim=-1), clean


class _KeepingInputs:
    """While entered, what enters ``to_q`` of each of ``layers`` is kept in ``into``."""

    def __init__(self, layers: Sequence[nn.Module], into: dict[nn.Module, Tensor]):
        self.layers, self.into = layers, into

    def __enter__(self) -> None:
        self._handles = [layer.to_q.register_forward_pre_hook(self._keep(layer)) for layer in self.layers]

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, layer: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple) -> None:
            self.into[layer] = args[0]

        return hook
