"""Sampling with erasure, as often as it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from torch import Tensor

from .eraser import ConceptEraser
from .preserve import Twin
from .watch import BeginAnew


def sample_erased(eraser: ConceptEraser, sample: Callable[[], Tensor], twin: Twin | None = None) -> Tensor:
    """What ``sample()`` gives under ``eraser``, begun anew where a concept was seen to form.

    Raises :class:`eiup.errors.NotFiniteError` where half precision has overflowed in what was erased.

    ``sample()`` gives the latents ``[B, 4, H, W]``, each time from the same noise. With a ``twin``, the
    un-erased images are sampled first, while ``eraser.suspended``: these predictions are the twin's, to keep,
    and later ones are to blend. Where nothing would be erased, the twin's images are the result.
    """
    if twin is None:
        _survey(eraser, sample)
        return _until_nothing_forms(eraser, sample)
    eraser.suspended = True
    unerased = twin.latents = sample()
    if not eraser.opened:
        return unerased
    eraser.suspended = False
    eraser.begin_anew()
    # Stopped by the user, this ends at once, with nothing of the twin in it.
    result = _until_nothing_forms(eraser, sample, twin).clone()
    for image in set(range(len(result))) - eraser.opened:
        result[image] = unerased[image]
    return result


def _survey(eraser: ConceptEraser, sample: Callable[[], Tensor]) -> None:
    """Sample the beginning without erasure where maps are made and erasing begins with the first call."""
    if eraser.maps is None or eraser.watch is not None:
        return
    eraser.suspended = eraser.surveying = True
    with contextlib.suppress(BeginAnew):
        sample()
    eraser.suspended = eraser.surveying = False
    eraser.begin_anew()


def _until_nothing_forms(
    eraser: ConceptEraser, sample: Callable[[], Tensor], twin: Twin | None = None
) -> Tensor:
    while True:
        if twin is not None:
            twin.rewind(eraser.erased_everywhere)
        try:
            result = sample()
        except BeginAnew:
            pass
        else:
            if not eraser.must_begin_anew:
                eraser.check()
                return result
        eraser.begin_anew()
