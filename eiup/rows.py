"""Which rows of a U-Net batch are conditional, and whose.

A denoiser call is planned once (:func:`plan`: all conditional rows grouped by image, then the
unconditional ones) and may reach the U-Net whole, in slices, or without its unconditional rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ErasureError


@dataclass(frozen=True)
class Row:
    """One row of a U-Net batch.

    ``image`` is its image's index in the batch; ``weight`` is the weight with which a conditional row
    enters the guided prediction (``AND`` weights; 1 without).
    """

    image: int
    conditional: bool
    weight: float = 1.0

    @property
    def erased(self) -> bool:
        """A row that is subtracted from the prediction would bring back what is erased in it."""
        return self.conditional and self.weight > 0


Rows = tuple[Row, ...]


def plan(weights: Sequence[Sequence[float]], unconditional: int | None = None, *, edit: bool = False) -> Rows:
    """The rows of a whole denoiser call.

    ``weights[i]`` are the weights of image ``i``'s sub-prompts. ``unconditional`` is the number of
    unconditional rows, by default one an image. ``edit`` is InstructPix2Pix's layout, with the
    unconditional rows twice (with the image condition and without).
    """
    conditional = [Row(i, True, weight) for i, image in enumerate(weights) for weight in image]
    count = len(weights) if unconditional is None else unconditional
    return tuple(conditional + [Row(i, False) for i in range(count)] * (2 if edit else 1))


def part(rows: Rows, first: int, count: int) -> Rows:
    """``count`` rows from ``first`` on. Raises :class:`ErasureError` where the plan has no such rows."""
    if first < 0 or first + count > len(rows):
        raise ErasureError(
            f"the sampler ran the U-Net on rows {first} to {first + count - 1} of a batch of {len(rows)}; "
            "which of them are conditional cannot be told. Another extension may have changed the batch: "
            "disable it, or EIUP"
        )
    return rows[first : first + count]
