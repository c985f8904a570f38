"""What is subtracted in U-Net calls: made once, and kept for those of which the same is decided."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .places import map_size, resize
from .precision import brought_to

Places = Sequence[Sequence[Tensor | None]]


class Correction:
    """The coefficients ``c_k`` of the ``concepts`` in these ``rows`` of a batch, and where they count.

    ``coefficients [R, K]`` are on the CPU; ``places[r][k]`` is ``[h, w]`` in 0..1, None for all over. What
    the layers need of it is made on the ``device`` at its first use, and kept as long as the correction.
    """

    def __init__(
        self,
        rows: Sequence[int],
        concepts: tuple[int, ...],
        coefficients: Tensor,
        places: Places,
        latent_size: tuple[int, int],
        device: torch.device,
    ):
        self.rows, self.concepts, self.coefficients = tuple(rows), concepts, coefficients
        self.index, self.concept_index = as_index(rows, device), as_index(concepts, device)
        self._places, self._latent_size, self._device = places, latent_size, device
        self._is_uniform = bool((coefficients == coefficients[0]).all())
        self._has_places = any(place is not None for row in places for place in row)
        self._weights: dict[tuple[int, torch.dtype], Tensor] = {}
        self._of_layer: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._on_device: Tensor | None = None
        self._with_empty: slice | Tensor | None = None

    @property
    def on_device(self) -> Tensor:
        """``coefficients [R, K]`` on the device, in float32."""
        if self._on_device is None:
            self._on_device = brought_to(self._device, self.coefficients)
        return self._on_device

    def keys_and_values(self, layer: nn.Module, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Of the ``keys, values [K, H, T, d]`` that a layer makes of all concepts, those of this correction;
        the values multiplied by the coefficients, where all rows have the same."""
        if layer not in self._of_layer:
            values = values[self.concept_index]
            if self._is_uniform:
                values = values * self.on_device[0].to(values.dtype)[:, None, None, None]
            self._of_layer[layer] = keys[self.concept_index], values
        return self._of_layer[layer]

    def forget_layers(self) -> None:
        """Free what was made for each layer; it is made again where it is needed again."""
        self._of_layer.clear()

    def subtract(self, outputs: Tensor, change: Tensor) -> Tensor:
        """``outputs [B, N, C]`` less ``change [R, N, C]`` in the rows of this correction; in place where
        their memory is their own."""
        whole = outputs.untyped_storage().nbytes() == outputs.numel() * outputs.element_size()
        if outputs.requires_grad or not (whole and outputs.is_contiguous()):
            outputs = outputs.clone()
        if isinstance(self.index, slice):
            outputs[self.index].sub_(change)
            return outputs
        return outputs.index_add_(0, self.index, change.to(outputs.dtype), alpha=-1)

    def with_empty(self, concepts: int) -> slice | Tensor:
        """Where this correction's concepts are among all, which are so many, and, behind them, the empty
        prompt."""
        if self._with_empty is None:
            self._with_empty = as_index([*self.concepts, concepts], self._device)
        return self._with_empty

    def weights(self, positions: int, dtype: torch.dtype) -> Tensor | None:
        """What the features of a layer with so many positions are still to be multiplied by; it broadcasts to
        ``[K, R, N, 1]``. None where the values have it already."""
        if self._is_uniform and not self._has_places:
            return None
        key = positions, dtype
        if key not in self._weights:
            self._weights[key] = brought_to(self._device, self._weights_at(positions), dtype)
        return self._weights[key]

    def _weights_at(self, positions: int) -> Tensor:
        size = map_size(positions, *self._latent_size) if self._has_places else None
        weights = torch.ones_like(self.coefficients) if self._is_uniform else self.coefficients
        weights = weights.T[:, :, None, None]
        if size is None:
            return weights
        all_over = torch.ones(size[0] * size[1])
        places = torch.stack(
            [
                torch.stack([all_over if p is None else resize(p, size).flatten() for p in of_concept])
                for of_concept in zip(*self._places)
            ]
        )
        return weights * places[..., None]


def as_index(rows: Sequence[int], device: torch.device) -> slice | Tensor:
    """Rows as a slice where they are contiguous, which costs no copy."""
    if rows and list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return torch.tensor(rows, dtype=torch.long, device=device)
