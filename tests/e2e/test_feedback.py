"""What users say of images adjusts a concept's weight on the loaded checkpoint."""

from __future__ import annotations

import pytest

from tests.e2e.support import changed, erasing, same, scene

PATH = "/eiup/v1/feedback"


@pytest.fixture(autouse=True)
def forget(webui):
    webui.http.delete(PATH)
    yield
    webui.http.delete(PATH)


def flag(webui, concept, verdict):
    return webui.post(PATH, {"concept": concept, "verdict": verdict})


def test_flags_change_the_weight_and_are_forgotten(webui):
    payload = scene(**erasing("star", strength=1.0))
    before = webui.txt2img(**payload)
    assert flag(webui, "star", "survived").json()["factors"] == {"star": 1.25}
    assert webui.get(PATH).json()["factors"] == {"star": 1.25}
    after = webui.txt2img(**payload)
    assert changed(after.images[0], before.images[0])
    assert "1.25" in after.infotexts[0]
    assert webui.http.delete(PATH, params={"concept": "star"}).json()["factors"] == {}
    assert same(webui.txt2img(**payload).images[0], before.images[0])
    assert same(webui.txt2img(infotext=after.infotexts[0]).images[0], after.images[0])


def test_feedback_can_be_left_out_of_account(webui):
    payload = scene(**erasing("star", strength=1.0, feedback=False))
    before = webui.txt2img(**payload)
    flag(webui, "star", "survived")
    assert same(webui.txt2img(**payload).images[0], before.images[0])


def test_wrong_feedback_is_refused(webui):
    answer = flag(webui, "star", "nice")
    assert answer.status_code == 422
    assert "survived, spoilt" in answer.text
    assert webui.get(PATH).json()["factors"] == {}


def test_feedback_on_a_preset_is_feedback_on_its_concepts(webui):
    concepts = webui.get("/eiup/v1/presets/watermarks").json()["concepts"]
    factors = flag(webui, "@watermarks", "survived").json()["factors"]
    assert factors == dict.fromkeys(concepts, 1.25)


@pytest.mark.parametrize("method", ["get", "delete"])
def test_a_misspelt_parameter_forgets_nothing(webui, method):
    flag(webui, "star", "survived")
    answer = getattr(webui.http, method)(PATH, params={"concpet": "star"})
    assert answer.status_code == 422
    assert "concpet is 'star'" in answer.text
    assert webui.get(PATH).json()["factors"] == {"star": 1.25}


def test_an_unknown_field_is_refused(webui):
    answer = webui.post(PATH, {"concept": "star", "verdict": "survived", "weight": 2})
    assert answer.status_code == 422
    assert "weight" in answer.text
    assert webui.get(PATH).json()["factors"] == {}
