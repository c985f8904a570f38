"""An interrupt, a skip and a change of checkpoint leave nothing behind."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.support import changed, erasing, same, scene


@pytest.fixture
def steadily(webui):
    """Wait until a generation is at work in the middle of its steps."""

    def wait(future, step=3):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not future.done():
            state = webui.get("/sdapi/v1/progress", params={"skip_current_image": True}).json()["state"]
            if state["sampling_step"] >= step:
                return
            time.sleep(0.02)
        pytest.fail("the generation could not be met in the middle of its steps")

    return wait


@pytest.fixture(scope="module")
def references(webui):
    return webui.txt2img(**scene()).images[0], webui.txt2img(**scene(**erasing("star"))).images[0]


def check_that_nothing_is_left(webui, references):
    plain, erased = references
    assert same(webui.txt2img(**scene()).images[0], plain)
    assert same(webui.txt2img(**scene(**erasing("star"))).images[0], erased)


@pytest.mark.parametrize("command", ["interrupt", "skip"])
def test_a_stopped_generation_leaves_nothing_behind(webui, references, steadily, command):
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(webui.txt2img, **scene(steps=400, **erasing("star")))
        steadily(running)
        assert webui.post(f"/sdapi/v1/{command}", {}).status_code == 200
        assert not running.done()
        answer = running.result(timeout=60)
    assert len(answer.images) == 1
    check_that_nothing_is_left(webui, references)


@pytest.mark.parametrize("command", ["interrupt", "skip"])
def test_a_generation_can_be_stopped_while_concepts_are_calibrated(webui, references, command):
    def progress():
        return webui.get("/sdapi/v1/progress", params={"skip_current_image": True}).json()

    # As many as are allowed, so that it takes long, and none that has been calibrated before.
    moment = int(time.time()) % 1000
    concepts = [f"{command} {moment} {index}" for index in range(64)]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(webui.txt2img, **scene(**erasing(*concepts, mode="adaptive")))
        deadline = time.monotonic() + 120
        while "EIUP" not in (progress()["textinfo"] or ""):
            assert time.monotonic() < deadline
            assert not running.done()
            time.sleep(0.02)
        assert webui.post(f"/sdapi/v1/{command}", {}).status_code == 200
        running.result(timeout=60)
    assert not progress()["textinfo"]
    check_that_nothing_is_left(webui, references)


def test_the_image_after_a_skipped_one_is_erased(webui, steadily):
    payload = scene(steps=50, seed=7, **erasing("star"))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(webui.txt2img, **payload, n_iter=2)
        steadily(running)
        webui.post("/sdapi/v1/skip", {})
        answer = running.result(timeout=120)
    assert same(answer.images[-1], webui.txt2img(**{**payload, "seed": 8}).images[0])


def test_a_checkpoint_of_one_generation(webui, references, other_checkpoint):
    there = scene(override_settings={"sd_model_checkpoint": other_checkpoint})
    # Whatever that one paints, it is to be changed.
    erased_there = {**there, **erasing("star", mode="constant")}
    plain, erased = references
    other_plain = webui.txt2img(**there).images[0]
    other_erased = webui.txt2img(**erased_there).images[0]
    assert changed(other_plain, plain)
    assert changed(other_erased, other_plain)
    check_that_nothing_is_left(webui, references)
    # Back and forth with erasure on: concepts are encoded by the checkpoint that paints.
    assert same(webui.txt2img(**erased_there).images[0], other_erased)
    assert same(webui.txt2img(**scene(**erasing("star"))).images[0], erased)


def test_a_checkpoint_chosen_in_the_settings(webui, references, other_checkpoint):
    before = webui.get("/sdapi/v1/options").json()["sd_model_checkpoint"]
    there = scene(override_settings={"sd_model_checkpoint": other_checkpoint}, **erasing("star"))
    expected = webui.txt2img(**there).images[0]
    try:
        assert webui.post("/sdapi/v1/options", {"sd_model_checkpoint": other_checkpoint}).status_code == 200
        assert same(webui.txt2img(**scene(**erasing("star"))).images[0], expected)
    finally:
        webui.post("/sdapi/v1/options", {"sd_model_checkpoint": before})
    check_that_nothing_is_left(webui, references)
