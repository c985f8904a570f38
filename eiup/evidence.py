"""What was suppressed: per image, concept and step, from measurements taken in the hooks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import sqrt

from torch import Tensor

from .rows import Rows


@dataclass(frozen=True)
class ConceptEvidence:
    """One concept in one image.

    ``presence`` is about 0 where the prompt brings nothing of the concept in, about 1 where it names it: the
    mean over steps of a gate's ``z`` (:mod:`eiup.gate`), and in modes without one, of ``a``
    (:func:`eiup.attention.presence`). ``gate`` is the mean over steps of ``g`` in 0..1. ``share`` is the mean
    over steps of ``||correction|| / ||O_p||``, in 0 and more; 0 where nothing was suppressed. In
    ``presence_by_step``, steps at which it was not measured are ``None``.

    ``seen`` is how clearly it was seen to form at most (``q`` of :mod:`eiup.probes`: 1 and more in images
    that show it, 0 and less in others), None where nobody looked; ``begun_anew`` whether the image was begun
    anew for it. ``map`` is where it was forming (:mod:`eiup.maps`), None where maps were not asked for.
    """

    concept: str
    presence: float
    gate: float
    share: float
    presence_by_step: tuple[float | None, ...] = field(repr=False)
    gate_by_step: tuple[float, ...] = field(repr=False)
    share_by_step: tuple[float, ...] = field(repr=False)
    seen: float | None = None
    begun_anew: bool = False
    map: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ImageEvidence:
    """One image of a sampling pass. ``progress`` (0..1) belongs to the values by step; ``rows`` counts
    the rows that were corrected, ``rows_seen`` those that could have been: all that add to the image."""

    progress: tuple[float, ...]
    concepts: tuple[ConceptEvidence, ...]
    rows: int
    rows_seen: int

    def with_looks(self, seen: Sequence[float] | None, begun_anew: Sequence[bool]) -> ImageEvidence:
        """This evidence, with what was seen of each concept."""
        concepts = tuple(
            replace(concept, seen=None if seen is None else seen[k], begun_anew=begun_anew[k])
            for k, concept in enumerate(self.concepts)
        )
        return replace(self, concepts=concepts)

    def with_maps(self, maps: Sequence[str] | None) -> ImageEvidence:
        """This evidence, with each concept's map."""
        if maps is None:
            return self
        concepts = tuple(replace(concept, map=map_) for concept, map_ in zip(self.concepts, maps))
        return replace(self, concepts=concepts)


@dataclass(frozen=True)
class CallEvidence:
    """One U-Net call.

    Its erased ``rows [R]``, which of them were ``corrected [R]``, ``presence [R, K]`` where it was measured,
    ``gate [R, K]``, and over all layers the sums of ``||c_k F_k||^2`` (``energy [R, K]``) and of
    ``||O_p||^2`` (``base [R]``).
    """

    rows: Rows
    progress: float
    corrected: list[bool]
    presence: Tensor | None
    gate: Tensor
    energy: Tensor
    base: Tensor


@dataclass
class _Step:
    presence: list[list[float]] = field(default_factory=list)
    gate: list[list[float]] = field(default_factory=list)
    energy: list[list[float]] = field(default_factory=list)
    base: list[float] = field(default_factory=list)


class Recorder:
    """Collects one sampling pass. Measurements stay on the device until :meth:`images` is called."""

    def __init__(self, names: list[str]):
        self.names = names
        self.calls: list[CallEvidence] = []

    def add(self, call: CallEvidence) -> None:
        self.calls.append(call)

    def images(self) -> dict[int, ImageEvidence]:
        """The evidence of each image, by its index in the batch."""
        steps: dict[int, dict[float, _Step]] = defaultdict(lambda: defaultdict(_Step))
        seen: dict[int, int] = defaultdict(int)
        corrected: dict[int, int] = defaultdict(int)
        for call in self.calls:
            presence = call.presence.tolist() if call.presence is not None else [None] * len(call.rows)
            values = zip(
                call.rows,
                call.corrected,
                presence,
                call.gate.tolist(),
                call.energy.tolist(),
                call.base.tolist(),
            )
            for row, row_corrected, row_presence, row_gate, row_energy, row_base in values:
                step = steps[row.image][call.progress]
                if row_presence is not None:
                    step.presence.append(row_presence)
                step.gate.append(row_gate)
                step.energy.append(row_energy)
                step.base.append(row_base)
                seen[row.image] += 1
                corrected[row.image] += row_corrected
        return {
            image: self._summary(by_progress, corrected[image], seen[image])
            for image, by_progress in sorted(steps.items())
        }

    def nothing(self) -> ImageEvidence:
        """The evidence of an image that was stopped before its first U-Net call."""
        return self._summary({}, 0, 0)

    def _summary(self, by_progress: dict[float, _Step], corrected: int, seen: int) -> ImageEvidence:
        steps = [by_progress[at] for at in sorted(by_progress)]
        concepts = []
        for k, name in enumerate(self.names):
            # A concept is as present as in the sub-prompt that brings most of it in.
            presence = tuple(max((v[k] for v in step.presence), default=None) for step in steps)
            gate = tuple(max(v[k] for v in step.gate) for step in steps)
            share = tuple(
                sqrt(max(0.0, sum(v[k] for v in s.energy)) / max(1e-20, sum(s.base))) for s in steps
            )
            measured = [value for value in presence if value is not None]
            concepts.append(
                ConceptEvidence(
                    concept=name,
                    presence=sum(measured) / len(measured) if measured else 0.0,
                    gate=sum(gate) / max(1, len(gate)),
                    share=sum(share) / max(1, len(share)),
                    presence_by_step=presence,
                    gate_by_step=gate,
                    share_by_step=share,
                )
            )
        return ImageEvidence(tuple(sorted(by_progress)), tuple(concepts), corrected, seen)
