import json

import pytest

from eiup.concepts import Concept
from eiup.errors import RequestError
from eiup.feedback import MAXIMUM, MINIMUM, Feedback


@pytest.fixture
def feedback(tmp_path):
    return Feedback(tmp_path / "folder" / "feedback.json")


def test_a_concept_that_survived_gets_more_weight_on_this_checkpoint_only(feedback):
    assert feedback.flag("abc", "star", "survived") == 1.25
    concepts = (Concept("star", 2.0), Concept("moon"))
    assert feedback.weighted(concepts, "abc") == (Concept("star", 2.5), Concept("moon"))
    assert feedback.weighted(concepts, "def") == concepts


def test_the_opposite_verdict_takes_it_back(feedback):
    feedback.flag("abc", "star", "survived")
    assert feedback.flag("abc", "star", "spoilt") == 1.0
    assert feedback.factors("abc") == {}


@pytest.mark.parametrize(("verdict", "bound"), [("survived", MAXIMUM), ("spoilt", MINIMUM)])
def test_factors_stay_within_bounds(feedback, verdict, bound):
    for _ in range(20):
        feedback.flag("abc", "star", verdict)
    assert feedback.factors("abc") == {"star": bound}


def test_a_weight_stays_within_what_is_allowed(feedback):
    for _ in range(9):
        feedback.flag("abc", "star", "survived")
    assert feedback.weighted((Concept("star", 9.0),), "abc") == (Concept("star", 10.0),)


def test_factors_are_kept_and_reset(feedback):
    for concept in ("star", "moon"):
        feedback.flag("abc", concept, "survived")
    again = Feedback(feedback.file)
    again.reset("abc", "star")
    assert feedback.factors("abc") == {"moon": 1.25}
    again.reset("abc")
    assert feedback.factors("abc") == {}


@pytest.mark.parametrize(
    ("concept", "verdict", "named"),
    [("star", "good", "survived, spoilt"), ("", "spoilt", "concept"), (7, "spoilt", "concept")],
)
def test_wrong_input_is_an_error_and_changes_nothing(feedback, concept, verdict, named):
    with pytest.raises(RequestError, match=named):
        feedback.flag("abc", concept, verdict)
    assert not feedback.file.exists()


@pytest.mark.parametrize("content", ["", "[]", json.dumps({"v": 2, "factors": {}}), json.dumps({"v": 1})])
def test_a_file_that_cannot_be_read_is_an_error_and_is_not_overwritten(feedback, content):
    feedback.file.parent.mkdir()
    feedback.file.write_text(content)
    for use in (lambda: feedback.factors("abc"), lambda: feedback.flag("abc", "star", "spoilt")):
        with pytest.raises(RequestError, match="feedback.json"):
            use()
    assert feedback.file.read_text() == content
