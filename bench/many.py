"""``python -m bench many``: many concepts erased at once, and added one after the other.

For each number of concepts the first so many are erased in every image. Each concept's explicit cases tell
whether it still shows, and cases without any concept what becomes of everything else.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo.figures import PSNR_CAP
from demo.toyland.world import CONCEPTS

from . import common, quality
from .method import Method

COUNTS = (1, 2, 4, 8)
OUT = Path(__file__).parent / "out" / "many"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, common.MANY_HELD_OUT, OUT)
    parser.add_argument(
        "--counts",
        type=_counts,
        default=COUNTS,
        help=f"how many concepts, comma-separated (default: {','.join(map(str, COUNTS))})",
    )


def _counts(text: str) -> list[int]:
    counts = [common.positive(part.strip()) for part in text.split(",")]
    if max(counts) > len(CONCEPTS):
        raise argparse.ArgumentTypeError(f"{max(counts)} is more than Toyland's {len(CONCEPTS)} concepts")
    return counts


def run(arguments: argparse.Namespace) -> int:
    bench = common.Bench.of(arguments)
    methods, rows = bench.methods, []
    for count in arguments.counts:
        erased = CONCEPTS[:count]
        cells = quality.select(bench.cases, erased, images=arguments.images)
        results = bench.results(erased)
        quality.make_images(bench.model, methods, cells, results, arguments.steps, arguments.fresh, erased)
        report = quality.summarise(methods, cells, results)
        rows += [_row(method, count, report) for method in methods]
    figures = {"checkpoint": bench.checkpoint, "steps": arguments.steps, "rows": rows}
    (arguments.out / "many.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "many.txt").write_text(table(rows) + "\n", encoding="utf-8")
    print(table(rows) + f"\n\nThe figures are in {arguments.out / 'many.json'}.")
    return 0


def _row(method: Method, count: int, report: dict[str, Any]) -> dict[str, Any]:
    cells = [cell for cell in report["cells"] if cell["method"] == method.name]
    shows = {cell["concept"]: cell["shows"] for cell in cells if cell["group"] == "explicit"}
    unrelated = next((cell for cell in cells if cell["group"] == "unrelated"), {})
    total = next(m for m in report["methods"] if m["method"] == method.name)
    return {
        "method": method.name,
        "concepts": count,
        "shows": shows,
        "retained": total["retained"],
        "psnr_unrelated": unrelated.get("psnr"),
        "identical_unrelated": unrelated.get("identical"),
        "relative_time": total["relative_time"],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text."""
    width = 2 + max(len(row["method"]) for row in rows)
    lines = [
        "Explicit cases in which a concept still shows, with 95 % intervals for the worst of them",
        f"PSNR and identical: cases without any concept, against no erasure, at most {PSNR_CAP:g} dB",
        "",
        f"{'concepts':>8}  {'method':{width}}{'worst':26}"
        + "".join(f"{concept:>9}" for concept in CONCEPTS)
        + f"{'subject kept':>14}{'PSNR dB':>9}{'identical':>11}{'time':>7}",
    ]
    for row in rows:
        shows = row["shows"]
        worst = max(shows, key=lambda concept: shows[concept]["rate"])
        value = shows[worst]
        each = "".join(f"{shows[c]['rate']:9.2f}" if c in shows else f"{'-':>9}" for c in CONCEPTS)
        psnr, identical = (
            "-" if row[key] is None else f"{row[key]:.{digits}f}"
            for key, digits in (("psnr_unrelated", 1), ("identical_unrelated", 2))
        )
        lines.append(
            f"{row['concepts']:8}  {row['method']:{width}}"
            f"{value['rate']:.2f} [{value['low']:.2f} {value['high']:.2f}] {worst:8}{each}"
            f"{row['retained']['rate']:14.2f}{psnr:>9}{identical:>11}{row['relative_time']:6.2f}x"
        )
    return "\n".join(lines)
