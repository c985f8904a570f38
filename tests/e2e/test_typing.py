"""What the page says while one types: how long concepts are, what is wrong, what the prompt names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eiup import texts
from eiup.concepts import PresetReference, expand, parse_entries
from eiup.errors import RequestError
from eiup.request import MODES
from tests.e2e.test_page import OPENED_WITHIN

pytest.importorskip("playwright")
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
ANSWERED_WITHIN = 60_000
OWN_COMPONENTS = ("script_txt2img_eiup_", "script_img2img_eiup_", "eiup_journal_", "setting_eiup_")
# Gradio's own, where a file can be uploaded, and of components that are hidden.
OF_GRADIO = {"Drop File Here", "-", "or", "Click to Upload", "Clear", "Textbox", "Run"}
BOTH_TABS = pytest.mark.parametrize("tab", ["txt2img", "img2img"])


class Accordion:
    """EIUP's accordion in one tab of the page."""

    def __init__(self, page, tab):
        self.page, self.tab, self.name = page, tab, f"#script_{tab}_eiup_enabled"

    def open(self):
        if self.tab == "img2img":
            self.page.click("#tabs > .tab-nav button:has-text('img2img')")
        self.page.click(f"{self.name}-visible-checkbox")
        if not self.page.is_visible(self.item("concepts textarea")):
            self.page.click(f"{self.name} > .label-wrap")
        self.page.wait_for_selector(self.item("concepts textarea"), state="visible")

    def item(self, selector):
        return f"#script_{self.tab}_eiup_{selector}"

    def type(self, concepts):
        self.page.fill(self.item("concepts textarea"), concepts)

    def prompt(self, text):
        self.page.fill(f"#{self.tab}_prompt textarea", text)

    def wait_for(self, selector, text):
        """Wait until an item's text is this one, whatever spaces are around it."""
        self.page.wait_for_function(
            "([item, text]) => document.querySelector(item)?.textContent.trim() === text",
            arg=[self.item(selector), text],
            timeout=ANSWERED_WITHIN,
        )

    def wait_for_tokens(self, *parts):
        self.page.wait_for_function(
            """([item, parts]) => {
                const text = document.querySelector(item)?.textContent || "";
                return parts.every(part => text.includes(part));
            }""",
            arg=[self.item("tokens"), list(parts)],
            timeout=ANSWERED_WITHIN,
        )

    @property
    def errors(self):
        return self.page.locator(f"{self.item('tokens')} .error").all_inner_texts()

    @property
    def all_texts(self):
        return texts_in(self.page, self.name)


def texts_in(page, selector):
    """Every text in an element, without the spaces around it, and every tooltip."""
    return page.evaluate(
        """selector => {
            const element = document.querySelector(selector);
            const texts = Array.from(element.querySelectorAll("[title]"), titled => titled.title);
            const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
            while (walker.nextNode()) texts.push(walker.currentNode.textContent.trim());
            return texts.filter(text => text);
        }""",
        selector,
    )


@pytest.fixture
def open_page(webui, page):
    """Opens the page, again or for the first time, and the accordion of a tab."""
    page.route(
        lambda url: url.startswith("http") and not url.startswith(webui.base_url), lambda route: route.abort()
    )

    def open_tab(tab="txt2img"):
        page.goto(webui.base_url, wait_until="domcontentloaded")
        page.wait_for_selector("#script_txt2img_eiup_enabled-visible-checkbox", timeout=OPENED_WITHIN)
        accordion = Accordion(page, tab)
        accordion.open()
        return accordion

    return open_tab


# ---- tokens ---------------------------------------------------------------------------------------------


@BOTH_TABS
def test_the_longest_concept_is_counted(open_page, tab):
    accordion = open_page(tab)
    accordion.type("star")
    accordion.wait_for("tokens", "Longest concept: star, 1/75 tokens allowed")
    accordion.type("star, a star and a moon:1.5")
    accordion.wait_for("tokens", "Longest concept: a star and a moon, 5/75 tokens allowed")
    accordion.type("")
    accordion.wait_for("tokens", "")
    assert accordion.errors == []


def test_concepts_that_are_too_long_are_marked(open_page):
    accordion = open_page()
    accordion.type("moon\n" + "star " * 80 + "\n" + "moon " * 76)
    accordion.wait_for_tokens("80/75", "76/75")
    (told,) = accordion.errors
    assert re.fullmatch(r"Too long: star [^;]*\.\.\., 80/75; moon [^;]*\.\.\., 76/75 tokens allowed", told)
    accordion.type("star " * 75)
    accordion.wait_for_tokens("75/75")
    assert accordion.errors == []


@BOTH_TABS
def test_what_is_wrong_is_said_at_the_field(open_page, tab):
    accordion = open_page(tab)
    accordion.type("star:much")
    accordion.wait_for_tokens("concepts is 'star:much'", "watermark:1.5")
    assert len(accordion.errors) == 1
    accordion.type("star")
    accordion.wait_for_tokens("star, 1/75")


def test_what_is_typed_is_no_html(open_page):
    accordion = open_page()
    typed = "<img src=x onerror=document.title='run'>"
    for concepts in (typed, f"{typed}:much"):
        accordion.type(concepts)
        accordion.wait_for_tokens("<img")
        assert accordion.page.locator(f"{accordion.item('tokens')} img").count() == 0
    accordion.type(typed)
    accordion.prompt(typed)
    accordion.wait_for("named", f"The prompt names: {typed}")
    assert accordion.page.locator(f"{accordion.item('named')} img").count() == 0
    assert accordion.page.title() != "run"


# ---- what the prompt names ------------------------------------------------------------------------------

NAMED = [
    ("a wizard with a star", "star", "star"),
    ("A STAR", "star, moon", "star"),
    ("a (star:1.3) and ((moon)), [stamp]", "stamp, moon, star", "stamp, moon, star"),
    ("by (Van Gogh:1.2) style", "van gogh style:2", "van gogh style"),
    ("star\n\nfish", "star fish", "star fish"),
    ("artist \\(style\\)", "artist \\(style\\)", "artist \\(style\\)"),
    ("salt, pepper", "salt\\, pepper", "salt, pepper"),
    ("C# code", "C\\#", "C#"),
    ("ein Stück Käse", "KÄSE", "KÄSE"),
    ("a star", "(star:1.2):0.5", "(star:1.2)"),
]
NOT_NAMED = [
    ("a starfish and a superstar", "star"),
    ("<lora:star:0.8> a wizard", "star"),
    ("a star", "# star"),
    ("a star", "star:0"),
    ("a wizard", "star"),
    ("a wizard", "()"),
    ("", "star"),
]


@BOTH_TABS
def test_the_prompt_names_a_concept(open_page, tab):
    accordion = open_page(tab)
    for prompt, concepts, named in NAMED:
        accordion.prompt(prompt)
        accordion.type(concepts)
        accordion.wait_for("named", f"The prompt names: {named}")
        accordion.prompt("a wizard")
        accordion.wait_for("named", "")


def test_what_is_not_a_word_of_the_prompt_is_not_named(open_page):
    accordion = open_page()
    for prompt, concepts in NOT_NAMED:
        # Named before, so that waiting for nothing is waiting for a change.
        accordion.prompt("a stamp")
        accordion.type("stamp")
        accordion.wait_for("named", "The prompt names: stamp")
        accordion.prompt(prompt)
        accordion.type(concepts)
        accordion.wait_for("named", "")


def test_nothing_is_named_while_nothing_is_erased(open_page):
    accordion = open_page()
    accordion.prompt("a star")
    accordion.type("star")
    accordion.wait_for("named", "The prompt names: star")
    accordion.page.click(f"{accordion.name}-visible-checkbox")
    accordion.wait_for("named", "")


PIECES = [*"ab,:#@\\()[]\n\r\t 12.", "\x0b", "\x1c", "\x1f", "\x85", "\u2028", "\u3000", "\ufeff", "star"]


@pytest.fixture(scope="module")
def parsed_in_the_browser(browser):
    page = browser.new_page()
    page.evaluate("() => { window.onUiLoaded = window.onAfterUiUpdate = () => {}; }")
    page.add_script_tag(path=ROOT / "javascript" / "eiup-concepts.js")
    yield lambda text: page.evaluate("text => eiup.parseEntries(text)", text)
    page.close()


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_the_page_reads_concepts_as_the_server_does(parsed_in_the_browser, text):
    try:
        entries = parse_entries(text)
        expand(entries, resolve=lambda *_: ())
    except RequestError:
        return
    expected = {}
    for entry in entries:
        preset = isinstance(entry, PresetReference)
        shown = f"@{entry.name}" if preset else entry.text
        expected.setdefault((preset, shown), {"text": shown, "weight": entry.weight, "preset": preset})
    assert parsed_in_the_browser(text) == list(expected.values())


# ---- header and texts --------------------------------------------------------------------------------


@BOTH_TABS
def test_the_header_says_how_many_concepts_are_erased(open_page, tab):
    accordion = open_page(tab)
    header = "enabled > .label-wrap > span:first-child"
    for concepts, count in (("star, moon\nstar", ": 2 concepts"), ("#", ""), ("star", ": 1 concept")):
        accordion.type(concepts)
        accordion.wait_for(header, f"EIUP{count}")
    accordion.page.click(f"{accordion.name}-visible-checkbox")
    accordion.wait_for(header, "EIUP")


def test_every_text_of_the_accordion_can_be_translated(open_page):
    shown = open_page().all_texts
    # The webui's own arrow of an accordion; names and numbers have no translation.
    known = texts.shown() | {"EIUP", "\u25bc", *MODES, *OF_GRADIO}
    assert [text for text in shown if text not in known and not re.fullmatch(r"[\d.]+", text)] == []
    assert len(set(shown) & texts.shown()) > 10


def test_every_label_can_be_translated(webui):
    shown = set()
    for component in webui.get("/config").json()["components"]:
        props = component["props"]
        if (props.get("elem_id") or "").startswith(OWN_COMPONENTS):
            shown |= {props.get("label"), props.get("info")}
            if component["type"] == "button" and props["visible"]:
                shown.add(props["value"])
    assert shown - texts.shown() <= {"EIUP", "", None}
    assert {texts.UPLOAD_PRESET, texts.EXPORTED, texts.SHOW} <= shown
