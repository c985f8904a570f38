"""The tally of rows: what was seen, and what was under erasure."""

import pytest

from eiup.errors import ErasureError
from eiup.proof import Tally
from eiup.rows import conditional_then_unconditional, part, plan

TWO_IMAGES = conditional_then_unconditional(2)


def call(tally, rows, decided=None):
    tally.begin_call()
    tally.see(rows)
    tally.decide(rows if decided is None else decided)
    tally.end_call(rows)


def test_rows_that_are_conditional_or_add_to_the_image_count():
    tally = Tally()
    for _ in range(3):
        call(tally, TWO_IMAGES)
    tally.check()
    # The unconditional rows are subtracted.
    assert dict(tally.seen) == dict(tally.decided) == {0: 3, 1: 3}


def test_a_row_that_is_subtracted_counts_where_it_is_conditional():
    tally = Tally()
    call(tally, plan([[1.0, -1.0]], 7))
    # Both sub-prompts, and the unconditional row, which adds.
    assert tally.seen[0] == 3


def test_rows_may_come_in_several_calls_of_the_unet():
    tally = Tally()
    tally.begin_call()
    for first in range(len(TWO_IMAGES)):
        tally.see(part(TWO_IMAGES, first, 1))
        tally.decide(part(TWO_IMAGES, first, 1))
    tally.end_call(TWO_IMAGES)
    tally.check()


def test_a_row_that_was_seen_and_not_decided_on():
    tally = Tally()
    tally.see(TWO_IMAGES)
    tally.decide(TWO_IMAGES[:1])
    with pytest.raises(ErasureError, match="0 of 1 rows of image 2 were under erasure"):
        tally.check()


def test_a_denoiser_call_that_lacks_a_row():
    tally = Tally()
    call(tally, TWO_IMAGES)
    tally.begin_call()
    tally.see(TWO_IMAGES[:1])
    tally.decide(TWO_IMAGES[:1])
    # What was decided in the first call does not count in the second.
    with pytest.raises(ErasureError, match="0 of 1 rows of image 2 .* in a denoiser call"):
        tally.end_call(TWO_IMAGES)


def test_a_denoiser_call_whose_rows_were_never_told():
    tally = Tally()
    tally.begin_call()
    with pytest.raises(ErasureError, match="never told"):
        tally.end_call(None)


def test_a_pass_that_is_begun_anew_is_forgotten():
    tally = Tally()
    tally.see(TWO_IMAGES)
    tally.clear()
    call(tally, TWO_IMAGES)
    tally.check()
    assert tally.seen[0] == 1
