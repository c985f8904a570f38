"""Presets in a real browser: pick, save, look at, share and delete them."""

from __future__ import annotations

import pytest

from tests.e2e.test_page import (
    ACCORDION,
    CHECKBOX,
    CONCEPTS,
    GENERATED_WITHIN,
    erase,
    generate,
    txt2img,  # noqa: F401 - a fixture
)

pytestmark = pytest.mark.timeout(900)

PATH = "/eiup/v1/presets"
NAME = "test-page"
ID = "#script_txt2img_eiup_"
SHOWN = f"{ID}shown_preset"


@pytest.fixture(autouse=True)
def preset(webui):
    webui.http.put(f"{PATH}/{NAME}", json={"concepts": "star\nmoon:1.5", "description": "<b>Sky</b>"})
    yield
    for name in (NAME, "test-saved", "test-shared"):
        webui.http.delete(f"{PATH}/{name}")


def pick(page, name):
    page.click(f"{ID}preset input")
    page.click(f"{ID}preset li[data-value='{name}'], {ID}preset li:has-text('{name}')")


def wait_for(page, selector, text):
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.innerText.includes(text)",
        arg=[selector, text],
        timeout=GENERATED_WITHIN,
    )


def wait_for_concepts(page, text):
    page.wait_for_function(
        "([box, text]) => document.querySelector(box).value == text",
        arg=[CONCEPTS, text],
        timeout=GENERATED_WITHIN,
    )


def open_presets(page, concepts=""):
    erase(page, concepts)
    page.click(f"{ID}presets_panel > .label-wrap")
    page.click(f"{ID}refresh_presets")


def test_a_picked_preset_is_erased(webui, txt2img):  # noqa: F811
    page = txt2img
    open_presets(page, "stamp")
    pick(page, NAME)
    wait_for(page, SHOWN, "star, moon:1.5")
    # The description is text, not markup.
    wait_for(page, SHOWN, "<b>Sky</b>")
    page.click(f"{ID}add_preset")
    wait_for_concepts(page, f"stamp\n@{NAME}")
    wait_for(page, f"{ACCORDION} > .label-wrap", "EIUP: 1 concept, 1 preset")
    page.check(f"{ID}mode input[value='constant']")
    infotext = generate(page).replace("\\", "")
    assert '"concepts":["stamp","star",{"concept":"moon","weight":1.5}]' in infotext
    assert NAME not in infotext


def test_a_preset_is_added_once_whatever_its_weight(webui, txt2img):  # noqa: F811
    page = txt2img
    open_presets(page, f"@{NAME}:0.5")
    for name in (NAME, "watermarks"):
        pick(page, name)
        wait_for(page, SHOWN, f"@{name}")
        page.click(f"{ID}add_preset")
    wait_for_concepts(page, f"@{NAME}:0.5\n@watermarks")


def test_save_and_delete(webui, txt2img):  # noqa: F811
    page = txt2img
    open_presets(page, "# Shiny.\nstar:2")
    page.fill(f"{ID}preset_name textarea, {ID}preset_name input", "test-saved")
    page.click(f"{ID}save_preset")
    wait_for(page, SHOWN, "@test-saved")
    saved = webui.get(f"{PATH}/test-saved").json()
    assert (saved["concepts"], saved["description"]) == (["star:2.0"], "Shiny.")
    with page.expect_download() as download:
        page.click(f"{ID}download_preset a")
    assert download.value.path().read_text() == "# EIUP preset 1\n# Shiny.\n\nstar:2\n"
    page.click(f"{ID}delete_preset")
    wait_for(page, SHOWN, "Deleted: @test-saved")
    assert webui.get(f"{PATH}/test-saved").status_code == 404


def test_a_shared_file_is_added(webui, txt2img):  # noqa: F811
    page = txt2img
    open_presets(page)
    content = "# EIUP preset 1\n# Shared.\n\nstar\n@watermarks"
    page.set_input_files(
        f"{ID}upload_preset input[type=file]",
        files=[{"name": "test-shared.txt", "mimeType": "text/plain", "buffer": content.encode()}],
    )
    wait_for(page, SHOWN, "@test-shared")
    added = webui.get(f"{PATH}/test-shared").json()
    assert (added["description"], added["text"]) == ("Shared.", "star\n@watermarks")


def test_a_mistake_is_shown_as_text(webui, txt2img):  # noqa: F811
    page = txt2img
    open_presets(page, "<img src=x>:much")
    page.fill(f"{ID}preset_name textarea, {ID}preset_name input", "test-saved")
    page.click(f"{ID}save_preset")
    wait_for(page, SHOWN, "<img src=x>:much")
    assert page.locator(f"{SHOWN} img").count() == 0
    page.fill(f"{ID}preset_name textarea, {ID}preset_name input", "../test-saved")
    page.click(f"{ID}save_preset")
    wait_for(page, SHOWN, "lower-case")
    page.click(f"{ID}delete_preset")
    wait_for(page, SHOWN, "chosen from the list")
    assert page.is_checked(CHECKBOX)


def test_a_file_of_this_machine_cannot_be_named_as_an_upload(webui, tmp_path):
    secret = tmp_path / "test-shared.txt"
    secret.write_text("secret")
    config = webui.get("/config").json()
    upload = next(
        c["id"] for c in config["components"] if c["props"].get("elem_id") == f"{ID[1:]}upload_preset"
    )
    index = next(
        n
        for n, d in enumerate(config["dependencies"])
        if (d["targets"], d["trigger"]) == ([upload], "upload")
    )
    file = {"name": str(secret), "orig_name": secret.name, "data": None, "is_file": True, "size": 6}
    answer = webui.post("/run/predict", {"fn_index": index, "data": [file], "session_hash": "test"})
    assert "secret" not in answer.text
    assert "an uploaded file" in answer.text
    assert webui.get(f"{PATH}/test-shared").status_code == 404
