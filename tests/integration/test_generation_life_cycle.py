"""One generation inside of a webui, watched and disturbed by an extension of the tests' own (``probe/``).

Runs on the stand-in host, and on a real webui (``--webui-url``) that has ``probe/`` among its extensions.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.environment import ROOT
from demo.host import Client, StandIn
from tests.e2e.support import ROUNDING, changed, difference, encoded, erasing, same, scene, second_checkpoint

PROBE = Path(__file__).parent / "probe"
# Every row that adds to the image, whatever it says.
ERASURE = erasing("star", mode="constant")


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("webui") / "data"


@pytest.fixture(scope="module")
def host(request, data_folder) -> Iterator[Client]:
    url = request.config.getoption("--webui-url")
    if url:
        client = Client(url)
        if client.post("/eiup-probe/reset", {}).status_code != 200:
            pytest.skip("this webui has no probe among its extensions")
        yield client
        client.close()
        return
    checkpoint, folder = request.getfixturevalue("webui_ckpt"), data_folder.parent / "checkpoints"
    second_checkpoint(checkpoint, folder)
    stand_in = StandIn(data_folder, data_folder.parent / "webui.log", checkpoint=checkpoint)
    stand_in.command += ["--ckpt-dir", str(folder)]
    # EIUP first: the probe's callbacks come after its own.
    stand_in.command += ["--nowebui", "--extension", str(ROOT), "--extension", str(PROBE)]
    with stand_in:
        yield stand_in.client


@pytest.fixture(scope="module")
def references(host):
    return host.txt2img(**scene()).images[0], host.txt2img(**scene(**ERASURE)).images[0]


def ordered(payload, **orders):
    scripts = {**payload.get("alwayson_scripts", {}), "Probe": {"args": [orders]}}
    return {**payload, "alwayson_scripts": scripts}


def check_that_nothing_is_left(host, references):
    state = host.post("/eiup-probe/reset", {}).json()
    assert (state["hooks"], state["running"]) == (0, 0)
    plain, erased = references
    assert same(host.txt2img(**scene()).images[0], plain)
    assert same(host.txt2img(**scene(**ERASURE)).images[0], erased)
    assert host.post("/eiup-probe/reset", {}).json()["hooks"] == 0


def test_no_hook_is_left_after_a_generation(host, references):
    assert changed(*references)
    check_that_nothing_is_left(host, references)


# -------------------------------------------------------------------------------------- disturbances


@pytest.mark.parametrize("call", [1, 3])
def test_an_exception_in_the_middle_of_sampling(host, references, call):
    response = host.post("/sdapi/v1/txt2img", ordered(scene(**ERASURE), raise_in_call=call))
    assert response.status_code == 500
    assert "in the middle of sampling" in response.json()["errors"]
    check_that_nothing_is_left(host, references)


def test_an_exception_in_the_middle_of_img2img(host, references):
    image = base64.b64encode(host.txt2img(**scene()).pngs[0]).decode()
    payload = scene(init_images=[image], denoising_strength=1.0, **ERASURE)
    response = host.post("/sdapi/v1/img2img", ordered(payload, raise_in_call=2))
    assert response.status_code == 500
    check_that_nothing_is_left(host, references)


def test_an_exception_in_the_second_pass_of_hires_fix(host, references):
    hires = dict(enable_hr=True, hr_scale=1.5, hr_upscaler="Latent", denoising_strength=0.7)
    response = host.post("/sdapi/v1/txt2img", ordered(scene(**hires, **ERASURE), raise_in_call=6))
    assert response.status_code == 500
    check_that_nothing_is_left(host, references)


def test_an_exception_in_an_image_to_compare_with(host, references):
    payload = scene(**erasing("star", mode="constant", compare=True))
    answer = host.txt2img(**ordered(payload, raise_unerased=True))
    assert len(answer.images) == len(answer.infotexts) == 1
    assert same(answer.images[0], references[1])
    reported = answer.info["extra_generation_params"]["EIUP compare"]
    assert "the probe's error in an image without erasure" in reported
    check_that_nothing_is_left(host, references)


@pytest.mark.parametrize("command", ["interrupt", "skip"])
def test_an_image_that_was_stopped_is_not_compared(host, references, command):
    payload = scene(**erasing("star", mode="constant", compare=True))
    answer = host.txt2img(**ordered(payload, stop_in_call=command))
    assert len(answer.images) == 1
    assert "stopped" in answer.info["extra_generation_params"]["EIUP compare"]
    check_that_nothing_is_left(host, references)


@pytest.mark.parametrize("command", ["interrupt", "skip"])
def test_a_generation_that_is_stopped(host, references, command):
    answer = host.txt2img(**ordered(scene(**ERASURE), stop_in_call=command))
    assert len(answer.images) == 1
    assert not same(answer.images[0], references[1])
    check_that_nothing_is_left(host, references)


def test_what_is_not_erased_yet_is_not_shown_where_a_generation_is_stopped(host):
    def stopped(seed, **fields):
        payload = scene(seed=seed, steps=20, prompt="a house on a meadow", **erasing("star", "moon"))
        payload.update(fields)
        return host.txt2img(**ordered(payload, stop_in_call="interrupt")).images[0]

    of_no_concern = [stopped(seed) for seed in (1, 2)]
    named = [stopped(seed, prompt="a house with a star") for seed in (1, 2)]
    assert changed(*of_no_concern)
    assert same(*named)
    weightless = erasing({"concept": "star", "weight": 0}, "moon")
    assert changed(*(stopped(seed, prompt="a house with a star", **weightless) for seed in (1, 2)))


@pytest.mark.parametrize("command", ["interrupt", "skip"])
def test_img2img_that_is_stopped(host, references, command):
    image = encoded(host.txt2img(**scene()).pngs[0])
    payload = scene(init_images=[image], denoising_strength=1.0, n_iter=2, **ERASURE)
    assert host.img2img(**ordered(payload, stop_in_call=command)).images
    check_that_nothing_is_left(host, references)


REFUSED = {"hide_attention": "no text cross-attention", "replace_unet": "the U-Net is replaced"}


@pytest.mark.parametrize(("order", "message"), REFUSED.items(), ids=REFUSED)
def test_a_model_that_cannot_be_erased_in_is_refused(host, references, order, message):
    response = host.post("/sdapi/v1/txt2img", ordered(scene(**ERASURE), **{order: True}))
    body = response.json()
    assert response.status_code == 500
    assert message in body["errors"]
    assert "switch EIUP off" in body["errors"]
    assert "images" not in body
    check_that_nothing_is_left(host, references)


@pytest.mark.parametrize("order", ["clone", "fail_callback", "rerun", "rerun_row"])
def test_what_other_extensions_do_does_not_change_the_image(host, references, order):
    answer = host.txt2img(**ordered(scene(**ERASURE), **{order: True}))
    assert same(answer.images[0], references[1])
    check_that_nothing_is_left(host, references)


def test_a_second_run_of_the_model_is_erased_as_the_first(host):
    payload = scene(prompt="a wizard AND a forest at night :-0.5", batch_size=2, **ERASURE)
    host.txt2img(**ordered(payload, rerun=True))
    assert host.post("/eiup-probe/reset", {}).json()["rerun_difference"] < 1e-4


# ---------------------------------------------------------------------------------------------- rows

LONG = "a knight on a beach, " + ", ".join(["beautiful", "bright", "old", "quiet", "happy"] * 10)
EVEN = (["a wizard", "a knight", "a house"], [[1], [1], [1]])
TWO_AND_ONE = (["a wizard AND a forest at night :0.4", "a knight"], [[1, 0.4], [1]])
ONE_AND_THREE = (
    ["a knight", "a wizard :1.2 AND a forest AND a beach :-0.5", "a boat"],
    [[1], [1.2, 1, -0.5], [1]],
)
# Both are long: the webui lengthens the shorter of two images' prompts, so that it paints otherwise alone.
LONGER = ([f"{LONG} AND a wizard", f"a boat, {LONG}"], [[1, 1], [1]])
UNBATCHED = {"batch_cond_uncond": False}
ROWS = {
    "one call": (EVEN, {}, {}),
    "uneven": (TWO_AND_ONE, {}, {}),
    "uneven, a weight below zero": (ONE_AND_THREE, {}, {}),
    "in slices": (EVEN, {}, UNBATCHED),
    "in slices, uneven": (TWO_AND_ONE, {}, UNBATCHED),
    "in slices, uneven, a weight below zero": (ONE_AND_THREE, {}, UNBATCHED),
    "unequal length": (LONGER, {}, {}),
    "unequal length, in slices": (LONGER, {}, UNBATCHED),
    "unequal length, padded": (LONGER, {}, {"pad_cond_uncond": True}),
    "longer negative prompt": (TWO_AND_ONE, {"negative_prompt": LONG}, {}),
    "longer negative prompt, padded": (TWO_AND_ONE, {"negative_prompt": LONG}, {"pad_cond_uncond": True}),
    "longer negative prompt, cut": (TWO_AND_ONE, {"negative_prompt": LONG}, {"pad_cond_uncond_v0": True}),
    "unconditional rows skipped": (ONE_AND_THREE, {"s_min_uncond": 15.0}, {"s_min_uncond_all": True}),
    "unconditional rows skipped, in slices": (TWO_AND_ONE, {}, {**UNBATCHED, "skip_early_cond": 0.5}),
    "DDIM": (TWO_AND_ONE, {"sampler_name": "DDIM"}, {}),
}


@pytest.fixture(autouse=True)
def settings_stay(host):
    """The webui forgets to restore a setting that its file did not hold before it was overridden."""
    names = {name for _, _, settings in ROWS.values() for name in settings}
    before = host.get("/sdapi/v1/options").json()
    yield
    after = host.get("/sdapi/v1/options").json()
    leaked = {name: before[name] for name in names if after[name] != before[name]}
    if leaked:
        assert host.post("/sdapi/v1/options", leaked).status_code == 200


def rows_payload(changes, settings, **more):
    small = dict(negative_prompt="a horse", width=64, height=64, steps=3)
    return scene(**{**small, **changes}, override_settings=settings, **more)


@pytest.mark.parametrize(("batch", "changes", "settings"), ROWS.values(), ids=ROWS)
def test_only_conditional_rows_are_touched(host, batch, changes, settings):
    prompts, weights = batch
    payload = rows_payload(changes, settings, batch_size=len(prompts), **ERASURE)
    host.txt2img(**ordered(payload, prompts=prompts, watch=True))
    calls = host.post("/eiup-probe/reset", {}).json()["calls"]
    flat = [weight for image in weights for weight in image]
    rows = [tuple(row) for call in calls for row in call]
    assert {kind for kind, _ in rows if kind >= 0} == set(range(len(flat)))
    for kind, touched in rows:
        assert touched == (kind >= 0 and flat[kind] > 0), calls


@pytest.mark.parametrize(("batch", "changes", "settings"), ROWS.values(), ids=ROWS)
def test_each_image_of_a_batch_of_prompts_equals_the_one_made_alone(host, batch, changes, settings):
    prompts, _ = batch
    payload = rows_payload(changes, settings, **ERASURE)
    together = host.txt2img(**ordered({**payload, "batch_size": len(prompts)}, prompts=prompts)).images
    for index, (image, prompt) in enumerate(zip(together, prompts)):
        alone = host.txt2img(**{**payload, "prompt": prompt, "seed": payload["seed"] + index}).images[0]
        assert difference(image, alone) <= ROUNDING


# ------------------------------------------------------------------------------------------- journal


def records(folder):
    return [
        json.loads(line) for file in sorted((folder / "log" / "eiup").glob("*.jsonl")) for line in file.open()
    ]


def test_the_journal_has_a_record_of_each_image(host, data_folder, request):
    if request.config.getoption("--webui-url"):
        pytest.skip("a real webui's journal lies in its own folder")
    before = len(records(data_folder))
    host.txt2img(**scene(batch_size=2, n_iter=2, seed=40, **erasing("star", "moon:0.5")))
    new = records(data_folder)[before:]
    assert [record["seed"] for record in new] == [40, 41, 42, 43]
    own = [("star", 1.0), ("moon", 0.5)]
    assert [[(c["concept"], c["weight"]) for c in record["concepts"]] for record in new] == [own] * 4
    hires = dict(enable_hr=True, hr_scale=1.5, hr_upscaler="Latent", denoising_strength=0.7)
    before = len(records(data_folder))
    host.txt2img(**scene(**hires, **ERASURE))
    (record,) = records(data_folder)[before:]
    assert [part["pass"] for part in record["passes"]] == ["first", "hires"]


@pytest.mark.parametrize("denoising_strength", [0.7, 1.0])
def test_what_the_first_pass_saw_is_erased_in_the_whole_second_one(
    host, data_folder, request, denoising_strength
):
    """The second pass begins from an image that does not show the concept, and could bring it back."""
    if request.config.getoption("--webui-url"):
        pytest.skip("a real webui's journal lies in its own folder")
    hires = dict(enable_hr=True, hr_scale=1.5, hr_upscaler="Latent", denoising_strength=denoising_strength)
    before = len(records(data_folder))
    for seed in (1, 5):
        host.txt2img(**scene(seed=seed, steps=20, sampler_name="DDIM", **hires, **erasing("star")))
    new = records(data_folder)[before:]
    assert len(new) == 2
    for record in new:
        assert record["concepts"][0]["begun_anew"]
        assert min(record["passes"][1]["concepts"][0]["share_by_step"]) > 0


def test_the_journal_keeps_what_was_measured_before_the_switch_to_a_refiner(host, data_folder, request):
    if request.config.getoption("--webui-url"):
        pytest.skip("a real webui's journal lies in its own folder")
    before = len(records(data_folder))
    host.txt2img(**scene(steps=6, refiner_checkpoint="second", refiner_switch_at=0.5, **ERASURE))
    (record,) = records(data_folder)[before:]
    (only,) = record["passes"]
    assert len(only["progress"]) == 6
    assert min(only["concepts"][0]["share_by_step"]) > 0


def test_the_journal_has_no_record_of_an_image_that_was_not_made(host, data_folder, request):
    if request.config.getoption("--webui-url"):
        pytest.skip("a real webui's journal lies in its own folder")
    before = len(records(data_folder))
    host.post("/sdapi/v1/txt2img", ordered(scene(**ERASURE), raise_in_call=2))
    host.post("/sdapi/v1/txt2img", scene(**erasing("star", strength=11)))
    host.txt2img(**scene())
    assert len(records(data_folder)) == before
