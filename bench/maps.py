"""``python -m bench maps``: whether heat maps show where a concept would have been, on Toyland.

The un-erased image of the same seed is the ground truth: a map is right where its largest value lies on the
concept in that image. In images that are unrelated to the concept, the result is right where it says that the
concept was not present, i.e. nothing was suppressed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from demo.toyland.pipeline import generate
from demo.toyland.world import CONCEPTS, region
from eiup.calibration import CalibrationCache
from eiup.concepts import Concept
from eiup.evidence import ConceptEvidence
from eiup.maps import decode_map
from eiup.request import ErasureRequest

from . import common, quality
from .cases import BenchCase
from .methods import CALIBRATIONS, METHODS

OUT = Path(__file__).parent / "out" / "maps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_case_arguments(parser, common.HELD_OUT, OUT)
    parser.add_argument(
        "--concepts", type=common.names("concept", CONCEPTS), default=["star"],
        help="comma-separated (default: star)",
    )  # fmt: skip
    parser.add_argument("--mode", default="adaptive", help="the mode of erasing (default: adaptive)")


def run(arguments: argparse.Namespace) -> int:
    bench = common.Bench.of(arguments, [METHODS[common.REFERENCE]])
    cells = quality.select(
        bench.cases, arguments.concepts, ("implicit", "explicit", "unrelated"), arguments.images
    )
    plain = bench.results(None)
    quality.make_images(bench.model, bench.methods, cells, plain, arguments.steps, arguments.fresh)
    batches = [
        (cell, chosen[start : start + quality.BATCH])
        for cell, chosen in cells.items()
        for start in range(0, len(chosen), quality.BATCH)
    ]
    right: dict[tuple[str, str], list[bool]] = {}
    for cell, cases in tqdm(batches, unit="batch", disable=not sys.stderr.isatty()):
        request = ErasureRequest(True, (Concept(cell[0]),), mode=arguments.mode, maps=True)
        prompts, seeds = [case.prompt for case in cases], [case.seed for case in cases]
        cache = CalibrationCache(CALIBRATIONS)
        _, evidence = generate(bench.model, prompts, seeds, request, steps=arguments.steps, cache=cache)
        found = right.setdefault(cell, [])
        for index, case in enumerate(cases):
            truth = plain[common.REFERENCE][case]
            with Image.open(truth.image) as image:
                verdict = is_right(case, np.asarray(image), truth, evidence[index].concepts[0])
            found += [] if verdict is None else [verdict]
    rows = [{"concept": c, "group": group, **quality.rate(found)} for (c, group), found in right.items()]
    (arguments.out / "maps.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(table(rows) + f"\n\nThe figures are in {arguments.out / 'maps.json'}.")
    return 0


def is_right(case: BenchCase, plain: np.ndarray, truth: Any, found: ConceptEvidence) -> bool | None:
    """Whether the evidence is right; None where the un-erased image does not show the concept anywhere."""
    if case.group == "unrelated":
        return found.share == 0
    where = region(plain, case.concept) if truth.judgement.shows(case.concept) else None
    if where is None:
        return None
    if found.map is None:
        return False
    values = decode_map(found.map).numpy()
    y, x = np.unravel_index(values.argmax(), values.shape)
    middle = tuple(
        int((place + 0.5) * size / side) for place, size, side in zip((y, x), where.shape, values.shape)
    )
    return bool(where[middle])


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [
        "implicit, explicit: the map's maximum lies on the concept in the un-erased image",
        "unrelated: nothing is said to have been present; with 95 % intervals",
        "",
    ]
    for row in rows:
        share = f"{row['rate']:.2f} [{row['low']:.2f} {row['high']:.2f}]" if row["of"] else "-"
        lines.append(f"{row['concept']:9}{row['group']:11}{share:20} of {row['of']}")
    return "\n".join(lines)
