"""The page of a webui whose localization is German."""

# ruff: noqa: F811 - a fixture is imported

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eiup import texts
from tests.e2e.test_panel import PNG_PANEL, infotext_of, result, show_in_png_info, value_of, with_infotext
from tests.e2e.test_typing import BOTH_TABS, open_page, texts_in  # noqa: F401 - a fixture

pytest.importorskip("playwright")
pytestmark = pytest.mark.timeout(900)

TRANSLATION = Path(__file__).parents[2] / "localizations" / "de_DE.json"


@pytest.fixture(scope="module")
def in_german(webui, reload_ui):
    """The translation, of a webui whose page is shown in it."""
    webui.post("/sdapi/v1/options", {"localization": "de_DE"})
    try:
        reload_ui()
        yield json.loads(TRANSLATION.read_text(encoding="utf-8"))
    finally:
        webui.post("/sdapi/v1/options", {"localization": "None"})
        reload_ui()


def untranslated(shown, translations):
    return [text for text in shown if translations.get(text, text) != text]


@BOTH_TABS
def test_the_accordion_is_german_where_the_webui_is(in_german, open_page, tab):
    accordion = open_page(tab)
    accordion.wait_for("strength label span", "Stärke")
    assert in_german["Concepts to erase"] == "Zu löschende Konzepte"
    assert "Zu löschende Konzepte" in accordion.all_texts
    assert untranslated(accordion.all_texts, in_german) == []
    accordion.type("star, moon")
    accordion.prompt("a star")
    accordion.wait_for("named", "Der Prompt nennt: star")
    accordion.wait_for("tokens", "Längstes Konzept: star, 1/75 Tokens erlaubt")
    accordion.wait_for("enabled > .label-wrap > span:first-child", "EIUP: 2 Konzepte")
    accordion.type("star, @nsfw")
    accordion.wait_for("enabled > .label-wrap > span:first-child", "EIUP: 1 Konzept, 1 Vorlage")


def test_what_the_server_writes_into_the_page_is_german_too(in_german, open_page):
    accordion = open_page()
    accordion.page.click(f"{accordion.item('feedback_panel')} > .label-wrap")
    accordion.page.click(accordion.item("reset_feedback"))
    accordion.page.wait_for_selector(f"{accordion.item('learnt')} >> text=Bei diesem Checkpoint:")
    assert in_german[texts.NOTHING_LEARNT] in accordion.page.inner_text(accordion.item("learnt"))


def test_a_preset_is_shown_in_german(in_german, open_page):
    accordion = open_page()
    page, shown = accordion.page, accordion.item("shown_preset")
    page.click(accordion.item("preset input"))
    page.click(accordion.item("preset li:has-text('watermarks')"))
    page.wait_for_selector(f"{shown} >> text=@watermarks", state="attached")
    assert in_german[texts.SHIPPED] in texts_in(page, shown)
    assert untranslated(texts_in(page, shown), in_german) == []


def test_the_journal_is_german_where_the_webui_is(in_german, open_page):
    page = open_page().page
    page.click("#tabs > .tab-nav button:has-text('EIUP-Protokoll')")
    page.wait_for_selector("#eiup_journal_table :is(p, th)")
    shown = texts_in(page, "#tab_eiup_journal")
    assert {in_german[text] for text in (texts.AFTER, texts.MINIMUM_PRESENCE, texts.EXPORT)} <= set(shown)
    assert untranslated(shown, in_german) == []


def test_the_panel_is_german_where_the_webui_is(in_german, open_page):
    page = open_page().page
    results = [result(map="1x1:8A==", begun_anew=True), result(share=0.0, map="99x99:")]
    value = value_of([{"concept": "star", "weight": 1.5}, "moon"], results)
    show_in_png_info(page, with_infotext(infotext_of(value)))
    page.wait_for_selector(PNG_PANEL)
    shown = texts_in(page, PNG_PANEL)
    assert {"Ergebnis", "gelöscht", "nicht vorhanden", "Die Heatmap kann nicht gelesen werden."} <= set(shown)
    assert untranslated(shown, in_german) == []
