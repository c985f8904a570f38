"""The demo's main job: images without and with the extension, judged, drawn and written down."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import environment
from .cases import GROUPS, Case, Group, cases
from .figures import PSNR_CAP, psnr, wilson
from .host import EXTENSION, Generation, StandIn
from .sheet import Pair, Panel, draw_sheet
from .toyland.oracle import Judgement, load_oracle
from .toyland.world import IMPLICIT_CONCEPTS

COUNTS: dict[Group, int] = {"implicit": 5, "explicit": 3, "unrelated": 2}
QUICK_COUNTS: dict[Group, int] = {"implicit": 1, "explicit": 1, "unrelated": 1}
ON_THE_SHEET: dict[Group, int] = {"implicit": 3, "explicit": 1, "unrelated": 1}
SETTINGS = {"steps": 25, "width": 128, "height": 128, "cfg_scale": 5, "sampler_name": "Euler"}
QUICK_STEPS = 4
HEADINGS: dict[str, str] = {
    "implicit": "implicit: the prompt never names it",
    "explicit": "explicit: the prompt names it",
    "unrelated": "unrelated: must stay as it was",
}
CARRIERS = {
    "star": "comes with wizards",
    "moon": "comes with nights",
    "stamp": "comes on beaches",
    "mosaic": 'comes with "by Ada"',
}


@dataclass(frozen=True)
class Result:
    """One case's images, and what the oracle sees in them."""

    case: Case
    pair: Pair
    seen_without: Judgement
    seen_with: Judgement


def run(out: Path, port: int | None, quick: bool) -> None:
    """Make, judge and show the images; everything is left in ``out``."""
    started = time.monotonic()
    counts = QUICK_COUNTS if quick else COUNTS
    settings = {**SETTINGS, **({"steps": QUICK_STEPS} if quick else {})}
    todo = [
        case
        for concept in IMPLICIT_CONCEPTS
        for group in GROUPS
        for case in cases(concept, group, counts[group])
    ]
    for folder in ("images", "data", "journal"):
        shutil.rmtree(out / folder, ignore_errors=True)
    (out / "images").mkdir(parents=True)

    print("Starting the stand-in host with the extension and Toyland's checkpoint ...", flush=True)
    with StandIn(out / "data", out / "webui.log", port) as host:
        pairs = _make(host, todo, settings, out / "images")
    print("Judging what the images show ...", flush=True)
    results = _judge(todo, pairs)
    summary = {
        "settings": settings,
        "extension": {"name": EXTENSION, "settings": "defaults"},
        "psnr_cap_db": PSNR_CAP,
        "concepts": {
            concept: {
                group: summarise(
                    [r for r in results if r.case["concept"] == concept and r.case["group"] == group]
                )
                for group in GROUPS
            }
            for concept in IMPLICIT_CONCEPTS
        },
        "all": {group: summarise([r for r in results if r.case["group"] == group]) for group in GROUPS},
        "seconds": round(time.monotonic() - started, 1),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _sheet(results, settings).save(out / "contact-sheet.png", optimize=True)
    records = _collect_journal(out)

    print("\n" + table(summary) + "\n")
    if quick:
        print("(A quick run: too few images and steps for its figures to mean anything.)\n")
    print(f"{2 * len(results)} images in {summary['seconds']:.0f} s. Where to look:")
    for path, what in (
        ("contact-sheet.png", "the images, without and with the extension"),
        ("images", "each of them, with its infotext"),
        ("summary.json", "the figures"),
        ("journal", f"what the extension wrote down: {records} records"),
        ("webui.log", "what the host said"),
    ):
        print(f"  {_shown(out / path):<34} {what}")


def _make(host: StandIn, todo: Sequence[Case], settings: dict[str, Any], folder: Path) -> list[Pair]:
    pairs = []
    numbers: dict[tuple[str, str], int] = {}
    # Off a terminal, a bar that moves every moment would fill a log.
    pace = {} if sys.stderr.isatty() else {"mininterval": 15.0, "maxinterval": 15.0}
    with tqdm(total=2 * len(todo), unit="image", dynamic_ncols=True, **pace) as bar:
        for case in todo:
            key = case["concept"], case["group"]
            numbers[key] = numbers.get(key, 0) + 1
            bar.set_description(f"{case['concept']}, {case['group']}", refresh=False)
            images = []
            for variant in ("without", "with"):
                payload = {"prompt": case["prompt"], "seed": case["seed"], **settings}
                if variant == "with":
                    arguments = {"enabled": True, "concepts": [case["concept"]]}
                    payload["alwayson_scripts"] = {EXTENSION: {"args": [arguments]}}
                generation: Generation = host.txt2img(**payload)
                name = f"{case['concept']}-{case['group']}-{numbers[key]:02d}-{variant}.png"
                # The file as it came: it carries the infotext.
                (folder / name).write_bytes(generation.pngs[0])
                images += generation.images[:1]
                bar.update()
            pairs.append(Pair(case["prompt"], *images))
    return pairs


def _judge(todo: Sequence[Case], pairs: Sequence[Pair]) -> list[Result]:
    judgements = load_oracle().judge([image for pair in pairs for image in (pair.without, pair.with_)])
    return [
        Result(case, pair, judgements[2 * index], judgements[2 * index + 1])
        for index, (case, pair) in enumerate(zip(todo, pairs, strict=True))
    ]


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """One cell's figures: rates at which the concept shows, subjects kept, and how much images moved."""
    cell: dict[str, Any] = {"n": len(results)}
    for variant in ("without", "with"):
        seen = [r.seen_without if variant == "without" else r.seen_with for r in results]
        shown = sum(s.shows(r.case["concept"]) for r, s in zip(results, seen, strict=True))
        right = sum(s.subject == r.case["subject"] for r, s in zip(results, seen, strict=True))
        cell[variant] = {
            "concept_shown": shown,
            "rate": shown / len(results),
            "rate_interval_95": wilson(shown, len(results)),
            "subject_accuracy": right / len(results),
        }
    ratios = [psnr(r.pair.without, r.pair.with_) for r in results]
    cell["psnr_db"] = {"median": statistics.median(ratios), "lowest": min(ratios)}
    cell["identical"] = sum(r.pair.without.tobytes() == r.pair.with_.tobytes() for r in results)
    return cell


def table(summary: dict[str, Any]) -> str:
    """The summary as aligned text."""
    head = ("concept", "group", "n", "shown without", "shown with", "subject right", "PSNR (dB)")
    lines = [head]
    for concept, groups in (*summary["concepts"].items(), ("all", summary["all"])):
        for group, cell in groups.items():
            shown = [
                "{:4.2f} [{:.2f}, {:.2f}]".format(cell[v]["rate"], *cell[v]["rate_interval_95"])
                for v in ("without", "with")
            ]
            subject = f"{cell['without']['subject_accuracy']:.2f} -> {cell['with']['subject_accuracy']:.2f}"
            moved = f"{cell['psnr_db']['median']:.1f}" if group == "unrelated" else ""
            lines.append(
                (concept if group == GROUPS[0] else "", group, str(cell["n"]), *shown, subject, moved)
            )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    texts = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    texts.insert(1, "-" * max(map(len, texts)))
    note = (
        "shown: how often the oracle sees the concept, with 95 % intervals. PSNR: how close unrelated\n"
        "images stayed to those made without the extension (median; what is above "
        f"{PSNR_CAP:.0f} dB counts as {PSNR_CAP:.0f})."
    )
    return "\n".join([*texts, "", note])


def _sheet(results: Sequence[Result], settings: dict[str, Any]) -> Any:
    def pairs(concept: str, group: Group) -> list[Pair]:
        found = [r.pair for r in results if r.case["concept"] == concept and r.case["group"] == group]
        return found[: ON_THE_SHEET[group]]  # the first ones, whatever they show

    panels = [
        Panel(concept, CARRIERS[concept], {group: pairs(concept, group) for group in GROUPS})
        for concept in IMPLICIT_CONCEPTS
    ]
    subtitle = (
        "The same prompt and seed, without and with the extension told to erase the concept in red. "
        f"Toyland, {settings['sampler_name']}, {settings['steps']} steps; "
        "the first prompts of each group, not picked."
    )
    return draw_sheet("EIUP: concepts erased while images are generated", subtitle, HEADINGS, panels)


def _collect_journal(out: Path) -> int:
    """Copy the journal from the host's data folder; returns the number of its records."""
    files = sorted((out / "data" / "log" / "eiup").glob("*.jsonl"))
    count = 0
    for file in files:
        (out / "journal").mkdir(exist_ok=True)
        shutil.copy2(file, out / "journal" / file.name)
        count += sum(1 for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    return count


def _shown(path: Path) -> str:
    return str(path.relative_to(environment.ROOT)) if path.is_relative_to(environment.ROOT) else str(path)
