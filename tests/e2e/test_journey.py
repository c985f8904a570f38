"""The whole way through the page in a real browser: from concepts to an image, to what was erased in it, and
back from its file."""

from __future__ import annotations

import pytest

from tests.e2e.support import changed
from tests.e2e.test_page import (
    ACCORDION,
    CHECKBOX,
    CONCEPTS,
    GALLERY,
    GENERATED_WITHIN,
    LOG,
    STRENGTH,
    erase,
    fill_number,
    generate,
    txt2img,  # noqa: F401 - a fixture
)
from tests.e2e.test_panel import (
    PANEL,
    PNG_PANEL,
    SHOWN,
    WAIT,
    errors,  # noqa: F401 - a fixture
    expected,
    fetched,
    grids,
    infotexts,
    opened,  # noqa: F401 - a fixture
    overlay,
    select,
    show_in_png_info,
    visible_part,
    wait_until_told,
)
from tests.e2e.test_presets_page import (
    ID,
    NAME,
    open_presets,
    pick,
    preset,  # noqa: F401 - a fixture: star and moon:1.5
    wait_for,
    wait_for_concepts,
)

pytest.importorskip("playwright")
pytestmark = pytest.mark.timeout(900)

TOKENS = f"{ID}tokens"


def test_from_concepts_to_an_image_and_back(webui, opened):  # noqa: F811
    page = opened
    # Tick, type, and pick a preset; what is said of the concepts follows.
    open_presets(page, "stamp")
    wait_for(page, TOKENS, "stamp, 1/75")
    pick(page, NAME)
    wait_for(page, f"{ID}shown_preset", "star, moon:1.5")
    page.click(f"{ID}add_preset")
    wait_for_concepts(page, f"stamp\n@{NAME}")
    wait_for(page, f"{ACCORDION} > .label-wrap", "EIUP: 1 concept, 1 preset")
    fill_number(page, STRENGTH, 2.5)
    page.check(f"{ID}maps input")

    # Generate, and look at one image after the other.
    generate(page)
    first, texts = grids(page), infotexts(page)
    for index in (first + 1, first):
        select(page, index)
        wait_until_told(page, expected(texts[index]))
    assert [row["name"] for row in expected(texts[first])] == ["stamp", "star", "moon"]
    page.check(f"{PANEL} .eiup-where input")
    page.wait_for_selector("#txt2img_gallery .eiup-overlay", timeout=WAIT)
    assert overlay(page)["off"] < 1
    page.uncheck(f"{PANEL} .eiup-where input")
    assert overlay(page) is None

    # Compare it with the image without erasure.
    page.click(f"{PANEL} .eiup-compare-button")
    page.wait_for_selector(f"{PANEL} .eiup-slider", timeout=GENERATED_WITHIN)
    assert changed(fetched(page, f"{PANEL} .eiup-unerased"), fetched(page, SHOWN))
    slider = page.locator(f"{PANEL} .eiup-slider input")
    box = slider.bounding_box()
    slider.click(position={"x": 0.75 * box["width"], "y": box["height"] / 2})
    assert 0.7 < visible_part(page) < 0.8
    file = webui.get(page.get_attribute(SHOWN, "src")).content

    # A wrong value is said at the field, and makes no image.
    page.fill(CONCEPTS, "star:much")
    wait_for(page, f"{TOKENS} .error", "concepts is 'star:much'")
    page.click("#txt2img_generate")
    wait_for(page, LOG, "concepts is 'star:much'")
    assert page.locator(GALLERY).count() == 0

    # The image's file shows what was erased, and brings all settings back.
    show_in_png_info(page, file)
    page.wait_for_selector(PNG_PANEL, timeout=WAIT)
    wait_until_told(page, expected(texts[first]), PNG_PANEL)
    page.click("#tab_pnginfo button:has-text('txt2img')")
    wait_for_concepts(page, "stamp\nstar\nmoon:1.5")
    wait_for(page, TOKENS, "stamp, 1/75")
    wait_for(page, f"{ACCORDION} > .label-wrap", "EIUP: 3 concepts")
    assert page.is_checked(CHECKBOX)
    assert float(page.input_value(STRENGTH)) == 2.5


def test_a_preset_that_is_added_is_counted(webui, opened):  # noqa: F811
    page = opened
    webui.http.put(f"/eiup/v1/presets/{NAME}", json={"concepts": "a star and a moon", "description": ""})
    erase(page, "")
    page.click(f"{ID}presets_panel > .label-wrap")
    page.click(f"{ID}refresh_presets")
    pick(page, NAME)
    page.click(f"{ID}add_preset")
    wait_for(page, TOKENS, "a star and a moon, 5/75")
