"""Keeps what lies outside of an erased concept, by an un-erased twin from the same noise.

The twin is sampled first; of each of its denoiser calls the predicted clean latents ``x_0`` are kept. While
the erased image is sampled, its own prediction counts inside the region in which the concepts were forming,
and the twin's outside of it::

    x_0 = m x_0(erased) + (1 - m) x_0(twin)         from a third of the schedule on

``m`` is 1 where the accumulated ``||sum over k of c_k F_k||^2`` of the high-resolution layers is large, and
around there. Samplers draw ``x`` towards ``x_0``, so at the end the twin's latents are left outside.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ErasureError

START = 1 / 3
THRESHOLD = 0.2
MARGIN = 1


def region(area: Tensor, size: tuple[int, int]) -> Tensor:
    """``m`` in {0, 1}, ``[B, 1, H, W]`` for latents of ``size``, from energies ``area [B, h, w]``.

    Positions with at least ``THRESHOLD`` of an image's largest energy, and ``MARGIN`` more on every side.
    """
    share = area / area.amax(dim=(1, 2), keepdim=True).clamp_min(1e-20)
    inside = F.interpolate((share >= THRESHOLD).float()[:, None], size, mode="nearest")
    return F.max_pool2d(inside, 2 * MARGIN + 1, stride=1, padding=MARGIN)


class Twin:
    """What an un-erased sampling pass predicted, call by call."""

    def __init__(self) -> None:
        self.predictions: list[tuple[float, Tensor]] = []
        self._next = 0

    def keep(self, noise_level: float, clean: Tensor) -> None:
        """The prediction ``x_0 [B, 4, H, W]`` of the next call, at this sigma or timestep."""
        self.predictions.append((noise_level, clean.clone()))

    def blend(
        self, noise_level: float, progress: float, clean: Tensor, areas: Mapping[int, Tensor]
    ) -> Tensor:
        """The blended prediction of the erased pass's next call.

        ``areas`` are the accumulated energies ``[h, w]`` so far, by image; an image without any is the
        twin's. Raises :class:`ErasureError` where the two passes do not make the same calls.
        """
        if self._next >= len(self.predictions) or self.predictions[self._next][0] != noise_level:
            raise ErasureError(
                "preserve needs a sampler that takes the same steps every time, which this one does not. "
                "Choose another sampler, or switch preserve off"
            )
        twin = self.predictions[self._next][1].to(clean)
        self._next += 1
        if progress < START:
            return clean
        inside = torch.zeros_like(clean[:, :1])
        for image, area in areas.items():
            inside[image] = region(area[None], clean.shape[-2:])[0].to(clean)
        return inside * clean + (1 - inside) * twin
