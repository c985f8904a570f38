"""Prompts in the webui's syntax, for Toyland without a host: emphasis, ``BREAK``, ``AND``, prompt editing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from demo.webui.modules.prompt_parser import (
    get_learned_conditioning_prompt_schedules,
    get_multicond_prompt_list,
    parse_prompt_attention,
)

from .model import LatentDiffusion

# The word that a textual-inversion embedding stands for.
EMBEDDING_WORD = "*"

# Token ids and what emphasis multiplies them by.
Chunk = list[tuple[int, float]]


@contextlib.contextmanager
def textual_inversion(model: LatentDiffusion, vector: Tensor) -> Iterator[None]:
    """While entered, ``EMBEDDING_WORD`` is encoded from ``vector [C]`` in place of its own embedding."""
    encoder = model.cond_stage_model
    (word,) = encoder.tokenizer(EMBEDDING_WORD, add_special_tokens=False).input_ids
    embedding = encoder.transformer.text_model.embeddings.token_embedding

    def replace(module: torch.nn.Module, args: tuple, output: Tensor) -> Tensor:
        return torch.where((args[0] == word).unsqueeze(-1), vector, output)

    handle = embedding.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def chunks_of(model: LatentDiffusion, text: str) -> list[Chunk]:
    """The tokens of ``text``, in chunks of at most 75; a chunk ends early at a ``BREAK``."""
    encoder = model.cond_stage_model
    room = encoder.max_length - 2
    chunks: list[Chunk] = [[]]
    for piece, weight in parse_prompt_attention(text):
        if (piece, weight) == ("BREAK", -1):
            chunks.append([])
            continue
        for token in encoder.tokenizer(piece, add_special_tokens=False, truncation=False).input_ids:
            if len(chunks[-1]) == room:
                chunks.append([])
            chunks[-1].append((token, weight))
    return chunks


def encode_chunks(model: LatentDiffusion, chunks: Sequence[Chunk]) -> Tensor:
    """The context ``[n*77, C]`` of ``n`` chunks; emphasis keeps the mean, as the webui's "Original" does."""
    encoder = model.cond_stage_model
    tokenizer = encoder.tokenizer
    contexts = []
    for chunk in chunks:
        padding = encoder.max_length - 1 - len(chunk)
        ids = [tokenizer.bos_token_id, *(token for token, _ in chunk), *[tokenizer.eos_token_id] * padding]
        context = encoder(torch.tensor([ids]))[0]
        multipliers = [1.0, *(weight for _, weight in chunk), *[1.0] * padding]
        if any(multiplier != 1 for multiplier in multipliers):
            emphasised = context * torch.tensor(multipliers).unsqueeze(-1)
            context = emphasised * (context.mean() / emphasised.mean())
        contexts.append(context)
    return torch.cat(contexts)


def stack_contexts(contexts: Sequence[Tensor], empty: Tensor) -> Tensor:
    """Contexts ``[n*T, C]`` as ``[R, n*T, C]``; shorter ones are followed by the empty prompt ``[T, C]``."""
    longest = max(len(context) for context in contexts)
    missing = ((longest - len(context)) // len(empty) for context in contexts)
    return torch.stack([torch.cat([c, *[empty] * count]) for c, count in zip(contexts, missing)])


class ScheduledPrompts:
    """The prompts of a batch, over the steps of a sampling pass. A *row* is one of an image's sub-prompts.

    ``images`` are the rows' images, ``weights`` each image's weights of its sub-prompts. Negative prompts
    are not ``composed``: there ``AND`` is a word.
    """

    def __init__(self, model: LatentDiffusion, prompts: Sequence[str], steps: int, composed: bool = True):
        self.model = model
        if composed:
            pairs, flat, _ = get_multicond_prompt_list(list(prompts))
        else:
            pairs, flat = [[(index, 1.0)] for index in range(len(prompts))], list(prompts)
        schedules = get_learned_conditioning_prompt_schedules(flat, steps)
        self._schedules = [schedules[index] for image in pairs for index, _ in image]
        self.weights = [[weight for _, weight in image] for image in pairs]
        self.images = [index for index, image in enumerate(pairs) for _ in image]
        self._encoded: dict[str, Tensor] = {}

    def texts(self, step: int) -> list[str]:
        """The rows' texts at a step, counted from 0 as the webui does."""
        return [
            next((text for end, text in schedule if step <= end), schedule[0][1])
            for schedule in self._schedules
        ]

    def contexts(self, step: int) -> list[Tensor]:
        """The rows' contexts ``[n*77, C]`` at a step."""
        texts = self.texts(step)
        for text in texts:
            if text not in self._encoded:
                self._encoded[text] = encode_chunks(self.model, chunks_of(self.model, text))
        return [self._encoded[text] for text in texts]

    def combine(self, rows: Tensor, unconditional: Tensor) -> Tensor:
        """``D_0 + sum over i of w_i (D_i - D_0)``, ``[B, ...]``, of predictions for rows ``[R, ...]``."""
        if all(weights == [1.0] for weights in self.weights):
            return rows
        combined = unconditional.clone()
        for row, image, weight in zip(rows, self.images, sum(self.weights, [])):
            combined[image] += weight * (row - unconditional[image])
        return combined
