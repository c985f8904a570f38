"""Which rows of a U-Net batch are conditional, whose, and what they add to the guided prediction.

A denoiser call is planned once (:func:`plan`: all conditional rows grouped by image, then the
unconditional ones) and may reach the U-Net whole, in slices, or without its unconditional rows.

Classifier-free guidance with scale ``c`` and sub-prompts of weights ``w_i`` predicts ::

    D = D_0 + sum over i of c w_i (D_i - D_0)

so a conditional row enters with the coefficient ``c w_i`` and the unconditional one with
``1 - sum of c w_i``. A concept is erased in every row whose coefficient is positive, whatever brings
it there; erased in a row that is subtracted, it would come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ErasureError


@dataclass(frozen=True)
class Row:
    """One row of a U-Net batch.

    ``image`` is its image's index in the batch; ``coefficient`` is what the row is multiplied with in
    the guided prediction. ``concept`` is the index of the one concept that is erased in it; by default all
    are.
    """

    image: int
    conditional: bool
    coefficient: float
    concept: int | None = None

    @property
    def erased(self) -> bool:
        return self.coefficient > 0


Rows = tuple[Row, ...]


def plan(
    weights: Sequence[Sequence[float]],
    cfg_scale: float,
    *,
    unconditional_skipped: bool = False,
    image_cfg_scale: float | None = None,
) -> Rows:
    """The rows of a whole denoiser call.

    ``weights[i]`` are the weights of image ``i``'s sub-prompts. Where the unconditional rows are skipped,
    each image's first conditional row stands in for its unconditional one, with a scale of 1.
    ``image_cfg_scale`` is for InstructPix2Pix, which has the unconditional rows twice, with the image
    condition and without: ``D = D_0 + c (D_1 - D_I) + c_I (D_I - D_0)``.
    """
    if image_cfg_scale is not None:
        images = range(len(weights))
        return (
            *(Row(i, True, cfg_scale) for i in images),
            *(Row(i, False, image_cfg_scale - cfg_scale) for i in images),
            *(Row(i, False, 1 - image_cfg_scale) for i in images),
        )
    scale = 1.0 if unconditional_skipped else cfg_scale
    conditional, unconditional = [], []
    for i, image in enumerate(weights):
        coefficients = [scale * weight for weight in image]
        rest = 1 - sum(coefficients)
        if unconditional_skipped:
            coefficients[0] += rest
        conditional += [Row(i, True, coefficient) for coefficient in coefficients]
        # Skipped or not, they stay in the plan: it is the callback's batch.
        unconditional.append(Row(i, False, 0.0 if unconditional_skipped else rest))
    return (*conditional, *unconditional)


def conditional_then_unconditional(images: int, cfg_scale: float = 7.0) -> Rows:
    """The rows of plain classifier-free guidance."""
    return plan([[1.0]] * images, cfg_scale)


def part(rows: Rows, first: int, count: int) -> Rows:
    """``count`` rows from ``first`` on. Raises :class:`ErasureError` where the plan has no such rows."""
    if first < 0 or first + count > len(rows):
        raise ErasureError(
            f"the sampler ran the U-Net on rows {first} to {first + count - 1} of a batch of {len(rows)}; "
            "which of them are conditional cannot be told. Another extension may have changed the batch: "
            "disable it, or EIUP"
        )
    return rows[first : first + count]
