"""A small denoiser of genuine attention layers whose images are what the text makes of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from demo.toyland.model import FusedCrossAttention
from eiup.eraser import EncodedConcept
from eiup.probes import Denoiser
from tests.integration.support import EMPTY, WIDTH, make_concept

NAMES = ("star", "moon", "ball", "heart", "boat", "cat", "house", "robot")
CONCEPTS = [make_concept(name, (1, 2), 1.0, seed) for seed, name in enumerate(NAMES, start=1)]


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn2 = FusedCrossAttention(32, WIDTH, heads=4, dim_head=8)


class Painter(nn.Module):
    """A U-Net of two layers of text cross-attention, in which a text has much of a say; so there is something
    to see in its features."""

    def __init__(self, seed: int = 10):
        super().__init__()
        torch.manual_seed(seed)
        self.inward, self.outward = nn.Linear(4, 32), nn.Linear(32, 4)
        self.output_blocks = nn.ModuleList([_Block(), _Block()])
        for block in self.output_blocks:
            block.attn2.to_k.weight.data.mul_(3)
            block.attn2.to_v.weight.data.mul_(4)
        self.eval().requires_grad_(False)
        self.rows: list[int] = []

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        h = torch.tanh(self.inward(x.flatten(2).transpose(1, 2)))
        for block in self.output_blocks:
            h = h + block.attn2(h, context=context)
        return x + 0.3 * self.outward(h).transpose(1, 2).reshape(x.shape)

    def predict(self, x: Tensor, timestep: int, contexts: Tensor) -> Tensor:
        """What a :class:`Denoiser` calls; counts the rows of each call."""
        self.rows.append(len(x))
        weight = self.inward.weight
        return self(x.to(weight.dtype), torch.full((len(x),), timestep), contexts)

    def denoiser(self, side: int = 8, alphas: Tensor | None = None, **kwargs: str) -> Denoiser:
        alphas = torch.linspace(0.9999, 0.005, 1000) if alphas is None else alphas
        return Denoiser(self.predict, alphas, (4, side, side), **kwargs)


def encoder(dtype: torch.dtype = torch.float32) -> Callable[[Sequence[str]], Tensor]:
    """A text encoder that knows the concepts' names; any other text is the empty one with some noise."""
    known: dict[str, EncodedConcept] = {concept.name: concept for concept in CONCEPTS}

    def encode(texts: Sequence[str]) -> Tensor:
        contexts = []
        for text in texts:
            noise = torch.randn(77, WIDTH, generator=torch.Generator().manual_seed(zlib.crc32(text.encode())))
            named = [known[word].context for word in text.split() if word in known]
            contexts.append(named[0] if named else EMPTY + 0.3 * noise)
        return torch.stack(contexts).to(dtype)

    return encode
