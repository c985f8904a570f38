"""Each translation has exactly the texts that the page shows."""

import ast
import json
import re
from pathlib import Path

import pytest

from eiup import texts

ROOT = Path(__file__).parents[2]
TRANSLATIONS = sorted((ROOT / "localizations").glob("*.json"))
WRITTEN_BY_JAVASCRIPT = re.compile(r'eiup\.translate\(\s*"((?:[^"\\]|\\.)*)"')
NAMED_VALUES = re.compile(r"\{\w+\}")
# Words that another language has from English.
THE_SAME = {"de_DE": {"Name", "Seed", "Checkpoint", "Prompt"}}

OF_THE_PAGE = ("page", "preset_controls", "journal_page", "result_panel", "token_counter", "policy_panel")
# Examples of what is typed, and calls of JavaScript.
NO_WORDS = {"placeholder", "_js"}
TAG_OR_ATTRIBUTE = re.compile(r"<[^>]*>|\w+='[^']*'")
WORDS = re.compile("[A-Z][a-z]|[A-Za-z] +[A-Za-z]")


def written_by_javascript():
    scripts = (path.read_text(encoding="utf-8") for path in (ROOT / "javascript").glob("*.js"))
    return {json.loads(f'"{text}"') for script in scripts for text in WRITTEN_BY_JAVASCRIPT.findall(script)}


class Literals(ast.NodeVisitor):
    """What a module's literals would show: neither tags nor docstrings, and no errors."""

    def __init__(self, path):
        self.words = []
        self.visit(ast.parse(path.read_text(encoding="utf-8")))

    def visit_Expr(self, node):
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_Call(self, node):
        if getattr(node.func, "id", None) != "RequestError":
            self.generic_visit(node)

    def visit_keyword(self, node):
        if node.arg not in NO_WORDS:
            self.generic_visit(node)

    def visit_JoinedStr(self, node):
        self.add("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part.value)

    def visit_Constant(self, node):
        if isinstance(node.value, str):
            self.add(node.value)

    def add(self, literal):
        text = TAG_OR_ATTRIBUTE.sub("", literal)
        if WORDS.search(text):
            self.words.append(text)


def pairs_of(path):
    """Key and value of each entry, also of one that another entry with the same key would hide."""
    return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=lambda pairs: pairs)


def test_there_are_translations_under_the_names_that_localizations_of_the_webui_have():
    assert [path.stem for path in TRANSLATIONS] == ["de_DE", "ja_JP", "zh_CN"]


def test_every_text_that_javascript_writes_is_found():
    calls = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "javascript").glob("*.js"))
    assert len(written_by_javascript()) == calls.count("eiup.translate(") > 0


def test_what_the_panel_says_is_translated():
    """Its words are in one object; what begins like a sentence is nowhere else in a script either."""
    panel = (ROOT / "javascript" / "eiup-panel.js").read_text(encoding="utf-8")
    words = re.search(r"const WORDS = \{\n(.*?)\n    \};", panel, re.DOTALL)[1].splitlines()
    assert [line for line in words if not WRITTEN_BY_JAVASCRIPT.search(line)] == []
    for path in (ROOT / "javascript").glob("*.js"):
        script = WRITTEN_BY_JAVASCRIPT.sub("", path.read_text(encoding="utf-8"))
        assert re.findall(r"""["'`][A-Z][a-z][^"'`\n]*""", script) == [], path.name


@pytest.mark.parametrize("module", OF_THE_PAGE)
def test_a_module_of_the_page_has_its_words_from_texts(module):
    assert Literals(ROOT / "eiup" / "webui" / f"{module}.py").words == []


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda path: path.stem)
def test_a_translation_has_every_text_once_and_no_other(path):
    keys = [key for key, _ in pairs_of(path)]
    assert sorted(keys) == sorted(texts.shown() | written_by_javascript())


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda path: path.stem)
def test_a_translation_names_the_same_values_and_differs(path):
    same = THE_SAME.get(path.stem, set())
    for key, value in pairs_of(path):
        assert sorted(NAMED_VALUES.findall(value)) == sorted(NAMED_VALUES.findall(key)), key
        assert value.strip() == value, key
        assert (value == key) == (key in same), key
        assert "<" not in value, key


def test_the_webui_can_find_every_text():
    """It looks for a node's text without spaces around it; numbers and texts with emoji it leaves alone."""
    for text in texts.shown() | written_by_javascript():
        assert text == text.strip()
        assert re.search("[A-Za-z]", text)
        assert not set(text) & {"\xa9", "\xae"}
        assert max(text) < "\u203c"
