"""The equations of EIUP on tensors (arXiv 2408.01014, Algorithm 1).

Shapes: ``R`` rows of a U-Net batch, ``N`` image positions, ``C = H*d`` channels in ``H`` heads of width
``d``, ``K`` concepts with contexts of ``T`` tokens, of which the columns ``J_k`` are concept ``k``'s own (no
BOS, EOS, padding).

Each concept has a softmax of its own, so that concepts do not influence one another::

    M_k = softmax(Q K_k' / sqrt d)          F_k = sum over j in J_k of M_k[:, j] V_k[j]
    O   = O_p - sum over k of c_k F_k       c_k = s(t) w_k g_k f_k

``F_k`` is one attention of its own over values that are zero but for the columns ``J_k``, so that all of them
are one call of a fused attention, in whatever precision the queries have.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import full_precision

# Elements of the features that are held at once: bounds the memory of many concepts. On a CPU, what stays in
# the cache costs less.
_ELEMENTS = 2**25
_ELEMENTS_CPU = 2**21


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``[..., N, H*d]`` -> ``[..., H, N, d]``."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """``[..., H, N, d]`` -> ``[..., N, H*d]``."""
    return x.transpose(-3, -2).flatten(-2)


def outputs(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """``softmax(Q K' / sqrt d) V`` for each of ``K`` contexts: ``[K, R, N, C]``.

    ``queries [R, N, C]``; ``keys, values [K, H, T, d]``. With values that are zero but for a concept's own
    tokens, these are the features ``F_k``.
    """
    rows, positions, channels = queries.shape
    concepts, heads = keys.shape[:2]
    # All rows share the contexts, so that they are one long row of positions. They are copied for each
    # context, since not every fused attention takes queries that are the same memory.
    q = queries.reshape(1, rows * positions, heads, channels // heads).expand(concepts, -1, -1, -1)
    attended = F.scaled_dot_product_attention(q.contiguous().transpose(1, 2), keys, values)
    return attended.transpose(1, 2).reshape(concepts, rows, positions, channels)


def suppression(
    queries: Tensor, keys: Tensor, values: Tensor, weights: Tensor | None, norms: Tensor
) -> Tensor:
    """``sum over k of c_k F_k``: ``[R, N, C]``. Arguments as in :func:`outputs`.

    ``weights`` broadcasts to ``[K, R, N, 1]``; None where the values are multiplied by ``c_k`` already. Puts
    ``||c_k F_k||`` over heads and positions into ``norms [K, R]``.
    """
    total: Tensor | None = None
    for part in _slices(len(keys), queries):
        features = outputs(queries, keys[part], values[part])
        if weights is not None:
            features = features * weights[part]
        torch.linalg.vector_norm(features.detach(), dim=(2, 3), dtype=torch.float32, out=norms[part])
        change = features[0] if len(features) == 1 else features.sum(0)
        total = change if total is None else total + change
    return total


def feature_map(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """``||F_k||`` at each position, over all heads: ``[K, R, N]``. Arguments as in :func:`outputs`."""
    return torch.cat(
        [
            torch.linalg.vector_norm(outputs(queries, keys[part], values[part]), dim=-1, dtype=torch.float32)
            for part in _slices(len(keys), queries)
        ]
    )


def presence(prompt: Tensor, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """How much of each concept the prompt is about to bring in: ``a_k``, ``[R, K]``.

    ``a = <O_p - O_0, O_k - O_0> / ||O_k - O_0||^2`` over heads and positions, where ``O_p`` (``prompt [R, N,
    C]``), ``O_k`` and ``O_0`` are the attention outputs for the prompt, the concepts and the empty prompt
    under the same ``queries [R, N, C]``. ``keys, values [K + 1, H, T, d]`` are those of the concepts and,
    last, of the empty prompt. About 0 where the prompt has nothing of the concept, 1 where it is the concept.
    """
    return torch.cat([a for _, _, _, a in _alignments(prompt, queries, keys, values)], dim=1)


def projection(
    prompt: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    weights: Tensor,
    norms: Tensor,
    maximum: float = 3.0,
) -> Tensor:
    """What takes the concepts' directions out of ``prompt``, ``[R, N, C]`` in float32::

        sum over k of w_k clamp(a_k, 0, 3) (O_k - O_0)

    ``weights [R, K]``; other arguments as in :func:`presence`. With ``w = 1`` and ``a`` in the bounds nothing
    of the direction is left; ``w = 2`` mirrors it. Puts each concept's part's norm into ``norms [K, R]``.
    """
    total: Tensor | None = None
    for part, directions, lengths, a in _alignments(prompt, queries, keys, values):
        with full_precision(prompt.device):
            amount = weights[:, part] * a.clamp(0, maximum)
            torch.mul(amount.detach().T, lengths.detach().T, out=norms[part])
            change = torch.bmm(amount[:, None], directions).view_as(prompt)
        total = change if total is None else total + change
    return total


def _alignments(
    prompt: Tensor, queries: Tensor, keys: Tensor, values: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Parts of the concepts, with ``O_k - O_0`` ``[R, k, N*C]``, its length and ``a_k``, ``[R, k]`` each, in
    float32. Arguments as in :func:`presence`."""
    empty = outputs(queries, keys[-1:], values[-1:])[0]
    for part in _slices(len(keys) - 1, queries):
        of_concepts = outputs(queries, keys[:-1][part], values[:-1][part])
        with full_precision(prompt.device):
            directions = (of_concepts.float() - empty).flatten(2).transpose(0, 1)
            moved = (prompt.float() - empty).flatten(1)[:, :, None]
            lengths = torch.linalg.vector_norm(directions, dim=-1)
            a = torch.bmm(directions, moved)[..., 0] / lengths.square().clamp_min(1e-12)
        yield part, directions, lengths, a


def _slices(concepts: int, queries: Tensor) -> Iterator[slice]:
    """Parts of the concepts whose features are held at once."""
    most = _ELEMENTS_CPU if queries.device.type == "cpu" else _ELEMENTS
    step = max(1, most // queries.numel())
    for start in range(0, concepts, step):
        yield slice(start, start + step)
