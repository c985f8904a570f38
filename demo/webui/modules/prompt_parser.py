"""The prompt language: emphasis, ``[from:to:when]``, ``[a|b]``, ``BREAK``, ``AND``; and encoded prompts.

Schedules are parsed in ``prompt_schedule``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .prompt_schedule import get_learned_conditioning_prompt_schedules

__all__ = [
    "ComposableScheduledPromptConditioning", "DictWithShape", "MulticondLearnedConditioning",
    "ScheduledPromptConditioning", "SdConditioning", "get_learned_conditioning",
    "get_learned_conditioning_prompt_schedules", "get_multicond_learned_conditioning",
    "get_multicond_prompt_list", "parse_prompt_attention", "reconstruct_cond_batch",
    "reconstruct_multicond_batch", "stack_conds",
]  # fmt: skip

ROUND = 1.1
"""What one pair of round brackets multiplies by; square brackets divide."""

_EMPHASIS = re.compile(
    r"\\(?P<escaped>[()\[\]\\])"
    r"|(?P<open>[(\[])"
    r"|:\s*(?P<weight>[+-]?[.\d]+)\s*\)"
    r"|(?P<close>[)\]])"
    r"|(?P<text>[^\\()\[\]:]+|[\\:])"
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


def parse_prompt_attention(text: str) -> list[list]:
    """Split a prompt into ``[text, weight]`` pieces; ``["BREAK", -1]`` marks a BREAK.

    ``(a)`` multiplies by 1.1, ``(a:1.3)`` by 1.3, ``[a]`` divides by 1.1; after a backslash a
    bracket is literal. A bracket that is never closed reaches to the end.
    """
    pieces: list[list] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def scale(start: int, factor: float) -> None:
        for piece in pieces[start:]:
            piece[1] *= factor

    def add_text(found: str) -> None:
        for index, part in enumerate(_BREAK.split(found)):
            if index:
                pieces.append(["BREAK", -1])
            pieces.append([part, 1.0])

    for match in _EMPHASIS.finditer(text):
        kind, found = match.lastgroup, match.group()
        if kind == "escaped":
            pieces.append([match["escaped"], 1.0])
        elif kind == "open":
            opened[found].append(len(pieces))
        elif kind == "weight" and opened["("]:
            scale(opened["("].pop(), float(match["weight"]))
        elif found == ")" and opened["("]:
            scale(opened["("].pop(), ROUND)
        elif found == "]" and opened["["]:
            scale(opened["["].pop(), 1 / ROUND)
        elif found == "\\":
            pieces.append(["", 1.0])
        else:
            add_text(found)
    for start in opened["("]:
        scale(start, ROUND)
    for start in opened["["]:
        scale(start, 1 / ROUND)

    merged: list[list] = []
    for piece in pieces or [["", 1.0]]:
        if merged and merged[-1][1] == piece[1]:
            merged[-1][0] += piece[0]
        else:
            merged.append(piece)
    return merged


class ScheduledPromptConditioning(NamedTuple):
    """An encoded prompt ``cond [T, C]`` and the last step that it is used in."""

    end_at_step: int
    cond: Tensor | dict[str, Tensor]


class SdConditioning(list):
    """A list of prompts that also knows the image's size and whether the prompts are negative ones."""

    def __init__(self, prompts, is_negative_prompt=False, width=None, height=None, copy_from=None):
        super().__init__(prompts)
        source = prompts if copy_from is None else copy_from
        self.is_negative_prompt = is_negative_prompt or getattr(source, "is_negative_prompt", False)
        self.width = width or getattr(source, "width", None)
        self.height = height or getattr(source, "height", None)


@dataclass
class ComposableScheduledPromptConditioning:
    """One sub-prompt of an ``AND``, with its weight."""

    schedules: list[ScheduledPromptConditioning]
    weight: float = 1.0


@dataclass
class MulticondLearnedConditioning:
    """The prompts of a batch: for each image its sub-prompts."""

    shape: tuple
    batch: list[list[ComposableScheduledPromptConditioning]]


class DictWithShape(dict):
    """A cond of several tensors; its shape is that of ``crossattn``."""

    def __init__(self, x, shape=None):
        super().__init__(x)

    @property
    def shape(self):
        return self["crossattn"].shape


def get_learned_conditioning(
    model, prompts: SdConditioning | list[str], steps: int, hires_steps: int | None = None,
    use_old_scheduling: bool = False,
) -> list[list[ScheduledPromptConditioning]]:  # fmt: skip
    """For each prompt its schedule, encoded by the model; equal prompts are encoded once."""
    schedules = get_learned_conditioning_prompt_schedules(prompts, steps, hires_steps, use_old_scheduling)
    encoded: dict[str, list[ScheduledPromptConditioning]] = {}
    for prompt, schedule in zip(prompts, schedules, strict=True):
        if prompt in encoded:
            continue
        conds = model.get_learned_conditioning(
            SdConditioning([text for _, text in schedule], copy_from=prompts)
        )
        encoded[prompt] = [
            ScheduledPromptConditioning(
                end, {key: value[i] for key, value in conds.items()} if isinstance(conds, dict) else conds[i]
            )
            for i, (end, _) in enumerate(schedule)
        ]
    return [encoded[prompt] for prompt in prompts]


_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+))\s*$")


def get_multicond_prompt_list(prompts: SdConditioning | list[str]):
    """Split prompts at ``AND``.

    Returns, for each prompt, pairs (index into the flat list, weight); the flat list of different
    sub-prompts; and their indices by text.
    """
    flat = SdConditioning([], copy_from=prompts)
    index_of: dict[str, int] = {}
    pairs = []
    for prompt in prompts:
        own = []
        for part in _AND.split(prompt):
            weight = _WEIGHT.search(part)
            # Without a weight only the whitespace behind the text goes.
            text = part[: weight.start()] if weight else part.rstrip()
            if text not in index_of:
                index_of[text] = len(flat)
                flat.append(text)
            own.append((index_of[text], float(weight[1]) if weight else 1.0))
        pairs.append(own)
    return pairs, flat, index_of


def get_multicond_learned_conditioning(
    model, prompts: SdConditioning | list[str], steps: int, hires_steps: int | None = None,
    use_old_scheduling: bool = False,
) -> MulticondLearnedConditioning:  # fmt: skip
    """As ``get_learned_conditioning``, with ``AND``."""
    pairs, flat, _ = get_multicond_prompt_list(prompts)
    conds = get_learned_conditioning(model, flat, steps, hires_steps, use_old_scheduling)
    batch = [[ComposableScheduledPromptConditioning(conds[i], weight) for i, weight in own] for own in pairs]
    return MulticondLearnedConditioning(shape=(len(prompts),), batch=batch)


def _at_step(schedule: list[ScheduledPromptConditioning], step: int):
    return next((entry.cond for entry in schedule if step <= entry.end_at_step), schedule[0].cond)


def reconstruct_cond_batch(c: list[list[ScheduledPromptConditioning]], current_step: int):
    """The unconds of a step, ``[B, T, C]`` (or a dict of such)."""
    conds = [_at_step(schedule, current_step) for schedule in c]
    if isinstance(conds[0], dict):
        return DictWithShape({key: torch.stack([cond[key] for cond in conds]) for key in conds[0]})
    return torch.stack(conds)


def stack_conds(tensors: list[Tensor]) -> Tensor:
    """Stack ``[T, C]`` tensors, repeating the last vector of shorter ones."""
    longest = max(tensor.shape[0] for tensor in tensors)
    return torch.stack(
        [torch.cat([tensor, tensor[-1:].expand(longest - tensor.shape[0], -1)]) for tensor in tensors]
    )


def reconstruct_multicond_batch(c: MulticondLearnedConditioning, current_step: int):
    """The conds of a step: for each image pairs (row, weight), and the rows ``[sub-prompts, T, C]``."""
    rows, pairs = [], []
    for subprompts in c.batch:
        own = []
        for subprompt in subprompts:
            own.append((len(rows), subprompt.weight))
            rows.append(_at_step(subprompt.schedules, current_step))
        pairs.append(own)
    if isinstance(rows[0], dict):
        return pairs, DictWithShape({key: stack_conds([row[key] for row in rows]) for key in rows[0]})
    return pairs, stack_conds(rows)
