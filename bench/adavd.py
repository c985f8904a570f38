"""AdaVD: the complement of the concept in value space (arXiv 2412.06143)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from demo.toyland.model import LatentDiffusion
from demo.toyland.prompts import ScheduledPrompts, chunks_of
from eiup.eraser import text_cross_attention

from .cases import BenchCase
from .method import Attacked, Generate, Predict, columns, contexts_of, generate_cases


@dataclass(frozen=True)
class Shift:
    """AdaVD's erasing shift ``s / (1 + exp(-p (cos - epsilon)))``; the numbers are its authors'."""

    p: float = 100.0
    epsilon: float = 0.93
    s: float = 2.0

    def __call__(self, cosine: Tensor) -> Tensor:
        return self.s * torch.sigmoid(self.p * (cosine - self.epsilon))


def orthogonal_complement(values: Tensor, target: Tensor, shift: Callable[[Tensor], Tensor]) -> Tensor:
    """``values [..., T, C]`` less their part along ``target [T, C]``, token by token (arXiv 2412.06143)::

        v - shift(cos(v, v*)) <v, v*> / <v*, v*> v*

    ``C`` is all heads together. ``shift = torch.ones_like`` is the plain orthogonal complement.
    """
    along = (values * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True).clamp_min(1e-12)
    cosine = torch.cosine_similarity(values, target, dim=-1).unsqueeze(-1)
    return values - shift(cosine) * along * target


@contextlib.contextmanager
def _decomposed_values(unet: nn.Module, targets: Sequence[Tensor], rows: int, shift: Shift) -> Iterator[None]:
    """While entered, the values of the first ``rows`` rows in every text cross-attention of ``unet`` are the
    complements of those of ``targets [C_text]``, one after the other. BOS stays as it is."""

    def hook_for(layer: nn.Module) -> Callable:
        of_targets = [layer.to_v(target) for target in targets]

        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            values = output[:rows, 1:]
            for of_target in of_targets:
                values = orthogonal_complement(values, of_target.expand(values.shape[1:]), shift)
            changed = torch.cat([output[:rows, :1], values], dim=1)
            return torch.cat([changed, output[rows:]])

        return hook

    with contextlib.ExitStack() as stack:
        for layer in text_cross_attention(unet).values():
            stack.callback(layer.to_v.register_forward_hook(hook_for(layer)).remove)
        yield


def adavd(shift: Shift) -> tuple[Generate, Attacked]:
    """AdaVD: the target of every position is the value of the concept's last own token, spread over all
    positions but BOS, as in the authors' code.

    That code also puts the unconditional row's values beside the conditional's in each inner product, and
    changes both; the paper speaks of the prompt's values, and so only conditional rows are changed here.
    """

    def targets(model: LatentDiffusion, concepts: Sequence[str]) -> list[Tensor]:
        contexts = zip(concepts, contexts_of(model, concepts))
        return [context[len(chunks_of(model, concept)[0])] for concept, context in contexts]

    @torch.no_grad()
    def run(
        model: LatentDiffusion, cases: Sequence[BenchCase], concepts: Sequence[str], steps: int
    ) -> np.ndarray:
        rows = sum(len(weights) for weights in ScheduledPrompts(model, columns(cases)[0], steps).weights)
        unet = model.model.diffusion_model
        with _decomposed_values(unet, targets(model, concepts), rows, shift):
            return generate_cases(model, cases, steps)

    @contextlib.contextmanager
    def attacked(model: LatentDiffusion, concept: str) -> Iterator[Predict]:
        def predicted(prompts: Sequence[str], x: Tensor, timesteps: Tensor) -> Tensor:
            with _decomposed_values(model.model.diffusion_model, of_concept, len(x), shift):
                return model.apply_model(x, timesteps, contexts_of(model, prompts))

        of_concept = targets(model, [concept])
        yield predicted

    return run, attacked
