"""The syntax of concepts: one a line or separated by commas, ``watermark:1.5``, ``# comments``.

``\\,``, ``\\:`` and ``\\#`` stand for the characters themselves. A colon inside brackets belongs to the
webui's own emphasis, ``(star:1.2)``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import RequestError

MAX_CONCEPTS = 64
MAX_LENGTH = 500
MAX_WEIGHT = 10.0
_WEIGHTED = re.compile(r"^(?P<text>.*)(?<!\\):(?P<weight>[^:()\[\]]*)$", re.DOTALL)
_COMMENT = re.compile(r"(?<!\\)#.*")
_SEPARATOR = re.compile(r"(?<!\\),")
_ESCAPED = re.compile(r"\\([,:#])")
_SYNTAX = "one concept per line or comma, each with an optional weight such as watermark:1.5"


@dataclass(frozen=True)
class Concept:
    """A concept to erase and its own weight (0 to 10; 1 is the strength as it is)."""

    text: str
    weight: float = 1.0

    def __str__(self) -> str:
        text = re.sub(r"([,:#])", r"\\\1", self.text)
        return text if self.weight == 1.0 else f"{text}:{self.weight!r}"


def is_number_within(value: object, minimum: float, maximum: float) -> bool:
    """Whether ``value`` is a number in the bounds; NaN is in none, and ``True`` is no number."""
    return not isinstance(value, bool) and isinstance(value, (int, float)) and minimum <= value <= maximum


def make_concept(text: object, weight: object = 1.0, field: str = "concepts") -> Concept:
    """A checked :class:`Concept`. Raises :class:`RequestError` naming ``field``."""
    if not isinstance(text, str):
        raise RequestError(field, text, "text")
    text = " ".join(text.split())
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise RequestError(field, text, "text without lone surrogates, which are no characters")
    if not text:
        raise RequestError(field, text, "text that is not empty", "Remove the entry or name a concept.")
    if len(text) > MAX_LENGTH:
        raise RequestError(field, text, f"at most {MAX_LENGTH} characters a concept")
    if not is_number_within(weight, 0.0, MAX_WEIGHT):
        raise RequestError(f"{field} weight of {text!r}", weight, f"a number from 0 to {MAX_WEIGHT:g}")
    return Concept(text, float(weight))


def parse_concepts(text: str, field: str = "concepts") -> list[Concept]:
    """Parse what a user typed. Raises :class:`RequestError` for whatever is not in the syntax."""
    concepts = []
    for line in text.splitlines():
        for entry in _SEPARATOR.split(_COMMENT.sub("", line)):
            entry = entry.strip()
            if entry:
                concepts.append(_parse_entry(entry, field))
    return check_concepts(concepts, field)


def _parse_entry(entry: str, field: str) -> Concept:
    entry = " ".join(entry.split())
    match = _WEIGHTED.match(entry)
    if not match:
        return make_concept(_ESCAPED.sub(r"\1", entry), field=field)
    try:
        weight = float(match["weight"].strip())
    except ValueError:
        raise RequestError(
            field, entry, _SYNTAX, f"{match['weight'].strip()!r} after the colon is not a number."
        ) from None
    return make_concept(_ESCAPED.sub(r"\1", match["text"]), weight, field)


def check_concepts(concepts: list[Concept], field: str = "concepts") -> list[Concept]:
    """The list without exact repetitions. Raises :class:`RequestError` for one concept with two
    weights, or for too many."""
    unique: dict[str, Concept] = {}
    for concept in concepts:
        known = unique.setdefault(concept.text, concept)
        if known != concept:
            raise RequestError(
                field, f"{known}, {concept}", "each concept once", f"Remove one of the two {concept.text!r}."
            )
    if len(unique) > MAX_CONCEPTS:
        raise RequestError(field, f"{len(unique)} concepts", f"at most {MAX_CONCEPTS} concepts")
    return list(unique.values())


def format_concepts(concepts: list[Concept] | tuple[Concept, ...]) -> str:
    """The text that :func:`parse_concepts` reads back, one concept a line."""
    return "\n".join(str(concept) for concept in concepts)
