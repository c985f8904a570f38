"""Translations of the page: JSON files in the ``localizations`` folders of extensions, merged by name."""

from __future__ import annotations

import json
import os

from modules import errors, scripts


def list_localizations() -> dict[str, list[str]]:
    """The files of each localization, by its name."""
    found: dict[str, list[str]] = {}
    for file in scripts.list_scripts("localizations", ".json"):
        found.setdefault(os.path.splitext(file.filename)[0], []).append(file.path)
    return found


def localization_js(current_localization_name: str) -> str:
    """A script that makes the translations known to the page; a file that cannot be read is reported."""
    translations: dict[str, str] = {}
    for path in list_localizations().get(current_localization_name, []):
        try:
            with open(path, encoding="utf8") as file:
                translations |= json.load(file)
        except Exception:
            errors.report(f"Error loading localization from {path}", exc_info=True)
    # Nothing in a script element may look like its end.
    return "window.localization = " + json.dumps(translations).replace("</", "<\\/")
