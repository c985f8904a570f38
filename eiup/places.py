"""Places in an image, at the resolutions of a U-Net's layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def map_size(positions: int, height: int, width: int) -> tuple[int, int] | None:
    """Height and width of the layer that has this many positions, of latents ``[H, W]``, which a U-Net
    halves; None where no layer has."""
    while height * width > positions:
        height, width = -(-height // 2), -(-width // 2)
    return (height, width) if height * width == positions else None


def resize(places: Tensor, size: tuple[int, int]) -> Tensor:
    """``places [H, W]`` at another ``size``; a coarser one has the largest of a finer one."""
    finer = size[0] >= places.shape[0]
    to_size = F.interpolate if finer else F.adaptive_max_pool2d
    return to_size(places[None, None], size)[0, 0]


def highest(values: Tensor, share: float) -> Tensor:
    """Where ``values [H, W]`` reach this share of the largest one, in {0, 1}."""
    return torch.where(values >= share * values.amax(), 1.0, 0.0)


def widened(places: Tensor) -> Tensor:
    """``places [H, W]`` with those next to them."""
    return F.max_pool2d(places[None], 3, stride=1, padding=1)[0]


def smooth(x: Tensor) -> Tensor:
    """``x [B, C, H, W]``, each value the mean of its 3 x 3 neighbourhood."""
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
