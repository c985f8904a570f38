"""What is learnt, as the page's progress bar shows it."""

from __future__ import annotations

import pytest

from tests.e2e.test_calibration import LEARNS, fresh
from tests.e2e.test_page import CHECKBOX, GENERATED_WITHIN, OPENED_WITHIN, erase, fill_number

pytest.importorskip("playwright")
pytestmark = pytest.mark.timeout(900)

# WCAG's least contrast of text.
READABLE = 4.5
# What lies behind the text: the bar where it is coloured, and where it is not.
COLOURS = """() => {
    const bar = document.querySelector(".progressDiv"), inner = bar.querySelector(".progress");
    const colour = (element, name) => getComputedStyle(element)[name].match(/[\\d.]+/g).map(Number);
    return {
        text: colour(inner, "color"),
        behind: [colour(bar, "backgroundColor"), colour(inner, "backgroundColor")],
        said: inner.textContent, overflow: getComputedStyle(bar).overflow,
    };
}"""


def luminance(colour):
    parts = [c / 255 for c in colour[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_learnt_can_be_read(webui, page, theme):
    page.route(
        lambda url: url.startswith("http") and not url.startswith(webui.base_url), lambda route: route.abort()
    )
    page.goto(f"{webui.base_url}/?__theme={theme}", wait_until="domcontentloaded")
    page.wait_for_selector(CHECKBOX, timeout=OPENED_WITHIN)
    page.fill("#txt2img_prompt textarea", "a wizard in a forest")
    for name in ("width", "height"):
        fill_number(page, f"#txt2img_{name} input[type=number]", 128)
    erase(page, "\n".join(fresh(2)))
    page.click("#txt2img_generate")
    try:
        # Once something is done: until then, the coloured part is transparent.
        page.wait_for_function(
            "() => /EIUP learns .* [1-9]\\d*%/.test(document.querySelector('.progressDiv')?.textContent)",
            timeout=GENERATED_WITHIN,
        )
        seen = page.evaluate(COLOURS)
    finally:
        page.click("#txt2img_interrupt")
    assert LEARNS.match(seen["said"])
    assert seen["overflow"] == "hidden"
    for behind in seen["behind"]:
        assert contrast(seen["text"], behind) >= READABLE
