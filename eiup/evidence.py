"""What was suppressed: per image, concept and step, from measurements taken in the hooks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import sqrt

from torch import Tensor

from .rows import Rows


@dataclass(frozen=True)
class ConceptEvidence:
    """One concept in one image.

    ``presence`` is the mean over steps of ``a`` (see :func:`eiup.attention.presence`): about 0 where the
    prompt brings nothing of the concept in, about 1 where it is the concept. ``share`` is the mean over
    steps of ``||correction|| / ||O_p||``, in 0 and more; 0 where nothing was suppressed.
    """

    concept: str
    weight: float
    presence: float
    share: float
    presence_by_step: tuple[float, ...] = field(repr=False)
    share_by_step: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True)
class ImageEvidence:
    """One image of a sampling pass. ``progress`` (0..1) belongs to the values by step; ``rows`` counts
    the conditional rows that were corrected, ``rows_seen`` those that the U-Net computed."""

    progress: tuple[float, ...]
    concepts: tuple[ConceptEvidence, ...]
    rows: int
    rows_seen: int


@dataclass
class _Step:
    presence: list[list[float]] = field(default_factory=list)
    energy: list[list[float]] = field(default_factory=list)
    base: list[float] = field(default_factory=list)


class Recorder:
    """Collects one sampling pass. Measurements stay on the device until :meth:`images` is called."""

    def __init__(self, names: list[str], weights: list[float]):
        self.names, self.weights = names, weights
        self.calls: list[tuple[Rows, float, bool, Tensor, Tensor, Tensor]] = []

    def add(
        self, rows: Rows, progress: float, corrected: bool, presence: Tensor, energy: Tensor, base: Tensor
    ) -> None:
        """One U-Net call: erased ``rows [R]``, ``presence [R, K]``, and over all layers the sums of
        ``||c_k F_k||^2`` (``energy [R, K]``) and of ``||O_p||^2`` (``base [R]``)."""
        self.calls.append((rows, progress, corrected, presence, energy, base))

    def images(self) -> dict[int, ImageEvidence]:
        """The evidence of each image, by its index in the batch."""
        steps: dict[int, dict[float, _Step]] = defaultdict(lambda: defaultdict(_Step))
        seen: dict[int, int] = defaultdict(int)
        corrected_rows: dict[int, int] = defaultdict(int)
        for rows, progress, corrected, presence, energy, base in self.calls:
            values = zip(rows, presence.tolist(), energy.tolist(), base.tolist())
            for row, row_presence, row_energy, row_base in values:
                step = steps[row.image][progress]
                step.presence.append(row_presence)
                step.energy.append(row_energy)
                step.base.append(row_base)
                seen[row.image] += 1
                corrected_rows[row.image] += corrected
        return {
            image: self._summary(by_progress, corrected_rows[image], seen[image])
            for image, by_progress in sorted(steps.items())
        }

    def _summary(self, by_progress: dict[float, _Step], corrected: int, seen: int) -> ImageEvidence:
        progress = tuple(sorted(by_progress))
        concepts = []
        for k, (name, weight) in enumerate(zip(self.names, self.weights)):
            presence, share = [], []
            for at in progress:
                step = by_progress[at]
                # A concept is as present as in the sub-prompt that brings most of it in.
                presence.append(max(values[k] for values in step.presence))
                energy = sum(values[k] for values in step.energy)
                share.append(sqrt(max(0.0, energy) / max(1e-20, sum(step.base))))
            concepts.append(
                ConceptEvidence(
                    concept=name,
                    weight=weight,
                    presence=sum(presence) / len(presence),
                    share=sum(share) / len(share),
                    presence_by_step=tuple(presence),
                    share_by_step=tuple(share),
                )
            )
        return ImageEvidence(progress, tuple(concepts), corrected, seen)
