"""Calibration over HTTP: what progress says of it, and concepts that are prepared ahead."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from demo.host import Client
from tests.e2e.support import changed, erasing, same, scene
from tests.e2e.test_xyz_plot import plot_of

PATH = "/eiup/v1/calibrations"
FIELDS = {
    "running", "concept", "number", "of", "done", "checkpoint", "problem", "prepared", "waiting",
}  # fmt: skip
WITHIN = 300
STOPPED_WITHIN = 20
SIZE = {"width": 128, "height": 128}
LEARNS = re.compile(r"EIUP learns (this checkpoint|(?P<concept>.+), (?P<number>\d+) of (?P<of>\d+))")
_numbers = itertools.count(int(time.time()) % 100_000 * 10)

pytestmark = pytest.mark.timeout(900)


def fresh(count: int) -> list[str]:
    """Concepts that have never been calibrated."""
    return [f"star number {next(_numbers)}" for _ in range(count)]


class Progress:
    """What ``/sdapi/v1/progress`` says while EIUP learns something."""

    def __init__(self, webui: Client):
        self.webui = webui
        self.texts: list[str] = []
        self.fractions: list[float] = []

    def look(self) -> str:
        told = self.webui.get("/sdapi/v1/progress", params={"skip_current_image": True}).json()
        text = told["textinfo"] or ""
        if text.startswith("EIUP"):
            self.texts.append(text)
            self.fractions.append(told["progress"])
        return text

    def until(self, ends: Callable[[str], bool]) -> bool:
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline:
            if ends(self.look()):
                return True
            time.sleep(0.05)
        return False


def finished(webui: Client) -> dict[str, Any]:
    """What the webui says of the background job once it has ended."""
    webui.wait_until_prepared()
    return webui.get(PATH).json()


@pytest.fixture(autouse=True)
def at_rest(webui):
    webui.http.delete(PATH)
    yield
    webui.http.delete(PATH)


def test_progress_says_what_is_learnt_and_how_much_is_left(webui):
    concepts = fresh(2)
    progress = Progress(webui)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(webui.txt2img, **scene(**erasing(*concepts, mode="adaptive")))
        assert progress.until(lambda _: running.done())
        assert len(running.result().images) == 1
    matches = [LEARNS.fullmatch(text) for text in progress.texts]
    assert all(matches), progress.texts
    of_concepts = [match for match in matches if match["concept"]]
    assert {match["concept"] for match in of_concepts} <= set(concepts)
    assert [(m["number"], m["of"]) for m in of_concepts][0] == ("1", "2")
    assert progress.fractions == sorted(progress.fractions)
    assert progress.fractions[-1] > progress.fractions[0]
    assert progress.look() == ""


def test_progress_is_the_samplers_again_afterwards(webui):
    """The steps that calibrating counts are not left to the sampler."""
    (concept,) = fresh(1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(webui.txt2img, **scene(steps=60, **erasing(concept, mode="adaptive")))
        progress = Progress(webui)
        assert progress.until(lambda text: text.startswith("EIUP"))
        assert progress.until(lambda text: not text.startswith("EIUP"))
        state = webui.get("/sdapi/v1/progress", params={"skip_current_image": True}).json()["state"]
        running.result()
    assert state["sampling_step"] <= 60
    assert state["sampling_steps"] <= 60 or state["sampling_step"] == 0


def test_previews_are_left_alone(webui):
    """Of an earlier image of the job: were it decoded again with each step of calibrating, it would cost."""
    (concept,) = fresh(1)
    task = f"task({concept.replace(' ', '-')})"
    plot = plot_of(webui, x="Concepts", x_values=f"star, {concept}")
    payload = scene(force_task_id=task, **plot, **erasing("star", mode="adaptive"))
    shown, fractions = set(), []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(webui.txt2img, **payload)
        while not running.done():
            told = webui.post("/internal/progress", {"id_task": task, "id_live_preview": -1}).json()
            if concept in (told["textinfo"] or ""):
                shown.add(told["id_live_preview"])
                fractions.append(told["progress"])
            time.sleep(0.1)
        assert len(running.result().images) > 1
    assert len(shown) == 1
    # It is the second of two images.
    assert 0.5 <= min(fractions) <= max(fractions) <= 1


def test_concepts_are_prepared_ahead(webui):
    first, second = fresh(2)
    webui.http.put("/eiup/v1/presets/test-ahead", json={"concepts": second})
    try:
        body = {"concepts": [{"concept": first, "weight": 1.5}, "@test-ahead"], **SIZE}
        answer = webui.post(PATH, body)
        assert answer.status_code == 202, answer.text
        assert set(answer.json()) == FIELDS
        assert answer.json()["running"]
        assert answer.json()["of"] == 2
        shares = []
        while (told := webui.get(PATH).json())["running"]:
            assert told["concept"] in (None, first, second)
            shares.append(told["done"])
            time.sleep(0.1)
    finally:
        webui.http.delete("/eiup/v1/presets/test-ahead")
    assert shares == sorted(shares)
    assert {first, second} <= set(told["prepared"])
    assert (told["number"], told["of"], told["done"], told["waiting"]) == (2, 2, 1, [])
    assert told["problem"] is None
    # Nobody waits for them any more.
    progress = Progress(webui)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(webui.txt2img, **scene(steps=20, **erasing(first, second, mode="adaptive")))
        assert progress.until(lambda _: running.done())
        running.result()
    assert not [text for text in progress.texts if first in text or second in text]
    # Once more, it is done at once.
    began = time.monotonic()
    webui.post(PATH, {"concepts": first, **SIZE})
    assert first in finished(webui)["prepared"]
    assert time.monotonic() - began < STOPPED_WITHIN


def test_generations_get_their_turn_between_concepts(webui, plain):
    webui.post(PATH, {"concepts": fresh(4), **SIZE})
    assert same(webui.txt2img(**scene()).images[0], plain)
    told = webui.get(PATH).json()
    assert told["running"]
    assert told["waiting"]


def test_a_second_list_is_added_to_the_first(webui):
    concepts = fresh(3)
    webui.post(PATH, {"concepts": concepts[:2], **SIZE})
    told = webui.post(PATH, {"concepts": concepts[1:], **SIZE}).json()
    queued = [told["concept"], *told["waiting"]]
    # What waits already is not put in twice.
    assert [c for c in queued if c] == concepts


def test_stopping_is_prompt_and_leaves_a_webui_that_works(webui, plain):
    concepts = fresh(30)
    webui.post(PATH, {"concepts": concepts, **SIZE})
    deadline = time.monotonic() + WITHIN
    while webui.get(PATH).json()["concept"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    began = time.monotonic()
    told = webui.http.delete(PATH).json()
    assert time.monotonic() - began < STOPPED_WITHIN
    assert (told["running"], told["concept"], told["waiting"]) == (False, None, [])
    assert concepts[-1] not in told["prepared"]
    assert same(webui.txt2img(**scene()).images[0], plain)
    assert changed(webui.txt2img(**scene(**erasing("star", mode="adaptive"))).images[0], plain)


BAD = {
    "nothing": ({}, "concepts is None"),
    "an empty list": ({"concepts": []}, "at least one concept"),
    "a number": ({"concepts": 5}, "list of concepts"),
    "a number in the list": ({"concepts": ["star", 5]}, "concepts[1]"),
    "a wrong weight": ({"concepts": "star:11"}, "0 to 10"),
    "an unknown preset": ({"concepts": ["@nowhere"]}, "watermarks"),
    "an unknown field": ({"concepts": "star", "strength": 2}, "strength"),
    "too long": ({"concepts": "star " * 90}, "at most 75 tokens"),
    "too small": ({"concepts": "star", "width": 8}, "width is 8"),
    "no size": ({"concepts": "star", "height": "tall"}, "height"),
    "too many": ({"concepts": [f"star {n}" for n in range(65)]}, "at most 64"),
}


@pytest.mark.parametrize(("body", "named"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_refused_and_nothing_is_begun(webui, body, named):
    answer = webui.post(PATH, body)
    assert answer.status_code == 422, answer.text
    assert named in answer.json()["detail"]
    assert not webui.get(PATH).json()["running"]
