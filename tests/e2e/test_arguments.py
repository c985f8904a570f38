"""The ways to say it through the API; and what is wrong gets an error that says so, and no image."""

from __future__ import annotations

import pytest

from tests.e2e.support import changed, encoded, erasing, post_raw, same, scene, with_args

NAN, INFINITY = float("nan"), float("inf")

SAME_REQUEST = {
    "text": with_args([{"concepts": "star, moon:1.5", "strength": 1.5}]),
    "lines": with_args([{"concepts": "star # the wizard's\n\nmoon:1.5\n", "strength": 1.5}]),
    "texts with weights": with_args([{"concepts": ["star", "moon:1.5"], "strength": 1.5}]),
    "enabled said": with_args([{"enabled": True, "concepts": ["star", "moon:1.5"], "strength": 1.5}]),
    "flat": with_args([True, "star, moon:1.5", 1.5, 0.0, 1.0]),
    "flat, integers": with_args([True, "star\nmoon:1.5", 1.5, 0, 1]),
    "flat, the rest left out": with_args([True, "star, moon:1.5", 1.5]),
}


@pytest.mark.parametrize("payload", SAME_REQUEST.values(), ids=SAME_REQUEST)
def test_every_way_to_say_it_gives_the_same_image(webui, payload):
    named = webui.txt2img(**scene(**erasing("star", {"concept": "moon", "weight": 1.5}, strength=1.5)))
    answer = webui.txt2img(**scene(**payload))
    assert same(answer.images[0], named.images[0])
    assert answer.infotexts == named.infotexts


def test_script_info_lists_the_fields_in_their_order(webui):
    scripts = [s for s in webui.get("/sdapi/v1/script-info").json() if s["name"] == "eiup"]
    assert {script["is_img2img"] for script in scripts} == {False, True}
    for script in scripts:
        assert script["is_alwayson"]
        assert [(a["value"], a["minimum"], a["maximum"]) for a in script["args"]] == [
            (False, None, None),
            ("", None, None),
            (2.0, 0, 10),
            (0.0, 0, 1),
            (1.0, 0, 1),
            ("adaptive", None, None),
            (False, None, None),
            (True, None, None),
            (False, None, None),
            (False, None, None),
        ]


# What is sent, and what the message has to name: field, value, what is allowed.
BAD = {
    "unknown field": ([{"concepts": ["star"], "strenght": 1}], ("strenght", "1", "strength")),
    "no text at all": ([{"concepts": 5}], ("concepts", "5", "list of concepts")),
    "an object for concepts": (
        [{"concepts": {"star": 1}}],
        ("concepts", "{'star': 1}", "list of concepts"),
    ),
    "null for concepts": ([{"concepts": None}], ("concepts", "None", "list of concepts")),
    "a number among concepts": ([{"concepts": ["star", 5]}], ("concepts[1]", "5", "text")),
    "text for a number": ([{"concepts": ["star"], "strength": "much"}], ("strength", "'much'", "0 to 10")),
    "number as text": ([{"concepts": ["star"], "strength": "2"}], ("strength", "'2'", "0 to 10")),
    "true for a number": ([{"concepts": ["star"], "strength": True}], ("strength", "True", "0 to 10")),
    "null for a number": ([{"concepts": ["star"], "strength": None}], ("strength", "None", "0 to 10")),
    "text for a switch": ([{"enabled": "yes"}], ("enabled", "'yes'", "true or false")),
    "one for a switch": ([{"enabled": 1, "concepts": ["star"]}], ("enabled", "1", "true or false")),
    "too strong": ([{"concepts": ["star"], "strength": 10.5}], ("strength", "10.5", "0 to 10")),
    "below zero": ([{"concepts": ["star"], "strength": -1}], ("strength", "-1", "0 to 10")),
    "start above one": ([{"concepts": ["star"], "start": 1.5}], ("start", "1.5", "0 to 1")),
    "end below zero": ([{"concepts": ["star"], "end": -0.5}], ("end", "-0.5", "0 to 1")),
    "start after end": (
        [{"concepts": ["star"], "start": 0.8, "end": 0.5}],
        ("start", "0.8", "end, which is 0.5"),
    ),
    "not a number": ([{"concepts": ["star"], "strength": NAN}], ("strength", "nan", "0 to 10")),
    "infinite": ([{"concepts": ["star"], "strength": INFINITY}], ("strength", "inf", "0 to 10")),
    "minus infinite": ([{"concepts": ["star"], "end": -INFINITY}], ("end", "-inf", "0 to 1")),
    "larger than any float": ([{"concepts": ["star"], "strength": 10**400}], ("strength", "1000", "0 to 10")),
    "weight not a number": (
        [{"concepts": [{"concept": "star", "weight": NAN}]}],
        ("concepts[0]", "star", "nan", "0 to 10"),
    ),
    "weight larger than any float": (
        [{"concepts": [{"concept": "star", "weight": 10**400}]}],
        ("concepts[0]", "star", "1000", "0 to 10"),
    ),
    "weight too large": ([{"concepts": ["star:11"]}], ("concepts", "star", "11", "0 to 10")),
    "weight below zero": (
        [{"concepts": [{"concept": "star", "weight": -1}]}],
        ("concepts[0]", "star", "-1", "0 to 10"),
    ),
    "weight in words": ([{"concepts": "star:much"}], ("concepts", "star:much", "watermark:1.5")),
    "unknown field of a concept": (
        [{"concepts": [{"concept": "star", "wieght": 1}]}],
        ("concepts[0].wieght", "1", "concept and weight"),
    ),
    "a weight of nothing": ([{"concepts": [{"weight": 1}]}], ("concepts[0]", "'weight': 1", "concept")),
    "empty concept": ([{"concepts": ["star", ""]}], ("concepts[1]", "''", "not empty")),
    "blank concept": ([{"concepts": [{"concept": " \n"}]}], ("concepts[0]", "''", "not empty")),
    "two weights": ([{"concepts": ["star:1", "star:2"]}], ("concepts", "star", "once")),
    "over 75 tokens": ([{"concepts": ["star " * 80]}], ("concepts", "star star", "75 tokens")),
    "over 500 characters": ([{"concepts": ["s" * 501]}], ("concepts", "ssss", "500 characters")),
    "10,000 concepts": (
        [{"concepts": [f"star {i}" for i in range(10_000)]}],
        ("concepts", "10000 concepts", "64"),
    ),
    "10,000 concepts as text": (
        [{"concepts": "\n".join(f"star {i}" for i in range(10_000))}],
        ("concepts", "10000 concepts", "64"),
    ),
    "a list for the object": ([["star"]], ("enabled", "['star']", "true or false")),
    "a text for the object": (["star"], ("enabled", "'star'", "true or false")),
    "flat, text for a number": ([True, "star", "much"], ("strength", "'much'", "0 to 10")),
    "flat, null for a number": ([True, "star", None], ("strength", "None", "0 to 10")),
    "flat, not a number": ([True, "star", 1.0, NAN], ("start", "nan", "0 to 1")),
    "flat, start after end": ([True, "star", 2.0, 0.8, 0.5], ("start", "0.8", "end, which is 0.5")),
    "wrong though disabled": ([{"enabled": False, "strength": 99}], ("strength", "99", "0 to 10")),
}


@pytest.mark.parametrize(("args", "named"), BAD.values(), ids=BAD)
def test_bad_input_gets_an_error_and_no_image(webui, plain, args, named):
    response = post_raw(webui, "/sdapi/v1/txt2img", scene(**with_args(args)))
    body = response.json()
    assert response.status_code == 422, body
    assert "images" not in body
    for part in ("EIUP", "allowed", *named):
        assert part in body["errors"]
    assert len(body["errors"]) < 500
    # Nothing of it is left behind.
    after = webui.txt2img(**scene())
    assert same(after.images[0], plain)
    assert "EIUP" not in after.infotexts[0]


def test_bad_input_gets_an_error_in_img2img_too(webui):
    image = encoded(webui.txt2img(**scene()).pngs[0])
    bad = scene(init_images=[image], **erasing("star", strength=11))
    response = webui.post("/sdapi/v1/img2img", bad)
    assert response.status_code == 422
    assert "strength is 11" in response.json()["errors"]


def test_good_input_after_bad_input_erases(webui, plain):
    expected = webui.txt2img(**scene(**erasing("star"))).images[0]
    assert webui.post("/sdapi/v1/txt2img", scene(**erasing("star", strength=11))).status_code == 422
    again = webui.txt2img(**scene(**erasing("star"))).images[0]
    assert same(again, expected)
    assert changed(again, plain)


def test_as_many_concepts_as_are_allowed(webui, plain):
    # Constant, since that many take minutes to calibrate.
    concepts = (f"star {i}" for i in range(64))
    answer = webui.txt2img(**scene(**erasing(*concepts, strength=0.1, mode="constant")))
    assert changed(answer.images[0], plain)
