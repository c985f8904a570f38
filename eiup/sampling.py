"""Sampling with erasure, as often as it takes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .eraser import ConceptEraser
from .preserve import Twin
from .watch import ConceptForming


def sample_erased(eraser: ConceptEraser, sample: Callable[[], Tensor], twin: Twin | None = None) -> Tensor:
    """What ``sample()`` gives under ``eraser``, begun anew where a concept was seen to form.

    ``sample()`` gives the latents ``[B, 4, H, W]``, each time from the same noise. With a ``twin``, the
    un-erased images are sampled first, while ``eraser.suspended``: these predictions are the twin's, to keep,
    and later ones are to blend. Where nothing would be erased, the twin's images are the result.
    """
    if twin is None:
        return _until_nothing_forms(eraser, sample)
    eraser.suspended = True
    unerased = sample()
    if not eraser.opened:
        return unerased
    eraser.suspended = False
    eraser.begin_anew()
    # Stopped by the user, this ends at once, with nothing of the twin in it.
    result = _until_nothing_forms(eraser, sample, twin).clone()
    for image in set(range(len(result))) - eraser.opened:
        result[image] = unerased[image]
    return result


def _until_nothing_forms(
    eraser: ConceptEraser, sample: Callable[[], Tensor], twin: Twin | None = None
) -> Tensor:
    while True:
        if twin is not None:
            twin.rewind()
        try:
            result = sample()
        except ConceptForming:
            pass
        else:
            if not eraser.must_begin_anew:
                return result
        eraser.begin_anew()
