"""The result panel in a real browser: what it says is what the selected image's infotext says."""

from __future__ import annotations

import contextlib
import io
import json
import re
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from eiup import overlay as drawing
from tests.e2e.support import ROUNDING, difference, erasing, pixels, same, scene
from tests.e2e.test_infotext import value_in
from tests.e2e.test_page import (  # noqa: F401
    GENERATED_WITHIN,
    erase,
    fill_number,
    generate,
    open_txt2img,
    txt2img,
)
from tests.e2e.test_saved_maps import settings

pytest.importorskip("playwright")
pytestmark = pytest.mark.timeout(900)

PANEL = "#script_txt2img_eiup_panel .eiup-panel"
PNG_PANEL = "#eiup_pnginfo_panel .eiup-panel"
THUMBNAILS = "#txt2img_gallery .thumbnail-item.thumbnail-small"
SHOWN = "#txt2img_gallery img[data-testid=detailed-image]"
WAIT = 30_000


@pytest.fixture
def errors(page, is_stand_in):
    """Errors of scripts on the page; there must be none. A real webui's own are its own."""
    found = []

    def note(error):
        if is_stand_in or "eiup" in (error.stack or ""):
            found.append(f"{error}\n{error.stack}")

    page.on("pageerror", note)
    yield found
    assert found == []


@pytest.fixture
def opened(errors, txt2img):  # noqa: F811
    """The page, ready to make two images with heat maps."""
    fill_number(txt2img, "#txt2img_steps input[type=number]", 8)
    fill_number(txt2img, "#txt2img_batch_size input[type=number]", 2)
    return txt2img


def two_images(page, concepts="star\nmoon:1.5", compare=False, maps=True):
    erase(page, concepts)
    for name, wanted in (("maps", maps), ("compare", compare)):
        page.set_checked(f"#script_txt2img_eiup_{name} input", wanted)
    generate(page)
    page.wait_for_selector(PANEL, timeout=WAIT)


def infotexts(page):
    return json.loads(page.eval_on_selector("#generation_info_txt2img textarea", "e => e.value"))["infotexts"]


def select(page, index):
    """Select an image of the gallery and wait for its infotext."""
    page.locator(THUMBNAILS).nth(index).click()
    source = page.locator(f"{THUMBNAILS} img").nth(index).get_attribute("src")
    is_shown = "([shown, source]) => document.querySelector(shown)?.src === source"
    page.wait_for_function(is_shown, arg=[SHOWN, source], timeout=WAIT)


def grids(page):
    """How many images come before the first one that is not a grid."""
    info = json.loads(page.eval_on_selector("#generation_info_txt2img textarea", "e => e.value"))
    return info["index_of_first_image"]


def told(page, panel=PANEL):
    """Each concept's name, verdict and numbers as the panel shows them."""
    return page.eval_on_selector_all(
        f"{panel} .eiup-concept",
        """rows => rows.map(row => ({
            name: row.querySelector('.eiup-name').textContent,
            verdict: row.querySelector('.eiup-verdict').textContent,
            numbers: Array.from(row.querySelectorAll('.eiup-number'), e => parseFloat(e.textContent)),
            maps: row.querySelectorAll('canvas').length,
            points: row.querySelector('polyline')?.getAttribute('points').split(' ').length ?? 0,
        }))""",
    )


def expected(infotext):
    value = value_in(infotext)
    rows = []
    for named, result in zip(value["concepts"], value["result"]["concepts"]):
        share = 100 * result["share"]
        rows.append(
            {
                "name": named["concept"] if isinstance(named, dict) else named,
                "verdict": "erased" if share > 0 else "not present",
                "numbers": [
                    pytest.approx(result["presence"], abs=0.0051),
                    pytest.approx(result["gate"], abs=0.0051),
                    pytest.approx(share, abs=0.051 if share < 10 else 0.51),
                ],
                "maps": 1 if "map" in result else 0,
                "points": len(result["share_by_step"]),
            }
        )
    return rows


def wait_until_told(page, rows, panel=PANEL):
    """Wait for the panel's numbers; it follows a moment after the image."""
    for _ in range(100):
        if told(page, panel) == rows:
            return
        page.wait_for_timeout(100)
    assert told(page, panel) == rows


def test_there_is_no_panel_before_there_is_an_image(opened):
    assert not opened.is_visible(PANEL)
    assert not opened.is_visible(PNG_PANEL)


def test_the_panel_follows_the_selected_image(opened):
    page = opened
    two_images(page)
    first = grids(page)
    texts = infotexts(page)
    assert value_in(texts[first])["result"] != value_in(texts[first + 1])["result"]
    for index in (first + 1, first):
        select(page, index)
        wait_until_told(page, expected(texts[index]))
    if first:
        select(page, 0)
        page.wait_for_selector(f"{PANEL} >> text=grid of all images", timeout=WAIT)
        assert told(page) == []
    # A plain image after it has no panel.
    page.click("#script_txt2img_eiup_enabled-visible-checkbox")
    generate(page)
    page.wait_for_selector(PANEL, state="detached", timeout=WAIT)


def overlay(page):
    """The overlay's box relative to the shown image's, and its pixels; None where there is none."""
    return page.evaluate(
        """shown => {
            const canvas = document.querySelector('#txt2img_gallery .eiup-overlay');
            if (!canvas) return null;
            const image = document.querySelector(shown);
            const [a, b] = [canvas, image].map(element => element.getBoundingClientRect());
            const scale = Math.min(b.width / image.naturalWidth, b.height / image.naturalHeight);
            const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
            const off = [a.left - b.left - (b.width - width) / 2, a.top - b.top - (b.height - height) / 2,
                a.width - width, a.height - height];
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            return {off: Math.max(...off.map(Math.abs)),
                opaque: data.filter((_, i) => i % 4 == 3 && data[i] > 64).length,
                sum: data.reduce((sum, value, i) => (sum + value * (i % 1009)) % 1e9, 0),
                events: getComputedStyle(canvas).pointerEvents};
        }""",
        SHOWN,
    )  # fmt: skip


def test_the_map_lies_over_the_image_and_follows_it(opened):
    page = opened
    two_images(page)
    first = grids(page)
    select(page, first)
    assert overlay(page) is None
    page.check(f"{PANEL} .eiup-where input")
    page.wait_for_selector("#txt2img_gallery .eiup-overlay", timeout=WAIT)
    before = overlay(page)
    assert before["off"] < 1
    assert before["opaque"] > 0
    assert before["events"] == "none"
    select(page, first + 1)
    page.wait_for_timeout(1000)
    other = overlay(page)
    assert other["off"] < 1
    assert other["sum"] != before["sum"]
    page.set_viewport_size({"width": 700, "height": 1200})
    page.wait_for_timeout(1000)
    assert overlay(page)["off"] < 1
    page.uncheck(f"{PANEL} .eiup-where input")
    assert overlay(page) is None


def test_the_map_of_one_concept(opened):
    page = opened
    two_images(page, "star\nstamp")
    select(page, grids(page))
    page.check(f"{PANEL} .eiup-where input")
    page.select_option(f"{PANEL} .eiup-which", label="star")
    star = overlay(page)
    page.select_option(f"{PANEL} .eiup-which", label="stamp")
    stamp = overlay(page)
    assert star["sum"] != stamp["sum"]
    assert stamp["off"] < 1


def fetched(page, selector):
    """The image that an img element shows."""
    data = page.eval_on_selector(
        selector,
        "async image => Array.from(new Uint8Array(await (await fetch(image.src)).arrayBuffer()))",
    )
    return Image.open(io.BytesIO(bytes(data))).convert("RGB")


def test_the_slider_shows_the_pair(webui, opened):
    page = opened
    two_images(page, "star", compare=True)
    first = grids(page)
    plain = webui.txt2img(**scene(steps=8, batch_size=2, sampler_name=sampler_of(infotexts(page)[first])))
    for index in (first + 1, first):
        select(page, index)
        page.wait_for_timeout(800)
        assert same(fetched(page, f"{PANEL} .eiup-slider img >> nth=0"), fetched(page, SHOWN))
        unerased = fetched(page, f"{PANEL} .eiup-unerased")
        assert difference(unerased, plain.images[index - first]) <= ROUNDING
    # It begins with the erased image alone, and uncovers the other from the left.
    assert visible_part(page) == 0
    slider = page.locator(f"{PANEL} .eiup-slider input")
    box = slider.bounding_box()
    slider.click(position={"x": 0.75 * box["width"], "y": box["height"] / 2})
    assert 0.7 < visible_part(page) < 0.8
    # The other of the pair is told apart, and has the same slider.
    select(page, first + 2)
    page.wait_for_selector(f"{PANEL} >> text=made without erasure", timeout=WAIT)
    assert same(fetched(page, f"{PANEL} .eiup-unerased"), fetched(page, SHOWN))


def sampler_of(infotext):
    return re.search(r"Sampler: ([^,]+)", infotext)[1]


def visible_part(page):
    """How much of the image without erasure is to be seen, from the left, 0 to 1."""
    clip = page.eval_on_selector(f"{PANEL} .eiup-unerased", "image => getComputedStyle(image).clipPath")
    return 1 - float(re.match(r"inset\(0px ([\d.]+)%", clip)[1]) / 100


def test_one_click_makes_the_other_of_a_pair(webui, opened):
    page = opened
    two_images(page, "star", maps=False)
    first = grids(page)
    select(page, first + 1)
    page.wait_for_timeout(800)
    count = page.locator(THUMBNAILS).count()
    with someone_else(webui, page) as other:
        erase(other, "moon")
        generate(other)
    # It is made under the settings of then, whatever has been set since.
    with settings(webui, CLIP_stop_at_last_layers=2):
        page.click(f"{PANEL} .eiup-compare-button")
        page.wait_for_selector(f"{PANEL} .eiup-slider", timeout=GENERATED_WITHIN)
        assert webui.get("/sdapi/v1/options").json()["CLIP_stop_at_last_layers"] == 2
    sampler = sampler_of(infotexts(page)[first])
    plain = webui.txt2img(**scene(steps=8, seed=8, sampler_name=sampler))
    assert difference(fetched(page, f"{PANEL} .eiup-unerased"), plain.images[0]) <= ROUNDING
    assert page.locator(THUMBNAILS).count() == count
    # It belongs to this image only, and is there again when that is selected again.
    select(page, first)
    page.wait_for_selector(f"{PANEL} .eiup-slider", state="detached", timeout=WAIT)
    select(page, first + 1)
    page.wait_for_selector(f"{PANEL} .eiup-slider", timeout=WAIT)


@contextlib.contextmanager
def someone_else(webui, page):
    """Another page that is open on the same webui."""
    other = page.context.browser.new_page(viewport=page.viewport_size)
    try:
        yield open_txt2img(webui, other)
    finally:
        other.close()


def with_infotext(infotext):
    """A PNG file that says so."""
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_itxt("parameters", infotext)
    # Another picture for another text: gradio takes equal pixels for the same file.
    colour = zlib.crc32(infotext.encode()).to_bytes(4, "big")[:3]
    Image.new("RGB", (64, 64), tuple(colour)).save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def show_in_png_info(page, png):
    page.click("#tabs > .tab-nav button:has-text('PNG Info')")
    page.set_input_files(
        "#pnginfo_image input[type=file]", files=[{"name": "a.png", "mimeType": "image/png", "buffer": png}]
    )


def infotext_of(value):
    quoted = json.dumps(json.dumps(value))
    return f"a wizard\nSteps: 4, Sampler: Euler, Size: 64x64, EIUP: {quoted}, Version: x"


def result(**changes):
    return {"presence": 0.5, "gate": 1.0, "share": 0.25, "share_by_step": [0.2, 0.3], **changes}


def value_of(concepts, results):
    return {"v": 4, "concepts": concepts, "strength": 2.0, "mode": "adaptive",
            "result": {"progress": [0.0, 1.0], "concepts": results}}  # fmt: skip


def test_png_info_shows_the_panel_and_the_map(webui, opened):
    page = opened
    made = webui.txt2img(**scene(steps=8, **erasing("star", {"concept": "moon", "weight": 1.5}, maps=True)))
    show_in_png_info(page, made.pngs[0])
    page.wait_for_selector(PNG_PANEL, timeout=WAIT)
    wait_until_told(page, expected(made.infotexts[0]), PNG_PANEL)
    page.check(f"{PNG_PANEL} .eiup-where input")
    page.wait_for_selector("#pnginfo_image .eiup-overlay", timeout=WAIT)
    assert page.locator(f"{PNG_PANEL} .eiup-compare-button").count() == 0
    # An image without EIUP after it has no panel and no map.
    page.click("#pnginfo_image button[aria-label=Clear]")
    show_in_png_info(page, webui.txt2img(**scene()).pngs[0])
    page.wait_for_selector(PNG_PANEL, state="detached", timeout=WAIT)
    assert page.locator("#pnginfo_image .eiup-overlay").count() == 0


MESSAGES = {
    "version 3": ({"v": 3, "concepts": ["star"], "strength": 3.0, "mode": "constant"}, "no results (made by"),
    "version 1": ({"v": 1, "concepts": ["star"]}, "no results (made by"),
    "no result": ({"v": 4, "concepts": ["star"], "strength": 2.0, "mode": "adaptive"}, "has no results."),
    "a list": ([1], "cannot be read"),
    "fewer results": (value_of(["star", "moon"], [result()]), "cannot be read"),
    "no numbers": (value_of(["star"], [result(share="much")]), "cannot be read"),
    "no curve": (value_of(["star"], [result(share_by_step=[0.1])]), "cannot be read"),
    "no map": (value_of(["star"], [result(map="99x99:AAAA")]), "heat map cannot be read"),
}


@pytest.mark.parametrize(("value", "message"), MESSAGES.values(), ids=MESSAGES)
def test_png_info_says_what_it_cannot_show(opened, value, message):
    show_in_png_info(opened, with_infotext(infotext_of(value)))
    opened.wait_for_selector(f"{PNG_PANEL} >> text={message}", timeout=WAIT)


def test_text_of_an_image_is_text(opened):
    page = opened
    hostile = "<img src=x onerror=\"document.title='run'\">"
    value = value_of([hostile, {"concept": hostile, "weight": 1e300}], [result(), result(map="1x1:8A==")])
    show_in_png_info(page, with_infotext(infotext_of(value)))
    page.wait_for_selector(PNG_PANEL, timeout=WAIT)
    page.check(f"{PNG_PANEL} .eiup-where input")
    page.wait_for_timeout(500)
    assert [row["name"] for row in told(page, PNG_PANEL)] == [hostile, hostile]
    assert page.locator(f"{PNG_PANEL} img").count() == 0
    assert page.title() != "run"


def test_many_concepts_scroll(opened):
    page = opened
    names = [f"concept {number}" for number in range(64)]
    show_in_png_info(page, with_infotext(infotext_of(value_of(names, [result() for _ in names]))))
    page.wait_for_selector(PNG_PANEL, timeout=WAIT)
    assert [row["name"] for row in told(page, PNG_PANEL)] == names
    assert page.locator(PNG_PANEL).bounding_box()["height"] < 800
    page.locator(f"{PNG_PANEL} .eiup-concept").last.scroll_into_view_if_needed()
    assert page.locator(f"{PNG_PANEL} .eiup-concept").last.is_visible()


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_sticks_out(opened, width):
    page = opened
    page.set_viewport_size({"width": width, "height": 1200})
    value = value_of(["an unbrokenlineoflettersthatislongerthananynamethatonewouldever" * 2], [result()])
    show_in_png_info(page, with_infotext(infotext_of(value)))
    page.wait_for_selector(PNG_PANEL, timeout=WAIT)
    outside = page.eval_on_selector(
        PNG_PANEL,
        """panel => Array.from(panel.querySelectorAll('*')).filter(element =>
            element.getBoundingClientRect().right > panel.getBoundingClientRect().right + 1).length""",
    )
    assert outside == 0


def test_the_map_has_the_colours_of_the_saved_one(opened):
    page = opened
    show_in_png_info(page, with_infotext(infotext_of(value_of(["star"], [result(map="1x1:gA==")]))))
    page.wait_for_selector(f"{PNG_PANEL} canvas", timeout=WAIT)
    colour = page.eval_on_selector(
        f"{PNG_PANEL} canvas",
        "canvas => Array.from(canvas.getContext('2d').getImageData(50, 50, 1, 1).data).slice(0, 3)",
    )
    expected_colour = pixels(Image.fromarray(drawing.colours(drawing.map_values("1x1:gA=="))))
    assert np.abs(expected_colour - colour).max() <= 3
