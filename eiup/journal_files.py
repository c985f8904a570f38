"""The journal's files: one a day, in parts where a day's grows too large."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

_NAME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:\.([1-9][0-9]{0,8}))?\.jsonl")
_BLOCK_BYTES = 1 << 18
_log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class JournalFile:
    """``2026-11-25.jsonl``, or a further part of that day, ``2026-11-25.1.jsonl``; days are UTC's.

    Files are ordered by time.
    """

    day: date
    part: int = 0

    @property
    def name(self) -> str:
        return f"{self.day.isoformat()}{f'.{self.part}' if self.part else ''}.jsonl"

    @classmethod
    def from_name(cls, name: str) -> JournalFile | None:
        """The file of that name; None where the journal writes no such name."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        try:
            return cls(date.fromisoformat(match[1]), int(match[2] or 0))
        except ValueError:  # the 31st of February
            return None


def journal_files(folder: Path) -> list[JournalFile]:
    """The journal's files in ``folder``, oldest first; whatever else lies there is none of them."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return sorted(file for name in names if (file := JournalFile.from_name(name)) is not None)


def delete_older(folder: Path, days: float, today: date) -> None:
    """Delete the files whose last moment is more than ``days`` ago. One that cannot be deleted is reported,
    and tried again another day."""
    for file in journal_files(folder):
        # A file's last moment is the end of its day.
        if (today - file.day).days <= days:
            return
        try:
            (folder / file.name).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("EIUP: the journal's file %s cannot be deleted: %s", file.name, error)


def lines_from_end(path: Path, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The lines that lie before byte ``end`` (by default the file's), last first, each with its offset.

    Reads in blocks from the end, so what it costs depends on how many lines are taken. What follows the last
    newline is being written, or was cut by a crash, and is left out; so are empty lines. A file that was
    deleted meanwhile has no lines.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        return
    with file:
        size = os.fstat(file.fileno()).st_size
        position = size if end is None else min(end, size)
        terminated = False
        # The pieces of the line whose beginning has not been read yet, last first.
        pieces: list[bytes] = []
        while position > 0:
            length = min(_BLOCK_BYTES, position)
            position -= length
            file.seek(position)
            first, *lines = file.read(length).split(b"\n")
            offset = position + length
            for line in reversed(lines):
                offset -= len(line)
                pieces.append(line)
                whole = b"".join(reversed(pieces))
                pieces = []
                if terminated and whole:
                    yield offset, whole
                terminated = True
                offset -= 1
            pieces.append(first)
        whole = b"".join(reversed(pieces))
        if terminated and whole:
            yield 0, whole
