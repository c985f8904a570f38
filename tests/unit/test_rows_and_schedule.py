import pytest

from eiup.errors import ErasureError
from eiup.rows import Row, part, plan
from eiup.schedule import Window, progress


def test_conditional_rows_come_grouped_by_image_then_the_unconditional_ones():
    assert plan([[1.0, 0.5], [1.0]]) == (
        Row(0, True, 1.0),
        Row(0, True, 0.5),
        Row(1, True, 1.0),
        Row(0, False),
        Row(1, False),
    )


def test_instruct_pix2pix_has_the_unconditional_rows_twice():
    assert [(r.image, r.conditional) for r in plan([[1.0], [1.0]], edit=True)] == [
        (0, True), (1, True), (0, False), (1, False), (0, False), (1, False),
    ]  # fmt: skip


def test_a_slice_keeps_each_rows_image_where_conditional_and_unconditional_meet():
    rows = plan([[1.0, 1.0], [1.0]])
    assert part(rows, 2, 2) == (Row(1, True), Row(0, False))


@pytest.mark.parametrize(("first", "count"), [(4, 1), (0, 5), (-1, 2)])
def test_rows_outside_of_the_plan_are_an_error(first, count):
    with pytest.raises(ErasureError, match="cannot be told"):
        part(plan([[1.0], [1.0]]), first, count)


def test_only_rows_that_add_to_the_prediction_are_erased():
    assert Row(0, True, 0.5).erased
    assert not Row(0, True, -1.0).erased
    assert not Row(0, False).erased


def test_progress_runs_from_noise_to_the_clean_image():
    assert progress(999) == 0.0
    assert progress(0) == 1.0
    assert progress(499.5) == pytest.approx(0.5)


def test_the_window_includes_its_ends():
    window = Window(0.2, 0.8)
    assert [window(at) for at in (0.1, 0.2, 0.5, 0.8, 0.9)] == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.4), (-0.1, 1), (0, 1.1)])
def test_an_impossible_window_is_an_error(start, end):
    with pytest.raises(ValueError, match="start <= end"):
        Window(start, end)
