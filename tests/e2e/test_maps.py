"""Where a concept was forming, in an image's infotext."""

from __future__ import annotations

import numpy as np
import pytest

from demo.toyland.world import region
from eiup.maps import decode_map
from tests.e2e.support import changed, erasing, same, scene
from tests.e2e.test_infotext import value_in

CASES = dict(steps=20, cfg_scale=5, batch_size=4)


def results(answer):
    return [value_in(text)["result"]["concepts"][0] for text in answer.infotexts]


@pytest.mark.parametrize("mode", ["adaptive", "constant"])
def test_the_map_shows_where_the_concept_would_have_been(webui, mode):
    plain = webui.txt2img(**scene(**CASES))
    erased = webui.txt2img(**scene(**CASES, **erasing("star", mode=mode, maps=True)))
    hits = []
    for image, result in zip(plain.images, results(erased)):
        found = decode_map(result["map"]).numpy()
        star = region(np.asarray(image.convert("RGB")), "star")
        y, x = np.unravel_index(found.argmax(), found.shape)
        middle = [int((place + 0.5) * 128 / side) for place, side in zip((y, x), found.shape)]
        hits.append(bool(star[tuple(middle)]))
    assert sum(hits) >= 3, hits
    assert all(result["share"] > 0 for result in results(erased))


@pytest.mark.parametrize("mode", ["adaptive", "constant"])
def test_maps_change_no_image(webui, mode):
    without = webui.txt2img(**scene(**erasing("star", mode=mode)))
    with_maps = webui.txt2img(**scene(**erasing("star", mode=mode, maps=True)))
    assert same(with_maps.images[0], without.images[0])
    assert "map" not in results(without)[0]
    assert set(results(without)[0]) | {"map"} == set(results(with_maps)[0])


def test_each_image_of_a_batch_has_results_of_its_own(webui):
    payload = scene(**{**CASES, "batch_size": 2}, n_iter=2, **erasing("star", maps=True))
    together = results(webui.txt2img(**payload))
    assert len({result["map"] for result in together}) == 4
    last = webui.txt2img(**{**payload, "batch_size": 1, "n_iter": 1, "seed": payload["seed"] + 3})
    assert results(last)[0]["presence"] == pytest.approx(together[3]["presence"], abs=0.01)
    assert np.abs(decode_map(results(last)[0]["map"]) - decode_map(together[3]["map"])).max() < 0.2


def test_what_was_not_there_says_so(webui):
    payload = scene(prompt="a boat in a forest", **{**CASES, "batch_size": 1})
    answer = webui.txt2img(**payload, **erasing("star", maps=True))
    assert results(answer)[0]["share"] == 0
    assert results(answer)[0]["gate"] == 0
    assert not changed(answer.images[0], webui.txt2img(**payload).images[0])
