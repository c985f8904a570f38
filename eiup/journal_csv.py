"""The journal as CSV: one line per image and concept, and one for each record of what is no image."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .journal_query import JournalFilter, objects

IMAGE_COLUMNS = ("time", "seed", "checkpoint", "mode", "strength")
CONCEPT_COLUMNS = ("concept", "weight", "presence", "gate", "share", "seen", "begun_anew")
LAST_COLUMNS = ("eiup", "prompt", "event", "message")
_CHUNK_CHARACTERS = 1 << 16
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
# Spreadsheets read formulas after these, also in their full width.
_FORMULA = re.compile(r"[\t\r\n]|\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")


def csv_chunks(records: Iterable[Mapping[str, Any]], wanted: JournalFilter) -> Iterator[str]:
    """The header and the lines, in chunks of some 64 thousand characters.

    The filters that speak of a concept select lines here. What a record does not have is empty.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(IMAGE_COLUMNS + CONCEPT_COLUMNS + LAST_COLUMNS)
    for record in records:
        before = [_cell(record.get(name)) for name in IMAGE_COLUMNS]
        after = [_cell(record.get(name)) for name in LAST_COLUMNS]
        concepts = filter(wanted.matches_concept, objects(record, "concepts"))
        # What is no image has none.
        for concept in [{}] if "event" in record else concepts:
            writer.writerow([*before, *(_cell(concept.get(name)) for name in CONCEPT_COLUMNS), *after])
        if buffer.tell() >= _CHUNK_CHARACTERS:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _cell(value: Any) -> Any:
    """What stands in a cell. Text that a spreadsheet would take for a formula begins with a quote."""
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text
