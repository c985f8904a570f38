"""Reading the journal: newest first, filtered, in pages.

There is no index: files are read from their ends, lines are looked at as bytes first, and only those that
may match are parsed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timezone
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from .concepts import make_concept
from .errors import RequestError
from .journal_files import JournalFile, journal_files, lines_from_end
from .request import FIELD

# What each filter selects; the API documents its parameters with it.
FILTERS = {
    "after": "Images made at this time or later: 2026-11-25 or 2026-11-25T10:30:00Z; UTC without an offset.",
    "before": "Images made earlier than this time.",
    "concept": "Images for which this concept was to be erased; its text as the journal has it.",
    "presence": "Images in which a concept (the one asked for) has at least this presence.",
    "checkpoint": "Images made with the checkpoint of this short hash, in any pass.",
    "mode": f"Images made in this mode: {FIELD['mode'].allowed}.",
}
MAX_LIMIT = 1000
_TIMES = "a date such as 2026-11-25, or a time such as 2026-11-25T10:30:00Z"
# How a line begins that the journal wrote: its time, to the millisecond.
_TIME = re.compile(rb'\{"v":[0-9]+,"time":"([0-9T:.-]{23})\+00:00"')
_PRESENCE = re.compile(rb'"presence":\s*(-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)')


@dataclass(frozen=True)
class JournalFilter:
    """Which images are wanted; see :data:`FILTERS`. None filters nothing."""

    after: datetime | None = None
    before: datetime | None = None
    concept: str | None = None
    presence: float | None = None
    checkpoint: str | None = None
    mode: str | None = None

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> JournalFilter:
        """From texts, as a URL or a page has them; empty ones and None filter nothing.

        Raises :class:`RequestError` for unknown or wrong ones.
        """
        given = {}
        for name, value in values.items():
            if name not in FILTERS:
                raise RequestError(name, value, "the fields " + ", ".join(FILTERS))
            text = "" if value is None else str(value).strip()
            if text:
                given[name] = _PARSERS[name](text)
        wanted = cls(**given)
        if wanted.after and wanted.before and wanted.after >= wanted.before:
            raise RequestError("after", values["after"], f"earlier than before, which is {values['before']}")
        return wanted

    def excludes_day(self, day: date) -> bool:
        """Whether nothing of that day is wanted."""
        return (self.after is not None and day < self.after.date()) or (
            self.before is not None and day > self.before.date()
        )

    def may_match(self, line: bytes) -> bool:
        """False only for lines whose record certainly does not match: a look at the bytes, which is much
        cheaper than parsing them."""
        for text in (self.concept, self.checkpoint, self.mode):
            if text is not None and json.dumps(text).encode() not in line:
                return False
        if (self.after or self.before) and (time := _TIME.match(line)):
            if self.after and time[1] < _milliseconds(self.after):
                return False
            if self.before and time[1] > _milliseconds(self.before):
                return False
        if self.presence is not None:
            passes = line.find(b'"passes":')
            found = _PRESENCE.findall(line, 0, len(line) if passes < 0 else passes)
            if found and max(map(float, found)) < self.presence:
                return False
        return True

    def matches(self, record: Mapping[str, Any]) -> bool:
        if self.after or self.before:
            time = _time_of(record)
            if time is None or (self.after and time < self.after) or (self.before and time >= self.before):
                return False
        if self.checkpoint is not None and all(
            part.get("checkpoint") != self.checkpoint for part in (record, *objects(record, "passes"))
        ):
            return False
        if self.mode is not None and record.get("mode") != self.mode:
            return False
        if self.concept is None and self.presence is None:
            return True
        return any(self.matches_concept(concept) for concept in objects(record, "concepts"))

    def matches_concept(self, concept: Mapping[str, Any]) -> bool:
        """Whether it is the concept that is asked for, and as present."""
        if self.concept is not None and concept.get("concept") != self.concept:
            return False
        presence = concept.get("presence")
        return self.presence is None or (isinstance(presence, (int, float)) and presence >= self.presence)


@dataclass(frozen=True)
class Cursor:
    """A place in the journal: all lines before byte ``offset`` of ``file``, and all earlier files.

    Records are only ever appended, so new ones do not shift the pages behind a cursor.
    """

    file: JournalFile
    offset: int

    def __str__(self) -> str:
        return f"{self.file.name.removesuffix('.jsonl')}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises :class:`RequestError`."""
        name, _, offset = text.partition(":")
        file = JournalFile.from_name(f"{name}.jsonl")
        if file is None or not re.fullmatch(r"[0-9]{1,15}", offset):
            raise RequestError("cursor", text, "what an earlier answer has as its next")
        return cls(file, int(offset))


@dataclass(frozen=True)
class Page:
    """Records, newest first; ``next`` is the cursor of the page that follows, None where none does."""

    records: list[dict[str, Any]]
    next: str | None


def newest_first(
    folder: Path, wanted: JournalFilter, cursor: Cursor | None = None
) -> Iterator[tuple[Cursor, dict[str, Any]]]:
    """The records wanted, each with the cursor of what comes after it."""
    for file in reversed(journal_files(folder)):
        if wanted.excludes_day(file.day) or (cursor is not None and file > cursor.file):
            continue
        end = cursor.offset if cursor is not None and file == cursor.file else None
        for offset, line in lines_from_end(folder / file.name, end):
            if not wanted.may_match(line):
                continue
            record = parse_record(line)
            if record is not None and wanted.matches(record):
                yield Cursor(file, offset), record


def find_page(folder: Path, wanted: JournalFilter, limit: int, cursor: Cursor | None = None) -> Page:
    """At most ``limit`` records. Whether there are more is found out by looking for one more."""
    found = list(islice(newest_first(folder, wanted, cursor), limit + 1))
    last = str(found[limit - 1][0]) if len(found) > limit else None
    return Page([record for _, record in found[:limit]], last)


def parse_limit(text: str) -> int:
    """Raises :class:`RequestError`."""
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_LIMIT:
        raise RequestError("limit", text, f"a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def parse_record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None where the line was cut or damaged."""
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def objects(record: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The objects in a record's list; none where there is no such list."""
    values = record.get(name)
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _parse_time(text: str, field: str) -> datetime:
    try:
        # Python 3.10 does not know the Z.
        return _in_utc(datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text)))
    except (ValueError, OverflowError):
        advice = "In a URL, + is written as %2B." if " " in text else ""
        raise RequestError(field, text, _TIMES, advice) from None


def _parse_presence(text: str) -> float:
    try:
        presence = float(text)
    except ValueError:
        presence = math.nan
    if not math.isfinite(presence):
        raise RequestError("presence", text, "a number such as 0.5")
    return presence


def _time_of(record: Mapping[str, Any]) -> datetime | None:
    try:
        return _in_utc(datetime.fromisoformat(record["time"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


# From a filter's text to its value.
_PARSERS: dict[str, Callable[[str], Any]] = {
    "after": partial(_parse_time, field="after"),
    "before": partial(_parse_time, field="before"),
    "concept": lambda text: make_concept(text, field="concept").text,
    "presence": _parse_presence,
    "checkpoint": str,
    "mode": FIELD["mode"].check,
}


def _in_utc(time: datetime) -> datetime:
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)


def _milliseconds(time: datetime) -> bytes:
    return time.isoformat(timespec="milliseconds")[:23].encode()
