"""Presets over HTTP, and in generations."""

from __future__ import annotations

import pytest

from tests.e2e.support import changed, encoded, erasing, same, scene, with_args
from tests.e2e.test_infotext import value_in

PATH = "/eiup/v1/presets"
NAME = "test-sky"
OTHER = "test-night"


@pytest.fixture(autouse=True)
def forget(webui):
    yield
    for name in (NAME, OTHER, "text"):
        webui.http.delete(f"{PATH}/{name}")


def put(webui, name, **body):
    return webui.http.put(f"{PATH}/{name}", json=body)


def test_shipped_presets_are_listed(webui):
    listed = {preset["name"]: preset for preset in webui.get(PATH).json()["presets"]}
    assert {"nsfw", "watermarks", "artist-styles", "violence", "self-harm"} <= set(listed)
    assert listed["watermarks"]["shipped"]
    assert listed["watermarks"]["description"]
    assert "watermark" in listed["watermarks"]["concepts"]
    assert webui.get(f"{PATH}/watermarks").json() == listed["watermarks"]


def test_create_read_replace_delete(webui):
    answer = put(webui, NAME, description="What <shines>.", concepts="star # bright\nmoon:1.5")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "name": NAME,
        "description": "What <shines>.",
        "concepts": ["star", "moon:1.5"],
        "text": "star # bright\nmoon:1.5",
        "shipped": False,
    }
    assert answer.json() in webui.get(PATH).json()["presets"]
    listed = ["star", {"concept": "a, b", "weight": 0.5}, "@watermarks"]
    replaced = put(webui, NAME, concepts=listed).json()
    assert replaced["text"] == "star\na\\, b:0.5\n@watermarks"
    assert replaced["concepts"][:3] == ["star", "a\\, b:0.5", "watermark"]
    assert replaced["description"] == ""
    assert webui.get(f"{PATH}/{NAME}").json() == replaced
    left = webui.http.delete(f"{PATH}/{NAME}")
    assert NAME not in [preset["name"] for preset in left.json()["presets"]]
    for answer in (webui.get(f"{PATH}/{NAME}"), webui.http.delete(f"{PATH}/{NAME}")):
        assert answer.status_code == 404
        assert "watermarks" in answer.text


def test_what_was_read_can_be_put_again(webui):
    shipped = webui.get(f"{PATH}/watermarks").json()
    for concepts in (shipped["text"], shipped["concepts"]):
        copy = put(webui, NAME, description=shipped["description"], concepts=concepts).json()
        assert copy == {**shipped, "name": NAME, "shipped": False, "text": copy["text"]}


def test_an_own_preset_hides_the_shipped_one_until_it_is_deleted(webui):
    shipped = webui.get(f"{PATH}/text").json()
    assert put(webui, "text", concepts="letters").json()["concepts"] == ["letters"]
    assert not webui.get(f"{PATH}/text").json()["shipped"]
    assert webui.http.delete(f"{PATH}/text").status_code == 200
    assert webui.get(f"{PATH}/text").json() == shipped
    refused = webui.http.delete(f"{PATH}/text")
    assert refused.status_code == 409
    assert "Shipped" in refused.text
    assert webui.get(f"{PATH}/text").json() == shipped


BAD = {
    "no concepts": (NAME, {}, "concepts is None"),
    "a number": (NAME, {"concepts": 5}, "list of concepts"),
    "a number in the list": (NAME, {"concepts": ["star", 5]}, "concepts[1]"),
    "nothing in it": (NAME, {"concepts": " # only a comment"}, "at least one concept"),
    "empty list": (NAME, {"concepts": []}, "at least one concept"),
    "a wrong weight": (NAME, {"concepts": "star:11"}, "0 to 10"),
    "an unknown preset": (NAME, {"concepts": "@nowhere"}, "watermarks"),
    "itself": (NAME, {"concepts": f"@{NAME}"}, f"@{NAME} > @{NAME}"),
    "an unknown field": (NAME, {"concepts": "star", "weight": 1}, "weight"),
    "a number for a text": (NAME, {"concepts": "star", "description": 5}, "description"),
    "too long": (NAME, {"concepts": "star", "description": "d" * 70_000}, "65536"),
    "too many": (NAME, {"concepts": [f"star {n}" for n in range(65)]}, "at most 64"),
    "capitals": ("Sky", {"concepts": "star"}, "lower-case"),
    "a dot": ("sky.txt", {"concepts": "star"}, "lower-case"),
    "a device": ("nul", {"concepts": "star"}, "lower-case"),
    "backslashes": ("..%5C..%5Csky", {"concepts": "star"}, "lower-case"),
}


@pytest.mark.parametrize(("name", "body", "named"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_refused_and_nothing_is_kept(webui, name, body, named):
    before = webui.get(PATH).json()
    answer = put(webui, name, **body)
    assert answer.status_code == 422, answer.text
    assert named in answer.text
    assert webui.get(PATH).json() == before


@pytest.mark.parametrize("name", ["..%2F..%2Ffeedback", "%2Fetc%2Fpasswd", "..", "%00", "nsfw.txt", "NSFW"])
def test_no_name_leads_anywhere_else(webui, name):
    for method in ("GET", "DELETE", "PUT"):
        json = {"concepts": "star"} if method == "PUT" else None
        answer = webui.http.request(method, f"{PATH}/{name}", json=json)
        assert answer.status_code in (404, 405, 422), answer.text


def test_a_preset_erases_its_concepts_and_the_infotext_has_them(webui, plain):
    put(webui, OTHER, concepts="moon:0.75")
    put(webui, NAME, concepts=["star", f"@{OTHER}:2"])
    expected = webui.txt2img(**scene(**erasing("star", "moon:1.5", mode="constant")))
    assert changed(expected.images[0], plain)
    named = {"concept": f"@{NAME}", "weight": 1}
    for concepts in (f"@{NAME}", [f"@{NAME}"], [named], f"star, @{OTHER}:2"):
        answer = webui.txt2img(**scene(**with_args([{"concepts": concepts, "mode": "constant"}])))
        assert same(answer.images[0], expected.images[0])
        assert answer.infotexts == expected.infotexts
    flat = webui.txt2img(**scene(**with_args([True, f"@{NAME}", 2.0, 0.0, 1.0, "constant"])))
    assert flat.infotexts == expected.infotexts


def test_an_image_is_made_again_after_its_preset_has_changed(webui):
    put(webui, NAME, concepts="star")
    first = webui.txt2img(**scene(**erasing(f"@{NAME}", mode="constant")))
    put(webui, NAME, concepts="moon")
    assert same(webui.txt2img(infotext=first.infotexts[0]).images[0], first.images[0])


def test_a_literal_at_sign_stays_literal_through_infotext(webui):
    put(webui, NAME, concepts="star")
    first = webui.txt2img(**scene(**erasing(rf"\@{NAME}", mode="constant")))
    assert value_in(first.infotexts[0])["concepts"] == [f"@{NAME}"]
    again = webui.txt2img(infotext=first.infotexts[0])
    assert again.infotexts == first.infotexts
    assert same(again.images[0], first.images[0])


@pytest.mark.parametrize("kind", ["txt2img", "img2img"])
def test_an_unknown_preset_makes_no_image(webui, kind):
    payload = scene(**erasing("star", "@nowhere"))
    if kind == "img2img":
        payload["init_images"] = [encoded(webui.txt2img(**scene()).pngs[0])]
    answer = webui.post(f"/sdapi/v1/{kind}", payload)
    assert answer.status_code == 422
    assert "images" not in answer.json()
    for part in ("concepts[1]", "'@nowhere'", "nsfw", "watermarks"):
        assert part in answer.json()["errors"]
