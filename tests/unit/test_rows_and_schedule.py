import pytest

from eiup.errors import ErasureError
from eiup.rows import part, plan
from eiup.schedule import Window, progress


def guided(rows, predictions):
    """What classifier-free guidance makes of the rows' predictions, image by image."""
    images = 1 + max(row.image for row in rows)
    return [sum(r.coefficient * p for r, p in zip(rows, predictions) if r.image == i) for i in range(images)]


def test_conditional_rows_come_grouped_by_image_then_the_unconditional_ones():
    rows = plan([[1.0, 0.5], [1.0]], 2.0)
    assert [(row.image, row.conditional) for row in rows] == [
        (0, True), (0, True), (1, True), (0, False), (1, False),
    ]  # fmt: skip
    d = [3.0, 5.0, 7.0, 11.0, 13.0]
    first = d[3] + 2 * (1.0 * (d[0] - d[3]) + 0.5 * (d[1] - d[3]))
    assert guided(rows, d) == pytest.approx([first, d[4] + 2 * (d[2] - d[4])])


def test_instruct_pix2pix_has_the_unconditional_rows_twice():
    rows = plan([[1.0], [1.0]], 7.0, image_cfg_scale=1.5)
    assert [(r.image, r.conditional) for r in rows] == [
        (0, True), (1, True), (0, False), (1, False), (0, False), (1, False),
    ]  # fmt: skip
    a, b, c, d, e, f = 2.0, 3.0, 5.0, 7.0, 11.0, 13.0
    expected = [e + 7 * (a - c) + 1.5 * (c - e), f + 7 * (b - d) + 1.5 * (d - f)]
    assert guided(rows, [a, b, c, d, e, f]) == pytest.approx(expected)


def test_where_the_unconditional_rows_are_skipped_the_first_conditional_one_stands_in():
    rows = plan([[1.0, -0.5]], -3.0, unconditional_skipped=True)
    assert guided(rows, [3.0, 5.0, 11.0]) == pytest.approx([3.0 - 0.5 * (5.0 - 3.0)])
    assert [row.erased for row in rows] == [True, False, False]


def test_a_slice_keeps_each_rows_image_where_conditional_and_unconditional_meet():
    rows = plan([[1.0, 1.0], [1.0]], 7.0)
    assert [(row.image, row.conditional) for row in part(rows, 2, 2)] == [(1, True), (0, False)]


@pytest.mark.parametrize(("first", "count"), [(4, 1), (0, 5), (-1, 2)])
def test_rows_outside_of_the_plan_are_an_error(first, count):
    with pytest.raises(ErasureError, match="cannot be told"):
        part(plan([[1.0], [1.0]], 7.0), first, count)


@pytest.mark.parametrize(
    ("weights", "cfg_scale", "erased"),
    [
        ([1.0], 7.0, [True, False]),
        ([1.0, -1.0], 7.0, [True, False, True]),
        ([1.0], 0.5, [True, True]),
        ([1.0], -7.0, [False, True]),
        ([-1.0], 7.0, [False, True]),
    ],
)
def test_only_rows_that_add_to_the_prediction_are_erased(weights, cfg_scale, erased):
    assert [row.erased for row in plan([weights], cfg_scale)] == erased


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
