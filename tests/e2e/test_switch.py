"""What is switched off, or weighs nothing, changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from tests.e2e.support import changed, erasing, pixels, same, scene, with_args

NOTHING_TO_ERASE = {
    "disabled": with_args([{"enabled": False, "concepts": ["star"]}]),
    "disabled, as the page sends it": with_args([False, "star", 2.0, 0.0, 1.0]),
    "no arguments": with_args([]),
    "no concepts": with_args([{"enabled": True}]),
    "empty list": with_args([{"enabled": True, "concepts": []}]),
    "empty text": with_args([{"enabled": True, "concepts": " \n# nothing\n,"}]),
}
WEIGHS_NOTHING = {
    "strength 0": erasing("star", strength=0),
    "weight 0": erasing({"concept": "star", "weight": 0}),
    "weights 0": erasing("star:0", "moon:0"),
}


@pytest.mark.parametrize("payload", NOTHING_TO_ERASE.values(), ids=NOTHING_TO_ERASE)
def test_nothing_to_erase_leaves_image_and_infotext_as_they_are(webui, plain, payload):
    answer = webui.txt2img(**scene(**payload))
    assert same(answer.images[0], plain)
    assert "EIUP" not in answer.infotexts[0]


@pytest.mark.parametrize("payload", WEIGHS_NOTHING.values(), ids=WEIGHS_NOTHING)
def test_a_weight_of_nothing_changes_no_pixel(webui, plain, payload):
    assert same(webui.txt2img(**scene(**payload)).images[0], plain)


def test_erasure_changes_the_image_and_is_noted_in_the_infotext(webui, plain):
    answer = webui.txt2img(**scene(**erasing("star")))
    assert changed(answer.images[0], plain)
    assert "EIUP" in answer.infotexts[0]


def test_more_strength_changes_more(webui, plain):
    def change(strength):
        answer = webui.txt2img(**scene(**erasing("star", strength=strength, mode="constant")))
        return np.abs(pixels(answer.images[0]) - pixels(plain)).mean()

    assert 0 < change(0.5) < change(2.0)


def test_a_window_that_no_step_lies_in_changes_no_pixel(webui, plain):
    payload = erasing("star", start=0.45, end=0.55)  # the four steps are at 0, 1/3, 2/3 and 1
    assert same(webui.txt2img(**scene(**payload)).images[0], plain)


def test_erasure_is_over_with_its_generation(webui, plain):
    webui.txt2img(**scene(**erasing("star")))
    assert same(webui.txt2img(**scene()).images[0], plain)


def test_the_same_request_gives_the_same_image(webui):
    one, two = (webui.txt2img(**scene(**erasing("star", "moon:0.5"))) for _ in range(2))
    assert same(one.images[0], two.images[0])
    assert one.infotexts == two.infotexts
