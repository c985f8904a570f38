"""The settings travel with the image: written into it, shown by PNG Info, and brought back."""

from __future__ import annotations

import json
import re

import pytest

from tests.e2e.support import changed, encoded, erasing, same, scene

REQUESTS = {
    "one concept": erasing("star"),
    "every field": erasing(
        "star",
        {"concept": "moon", "weight": 1.5},
        strength=1.25,
        start=0.1,
        end=0.85,
        mode="adaptive",
        preserve=True,
    ),
    "characters of the syntax": erasing(
        {"concept": 'star, "moon": (red) #1'}, {"concept": "back\\slash", "weight": 0.5}
    ),
    # Toyland does not know these words: the mode adaptive would change nothing.
    "another script": erasing("Stern für Jürgen", "星", mode="constant"),
}


def value_in(infotext: str):
    """EIUP's value as the webui itself reads infotext: a JSON string where it holds commas or colons."""
    found = re.search(r'\bEIUP: ("(?:\\.|[^\\"])*"|[^,]*)', infotext)
    text = found[1]
    return json.loads(json.loads(text) if text.startswith('"') else text)


def settings_in(infotext: str):
    """The same without what was suppressed in the image."""
    value = value_in(infotext)
    del value["result"]
    return value


def test_the_infotext_holds_one_json_value(webui):
    answer = webui.txt2img(**scene(**REQUESTS["every field"]))
    assert settings_in(answer.infotexts[0]) == {
        "v": 4,
        "concepts": ["star", {"concept": "moon", "weight": 1.5}],
        "strength": 1.25,
        "start": 0.1,
        "end": 0.85,
        "mode": "adaptive",
        "preserve": True,
    }


def test_the_infotext_says_how_strongly_and_how_and_leaves_other_defaults_out(webui):
    answer = webui.txt2img(**scene(**erasing("star", start=0, end=1)))
    assert settings_in(answer.infotexts[0]) == {
        "v": 4,
        "concepts": ["star"],
        "strength": 2.0,
        "mode": "adaptive",
    }


@pytest.mark.parametrize("payload", REQUESTS.values(), ids=REQUESTS)
def test_png_info_shows_what_was_written(webui, payload):
    answer = webui.txt2img(**scene(**payload))
    shown = webui.post("/sdapi/v1/png-info", {"image": encoded(answer.pngs[0])}).json()
    assert shown["info"] == answer.infotexts[0]
    assert json.loads(shown["parameters"]["EIUP"]) == value_in(answer.infotexts[0])


@pytest.mark.parametrize("payload", REQUESTS.values(), ids=REQUESTS)
def test_an_infotext_alone_makes_the_same_image_again(webui, plain, payload):
    first = webui.txt2img(**scene(**payload))
    again = webui.txt2img(infotext=first.infotexts[0])
    assert changed(first.images[0], plain)
    assert same(again.images[0], first.images[0])
    assert value_in(again.infotexts[0]) == value_in(first.infotexts[0])


EARLIER = {1: {}, 2: {}, 3: {"strength": 3.0, "mode": "constant"}}


@pytest.mark.parametrize(("version", "written"), EARLIER.items())
def test_an_image_of_an_earlier_version_is_made_again(webui, plain, version, written):
    """Before version 3 the default was a constant weight and a strength of 3, and was left out."""
    wanted = webui.txt2img(**scene(**erasing("star", strength=3.0, mode="constant")))
    value = {"v": version, "concepts": ["star"], **written}
    quoted = json.dumps(json.dumps(value))
    text = re.sub(r"EIUP: \"(?:\\.|[^\\\"])*\"", lambda _: f"EIUP: {quoted}", wanted.infotexts[0])
    assert value_in(text) == value
    assert same(webui.txt2img(infotext=text).images[0], wanted.images[0])


def test_the_infotext_of_a_plain_image_erases_nothing(webui, plain):
    again = webui.txt2img(infotext=webui.txt2img(**scene()).infotexts[0])
    assert same(again.images[0], plain)
    assert "EIUP" not in again.infotexts[0]


def test_what_the_payload_says_counts_more_than_the_infotext(webui):
    first = webui.txt2img(**scene(**erasing("star", strength=1.0)))
    wanted = webui.txt2img(**scene(**erasing("moon")))
    again = webui.txt2img(infotext=first.infotexts[0], **erasing("moon"))
    assert value_in(again.infotexts[0])["concepts"] == ["moon"]
    assert same(again.images[0], wanted.images[0])


def test_every_image_of_a_batch_carries_the_settings(webui):
    answer = webui.txt2img(**scene(batch_size=2, n_iter=2, **erasing("star")))
    assert [value_in(text)["concepts"] for text in answer.infotexts] == [["star"]] * 4


def test_an_infotext_that_cannot_be_read_makes_no_image(webui):
    text = webui.txt2img(**scene(**erasing("star"))).infotexts[0]
    newer = re.sub(r"EIUP: \"(?:\\.|[^\\\"])*\"", 'EIUP: "{\\\\"v\\\\":99}"', text)
    assert newer != text
    response = webui.post("/sdapi/v1/txt2img", {"infotext": newer})
    assert response.status_code == 422
    assert "versions up to 4" in response.json()["errors"]
    assert "images" not in response.json()
