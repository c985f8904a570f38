"""Calibrating inside of a webui: who stops it, who waits for it, and how often it is done."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from demo.environment import ROOT
from demo.host import Client, StandIn
from tests.e2e.support import erasing, same, scene, second_checkpoint
from tests.e2e.test_calibration import PATH, Progress, finished
from tests.e2e.test_infotext import value_in

METER = Path(__file__).parent / "meter"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def _only_here(is_stand_in):
    if not is_stand_in:
        pytest.skip("the tests' own extension is in the stand-in host")


def stand_in(folder: Path, checkpoint: Path, *options: str) -> StandIn:
    host = StandIn(folder / "data", folder / "webui.log", checkpoint=checkpoint)
    host.command += ["--nowebui", "--extension", str(ROOT), "--extension", str(METER), *options]
    return host


@pytest.fixture(scope="module")
def host(webui_ckpt, tmp_path_factory) -> Iterator[Client]:
    with stand_in(tmp_path_factory.mktemp("calibration"), webui_ckpt) as running:
        # What is learnt of the checkpoint as a whole is no part of what is counted.
        running.client.txt2img(**scene(**erasing("star")))
        yield running.client


def count(host: Client, **order) -> dict:
    return host.post("/eiup-meter/order", order).json()


def counted(host: Client) -> dict:
    return host.get("/eiup-meter").json()


@pytest.fixture(scope="module")
def rows_of_one(host) -> int:
    """What one concept costs."""
    count(host)
    host.txt2img(**scene(**erasing("boat")))
    rows = counted(host)["rows"]
    assert rows > 0
    count(host)
    host.txt2img(**scene(**erasing("boat")))
    assert counted(host)["rows"] < rows / 2
    return rows


# ------------------------------------------------------------------------------------------ stopping


@pytest.mark.parametrize("fields", [{}, {"maps": True}, {"mode": "constant", "maps": True}], ids=str)
@pytest.mark.parametrize("command", ["interrupt", "skip"])
def test_calibrating_ends_inside_of_the_call_in_which_it_is_stopped(host, command, fields):
    concept = f"{command} {len(fields)} {len(str(fields))}"
    plain = host.txt2img(**scene()).images[0]
    count(host, command=command, call=3, attention=2)
    answer = host.txt2img(**scene(**erasing(concept, **fields)))
    assert counted(host)["after"] == 0
    assert len(answer.images) == 1
    assert not same(answer.images[0], plain)
    progress = host.get("/sdapi/v1/progress").json()
    assert progress["textinfo"] is None
    count(host)
    assert same(host.txt2img(**scene()).images[0], plain)
    host.txt2img(**scene(**erasing(concept, **fields)))
    assert counted(host)["rows"] > 0


def test_what_was_finished_before_is_kept(host, rows_of_one):
    # Two may be learnt side by side.
    concepts = ["a green castle", "a blue castle", "a white castle"]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(host.txt2img, **scene(**erasing(*concepts)))
        progress = Progress(host)
        assert progress.until(lambda told: "3 of 3" in told)
        host.post("/sdapi/v1/interrupt", {})
        running.result(timeout=60)
    count(host)
    host.txt2img(**scene(**erasing(concepts[0])))
    assert counted(host)["rows"] < rows_of_one / 2


def test_a_batch_after_the_skipped_one_is_erased(host):
    concept = "a red castle"
    count(host, command="skip", call=2, attention=1)
    answer = host.txt2img(**scene(n_iter=2, **erasing(concept, mode="adaptive")))
    expected = host.txt2img(**scene(seed=8, **erasing(concept, mode="adaptive")))
    assert same(answer.images[-1], expected.images[0])


def test_a_generation_whose_job_was_never_begun_is_erased(host):
    """As by an extension that generates by itself."""
    fields = erasing("a lantern", mode="adaptive")
    count(host, unbegun=True)
    answer = host.txt2img(**scene(**fields))
    assert counted(host)["rows"] > 0
    assert same(answer.images[0], host.txt2img(**scene(**fields)).images[0])


# ------------------------------------------------------------------------------------------ once


def test_what_several_want_at_once_is_calibrated_once(host, rows_of_one):
    count(host)
    payload = scene(**erasing("knight"))
    together = threading.Barrier(3)

    def generate():
        together.wait()
        return host.txt2img(**payload).images[0]

    def prepare():
        together.wait()
        return host.post(PATH, {"concepts": ["knight"], "width": 128, "height": 128})

    with ThreadPoolExecutor(3) as pool:
        first, second, prepared = pool.submit(generate), pool.submit(generate), pool.submit(prepare)
        assert same(first.result(), second.result())
        assert prepared.result().status_code == 202
    assert "knight" in finished(host)["prepared"]
    # Checks of what is kept may cost some rows.
    assert counted(host)["rows"] < 1.5 * rows_of_one


def test_what_is_prepared_ahead_is_for_images_without_the_last_ones_lora(host):
    host.txt2img(**scene(prompt="a wizard in a forest <meter:2>", **erasing("star")))
    host.post(PATH, {"concepts": "a clay boat", "width": 128, "height": 128})
    assert "a clay boat" in finished(host)["prepared"]
    rows = []
    for _ in range(2):
        count(host)
        host.txt2img(**scene(**erasing("a clay boat")))
        rows.append(counted(host)["rows"])
    # Nothing is left that the second would be spared.
    assert rows[0] == rows[1]


# ------------------------------------------------------------------------------------------ giving way


def begun(host: Client, concept: str) -> None:
    """Have it prepared, for images that take a while, and wait until the U-Net is at it."""
    count(host)
    host.post(PATH, {"concepts": concept, "width": 256, "height": 256})
    deadline = time.monotonic() + 60
    while not counted(host)["rows"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_generation_does_not_wait_for_a_concept_that_is_being_prepared(host):
    plain = host.txt2img(**scene()).images[0]
    begun(host, "a long boat")
    assert same(host.txt2img(**scene()).images[0], plain)
    told = host.get(PATH).json()
    assert told["running"]
    assert "a long boat" not in told["prepared"]
    told = finished(host)
    assert "a long boat" in told["prepared"]
    assert (told["number"], told["of"], told["problem"]) == (1, 1, None)


def test_what_gave_way_can_be_stopped_before_its_next_turn(host):
    begun(host, "a second long boat")
    host.txt2img(**scene())
    host.http.delete(PATH)
    told = finished(host)
    assert "a second long boat" not in told["prepared"]


def test_a_concept_is_prepared_although_somebody_always_waits(host):
    begun(host, "a third long boat")
    over = threading.Event()

    def generate():
        while not over.is_set():
            host.txt2img(**scene())

    with ThreadPoolExecutor(3) as pool:
        generating = [pool.submit(generate) for _ in range(3)]
        try:
            assert "a third long boat" in finished(host)["prepared"]
        finally:
            over.set()
        for one in generating:
            one.result()


def test_concepts_are_prepared_after_the_thread_was_ended(host):
    count(host, exit=True)
    host.post(PATH, {"concepts": ["an ended boat", "a waiting boat"], "width": 128, "height": 128})
    told = finished(host)
    assert (told["concept"], told["waiting"]) == (None, [])
    assert "ask for the concepts again" in told["problem"].lower()
    assert not {"an ended boat", "a waiting boat"} & set(told["prepared"])
    host.post(PATH, {"concepts": ["an ended boat", "a waiting boat"], "width": 128, "height": 128})
    told = finished(host)
    assert {"an ended boat", "a waiting boat"} <= set(told["prepared"])
    assert told["problem"] is None


# ------------------------------------------------------------------------------------------ a policy


class Policed:
    def __init__(self, folder: Path, checkpoint: Path, **policy):
        self.file = folder / "policy.json"
        self.write(**policy)
        second_checkpoint(checkpoint, folder / "checkpoints")
        self.host = stand_in(
            folder, checkpoint, "--eiup-policy", str(self.file), "--ckpt-dir", str(folder / "checkpoints")
        )

    def write(self, **policy):
        self.file.write_text(json.dumps(policy))


def test_a_policy_is_prepared_from_the_start_and_when_it_changes(tmp_path, webui_ckpt):
    policed = Policed(tmp_path, webui_ckpt, concepts=["star"], modes=["adaptive"])
    with policed.host as running:
        client = running.client
        begun = client.get(PATH).json()
        assert begun["running"] or begun["prepared"] == ["star"]
        # Who comes meanwhile waits for what the image needs.
        client.txt2img(**scene())
        first = finished(client)
        assert (first["prepared"], first["problem"], first["done"]) == (["star"], None, 1)
        count(client)
        client.txt2img(**scene())
        assert counted(client)["rows"] < 100
        policed.write(concepts=["star", "moon"], modes=["adaptive", "strict"])
        assert client.get(PATH).json()["running"]
        assert finished(client)["prepared"] == ["star", "moon"]
        # Another checkpoint makes something else of them.
        policed.write(concepts=["moon"], modes=["adaptive"])
        client.post("/sdapi/v1/options", {"sd_model_checkpoint": "second"})
        other = finished(client)
        assert other["checkpoint"] != first["checkpoint"]
        assert "moon" in other["prepared"]


def test_a_policy_is_not_prepared_for_a_refiner(tmp_path, webui_ckpt):
    policed = Policed(tmp_path, webui_ckpt, concepts=["star"], modes=["adaptive"])
    with policed.host as running:
        client = running.client
        first = finished(client)
        client.txt2img(**scene(steps=6, refiner_checkpoint="second", refiner_switch_at=0.5))
        assert finished(client) == first
        # The refiner stays loaded until the next generation begins.
        policed.write(concepts=["moon"], modes=["adaptive"])
        client.get(PATH)
        time.sleep(2)
        told = client.get(PATH).json()
        assert (told["running"], told["concept"], told["waiting"]) == (False, None, ["moon"])
        client.txt2img(**scene())
        told = finished(client)
        assert (told["checkpoint"], told["prepared"]) == (first["checkpoint"], ["star", "moon"])


@pytest.mark.parametrize("command", ["interrupt", "skip"])
def test_calibrating_is_stopped_under_a_policy_too(tmp_path, webui_ckpt, command):
    policed = Policed(
        tmp_path, webui_ckpt, concepts=["star"], modes=["adaptive"], users_may_add_concepts=True
    )
    with policed.host as running:
        client = running.client
        finished(client)
        count(client, command=command, call=3, attention=2)
        answer = client.txt2img(**scene(**erasing("boat")))
        assert counted(client)["after"] == 0
        # It was stopped before the first call: what comes back is noise.
        (proof,) = [value_in(text)["policy"] for text in answer.infotexts]
        assert proof["rows"] == 0
        proof = value_in(client.txt2img(**scene(**erasing("boat"))).infotexts[0])["policy"]
        assert proof["rows"] == proof["under_erasure"] > 0


def test_a_policy_that_needs_no_calibration_has_none(tmp_path, webui_ckpt):
    policed = Policed(tmp_path, webui_ckpt, concepts=["star"], modes=["constant"])
    with policed.host as running:
        told = running.client.get(PATH).json()
        assert (told["running"], told["prepared"], told["of"]) == (False, [], 0)


def test_a_policy_waits_for_a_model_and_does_not_load_it(tmp_path, webui_ckpt):
    policed = Policed(tmp_path, webui_ckpt, concepts=["star"], modes=["constant"])
    with policed.host as running:
        client = running.client
        before = count(client, unload=True)["loads"]
        policed.write(concepts=["star"], modes=["adaptive"])
        assert client.get(PATH).json()["waiting"] == ["star"]
        time.sleep(2)
        told = client.get(PATH).json()
        assert (told["running"], told["concept"], told["waiting"]) == (True, None, ["star"])
        assert counted(client)["loads"] == before
        client.txt2img(**scene())
        assert finished(client)["prepared"] == ["star"]
        assert counted(client)["loads"] == before + 1


def test_without_a_policy_nothing_is_prepared(host):
    count(host)
    before = host.get(PATH).json()
    time.sleep(1)
    assert not before["running"]
    assert counted(host)["rows"] == 0


def test_what_is_not_the_policys_is_not_prepared_for_its_users(tmp_path, webui_ckpt):
    policed = Policed(tmp_path, webui_ckpt, concepts=["star"], modes=["constant"])
    with policed.host as running:
        refused = running.client.post(PATH, {"concepts": ["moon"]})
        assert refused.status_code == 422
        assert "moon" in refused.json()["detail"]


def test_reload_ui_leaves_it_at_work(host):
    host.post(PATH, {"concepts": ["a paper boat", "a paper moon"], "width": 128, "height": 128})
    assert host.post("/sdapi/v1/reload-scripts", {}).status_code == 200
    assert {"a paper boat", "a paper moon"} <= set(finished(host)["prepared"])
