"""What was suppressed: per image, concept and step, from measurements taken in the hooks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import sqrt

import torch
from torch import Tensor

from .errors import NotFiniteError
from .rows import Rows


@dataclass(frozen=True)
class ConceptEvidence:
    """One concept in one image.

    ``presence`` is about 0 where the prompt brings nothing of the concept in, about 1 where it names it: the
    mean over steps of a gate's ``z`` (:mod:`eiup.gate`), and in modes without one, ``a``
    (:func:`eiup.attention.presence`) in the first step of each prompt. ``gate`` is the mean over steps of
    ``g`` in 0..1. ``share`` is the mean over steps of ``||correction|| / ||O_p||``, in 0 and more; 0 where
    nothing was suppressed. In ``presence_by_step``, steps at which it was not measured are ``None``.

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

    Its erased ``rows [R]``, which of them were corrected (``active``) and of which ``concepts``; ``presence
    [R, K]`` where it was measured, ``gate [R, K]``; and ``norms [L, k + 1, r]``, in each of ``L`` layers, of
    the ``k`` concepts and ``r`` rows that were corrected: ``||c_k F_k||`` and, at the end, ``||O_p||``.
    ``output [R]`` is the norm of what the U-Net makes of that.
    """

    rows: Rows
    progress: float
    active: tuple[int, ...]
    concepts: tuple[int, ...]
    presence: Tensor | None
    gate: Tensor
    norms: Tensor | None
    output: Tensor | None

    def energy_and_base(self) -> tuple[Tensor, Tensor]:
        """Over all layers, the sums of ``||c_k F_k||^2``, ``[R, K]``, and of ``||O_p||^2``, ``[R]``."""
        energy, base = torch.zeros_like(self.gate), torch.ones(len(self.rows))
        if self.norms is not None:
            *of_concepts, of_prompt = self.norms.square().sum(0)
            rows = torch.tensor(self.active)
            energy[rows[:, None], torch.tensor(self.concepts)] = torch.stack(of_concepts, dim=1)
            base[rows] = of_prompt
        return energy, base


@dataclass
class _Step:
    presence: list[list[float]] = field(default_factory=list)
    gate: list[list[float]] = field(default_factory=list)
    energy: list[list[float]] = field(default_factory=list)
    base: list[float] = field(default_factory=list)


class Recorder:
    """Collects one sampling pass. Measurements stay on the device until they are read."""

    def __init__(self, names: list[str]):
        self.names = names
        self._read: list[CallEvidence] = []
        self._unread: list[CallEvidence] = []

    def add(self, call: CallEvidence) -> None:
        self._unread.append(call)

    def clear(self) -> None:
        self._read.clear()
        self._unread.clear()

    def go_on_from(self, previous: Recorder) -> None:
        """The calls of ``previous`` come before those of this one."""
        self._read[:0] = previous.read()

    def read(self) -> list[CallEvidence]:
        """All calls, their measurements on the CPU; at one go, since each transfer waits for the device.

        Raises :class:`NotFiniteError` where something is not finite that was measured.
        """
        measured = [x for call in self._unread for x in (call.norms, call.output) if x is not None]
        numbers = torch.cat([x.flatten() for x in measured]).cpu() if measured else torch.zeros(0)
        parts = iter(numbers.split([x.numel() for x in measured]))
        for call in self._unread:
            norms, output = (
                None if x is None else next(parts).view(x.shape) for x in (call.norms, call.output)
            )
            presence = None if call.presence is None else call.presence.detach().cpu()
            self._read.append(replace(call, norms=norms, output=output, presence=presence))
            if not all(x is None or x.isfinite().all() for x in (norms, output, presence)):
                raise NotFiniteError("the attention to the concepts")
        self._unread.clear()
        return self._read

    def images(self) -> dict[int, ImageEvidence]:
        """The evidence of each image, by its index in the batch. Raises as :meth:`read` does."""
        steps: dict[int, dict[float, _Step]] = defaultdict(lambda: defaultdict(_Step))
        seen: dict[int, int] = defaultdict(int)
        corrected: dict[int, int] = defaultdict(int)
        for call in self.read():
            energy, base = call.energy_and_base()
            for index, row in enumerate(call.rows):
                step = steps[row.image][call.progress]
                if call.presence is not None:
                    step.presence.append(call.presence[index].tolist())
                step.gate.append(call.gate[index].tolist())
                step.energy.append(energy[index].tolist())
                step.base.append(base[index].item())
                seen[row.image] += 1
                corrected[row.image] += index in call.active
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
