"""Random generations with random faults on a server with a policy, over real HTTP.

After each, whatever was asked for and whatever broke: an image is under erasure and has its proof and one
record in the journal, or there is no image, an error, and a record of the refusal; no hook is left on the
model. In the end, the server's memory has not grown.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
from PIL import Image
from tqdm import tqdm

from demo.environment import ROOT
from demo.host import StandIn
from eiup.policy_file import read_policy

from . import common
from .soak_cases import POLICY, STRENGTH, Case, draw

FOLDER = Path(__file__).parent / "out" / "soak"
PROBE = ROOT / "tests" / "integration" / "probe"
# An image before all others, and after them.
FIRST = {"width": 64, "height": 64, "steps": 4, "seed": 1}
# The guard's own, on the U-Net, which stays between generations.
HOOKS_LEFT = 1
MOST_GROWTH = 0.02
# Fewer generations than this say nothing of the server's memory.
MEMORY_FROM = 200


class ViolationError(Exception):
    """Something that has to hold does not."""


@dataclass
class Answer:
    """The server's answer to a generation, and what the journal has of it."""

    response: httpx.Response
    records: list[dict[str, Any]]

    @property
    def made(self) -> bool:
        return self.response.status_code == 200

    @property
    def images(self) -> list[np.ndarray]:
        """Pixels ``[H, W, 3]`` of each image, without grids."""
        first = json.loads(self.response.json()["info"])["index_of_first_image"]
        pngs = [base64.b64decode(image) for image in self.response.json()["images"][first:]]
        return [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in pngs]

    @property
    def infotexts(self) -> list[dict[str, Any]]:
        """What EIUP says in each image."""
        info = json.loads(self.response.json()["info"])
        texts = info["infotexts"][info["index_of_first_image"] :]
        return [_eiup_value(text) for text in texts]


def _eiup_value(infotext: str) -> dict[str, Any]:
    """The JSON under ``EIUP``: in the webui's own quotes, as all that holds commas."""
    _, found, rest = infotext.rpartition("EIUP: ")
    if not found:
        raise ViolationError("an image without EIUP in its infotext")
    text, _ = json.JSONDecoder().raw_decode(rest)
    value = json.loads(text) if isinstance(text, str) else text
    return dict(value)


class Server:
    """A stand-in host under :data:`POLICY`, with the extension of the tests that disturbs generations."""

    def __init__(self, folder: Path):
        self.folder = folder
        policy = folder / "policy.json"
        policy.write_text(json.dumps(POLICY), encoding="utf-8")
        self.hash = read_policy(policy).hash
        self.host = StandIn(folder / "data", folder / "webui.log")
        self.host.command += ["--nowebui", "--eiup-policy", str(policy)]
        self.host.command += ["--extension", str(ROOT), "--extension", str(PROBE)]
        self._read: Counter[Path] = Counter()

    def __enter__(self) -> Server:
        self.host.__enter__()
        # What it does by itself is not to be met by faults that are meant for generations.
        self.host.client.wait_until_prepared()
        return self

    def __exit__(self, *exception: object) -> None:
        self.host.__exit__(*exception)

    def post(self, path: str, payload: Any) -> httpx.Response:
        return self.host.client.post(path, payload)

    def generate(self, path: str, payload: dict[str, Any]) -> Answer:
        return Answer(self.post(f"/sdapi/v1/{path}", payload), self.new_records())

    def new_records(self) -> list[dict[str, Any]]:
        """What the journal has got since the last look."""
        records = []
        for path in sorted((self.folder / "data" / "log" / "eiup").glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read[path])
                lines = file.read()
            self._read[path] += len(lines)
            records += [json.loads(line) for line in lines.splitlines()]
        return records

    def mend(self) -> tuple[bool, dict[str, Any]]:
        """Take all faults back: whether one took place, and the state that the model is left in."""
        saboteur = self.post("/eiup-saboteur/mend", {}).json()
        self.post("/eiup-probe/reset", {})
        state = self.post("/eiup-faults/mend", {}).json()
        return saboteur["fired"] or state["fired"], state

    def memory(self) -> int | None:
        """Resident bytes of the server's process; None where the system does not tell."""
        try:
            status = Path(f"/proc/{self.host.process.pid}/status").read_text()
        except OSError:
            return None
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024


# ------------------------------------------------------------------------------------- what has to hold


def run_case(server: Server, case: Case) -> str:
    """Make the images of ``case``; returns what came of it. Raises :class:`ViolationError`."""
    if case.fault.breaks:
        server.post("/eiup-saboteur/break", case.fault.breaks)
    answer = server.generate(case.path, case.payload)
    fired, state = server.mend()
    # One that was removed with all others is put back when the next generation begins.
    if state["hooks"] > HOOKS_LEFT or state["running"]:
        raise ViolationError(f"{state['hooks']} hooks and {state['running']} passes are left on the model")
    outcome = case.outcome
    if case.fault.waits and not fired and not case.unsampled:
        outcome = "same"
    if outcome in ("refused", "unwritten", "rejected"):
        _check_refusal(server, answer, outcome)
        return outcome
    _check_images(server, answer, case, complete=outcome != "stopped")
    if outcome == "same":
        plain = server.generate(case.path, case.plain)
        _check_images(server, plain, case, complete=True)
        if not all(np.array_equal(a, b) for a, b in zip(answer.images, plain.images)):
            raise ViolationError("an image differs from the one without the fault")
    return "made"


def _check_refusal(server: Server, answer: Answer, outcome: str) -> None:
    told = answer.response.text[:300]
    if answer.response.status_code not in (422, 500):
        raise ViolationError(f"status {answer.response.status_code}, not an error: {told}")
    if "images" in answer.response.json():
        raise ViolationError("an error that brings images")
    # Images of earlier batches were recorded, but not given out.
    refusals = [record for record in answer.records if record.get("event") == "refused"]
    expected = 1 if outcome == "refused" else 0
    if len(refusals) != expected or answer.records[-expected:] != refusals and expected:
        raise ViolationError(f"{len(refusals)} records of a refusal where {expected} had to be: {told}")
    if any(record["policy"] != {"hash": server.hash} for record in refusals):
        raise ViolationError("a refusal under another policy")


def _check_images(server: Server, answer: Answer, case: Case, complete: bool) -> None:
    """Where not ``complete``, images may be missing, or have no rows, since they were stopped before."""
    if not answer.made:
        raise ViolationError(f"status {answer.response.status_code}: {answer.response.text[:300]}")
    images, values = answer.images, answer.infotexts
    if not len(images) == len(values) == len(answer.records):
        raise ViolationError(
            f"{len(images)} images, {len(values)} infotexts, {len(answer.records)} records in the journal"
        )
    if complete and len(images) != case.images:
        raise ViolationError(f"{len(images)} images where {case.images} were asked for")
    for value, record in zip(values, answer.records):
        for proof in (value.get("policy"), record.get("policy")):
            if not proof or proof["hash"] != server.hash:
                raise ViolationError(f"no proof under the policy: {proof}")
            if not int(complete) <= proof.get("rows", -1) == proof.get("under_erasure"):
                raise ViolationError(f"not every row was under erasure: {proof}")
        if value["policy"] != record["policy"]:
            raise ViolationError(f"infotext and journal differ: {value['policy']}, {record['policy']}")
        _check_weights(value)


def _check_weights(value: dict[str, Any]) -> None:
    entries = [c if isinstance(c, dict) else {"concept": c, "weight": 1.0} for c in value["concepts"]]
    weights = {entry["concept"]: value["strength"] * entry["weight"] for entry in entries}
    if weights.get("star", 0) < STRENGTH or weights.get("moon", 0) < STRENGTH / 2:
        raise ViolationError(f"weaker than the policy: {weights}")
    if value["mode"] not in POLICY["modes"] or (value.get("start", 0), value.get("end", 1)) != (0, 1):
        raise ViolationError(f"outside of the policy: mode {value['mode']}, {value.get('start')}")


# ---------------------------------------------------------------------------------------------- the run


@dataclass
class Report:
    """What came of a run; ``memory`` is the server's after each generation, in bytes."""

    seed: int
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    violations: list[dict[str, Any]] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0

    def count(self, fault: str, outcome: str) -> None:
        self.outcomes.setdefault(fault, Counter())[outcome] += 1

    @property
    def generations(self) -> int:
        return sum(sum(counts.values()) for counts in self.outcomes.values())

    @property
    def growth(self) -> float | None:
        """Median of the last tenth over that of the tenth after the first fifth, less one."""
        count, tenth = len(self.memory), len(self.memory) // 10
        if count < MEMORY_FROM:
            return None
        begin = count // 5
        before = statistics.median(self.memory[begin : begin + tenth])
        return statistics.median(self.memory[-tenth:]) / before - 1

    @property
    def grown(self) -> bool:
        return self.growth is not None and self.growth >= MOST_GROWTH

    @property
    def figures(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "generations": self.generations,
            "seconds": round(self.seconds, 1),
            "records": self.images,
            "outcomes": {fault: dict(counts) for fault, counts in sorted(self.outcomes.items())},
            "memory_growth": self.growth,
            "memory_mb": [round(value / 1e6, 1) for value in self.memory],
            "violations": self.violations,
        }


def soak(folder: Path, generations: int, seed: int, adaptive: bool = True) -> Report:
    """Run the generations of this seed on a server in ``folder``; without ``adaptive``, those of that mode
    are made in another, which needs no calibration."""
    report, begun = Report(seed), time.monotonic()
    with Server(folder) as server:
        samplers = [sampler["name"] for sampler in server.host.client.get("/sdapi/v1/samplers").json()]
        first = server.generate("txt2img", FIRST)
        picture = first.response.json()["images"][0]
        pace = dict(dynamic_ncols=True, disable=not sys.stderr.isatty())
        for index in tqdm(range(generations), unit="generation", **pace):
            case = draw(seed, index, picture, samplers, adaptive)
            try:
                report.count(case.fault.name, run_case(server, case))
            except (ViolationError, httpx.HTTPError, KeyError, ValueError) as error:
                server.host.check()
                report.count(case.fault.name, "violation")
                report.violations.append(_violation(index, case, error))
                tqdm.write(json.dumps(report.violations[-1], ensure_ascii=False), file=sys.stderr)
                # What it left behind is not the next one's.
                server.mend()
                server.new_records()
            if (memory := server.memory()) is not None:
                report.memory.append(memory)
        try:
            _check_end(server, first)
        except ViolationError as error:
            report.violations.append({"generation": generations, "what": str(error), "payload": FIRST})
    report.seconds = time.monotonic() - begun
    return report


def _check_end(server: Server, first: Answer) -> None:
    """The first image comes again as it was, and leaves the guard's hook alone."""
    again = server.generate("txt2img", FIRST)
    if not again.made or not np.array_equal(first.images[0], again.images[0]):
        raise ViolationError("the first image is not made again as it was")
    _, state = server.mend()
    if (state["hooks"], state["running"]) != (HOOKS_LEFT, 0):
        raise ViolationError(f"{state['hooks']} hooks and {state['running']} passes are left on the model")


def _violation(index: int, case: Case, error: Exception) -> dict[str, Any]:
    return {
        "generation": index,
        "what": str(error) if isinstance(error, ViolationError) else repr(error),
        "fault": case.fault.name,
        "outcome": case.outcome,
        "path": f"/sdapi/v1/{case.path}",
        "break": case.fault.breaks,
        "payload": case.payload,
    }


def table(report: Report) -> str:
    """The report as text."""
    columns = ("made", "refused", "unwritten", "rejected", "violation")
    width = max(len(name) for name in report.outcomes) + 2
    lines = [f"{'fault':{width}}" + "".join(f"{column:>11}" for column in columns)]
    for name, counts in sorted(report.outcomes.items()):
        lines.append(f"{name:{width}}" + "".join(f"{counts[column] or '-':>11}" for column in columns))
    growth = "not measured" if report.growth is None else f"{report.growth:+.2%} (at most {MOST_GROWTH:.0%})"
    lines += [
        "",
        f"{report.generations} generations of seed {report.seed} in {report.seconds:.0f} s, "
        f"{len(report.violations)} violations; growth of the server's memory: {growth}",
    ]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--generations", type=common.positive, default=1000, help="default: 1000")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is random (default: 1)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder (default: bench/out/soak)")


def run(arguments: argparse.Namespace) -> int:
    with TemporaryDirectory() as name:
        report = soak(Path(name), arguments.generations, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "soak.json"
    file.write_text(json.dumps(report.figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(report) + f"\n\nThe figures are in {file}.")
    return 1 if report.violations or report.grown else 0
