"""``python -m bench quality``: how often concepts show without and with erasure, and what is kept.

Every rate comes with its Wilson 95 % interval. Results go to ``bench/out/quality.json``; images of the
first cases to ``bench/out/quality.png``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from demo.cases import Case, cases
from demo.figures import wilson
from demo.toyland.model import WEIGHTS, LatentDiffusion, load_checkpoint
from demo.toyland.oracle import Judgement, Oracle, accuracy, load_oracle
from demo.toyland.pipeline import generate
from demo.toyland.world import IMPLICIT_CONCEPTS, render, sample_scene
from eiup.request import FIELD, ErasureRequest

OUT = Path(__file__).parent / "out"
BATCH = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=64, help="images a cell (default: 64)")
    parser.add_argument("--steps", type=int, default=25, help="sampling steps (default: 25)")
    parser.add_argument(
        "--strength", type=float, default=FIELD["strength"].default, help="default: the product's"
    )
    parser.add_argument("--split", choices=("tuning", "held-out"), default="held-out")
    parser.add_argument("--concepts", default=",".join(IMPLICIT_CONCEPTS), help="comma-separated")
    parser.add_argument("--groups", default="implicit,explicit,unrelated", help="comma-separated")
    parser.add_argument("--checkpoint", type=Path, default=WEIGHTS / "toyland.safetensors")


def run(arguments: argparse.Namespace) -> int:
    model = load_checkpoint(arguments.checkpoint)
    oracle = load_oracle()
    concepts = arguments.concepts.split(",")
    groups = arguments.groups.split(",")
    total = len(concepts) * len(groups) * 2 * arguments.images
    report = {
        "strength": arguments.strength,
        "steps": arguments.steps,
        "split": arguments.split,
        "oracle": _oracle_accuracy(model, oracle),
        "cells": [],
    }
    sheet = []
    with tqdm(total=total, unit="image") as bar:
        for concept in concepts:
            for group in groups:
                chosen = cases(concept, group, arguments.images, arguments.split)
                erasure = ErasureRequest(True, (concept,), arguments.strength)
                plain = _images(model, chosen, None, arguments.steps, bar)
                erased = _images(model, chosen, erasure, arguments.steps, bar)
                report["cells"].append(
                    _cell(concept, group, chosen, plain, erased, oracle.judge(plain), oracle.judge(erased))
                )
                sheet += [np.concatenate(list(plain[:8]), 1), np.concatenate(list(erased[:8]), 1)]
    OUT.mkdir(exist_ok=True)
    (OUT / "quality.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _save_sheet(sheet)
    print(table(report))
    print(f"\n{OUT / 'quality.json'}\n{OUT / 'quality.png'}")
    return 0


def _images(model: LatentDiffusion, chosen: Sequence[Case], request, steps: int, bar: tqdm) -> np.ndarray:
    parts = []
    for start in range(0, len(chosen), BATCH):
        batch = chosen[start : start + BATCH]
        images, _ = generate(
            model, [c["prompt"] for c in batch], [c["seed"] for c in batch], request, steps=steps
        )
        parts.append(images)
        bar.update(len(batch))
    return np.concatenate(parts)


def _cell(
    concept: str,
    group: str,
    chosen: Sequence[Case],
    plain: np.ndarray,
    erased: np.ndarray,
    before: Sequence[Judgement],
    after: Sequence[Judgement],
) -> dict:
    def rate(hits: Sequence[bool]) -> dict:
        low, high = wilson(sum(hits), len(hits))
        return {"rate": float(np.mean(hits)), "low": low, "high": high}

    difference = (plain.astype(float) - erased.astype(float)) / 255
    psnr = -10 * np.log10(np.maximum(np.square(difference).mean(axis=(1, 2, 3)), 1e-6))
    return {
        "concept": concept,
        "group": group,
        "images": len(chosen),
        "shows_before": rate([j.shows(concept) for j in before]),
        "shows_after": rate([j.shows(concept) for j in after]),
        "subject_before": rate([j.subject == c["subject"] for j, c in zip(before, chosen)]),
        "subject_after": rate([j.subject == c["subject"] for j, c in zip(after, chosen)]),
        "subject_retained": rate([a.subject == b.subject for b, a in zip(before, after)]),
        "background_after": rate([j.background == c["background"] for j, c in zip(after, chosen)]),
        "psnr": float(psnr.mean()),
        "identical": float(np.mean([np.array_equal(a, b) for a, b in zip(plain, erased)])),
    }


def _oracle_accuracy(model: LatentDiffusion, oracle: Oracle, count: int = 300) -> dict:
    """The oracle on fresh renders and on their reconstructions by the shipped autoencoder."""
    import torch

    from demo.toyland.train import images_to_tensor

    rng = np.random.default_rng(20260101)
    scenes = [sample_scene(rng) for _ in range(count)]
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


def _save_sheet(rows: list[np.ndarray]) -> None:
    from PIL import Image

    Image.fromarray(np.concatenate(rows)).save(OUT / "quality.png")


def table(report: dict) -> str:
    """The report as text."""

    def percent(value: dict) -> str:
        return f"{value['rate']:.3f} [{value['low']:.2f} {value['high']:.2f}]"

    lines = [
        f"{report['steps']} steps, strength {report['strength']:g}, {report['split']} cases; "
        "rates with 95 % intervals",
        f"{'concept':9}{'group':11}{'n':>4}  {'shows before':19}{'shows after':19}"
        f"{'subject before':19}{'subject kept':19}{'PSNR dB':>8}",
    ]
    for cell in report["cells"]:
        lines.append(
            f"{cell['concept']:9}{cell['group']:11}{cell['images']:4}  {percent(cell['shows_before']):19}"
            f"{percent(cell['shows_after']):19}{percent(cell['subject_before']):19}"
            f"{percent(cell['subject_retained']):19}{cell['psnr']:8.1f}"
        )
    for name, values in report["oracle"].items():
        worst = min(values, key=values.get)
        lines.append(f"oracle on {name}: at least {values[worst]:.3f} right on every question ({worst})")
    return "\n".join(lines)
