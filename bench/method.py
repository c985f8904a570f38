"""What a method of erasing is to the benchmark."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demo.toyland.model import LatentDiffusion
from demo.toyland.pipeline import Prompts, generate, noise
from demo.toyland.prompts import chunks_of, encode_chunks

from .cases import BenchCase

# Images ``[B, 128, 128, 3]`` uint8 of cases that share a guidance scale, without concepts, in so many steps.
Generate = Callable[[LatentDiffusion, Sequence[BenchCase], Sequence[str], int], np.ndarray]
# Predicted noise ``[B, 4, 16, 16]`` of latents of that shape at timesteps ``[B]`` under prompts.
Predict = Callable[[Sequence[str], Tensor, Tensor], Tensor]
Attacked = Callable[[LatentDiffusion, str], contextlib.AbstractContextManager[Predict]]


@contextlib.contextmanager
def unchanged(model: LatentDiffusion, concept: str) -> Iterator[Predict]:
    yield lambda prompts, x, timesteps: model.apply_model(x, timesteps, contexts_of(model, prompts))


def contexts_of(model: LatentDiffusion, prompts: Sequence[str]) -> Tensor:
    """Contexts ``[B, 77, C]`` of prompts of at most 75 tokens."""
    return torch.stack([encode_chunks(model, chunks_of(model, prompt)) for prompt in prompts])


@dataclass(frozen=True)
class Method:
    """A way to erase. Stored images belong to a name and its ``settings``.

    ``attacked(model, concept)`` is a context manager that gives the conditional prediction while the method
    erases, differentiable in the prompts' embeddings: what an attacker who has the weights optimises
    against. By default it is the model's own, which methods of guidance or text do not change.
    ``prepare(model, concepts)`` does what is done once for concepts, and is no part of an image's time.
    """

    name: str
    description: str
    source: str
    generate: Generate
    settings: Mapping[str, Any] = field(default_factory=dict)
    attacked: Attacked = unchanged
    prepare: Callable[[LatentDiffusion, Sequence[str]], None] = lambda model, concepts: None
    erases: bool = True


def columns(cases: Sequence[BenchCase]) -> tuple[list[str], list[str], list[int]]:
    """Prompts, negative prompts and seeds."""
    return [c.prompt for c in cases], [c.negative_prompt for c in cases], [c.seed for c in cases]


def scale_of(cases: Sequence[BenchCase]) -> float:
    """The guidance scale that the cases share. Raises ``ValueError`` where they do not."""
    scales = {case.cfg_scale for case in cases}
    if len(scales) != 1:
        raise ValueError(f"cases: guidance scales {sorted(scales)} in one batch; a batch has one")
    return scales.pop()


def begin(model: LatentDiffusion, cases: Sequence[BenchCase], steps: int) -> tuple[Prompts, float, Tensor]:
    """The cases' prompts, their guidance scale, and the noise ``[B, 4, 16, 16]`` to begin with."""
    prompts, negative, seeds = columns(cases)
    return Prompts(model, prompts, negative, steps), scale_of(cases), noise(seeds)


def generate_cases(
    model: LatentDiffusion,
    cases: Sequence[BenchCase],
    steps: int,
    *,
    prompts: Sequence[str] | None = None,
    negative: Sequence[str] | None = None,
    **options: Any,
) -> np.ndarray:
    """Images of cases, with other prompts or negative prompts where these are given."""
    own, own_negative, seeds = columns(cases)
    options = {"steps": steps, "cfg_scale": scale_of(cases), **options}
    return generate(model, prompts or own, seeds, negative_prompt=negative or own_negative, **options)[0]
