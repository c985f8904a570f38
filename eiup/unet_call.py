"""A U-Net call under erasure: what is decided for it, and what is measured in it."""

from __future__ import annotations

import torch
from torch import Tensor

from .correction import Correction
from .evidence import CallEvidence
from .gate import Decision
from .rows import Rows
from .watch import MOST, Watch


class Plan:
    """What is decided for U-Net calls with these rows: the coefficients ``c_k = s(t) w_k g_k f_k`` of each,
    and the ``correction`` that follows; None where nothing is corrected. *Erased* rows may be corrected; the
    *active* ones among them are.

    ``weights [K]`` are ``s(t) w_k``; ``index`` is where the erased rows are on the ``device``. All else is on
    the CPU. Without a gate's ``decision``, all gates are open; with a ``watch``, what was seen up to progress
    ``at`` is erased, whatever the prompt says, where it was seen, and nothing before the look.
    """

    def __init__(
        self,
        rows: Rows,
        index: slice | Tensor,
        weights: Tensor,
        latent_size: tuple[int, int],
        device: torch.device,
        decision: Decision | None = None,
        watch: Watch | None = None,
        at: float = 0.0,
    ):
        self.rows, self.index, self.weights = rows, index, weights
        self.latent_size, self.device = latent_size, device
        self.erased = [number for number, row in enumerate(rows) if row.erased]
        self.images = [rows[number].image for number in self.erased]
        self.presence = None if decision is None else decision.presence
        self.gate = self._open_gates() if decision is None else decision.gate
        self._factor = torch.ones_like(self.gate) if decision is None else decision.factor
        self._places: list[list[Tensor | None]] = [[None] * len(weights)] * len(self.erased)
        if watch is not None and self.erased:
            self._follow(watch, at)
        self._settle()

    def _open_gates(self) -> Tensor:
        gate = torch.ones(len(self.erased), len(self.weights))
        for index, number in enumerate(self.erased):
            if self.rows[number].concept is not None:
                gate[index] = 0.0
                gate[index, self.rows[number].concept] = 1.0
        return gate

    def _follow(self, watch: Watch, at: float) -> None:
        likeness = self.presence.tolist()
        watch.hear(self.images, likeness)
        erasures = [
            [watch.erasure(image, k, at, z) for k, z in enumerate(row)]
            for image, row in zip(self.images, likeness)
        ]
        seen = [[watch.erases(image, k) for k in range(len(self.weights))] for image in self.images]
        shares = [[erasure.share for erasure in row] for row in erasures]
        self.gate = self.gate.masked_fill(torch.tensor(seen), 1.0)
        self._factor = (self._factor * torch.tensor(shares)).clamp_max(MOST)
        self._places = [[erasure.places for erasure in row] for row in erasures]

    def _settle(self) -> None:
        """Find the active rows and concepts."""
        coefficients = self.weights * self.gate * self._factor
        active = (coefficients != 0).tolist()
        self.active = tuple(row for row, concepts in enumerate(active) if any(concepts))
        self.concepts = tuple(k for k, concept in enumerate(zip(*active)) if any(concept))
        self.correction: Correction | None = None
        if self.active:
            self.correction = Correction(
                [self.erased[row] for row in self.active],
                self.concepts,
                coefficients[list(self.active)][:, list(self.concepts)],
                [[self._places[row][k] for k in self.concepts] for row in self.active],
                self.latent_size,
                self.device,
            )

    @property
    def active_images(self) -> list[int]:
        return [self.images[row] for row in self.active]


class UNetCall:
    """One U-Net call at sampling progress ``at``, for which ``plan`` decides; ``corrects`` says whether it is
    done. ``layers`` is how many the U-Net has, ``passed`` how many of them this call has come through."""

    def __init__(self, plan: Plan, at: float, layers: int, corrects: bool):
        self.plan, self.progress = plan, at
        self.correction = plan.correction if corrects else None
        self.erases = bool(plan.erased)
        self.measures = self.looks = self.maps = False
        self.passed = 0
        self.presence = plan.presence
        # ||c_k F_k|| and, last, ||O_p|| of each layer and active row: [L, K + 1, R].
        self.norms: Tensor | None = None
        self._output: Tensor | None = None
        if self.correction is not None:
            shape = layers, len(plan.concepts) + 1, len(plan.active)
            self.norms = torch.zeros(shape, device=plan.device)

    @property
    def needs_queries(self) -> bool:
        return self.erases and (self.correction is not None or self.measures and self.presence is None)

    def select(self, x: Tensor) -> Tensor:
        """The erased rows of ``x [B, ...]``."""
        return x[self.plan.index]

    def see_output(self, output: Tensor) -> None:
        """Measure what the U-Net predicts, ``[B, ...]``: where anything overflowed before, so has this."""
        if self.correction is not None:
            predicted = output[self.correction.index].detach().flatten(1)
            self._output = torch.linalg.vector_norm(predicted, dim=-1, dtype=torch.float32)

    def evidence(self) -> CallEvidence:
        plan = self.plan
        erased = tuple(plan.rows[number] for number in plan.erased)
        active = plan.active if self.correction is not None else ()
        return CallEvidence(
            erased, self.progress, active, plan.concepts, self.presence, plan.gate, self.norms, self._output
        )
