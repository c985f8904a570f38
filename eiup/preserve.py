"""Keeps what lies outside of an erased concept, by an un-erased twin from the same noise.

The twin is sampled first; of each of its denoiser calls the predicted clean latents ``x_0`` are kept. While
the erased image is sampled, its own prediction counts inside the region in which the concepts were forming,
and the twin's outside of it::

    x_0 = m x_0(erased) + (1 - m) x_0(twin)

``m`` is 1 where the two predictions have differed most so far, ``||x_0(erased) - x_0(twin)||^2`` smoothed and
accumulated. It is so from the first call on: what has once drifted apart outside does not come back. Samplers
draw ``x`` towards ``x_0``, so at the end the twin's latents are left outside. Where a concept is erased all
over an image, since nobody knows its place, there is no outside.
"""

from __future__ import annotations

from collections.abc import Collection

import torch.nn.functional as F
from torch import Tensor

from .errors import ErasureError

# Up to this share of calls predictions say where the concept would have been; later ones tell of texture.
LAST_MEASURED = 0.6
# Of an image's largest difference. Where the region is too small, what is left of the concept shows.
THRESHOLD = 0.1


def region(difference: Tensor) -> Tensor:
    """``m`` in {0, 1}, ``[B, 1, H, W]``, from accumulated squared differences ``[B, 1, H, W]``."""
    return (difference >= THRESHOLD * difference.amax(dim=(2, 3), keepdim=True)).float()


def smooth(x: Tensor) -> Tensor:
    """``x [B, C, H, W]``, each value the mean of its 3 x 3 neighbourhood."""
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


class Twin:
    """What an un-erased sampling pass predicted, call by call."""

    def __init__(self) -> None:
        self.predictions: list[tuple[float, Tensor]] = []
        self.difference: Tensor | float = 0.0
        self._everywhere: list[int] = []
        self._next = 0

    def keep(self, noise_level: float, clean: Tensor) -> None:
        """The prediction ``x_0 [B, 4, H, W]`` of the next call, at this sigma or timestep."""
        self.predictions.append((noise_level, clean.clone()))

    def rewind(self, everywhere: Collection[int] = ()) -> None:
        """The erased pass begins, or begins anew, with these images erased ``everywhere``: of their twins
        nothing is kept."""
        self.difference = 0.0
        self._everywhere = sorted(everywhere)
        self._next = 0

    def blend(self, noise_level: float, clean: Tensor) -> Tensor:
        """The blended prediction ``[B, 4, H, W]`` of the erased pass's next call.

        Raises :class:`ErasureError` where the two passes do not make the same calls.
        """
        if self._next >= len(self.predictions) or self.predictions[self._next][0] != noise_level:
            raise ErasureError(
                "preserve needs a sampler that takes the same steps every time, which this one does not. "
                "Choose another sampler, or switch preserve off"
            )
        twin = self.predictions[self._next][1].to(clean)
        done = self._next / len(self.predictions)
        self._next += 1
        if done < LAST_MEASURED:
            squared = (clean - twin).float().square().sum(dim=1, keepdim=True)
            self.difference = self.difference + smooth(squared)
        inside = region(self.difference).to(clean)
        inside[self._everywhere] = 1.0
        return inside * clean + (1 - inside) * twin
