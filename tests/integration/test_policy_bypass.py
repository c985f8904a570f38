"""Attempts to get past a policy, by users and by other extensions (``probe/``).

Each ends in images every row of which was under erasure, as infotext and journal prove and the probe has seen
for itself, or in an error that the journal has a record of.
"""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from bench.soak_cases import NOT_NEEDED, OWN
from tests.e2e.support import erasing, same, scene, with_args
from tests.e2e.test_infotext import value_in
from tests.e2e.test_xyz_plot import plot_of
from tests.integration.policed import (
    POLICY,
    PolicedServer,
    attempt,
    check_proof,
    check_refusal,
    check_rows_changed,
    infotexts_of,
)

HIRES = dict(enable_hr=True, hr_scale=1.5, hr_upscaler="Latent", denoising_strength=0.7)


@pytest.fixture(scope="module")
def server(policed) -> PolicedServer:
    policed.write(POLICY)
    return policed


def ordered(payload: dict[str, Any], **orders: Any) -> dict[str, Any]:
    scripts = {**payload.get("alwayson_scripts", {}), "Probe": {"args": [orders]}}
    return {**payload, "alwayson_scripts": scripts}


def watched(payload: dict[str, Any]) -> dict[str, Any]:
    return ordered(payload, watch=True)


def sabotaged(payload: dict[str, Any], **orders: Any) -> dict[str, Any]:
    scripts = {**payload.get("alwayson_scripts", {}), "Saboteur": {"args": [orders]}}
    return {**payload, "alwayson_scripts": scripts}


@pytest.fixture(autouse=True)
def mended(server):
    """Nothing of an attempt is left for the next one: neither a pass that runs, nor what was broken."""
    yield
    server.mend()


# --------------------------------------------------------------------------------- what users may ask for

LITTLE = erasing("star:0.01", "moon:0.01", strength=0.1, mode="constant")
INFOTEXT = (
    "a wizard in a forest\nSteps: 4, Sampler: Euler, CFG scale: 5, Seed: 7, Size: 128x128, "
    r'EIUP: "{\"v\":4,\"concepts\":[\"star\"],\"strength\":0.0,\"mode\":\"constant\"}", '
    "Version: v1.10.1"
)
ASKED = {
    "nothing is said of EIUP": {},
    "no arguments": with_args([]),
    "disabled": with_args([{"enabled": False, "concepts": ["star"]}]),
    "disabled, as the page sends it": with_args([False, "star", 2.0, 0.0, 1.0]),
    "no concepts": with_args([{"enabled": True}]),
    "empty concepts": with_args([{"enabled": True, "concepts": " \n# star\n,"}]),
    "one of the concepts left out": erasing("star", mode="constant"),
    "weaker strength": erasing("star", "moon", strength=0.5, mode="constant"),
    "strength of 0": erasing("star", "moon", strength=0, mode="constant"),
    "weights of 0": erasing("star:0", "moon:0", mode="constant"),
    "tiny weights and strength": LITTLE,
    "a mode that is not allowed": erasing("star", mode="projection"),
    "a window that ends at 0": erasing("star", "moon", start=0, end=0, mode="constant"),
    "a window that begins at 1": erasing("star", "moon", start=1, end=1, mode="constant"),
    "preserve": erasing("star", mode="constant", preserve=True),
    "compare with the image without erasure": erasing("star", mode="constant", compare=True),
    "the script's name in another case": {"alwayson_scripts": {"eIuP": {"args": [{"strength": 0}]}}},
    "an earlier image's infotext": {"infotext": INFOTEXT},
    "journal off": {"override_settings": {"eiup_journal": False}},
    "settings that skip guidance": {"override_settings": {"skip_early_cond": 1.0}},
    "settings that skip unconditional rows": {
        "s_min_uncond": 100.0, "override_settings": {"s_min_uncond_all": True},
    },
    "settings that run rows one by one": {"override_settings": {"batch_cond_uncond": False}},
    "another checkpoint": {"override_settings": {"sd_model_checkpoint": "second.safetensors"}},
    "another checkpoint for the second pass": {**HIRES, "hr_checkpoint_name": "second.safetensors"},
    "hires fix": HIRES,
    "hires fix with another prompt": {**HIRES, "hr_prompt": "a star and a moon"},
    "a batch": {"batch_size": 2},
    "several batches": {"n_iter": 2},
    "one step": {"steps": 1},
    "another sampler": {"sampler_name": "DDIM"},
    "a sampler of two calls a step": {"sampler_name": "Heun"},
    "a refiner": {"steps": 6, "refiner_checkpoint": "second.safetensors", "refiner_switch_at": 0.5},
    "prompt editing": {"prompt": "a wizard [star:0.5] in a forest"},
    "alternating words": {"prompt": "a wizard in a [forest|star]"},
    "emphasis": {"prompt": "a wizard with a (star:1.9)"},
    "BREAK": {"prompt": "a wizard BREAK a star"},
    "a long prompt": {"prompt": "a star " * 60},
    "AND": {"prompt": "a wizard AND a star AND a moon"},
    "no guidance": {"cfg_scale": 1},
    "the concept in the negative prompt": {"negative_prompt": "forest without a star"},
    "a saved style": {"styles": ["nobody's"]},
}  # fmt: skip


@pytest.mark.parametrize("payload", ASKED.values(), ids=ASKED)
def test_what_a_user_asks_for_is_erased_all_the_same(server, payload):
    response, records = attempt(server, "txt2img", watched(scene(**payload)))
    check_proof(server, infotexts_of(response), records)
    check_rows_changed(server)


# In these, a row that is subtracted would bring the concept back, were it erased.
SUBTRACTED = {
    "negative guidance": {"cfg_scale": -5, "negative_prompt": "a star", "prompt": ""},
    "AND with a negative weight": {"prompt": "a wizard AND a star :-1"},
    # Begins without erasure, and what it makes then is thrown away.
    "heat maps": erasing("star", mode="constant", maps=True),
    "no weight at all": {"prompt": "a wizard :0 AND a star :0"},
}


@pytest.mark.parametrize("payload", SUBTRACTED.values(), ids=SUBTRACTED)
def test_every_row_is_decided_on(server, payload):
    response, records = attempt(server, "txt2img", scene(**payload))
    check_proof(server, infotexts_of(response), records)


IMG2IMG = {
    "img2img": {"denoising_strength": 0.5},
    "img2img of strength 1": {"denoising_strength": 1.0},
    "img2img of next to no strength": {"denoising_strength": 0.01},
    "img2img, disabled": {"denoising_strength": 0.7, **with_args([{"enabled": False}])},
    "img2img of several batches": {"denoising_strength": 0.7, "n_iter": 2},
    "inpainting": {"denoising_strength": 0.9, "mask": True},
    "inpainting of the masked only": {"denoising_strength": 0.9, "mask": True, "inpaint_full_res": True},
}


@pytest.mark.parametrize("payload", IMG2IMG.values(), ids=IMG2IMG)
def test_what_is_made_from_an_image_is_erased_all_the_same(server, payload):
    picture = server.picture()
    if payload.get("mask"):
        payload = {**payload, "mask": picture}
    response, records = attempt(server, "img2img", watched(scene(init_images=[picture], **payload)))
    check_proof(server, infotexts_of(response), records)
    check_rows_changed(server)


PLOTS = {
    "a plot of strengths": dict(x="Strength", x_values="0, 1"),
    "a plot of enabled": dict(x="Enabled", x_values="False, True"),
    "a plot of weights": dict(x="Weight of a concept", x_values="star:0, moon:0"),
    "a plot of windows": dict(x="End", x_values="0, 0.1"),
}


@pytest.mark.parametrize("axes", PLOTS.values(), ids=PLOTS)
def test_each_image_of_a_plot_is_erased(server, axes):
    payload = scene(**erasing("star", "moon", mode="constant"), **plot_of(server.client, **axes))
    response, records = attempt(server, "txt2img", payload)
    check_proof(server, infotexts_of(response), records)
    assert len(records) == 2


def test_an_image_that_is_saved_has_its_proof(server):
    saved = set(server.data.rglob("*.png"))
    attempt(server, "txt2img", scene(save_images=True))
    (path,) = set(server.data.rglob("*.png")) - saved
    proof = value_in(Image.open(path).info["parameters"])["policy"]
    assert proof["rows"] == proof["under_erasure"] == 4


def test_what_was_lifted_is_told(server):
    response, (record,) = attempt(server, "txt2img", scene(**LITTLE))
    lifted = value_in(infotexts_of(response)[0])["policy"]["lifted"]
    assert lifted == record["policy"]["lifted"]
    assert {lift["field"]: (lift["asked"], lift["in_force"]) for lift in lifted} == {
        "weight of star": (0.01, 1.0),
        "weight of moon": (0.01, 0.5),
        "strength": (0.1, 2.0),
    }


def test_stronger_values_stay(server):
    response, _ = attempt(server, "txt2img", scene(**erasing("star:2", "moon:2", strength=3, mode="strict")))
    value = value_in(infotexts_of(response)[0])
    assert value["strength"] == 3
    assert value["concepts"] == [{"concept": "star", "weight": 2.0}, {"concept": "moon", "weight": 2.0}]
    assert "lifted" not in value["policy"]


def test_feedback_lowers_no_weight_below_the_policy(server):
    for _ in range(5):
        answer = server.client.post("/eiup/v1/feedback", {"concept": "star", "verdict": "spoilt"})
        assert answer.json()["factors"]["star"] < 1
    response, records = attempt(server, "txt2img", watched(scene(**erasing("star", "moon", mode="constant"))))
    server.client.http.delete("/eiup/v1/feedback")
    check_proof(server, infotexts_of(response), records)
    assert [lift["field"] for lift in records[0]["policy"]["lifted"]] == ["weight of star"]


def test_a_preset_that_was_edited_changes_nothing(server):
    body = {"concepts": "star:0\nmoon:0"}
    assert server.client.http.put("/eiup/v1/presets/mine", json=body).status_code == 200
    response, records = attempt(server, "txt2img", watched(scene(**erasing("@mine", mode="constant"))))
    check_proof(server, infotexts_of(response), records)
    check_rows_changed(server)


def test_settings_do_not_switch_the_journal_off(server):
    settings = {"eiup_journal": False, "eiup_journal_days": 1, "eiup_journal_megabytes": 1e-9}
    defaults = {"eiup_journal": True, "eiup_journal_days": 0, "eiup_journal_megabytes": 100}
    assert server.client.post("/sdapi/v1/options", settings).status_code == 200
    try:
        response, records = attempt(server, "txt2img", scene())
        check_proof(server, infotexts_of(response), records)
        assert len(list(server.journal.iterdir())) == 1
    finally:
        server.client.post("/sdapi/v1/options", defaults)


@pytest.mark.timeout(1200)
def test_an_image_of_a_mode_that_looks_is_erased(server):
    payload = scene(**erasing("star", "moon", mode="adaptive"))
    response, records = attempt(server, "txt2img", payload)
    check_proof(server, infotexts_of(response), records)
    assert value_in(infotexts_of(response)[0])["mode"] == "adaptive"


UNSEEN = {
    "one step": {"steps": 1},
    "a refiner that takes over early": {
        "steps": 6, "refiner_checkpoint": "second.safetensors", "refiner_switch_at": 0.1,
    },
}  # fmt: skip


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("payload", UNSEEN.values(), ids=UNSEEN)
def test_where_nobody_looks_every_image_is_erased(server, payload):
    response, records = attempt(
        server, "txt2img", scene(**payload, **erasing("star", "moon", mode="adaptive"))
    )
    check_proof(server, infotexts_of(response), records)
    assert value_in(infotexts_of(response)[0])["mode"] == "strict"
    assert {"field": "mode", "asked": "adaptive", "in_force": "strict"} in records[0]["policy"]["lifted"]


@pytest.mark.parametrize("command", ["interrupt", "skip"])
def test_an_image_that_is_stopped(server, command):
    payload = ordered(scene(), stop_in_call=command)
    response, records = attempt(server, "txt2img", payload)
    check_proof(server, infotexts_of(response), records)


# Of an image that is stopped, the webui shows what its first prompt predicts.
STOPPED_AND_BLANK = {
    "before its look": erasing("star", "moon", mode="adaptive"),
    "with a first prompt that is subtracted": {"prompt": "a star :-1 AND a wizard"},
    "with a first prompt without weight": {"prompt": "a star :0 AND a wizard"},
    "with negative guidance": {"cfg_scale": -5, "prompt": "a star"},
    "with guidance of 0": {"cfg_scale": 0, "prompt": "a star"},
}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("command", ["interrupt", "skip"])
@pytest.mark.parametrize("asked", STOPPED_AND_BLANK.values(), ids=STOPPED_AND_BLANK)
def test_what_is_stopped_and_not_erased_is_blank(server, asked, command):
    def stopped(seed):
        payload = {"prompt": "a house", **asked, "seed": seed, "steps": 20}
        return server.client.txt2img(**ordered(scene(**payload), stop_in_call=command)).images[0]

    assert same(stopped(1), stopped(2))


UNSEEN_PREVIEWS = {
    "the negative prompt": {
        "negative_prompt": "a star", "override_settings": {"live_preview_content": "Negative prompt"},
    },
    "a prompt that is subtracted": {"cfg_scale": -5, "prompt": "a star"},
}  # fmt: skip


@pytest.mark.parametrize("way", ["any", "little_vram"])
@pytest.mark.parametrize("asked", UNSEEN_PREVIEWS.values(), ids=UNSEEN_PREVIEWS)
def test_no_preview_shows_what_is_not_erased(server, asked, way):
    server.client.txt2img(**ordered(scene(**asked), previews=way))
    seen = server.client.post("/eiup-probe/reset", {}).json()["previews"]
    assert len(seen) == 4
    assert not any(seen)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("way", ["any", "little_vram"])
def test_previews_begin_with_the_look(server, way):
    payload = scene(steps=12, prompt="a house", **erasing("star", "moon", mode="adaptive"))
    server.client.txt2img(**ordered(payload, previews=way))
    seen = server.client.post("/eiup-probe/reset", {}).json()["previews"]
    assert not any(seen[:4])
    assert seen[-1]


WRONG = {
    "a concept that users may not add": (erasing("star", "forest"), "concepts of this server's policy"),
    "a wrong value": (erasing("star", strength=11), "strength is 11"),
    "an unknown field": (with_args([{"policy": "off"}]), "policy is 'off'"),
    "an unknown preset": (erasing("@nobody"), "@nobody"),
    "too many arguments, in words": (with_args(["no"]), "enabled is 'no'"),
}


@pytest.mark.parametrize(("payload", "reason"), WRONG.values(), ids=WRONG)
def test_a_request_with_an_error_in_it_is_refused(server, payload, reason):
    response, records = attempt(server, "txt2img", scene(**payload))
    check_refusal(server, response, records, reason)


# -------------------------------------------------------------------------------- what other extensions do

HARMLESS = {
    "the script runner is taken away": dict(no_scripts=True),
    "EIUP's script is not called": dict(no_scripts=True, forget=True),
    "EIUP's own attribute is taken away": dict(forget=True),
    "the steps are changed when sampling begins": dict(steps=1),
}


@pytest.mark.parametrize("orders", HARMLESS.values(), ids=HARMLESS)
def test_images_are_erased_without_the_script(server, orders):
    response, records = attempt(server, "txt2img", sabotaged(scene(), **orders))
    check_proof(server, infotexts_of(response), records)


@pytest.mark.parametrize("kind", ["filtered", "none"])
def test_inner_passes_are_erased(server, kind):
    response, records = attempt(server, "txt2img", sabotaged(scene(), inner=kind))
    seen = server.client.post("/eiup-saboteur/mend", {}).json()
    assert seen["inner_errors"] == []
    check_proof(server, [*seen["inner"], *infotexts_of(response)], records)


SABOTAGE = {
    "all hooks of the U-Net are removed": (dict(clear_unet_hooks=True), "under erasure in a denoiser call"),
    "the hooks behind the U-Net are removed": (dict(clear_after_hooks=True), "under erasure"),
    "the hooks of one layer are removed": (
        dict(clear_layer_hooks=True),
        "cross-attention layers were corrected",
    ),
    "the hooks of the queries are removed": (dict(clear_query_hooks=True), "without its queries being seen"),
    "the hooks of the inner model are removed": (dict(clear_inner_hooks=True), "rows"),
    "the callbacks are removed": (dict(clear_callbacks=True), "rows"),
    "errors in denoiser calls are caught": (dict(catch_errors=True, clear_layer_hooks=True), "under erasure"),
    "attention without the layers' modules": (
        dict(own_attention=True),
        "cross-attention layers were corrected",
    ),
    "a layer that is left out": (dict(skip_layer=True), "cross-attention layers were corrected"),
    "a sampler of its own": (dict(own_sampler=True, no_scripts=False), "outside of sampling under erasure"),
    "a sampler whose wrapping is undone": (dict(unwrap_sampler=True), "outside of sampling under erasure"),
    "images from noise": (dict(own_sample="noise"), "without a sampling pass"),
    "images from a call of the model": (dict(own_sample="model"), "outside of sampling under erasure"),
    "images from the U-Net's forward": (dict(own_sample="unet"), "without a sampling pass"),
}


@pytest.mark.parametrize(("orders", "reason"), SABOTAGE.values(), ids=SABOTAGE)
def test_what_another_extension_breaks_is_refused(server, orders, reason):
    saved = set(server.data.rglob("*.png"))
    response, records = attempt(server, "txt2img", sabotaged(scene(save_images=True), **orders))
    check_refusal(server, response, records, reason)
    assert set(server.data.rglob("*.png")) == saved


PROBED = {
    "attention under another name": (dict(hide_attention=True), "no text cross-attention"),
    "a replaced U-Net": (dict(replace_unet=True), "the U-Net is replaced"),
    "an error in the model": (dict(raise_in_call=2), "in the middle of sampling"),
}


@pytest.mark.parametrize(("orders", "reason"), PROBED.values(), ids=PROBED)
def test_what_cannot_be_erased_is_refused(server, orders, reason):
    response, records = attempt(server, "txt2img", ordered(scene(), **orders))
    check_refusal(server, response, records, reason)


@pytest.mark.parametrize(
    "orders", [dict(clone=True), dict(rerun=True), dict(rerun_row=True), dict(fail_callback=True)], ids=str
)
def test_what_disturbs_and_can_be_erased_is_erased(server, orders):
    response, records = attempt(server, "txt2img", ordered(scene(), **orders))
    check_proof(server, infotexts_of(response), records)


# --------------------------------------------------------------------------------- errors of EIUP's own


@pytest.mark.parametrize("target", [*OWN, NOT_NEEDED], ids=lambda target: target.partition(":")[2])
def test_an_error_in_our_own_code_leaves_no_image_unerased(server, target):
    server.client.post("/eiup-saboteur/break", {"target": target})
    response, records = attempt(server, "txt2img", scene())
    if target == NOT_NEEDED:
        check_proof(server, infotexts_of(response), records)
    else:
        assert response.status_code == 500, response.text[:500]
        assert "images" not in response.json()
        assert [record.get("event") for record in records][-1:] == ["refused"]
        assert records[-1]["policy"] == {"hash": server.hash}


def test_no_image_is_made_where_the_journal_cannot_be_written(server):
    server.client.post("/eiup-saboteur/break", {"target": "eiup.journal:Journal.append"})
    response, records = attempt(server, "txt2img", scene())
    assert response.status_code == 500
    assert "append is broken" in response.json()["errors"]
    assert records == []


# ---------------------------------------------------------------------------- images without a U-Net call


@pytest.mark.parametrize("denoising_strength", [0.3, 1.0])
def test_an_image_for_which_the_unet_is_not_called_is_refused(server, denoising_strength):
    payload = scene(
        init_images=[server.picture()], sampler_name="DDIM", steps=2, denoising_strength=denoising_strength
    )
    response, records = attempt(server, "img2img", payload)
    check_refusal(server, response, records, "without a call of the U-Net")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("command", ["interrupt", "skip"])
def test_an_image_that_is_stopped_before_its_first_call_has_its_record(server, command):
    # The method is called for each batch, before anything is sampled.
    orders = {"stop": command, "stop_in": "process_before_every_sampling"}
    payload = scene(n_iter=2, alwayson_scripts={"Faults": {"args": [orders]}})
    response, records = attempt(server, "txt2img", payload)
    server.client.post("/eiup-faults/mend", {})
    infotexts = infotexts_of(response)
    assert len(records) == len(infotexts) == (1 if command == "interrupt" else 2)
    assert [value_in(text)["policy"]["rows"] for text in infotexts] == [0, 4][: len(infotexts)]
    assert [record["policy"]["rows"] for record in records] == [0, 4][: len(records)]
