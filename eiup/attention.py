"""The equations of EIUP on tensors (arXiv 2408.01014, Algorithm 1).

Shapes: ``B`` rows of a U-Net batch, ``N`` image positions, ``H`` heads of width ``d``, ``K`` concepts
with contexts of ``T`` tokens, of which the ``J`` columns named by ``columns`` are the concepts' own
(no BOS, EOS, padding), all concepts together.

Each concept has a softmax of its own, so that concepts do not influence one another::

    M_k = softmax(Q K_k' / sqrt d)          F_k = sum over j in J_k of M_k[:, j] V_k[j]
    O   = O_p - sum over k of c_k F_k       c_k = s(t) w_k g_k f_k
"""

from __future__ import annotations

import torch
from torch import Tensor

# Attention logits of one slice of positions, in elements: bounds the memory of many concepts. On a CPU
# a slice that stays in the cache, and in memory that need not be fetched anew, costs half the time.
_SLICE_ELEMENTS = 2**25
_SLICE_ELEMENTS_CPU = 2**18


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``[B, N, H*d]`` -> ``[B, H, N, d]``."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """``[B, H, N, d]`` -> ``[B, N, H*d]``."""
    return x.transpose(-3, -2).flatten(-2)


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """``softmax(q k' scale) v``: ``[B, H, N, d]`` for ``q [B, H, N, d]`` and ``k, v [H, T, d]``.

    ``scale`` is ``1 / sqrt d`` in the paper. Logits and softmax are in float32.
    """
    logits = torch.matmul(q, k.transpose(-1, -2)).float() * scale
    return torch.matmul(logits.softmax(dim=-1).to(v.dtype), v)


def attention_maps(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """All ``M_k``: ``[B, H, N, K, T]`` for ``q [B, H, N, d]`` and ``k [K, H, T, d]``, each ``M_k``
    normalised over its own ``T`` tokens, in ``q``'s dtype."""
    concepts, _, tokens, _ = k.shape
    flat = k.transpose(0, 1).flatten(1, 2)
    logits = torch.matmul(q * scale, flat.transpose(-1, -2)).float()
    return logits.unflatten(-1, (concepts, tokens)).softmax(dim=-1).to(q.dtype)


def token_maps(q: Tensor, k: Tensor, columns: Tensor, scale: float) -> Tensor:
    """The columns of the concepts' own tokens: ``[B, H, N, J]``.

    ``columns [J]`` indexes the flattened ``K * T`` tokens. Works through the positions in slices, so
    that many concepts at a high resolution do not need the whole of ``attention_maps`` at once.
    """
    batch, heads, positions, _ = q.shape
    concepts, _, tokens, _ = k.shape
    elements = _SLICE_ELEMENTS_CPU if q.device.type == "cpu" else _SLICE_ELEMENTS
    step = max(1, elements // max(1, batch * heads * concepts * tokens))
    parts = [
        attention_maps(q[:, :, start : start + step], k, scale).flatten(-2).index_select(-1, columns)
        for start in range(0, positions, step)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def correction(maps: Tensor, values: Tensor, coefficients: Tensor) -> Tensor:
    """``sum over k of c_k F_k``, per head: ``[B, H, N, d]``.

    ``maps [B, H, N, J]``, ``values [H, J, d]``, ``coefficients [B, J]``: ``c_k`` of each row, repeated
    for each token of concept ``k``.
    """
    return torch.matmul(maps * coefficients[:, None, None, :], values)


def feature_energy(maps: Tensor, values: Tensor, owner: Tensor, concepts: int) -> Tensor:
    """``||F_k||^2`` summed over heads and positions: ``[B, K]``, without forming any ``F_k``.

    ``owner [J]`` says which concept a column belongs to. With ``G = V V'`` the energy is the sum of
    ``M_k G M_k'`` over positions.
    """
    gram = _gram(values, owner)
    maps = maps.float()
    overlap = torch.matmul(maps.transpose(-1, -2), maps)
    per_column = (overlap * gram).sum(dim=(1, 3))
    return per_column.new_zeros(per_column.shape[0], concepts).index_add_(1, owner, per_column)


def feature_map(maps: Tensor, values: Tensor, owner: Tensor, concepts: int) -> Tensor:
    """``||F_k||`` at each position, over all heads: ``[B, N, K]``. Arguments as in :func:`feature_energy`."""
    maps = maps.float()
    per_column = (torch.matmul(maps, _gram(values, owner)) * maps).sum(dim=1)
    squared = per_column.new_zeros(*per_column.shape[:2], concepts).index_add_(2, owner, per_column)
    return squared.clamp_min(0).sqrt()


def _gram(values: Tensor, owner: Tensor) -> Tensor:
    """``G = V V'`` of each concept's own tokens, ``[H, J, J]``."""
    same = owner[:, None] == owner[None, :]
    return torch.matmul(values.float(), values.float().transpose(-1, -2)) * same


def presence(prompt: Tensor, concept: Tensor, empty: Tensor) -> Tensor:
    """How much of a concept the prompt is about to bring in: ``a_k`` of each row, ``[B]``.

    ``a = <O_p - O_0, O_k - O_0> / ||O_k - O_0||^2`` over heads and positions, where ``O_p``, ``O_k`` and
    ``O_0`` (each ``[B, N, H*d]``) are the attention outputs for the prompt, the concept and the empty
    prompt under the same queries. About 0 where the prompt has nothing of the concept, 1 where it is
    the concept.
    """
    direction = (concept - empty).float()
    along = ((prompt - empty).float() * direction).sum(dim=(1, 2))
    return along / direction.square().sum(dim=(1, 2)).clamp_min(1e-12)


def projection(prompt: Tensor, concept: Tensor, empty: Tensor, weight: float, maximum: float = 3.0) -> Tensor:
    """What takes the concept's direction out of ``prompt``: ``w clamp(a, 0, 3) (O_k - O_0)``.

    Arguments as in :func:`presence`. With ``w = 1`` and ``a`` in the bounds nothing of the direction is left;
    ``w = 2`` mirrors it.
    """
    amount = weight * presence(prompt, concept, empty).clamp(0, maximum)
    return amount[:, None, None] * (concept - empty).float()
