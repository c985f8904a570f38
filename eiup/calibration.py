"""Calibrations on disk, and what concepts are calibrated with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .files import write_atomically

# What a prompt says when it says nothing in particular.
NEUTRAL_PROMPTS = (
    "a picture", "a photo", "a painting", "a drawing", "an image", "a scene", "something", "a thing",
    "a picture of something", "a photo of a thing", "art", "a nice picture", "a simple image, best quality",
    "a detailed drawing", "an old photo", "a beautiful painting",
)  # fmt: skip
# The words of these, each a prompt of its own.
NEUTRAL_WORDS = tuple(dict.fromkeys(" ".join(NEUTRAL_PROMPTS).replace(",", "").split()))
# Prompts that name a concept.
ANCHORS = ("{}", "a {}", "a picture of a {}", "a picture of {}")

# Encodes texts, each alone: [B, T, C].
Encode = Callable[[Sequence[str]], Tensor]


class CalibrationCache:
    """Calibrations, a JSON file each, named by everything that they depend on.

    That is a concept's and the empty prompt's encodings and what layers of the U-Net make of them: with
    another checkpoint, LoRA, hypernetwork, embedding or CLIP skip, some of these are others.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def key(self, *parts: Any) -> str:
        """The name of a calibration that depends on ``parts``: tensors, and values with a ``repr``."""
        digest = hashlib.sha256()
        for part in (NEUTRAL_PROMPTS, ANCHORS, *parts):
            if isinstance(part, Tensor):
                digest.update(part.detach().float().cpu().contiguous().numpy().tobytes())
            else:
                digest.update(repr(part).encode())
        return digest.hexdigest()[:32]

    def read(self, key: str, decode: Callable[[Any], Any]) -> Any:
        """What ``decode`` makes of the stored JSON; None where there is none, or none that can be read."""
        try:
            return decode(json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, key: str, value: Any) -> None:
        write_atomically(self.folder / f"{key}.json", json.dumps(value))
