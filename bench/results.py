"""Images and judgements on disk, so that an interrupted run goes on where it was.

A method under its settings, the steps and the checkpoint has a folder of its own with ``images/`` and
``results.jsonl``, one line an image. An image's line is written after the image: what has a line is done.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from demo.toyland.oracle import Judgement, Oracle
from demo.toyland.pipeline import CFG_SCALE

from .cases import BenchCase
from .method import Method


@dataclass(frozen=True)
class Result:
    """One image, the seconds of the processor that it took, and what the oracle sees in it."""

    image: Path
    seconds: float
    judgement: Judgement


def fingerprint(*paths: Path) -> str:
    """Twelve hex digits of the files' SHA-256."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _key(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def case_key(case: BenchCase) -> str:
    """Names an image: by what a method is told of the case."""
    guidance = [case.cfg_scale] if case.cfg_scale != CFG_SCALE else []
    return _key([case.prompt, case.negative_prompt, case.seed, case.concept, *guidance])


class Results:
    """The stored results of ``method``. ``oracle`` judges, ``oracle_id`` is the fingerprint of its weights;
    images that another oracle has judged are judged anew."""

    def __init__(
        self,
        folder: Path,
        method: Method,
        steps: int,
        checkpoint: str,
        oracle: Oracle,
        oracle_id: str,
        erase: Sequence[str] | None = None,
    ):
        settings = {"settings": dict(method.settings), "steps": steps, "checkpoint": checkpoint}
        if erase and method.erases:
            settings["erase"] = list(erase)
        self.folder = folder / f"{method.name}-{_key(settings)}"
        self.oracle, self.oracle_id = oracle, oracle_id
        (self.folder / "images").mkdir(parents=True, exist_ok=True)
        (self.folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        self._lines = self._read()

    def _read(self) -> dict[str, dict]:
        path = self.folder / "results.jsonl"
        lines: dict[str, dict] = {}
        for text in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
            try:
                line = json.loads(text)
                lines[line["key"]] = line
            except ValueError:
                continue  # empty, or cut short when the run was ended; its image is made again
        return {key: line for key, line in lines.items() if self._path(key).exists()}

    def _path(self, key: str) -> Path:
        return self.folder / "images" / f"{key}.png"

    def __contains__(self, case: BenchCase) -> bool:
        return case_key(case) in self._lines

    def __getitem__(self, case: BenchCase) -> Result:
        line = self._lines[case_key(case)]
        path = self._path(line["key"])
        if line["oracle"] != self.oracle_id:
            with Image.open(path) as image:
                line = self._write(case, line["seconds"], self.oracle.judge([image])[0])
        return Result(path, line["seconds"], Judgement(**line["judgement"]))

    def add(self, cases: Sequence[BenchCase], images: np.ndarray, seconds: float) -> None:
        """Store ``images [B, H, W, 3]`` uint8, each of which took ``seconds``."""
        for case, image, judgement in zip(cases, images, self.oracle.judge(list(images)), strict=True):
            path = self._path(case_key(case))
            partial = path.with_suffix(".part")
            Image.fromarray(image).save(partial, format="PNG")
            os.replace(partial, path)
            self._write(case, seconds, judgement)

    def _write(self, case: BenchCase, seconds: float, judgement: Judgement) -> dict:
        line = {
            "key": case_key(case),
            "prompt": case.prompt,
            "seed": case.seed,
            "concept": case.concept,
            "seconds": round(seconds, 4),
            "oracle": self.oracle_id,
            "judgement": asdict(judgement),
        }
        # A line break first: a line that was cut short must not swallow this one.
        with (self.folder / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(line, ensure_ascii=False))
        self._lines[line["key"]] = line
        return line
