"""One U-Net call under erasure: which rows and concepts are corrected, by how much and where."""

from __future__ import annotations

import torch
from torch import Tensor

from .evidence import CallEvidence
from .gate import Decision
from .places import map_size, resize
from .rows import Rows
from .watch import MOST, Watch


class UNetCall:
    """One U-Net call: its rows, the coefficients ``c_k = s(t) w_k g_k f_k`` of each, and what has been
    measured in it so far. *Erased* rows may be corrected; the *active* ones among them are."""

    def __init__(
        self, rows: Rows, at: float, weights: Tensor, latent_size: tuple[int, int], device: torch.device
    ):
        self.rows, self.progress, self.latent_size = rows, at, latent_size
        self.device = device
        self.erased = [index for index, row in enumerate(rows) if row.erased]
        self.weights = weights.to(device)
        self.gate = torch.ones(len(self.erased), len(weights), device=device)
        for index, row in enumerate(self.erased):
            if rows[row].concept is not None:
                self.gate[index] = 0.0
                self.gate[index, rows[row].concept] = 1.0
        self.factor = torch.ones_like(self.gate)
        self.measures = self.looks = self.maps = False
        self.layers = 0
        self._places: list[list[Tensor | None]] = []
        self._places_of_size: dict[int, Tensor | None] = {}
        self.presence: Tensor | None = None
        self.energy: Tensor | float = 0.0
        self.base: Tensor | float = 0.0
        self.index = _as_index(self.erased, device)

    def apply(self, decision: Decision) -> None:
        """Take a gate's decision."""
        self.presence = decision.presence
        # Copies: the decision may be that of later calls, too.
        self.gate, self.factor = (x.to(self.device, copy=True) for x in (decision.gate, decision.factor))

    def follow(self, watch: Watch) -> None:
        """Erase what was seen, whatever the prompt says, where it was seen; and nothing before the look."""
        images = [self.rows[index].image for index in self.erased]
        likeness = self.presence.tolist()
        watch.hear(images, likeness)
        erasures = [
            [watch.erasure(image, k, self.progress, z) for k, z in enumerate(row)]
            for image, row in zip(images, likeness)
        ]
        seen = [[watch.erases(image, k) for k in range(len(self.weights))] for image in images]
        shares = [[erasure.share for erasure in row] for row in erasures]
        self.gate = self.gate.masked_fill(torch.tensor(seen, device=self.device), 1.0)
        self.factor = (self.factor * torch.tensor(shares, device=self.device)).clamp_max(MOST)
        self._places = [[erasure.places for erasure in row] for row in erasures]

    def settle(self) -> None:
        """Find the active rows and concepts; where there are none, nothing is computed."""
        coefficients = self.weights * self.gate * self.factor
        active = (coefficients != 0).tolist()
        self.active = [row for row, concepts in enumerate(active) if any(concepts)]
        self.concepts = tuple(k for k, concept in enumerate(zip(*active)) if any(concept))
        self.corrects = bool(self.active)
        if self.corrects:
            rows = torch.tensor(self.active, device=self.device)
            concepts = torch.tensor(self.concepts, device=self.device)
            self.active_coefficients = coefficients[rows][:, concepts]
            self._active_index = _as_index([self.erased[row] for row in self.active], self.device)

    def places(self, positions: int) -> Tensor | None:
        """Where a layer of so many positions erases the active concepts in the active rows, ``[R, N, K]`` in
        0..1; None where all over."""
        if positions not in self._places_of_size:
            size = map_size(positions, *self.latent_size)
            places = (
                [[self._places[row][k] for k in self.concepts] for row in self.active] if self._places else []
            )
            known = any(place is not None for row in places for place in row)
            self._places_of_size[positions] = (
                _stack_places(places, size).to(self.device) if known and size else None
            )
        return self._places_of_size[positions]

    @property
    def needs_queries(self) -> bool:
        return bool(self.erased) and (self.corrects or self.measures and self.presence is None)

    def select(self, x: Tensor) -> Tensor:
        return x[self.index]

    def select_active(self, x: Tensor) -> Tensor:
        return x[self._active_index]

    def subtract(self, outputs: Tensor, change: Tensor) -> Tensor:
        corrected = outputs.clone()
        corrected[self._active_index] -= change
        return corrected

    @property
    def active_images(self) -> list[int]:
        return [self.rows[self.erased[row]].image for row in self.active]

    def evidence(self) -> CallEvidence:
        energy, base = torch.zeros_like(self.gate), torch.ones(len(self.erased), device=self.device)
        if self.corrects:
            rows = torch.tensor(self.active, device=self.device)
            energy[rows[:, None], torch.tensor(self.concepts, device=self.device)] = self.energy
            base[rows] = self.base
        erased = tuple(row for row in self.rows if row.erased)
        corrected = [row in self.active for row in range(len(self.erased))]
        return CallEvidence(erased, self.progress, corrected, self.presence, self.gate, energy, base)


def _stack_places(places: list[list[Tensor | None]], size: tuple[int, int]) -> Tensor:
    """``[R, N, K]`` of places ``[h, w]``, None where all over, at this size."""
    all_over = torch.ones(size[0] * size[1])
    return torch.stack(
        [
            torch.stack([all_over if p is None else resize(p, size).flatten() for p in row], dim=-1)
            for row in places
        ]
    )


def _as_index(rows: list[int], device: torch.device) -> slice | Tensor:
    """Rows as a slice where they are contiguous, which costs no copy."""
    if rows and rows == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return torch.tensor(rows, dtype=torch.long, device=device)
