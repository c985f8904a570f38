"""How long it takes to read a large journal, and how much memory."""

from __future__ import annotations

import argparse
import random
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

from eiup.evidence import ConceptEvidence, ImageEvidence
from eiup.journal import Journal, PassEvidence, image_record
from eiup.journal_csv import csv_chunks
from eiup.journal_query import JournalFilter, Page, find_page, newest_first

STEPS = 25
NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def fill(folder: Path, count: int, concepts: int) -> None:
    """``count`` images of one day; one in a thousand is of the concept *rare*, one in ten thousand has a
    presence above 2."""
    journal, random_ = Journal(folder, max_bytes=1e8), random.Random(1)
    for index in range(count):
        names = [f"concept {random_.randrange(50)}" for _ in range(concepts)]
        if index % 1000 == 1:
            names[0] = "rare"
        evidence = tuple(
            ConceptEvidence(
                name,
                3.0 if index % 10000 == 2 else random_.random(),
                random_.random(),
                random_.random(),
                tuple(random_.random() for _ in range(STEPS)),
                tuple(random_.random() for _ in range(STEPS)),
                tuple(random_.random() for _ in range(STEPS)),
            )
            for name in names
        )
        progress = tuple(step / STEPS for step in range(STEPS))
        part = PassEvidence("first", "0123456789", ImageEvidence(progress, evidence, 2, 2))
        time = NOON + timedelta(seconds=index * 20000 / count)
        journal.append(
            image_record(
                [part],
                weights=[1.0] * concepts,
                strength=2.0,
                mode="adaptive",
                window=(0.0, 1.0),
                seed=index,
                time=time,
            )
        )


def measure(name: str, run: Callable[[], Any]) -> None:
    """Print the shortest times of three runs, and the largest memory in use in a further one."""
    times = []
    for _ in range(3):
        start = perf_counter(), process_time()
        run()
        times.append((perf_counter() - start[0], process_time() - start[1]))
    tracemalloc.start()
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    passed, busy = (min(column) * 1000 for column in zip(*times))
    print(f"{name:<52} {passed:9.1f} ms ({busy:.1f} ms of the CPU), {peak / 1e6:.1f} MB", flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=int, default=100_000, help="images in the journal")
    parser.add_argument("--concepts", type=int, default=2, help="concepts an image")


def run(arguments: argparse.Namespace) -> int:
    with TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder, arguments.records, arguments.concepts)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{arguments.records} records, {size / 1e6:.0f} MB")

        def page(limit: int = 50, **filters: Any) -> Page:
            return find_page(folder, JournalFilter.from_fields(filters), limit)

        def export() -> int:
            wanted = JournalFilter()
            records = (record for _, record in newest_first(folder, wanted))
            return sum(len(chunk) for chunk in csv_chunks(records, wanted))

        measure("the newest 50", page)
        measure("the newest 1000", lambda: page(1000))
        measure("50 of a concept in one of 25 images", lambda: page(concept="concept 7"))
        measure("50 of a concept in one of 1000 images", lambda: page(concept="rare"))
        measure("a concept in no image (the whole journal)", lambda: page(concept="none"))
        measure("presence 2.5, 1 of 10,000 (the whole journal)", lambda: page(presence=2.5))
        measure(
            "before the first minute's end (the whole journal)", lambda: page(before="2026-01-01T12:01:00Z")
        )
        measure("all as CSV", export)
    return 0
