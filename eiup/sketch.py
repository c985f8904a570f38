"""A sketch of a model: a few numbers that tell whether it is the one that something was learnt on.

What the model's layers make of some tokens is projected on fixed directions. Of layer ``l``, with the values
``v_l [J, C']`` of the tokens side by side, these are the direction ``v_l / |v_l|`` and the length ``log
|v_l|``; with random signs ``e``, ::

    s_m = sum over l of e_lm (<e_m, v_l> / |v_l| + e'_m log |v_l|) / sqrt(L M)

So the distance of two sketches is about the root mean square, over layers, of how much one's values differ
from the other's, as a share of these. Rounding in half precision, which depends on what else is in a batch,
makes a small distance, and a LoRA a larger one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from .precision import brought_to, full_precision

NUMBERS = 32
# Sketches that are nearer are of the same model. What else is in a batch changes how half precision rounds.
# In Toyland, with a quarter of all linear layers' outputs off by one in the last place, that is up to 0.001
# in float16 and up to 0.008 in bfloat16. A LoRA that changes values by a twentieth is 0.02 to 0.07 away, and
# one that changes them by a hundredth 0.004 to 0.014.
TOLERANCE = 0.012
# Of the empty prompt: its end and padding. What it begins with is the same in any prompt.
EMPTY_TOKENS = slice(1, 4)

Sketch = tuple[float, ...]


def sketches(
    texts: Sequence[Tensor], layers: Iterable[nn.Module], values: Callable[[nn.Module, Tensor], Tensor]
) -> list[Sketch]:
    """The sketch of what the model makes of each of ``texts``, some tokens' contexts ``[J, C]``."""
    rows = torch.cat(list(texts))
    of_layers = [rows, *(values(layer, rows[None])[0] for layer in layers)]
    device = rows.device
    text = brought_to(device, torch.arange(len(texts)).repeat_interleave(torch.tensor([*map(len, texts)])))
    of_tokens = brought_to(device, torch.cat([_signs(1, len(x)) for x in texts]))
    of_lengths = brought_to(device, _signs(2, 1))
    of_each_layer = brought_to(device, _signs(3, len(of_layers)))
    directions = {width: brought_to(device, _signs(4, width)) for width in {x.shape[1] for x in of_layers}}
    total = torch.zeros(len(texts), NUMBERS, device=device)
    with full_precision(device):
        for made, sign in zip(of_layers, of_each_layer):
            made = made.float()
            by_token = made @ directions[made.shape[1]] * of_tokens
            projected = total.new_zeros(total.shape).index_add(0, text, by_token)
            length = total.new_zeros(len(texts), 1).index_add(0, text, made.square().sum(1, keepdim=True))
            length = length.sqrt().clamp_min(1e-12)
            total += sign * (projected / length + of_lengths * length.log())
    scaled = total.cpu() / math.sqrt(NUMBERS * len(of_layers))
    return [tuple(round(number, 6) for number in one) for one in scaled.tolist()]


def distance(one: Sketch, other: Sketch) -> float:
    """How far apart two sketches are; infinite where one is none."""
    return math.dist(one, other) if len(one) == len(other) else math.inf


@functools.lru_cache(maxsize=64)
def _signs(seed: int, count: int) -> Tensor:
    """-1 or 1, ``[count, NUMBERS]``, on the CPU: the same in every process."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (count, NUMBERS), generator=generator).float() * 2 - 1
