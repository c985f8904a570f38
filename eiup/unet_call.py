"""One U-Net call under erasure: which rows and concepts are corrected, by how much and where."""

from __future__ import annotations

import torch
from torch import Tensor

from .correction import Correction, Corrections
from .evidence import CallEvidence
from .gate import Decision
from .rows import Rows
from .watch import MOST, Watch


class UNetCall:
    """One U-Net call: its rows, the coefficients ``c_k = s(t) w_k g_k f_k`` of each, and what is measured in
    it. *Erased* rows may be corrected; the *active* ones among them are.

    What is decided is decided on the CPU; ``index`` is where the erased rows are on the device.
    """

    def __init__(
        self,
        rows: Rows,
        index: slice | Tensor,
        at: float,
        weights: Tensor,
        latent_size: tuple[int, int],
        device: torch.device,
    ):
        self.rows, self.index, self.progress = rows, index, at
        self.latent_size, self.device = latent_size, device
        self.erased = [index for index, row in enumerate(rows) if row.erased]
        self.images = [rows[row].image for row in self.erased]
        self.weights = weights
        self.gate = torch.ones(len(self.erased), len(weights))
        for index, row in enumerate(self.erased):
            if rows[row].concept is not None:
                self.gate[index] = 0.0
                self.gate[index, rows[row].concept] = 1.0
        self.factor = torch.ones_like(self.gate)
        self.measures = self.looks = self.maps = False
        self.layers = 0
        self._places: list[list[Tensor | None]] = [[None] * len(weights)] * len(self.erased)
        self.presence: Tensor | None = None
        self.correction: Correction | None = None
        # ||c_k F_k|| and, last, ||O_p|| of each layer and active row: [L, K + 1, R].
        self.norms: Tensor | None = None
        self._output: Tensor | None = None

    def apply(self, decision: Decision) -> None:
        """Take a gate's decision, which is on the CPU."""
        self.presence = decision.presence
        self.gate, self.factor = decision.gate, decision.factor

    def follow(self, watch: Watch) -> None:
        """Erase what was seen, whatever the prompt says, where it was seen; and nothing before the look."""
        likeness = self.presence.tolist()
        watch.hear(self.images, likeness)
        erasures = [
            [watch.erasure(image, k, self.progress, z) for k, z in enumerate(row)]
            for image, row in zip(self.images, likeness)
        ]
        seen = [[watch.erases(image, k) for k in range(len(self.weights))] for image in self.images]
        shares = [[erasure.share for erasure in row] for row in erasures]
        self.gate = self.gate.masked_fill(torch.tensor(seen), 1.0)
        self.factor = (self.factor * torch.tensor(shares)).clamp_max(MOST)
        self._places = [[erasure.places for erasure in row] for row in erasures]

    def settle(self, corrections: Corrections, layers: int) -> None:
        """Find the active rows and concepts; where there are none, nothing is computed in the ``layers``."""
        coefficients = self.weights * self.gate * self.factor
        active = (coefficients != 0).tolist()
        self.active = [row for row, concepts in enumerate(active) if any(concepts)]
        self.concepts = tuple(k for k, concept in enumerate(zip(*active)) if any(concept))
        if not self.active:
            return
        self.correction = corrections.of(
            [self.erased[row] for row in self.active],
            self.concepts,
            coefficients[self.active][:, self.concepts],
            [[self._places[row][k] for k in self.concepts] for row in self.active],
            self.latent_size,
            self.device,
        )
        self.norms = torch.zeros(layers, len(self.concepts) + 1, len(self.active), device=self.device)

    def suspend(self) -> None:
        """Correct nothing."""
        self.correction = self.norms = None

    @property
    def needs_queries(self) -> bool:
        return bool(self.erased) and (self.correction is not None or self.measures and self.presence is None)

    def select(self, x: Tensor) -> Tensor:
        """The erased rows of ``x [B, ...]``."""
        return x[self.index]

    @property
    def active_images(self) -> list[int]:
        return [self.images[row] for row in self.active]

    def see_output(self, output: Tensor) -> None:
        """Measure what the U-Net predicts, ``[B, ...]``: where anything overflowed before, so has this."""
        if self.correction is not None:
            predicted = output[self.correction.index].detach().flatten(1)
            self._output = torch.linalg.vector_norm(predicted, dim=-1, dtype=torch.float32)

    def evidence(self) -> CallEvidence:
        erased = tuple(row for row in self.rows if row.erased)
        active = tuple(self.active) if self.correction is not None else ()
        return CallEvidence(
            erased, self.progress, active, self.concepts, self.presence, self.gate, self.norms, self._output
        )
