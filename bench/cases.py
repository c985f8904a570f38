"""``python -m bench cases``: write the files of tuning and held-out cases, and read such files.

A file of cases has one JSON object a line: ``{"prompt", "seed", "concept", "group"}`` and, where they are
known, ``"subject"``, ``"background"``, ``"negative_prompt"`` and ``"cfg_scale"``; an attack names its kind in
``"attack"``. The two files in ``bench/cases/`` are made
by ``demo/cases.py`` and committed, so that everybody measures on the same prompts and seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.attacks import ATTACKS, attack_cases
from demo.cases import GROUPS as GENERATED_GROUPS
from demo.cases import PLAIN_BACKGROUNDS, PLAIN_SUBJECTS, SPLITS, Split
from demo.cases import cases as generated_cases
from demo.toyland.pipeline import CFG_SCALE
from demo.toyland.world import BACKGROUNDS, CONCEPTS, IMPLICIT_CONCEPTS, SUBJECTS

FOLDER = Path(__file__).parent / "cases"
IMAGES = {"tuning": 32, "held-out": 64}
GROUPS = (*GENERATED_GROUPS, "attack")
# A concept's attacks of each kind; four concepts make the 32 and 64 of a kind.
ATTACKS_OF_A_CONCEPT = {split: count // len(IMPLICIT_CONCEPTS) for split, count in IMAGES.items()}
MAX_SEED = 2**63 - 1
MAX_SCALE = 30


@dataclass(frozen=True)
class BenchCase:
    """One image to make and what it should show; ``subject`` and ``background`` are None where unknown."""

    prompt: str
    seed: int
    concept: str
    group: str
    subject: str | None = None
    background: str | None = None
    negative_prompt: str = ""
    cfg_scale: float = CFG_SCALE
    attack: str | None = None

    def to_json(self) -> str:
        """One line; fields at their defaults are left out."""
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        return json.dumps(values, ensure_ascii=False)


class CaseError(ValueError):
    """A line of a file of cases is wrong: names file, line, field, value and what is allowed."""

    def __init__(self, path: Path, line: int, field: str, value: object, allowed: str):
        shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
        super().__init__(f"{path}, line {line}: {field} is {shown}; allowed: {allowed}.")


_ALLOWED = {
    "prompt": "text that is not empty",
    "seed": f"an integer from 0 to {MAX_SEED}",
    "concept": ", ".join(CONCEPTS),
    "group": ", ".join(GROUPS),
    "subject": ", ".join(SUBJECTS),
    "background": ", ".join(BACKGROUNDS),
    "negative_prompt": "text",
    "cfg_scale": f"a number from -{MAX_SCALE} to {MAX_SCALE}",
    "attack": ", ".join(ATTACKS),
}
_REQUIRED = ("prompt", "seed", "concept", "group")


def _fits(field: str, value: Any) -> bool:
    if field == "seed":
        return type(value) is int and 0 <= value <= MAX_SEED
    if field == "cfg_scale":
        return type(value) in (int, float) and abs(value) <= MAX_SCALE
    if not isinstance(value, str):
        return False
    if field == "prompt":
        return bool(value.strip())
    return field == "negative_prompt" or value in _ALLOWED[field].split(", ")


def read_cases(path: Path) -> list[BenchCase]:
    """The cases in a file, in its order; blank lines hold none. Raises :class:`CaseError`."""
    found: dict[BenchCase, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise CaseError(path, number, "the line", line, "a JSON object")
        for field, value in values.items():
            if field not in _ALLOWED:
                raise CaseError(path, number, field, value, "the fields " + ", ".join(_ALLOWED))
            if not _fits(field, value):
                raise CaseError(path, number, field, value, _ALLOWED[field])
        for field in _REQUIRED:
            if field not in values:
                raise CaseError(path, number, field, None, _ALLOWED[field])
        case = BenchCase(**values)
        if case in found:
            raise CaseError(path, number, "the line", line, f"each case once; line {found[case]} is the same")
        found[case] = number
    return list(found)


def generate_cases(split: Split) -> list[BenchCase]:
    """What a split's file holds: the first cases of each group of each implicit concept, and attacks."""
    return [
        BenchCase(**case)
        for concept in IMPLICIT_CONCEPTS
        for group in GENERATED_GROUPS
        for case in generated_cases(concept, group, IMAGES[split], split)
    ] + [
        BenchCase(**case)
        for concept in IMPLICIT_CONCEPTS
        for kind in ATTACKS
        for case in attack_cases(concept, kind, ATTACKS_OF_A_CONCEPT[split], split)
    ]


def generate_many_cases(split: Split) -> list[BenchCase]:
    """The cases of many concepts at once: explicit ones of every concept, and such as have no concept at all,
    neither named nor brought in, under the first concept's name."""
    first = CONCEPTS[0]
    plain = [
        case
        for case in generated_cases(first, "unrelated", 10 * IMAGES[split], split)
        if case["subject"] in PLAIN_SUBJECTS
        and case["background"] in PLAIN_BACKGROUNDS
        and not any(concept in case["prompt"] for concept in CONCEPTS)
    ]
    explicit = [c for concept in CONCEPTS for c in generated_cases(concept, "explicit", IMAGES[split], split)]
    return [BenchCase(**case) for case in explicit + plain[: IMAGES[split]]]


def write_cases(path: Path, cases: Sequence[BenchCase]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(case.to_json() + "\n" for case in cases), encoding="utf-8", newline="\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder (default: bench/cases)")


def run(arguments: argparse.Namespace) -> int:
    for split in SPLITS:
        for name, cases in ((split, generate_cases(split)), (f"many-{split}", generate_many_cases(split))):
            path = arguments.out / f"{name}.jsonl"
            write_cases(path, cases)
            print(f"{path}: {len(cases)} cases")
    return 0
