"""The modes in a webui: adaptive erasure leaves alone what does not hold the concept."""

from __future__ import annotations

import numpy as np
import pytest

from tests.e2e.support import ROUNDING, changed, difference, encoded, erasing, same, scene

UNRELATED = "a car in the snow"
PRESERVING = erasing("star", mode="adaptive", preserve=True)


def test_an_unrelated_image_stays_as_it_was(webui):
    payload = scene(prompt=UNRELATED)
    plain = webui.txt2img(**payload)
    erased = webui.txt2img(**payload, **erasing("star", mode="adaptive"))
    assert same(erased.images[0], plain.images[0])
    assert "EIUP" in erased.infotexts[0]


@pytest.mark.parametrize("mode", ["adaptive", "strict", "constant", "projection"])
def test_every_mode_changes_an_image_with_the_concept(webui, plain, mode):
    erased = webui.txt2img(**scene(), **erasing("star", mode=mode))
    assert changed(erased.images[0], plain)


def test_each_prompt_of_a_batch_has_its_own_gate(webui):
    # The seeds of a batch count on.
    payload = scene(prompt="a wizard in a forest", n_iter=1, batch_size=2)
    batch = webui.txt2img(**payload, **erasing("star", mode="adaptive"))
    for index, image in enumerate(batch.images):
        alone = webui.txt2img(
            **scene(prompt="a wizard in a forest", seed=payload["seed"] + index),
            **erasing("star", mode="adaptive"),
        )
        assert difference(image, alone.images[0]) <= ROUNDING


@pytest.mark.parametrize("cfg_scale", [-5, 0.5])
def test_the_concept_in_the_negative_prompt_does_not_come_back_by_a_scale_below_one(webui, cfg_scale):
    payload = scene(prompt="a car in the snow", negative_prompt="a wizard, star", cfg_scale=cfg_scale)
    plain = webui.txt2img(**payload)
    assert changed(webui.txt2img(**payload, **erasing("star", mode="adaptive")).images[0], plain.images[0])


def test_the_concept_in_an_ordinary_negative_prompt_is_left_alone(webui):
    payload = scene(prompt=UNRELATED, negative_prompt="star")
    plain = webui.txt2img(**payload)
    assert same(webui.txt2img(**payload, **erasing("star", mode="adaptive")).images[0], plain.images[0])


# --------------------------------------------------------------------------------------- preserve


def test_preserve_keeps_an_unrelated_image_as_it_was(webui):
    payload = scene(prompt=UNRELATED)
    plain = webui.txt2img(**payload)
    assert same(webui.txt2img(**payload, **PRESERVING).images[0], plain.images[0])


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M", "DDIM"])
def test_preserve_keeps_more_of_the_image_and_still_erases(webui, sampler):
    payload = scene(sampler_name=sampler, steps=8)
    plain, erased, preserved = (
        np.asarray(webui.txt2img(**payload, **more).images[0], float)
        for more in ({}, erasing("star"), PRESERVING)
    )
    assert np.abs(preserved - plain).max() > 40
    assert np.abs(preserved - plain).mean() < np.abs(erased - plain).mean()
    identical = (preserved == plain).all(axis=-1).mean()
    assert identical > 0.5


def test_preserve_keeps_nothing_of_what_the_whole_image_is_made_of(webui):
    payload = scene(prompt="a cat on the meadow, mosaic", steps=8)
    plain = webui.txt2img(**payload).images[0]
    erased, preserved = (
        webui.txt2img(**payload, **erasing("mosaic", mode="adaptive", preserve=preserve)).images[0]
        for preserve in (False, True)
    )
    assert changed(erased, plain)
    assert difference(preserved, erased) <= ROUNDING


def test_preserve_works_where_sampling_begins_late(webui):
    start = encoded(webui.txt2img(**scene()).pngs[0])
    payload = scene(init_images=[start], denoising_strength=0.3, steps=10)
    plain = webui.img2img(**payload).images[0]
    assert changed(webui.img2img(**payload, **PRESERVING).images[0], plain)


def test_preserve_and_a_refiner_are_refused(webui, other_checkpoint):
    payload = scene(
        refiner_checkpoint=other_checkpoint,
        refiner_switch_at=0.5,
        **PRESERVING,
    )
    response = webui.post("/sdapi/v1/txt2img", payload)
    assert response.status_code != 200
    assert "refiner" in response.text
