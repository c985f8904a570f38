"""The tab *EIUP journal* in a real browser: look, filter, turn pages, export."""

from __future__ import annotations

import csv
import uuid
from pathlib import Path

import pytest

from tests.e2e.support import erasing, scene

pytest.importorskip("playwright")
pytestmark = pytest.mark.timeout(900)

WITHIN = 300_000
TABLE = "#eiup_journal_table"
IMAGES_A_PAGE = 50


@pytest.fixture(scope="module")
def concept(webui):
    """A concept of these tests only, of which the journal has one page of images and two more; it looks like
    HTML."""
    concept = f"<b>star</b> {uuid.uuid4().hex[:8]}"
    payload = scene(steps=1, width=64, height=64, **erasing({"concept": concept}, mode="constant"))
    for seed in range(0, IMAGES_A_PAGE + 2, 4):
        webui.txt2img(**{**payload, "seed": seed, "batch_size": 4})
    return concept


@pytest.fixture
def journal(webui, page):
    page.route(
        lambda url: url.startswith("http") and not url.startswith(webui.base_url), lambda route: route.abort()
    )
    page.goto(webui.base_url, wait_until="domcontentloaded")
    page.wait_for_selector("#tabs > .tab-nav", timeout=WITHIN)
    page.click("#tabs > .tab-nav button:has-text('EIUP journal')")
    return page


def wait_for_seed(page, seed):
    """Until the first row is of that seed."""
    page.wait_for_function(
        "([cell, seed]) => document.querySelector(cell)?.innerText.trim() == seed",
        arg=[f"{TABLE} tbody td:nth-child(2)", str(seed)],
        timeout=WITHIN,
    )


def choose_mode(page, name):
    page.click("#eiup_journal_mode input")
    page.click(f"#eiup_journal_mode li:has-text('{name}')")


def fill(page, name, text):
    page.fill(f"#eiup_journal_{name} input, #eiup_journal_{name} textarea", text)


def test_the_journal_is_shown_filtered_turned_over_and_exported(webui, concept, journal):
    page = journal
    last = IMAGES_A_PAGE + 1
    # What was made last is there at once.
    wait_for_seed(page, last)
    fill(page, "concept", concept)
    page.click("#eiup_journal_show")
    wait_for_seed(page, last)
    rows = page.locator(f"{TABLE} tbody tr")
    assert rows.count() == IMAGES_A_PAGE
    assert page.locator(f"{TABLE} tbody b").count() == 0
    assert concept in rows.nth(0).inner_text()
    assert page.is_disabled("#eiup_journal_newer")
    page.click("#eiup_journal_older")
    wait_for_seed(page, 1)
    assert rows.count() == 2
    assert page.is_disabled("#eiup_journal_older")
    page.click("#eiup_journal_newer")
    wait_for_seed(page, last)

    page.click("#eiup_journal_export")
    page.wait_for_selector("#eiup_journal_csv a[download]", timeout=WITHIN)
    with page.expect_download() as download:
        page.click("#eiup_journal_csv a[download]")
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    lines = list(csv.DictReader(text.splitlines()))
    assert [line["seed"] for line in lines] == [str(seed) for seed in range(last, -1, -1)]
    assert {line["concept"] for line in lines} == {concept}

    # Of these images, made in the mode constant, none was made in another.
    choose_mode(page, "strict")
    page.wait_for_selector(f"{TABLE} >> text=The journal has no such images.", timeout=WITHIN)
    choose_mode(page, "constant")
    wait_for_seed(page, last)

    # The field is called as the message has it.
    page.get_by_label("After (UTC)").fill("yesterday")
    page.click("#eiup_journal_show")
    page.wait_for_selector(f"{TABLE} >> text=after is 'yesterday'", timeout=WITHIN)
    page.get_by_label("After (UTC)").fill("")

    fill(page, "presence", "much")
    page.press("#eiup_journal_presence input, #eiup_journal_presence textarea", "Enter")
    page.wait_for_selector(f"{TABLE} >> text=presence is 'much'", timeout=WITHIN)
    fill(page, "presence", "1000")
    page.click("#eiup_journal_show")
    page.wait_for_selector(f"{TABLE} >> text=The journal has no such images.", timeout=WITHIN)
