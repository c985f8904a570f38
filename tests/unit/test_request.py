import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eiup.concepts import Concept
from eiup.errors import RequestError
from eiup.request import FIELD, FIELDS, ErasureRequest


def test_the_table_and_the_request_have_the_same_fields_in_the_same_order():
    assert [f.name for f in FIELDS] == [f.name for f in fields(ErasureRequest)]
    assert [f.default for f in FIELDS] == [f.default for f in fields(ErasureRequest)]


def test_a_dict_of_named_fields():
    request = ErasureRequest.from_args(
        [{"concepts": ["nudity", "blood:2", {"concept": "a, b", "weight": 1.5}], "strength": 1}]
    )
    assert request.enabled
    assert request.concepts == (Concept("nudity"), Concept("blood", 2.0), Concept("a, b", 1.5))
    assert request.strength == 1.0


def test_a_dict_counts_whatever_defaults_the_webui_appends():
    assert ErasureRequest.from_args([{"concepts": "star"}, "", 3.0, 0.0, 1.0]) == ErasureRequest(True, "star")


def test_a_flat_list_in_the_order_of_the_ui():
    request = ErasureRequest.from_args([True, "star\nmoon:0.5", 1.5, 0.1, 0.8])
    assert request == ErasureRequest(True, (Concept("star"), Concept("moon", 0.5)), 1.5, 0.1, 0.8)


def test_nothing_to_do_without_concepts_or_when_disabled():
    assert not ErasureRequest(True, "").active
    assert not ErasureRequest(False, "star").active
    assert ErasureRequest(True, "star").active


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ([{"strenght": 2}], ["strenght", "2", "strength"]),
        ([{"strength": "2"}], ["strength", "'2'", "0 to 10"]),
        ([{"strength": True}], ["strength", "True", "number"]),
        ([{"strength": -0.1}], ["strength", "-0.1", "0 to 10"]),
        ([{"strength": float("nan")}], ["strength", "nan", "0 to 10"]),
        ([{"start": 2}], ["start", "2", "0 to 1"]),
        ([{"start": 0.9, "end": 0.1}], ["start", "0.9", "0.1"]),
        ([{"enabled": "yes"}], ["enabled", "'yes'", "true or false"]),
        ([{"enabled": 1}], ["enabled", "1", "true or false"]),
        ([{"concepts": 7}], ["concepts", "7", "list"]),
        ([{"concepts": [""]}], ["concepts[0]", "''", "not empty"]),
        ([{"concepts": ["a", 7]}], ["concepts[1]", "7", "text"]),
        ([{"concepts": [{"name": "a"}]}], ["concepts[0].name", "'a'", "concept and weight"]),
        ([{"concepts": [{"weight": 1}]}], ["concepts[0]", "weight", "concept"]),
        ([{"concepts": [{"concept": "a", "weight": "x"}]}], ["weight of 'a'", "'x'", "0 to 10"]),
        ([{"concepts": [{"concept": "a", "weight": float("inf")}]}], ["weight of 'a'", "inf", "0 to 10"]),
        ([["star"]], ["enabled", "star", "true or false"]),
        ([{"mode": "gentle"}], ["mode", "'gentle'", "constant, adaptive, strict, projection"]),
        ([True, "star", 1, 0, 1, 5], ["mode", "5", "adaptive"]),
        ([True, "star", 1, 0, 1, "strict", True, True, True, True, 5], ["args", "10 values"]),
    ],
)
def test_bad_input_names_field_value_and_what_is_allowed(args, named):
    with pytest.raises(RequestError) as caught:
        ErasureRequest.from_args(args)
    assert caught.value.status_code == 422
    for part in named:
        assert part in str(caught.value)


requests = st.builds(
    ErasureRequest,
    enabled=st.just(True),
    concepts=st.lists(
        st.builds(
            Concept,
            st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=30).filter(
                lambda t: t.split()
            ),
            st.floats(0, 10),
        ),
        max_size=5,
        unique_by=lambda c: " ".join(c.text.split()),
    ),
    strength=st.floats(0, 10),
    start=st.floats(0, 0.5),
    end=st.floats(0.5, 1),
)


@given(requests)
def test_infotext_brings_everything_back(request):
    assert ErasureRequest.from_infotext(request.to_infotext()) == request


def test_infotext_says_how_strongly_and_how_and_leaves_other_defaults_out():
    assert json.loads(ErasureRequest(True, "star").to_infotext()) == {
        "v": 4,
        "concepts": ["star"],
        "strength": 2.0,
        "mode": "adaptive",
    }


def test_an_image_made_by_the_first_version_is_read():
    old = '{"v":1,"concepts":["star",{"concept":"moon","weight":0.5}],"strength":1.5,"end":0.8}'
    assert ErasureRequest.from_infotext(old) == ErasureRequest(
        True, "star,moon:0.5", 1.5, 0.0, 0.8, "constant", False, False
    )


def test_an_image_made_by_the_second_version_is_read():
    assert ErasureRequest.from_infotext('{"v":2,"concepts":["star"]}') == ErasureRequest(
        True, "star", 3.0, mode="constant"
    )


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"v":99,"concepts":[]}', '{"v":1,"concept":[]}'])
def test_infotext_that_is_not_ours_is_an_error(text):
    with pytest.raises(RequestError):
        ErasureRequest.from_infotext(text)


def test_help_and_bounds_exist_for_every_field():
    for name, field in FIELD.items():
        assert field.label
        assert field.help
        if field.kind is float:
            assert field.minimum <= field.default <= field.maximum, name
