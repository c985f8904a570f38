"""The procedure that the authors of "Growth Inhibitors for Erasure" published."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.toyland.model import LatentDiffusion
from demo.toyland.pipeline import ddim, predict, to_images
from demo.toyland.prompts import chunks_of, encode_chunks, stack_contexts
from eiup.attention import merge_heads, split_heads

from .cases import BenchCase
from .method import Attacked, Generate, Predict, begin, contexts_of


class _TwinAttention:
    """The attention of the Growth Inhibitors' procedure, on rows ``[twins, erased, the rest]``, as many twins
    as erased ones, while entered. Set :attr:`step` and :attr:`positions` before each U-Net call.

    For the erased row: in cross-attention, the twin's maps for the prompt's positions and ``weight`` times
    its own maps of the concepts at the inserted positions; in self-attention, the twin's maps.
    ``concepts`` are these alone, ``[T, C_text]`` each, with ``lengths`` tokens of their own; ``positions``
    are where a row's context holds them.
    """

    SMALL = 16**2

    def __init__(
        self,
        unet: nn.Module,
        concepts: Sequence[Tensor],
        lengths: Sequence[int],
        weight: float,
        cross_until: int,
        self_until: int,
    ):
        self.unet, self.concepts, self.lengths, self.weight = unet, concepts, lengths, weight
        self.cross_until, self.self_until = cross_until, self_until
        self.step = 0
        self.positions: Sequence[slice] = ()
        self._seen: dict[nn.Module, Tensor] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _TwinAttention:
        def keep(module: nn.Module, args: tuple, output: Tensor) -> None:
            self._seen[module] = output

        for name, layer in self.unet.named_modules():
            kind = name.rpartition(".")[2]
            if kind in ("attn1", "attn2"):
                for projection in (layer.to_q, layer.to_k, layer.to_v):
                    self._stack.callback(projection.register_forward_hook(keep).remove)
                own = self._cross(layer) if kind == "attn2" else self._self(layer)
                self._stack.callback(layer.to_out[0].register_forward_pre_hook(own).remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._seen.clear()

    def _heads(self, layer: nn.Module) -> tuple[Tensor, ...]:
        """``q, k, v`` of the conditional rows: ``[2 * count, H, N, d]``."""
        rows = 2 * len(self.positions)
        return tuple(
            split_heads(self._seen.pop(projection)[:rows], layer.heads)
            for projection in (layer.to_q, layer.to_k, layer.to_v)
        )

    def _replace(self, outputs: Tensor, erased: Tensor) -> tuple[Tensor]:
        count = len(self.positions)
        outputs = outputs.clone()
        outputs[count : 2 * count] = merge_heads(erased)
        return (outputs,)

    def _self(self, layer: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple) -> tuple | None:
            q, k, v = self._heads(layer)
            if self.step >= self.self_until or q.shape[2] > self.SMALL:
                return None
            count = len(self.positions)
            return self._replace(args[0], F.scaled_dot_product_attention(q[:count], k[:count], v[count:]))

        return hook

    def _cross(self, layer: nn.Module) -> Callable:
        keys = [split_heads(layer.to_k(concept), layer.heads) for concept in self.concepts]

        def hook(module: nn.Module, args: tuple) -> tuple | None:
            q, k, v = self._heads(layer)
            if self.step >= self.cross_until:
                return None
            count = len(self.positions)
            maps = (q[:count] @ k[:count].mT * layer.scale).softmax(-1).clone()
            inhibitors = [
                self.weight * (q[count:] @ k.mT * layer.scale).softmax(-1)[..., 1 : 1 + length]
                for k, length in zip(keys, self.lengths)
            ]
            for row, at in enumerate(self.positions):
                end = maps[row, ..., at.start].clone()
                maps[row, ..., at] = torch.cat([of_concept[row] for of_concept in inhibitors], dim=-1)
                # The prompt's EOS comes behind the inserted words; the padding stays where it is.
                maps[row, ..., at.stop] = end
            return self._replace(args[0], maps @ v[count:])

        return hook


def growth_inhibitors_context(
    model: LatentDiffusion, prompts: Sequence[str], concepts: Sequence[str]
) -> tuple[Tensor, Tensor, Tensor, list[slice]]:
    """Contexts of the prompts and of prompts with the concepts inserted ``[R, n*77, C]``, the concepts' own
    tokens' ``[J, C]``, and the positions at which each prompt holds these."""
    length = model.cond_stage_model.max_length
    words = [chunks_of(model, concept)[0] for concept in concepts]
    encoded = contexts_of(model, concepts)
    own = torch.cat([context[1 : 1 + len(chunk)] for chunk, context in zip(words, encoded)])
    inhibitors = sum(words, [])
    plain, erased, inserted = [], [], []
    for prompt in prompts:
        chunks = chunks_of(model, prompt)
        plain.append(encode_chunks(model, chunks))
        *before, last = chunks
        last = last[: length - 2 - len(inhibitors)]
        erased.append(encode_chunks(model, [*before, [*last, *inhibitors]]))
        start = len(before) * length + 1 + len(last)
        inserted.append(slice(start, start + len(inhibitors)))
        erased[-1][inserted[-1]] = own
    empty = model.get_learned_conditioning([""])[0]
    return *stack_contexts([*plain, *erased], empty).chunk(2), own, inserted


def growth_inhibitors(weight: float, cross_steps: float, self_steps: float) -> tuple[Generate, Attacked]:
    """The procedure of "Growth Inhibitors for Erasure" as its authors published it
    (github:CD22104/Growth-Inhibitors-for-Erasure), which goes beyond its Algorithm 1.

    An un-erased twin of each image is denoised in the same batch. The erased row's prompt is followed by
    the concept, whose positions hold the concept's own embeddings. For the first ``cross_steps`` of the
    steps the row takes the prompt's attention maps from the twin, and at the concept's positions ``weight``
    times the map of the concept's own prompt under its own queries; afterwards it attends that context by
    itself. For the first ``self_steps`` it takes self-attention maps of up to 16 x 16 positions from the
    twin, which here is every layer. Unconditional rows stay as they are.

    Left open: the weights come from an adapter whose parameters were not published; here ``weight`` is one
    constant, minus the product's default strength. Changed: their index map meets the prompt's EOS map
    with the embedding of the concept's first token; here it meets the longer prompt's own EOS. Several
    concepts follow the prompt one after the other.
    """

    def twins(model: LatentDiffusion, concepts: Sequence[str], steps: int) -> _TwinAttention:
        contexts = list(contexts_of(model, concepts))
        until = int(cross_steps * (steps + 1)), int(self_steps * steps)
        lengths = [len(chunks_of(model, concept)[0]) for concept in concepts]
        return _TwinAttention(model.model.diffusion_model, contexts, lengths, weight, *until)

    @torch.no_grad()
    def run(
        model: LatentDiffusion, cases: Sequence[BenchCase], concepts: Sequence[str], steps: int
    ) -> np.ndarray:
        prompts, scale, x = begin(model, cases, steps)
        inserted = twins(model, concepts, steps)
        known: dict[tuple[str, ...], tuple] = {}

        def guide(x: Tensor, timestep: int, step: int) -> Tensor:
            at_step = prompts.positive.texts(step)
            key = tuple(at_step)
            if key not in known:
                known[key] = growth_inhibitors_context(model, at_step, concepts)
            plain, erased, _, inserted.positions = known[key]
            inserted.step = step
            unconditional = prompts.negative.contexts(step)
            contexts = stack_contexts([*plain, *erased, *unconditional, *unconditional], prompts.empty)
            twin, own = x.chunk(2)
            images = prompts.positive.images
            rows = torch.cat([twin[images], own[images], twin, own])
            *conditional, first, second = predict(model, rows, timestep, contexts).split(
                [len(images), len(images), len(twin), len(own)]
            )
            guided = [
                without + scale * (prompts.positive.combine(with_, without) - without)
                for with_, without in zip(conditional, (first, second))
            ]
            return torch.cat(guided)

        with inserted:
            latents = ddim(model, torch.cat([x, x]), guide, steps)
        return to_images(model, latents[len(cases) :])

    @contextlib.contextmanager
    def attacked(model: LatentDiffusion, concept: str) -> Iterator[Predict]:
        with twins(model, [concept], 1000) as inserted:

            def predicted(prompts: Sequence[str], x: Tensor, timesteps: Tensor) -> Tensor:
                plain, erased, _, inserted.positions = growth_inhibitors_context(model, prompts, [concept])
                contexts = torch.cat([plain, erased])
                both = model.apply_model(torch.cat([x, x]), torch.cat([timesteps, timesteps]), contexts)
                return both[len(x) :]

            yield predicted

    return run, attacked
