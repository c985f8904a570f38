"""Probes: what tells that a concept is forming in an image, from the U-Net's features.

With ``h`` the features that enter the first text cross-attention layers of the up path, side by side, a
linear discriminant tells the concept's positions from all others::

    v = (C + shrinkage)^-1 (mu_1 - mu_0)
    r = max over positions of <v, h - mu_0>
    q = (r - low) / (high - low)

``mu_1`` is the mean of ``h`` where the concept is: in images of prompts that name it, the positions that
change most when it is erased from the same noise, weighted by how much. ``mu_0`` and ``C`` are
mean and covariance over other positions: those of the same images that hardly change, so that what comes
along with the concept does not tell; and all of other images: the same with the concept erased, and those of
neutral prompts. Nine of ten of the images that name it reach ``high``, and nine of ten of the erased ones
stay below ``low``. So do nine of ten of the neutral ones that are nearer to these; the others show the
concept, too. So ``q`` is 1 and more where the concept is, 0 and less where it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .places import smooth
from .precision import full_precision

VERSION = 6
# Sampling progress for which probes are made: early enough to begin anew, late enough to see something.
WATCHED_AT = 0.36
LAYERS = 2
SHRINKAGE = 0.05
# Of the largest change that erasing makes to the clean prediction: below this the concept is not there. Where
# it is counts with this power of the change, and not from a threshold on, across which rounding would move
# positions.
ELSEWHERE = 0.3
REGION_POWER = 2.5
# Of the median over images that name a concept: how far these have to be from others.
LEAST_SPAN = 0.1
# Of neutral images: how many at most may show a concept that is told from others.
MOST_NEUTRAL = 0.5
# Positions that are kept of a neutral image.
EXTREMES = 32
CONSTANTS = (
    VERSION, WATCHED_AT, LAYERS, SHRINKAGE, REGION_POWER, ELSEWHERE, LEAST_SPAN, MOST_NEUTRAL, EXTREMES,
)  # fmt: skip


@dataclass(frozen=True)
class Denoiser:
    """The model as a probe is made with it.

    ``predict(x [B, *shape], timestep, contexts [B, T, C])`` is the predicted noise, without guidance;
    ``shape`` that of latents, ``(channels, height, width)``. ``x`` is in float32, contexts as the text
    encoder gives them. ``parameterization`` is what the U-Net itself predicts, such as "eps" or "v".
    """

    predict: Callable[[Tensor, int, Tensor], Tensor]
    alphas_cumprod: Tensor
    shape: tuple[int, int, int]
    parameterization: str = "eps"


@dataclass(frozen=True)
class Probe:
    """``q = max over positions of <direction, h> - offset``, for features ``h [D]``."""

    direction: tuple[float, ...]
    offset: float

    @classmethod
    def blind(cls, width: int) -> Probe:
        """One that never sees anything."""
        return cls((0.0,) * width, 0.0)

    @property
    def is_blind(self) -> bool:
        return not any(self.direction)

    def q(self, features: Tensor) -> Tensor:
        """``q [B]`` of images with these features ``[B, N, D]``."""
        with full_precision(features.device):
            at_places = features.float() @ torch.tensor(self.direction, device=features.device)
            return at_places.amax(dim=1) - self.offset

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
        with full_precision(h.device):
            return (h @ self._directions.T - self._offsets).cpu()


def probed_layers(layers: Mapping[str, nn.Module]) -> list[nn.Module]:
    """The layers whose features are looked at: the first of the up path, where images are smallest."""
    up = [layer for name, layer in layers.items() if name.startswith("output_blocks")]
    return (up or list(layers.values()))[:LAYERS]


@dataclass(frozen=True)
class Neutral:
    """What a probe needs of the images of neutral prompts: of all their positions the number, ``mean [D]``
    and ``covariance [D, D]``; and of each image the positions that lie farthest out, ``extremes [B, P, D]``,
    at which a direction is likely to have its maximum over the image."""

    positions: int
    mean: Tensor
    covariance: Tensor
    extremes: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Neutral:
        """Of features ``[B, N, D]``."""
        with full_precision(features.device):
            features = features.float()
            positions, mean, covariance = _moments(features.flatten(0, 1))
            return cls(positions, mean, covariance, _extremes(features, mean, _shrunk(covariance)))

    def to_tensors(self) -> dict[str, Tensor]:
        """To be stored: the covariance as standard deviations and one triangle of correlations, which lie in
        -1..1 and need no more than half precision."""
        deviation = self.covariance.diagonal().clamp_min(1e-12).sqrt()
        correlation = self.covariance / deviation / deviation[:, None]
        row, column = torch.triu_indices(*correlation.shape)
        scale = self.extremes.abs().amax().clamp_min(1e-12)
        return {
            "positions": torch.tensor(self.positions),
            "mean": self.mean.cpu(),
            "deviation": deviation.cpu(),
            "correlation": correlation.cpu()[row, column].half(),
            "extremes": (self.extremes / scale).cpu().half(),
            "scale": scale.cpu(),
        }

    @classmethod
    def of_tensors(cls, stored: Mapping[str, Tensor]) -> Neutral:
        """From :meth:`to_tensors`. Raises ``ValueError``, ``KeyError`` or ``RuntimeError`` for anything
        else."""
        deviation, extremes = stored["deviation"].float(), stored["extremes"].float() * stored["scale"]
        width = len(deviation)
        if stored["mean"].shape != (width,) or extremes.ndim != 3 or extremes.shape[2] != width:
            raise ValueError("tensors of different models")
        correlation = torch.zeros(width, width)
        row, column = torch.triu_indices(width, width)
        correlation[row, column] = stored["correlation"].float()
        correlation = correlation.triu() + correlation.triu(1).T
        covariance = correlation * deviation * deviation[:, None]
        neutral = cls(int(stored["positions"]), stored["mean"].float(), covariance, extremes)
        if neutral.positions < 1 or not all(x.isfinite().all() for x in (neutral.mean, covariance, extremes)):
            raise ValueError("no numbers")
        return neutral

    def to(self, device: torch.device) -> Neutral:
        return Neutral(self.positions, *(x.to(device) for x in (self.mean, self.covariance, self.extremes)))


def fit(shown: Tensor, where: Tensor, elsewhere: Tensor, erased: Tensor, neutral: Neutral) -> Probe:
    """The probe that tells the features ``shown [B, N, D]``, with the weights ``where [B, N]``, from those
    ``elsewhere [B, N]`` and from other images', ``erased`` and ``neutral``. Where they are hardly told
    apart, as for a word that the model does not know, or where neutral images mostly show it, it is one that
    never sees anything."""
    with full_precision(shown.device):
        return _fit(shown.float(), where.float(), elsewhere, erased.float(), neutral.to(shown.device))


def _fit(shown: Tensor, where: Tensor, elsewhere: Tensor, erased: Tensor, neutral: Neutral) -> Probe:
    of_others = _moments(torch.cat([erased.flatten(0, 1), shown[elsewhere]]))
    mean, covariance = _pooled(of_others, (neutral.positions, neutral.mean, neutral.covariance))
    direction = _direction(shown, where, mean, covariance)
    in_shown, in_erased, in_neutral = _maxima(direction, mean, shown, erased, neutral.extremes)
    low, high = in_erased.quantile(0.9), in_shown.quantile(0.1)
    without = in_neutral[in_neutral < (low + high) / 2]
    if len(without) < (1 - MOST_NEUTRAL) * len(in_neutral):
        return Probe.blind(len(mean))
    low = torch.maximum(low, without.quantile(0.9))
    if high - low < LEAST_SPAN * in_shown.median():
        return Probe.blind(len(mean))
    direction = direction.cpu() / (high - low)
    return Probe(tuple(direction.tolist()), float(mean.cpu() @ direction + low / (high - low)))


def seen_in_neutral(
    shown: Tensor, where: Tensor, elsewhere: Tensor, erased: Tensor, neutral: Neutral
) -> float | None:
    """The share of ``neutral`` images that show a concept, by what tells those that are ``shown`` from the
    same with it ``erased`` alone; None where nothing does. The arguments are those of :func:`fit`."""
    with full_precision(shown.device):
        shown, where, erased, neutral = shown.float(), where.float(), erased.float(), neutral.to(shown.device)
        _, mean, covariance = _moments(torch.cat([erased.flatten(0, 1), shown[elsewhere]]))
        direction = _direction(shown, where, mean, covariance)
        in_shown, in_erased, in_neutral = _maxima(direction, mean, shown, erased, neutral.extremes)
        low, high = in_erased.quantile(0.9), in_shown.quantile(0.1)
        if high - low < LEAST_SPAN * in_shown.median():
            return None
        return float((in_neutral >= (low + high) / 2).float().mean())


def _direction(shown: Tensor, where: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """``v`` as above, not scaled, of a concept that is ``where`` in images that are ``shown``."""
    of_concept = (shown * where[..., None]).sum(dim=(0, 1)) / where.sum().clamp_min(1e-12)
    # On the CPU: not every device that a host knows can solve.
    return torch.linalg.solve(_shrunk(covariance).cpu(), (of_concept - mean).cpu()).to(mean.device)


def _maxima(direction: Tensor, mean: Tensor, *images: Tensor) -> list[Tensor]:
    """``r`` as above of several sets of features ``[B, N, D]``, each ``[B]``, on the CPU."""
    return [((features - mean) @ direction).amax(dim=1).cpu() for features in images]


def _moments(x: Tensor) -> tuple[int, Tensor, Tensor]:
    """Number, mean ``[D]`` and covariance ``[D, D]`` of ``x [M, D]``."""
    mean = x.mean(0)
    centred = x - mean
    return len(x), mean, centred.T @ centred / len(x)


def _pooled(one: tuple[int, Tensor, Tensor], other: tuple[int, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of both together."""
    share = other[0] / (one[0] + other[0])
    apart = other[1] - one[1]
    covariance = one[2] + share * (other[2] - one[2])
    return one[1] + share * apart, covariance + share * (1 - share) * torch.outer(apart, apart)


def _shrunk(covariance: Tensor) -> Tensor:
    ridge = covariance.diagonal().mean().clamp_min(1e-12)
    return (1 - SHRINKAGE) * covariance + SHRINKAGE * ridge * torch.eye(
        len(covariance), device=covariance.device
    )


def _extremes(features: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Of features ``[B, N, D]``, ``EXTREMES`` positions an image, ``[B, P, D]``: the one farthest from the
    ``mean`` under this covariance, and then each time the one farthest from those chosen."""
    lower = torch.linalg.cholesky(covariance.cpu())
    centred = (features - mean).cpu()
    white = torch.linalg.solve_triangular(lower, centred.flatten(0, 1).T, upper=False).T
    white = white.reshape(features.shape)
    images = torch.arange(len(features))
    distance, farthest, chosen = white.new_full(white.shape[:2], torch.inf), white.norm(dim=-1).argmax(1), []
    for _ in range(min(EXTREMES, white.shape[1])):
        chosen.append(farthest)
        apart = (white - white[images, farthest][:, None]).norm(dim=-1)
        distance = torch.minimum(distance, apart)
        farthest = distance.argmax(1)
    index = torch.stack(chosen, dim=1).to(features.device)
    return features.gather(1, index[..., None].expand(-1, -1, features.shape[2]))


def regions(change: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """Where ``change [B, C, H, W]`` is large, as weights whose sum is 1 in each image, and where it is small,
    in ``positions`` of a smaller square map: each ``[B, N]``."""
    with full_precision(change.device):
        energy = smooth(change.float().square().sum(dim=1, keepdim=True))
        energy = F.adaptive_avg_pool2d(energy, round(positions**0.5)).flatten(1)
        share = energy / energy.amax(dim=1, keepdim=True).clamp_min(1e-30)
        weights = share**REGION_POWER
        return weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12), share < ELSEWHERE
