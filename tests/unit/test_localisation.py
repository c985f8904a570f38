"""Each translation has exactly the texts that the page shows."""

import json
import re
from pathlib import Path

import pytest

from eiup import texts

ROOT = Path(__file__).parents[2]
TRANSLATIONS = sorted((ROOT / "localizations").glob("*.json"))
WRITTEN_BY_JAVASCRIPT = re.compile(r'eiup\.translate\(\s*"((?:[^"\\]|\\.)*)"')
NAMED_VALUES = re.compile(r"\{\w+\}")


def written_by_javascript():
    scripts = (path.read_text(encoding="utf-8") for path in (ROOT / "javascript").glob("*.js"))
    return {json.loads(f'"{text}"') for script in scripts for text in WRITTEN_BY_JAVASCRIPT.findall(script)}


def pairs_of(path):
    """Key and value of each entry, also of one that another entry with the same key would hide."""
    return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=lambda pairs: pairs)


def test_there_are_translations_under_the_names_that_localizations_of_the_webui_have():
    assert [path.stem for path in TRANSLATIONS] == ["de_DE", "ja_JP", "zh_CN"]


def test_every_text_that_javascript_writes_is_found():
    calls = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "javascript").glob("*.js"))
    assert len(written_by_javascript()) == calls.count("eiup.translate(") > 0


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda path: path.stem)
def test_a_translation_has_every_text_once_and_no_other(path):
    keys = [key for key, _ in pairs_of(path)]
    assert sorted(keys) == sorted(texts.shown() | written_by_javascript())


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda path: path.stem)
def test_a_translation_names_the_same_values_and_differs(path):
    for key, value in pairs_of(path):
        assert sorted(NAMED_VALUES.findall(value)) == sorted(NAMED_VALUES.findall(key)), key
        assert value.strip() == value != key, key
        assert "<" not in value, key


def test_the_webui_can_find_every_text():
    """It looks for a node's text without spaces around it; numbers and texts with emoji it leaves alone."""
    for text in texts.shown() | written_by_javascript():
        assert text == text.strip()
        assert re.search("[A-Za-z]", text)
        assert not set(text) & {"\xa9", "\xae"}
        assert max(text) < "\u203c"
