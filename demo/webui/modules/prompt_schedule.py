"""Prompt editing: ``[from:to:when]``, ``[to:when]``, ``[from::when]`` and ``[a|b|c]``.

A prompt becomes a list of ``[last step, text]``. Emphasis stays in the text. Where a prompt has stray
brackets beside edits, the real host may take all of it literally; it is ambiguous there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")


class _UnparsableError(ValueError):
    """The prompt is taken literally as a whole."""


@dataclass
class _Sequence:
    """Literal text and edits, in order."""

    parts: list = field(default_factory=list)

    def text(self, step: int) -> str:
        return "".join(part if isinstance(part, str) else part.text(step) for part in self.parts)

    def edits(self):
        for part in self.parts:
            if not isinstance(part, str):
                yield from part.edits()


@dataclass
class _Scheduled:
    before: _Sequence
    after: _Sequence
    when: str
    last_step: int = 0

    def text(self, step: int) -> str:
        return (self.before if step <= self.last_step else self.after).text(step)

    def edits(self):
        yield self
        yield from self.before.edits()
        yield from self.after.edits()


@dataclass
class _Alternate:
    options: list[_Sequence]

    def text(self, step: int) -> str:
        return self.options[(step - 1) % len(self.options)].text(step)

    def edits(self):
        yield self
        for option in self.options:
            yield from option.edits()


class _Parser:
    def __init__(self, prompt: str):
        self.prompt = prompt
        # A bracket means the same wherever it is reached from; without the cache, many unclosed
        # brackets would take exponential time.
        self.group = lru_cache(maxsize=None)(self._group)

    def parse(self) -> _Sequence:
        sequence, _ = self._sequence(0, "")
        return sequence

    def _sequence(self, position: int, stops: str) -> tuple[_Sequence, int]:
        """Parse up to one of ``stops``, or to the end when there are none; ``IndexError`` if none comes."""
        parts: list = []
        while True:
            if position == len(self.prompt):
                if stops:
                    raise IndexError
                return _Sequence(parts), position
            character = self.prompt[position]
            if character in stops:
                return _Sequence(parts), position
            if character == "|" or (character == "\\" and position + 1 == len(self.prompt)):
                raise _UnparsableError
            if character == "\\":
                parts.append(self.prompt[position : position + 2])
                position += 2
            elif character in "([" and (group := self.group(position)) is not None:
                found, position = group
                parts += found
            elif character in "()[]" and stops:
                raise IndexError  # a stray bracket: the group being parsed is not one
            else:
                parts.append(character)
                position += 1

    def _group(self, start: int) -> tuple[list, int] | None:
        """The bracket at ``start`` as (parts, position behind it); None when it is just a character."""
        closing, separators = (")", ":") if self.prompt[start] == "(" else ("]", ":|")
        position, members, used = start + 1, [], []
        try:
            while True:
                member, position = self._sequence(position, closing + separators)
                members.append(member)
                if self.prompt[position] == closing:
                    break
                used.append(self.prompt[position])
                position += 1
        except IndexError:
            return None
        inner = self._meaning(start, members, used)
        return None if inner is None else (inner, position + 1)

    def _meaning(self, start: int, members: list[_Sequence], used: list[str]) -> list | None:
        """The parts of a closed bracket; None when it is neither an edit nor emphasis."""
        if self.prompt[start] == "(":
            return ["(", members[0], *used, *members[1:], ")"] if len(members) <= 2 else None
        if not used:
            return ["[", members[0], "]"]
        if set(used) == {"|"}:
            return [_Alternate(members)]
        last = members[-1].parts
        when = _NUMBER.fullmatch("".join(last)) if all(isinstance(part, str) for part in last) else None
        if "|" in used or not when or len(members) > 3:
            return None
        return [_Scheduled(members[0] if len(members) == 3 else _Sequence(), members[-2], when[1])]


def _last_step(when: str, steps: int, integer_offset: int, fraction_offset: float, old: bool) -> int:
    value = float(when)
    if old:
        value = value * steps if value < 1 else value
    elif "." in when:
        value = (value - fraction_offset) * steps
    else:
        value -= integer_offset
    return min(steps, int(value))


def get_learned_conditioning_prompt_schedules(
    prompts: list[str], base_steps: int, hires_steps: int | None = None, use_old_scheduling: bool = False
) -> list[list[list]]:
    """For each prompt a list of ``[last step, text]``.

    ``when`` is a step, or with a decimal point a fraction of the steps; during hires fix's second pass
    steps count on from the first pass and fractions from 1.
    """
    second_pass = hires_steps is not None and not use_old_scheduling
    steps = hires_steps if second_pass else base_steps
    offsets = (base_steps, 1.0) if second_pass else (0, 0.0)

    def schedule(prompt: str) -> list[list]:
        try:
            tree = _Parser(prompt).parse()
        except _UnparsableError:
            return [[steps, prompt]]
        ends = {steps}
        for edit in tree.edits():
            if isinstance(edit, _Alternate):
                ends.update(range(1, steps + 1))
            else:
                edit.last_step = _last_step(edit.when, steps, *offsets, use_old_scheduling)
                if edit.last_step >= 1:
                    ends.add(edit.last_step)
        return [[end, tree.text(end)] for end in sorted(ends)]

    return [schedule(prompt) for prompt in prompts]
