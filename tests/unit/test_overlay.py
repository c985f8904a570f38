"""Heat maps drawn over images."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from eiup import overlay
from eiup.maps import encode_map

GREY = Image.new("RGB", (96, 64), (128, 128, 128))


def spot(height=16, width=16, at=(4, 12)):
    values = torch.zeros(height, width)
    values[at] = 1.0
    return values


def value(concepts, results):
    return json.dumps({"v": 4, "concepts": concepts, "result": {"progress": [0, 1], "concepts": results}})


def result(share, of=None):
    return {"presence": 1, "gate": 1, "share": share, "share_by_step": [], "map": encode_map(of or spot())}


def test_colour_is_where_the_map_is_and_nowhere_else():
    drawn = np.asarray(overlay.overlaid(GREY, np.asarray(spot()))).astype(int)
    assert drawn.shape == (64, 96, 3)
    changed = np.abs(drawn - 128).max(axis=2)
    y, x = np.unravel_index(changed.argmax(), changed.shape)
    assert abs(y - 4.5 * 4) < 4
    assert abs(x - 12.5 * 6) < 6
    assert not changed[:, :48].any()
    assert not changed[40:].any()


def test_colours_go_from_dark_to_bright():
    brightness = overlay.colours(np.linspace(0, 1, 50)[None]).astype(int).sum(axis=2)[0]
    assert (np.diff(brightness) > 0).all()


def test_maps_are_read_with_their_concepts():
    found = overlay.maps_in(
        value(["star", {"concept": "moon", "weight": 1.5}, "stamp"], [result(0.5), result(0), {"share": 0.5}])
    )
    assert [(m.concept, m.share) for m in found] == [("star", 0.5), ("moon", 0)]
    assert found[0].values[4, 12] == 1
    assert overlay.maps_in('{"v":3,"concepts":["star"],"strength":3.0}') == []


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "7", '{"v":4}', value([7, {}], [result(1)]), value(["a"], 7), value(["a"], ["map"]),
        value(["a"], [{"share": 1, "map": "2x2:!"}]), value(["a"], [{"share": "much", "map": "1x1:AA=="}]),
        value(["a"], [{"map": 5, "share": 1}]),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match=".*"):
        overlay.maps_in(text)


def strip(picture, below):
    return np.asarray(picture.convert("RGB")).astype(int)[below:]


def test_the_concepts_are_named_below_the_image():
    maps = overlay.maps_in(value(["star", "moon"], [result(0.5), result(0)]))
    picture = overlay.picture(GREY, maps)
    assert picture.width == GREY.width
    assert picture.height > GREY.height
    both = overlay.picture(GREY, overlay.maps_in(value(["star", "moon"], [result(0.5), result(0.5)])))
    assert strip(picture, GREY.height).max() > 200
    # What was not suppressed is not named.
    assert not np.array_equal(strip(picture, GREY.height), strip(both, GREY.height))


def test_where_nothing_was_suppressed_the_image_is_as_it_was():
    picture = overlay.picture(GREY, overlay.maps_in(value(["star"], [result(0)])))
    assert np.array_equal(np.asarray(picture)[:64], np.asarray(GREY))


def test_a_long_caption_takes_more_lines_and_is_all_inside():
    short = overlay.captioned(GREY, "star")
    many = overlay.captioned(GREY, ", ".join(f"concept {n}" for n in range(30)))
    assert many.height > short.height + 50
    unbroken = overlay.captioned(GREY, "x" * 60)
    assert unbroken.height > short.height
    for picture in (short, many, unbroken):
        background = strip(picture, GREY.height)[0, 0]
        assert (strip(picture, GREY.height)[:, -3:] == background).all()


@pytest.mark.parametrize("name", ["星", "Müller\n<b>", "", "\U0001f600"])
def test_any_name_can_be_drawn(name):
    assert overlay.captioned(GREY, name).height > GREY.height


def test_other_kinds_of_images():
    maps = overlay.maps_in(value(["star"], [result(1)]))
    for mode in ("L", "RGBA", "P"):
        assert overlay.picture(GREY.convert(mode), maps).mode == "RGB"
