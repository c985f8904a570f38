"""Calibrations on disk, and what concepts are calibrated with."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .files import write_atomically, write_bytes_atomically

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


@dataclass(frozen=True)
class CalibrationProgress:
    """How far a calibration is, before a U-Net call: the ``concept`` that is being learnt, its ``number``
    from 1 ``of`` how many that have to be learnt or checked, and the share of all U-Net rows of this
    calibration that are ``done``, 0..1, which never decreases. While neutral prompts are sampled, which serve
    all concepts, the concept is "" and its number 0."""

    concept: str
    number: int
    of: int
    done: float


Report = Callable[[CalibrationProgress], None]

# One calibration at a time in each folder.
_locks: dict[str, threading.Lock] = {}


class CalibrationCache:
    """Calibrations, a file each, named by everything that they depend on: JSON, or tensors where there are
    many numbers.

    ``lock`` is to be held while something is made that is to be kept, so that two threads do not make the
    same.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.lock = _locks.setdefault(str(self.folder.resolve()), threading.Lock())

    @staticmethod
    def key(*parts: Any) -> str:
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

    def read_tensors(self, key: str, decode: Callable[[Mapping[str, Tensor]], Any]) -> Any:
        """What ``decode`` makes of the stored tensors; None where there are none, or none that can be
        read."""
        path = self.folder / f"{key}.safetensors"
        try:
            decoded = decode(safetensors.torch.load(path.read_bytes()))
            os.utime(path)  # the files used last are kept
            return decoded
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError):
            return None

    def stored_under(self, first: str, tensor: str) -> dict[str, Tensor]:
        """Of the stored tensors whose names begin with ``first``, those called ``tensor``, by these names;
        the others are not read."""
        found = {}
        for path in sorted(self.folder.glob(f"{first}*.safetensors")):
            with contextlib.suppress(OSError, SafetensorError), safe_open(path, "pt") as stored:
                found[path.stem] = stored.get_tensor(tensor)
        return found

    def write_tensors(self, key: str, tensors: Mapping[str, Tensor], keep: int) -> None:
        """Store tensors, of the files whose names have the same first word only the ``keep`` used last."""
        content = safetensors.torch.save({name: x.contiguous() for name, x in tensors.items()})
        write_bytes_atomically(self.folder / f"{key}.safetensors", content)
        kind = key.partition("-")[0]
        dated = []
        for path in self.folder.glob(f"{kind}-*.safetensors"):
            try:
                dated.append((path.stat().st_mtime_ns, path))
            except FileNotFoundError:  # another process has cleaned up
                continue
        for _, path in sorted(dated, reverse=True)[keep:]:
            path.unlink(missing_ok=True)
