"""Proof that erasure was applied: rows of U-Net calls, counted from within the hooks themselves."""

from __future__ import annotations

from collections import Counter

from .errors import ErasureError
from .rows import Rows

_ADVICE = "Another extension may have removed hooks or changed the batch: disable it"


class Tally:
    """Counts the rows of one sampling pass, by their images.

    Those count that are conditional or add to the image: ``seen`` when they enter the U-Net, and
    ``decided`` when all text cross-attention layers were left with a decision on what is erased in
    them. What is decided may be that nothing is: in a row that is subtracted, or where no concept forms.
    """

    def __init__(self) -> None:
        self.seen: Counter[int] = Counter()
        self.decided: Counter[int] = Counter()
        self._decided_before: Counter[int] = Counter()

    def clear(self) -> None:
        """Forget the sampling pass so far, since it is begun anew."""
        self.seen.clear()
        self.decided.clear()

    def see(self, rows: Rows) -> None:
        """These rows enter the U-Net."""
        self.seen.update(_counted(rows))

    def decide(self, rows: Rows) -> None:
        """These rows have left the U-Net's last layer."""
        self.decided.update(_counted(rows))

    def begin_call(self) -> None:
        """A denoiser call begins."""
        self._decided_before = self.decided.copy()

    def end_call(self, plan: Rows | None) -> None:
        """A denoiser call ends that had these rows. Raises :class:`ErasureError` where some of them did not
        pass through the U-Net under erasure."""
        if plan is None:
            raise ErasureError(f"a denoiser call ended whose rows were never told. {_ADVICE}")
        for image, count in Counter(_counted(plan)).items():
            under = self.decided[image] - self._decided_before[image]
            if under < count:
                raise ErasureError(
                    f"{under} of {count} rows of image {image + 1} were under erasure in a denoiser call. "
                    f"{_ADVICE}"
                )

    def check(self) -> None:
        """Raise :class:`ErasureError` where a row was seen that was not decided on, or the reverse."""
        for image in self.seen | self.decided:
            seen, decided = self.seen[image], self.decided[image]
            if seen != decided:
                raise ErasureError(
                    f"{decided} of {seen} rows of image {image + 1} were under erasure. {_ADVICE}"
                )


def _counted(rows: Rows) -> list[int]:
    return [row.image for row in rows if row.conditional or row.erased]
