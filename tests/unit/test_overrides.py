import pytest

from eiup.concepts import Concept
from eiup.errors import RequestError
from eiup.overrides import CONCEPT_WEIGHT, apply_overrides
from eiup.request import ErasureRequest

REQUEST = ErasureRequest(True, "star, moon:0.5", 1.5, 0.1, 0.8)


def test_without_overrides_the_request_stays_as_it_is():
    assert apply_overrides(REQUEST, ()) == REQUEST


def test_what_is_overridden_changes_and_the_rest_stays():
    changed = apply_overrides(REQUEST, [("strength", 3.0), ("mode", "strict")])
    assert changed == ErasureRequest(True, "star, moon:0.5", 3.0, 0.1, 0.8, "strict")
    assert REQUEST.strength == 1.5


def test_of_two_values_for_one_field_the_later_counts():
    assert apply_overrides(REQUEST, [("strength", 3.0), ("strength", 0.5)]).strength == 0.5


def test_concepts_are_written_as_in_the_page():
    assert apply_overrides(REQUEST, [("concepts", "stamp:2, mosaic")]).concepts == (
        Concept("stamp", 2.0),
        Concept("mosaic"),
    )
    assert not apply_overrides(REQUEST, [("concepts", "")]).active


def test_a_weight_changes_its_concept_only():
    changed = apply_overrides(REQUEST, [(CONCEPT_WEIGHT, "star:3")])
    assert changed.concepts == (Concept("star", 3.0), Concept("moon", 0.5))


def test_two_axes_may_weigh_two_concepts():
    changed = apply_overrides(REQUEST, [(CONCEPT_WEIGHT, "star:3"), (CONCEPT_WEIGHT, "moon:0")])
    assert changed.concepts == (Concept("star", 3.0), Concept("moon", 0.0))


def test_weights_apply_to_the_concepts_of_another_axis_whatever_their_order():
    changed = apply_overrides(REQUEST, [(CONCEPT_WEIGHT, "stamp:2"), ("concepts", "stamp, mosaic")])
    assert changed.concepts == (Concept("stamp", 2.0), Concept("mosaic"))


def test_bounds_that_belong_together_are_checked_together():
    assert apply_overrides(REQUEST, [("start", 0.85), ("end", 0.9)]).start == 0.85


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ([("strength", 11.0)], ["strength", "11", "0 to 10"]),
        ([("mode", "gentle")], ["mode", "'gentle'", "constant, adaptive, strict, projection"]),
        ([("start", 0.9)], ["start", "0.9", "end, which is 0.8"]),
        ([("concepts", "star:much")], ["concepts", "star:much", "watermark:1.5"]),
        ([(CONCEPT_WEIGHT, "stamp:2")], ["weight of a concept", "'stamp:2'", "a concept that is erased"]),
        ([(CONCEPT_WEIGHT, "star:2, moon:1")], ["weight of a concept", "'star:2, moon:1'", "star:1.5"]),
        ([(CONCEPT_WEIGHT, "")], ["weight of a concept", "''", "star:1.5"]),
        ([(CONCEPT_WEIGHT, "star:11")], ["weight of a concept", "11", "0 to 10"]),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_axis_and_the_value(overrides, named):
    with pytest.raises(RequestError) as caught:
        apply_overrides(REQUEST, overrides)
    assert caught.value.status_code == 422
    for part in named:
        assert part in str(caught.value)
