"""Where concepts form in an image: maps of the features that would be erased.

The map of a concept is ``||F_k||`` at every position, over all heads, in the first text cross-attention of
the up path at its highest resolution. It tells of a concept only as long as the concept is not erased, so it
is collected up to the look of the adaptive mode (:mod:`eiup.watch`), in a sampling pass in which nothing is
erased up to there. What is seen later says more: calls count with the square of sampling progress.

Where a word is attended is not always where it forms; the concept's probe tells more surely where, but at a
lower resolution. So where it sees the concept in the last of these calls, only the places remain that have
``PLACE`` of the image's ``q`` and more. The map of a concept that forms only later is ``q`` in the call that
saw it first.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .overlay import LARGEST, LEVELS, map_values
from .places import highest, map_size, resize
from .probes import WATCHED_AT, Sight
from .watch import SEEN

# Of the largest q.
PLACE = 0.8


def mapped_layer(layers: Mapping[str, nn.Module]) -> nn.Module:
    """The layer whose features are mapped. The fewest channels are those of the highest resolution."""
    up = [layer for name, layer in layers.items() if name.startswith("output_blocks")]
    return min(up or layers.values(), key=lambda layer: layer.to_q.in_features)


class FormingMaps:
    """The maps of one sampling pass, by image and concept."""

    def __init__(self, layer: nn.Module, sight: Sight):
        self.layer, self.sight = layer, sight
        self._sums: dict[int, Tensor] = {}
        self._q: dict[int, Tensor] = {}
        self._latent_size: tuple[int, int] | None = None
        self._last: float | None = None

    def collects(self, at: float) -> bool:
        """Whether a U-Net call at progress ``at`` is still one before erasing begins."""
        if self._last is None and at >= WATCHED_AT - 0.01:
            self._last = at
        return self._last is None or at == self._last

    def close(self) -> None:
        """Erasing begins."""
        self._last = -1.0

    def see(self, images: Sequence[int], rows: slice | Tensor, at: float) -> None:
        """Look at ``rows`` of a U-Net call, which belong to ``images [R]``, where it is the last one."""
        if at != self._last:
            return
        for image, q in zip(images, self.sight.q(rows)):
            self._q[image] = torch.maximum(self._q.get(image, q), q)

    def add(self, images: Sequence[int], at: float, features: Tensor, latent_size: tuple[int, int]) -> None:
        """``||F_k||`` of rows of a U-Net call, ``[R, N, K]``, which belong to ``images [R]``."""
        self._latent_size = latent_size
        for image, of_row in zip(images, features * max(at, 1e-3) ** 2):
            known = self._sums.get(image)
            self._sums[image] = of_row if known is None else known + of_row

    def of(self, image: int, seen_late: Mapping[int, Tensor] | None = None) -> list[str] | None:
        """The image's maps, one a concept, as :func:`encode_map` writes them; None where there are none.
        ``seen_late`` has the ``q [N]`` of concepts that formed only later, and so have no features here."""
        if image not in self._sums:
            return None
        by_position = self._sums[image].float().cpu()
        size = map_size(len(by_position), *self._latent_size)
        if size is None:
            return None
        maps = by_position.T.unflatten(1, size)
        if image in self._q and (coarse := map_size(len(self._q[image]), *self._latent_size)):
            q = self._q[image].T.unflatten(1, coarse)
            maps = torch.stack(list(map(_at_places, maps, q)))
            for k, late in (seen_late or {}).items():
                maps[k] = _clearest(late.unflatten(0, coarse), size)
        return [encode_map(of_concept) for of_concept in maps]


def _at_places(values: Tensor, q: Tensor) -> Tensor:
    """``values [H, W]``, above their median, at the places where ``q [h, w]`` sees the concept; all of them
    where it sees nothing."""
    if q.amax() < SEEN:
        return values
    return (values - values.median()).clamp_min(0) * resize(highest(q, PLACE), tuple(values.shape))


def _clearest(q: Tensor, size: tuple[int, int]) -> Tensor:
    """``q [h, w]`` at the places where it is seen, at another ``size``."""
    smooth = F.interpolate(q[None, None], size, mode="bilinear")[0, 0]
    return smooth * resize(highest(q, PLACE), size)


def encode_map(values: Tensor) -> str:
    """``values [H, W]`` as text: ``WxH:`` and base64 of four bits a position, row by row, of at most 16 by 16
    positions. 0 is the median and less, 15 the largest value."""
    shrink = max(1.0, max(values.shape) / LARGEST)
    height, width = (max(1, round(side / shrink)) for side in values.shape)
    values = F.adaptive_avg_pool2d(values[None], (height, width))[0]
    low, high = values.median(), values.amax()
    levels = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).mul(LEVELS).round()
    nibbles = levels.flatten().int().tolist()
    nibbles += [0] * (len(nibbles) % 2)
    packed = bytes(a << 4 | b for a, b in zip(nibbles[::2], nibbles[1::2]))
    return f"{width}x{height}:{base64.b64encode(packed).decode()}"


def decode_map(text: str) -> Tensor:
    """What :func:`encode_map` wrote, ``[H, W]`` in 0..1. Raises ``ValueError`` for anything else."""
    return torch.from_numpy(map_values(text))
