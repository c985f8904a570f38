"""``python -m bench quality``: what methods erase and what they keep, on Toyland.

Each method makes the same cases with the same seeds, and the oracle says what the images show. Every rate
comes with its Wilson 95 % interval. Attacks are counted by their kind, over all concepts. A run that was
interrupted goes on where it was when it is started again; images that are there already are not made anew.
After a change to a baseline's code, use ``--fresh``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from demo.figures import psnr, wilson
from demo.toyland.model import LatentDiffusion
from demo.toyland.oracle import Oracle, accuracy
from demo.toyland.prompts import textual_inversion
from demo.toyland.world import CARRIER_RATE, CONCEPTS, region, render, sample_scene

from . import common
from .cases import ATTACKS, GROUPS, BenchCase
from .inversion import embedding_for
from .method import Method
from .pictures import draw_chart, draw_sheet
from .results import Results, fingerprint

OUT = Path(__file__).parent / "out" / "quality"
BATCH = 8
ERASED_GROUPS = ("implicit", "explicit")

Cells = Mapping[tuple[str, str], Sequence[BenchCase]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_arguments(parser, common.HELD_OUT, OUT)
    parser.add_argument(
        "--concepts", type=common.names("concept", CONCEPTS), help="comma-separated (default: all)"
    )
    parser.add_argument("--groups", type=common.names("group", GROUPS), help="comma-separated (default: all)")
    parser.add_argument(
        "--erase",
        type=common.names("concept", CONCEPTS),
        help="comma-separated: erase all of these in every image (default: the case's own concept)",
    )


def run(arguments: argparse.Namespace) -> int:
    bench = common.Bench.of(arguments)
    cells = select(bench.cases, arguments.concepts, arguments.groups, arguments.images)
    if not cells:
        sys.exit(f"--cases: {arguments.cases} has no case of these concepts and groups")
    methods, model, results = bench.methods, bench.model, bench.results(arguments.erase)
    make_images(model, methods, cells, results, arguments.steps, arguments.fresh, arguments.erase)
    known = arguments.out / "runs" / f"oracle-accuracy-{bench.oracle_id}-{bench.checkpoint}.json"
    report = {
        "cases": {"file": arguments.cases.name, "sha256": fingerprint(arguments.cases)},
        "steps": arguments.steps,
        "erased": arguments.erase,
        "checkpoint": {"file": arguments.checkpoint.name, "sha256": bench.checkpoint},
        "oracle": _oracle_report(known, model, bench.oracle),
        **summarise(methods, cells, results),
    }
    for path in write(report, methods, cells, results, arguments.out):
        print(path)
    print("\n" + table(report))
    return 0


def select(
    cases: Sequence[BenchCase],
    concepts: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    images: int | None = None,
) -> dict[tuple[str, str], list[BenchCase]]:
    """The cases by concept and group, an attack's kind a group of its own: ``attack: emphasis``. The first
    ``images`` of each; None chooses all."""
    cells: dict[tuple[str, str], list[BenchCase]] = {}
    for concept in concepts or CONCEPTS:
        for group in groups or GROUPS:
            for case in cases:
                if (case.concept, case.group) == (concept, group):
                    name = f"{group}: {case.attack}" if case.attack else group
                    cells.setdefault((concept, name), []).append(case)
    return {names: chosen[:images] for names, chosen in cells.items()}


def make_images(
    model: LatentDiffusion,
    methods: Sequence[Method],
    cells: Cells,
    results: Mapping[str, Results],
    steps: int,
    fresh: bool = False,
    erase: Sequence[str] | None = None,
) -> None:
    """Make and judge what is not stored yet, one method after the other, in batches of a cell.

    A batch of which any image is missing is made as a whole: how images are batched can change their last
    bits, and methods are compared pixel by pixel. Times are the processor's, which hardly depend on what
    else runs on the machine.
    """
    batches = [
        (method, chosen[start : start + BATCH])
        for method in methods
        for chosen in cells.values()
        for start in range(0, len(chosen), BATCH)
    ]
    missing = [b for b in batches if fresh or not all(case in results[b[0].name] for case in b[1])]
    total = sum(len(batch) for _, batch in batches)
    stored = total - sum(len(batch) for _, batch in missing)
    pace = {} if sys.stderr.isatty() else {"mininterval": 30.0, "maxinterval": 30.0}
    with tqdm(total=total, initial=stored, unit="image", dynamic_ncols=True, **pace) as bar:
        for method, batch in missing:
            bar.set_description(f"{method.name}, {batch[0].concept}, {batch[0].group}", refresh=False)
            concepts = erase or [batch[0].concept]
            method.prepare(model, concepts)
            started = time.process_time()
            with prepared(method, model, batch, results[method.name].folder):
                images = method.generate(model, batch, concepts, steps)
            results[method.name].add(batch, images, (time.process_time() - started) / len(batch))
            bar.update(len(batch))


def prepared(
    method: Method, model: LatentDiffusion, cases: Sequence[BenchCase], folder: Path
) -> contextlib.AbstractContextManager:
    """While entered, the word of an embedding stands for the one that was optimised against ``method``."""
    if cases[0].attack != "embedding":
        return contextlib.nullcontext()
    concept = cases[0].concept
    vector = embedding_for(method, model, concept, folder / f"embedding-{concept}.safetensors")
    return textual_inversion(model, vector)


# ---------------------------------------------------------------------------------------- figures


def rate(hits: Sequence[bool]) -> dict[str, float | None]:
    """The share of hits (None of none) with its interval, and of how many."""
    low, high = wilson(sum(hits), len(hits))
    share = sum(hits) / len(hits) if hits else None
    return {"rate": share, "low": low, "high": high, "of": len(hits)}


def summarise(methods: Sequence[Method], cells: Cells, results: Mapping[str, Results]) -> dict[str, Any]:
    """``cells``: one entry a method, concept and group; ``attacks``: one a method and kind of attack, over
    concepts; ``methods``: one a method over the cells."""
    entries, attacks, totals = [], [], []
    kinds = [kind for kind in ATTACKS if any(case.attack == kind for c in cells.values() for case in c)]

    def figures(method: Method, concept: str, group: str, cases: Sequence[BenchCase]) -> dict[str, Any]:
        names = {"method": method.name, "concept": concept, "group": group}
        return {**names, **_cell(cases, results[method.name], results[common.REFERENCE])}

    for method in methods:
        own = [
            figures(method, concept, group, chosen)
            for (concept, group), chosen in cells.items()
            if not chosen[0].attack
        ]
        attacks += [
            figures(method, "all", kind, [c for chosen in cells.values() for c in chosen if c.attack == kind])
            for kind in kinds
        ]
        entries += own
        totals.append(
            {
                "method": method.name,
                "description": method.description,
                "source": method.source,
                "settings": dict(method.settings),
                "shows": rate([hit for c in own if c["group"] in ERASED_GROUPS for hit in c["_shows"]]),
                "retained": rate([hit for c in own for hit in c["_retained"]]),
                "psnr_unrelated": _mean([p for c in own if c["group"] == "unrelated" for p in c["_psnr"]]),
                "outside": _mean([x for c in own if c["group"] in ERASED_GROUPS for x in c["_outside"]]),
                "seconds": _mean([s for c in own for s in c["_seconds"]]),
                "relative_time": _median([t for c in own for t in c["_relative_time"]]),
            }
        )
    attacks.sort(key=lambda cell: kinds.index(cell["group"]))
    public = [
        [{key: value for key, value in cell.items() if key[0] != "_"} for cell in table]
        for table in (entries, attacks)
    ]
    return {"methods": totals, "cells": public[0], "attacks": public[1]}


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _cell(cases: Sequence[BenchCase], results: Results, reference: Results) -> dict[str, Any]:
    """The figures of cases; what starts with ``_`` is one value an image."""
    ours, plain = [results[case] for case in cases], [reference[case] for case in cases]
    distances, identical, outside = [], [], []
    for own, other, case in zip(ours, plain, cases):
        with Image.open(own.image) as first, Image.open(other.image) as second:
            distances.append(psnr(first, second))
            pixels, original = np.asarray(first), np.asarray(second)
        identical.append(np.array_equal(pixels, original))
        if other.judgement.shows(case.concept) and (where := region(original, case.concept)) is not None:
            outside.append(float(np.abs(pixels.astype(int) - original)[~where].mean()))
    shows = [r.judgement.shows(case.concept) for r, case in zip(ours, cases)]
    others = [
        any(r.judgement.shows(c) and not p.judgement.shows(c) for c in CONCEPTS if c != case.concept)
        for r, p, case in zip(ours, plain, cases)
    ]
    retained = [r.judgement.subject == p.judgement.subject for r, p in zip(ours, plain)]
    return {
        "images": len(cases),
        "shows": rate(shows),
        "subject_right": rate([r.judgement.subject == c.subject for r, c in zip(ours, cases) if c.subject]),
        "subject_retained": rate(retained),
        "background_right": rate(
            [r.judgement.background == c.background for r, c in zip(ours, cases) if c.background]
        ),
        "other_concept": rate(others),
        "psnr": _mean(distances),
        "identical": float(np.mean(identical)),
        "outside": _mean(outside),
        "_shows": shows,
        "_retained": retained,
        "_psnr": distances,
        "_outside": outside,
        "_seconds": [r.seconds for r in ours],
        "_relative_time": [r.seconds / p.seconds for r, p in zip(ours, plain)],
    }


def _oracle_report(path: Path, model: LatentDiffusion, oracle: Oracle) -> dict[str, Any]:
    """The oracle's accuracy, from ``path`` where it was measured before."""
    if not path.exists():
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(_oracle_accuracy(model, oracle)), encoding="utf-8")
        partial.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def _oracle_accuracy(model: LatentDiffusion, oracle: Oracle, count: int = 300) -> dict[str, Any]:
    """The oracle on fresh renders and on their reconstructions by the checkpoint's autoencoder; half of the
    scenes are as erasure leaves them, with carriers that bring nothing."""
    import torch

    from demo.toyland.train import images_to_tensor

    rng = np.random.default_rng(20260101)
    scenes = [sample_scene(rng, CARRIER_RATE if index % 2 else 0.0) for index in range(count)]
    renders = [render(scene) for scene in scenes]
    reconstructions = []
    with torch.no_grad():
        for start in range(0, count, BATCH):
            originals = images_to_tensor(renders[start : start + BATCH])
            decoded = model.decode_first_stage(model.encode_first_stage(originals))
            pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte()
            reconstructions += list(pixels.permute(0, 2, 3, 1).numpy())
    return {
        "renders": accuracy(oracle, scenes, renders),
        "reconstructions": accuracy(oracle, scenes, reconstructions),
    }


# ----------------------------------------------------------------------------------------- output


def write(
    report: dict[str, Any],
    methods: Sequence[Method],
    cells: Cells,
    results: Mapping[str, Results],
    out: Path,
) -> list[Path]:
    """Figures, table, chart and one contact sheet a concept; returns their paths."""
    (out / "quality.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (out / "quality.txt").write_text(table(report) + "\n", encoding="utf-8")
    written = [out / "quality.json", out / "quality.txt"]
    chart = draw_chart(report["methods"])
    if chart is not None:
        written.append(out / "chart.png")
        chart.save(written[-1])
    for concept in dict.fromkeys(concept for concept, _ in cells):
        groups = {group: chosen for (of, group), chosen in cells.items() if of == concept}
        written.append(out / f"sheet-{concept}.png")
        draw_sheet(concept, {m.name: results[m.name] for m in methods}, groups).save(written[-1])
    return written


def table(report: dict[str, Any]) -> str:
    """The report as text."""

    def share(value: dict[str, Any]) -> str:
        return f"{value['rate']:.2f} [{value['low']:.2f} {value['high']:.2f}]" if value["of"] else "-"

    def number(value: float | None, digits: int = 1) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    width = 2 + max(len(m["method"]) for m in report["methods"])
    heading = (
        f"{'method':{width}}{'concept':9}{'group':14}{'n':>4}  {'shows':18}{'subject right':18}"
        f"{'subject kept':18}{'brings another':18}{'PSNR dB':>7}{'identical':>11}{'outside':>9}"
    )

    def line(cell: dict[str, Any]) -> str:
        return (
            f"{cell['method']:{width}}{cell['concept']:9}{cell['group']:14}{cell['images']:4}  "
            f"{share(cell['shows']):18}{share(cell['subject_right']):18}{share(cell['subject_retained']):18}"
            f"{share(cell['other_concept']):18}{cell['psnr']:7.1f}{cell['identical']:11.2f}"
            f"{number(cell['outside']):>9}"
        )

    erased = ", ".join(report["erased"]) if report.get("erased") else "each case's own concept"
    lines = [
        f"{report['cases']['file']}, {report['steps']} steps, checkpoint {report['checkpoint']['sha256']}",
        f"Erased: {erased}",
        "Rates with 95 % intervals; PSNR against no erasure, at most 60 dB; time of the processor",
        "brings another: another concept shows that does not without erasure",
        "outside: mean difference, of 255, where the un-erased image does not show the concept",
    ]
    for title, cells in (("", report["cells"]), ("Attacks", report["attacks"])):
        if cells:
            lines += [title, heading, *map(line, cells)]
    lines += [
        "",
        f"{'method':{width}}{'still shows':18}{'subject kept':18}{'PSNR unrelated':>14}{'outside':>9}"
        f"{'s/image':>9}{'time':>7}",
    ]
    for method in report["methods"]:
        lines.append(
            f"{method['method']:{width}}{share(method['shows']):18}{share(method['retained']):18}"
            f"{number(method['psnr_unrelated']):>14}{number(method['outside']):>9}"
            f"{number(method['seconds'], 2):>9}{number(method['relative_time'], 2):>6}x"
        )
    lines.append("")
    for name in ("renders", "reconstructions"):
        values = report["oracle"][name]
        worst = min(values, key=values.get)
        lines.append(f"oracle on {name}: at least {values[worst]:.3f} right on every question ({worst})")
    return "\n".join(lines)
