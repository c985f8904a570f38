"""A policy and what the webui brings along: its scripts, samplers, settings and queue.

What a webui does not have is skipped; a real one (``--webui-url``) has all of it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import chain, cycle
from typing import Any

import pytest

from tests.e2e.support import erasing, scene
from tests.e2e.test_infotext import value_in
from tests.integration.policed import (
    POLICY,
    PolicedServer,
    attempt,
    check_infotexts,
    check_proof,
    check_records,
    check_refusal,
    infotexts_of,
)

STAR = {"prompt": "a star", "steps": 2}


@pytest.fixture(scope="module")
def server(policed) -> PolicedServer:
    policed.write(POLICY)
    return policed


def listed(server: PolicedServer, path: str) -> list[dict[str, Any]]:
    return server.client.get(f"/sdapi/v1/{path}").json()


def script(server: PolicedServer, name: str, tab: str, **changes: Any) -> dict[str, Any]:
    """The part of a payload that chooses a script, with its default arguments but for ``changes``, by
    label."""
    found = [
        s for s in listed(server, "script-info") if (s["name"], s["is_img2img"]) == (name, tab == "img2img")
    ]
    if not found:
        pytest.skip(f"this webui has no script {name!r}")
    assert set(changes) <= {argument["label"] for argument in found[0]["args"]}
    args = [changes.get(argument["label"], argument["value"]) for argument in found[0]["args"]]
    return {"script_name": name, "script_args": args}


LINES = 'a star\n--prompt "a moon" --steps 3 --cfg_scale 1 --negative_prompt "no star"'
# The tab, the script's arguments, the payload, and how many images are made on the way.
SCRIPTS = {
    "prompt matrix": ("txt2img", {}, {"prompt": "a wizard|a star|a moon"}, 4),
    "prompts from file or textbox": ("txt2img", {"List of prompt inputs": LINES}, {}, 2),
    "loopback": ("img2img", {"Loops": 2}, {"n_iter": 2}, 4),
    "sd upscale": ("img2img", {"Scale Factor": 1.5, "Upscaler": "Lanczos"}, {}, 4),
    "outpainting mk2": ("img2img", {"Outpainting direction": ["left"]}, {}, 1),
    "poor man's outpainting": ("img2img", {"Pixels to expand": 64}, {}, 8),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_makes_no_image_unerased(server, name):
    tab, changes, payload, count = SCRIPTS[name]
    if tab == "img2img":
        payload = {**payload, "denoising_strength": 0.8, "init_images": [server.picture()]}
    payload = scene(**{**STAR, **payload}, **script(server, name, tab, **changes))
    response, records = attempt(server, tab, payload)
    # What a script puts together from several images has the infotext of one.
    check_infotexts(server, [text for text in infotexts_of(response) if text])
    check_records(server, records)
    assert len(records) == count


PLOTS = {
    "Prompt S/R": "star, moon",
    "Checkpoint name": "toyland, second",
    "CFG Scale": "-3, 0, 5",
    "Sampler": "DDIM, Heun",
    "Hires steps": "1, 2",
}


@pytest.mark.parametrize("axis", PLOTS)
def test_a_plot_makes_no_image_unerased(server, axis):
    values = PLOTS[axis]
    plot = script(server, "x/y/z plot", "txt2img")
    labels = next(s for s in listed(server, "script-info") if s["name"] == "x/y/z plot")["args"][0]["choices"]
    if axis not in labels:
        pytest.skip(f"this webui's plots have no axis {axis!r}")
    nothing = [labels.index("Nothing"), "", []]
    args = [
        labels.index(axis),
        values,
        [],
        *nothing,
        *nothing,
        False,
        True,
        *plot["script_args"][11:-1],
        True,
    ]
    payload = scene(**STAR, script_name="x/y/z plot", script_args=args)
    response, records = attempt(server, "txt2img", payload)
    check_proof(server, infotexts_of(response), records)
    assert len(records) == len(values.split(","))


def test_a_script_that_calls_the_model_by_itself_is_refused(server):
    name = "img2img alternative test"
    payload = scene(init_images=[server.picture()], **script(server, name, "img2img", **{"Decode steps": 4}))
    response, records = attempt(server, "img2img", payload)
    check_refusal(server, response, records, "outside of sampling under erasure")


def test_no_sampler_or_scheduler_makes_an_image_unerased(server):
    schedulers = cycle(listed(server, "schedulers"))
    for sampler, scheduler in zip(listed(server, "samplers"), schedulers):
        names = {"sampler_name": sampler["name"], "scheduler": scheduler["name"]}
        response, records = attempt(server, "txt2img", scene(**{**STAR, "steps": 4, **names}))
        check_proof(server, infotexts_of(response), records)


LONG = "a star " * 40
SETTINGS = {
    "CLIP skip": ({"CLIP_stop_at_last_layers": 2}, STAR),
    "token merging": ({"token_merging_ratio": 0.5}, STAR),
    "padded prompts": ({"pad_cond_uncond": True}, {**STAR, "prompt": LONG}),
    "padded prompts as in earlier versions": ({"pad_cond_uncond_v0": True}, {**STAR, "prompt": LONG}),
    "no emphasis": ({"emphasis": "None"}, {**STAR, "prompt": "(a star:1.5)"}),
    "another noise schedule": ({"sd_noise_schedule": "Zero Terminal SNR"}, STAR),
    "hypertile": ({"hypertile_enable_unet": True}, STAR),
    "a refiner by steps": (
        {"refiner_switch_by_sample_steps": True},
        {**STAR, "steps": 5, "refiner_checkpoint": "second.safetensors", "refiner_switch_at": 0.4},
    ),
    "images of every kind saved": (
        {name: True for name in ("samples_save", "save_images_before_highres_fix", "save_incomplete_images")},
        {**STAR, "save_images": True, "enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent",
         "denoising_strength": 0.7},
    ),
    "settings that stay": ({"eta_ancestral": 0.5}, {**STAR, "override_settings_restore_afterwards": False}),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_no_setting_makes_an_image_unerased(server, name):
    settings, payload = SETTINGS[name]
    unknown = set(settings) - set(listed(server, "options"))
    if unknown:
        pytest.skip(f"this webui has no setting {unknown.pop()!r}")
    # What was never saved, the webui does not put back.
    before = {name: listed(server, "options")[name] for name in settings}
    server.client.post("/sdapi/v1/options", before)
    try:
        response, records = attempt(server, "txt2img", scene(**payload, override_settings=settings))
        check_proof(server, infotexts_of(response), records)
    finally:
        server.client.post("/sdapi/v1/options", before)


OPTIMIZATIONS = (
    "sdp - scaled dot product",
    "sub-quadratic",
    "V1 - original v1",
    "Doggettx",
    "None",
    "Automatic",
)


def test_no_attention_optimization_makes_an_image_unerased(server, is_stand_in):
    if is_stand_in:
        pytest.skip("the stand-in host has one attention only")
    for optimization in OPTIMIZATIONS:
        server.client.post("/sdapi/v1/options", {"cross_attention_optimization": optimization})
        response, records = attempt(server, "txt2img", scene(**STAR))
        check_proof(server, infotexts_of(response), records)


def test_variations_are_erased(server):
    payload = scene(**STAR, tiling=True, subseed=3, subseed_strength=0.5, seed_resize_from_h=64,
                    seed_resize_from_w=64, eta=0.5, s_churn=0.5, s_noise=1.1)  # fmt: skip
    response, records = attempt(server, "txt2img", payload)
    check_proof(server, infotexts_of(response), records)


def test_soft_inpainting_is_erased(server):
    if "soft inpainting" not in listed(server, "scripts")["img2img"]:
        pytest.skip("this webui has no soft inpainting")
    payload = scene(**STAR, init_images=[server.picture()], mask=server.picture(), denoising_strength=0.9,
                    alwayson_scripts={"soft inpainting": {"args": [True, 1, 0.5, 4, 0, 1, 2]}})  # fmt: skip
    response, records = attempt(server, "img2img", payload)
    check_proof(server, infotexts_of(response), records)


def test_an_upscaled_image_of_the_users_own_is_erased(server):
    payload = scene(**STAR, enable_hr=True, hr_scale=1.5, hr_upscaler="Lanczos", denoising_strength=0.6)
    response, records = attempt(server, "txt2img", {**payload, "firstpass_image": server.picture()})
    if response.status_code == 200:
        check_proof(server, infotexts_of(response), records)
    else:
        assert "images" not in response.json()


@pytest.mark.parametrize("route", ["unload-checkpoint", "reload-checkpoint", "refresh-checkpoints"])
def test_a_model_that_was_loaded_anew_is_guarded(server, route):
    answer = server.client.post(f"/sdapi/v1/{route}", {})
    if answer.status_code == 404:
        pytest.skip(f"this webui has no route {route}")
    response, records = attempt(server, "txt2img", scene(**STAR))
    check_proof(server, infotexts_of(response), records)
    # Nor can the new model's U-Net be called by anybody else.
    payload = scene(**STAR, alwayson_scripts={"Saboteur": {"args": [{"own_sample": "model"}]}})
    response, records = attempt(server, "txt2img", payload)
    server.mend()
    check_refusal(server, response, records, "outside of sampling under erasure")


def test_a_checkpoint_chosen_in_the_settings_is_guarded(server):
    before = listed(server, "options")["sd_model_checkpoint"]
    try:
        server.client.post("/sdapi/v1/options", {"sd_model_checkpoint": "second.safetensors"})
        response, records = attempt(server, "txt2img", scene(**STAR))
        check_proof(server, infotexts_of(response), records)
    finally:
        server.client.post("/sdapi/v1/options", {"sd_model_checkpoint": before})


def test_requests_that_wait_for_each_other_are_erased(server):
    before = len(server.records())
    payloads = [
        scene(**STAR),
        scene(**STAR, **erasing("star", "moon", strength=3, mode="strict")),
        scene(**STAR, batch_size=2),
        scene(**STAR, **erasing("forest")),
    ]
    with ThreadPoolExecutor(len(payloads)) as pool:
        answers = [pool.submit(server.client.post, "/sdapi/v1/txt2img", payload) for payload in payloads]
        *erased, refused = [answer.result() for answer in answers]
    records = server.records()[before:]
    images = [record for record in records if "event" not in record]
    check_proof(server, list(chain.from_iterable(map(infotexts_of, erased))), images)
    check_refusal(server, refused, [r for r in records if "event" in r], "concepts of this server's policy")


def test_pictures_that_are_only_worked_on_need_no_erasure(server):
    answer = server.client.post(
        "/sdapi/v1/extra-single-image", {"image": server.picture(), "upscaling_resize": 2}
    )
    if answer.status_code == 404:
        pytest.skip("this webui has no extras")
    assert answer.status_code == 200
    info = server.client.post("/sdapi/v1/png-info", {"image": server.picture()}).json()["info"]
    assert value_in(info)["policy"]["hash"] == server.hash
