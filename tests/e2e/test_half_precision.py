"""Erasure in a webui that computes in half precision, under autocast and without: what its images show."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from demo.host import Client, StandIn
from demo.toyland.oracle import load_oracle
from tests.e2e.support import erasing, pixels, same, scene

WITH, WITHOUT = "a wizard in a forest", "a car in the snow"
# An image shows what it is to show from about this many steps on; the seeds of a batch count on.
CLEAR = {"steps": 10, "batch_size": 2}


@pytest.fixture(scope="module", params=["autocast", "half"])
def webui(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, is_stand_in: bool
) -> Iterator[Client]:
    """A client of a stand-in host that was started with this ``--precision``."""
    if not is_stand_in:
        pytest.skip("the webui at --webui-url has a precision of its own, in which all other tests run")
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = request.getfixturevalue("webui_ckpt")
    host = StandIn(folder / "data", folder / "webui.log", checkpoint=checkpoint)
    host.command += ["--precision", request.param, "--nowebui"]
    with host:
        yield host.client


@pytest.fixture(scope="module")
def plain(webui: Client) -> list[Image.Image]:
    return webui.txt2img(**scene(prompt=WITH, **CLEAR)).images[-2:]


@pytest.fixture(scope="module")
def shows() -> Callable[[list[Image.Image]], list[bool]]:
    oracle = load_oracle()
    return lambda images: [judgement.shows("star") for judgement in oracle.judge(images)]


def test_without_erasure_the_concept_shows(plain, shows):
    assert shows(plain) == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["constant", "projection", "strict", "adaptive"])
def test_the_concept_is_erased(webui, shows, mode):
    erased = webui.txt2img(**scene(prompt=WITH, **CLEAR), **erasing("star", mode=mode))
    assert shows(erased.images[-2:]) == [False, False]
    assert "EIUP" in erased.infotexts[-1]


@pytest.mark.slow
def test_an_unrelated_image_stays_as_it_was(webui):
    payload = scene(prompt=WITHOUT, **CLEAR)
    unerased = webui.txt2img(**payload).images[-2:]
    erased = webui.txt2img(**payload, **erasing("star", mode="adaptive")).images[-2:]
    assert all(map(same, erased, unerased))


@pytest.mark.slow
def test_preserve_keeps_what_is_not_the_concept(webui, plain, shows):
    fields = {"mode": "adaptive", "preserve": True, "maps": True}
    preserved = webui.txt2img(**scene(prompt=WITH, **CLEAR), **erasing("star", **fields)).images[-2:]
    assert shows(preserved) == [False, False]
    for image, before in zip(preserved, plain):
        kept = (pixels(image) == pixels(before)).all(axis=-1)
        assert 0.3 < np.mean(kept) < 1


@pytest.mark.slow
def test_a_second_pass_of_another_size(webui, shows):
    second = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.6, "hr_upscaler": "Latent"}
    payload = scene(prompt=WITH, **{**CLEAR, "batch_size": 1}, **second)
    assert shows(webui.txt2img(**payload).images) == [True]
    assert shows(webui.txt2img(**payload, **erasing("star", mode="constant")).images) == [False]
