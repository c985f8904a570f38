"""Sampling from noise up to the look of the adaptive mode, in few U-Net rows: what probes are made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .eraser import ConceptEraser
from .errors import NotFiniteError
from .precision import full_precision
from .probes import WATCHED_AT, Denoiser
from .rows import Row

# Denoiser calls before the look, the guidance in these, and rows in a U-Net call: those of eight images.
CALLS = 3
CFG_SCALE = 6.0
MOST_ROWS = 16
# Below this, a clean prediction would be nothing but rounding: the schedule's end may have none of the image.
_LEAST_ALPHA = 1e-8


class Image(NamedTuple):
    """An image to sample: its prompt's ``context [T, C]``, the seed of its noise, and the index of the
    concept that is erased in it; None where none is."""

    context: Tensor
    seed: int
    erased: int | None = None


class _UNetRow(NamedTuple):
    image: int
    context: Tensor
    row: Row


class ShortSampling:
    """Samples images by DPM-Solver++ (2M, arXiv 2211.01095) in ``CALLS`` calls up to ``WATCHED_AT``, and
    looks in one more at the features that enter ``layers``.

    Rows are saved where they tell nothing: in the first call images of one seed share the unconditional row,
    since their noise is the same and nothing is erased in it, and features are those of conditional rows.

    ``eraser``, where there is one, erases with the constant weight; ``before_call(rows)`` is called before
    each U-Net call with the number of its rows.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        denoiser: Denoiser,
        empty: Tensor,
        eraser: ConceptEraser | None = None,
        before_call: Callable[[int], None] = lambda rows: None,
    ):
        self.layers, self.denoiser, self.empty, self.eraser = layers, denoiser, empty, eraser
        self.before_call = before_call
        last = len(denoiser.alphas_cumprod) - 1
        self.timesteps = [round(last * (1 - WATCHED_AT * call / CALLS)) for call in range(CALLS + 1)]

    @staticmethod
    def rows(images: int, seeds: int, clean: bool = True) -> int:
        """The U-Net rows that so many images of so many seeds take, with or without ``clean`` predictions."""
        return images + seeds + 2 * images * (CALLS - 1) + (2 if clean else 1) * images

    def features(self, images: Sequence[Image]) -> Tensor:
        """Features ``[B, N, D]`` at the look."""
        x = self._sample(images)
        _, features = self._predict(x, self.timesteps[-1], _conditional(images), look=True)
        return features

    def features_and_clean(self, images: Sequence[Image]) -> tuple[Tensor, Tensor]:
        """The same and clean predictions ``[B, *shape]``."""
        x = self._sample(images)
        noise, features = self._guided(x, self.timesteps[-1], images, range(len(images)), look=True)
        with full_precision(x.device):
            return features, self._clean(x, self.timesteps[-1], noise)

    def _sample(self, images: Sequence[Image]) -> Tensor:
        """Latents at the look."""
        x = torch.stack([self._noise(image.seed) for image in images]).to(self.empty.device)
        seeds = [image.seed for image in images]
        before = None
        for call, (timestep, following) in enumerate(zip(self.timesteps, self.timesteps[1:])):
            sources = [seeds.index(seed) for seed in seeds] if call == 0 else range(len(images))
            noise, _ = self._guided(x, timestep, images, sources)
            with full_precision(x.device):
                clean = self._clean(x, timestep, noise)
                towards = clean
                if before is not None:
                    ratio = self._length(timestep, following) / self._length(
                        self.timesteps[call - 1], timestep
                    )
                    towards = clean + ratio / 2 * (clean - before)
                x = self._step(x, timestep, following, towards)
                before = clean
        return x

    def _guided(
        self, x: Tensor, timestep: int, images: Sequence[Image], sources: Sequence[int], look: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The guided prediction of the noise and, in a look, features. ``sources`` are the images whose
        unconditional rows serve for each."""
        own = sorted(set(sources))
        unconditional = [_UNetRow(i, self.empty, Row(i, False, 1 - CFG_SCALE)) for i in own]
        # Those that are looked at come first.
        noise, features = self._predict(x, timestep, [*_conditional(images), *unconditional], look)
        with full_precision(x.device):
            conditional, empty = noise.split([len(images), len(own)])
            empty = empty[[own.index(source) for source in sources]]
            noise = empty + CFG_SCALE * (conditional - empty)
        return noise, features if features is None else features[: len(images)]

    def _noise(self, seed: int) -> Tensor:
        return torch.randn(self.denoiser.shape, generator=torch.Generator().manual_seed(seed))

    def _alpha(self, timestep: int) -> Tensor:
        return self.denoiser.alphas_cumprod[timestep].float().cpu().clamp_min(_LEAST_ALPHA)

    def _clean(self, x: Tensor, timestep: int, noise: Tensor) -> Tensor:
        alpha = self._alpha(timestep)
        return (x - (1 - alpha).sqrt() * noise) / alpha.sqrt()

    def _length(self, timestep: int, following: int) -> Tensor:
        """How much a step changes the logarithm of the signal-to-noise ratio, halved."""
        before, after = self._alpha(timestep), self._alpha(following)
        return 0.5 * ((after / (1 - after)).log() - (before / (1 - before)).log())

    def _step(self, x: Tensor, timestep: int, following: int, towards: Tensor) -> Tensor:
        alpha, next_alpha = self._alpha(timestep), self._alpha(following)
        kept = ((1 - next_alpha) / (1 - alpha)).sqrt()
        gained = -next_alpha.sqrt() * torch.expm1(-self._length(timestep, following))
        return kept * x + gained * towards

    def _predict(
        self, x: Tensor, timestep: int, rows: Sequence[_UNetRow], look: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The predicted noise of ``rows`` and, in a look, their features; in as many U-Net calls as it
        takes."""
        noise, features = [], []
        for start in range(0, len(rows), MOST_ROWS):
            part = rows[start : start + MOST_ROWS]
            self.before_call(len(part))
            if self.eraser is not None:
                self.eraser.rows = tuple(row.row for row in part)
            contexts = torch.stack([row.context for row in part])
            with keeping_inputs(self.layers if look else ()) as seen:
                predicted = self.denoiser.predict(x[[row.image for row in part]], timestep, contexts)
            noise.append(_finite(predicted.float(), "what the U-Net predicts"))
            if look and part[0].row.conditional:
                entered = torch.cat([seen[layer].float() for layer in self.layers], dim=-1)
                features.append(_finite(entered, "the U-Net's features"))
        return torch.cat(noise), torch.cat(features) if look else None


def _finite(values: Tensor, what: str) -> Tensor:
    if not values.isfinite().all():
        raise NotFiniteError(what)
    return values


def _conditional(images: Sequence[Image]) -> list[_UNetRow]:
    return [
        _UNetRow(i, image.context, Row(i, True, 0.0 if image.erased is None else CFG_SCALE, image.erased))
        for i, image in enumerate(images)
    ]


class keeping_inputs:  # noqa: N801 - used like a function
    """While entered, holds what enters ``to_q`` of each of ``layers``, by the layer."""

    def __init__(self, layers: Sequence[nn.Module]):
        self.layers = layers

    def __enter__(self) -> dict[nn.Module, Tensor]:
        seen: dict[nn.Module, Tensor] = {}

        def keep(layer: nn.Module) -> Callable:
            def hook(module: nn.Module, args: tuple) -> None:
                seen[layer] = args[0]

            return hook

        self._handles = [layer.to_q.register_forward_pre_hook(keep(layer)) for layer in self.layers]
        return seen

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
