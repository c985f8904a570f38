"""The page in a real browser: erase, see errors, bring settings back."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image

from tests.e2e.support import changed, erasing, scene

pytest.importorskip("playwright")
pytestmark = pytest.mark.timeout(900)

OPENED_WITHIN = 300_000
GENERATED_WITHIN = 300_000
ACCORDION = "#script_txt2img_eiup_enabled"
CHECKBOX = f"{ACCORDION}-visible-checkbox"
CONCEPTS = "#script_txt2img_eiup_concepts textarea"
STRENGTH = "#script_txt2img_eiup_strength input[type=number]"
INFOTEXT = "#html_info_txt2img"
GALLERY = "#txt2img_gallery img"
LOG = "#html_log_txt2img"


@pytest.fixture
def txt2img(webui, page):
    return open_txt2img(webui, page)


def open_txt2img(webui, page):
    """The page, opened, with the scene filled in."""
    # Whatever the page asks of other machines is no part of the test.
    page.route(
        lambda url: url.startswith("http") and not url.startswith(webui.base_url), lambda route: route.abort()
    )
    page.goto(webui.base_url, wait_until="domcontentloaded")
    page.wait_for_selector(CHECKBOX, timeout=OPENED_WITHIN)
    payload = scene()
    page.fill("#txt2img_prompt textarea", payload["prompt"])
    for name, value in (
        ("steps", payload["steps"]),
        ("width", payload["width"]),
        ("height", payload["height"]),
        ("cfg_scale", payload["cfg_scale"]),
    ):
        fill_number(page, f"#txt2img_{name} input[type=number]", value)
    fill_number(page, "#txt2img_seed input", payload["seed"])
    return page


def fill_number(page, selector, value):
    page.fill(selector, str(value))
    page.press(selector, "Tab")


def erase(page, concepts):
    """Tick the accordion's checkbox, which does not open it, open it, and type the concepts."""
    if not page.is_checked(CHECKBOX):
        page.click(CHECKBOX)
    if not page.is_visible(CONCEPTS):
        page.click(f"{ACCORDION} .label-wrap")
    page.fill(CONCEPTS, concepts)


def shown_infotext(page):
    """The infotext below the gallery; gradio shows the progress beside its paragraph."""
    return "\n".join(page.locator(f"{INFOTEXT} p").all_inner_texts())


def generate(page):
    """Press Generate and wait until another infotext is shown than before; returns it."""
    before = shown_infotext(page)
    page.click("#txt2img_generate")
    page.wait_for_function(
        """([info, before]) => {
            const text = Array.from(document.querySelectorAll(info), p => p.innerText).join('\\n');
            return text.includes('Steps: ') && text != before;
        }""",
        arg=[f"{INFOTEXT} p", before],
        timeout=GENERATED_WITHIN,
    )
    page.wait_for_selector(GALLERY, timeout=GENERATED_WITHIN)
    return shown_infotext(page)


def shown_image(webui, page):
    source = page.get_attribute(GALLERY, "src")
    return webui.get(source).content


def test_concepts_are_erased(webui, txt2img):
    page = txt2img
    assert "EIUP" not in generate(page)
    plain = Image.open(io.BytesIO(shown_image(webui, page)))
    erase(page, "star\nmoon:1.5")
    infotext = generate(page)
    assert '{"v":4,"concepts":["star",{"concept":"moon","weight":1.5}]' in infotext.replace("\\", "")
    assert changed(Image.open(io.BytesIO(shown_image(webui, page))), plain)


def test_the_header_opens_and_ticks_and_the_box_only_ticks(webui, page):
    page.goto(webui.base_url, wait_until="domcontentloaded")
    page.wait_for_selector(CHECKBOX, timeout=OPENED_WITHIN)
    page.click(CHECKBOX)
    hidden = f"{ACCORDION}-checkbox input"
    page.wait_for_function("box => document.querySelector(box).checked", arg=hidden)
    assert not page.is_visible(CONCEPTS)
    page.reload(wait_until="domcontentloaded")
    page.wait_for_selector(CHECKBOX, timeout=OPENED_WITHIN)
    page.click(f"{ACCORDION} > .label-wrap")
    page.wait_for_selector(CONCEPTS, state="visible")
    page.wait_for_function("box => document.querySelector(box).checked", arg=CHECKBOX)


def test_unticking_switches_off(webui, txt2img):
    page = txt2img
    erase(page, "star")
    assert "EIUP" in generate(page)
    page.click(CHECKBOX)
    assert "EIUP" not in generate(page)


def test_a_mistake_is_shown_on_the_page_and_makes_no_image(webui, txt2img):
    page = txt2img
    erase(page, "star:much")
    page.click("#txt2img_generate")
    page.wait_for_function(
        """log => document.querySelector(log).innerText.includes('EIUP')""", arg=LOG, timeout=GENERATED_WITHIN
    )
    message = page.inner_text(LOG)
    assert "concepts is 'star:much'" in message
    assert "watermark:1.5" in message
    assert page.locator(GALLERY).count() == 0
    # The page goes on working.
    page.fill(CONCEPTS, "star")
    assert "EIUP" in generate(page)


def test_png_info_brings_the_settings_back(webui, txt2img):
    page = txt2img
    made = webui.txt2img(**scene(seed=9, **erasing("star", "moon:1.5", strength=1.25)))
    page.click("#tabs > .tab-nav button:has-text('PNG Info')")
    page.set_input_files(
        "#pnginfo_image input[type=file]",
        files=[{"name": "made.png", "mimeType": "image/png", "buffer": made.pngs[0]}],
    )
    page.wait_for_selector("#tab_pnginfo >> text=EIUP", timeout=GENERATED_WITHIN)
    page.click("#tab_pnginfo button:has-text('txt2img')")
    page.wait_for_function(
        "([box]) => document.querySelector(box).value.includes('moon')",
        arg=[CONCEPTS],
        timeout=GENERATED_WITHIN,
    )
    assert page.input_value(CONCEPTS) == "star\nmoon:1.5"
    assert page.is_checked(CHECKBOX)
    assert float(page.input_value(STRENGTH)) == 1.25
    infotext = generate(page)
    assert re.search(r"Seed: 9\b", infotext)
    assert not changed(Image.open(io.BytesIO(shown_image(webui, page))), made.images[0])


def test_the_infotext_of_a_plain_image_unticks_the_box(webui, txt2img):
    page = txt2img
    erase(page, "star")
    page.fill("#txt2img_prompt textarea", webui.txt2img(**scene(seed=9)).infotexts[0])
    page.click("#paste")
    page.wait_for_function(
        "box => !document.querySelector(box).checked", arg=CHECKBOX, timeout=GENERATED_WITHIN
    )
    assert "EIUP" not in generate(page)


def test_the_plot_has_axes_of_erasure(txt2img):
    txt2img.click("#script_list input")
    txt2img.click("#script_list li[data-value='X/Y/Z plot'], #script_list li:has-text('X/Y/Z plot')")
    axis = txt2img.locator("#script_txt2img_xyz_plot_x_type input").first
    axis.wait_for(state="visible", timeout=OPENED_WITHIN)
    axis.click()
    txt2img.locator("li:has-text('[EIUP] Strength')").first.wait_for(state="visible", timeout=OPENED_WITHIN)
