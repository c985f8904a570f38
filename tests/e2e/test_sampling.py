"""Every sampler erases; img2img, inpainting, the second pass of hires fix and a refiner do too."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image, ImageDraw

from tests.e2e.support import ROUNDING, changed, difference, encoded, erasing, same, scene, single_images

SAMPLERS = ["Euler", "Euler a", "DPM++ 2M", "DDIM"]
HIRES = dict(
    enable_hr=True, hr_scale=1.5, hr_upscaler="Latent", denoising_strength=0.6, hr_second_pass_steps=4
)


@pytest.fixture(scope="module")
def init_image(webui):
    return encoded(webui.txt2img(**scene(seed=11)).pngs[0])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_erases(webui, sampler):
    payload = scene(sampler_name=sampler, steps=5)
    plain, erased = webui.txt2img(**payload), webui.txt2img(**payload, **erasing("star"))
    assert changed(erased.images[0], plain.images[0])
    assert f"Sampler: {sampler}" in erased.infotexts[0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_img2img_erases(webui, init_image, sampler):
    payload = scene(init_images=[init_image], denoising_strength=0.8, sampler_name=sampler)
    plain, erased = webui.img2img(**payload), webui.img2img(**payload, **erasing("star"))
    assert changed(erased.images[0], plain.images[0])
    assert "EIUP" in erased.infotexts[0]
    assert "EIUP" not in plain.infotexts[0]


def test_img2img_with_nothing_to_erase_is_the_same_image(webui, init_image):
    payload = scene(init_images=[init_image], denoising_strength=0.8)
    plain, off = webui.img2img(**payload), webui.img2img(**payload, **erasing("star", strength=0))
    assert same(plain.images[0], off.images[0])


def test_several_batches_of_img2img_equal_their_images_alone(webui, init_image):
    def together_and_alone(**more):
        payload = scene(init_images=[init_image], denoising_strength=0.8, **more)
        together = webui.img2img(**payload, batch_size=2, n_iter=2).images
        return together, single_images(webui.img2img, 4, **payload)

    plain, plain_alone = together_and_alone()
    erased, erased_alone = together_and_alone(**erasing("star", strength=4))
    # The webui draws noise to encode the initial image with, so that its own images differ a little.
    own = max(difference(a, b) for a, b in zip(plain, plain_alone))
    assert max(difference(a, b) for a, b in zip(erased, erased_alone)) <= 2 * own + ROUNDING
    assert min(difference(a, b) for a, b in zip(erased, plain)) > 2 * own + ROUNDING


def test_inpainting_erases_inside_of_the_mask_only(webui, init_image):
    mask = Image.new("L", (128, 128), 0)
    ImageDraw.Draw(mask).rectangle((64, 0, 127, 127), fill=255)
    file = io.BytesIO()
    mask.save(file, "PNG")
    payload = scene(
        init_images=[init_image], mask=base64.b64encode(file.getvalue()).decode(), mask_blur=0,
        inpainting_fill=1, inpaint_full_res=False, denoising_strength=0.9,
    )  # fmt: skip
    plain, erased = (webui.img2img(**payload, **more).images[0] for more in ({}, erasing("star")))
    left, right = (0, 0, 64, 128), (64, 0, 128, 128)
    assert changed(erased.crop(right), plain.crop(right))
    assert not changed(erased.crop(left), plain.crop(left))


def test_hires_fix_erases(webui):
    plain = webui.txt2img(**scene(**HIRES))
    erased = webui.txt2img(**scene(**HIRES, **erasing("star")))
    assert erased.images[0].size == (192, 192)
    assert changed(erased.images[0], plain.images[0])
    assert "Hires" in erased.infotexts[0]
    assert "EIUP" in erased.infotexts[0]


def test_both_passes_of_hires_fix_erase(webui):
    """The second pass starts at 0.4 of the noise schedule: what is before belongs to the first alone."""
    first_only = webui.txt2img(**scene(**HIRES, **erasing("star", end=0.3)))
    both = webui.txt2img(**scene(**HIRES, **erasing("star")))
    first_pass = webui.txt2img(**scene(**erasing("star")))
    first_pass_only = webui.txt2img(**scene(**erasing("star", end=0.3)))
    assert changed(first_pass.images[0], first_pass_only.images[0])
    assert changed(both.images[0], first_only.images[0])


def test_each_image_of_a_hires_batch_equals_the_one_made_alone(webui):
    payload = scene(**HIRES, **erasing("star"))
    batch = webui.txt2img(**payload, batch_size=2)
    for index, image in enumerate(batch.images):
        alone = webui.txt2img(**{**payload, "seed": payload["seed"] + index}).images[0]
        assert difference(image, alone) <= ROUNDING


def test_erasure_goes_on_after_the_switch_to_a_refiner(webui, other_checkpoint):
    """The first of the steps comes before the switch and lies outside of the window."""
    payload = scene(steps=6, refiner_checkpoint=other_checkpoint, refiner_switch_at=0.1)
    # Whatever that checkpoint's gate makes of the prompt, its image is to be changed.
    erasure = erasing("star", strength=4, start=0.1, mode="constant")
    plain = webui.txt2img(**payload)
    if "Refiner" not in plain.infotexts[0]:
        pytest.skip("this webui knows no refiner")
    erased = webui.txt2img(**payload, **erasure)
    assert changed(erased.images[0], plain.images[0])
    batch = webui.txt2img(**payload, batch_size=2, **erasure)
    assert difference(batch.images[0], erased.images[0]) <= ROUNDING
    assert same(webui.txt2img(**payload).images[0], plain.images[0])
