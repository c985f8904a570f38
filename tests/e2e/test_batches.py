"""An image is erased the same in a batch as alone, however the webui lays the batch out."""

from __future__ import annotations

import pytest

from tests.e2e.support import ROUNDING, changed, difference, erasing, scene, single_images

CONCEPTS = erasing("star", "moon:0.5")
LONG = "a wizard in a forest, " + ", ".join(["beautiful", "bright", "old", "quiet", "happy"] * 10)


def override(**settings):
    return {"override_settings": settings}


@pytest.fixture(autouse=True)
def settings_stay(webui):
    """The webui forgets to restore a setting that its file did not hold before it was overridden."""
    names = ("batch_cond_uncond", "pad_cond_uncond", "s_min_uncond_all", "skip_early_cond")
    before = webui.get("/sdapi/v1/options").json()
    yield
    after = webui.get("/sdapi/v1/options").json()
    leaked = {name: before[name] for name in names if after[name] != before[name]}
    if leaked:
        assert webui.post("/sdapi/v1/options", leaked).status_code == 200


# What is sent, and a key that the webui writes into the infotext where the case has really come about.
LAYOUTS = {
    "AND": (dict(prompt="a wizard in a forest AND a knight on a beach"), None),
    "AND, three sub-prompts of uneven weight": (
        dict(prompt="a wizard :1.3 AND a forest at night :0.4 AND a boat :0.8"),
        None,
    ),
    "AND, a weight below zero": (dict(prompt="a wizard in a forest AND a beach :-0.5"), None),
    "long prompt": (dict(prompt=LONG), None),
    "long negative prompt": (dict(negative_prompt=LONG), None),
    "long prompt, AND": (dict(prompt=f"{LONG} AND a knight on a beach :0.6"), None),
    "long prompt, padded": (dict(prompt=LONG, **override(pad_cond_uncond=True)), "Pad conds"),
    "long negative prompt, padded": (
        dict(negative_prompt=LONG, **override(pad_cond_uncond=True)),
        "Pad conds",
    ),
    "no batching": (override(batch_cond_uncond=False), None),
    "no batching, AND": (
        dict(prompt="a wizard AND a forest :0.4 AND a boat", **override(batch_cond_uncond=False)),
        None,
    ),
    "no batching, long prompt, AND": (
        dict(prompt=f"{LONG} AND a knight :0.6", **override(batch_cond_uncond=False)),
        None,
    ),
    "negative prompt skipped in every other step": (dict(s_min_uncond=15.0), "NGMS"),
    "negative prompt skipped in all steps": (
        # The first sub-prompt stands in for the negative prompt, and cancels out.
        dict(s_min_uncond=15.0, prompt="a forest AND a wizard", **override(s_min_uncond_all=True)),
        "NGMS all steps",
    ),
    "early guidance skipped": (override(skip_early_cond=0.5), "Skip Early CFG"),
    "prompt editing": (dict(prompt="a [wizard:knight:0.5] in a [forest|night]"), None),
    "emphasis": (dict(prompt="a (wizard:1.4) in a [forest]", negative_prompt="(night:1.2)"), None),
    "no guidance": (dict(cfg_scale=1), None),
}


def check_batch(webui, count, payload):
    batch = webui.txt2img(**payload, batch_size=count, **CONCEPTS)
    alone = single_images(webui.txt2img, count, **payload, **CONCEPTS)
    assert batch.info["all_seeds"] == [payload["seed"] + i for i in range(count)]
    assert len(batch.images) == count
    for together, apart in zip(batch.images, alone):
        assert difference(together, apart) <= ROUNDING
    assert changed(alone[0], alone[1])
    return batch


def test_each_of_four_images_equals_the_one_made_alone(webui):
    check_batch(webui, 4, scene())


@pytest.mark.parametrize(("changes", "key"), LAYOUTS.values(), ids=LAYOUTS)
def test_each_layout_of_a_batch_is_erased_as_alone(webui, changes, key):
    payload = scene(**changes)
    plain = webui.txt2img(**payload)
    batch = check_batch(webui, 3, payload)
    assert changed(batch.images[0], plain.images[0])
    if key:
        assert f"{key}: " in batch.infotexts[0]


def test_one_request_of_several_batches_equals_its_images_alone(webui):
    answer = webui.txt2img(**scene(batch_size=2, n_iter=2, **CONCEPTS))
    alone = single_images(webui.txt2img, 4, **scene(**CONCEPTS))
    assert [difference(a, b) <= ROUNDING for a, b in zip(answer.images, alone)] == [True] * 4


def test_a_batch_that_is_cut_into_pieces_is_erased_as_the_whole(webui):
    prompts = dict(prompt="a wizard AND a forest at night :0.4", negative_prompt="a boat")
    payload = scene(**prompts, batch_size=2, **CONCEPTS)
    whole = webui.txt2img(**payload)
    pieces = webui.txt2img(**payload, **override(batch_cond_uncond=False))
    assert [difference(a, b) <= ROUNDING for a, b in zip(whole.images, pieces.images)] == [True] * 2
