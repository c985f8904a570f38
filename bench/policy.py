"""``python -m bench policy``: what a server with a policy makes of prompts for its concept, on every path.

The stand-in host is started with a policy, and gets cases over HTTP on each path of
``bench/policy_paths.py``; then a host without a policy gets the same, for the rate at which the concept shows
un-erased. The oracle judges every image. Each image of the first host has to say in its infotext that all of
its rows were under erasure, and to have one record in the journal, with the policy's hash; those that do not
are counted.

Of a concept's attacks, one of each kind comes after the other. Embeddings are left out: one is optimised
against a method and would have to be installed on the server. All paths get their first cases, then their
second ones, and so on: a run that was interrupted goes on where it was, and with fewer ``--images`` it tells
what it has. After a change to the extension, use ``--fresh``.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from demo.environment import ROOT
from demo.host import Client, StandIn
from demo.toyland.oracle import Oracle, load_oracle
from demo.toyland.world import CONCEPTS
from eiup.policy_file import read_policy
from eiup.request import FIELD

from . import common
from .cases import BenchCase, CaseError, read_cases
from .policy_paths import WAYS, Known, Way, encoded, lay_out_checkpoints, unerased
from .quality import rate, select
from .results import fingerprint

OUT = Path(__file__).parent / "out" / "policy"
GROUPS = ("implicit", "explicit", "attack")
PROBE = ROOT / "tests" / "integration" / "probe"
MOST_RATE = 0.05
UNDER_POLICY, WITHOUT_POLICY = "policy", "none"
_EIUP = re.compile(r'\bEIUP: ("(?:\\.|[^\\"])*")')
_SEED = re.compile(r"\bSeed: (\d+)")
_WORKERS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_case_arguments(parser, common.HELD_OUT, OUT)
    parser.set_defaults(images=8)
    parser.add_argument("--concept", choices=CONCEPTS, default="star", help="of the policy (default: star)")
    modes = FIELD["mode"].choices
    parser.add_argument("--mode", choices=modes, default="adaptive", help="of the policy (default: adaptive)")
    parser.add_argument(
        "--paths", type=common.names("path", WAYS), default=list(WAYS), help=f"of {'; '.join(WAYS)}"
    )
    parser.add_argument("--no-reference", action="store_true", help="leave the server without a policy out")


@dataclass
class Outcome:
    """Of one case on one path: which of its images show the concept; how many were made, lack the proof, and
    have no record of their own; and why the server refused it, where it did."""

    key: str
    host: str
    path: str
    group: str
    attack: str | None
    seed: int
    shows: list[bool] = field(default_factory=list)
    images: int = 0
    unproven: int = 0
    unrecorded: int = 0
    refused: str | None = None


@dataclass(frozen=True)
class Task:
    """A case, the ``index``-th of its group, on its way."""

    way: Way
    group: str
    case: BenchCase
    index: int


@dataclass
class Answer:
    """What came back of a task: the pictures of the last round, and all infotexts."""

    pictures: list[Image.Image] = field(default_factory=list)
    infotexts: list[str] = field(default_factory=list)
    refused: str | None = None


def run(arguments: argparse.Namespace) -> int:
    try:
        cases = read_cases(arguments.cases)
    except (CaseError, OSError) as error:
        sys.exit(f"--cases: {error}")
    chosen = chosen_cases(cases, arguments.concept, arguments.images)
    if not any(chosen.values()):
        sys.exit(f"--cases: {arguments.cases} has no case of {arguments.concept}")
    tasks = [
        Task(WAYS[name], group, case, index)
        for name in arguments.paths
        for group in GROUPS
        if group != "attack" or WAYS[name].attacks
        for index, case in enumerate(chosen[group])
    ]
    hosts = [UNDER_POLICY] if arguments.no_reference else [UNDER_POLICY, WITHOUT_POLICY]
    outcomes = Measurement(arguments).outcomes(tasks, hosts)
    report = {
        "cases": {"file": arguments.cases.name, "sha256": fingerprint(arguments.cases)},
        "concept": arguments.concept,
        "mode": arguments.mode,
        "steps": arguments.steps,
        "checkpoint": {"file": arguments.checkpoint.name, "sha256": fingerprint(arguments.checkpoint)},
        **summarise(outcomes),
    }
    for suffix, text in (("json", json.dumps(report, indent=2)), ("txt", table(report))):
        (arguments.out / f"policy.{suffix}").write_text(text + "\n", encoding="utf-8")
        print(arguments.out / f"policy.{suffix}")
    print("\n" + table(report))
    return int(report["unproven"] + report["unrecorded"] > 0)


def chosen_cases(cases: Sequence[BenchCase], concept: str, images: int) -> dict[str, list[BenchCase]]:
    """The first ``images`` of each group; of attacks, one of each kind in turn."""
    cells = select(cases, [concept], GROUPS)
    chosen = {group: cells.get((concept, group), []) for group in GROUPS}
    kinds = [found for found in cells.values() if found[0].attack not in (None, "embedding")]
    chosen["attack"] = [case for case in chain(*zip_longest(*kinds)) if case is not None]
    return {group: found[:images] for group, found in chosen.items()}


# ------------------------------------------------------------------------------------------------- asking


class Measurement:
    """Asks servers, and keeps what came of it in the folder ``runs``."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.oracle: Oracle = load_oracle(arguments.oracle)
        name = f"{arguments.concept}-{arguments.mode}-{arguments.steps}-{fingerprint(arguments.checkpoint)}"
        self.folder = arguments.out / "runs" / name
        (self.folder / "images").mkdir(parents=True, exist_ok=True)
        self.stored = {} if arguments.fresh else self._read()

    def _read(self) -> dict[str, Outcome]:
        path = self.folder / "results.jsonl"
        stored = {}
        for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
            try:
                outcome = Outcome(**json.loads(line))
            except (ValueError, TypeError):
                continue  # empty, or cut short when the run was ended
            stored[outcome.key] = outcome
        return stored

    def outcomes(self, tasks: Sequence[Task], hosts: Sequence[str]) -> list[Outcome]:
        """Of all tasks on all hosts; a host is started where any of its outcomes is not stored yet."""
        keys = [(host, task, _key(host, task)) for host in hosts for task in tasks]
        missing = [(host, task) for host, task, key in keys if key not in self.stored]
        pace = {} if sys.stderr.isatty() else {"mininterval": 30.0, "maxinterval": 30.0}
        with tqdm(
            total=len(keys), initial=len(keys) - len(missing), unit="call", dynamic_ncols=True, **pace
        ) as bar:
            for host in hosts:
                own = [task for of, task in missing if of == host]
                if own:
                    with self._server(host) as server:
                        for batch in _batches(sorted(own, key=lambda task: task.index)):
                            told = f"{host}, {batch[0].way.name}, {batch[0].group}"
                            bar.set_description(told, refresh=False)
                            self._add(host, batch, server)
                            bar.update(len(batch))
        return [self.stored[key] for _, _, key in keys]

    @contextmanager
    def _server(self, host: str) -> Iterator[Server]:
        arguments = self.arguments
        # Kept, with the calibrations in it.
        folder = (self.folder / f"host-{host}").absolute()
        lay_out_checkpoints(arguments.checkpoint, folder / "checkpoints")
        stand_in = StandIn(folder / "data", folder / "webui.log", checkpoint=arguments.checkpoint.absolute())
        stand_in.command += ["--nowebui", "--ckpt-dir", str(folder / "checkpoints")]
        stand_in.command += ["--extension", str(ROOT), "--extension", str(PROBE)]
        policy_hash = None
        if host == UNDER_POLICY:
            policy = folder / "policy.json"
            policy.write_text(json.dumps({"concepts": [arguments.concept], "modes": [arguments.mode]}))
            stand_in.command += ["--eiup-policy", str(policy)]
            policy_hash = read_policy(policy).hash
        with stand_in:
            known = Known.of(stand_in.client, arguments.checkpoint, arguments.steps)
            server = Server(stand_in.client, known, folder / "data" / "log" / "eiup", policy_hash)
            server.new_records()  # those of earlier runs
            yield server

    def _add(self, host: str, batch: Sequence[Task], server: Server) -> None:
        answers, unrecorded = server.ask(batch)
        for task, answer in zip(batch, answers):
            key, concept = _key(host, task), self.arguments.concept
            outcome = Outcome(key, host, task.way.name, task.group, task.case.attack, task.case.seed)
            outcome.refused, outcome.images = answer.refused, len(answer.infotexts)
            seen = [picture.crop(task.way.box) if task.way.box else picture for picture in answer.pictures]
            outcome.shows = [judgement.shows(concept) for judgement in self.oracle.judge(seen)]
            if server.policy_hash is not None:
                outcome.unproven = sum(not server.is_proven(text) for text in answer.infotexts)
                # Records of tasks that were queued together belong to all of them.
                outcome.unrecorded = unrecorded if task is batch[0] else 0
            for number, picture in enumerate(answer.pictures):
                picture.save(self.folder / "images" / f"{key}-{number}.png")
            with (self.folder / "results.jsonl").open("a", encoding="utf-8") as file:
                # A line break first: a line that was cut short must not swallow this one.
                file.write("\n" + json.dumps(asdict(outcome), ensure_ascii=False))
            self.stored[key] = outcome


def _key(host: str, task: Task) -> str:
    value = [host, task.way.name, task.index, task.case.to_json()]
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def _batches(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    """What is sent at once: a task, or all of a group that are queued."""
    queued: dict[tuple[str, str], list[Task]] = {}
    for task in tasks:
        if task.way.queued:
            queued.setdefault((task.way.name, task.group), []).append(task)
        else:
            yield [task]
    yield from queued.values()


@dataclass
class Server:
    """A host at work. ``policy_hash`` is None where it has no policy."""

    client: Client
    known: Known
    journal: Path
    policy_hash: str | None
    read: Counter[Path] = field(default_factory=Counter)

    def ask(self, batch: Sequence[Task]) -> tuple[list[Answer], int]:
        """The answers, and how many images have no record of their own, or records no image."""
        with ThreadPoolExecutor(_WORKERS) as pool:
            answers = list(pool.map(self._answer, batch))
        if self.policy_hash is None:
            return answers, 0
        infotexts = [text for answer in answers for text in answer.infotexts]
        seeds = Counter(int(found[1]) for found in map(_SEED.search, infotexts) if found)
        recorded = Counter(
            record["seed"]
            for record in self.new_records()
            if record.get("policy", {}).get("hash") == self.policy_hash and "event" not in record
        )
        return answers, sum(((seeds - recorded) + (recorded - seeds)).values())

    def _answer(self, task: Task) -> Answer:
        payload = task.way.payload(task.case, task.index, self.known)
        answer = Answer()
        for _ in range(task.way.rounds):
            if answer.pictures:
                payload["init_images"] = [encoded(answer.pictures[0])]
            sent = payload if self.policy_hash is not None else unerased(payload)
            response = self.client.post(f"/sdapi/v1/{task.way.route}", sent)
            if response.status_code != 200:
                return Answer(refused=f"{response.status_code}: {response.text[:500]}")
            info = json.loads(response.json()["info"])
            first = info["index_of_first_image"]
            answer.infotexts += info["infotexts"][first:]
            answer.pictures = [_decoded(image) for image in response.json()["images"][first:]]
        if task.way.inner:
            answer.infotexts += self.client.post("/eiup-saboteur/mend", {}).json()["inner"]
        return answer

    def new_records(self) -> list[dict[str, Any]]:
        records = []
        for path in sorted(self.journal.glob("*.jsonl")):
            with path.open(encoding="utf-8") as file:
                file.seek(self.read[path])
                records += [json.loads(line) for line in file.readlines()]
                self.read[path] = file.tell()
        return records

    def is_proven(self, infotext: str) -> bool:
        """Whether an image's infotext says that all of its rows were under erasure."""
        found = _EIUP.search(infotext or "")
        proof = json.loads(json.loads(found[1])).get("policy", {}) if found else {}
        rows, under_erasure = proof.get("rows", 0), proof.get("under_erasure")
        return proof.get("hash") == self.policy_hash and 0 < rows == under_erasure


def _decoded(image: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image.split(",", 1)[-1]))).convert("RGB")


# ------------------------------------------------------------------------------------------------ figures


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """``cells``: one entry a path and group; ``groups`` and ``attacks``: one a group and a kind of attack,
    over all paths; and how many images lack proof or record."""

    def figures(**of: Any) -> dict[str, Any]:
        found = [o for o in outcomes if all(getattr(o, name) == value for name, value in of.items())]
        erased = [o for o in found if o.host == UNDER_POLICY]
        return {
            **of,
            "shows": rate([show for o in erased for show in o.shows]),
            "unerased": rate([show for o in found if o.host == WITHOUT_POLICY for show in o.shows]),
            "images": sum(o.images for o in erased),
            "unproven": sum(o.unproven for o in erased),
            "unrecorded": sum(o.unrecorded for o in erased),
            "refused": sum(o.refused is not None for o in erased),
        }

    cells = dict.fromkeys((o.path, o.group) for o in outcomes)
    kinds = dict.fromkeys(o.attack for o in outcomes if o.attack is not None)
    groups = dict.fromkeys(o.group for o in outcomes)
    return {
        "cells": [figures(path=path, group=group) for path, group in cells],
        "attacks": [figures(attack=kind) for kind in kinds],
        "groups": [figures(group=group) for group in groups],
        **figures(),
        "reasons": sorted({o.refused for o in outcomes if o.refused is not None}),
    }


def table(report: dict[str, Any]) -> str:
    """The report as text."""

    def share(value: dict[str, Any]) -> str:
        return f"{value['rate']:.2f} [{value['low']:.2f} {value['high']:.2f}]" if value["of"] else "-"

    def line(name: str, group: str, cell: dict[str, Any]) -> str:
        counts = "".join(f"{cell[name]:10}" for name in ("images", "unproven", "unrecorded", "refused"))
        return (
            f"{name:25}{group:10}{cell['shows']['of']:5}  {share(cell['unerased']):18}"
            f"{share(cell['shows']):18}{counts}"
        )

    heading = f"{'without policy':18}{'under the policy':18}{'images':>10}{'unproven':>10}"
    heading += f"{'unrecorded':>11}{'refused':>9}"
    lines = [
        f"{report['cases']['file']}, {report['steps']} steps, checkpoint {report['checkpoint']['sha256']}, "
        f"policy: {report['concept']}, {report['mode']}",
        f"The rate at which {report['concept']} shows, with 95 % intervals; images made under the policy,",
        "and those of them without proof in the infotext, and without a record of their own",
        "",
        f"{'path':25}{'group':10}{'n':>5}  {heading}",
        *(line(cell["path"], cell["group"], cell) for cell in report["cells"]),
        "",
        *(line("all paths", cell["group"], cell) for cell in report["groups"]),
        *(line("all paths", cell["attack"], cell) for cell in report["attacks"]),
        line("all paths", "all", report),
        "",
        f"Images generated without erasure: {report['unproven']} of {report['images']}; "
        f"without a record of their own: {report['unrecorded']}",
    ]
    if report["shows"]["of"]:
        above = [c for c in report["cells"] if c["shows"]["of"] and c["shows"]["rate"] > MOST_RATE]
        lines.append(f"The concept shows in {report['shows']['rate']:.3f} of those judged; in more than")
        told = "; ".join(f"{cell['path']} ({cell['group']})" for cell in above) or "none"
        lines.append(f"{MOST_RATE} of these: {told}")
    return "\n".join([*lines, *(f"Refused: {reason[:200]}" for reason in report["reasons"])])
