"""Keeps what lies outside of an erased concept, by an un-erased twin from the same noise.

The twin is sampled first; of each of its denoiser calls the predicted clean latents ``x_0`` are kept. While
the erased image is sampled, its own prediction counts inside the region in which the concepts were forming,
and the twin's outside of it::

    x_0 = m x_0(erased) + (1 - m) x_0(twin)

``m`` is 1 where the two predictions have differed most so far, ``||x_0(erased) - x_0(twin)||^2`` smoothed and
accumulated. It is so from the first call on: what has once drifted apart outside does not come back. Samplers
draw ``x`` towards ``x_0``, so at the end the twin's latents are left outside. A decoder normalises over the
whole image, so that even then its pixels differ everywhere, a little; hence the decoded twin's are taken
outside, with a soft edge (:meth:`Twin.keep_outside`).

Where a concept is erased all over an image, since nobody knows its place, or the differences are spread over
the whole image (``SPREAD``), as of a style, there is no outside: nothing of the twin is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ErasureError
from .places import smooth
from .watch import BeginAnew

# Up to this share of calls predictions say where the concept would have been; later ones tell of texture.
LAST_MEASURED = 0.6
# Of an image's largest difference. Where the region is too small, what is left of the concept shows.
THRESHOLD = 0.1
# Mean of the differences, of the largest: where it is more, the whole image is made of the concept.
SPREAD = 0.12


def region(difference: Tensor) -> Tensor:
    """``m`` in {0, 1}, ``[B, 1, H, W]``, from accumulated squared differences ``[B, 1, H, W]``."""
    return (difference >= THRESHOLD * difference.amax(dim=(2, 3), keepdim=True)).float()


def composite(images: Tensor, twins: Tensor, inside: Tensor) -> Tensor:
    """Decoded ``images [B, 3, H, W]``, and the like ``twins`` outside of the region ``inside [B, 1, h, w]``
    of their latents, and of those next to it, which a decoder spreads it to. The edge is as wide as a latent.
    """
    reached = F.max_pool2d(inside.to(images), 3, stride=1, padding=1)
    m = F.interpolate(reached, size=images.shape[2:], mode="bilinear")
    return torch.where(m == 0, twins, m * images + (1 - m) * twins)


class Twin:
    """What an un-erased sampling pass predicted, call by call, and its ``latents [B, 4, H, W]``."""

    def __init__(self) -> None:
        self.predictions: list[tuple[float, Tensor]] = []
        self.latents: Tensor | None = None
        self.difference: Tensor | float = 0.0
        self._inside: Tensor | None = None
        self._erased: set[int] = set()
        self._everywhere: set[int] = set()
        self._spread: set[int] = set()
        self._is_spread: list[bool] | None = None
        self._next = 0

    def keep(self, noise_level: float, clean: Tensor) -> None:
        """The prediction ``x_0 [B, 4, H, W]`` of the next call, at this sigma or timestep."""
        self.predictions.append((noise_level, clean.clone()))

    def rewind(self, everywhere: Collection[int] = ()) -> None:
        """The erased pass begins, or begins anew, with these images erased ``everywhere``: of their twins
        nothing is kept."""
        self.difference = 0.0
        self._inside = self._is_spread = None
        self._everywhere = self._spread.union(everywhere)
        self._next = 0

    def blend(self, noise_level: float, clean: Tensor, erased: Collection[int]) -> Tensor:
        """The blended prediction ``[B, 4, H, W]`` of the erased pass's next call, in which something is
        ``erased`` from these images.

        Raises :class:`ErasureError` where the two passes do not make the same calls, and :class:`BeginAnew`
        where an image turns out to have no outside.
        """
        if self._next >= len(self.predictions) or self.predictions[self._next][0] != noise_level:
            raise ErasureError(
                "preserve needs a sampler that takes the same steps every time, which this one does not. "
                "Choose another sampler, or switch preserve off"
            )
        twin = self.predictions[self._next][1].to(clean)
        done = self._next / len(self.predictions)
        self._next += 1
        self._erased = set(erased)
        if done < LAST_MEASURED:
            squared = (clean - twin).float().square().sum(dim=1, keepdim=True)
            self.difference = self.difference + smooth(squared)
        else:
            self._find_spread()
        inside = region(self.difference).to(clean)
        for image in self._everywhere:
            inside[image] = 1.0
        self._inside = inside
        return inside * clean + (1 - inside) * twin

    def _find_spread(self) -> None:
        if self._is_spread is None:  # measured no more, so read once
            mean, most = self.difference.mean(dim=(1, 2, 3)), self.difference.amax(dim=(1, 2, 3))
            self._is_spread = (mean > SPREAD * most).tolist()
        spread = {image for image in self._erased - self._everywhere if self._is_spread[image]}
        if spread:
            self._spread |= spread
            raise BeginAnew

    def keep_outside(self, images: Tensor, decode: Callable[[Tensor], Tensor]) -> None:
        """Put into decoded ``images [B, 3, H, W]`` of the erased pass, in place, what their twins have
        outside of the erased concepts; nothing where the pass was stopped. ``decode(latents [1, 4, h, w])``
        gives an image ``[1, 3, H, W]``."""
        if self._inside is None or self._next < len(self.predictions):
            return
        for index in sorted(self._erased - self._everywhere):
            image, one = images[index : index + 1], slice(index, index + 1)
            twin = decode(self.latents[one]).to(image)
            image.copy_(composite(image, twin, self._inside[one].to(image.device)))
