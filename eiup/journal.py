"""The journal: one JSON object an image, one line each, in a file a day."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from . import __version__
from .evidence import ConceptEvidence, ImageEvidence
from .journal_files import JournalFile, delete_older, journal_files
from .journal_query import parse_record

JOURNAL_VERSION = 1
# Of an image's curve in its infotext.
CURVE_POINTS = 24
# Windows would write another end of line.
_BINARY = getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class PassEvidence:
    """One image's evidence of one sampling pass (``first`` or ``hires``); ``checkpoint`` is a short hash."""

    name: str
    checkpoint: str | None
    evidence: ImageEvidence


def image_record(
    passes: Sequence[PassEvidence],
    *,
    weights: Sequence[float],
    strength: float,
    mode: str,
    window: tuple[float, float],
    seed: int,
    prompt: str | None = None,
    policy: Mapping[str, Any] | None = None,
    time: datetime | None = None,
) -> dict[str, Any]:
    """The journal's record of one image.

    ``weights`` are the concepts' own, ``[K]``. ``concepts`` holds each concept's largest presence, gate,
    share and sight of all passes; ``passes`` the passes one by one, with the values by step. ``prompt`` is
    recorded only where the operator wants it; ``policy`` is what a policy did for the image.
    """
    record: dict[str, Any] = {
        "v": JOURNAL_VERSION,
        "time": _in_utc(time or datetime.now(timezone.utc)),
        "seed": seed,
        "checkpoint": passes[0].checkpoint,
        "mode": mode,
        "strength": strength,
        "window": list(window),
        "concepts": [
            {
                "concept": same[0].concept,
                "weight": weight,
                "presence": round(max(c.presence for c in same), 4),
                "gate": round(max(c.gate for c in same), 4),
                "share": round(max(c.share for c in same), 5),
                "seen": max((round(c.seen, 4) for c in same if c.seen is not None), default=None),
                "begun_anew": any(c.begun_anew for c in same),
                **_map_of(same),
            }
            for weight, *same in zip(weights, *(part.evidence.concepts for part in passes))
        ],
        "passes": [_pass_record(part) for part in passes],
        "eiup": __version__,
    }
    if policy is not None:
        record["policy"] = dict(policy)
    if prompt is not None:
        record["prompt"] = prompt
    return record


def event_record(
    event: str,
    message: str,
    *,
    policy: str | None,
    seed: int | None = None,
    checkpoint: str | None = None,
    time: datetime | None = None,
) -> dict[str, Any]:
    """The journal's record of what is no image: ``refused``, where none was made, or ``policy``, where the
    file of the policy has changed. ``policy`` is the hash of the one in force."""
    return {
        "v": JOURNAL_VERSION,
        "time": _in_utc(time or datetime.now(timezone.utc)),
        "event": event,
        "message": message,
        "seed": seed,
        "checkpoint": checkpoint,
        "policy": {"hash": policy},
        "eiup": __version__,
    }


def _map_of(passes: Sequence[ConceptEvidence]) -> dict[str, str]:
    """Where the concept was forming in the first pass that tells; empty where none does."""
    return next(({"map": concept.map} for concept in passes if concept.map), {})


def result_of(record: dict[str, Any]) -> dict[str, Any]:
    """What an image's infotext says of its record: of each concept, in their order, what the record sums up,
    and the curve of the first pass in at most ``CURVE_POINTS`` points."""
    first = record["passes"][0]
    steps = len(first["progress"])
    # None of an image that was stopped before its first step.
    count = CURVE_POINTS if steps else 0
    points = sorted({round(i * (steps - 1) / (CURVE_POINTS - 1)) for i in range(count)})
    concepts = []
    for concept, by_step in zip(record["concepts"], first["concepts"]):
        told = {key: value for key, value in concept.items() if key not in ("concept", "weight")}
        curve = [round(by_step["share_by_step"][point], 4) for point in points]
        concepts.append({**told, "share_by_step": curve if any(curve) else []})
    return {"progress": [round(first["progress"][point], 3) for point in points], "concepts": concepts}


def _in_utc(time: datetime) -> str:
    return time.astimezone(timezone.utc).isoformat(timespec="milliseconds")


def _pass_record(part: PassEvidence) -> dict[str, Any]:
    evidence = part.evidence
    return {
        "pass": part.name,
        "checkpoint": part.checkpoint,
        "rows": evidence.rows,
        "rows_seen": evidence.rows_seen,
        "progress": [round(value, 4) for value in evidence.progress],
        "concepts": [
            {
                "presence": round(concept.presence, 4),
                "gate": round(concept.gate, 4),
                "share": round(concept.share, 5),
                "presence_by_step": [
                    None if value is None else round(value, 4) for value in concept.presence_by_step
                ],
                "gate_by_step": [round(value, 4) for value in concept.gate_by_step],
                "share_by_step": [round(value, 5) for value in concept.share_by_step],
            }
            for concept in evidence.concepts
        ],
    }


class Journal:
    """Appends records to ``folder/YYYY-MM-DD.jsonl`` (UTC) and reads them back.

    A record is one ``write`` of one line to a file opened for appending, so several processes may share
    a folder. Where a crash left half a line, the next record starts on a line of its own.

    Where a day's file would grow beyond ``max_bytes``, a new part is begun, ``YYYY-MM-DD.1.jsonl`` and so on.
    Files whose last moment is more than ``days`` ago are deleted at the first record and at the first of each
    further day. 0 stands for no limit.
    """

    def __init__(self, folder: Path, days: float = 0, max_bytes: float = 0):
        self.folder = Path(folder)
        self.days, self.max_bytes = days, max_bytes
        self._swept_on: date | None = None

    def append(self, record: dict[str, Any]) -> Path:
        """Write one record; ``record["time"]`` chooses the file. Raises ``OSError`` where it cannot be
        written to its end."""
        day = datetime.fromisoformat(record["time"]).astimezone(timezone.utc).date()
        line = json.dumps(record, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path_for(day, len(line))
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _BINARY, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and _last_byte(descriptor, size) != b"\n":
                line = b"\n" + line
            if os.write(descriptor, line) != len(line):
                raise OSError(f"EIUP: a record was not written to its end, in {path}")
        finally:
            os.close(descriptor)
        self._delete_old()
        return path

    def _path_for(self, day: date, length: int) -> Path:
        """The day's last part, or a new one where ``length`` more bytes would be too many."""
        file = max((f for f in journal_files(self.folder) if f.day == day), default=JournalFile(day))
        path = self.folder / file.name
        size = path.stat().st_size if self.max_bytes and path.exists() else 0
        if size and size + length > self.max_bytes:
            path = self.folder / replace(file, part=file.part + 1).name
        return path

    def _delete_old(self) -> None:
        today = datetime.now(timezone.utc).date()
        if self.days and self._swept_on != today:
            self._swept_on = today
            delete_older(self.folder, self.days, today)

    def records(self) -> Iterator[dict[str, Any]]:
        """All records, oldest file first; half-written lines are passed over."""
        for file in journal_files(self.folder):
            with open(self.folder / file.name, "rb") as lines:
                for line in lines:
                    record = parse_record(line)
                    if record is not None:
                        yield record


def _last_byte(descriptor: int, size: int) -> bytes:
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1)
