"""The methods that ``python -m bench quality`` compares, by name.

Each baseline is written from its paper, with the numbers of its authors' code; where the two differ, or
leave something open, its docstring says what was chosen. A method knows the concepts to erase and the case's
prompt, seed, negative prompt and guidance scale, and never what the case should show.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import eiup
from demo.toyland.model import LatentDiffusion
from demo.toyland.pipeline import erase
from eiup.calibration import CalibrationCache
from eiup.concepts import Concept
from eiup.request import FIELD, ErasureRequest
from eiup.rows import conditional_then_unconditional

from .adavd import Shift, adavd
from .cases import BenchCase
from .growth_inhibitors import growth_inhibitors
from .method import Attacked, Generate, Method, Predict, columns, contexts_of, generate_cases
from .sld import SLD, sld

CALIBRATIONS = Path(__file__).parent / "out" / "calibrations"


def erasing(name: str, description: str, source: str = "this project", **fields: Any) -> Method:
    """A method that is the product under an :class:`ErasureRequest` of these fields."""
    cache = CalibrationCache(CALIBRATIONS)

    def request(concepts: Sequence[str]) -> ErasureRequest:
        return ErasureRequest(True, tuple(map(Concept, concepts)), **fields)

    def run(
        model: LatentDiffusion, cases: Sequence[BenchCase], concepts: Sequence[str], steps: int
    ) -> np.ndarray:
        return generate_cases(model, cases, steps, request=request(concepts), cache=cache)

    def calibrate(model: LatentDiffusion, concepts: Sequence[str]) -> None:
        erase(model, request(concepts), cache)

    @contextlib.contextmanager
    def attacked(model: LatentDiffusion, concept: str) -> Iterator[Predict]:
        # An attacker cannot see through the decision to begin anew: it has no gradient.
        with erase(model, request([concept]), cache, watches=False) as eraser:

            def predicted(prompts: Sequence[str], x: Tensor, timesteps: Tensor) -> Tensor:
                eraser.begin_anew()
                eraser.rows = conditional_then_unconditional(len(x))[: len(x)]
                return model.apply_model(x, timesteps, contexts_of(model, prompts))

            yield predicted

    settings = {**asdict(ErasureRequest(**fields)), "code": _code_of_eiup()}
    return Method(name, description, source, run, settings, attacked, calibrate)


def _code_of_eiup() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(eiup.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


# ------------------------------------------------------------------------------------------ by text


def _plain(
    model: LatentDiffusion, cases: Sequence[BenchCase], concepts: Sequence[str], steps: int
) -> np.ndarray:
    return generate_cases(model, cases, steps)


def _negative_prompt(
    model: LatentDiffusion, cases: Sequence[BenchCase], concepts: Sequence[str], steps: int
) -> np.ndarray:
    negative = [", ".join(filter(None, (case.negative_prompt, *concepts))) for case in cases]
    return generate_cases(model, cases, steps, negative=negative)


def without_concept(prompt: str, concept: str) -> str:
    """``prompt`` with the concept's words taken out, and what only led up to them.

    >>> without_concept("a knight on a meadow with a star, old", "star")
    'a knight on a meadow, old'
    """
    named = rf"(?:(?:a|an|the)\s+)?{re.escape(concept)}(?:e?s)?\b"
    for pattern in (
        rf"\b{named}\s+(?:and|of)\s+",  # "with a star and a moon", "a mosaic of a knight"
        rf"\b(?:with|and|of)\s+{named}",
        rf"\b{named}",
    ):
        prompt = re.sub(pattern, "", prompt, flags=re.IGNORECASE)
    parts = (" ".join(part.split()) for part in prompt.split(","))
    return ", ".join(part for part in parts if part)


def _prompt_edit(
    model: LatentDiffusion, cases: Sequence[BenchCase], concepts: Sequence[str], steps: int
) -> np.ndarray:
    prompts, negative, _ = columns(cases)
    for concept in concepts:
        prompts, negative = (
            [without_concept(text, concept) for text in texts] for texts in (prompts, negative)
        )
    return generate_cases(model, cases, steps, prompts=prompts, negative=negative)


# ----------------------------------------------------------------------------------------- registry

_EIUP = "arXiv 2408.01014, Algorithm 1"
_INHIBITORS = {"weight": -FIELD["strength"].default, "cross_steps": 0.8, "self_steps": 0.4}


def _attackable(
    name: str, description: str, source: str, ways: tuple[Generate, Attacked], settings: Mapping[str, Any]
) -> Method:
    return Method(name, description, source, ways[0], settings, ways[1])


_ALL = (
    Method("none", "no erasure: the reference of every other method", "", _plain, erases=False),
    Method("negative-prompt", "the concept as negative prompt, after the case's own", "", _negative_prompt),
    Method("prompt-edit", "the concept's words taken out of prompt and negative prompt", "", _prompt_edit),
    *(
        Method(
            f"sld-{name}",
            f"Safe Latent Diffusion, {name}, the concept as safety text",
            "arXiv 2211.05105; numbers of diffusers' safe pipeline",
            sld(config),
            asdict(config),
        )
        for name, config in SLD.items()
    ),
    _attackable(
        "adavd",
        "orthogonal complement in value space with adaptive shift",
        "arXiv 2412.06143; numbers of github:WYuan1001/AdaVD",
        adavd(Shift()),
        asdict(Shift()),
    ),
    _attackable(
        "growth-inhibitors",
        "the published procedure: twin trajectory, injected maps, copied self-attention",
        "github:CD22104/Growth-Inhibitors-for-Erasure (arXiv 2408.01014 v2)",
        growth_inhibitors(**_INHIBITORS),
        _INHIBITORS,
    ),
    erasing("eiup-constant", "EIUP at the default strength", _EIUP, mode="constant"),
    erasing("eiup-adaptive", "EIUP where the prompt or the image asks for it", _EIUP, mode="adaptive"),
    erasing("eiup-strict", "EIUP in every image, more where the prompt asks for more", _EIUP, mode="strict"),
    erasing("eiup-projection", "the concept's direction taken out", mode="projection"),
    erasing("eiup-preserve", "eiup-adaptive that preserves", _EIUP, mode="adaptive", preserve=True),
)
METHODS = {method.name: method for method in _ALL}
