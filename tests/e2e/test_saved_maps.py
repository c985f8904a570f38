"""Heat maps beside saved images; and the journal, which says what the infotext says."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
from PIL import Image

from tests.e2e.support import changed, erasing, same, scene
from tests.e2e.test_infotext import value_in

LONGEST_PATH = 4095  # on Linux


@contextmanager
def settings(webui, **values):
    known = webui.get("/sdapi/v1/options").json()
    assert webui.post("/sdapi/v1/options", values).status_code == 200
    try:
        yield
    finally:
        webui.post("/sdapi/v1/options", {name: known[name] for name in values})


@pytest.fixture
def saved(webui, data_folder):
    """A function that generates with ``save_images`` and returns the answer and the files that came of it."""

    def files():
        return {path for path in (data_folder / "outputs").rglob("*") if path.is_file()}

    def generate(**payload):
        before = files()
        answer = webui.txt2img(**{**scene(save_images=True), **payload})
        return answer, sorted(files() - before)

    return generate


def test_a_heat_map_is_saved_beside_each_image(webui, saved):
    with settings(webui, eiup_save_maps=True):
        answer, files = saved(batch_size=2, **erasing("star", maps=True))
    assert [file.name for file in files if "grid" in file.name] == [files[0].name]
    del files[0]
    assert len(files) == 4
    for picture, image in zip(files[::2], files[1::2]):
        assert picture.name == f"{image.stem}.eiup.png"
        picture, image = Image.open(picture), Image.open(image)
        assert picture.width == image.width
        assert picture.height > image.height
        assert changed(picture.crop((0, 0, *image.size)), image)
    assert all(same(Image.open(file), image) for file, image in zip(files[1::2], answer.images[1:]))


@pytest.mark.parametrize(
    "payload",
    [erasing("star"), {}, {**erasing("star", maps=True), "save_images": False}],
    ids=["without maps", "without EIUP", "not saved"],
)
def test_no_heat_map_is_saved_where_there_is_none(webui, saved, payload):
    with settings(webui, eiup_save_maps=True):
        _, files = saved(**payload)
    assert not [file for file in files if file.name.endswith(".eiup.png")]


def test_the_setting_is_off_by_default(webui, saved):
    assert webui.get("/sdapi/v1/options").json()["eiup_save_maps"] is False
    _, files = saved(**erasing("star", maps=True))
    assert len(files) == 1


def test_where_the_heat_map_cannot_be_written_the_image_is_there(webui, is_stand_in, tmp_path):
    if not is_stand_in:
        pytest.skip("the longest path of this webui's machine is not known")
    folder = tmp_path
    while len(str(folder)) < LONGEST_PATH - 120:
        folder /= "x" * 100
    # Room for the image's name, and not for ".eiup.png" as well.
    folder /= "x" * (LONGEST_PATH - len(str(folder)) - len("/00000-77.png") - 3)
    with settings(webui, eiup_save_maps=True, outdir_txt2img_samples=str(folder)):
        answer = webui.txt2img(**scene(seed=77, save_images=True, **erasing("star", maps=True)))
    assert [file.name for file in folder.iterdir()] == ["00000-77.png"]
    assert same(Image.open(folder / "00000-77.png"), answer.images[0])


@pytest.mark.parametrize("mode", ["adaptive", "constant"])
def test_the_journal_says_what_the_infotext_says(webui, data_folder, mode):
    payload = scene(batch_size=2, seed=4321, **erasing("star", "moon:1.5", mode=mode, maps=True))
    answer = webui.txt2img(**payload)
    lines = [line for file in sorted((data_folder / "log" / "eiup").glob("*.jsonl"))
             for line in file.read_text(encoding="utf-8").splitlines()]  # fmt: skip
    records = [json.loads(line) for line in lines[-2:]]
    assert [record["seed"] for record in records] == [4321, 4322]
    for record, infotext in zip(records, answer.infotexts):
        value = value_in(infotext)
        assert record["mode"] == value["mode"] == mode
        assert [concept.pop("concept") for concept in record["concepts"]] == ["star", "moon"]
        weights = [concept.pop("weight") for concept in record["concepts"]]
        assert weights == [1.0, 1.5]
        assert value["concepts"] == ["star", {"concept": "moon", "weight": 1.5}]
        for told in value["result"]["concepts"]:
            del told["share_by_step"]
        assert value["result"]["concepts"] == record["concepts"]
