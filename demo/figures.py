"""The figures that a comparison is told in."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

PSNR_CAP = 60.0


def wilson(successes: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate; (0, 1) where nothing was counted."""
    if count == 0:
        return 0.0, 1.0
    rate = successes / count
    centre = rate + z * z / (2 * count)
    spread = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def psnr(first: Image.Image, second: Image.Image) -> float:
    """Peak signal-to-noise ratio of two RGB images in dB, at most 60 (which identical images have)."""
    difference = np.asarray(first.convert("RGB"), float) - np.asarray(second.convert("RGB"), float)
    error = float((difference**2).mean())
    return min(PSNR_CAP, 10 * math.log10(255**2 / error)) if error else PSNR_CAP
