"""What the commands that make images of cases have in common: their arguments, and what these name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.toyland.model import LatentDiffusion, load_checkpoint
from demo.toyland.oracle import WEIGHTS as ORACLE_WEIGHTS
from demo.toyland.oracle import Oracle, load_oracle

from .cases import FOLDER, BenchCase, CaseError, read_cases
from .method import Method
from .methods import METHODS
from .results import Results, fingerprint

JUDGE = Path(__file__).parent / "judge" / "toyland.safetensors"
HELD_OUT = FOLDER / "held-out.jsonl"
MANY_HELD_OUT = FOLDER / "many-held-out.jsonl"
REFERENCE = "none"


def add_arguments(parser: argparse.ArgumentParser, cases: Path, out: Path) -> None:
    """What every command asks for that makes images of cases by methods, with these defaults."""
    add_case_arguments(parser, cases, out)
    parser.description = f"{parser.description}. Methods: " + "; ".join(
        f"{method.name} ({method.description})" for method in METHODS.values()
    )
    parser.add_argument(
        "--methods",
        type=names("method", METHODS),
        default=list(METHODS),
        help="comma-separated (default: all); none, the reference, is always among them",
    )


def add_case_arguments(parser: argparse.ArgumentParser, cases: Path, out: Path) -> None:
    """What every command asks for that makes images of cases."""
    parser.add_argument(
        "--cases",
        type=Path,
        default=cases,
        metavar="FILE",
        help='JSON lines {"prompt", "seed", "concept", "group"}, each with "subject", "background", '
        f'"negative_prompt", "cfg_scale" and "attack" if wanted (default: bench/cases/{cases.name})',
    )
    parser.add_argument("--images", type=positive, help="the first so many of each concept's group")
    parser.add_argument("--steps", type=positive, default=25, help="sampling steps (default: 25)")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=JUDGE,
        metavar="FILE",
        help="default: Toyland trained from another seed than the one on which bounds were chosen",
    )
    parser.add_argument("--oracle", type=Path, default=ORACLE_WEIGHTS, metavar="FILE", help="its weights")
    parser.add_argument("--out", type=Path, default=out, help=f"folder (default: bench/out/{out.name})")
    parser.add_argument("--fresh", action="store_true", help="make every image anew")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def names(kind: str, allowed: Sequence[str] | Mapping[str, Any]) -> Callable[[str], list[str]]:
    def chosen_names(text: str) -> list[str]:
        chosen = list(dict.fromkeys(name.strip() for name in text.split(",")))
        for name in chosen:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is no {kind}; allowed: {', '.join(allowed)}")
        return chosen

    return chosen_names


@dataclass(frozen=True)
class Bench:
    """What every command that makes images of cases by methods works with."""

    arguments: argparse.Namespace
    cases: list[BenchCase]
    methods: list[Method]
    model: LatentDiffusion
    oracle: Oracle
    checkpoint: str
    oracle_id: str

    @classmethod
    def of(cls, arguments: argparse.Namespace, methods: Sequence[Method] | None = None) -> Bench:
        """From the arguments of :func:`add_case_arguments`, and where ``methods`` are not given, those of
        :func:`add_arguments`. Ends the program where cases are wrong."""
        try:
            cases = read_cases(arguments.cases)
        except (CaseError, OSError) as error:
            sys.exit(f"--cases: {error}")
        return cls(
            arguments,
            cases,
            list(methods or (METHODS[name] for name in dict.fromkeys([REFERENCE, *arguments.methods]))),
            load_checkpoint(arguments.checkpoint),
            load_oracle(arguments.oracle),
            fingerprint(arguments.checkpoint, arguments.checkpoint.with_suffix(".yaml")),
            fingerprint(arguments.oracle),
        )

    def results(self, erase: Sequence[str] | None) -> dict[str, Results]:
        """The methods' stored results, with these concepts erased."""
        runs, steps = self.arguments.out / "runs", self.arguments.steps
        return {
            m.name: Results(runs, m, steps, self.checkpoint, self.oracle, self.oracle_id, erase)
            for m in self.methods
        }
