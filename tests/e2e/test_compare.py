"""Each image once more without erasure, beside the erased ones."""

from __future__ import annotations

import io
import re
import threading

import pytest
from PIL import Image

from tests.e2e.support import changed, encoded, erasing, same, scene

KEY = "EIUP compare"


def without_compare(infotext: str) -> str:
    assert KEY in infotext
    return re.sub(rf", {KEY}: [^,]*", "", infotext)


def check_pairs(answer, erased, plain):
    """``answer`` is ``erased`` and then ``plain``, pixel by pixel, and says so."""
    count = len(erased.images)
    assert len(answer.images) == len(answer.infotexts) == 2 * count
    for number in range(count):
        assert same(answer.images[number], erased.images[number])
        assert same(answer.images[count + number], plain.images[number])
        assert changed(answer.images[number], answer.images[count + number])
        assert answer.infotexts[number] == erased.infotexts[number]
        assert f"{KEY}: image {number + 1} without erasure" in answer.infotexts[count + number]
        assert without_compare(answer.infotexts[count + number]) == plain.infotexts[number]


def keep_prompts(webui, payload):
    """A real webui keeps the encoded prompts of a job; with these, the same job again rounds otherwise."""
    webui.img2img(**payload)


def test_the_other_of_a_pair_is_the_image_without_eiup(webui):
    payload = scene(batch_size=2, n_iter=2)
    answer = webui.txt2img(**payload, **erasing("star", compare=True))
    check_pairs(answer, webui.txt2img(**payload, **erasing("star")), webui.txt2img(**payload))
    assert answer.info["all_seeds"] == [7, 8, 9, 10] * 2
    # The images carry their infotexts, too.
    for png, infotext in zip(answer.pngs, answer.infotexts):
        assert webui.post("/sdapi/v1/png-info", {"image": encoded(png)}).json()["info"] == infotext


def test_a_pair_with_hires_fix(webui):
    payload = scene(enable_hr=True, hr_scale=1.5, hr_upscaler="Latent", denoising_strength=0.6)
    answer = webui.txt2img(**payload, **erasing("star", compare=True))
    check_pairs(answer, webui.txt2img(**payload, **erasing("star")), webui.txt2img(**payload))
    assert answer.images[1].size == (192, 192)


def test_a_pair_with_variation_seeds(webui):
    payload = scene(batch_size=2, subseed=3, subseed_strength=0.3)
    answer = webui.txt2img(**payload, **erasing("star", compare=True))
    check_pairs(answer, webui.txt2img(**payload, **erasing("star")), webui.txt2img(**payload))


def test_pairs_of_img2img(webui):
    start = webui.txt2img(**scene(prompt="a boat on the sea"))
    payload = scene(init_images=[encoded(start.pngs[0])], denoising_strength=0.8, batch_size=2)
    keep_prompts(webui, payload)
    answer = webui.img2img(**payload, **erasing("star", compare=True))
    check_pairs(answer, webui.img2img(**payload, **erasing("star")), webui.img2img(**payload))


def test_pairs_of_inpainting_beside_masks(webui):
    start = webui.txt2img(**scene(prompt="a boat on the sea"))
    mask = io.BytesIO()
    picture = Image.new("L", (128, 128))
    picture.paste(255, (16, 16, 112, 112))
    picture.save(mask, format="PNG")
    payload = scene(
        init_images=[encoded(start.pngs[0])], mask=encoded(mask.getvalue()), denoising_strength=0.8,
        batch_size=2, inpainting_fill=1, inpaint_full_res=False,
    )  # fmt: skip
    keep_prompts(webui, payload)
    plain = webui.img2img(**payload)
    erased = webui.img2img(**payload, **erasing("star"))
    check_pairs(webui.img2img(**payload, **erasing("star", compare=True)), erased, plain)
    masked = webui.img2img(
        **payload, override_settings={"return_mask": True}, **erasing("star", compare=True)
    )
    # Image, mask, image, mask, and then the two without erasure.
    assert len(masked.images) == len(masked.infotexts) == 6
    for place, image in zip((0, 2, 4, 5), (*erased.images, *plain.images)):
        assert same(masked.images[place], image)
    assert masked.infotexts[:4] == [erased.infotexts[0], "", erased.infotexts[1], ""]
    assert [without_compare(text) for text in masked.infotexts[4:]] == plain.infotexts


def test_a_grid_stays_where_it_is(webui, data_folder):
    payload = scene(batch_size=2, do_not_save_grid=False, save_images=True)
    answer = webui.txt2img(**payload, **erasing("star", compare=True))
    plain = webui.txt2img(**scene(batch_size=2))
    assert answer.info["index_of_first_image"] == 1
    assert len(answer.images) == 5
    assert all(same(one, other) for one, other in zip(answer.images[3:], plain.images))


def test_images_without_erasure_are_not_saved(webui, data_folder):
    def files():
        return {path for path in (data_folder / "outputs").rglob("*") if path.is_file()}

    before = files()
    webui.txt2img(**scene(seed=1234, save_images=True), **erasing("star", compare=True))
    assert len(files() - before) == 1


def test_the_last_generation_is_the_erased_one(webui, data_folder):
    answer = webui.txt2img(**scene(seed=55), **erasing("star", compare=True))
    kept = (data_folder / "params.txt").read_text(encoding="utf-8")
    assert "Seed: 55" in kept
    assert "EIUP: " in kept
    assert len(answer.images) == 2


def test_the_prompt_of_the_second_pass_stays_its_own(webui):
    payload = scene(
        enable_hr=True, hr_scale=1.5, hr_upscaler="Latent", hr_prompt="a wizard in a desert",
        denoising_strength=0.8, negative_prompt="a boat",
    )  # fmt: skip
    answer = webui.txt2img(**payload, **erasing("star", compare=True))
    check_pairs(answer, webui.txt2img(**payload, **erasing("star")), webui.txt2img(**payload))
    assert "Hires prompt: a wizard in a desert" in answer.infotexts[1]


@pytest.mark.parametrize("fields", [{"enabled": False}, {"concepts": []}])
def test_where_nothing_is_erased_there_is_nothing_to_compare(webui, fields):
    payload = erasing("star", compare=True)
    payload["alwayson_scripts"]["EIUP"]["args"][0].update(fields)
    assert len(webui.txt2img(**scene(), **payload).images) == 1


def test_settings_of_one_request_hold_for_both(webui, other_checkpoint):
    payload = scene(override_settings={"sd_model_checkpoint": other_checkpoint})
    answer = webui.txt2img(**payload, **erasing("star", mode="constant", compare=True))
    plain = webui.txt2img(**payload)
    assert same(answer.images[1], plain.images[0])
    assert without_compare(answer.infotexts[1]) == plain.infotexts[0]


def test_what_is_interrupted_on_the_way_is_left_out_and_said(webui):
    payload = scene(steps=40, n_iter=2, **erasing("star", mode="constant", compare=True))
    answers = []
    thread = threading.Thread(target=lambda: answers.append(webui.txt2img(**payload)))
    thread.start()
    # Two batches with erasure; the third, the first without it, is interrupted.
    while webui.get("/sdapi/v1/progress?skip_current_image=true").json()["state"]["job_no"] < 2:
        assert thread.is_alive()
    webui.post("/sdapi/v1/interrupt", {})
    thread.join()
    [answer] = answers
    assert len(answer.images) == 2
    assert all("EIUP: " in text for text in answer.infotexts)
    assert "stopped" in answer.info["extra_generation_params"][KEY]
