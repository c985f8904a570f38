"""The syntax of concepts: one a line or separated by commas, ``watermark:1.5``, ``# comments``, and
``@name`` for all concepts of a preset.

``\\,``, ``\\:``, ``\\#`` and ``\\@`` stand for the characters themselves. A colon inside brackets belongs to
the webui's own emphasis, ``(star:1.2)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field

from .errors import RequestError

MAX_CONCEPTS = 64
# Of what is read at all.
MAX_ENTRIES = 10_000
MAX_TEXT = 256 * 1024
MAX_LENGTH = 500
MAX_WEIGHT = 10.0
_WEIGHTED = re.compile(r"^(?P<text>.*)(?<!\\):(?P<weight>[^:()\[\]]*)$", re.DOTALL)
_COMMENT = re.compile(r"(?<!\\)#.*")
_SEPARATOR = re.compile(r"(?<!\\),")
_ESCAPED = re.compile(r"\\([,:#@])")
_SYNTAX = "one concept per line or comma, each with an optional weight such as watermark:1.5"


@dataclass(frozen=True)
class Concept:
    """A concept to erase and its own weight (0 to 10; 1 is the strength as it is)."""

    text: str
    weight: float = 1.0

    def __str__(self) -> str:
        text = re.sub(r"([,:#@])", r"\\\1", self.text)
        if self.weight == 1.0:
            return text
        # A backslash right before the colon would make it a part of the text.
        space = " " if text.endswith("\\") else ""
        return f"{text}{space}:{self.weight!r}"


@dataclass(frozen=True)
class PresetReference:
    """``@name``: a preset's concepts, their weights multiplied by ``weight`` (0 to 10). ``field`` is where
    it was given."""

    name: str
    weight: float = 1.0
    field: str = dataclass_field(default="concepts", compare=False)

    def __str__(self) -> str:
        return f"@{self.name}" if self.weight == 1.0 else f"@{self.name}:{self.weight!r}"


Entry = Concept | PresetReference
# A preset's concepts by its name, for the field that names it. Raises RequestError for an unknown name.
Resolver = Callable[[str, str], Sequence[Concept]]


def no_presets(name: str, field: str) -> Sequence[Concept]:
    """The resolver where no presets are known."""
    raise RequestError(field, f"@{name}", "no presets here", f"\\@{name} is the text @{name} itself.")


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


def make_entry(text: object, weight: object = 1.0, field: str = "concepts") -> Entry:
    """What ``text`` names by itself: with ``@`` before it a preset, else a concept, whatever characters it
    holds; ``\\@`` begins a concept with ``@``. Raises :class:`RequestError` naming ``field``."""
    stripped = text.strip() if isinstance(text, str) else ""
    if stripped.startswith("@"):
        return _make_reference(stripped, weight, field)
    return make_concept(stripped[1:] if stripped.startswith("\\@") else text, weight, field)


def _make_reference(text: str, weight: object, field: str) -> PresetReference:
    if not is_number_within(weight, 0.0, MAX_WEIGHT):
        raise RequestError(f"{field} weight of {text!r}", weight, f"a number from 0 to {MAX_WEIGHT:g}")
    return PresetReference(text[1:].strip(), float(weight), field)


def parse_concepts(text: str, field: str = "concepts", resolve: Resolver = no_presets) -> list[Concept]:
    """Parse what a user typed. Raises :class:`RequestError` for whatever is not in the syntax, and for
    presets that ``resolve`` does not know."""
    return expand(parse_entries(text, field), field, resolve)


def parse_entries(text: str, field: str = "concepts") -> list[Entry]:
    """What a user typed, presets as they are named. Raises :class:`RequestError`."""
    if len(text) > MAX_TEXT:
        raise RequestError(field, text, f"at most {MAX_TEXT} characters in all")
    entries = []
    for line in text.splitlines():
        for entry in _SEPARATOR.split(_COMMENT.sub("", line)):
            entry = entry.strip()
            if entry:
                entries.append(_parse_entry(entry, field))
    return entries


def _parse_entry(entry: str, field: str) -> Entry:
    entry = " ".join(entry.split())
    text, weight = entry, 1.0
    if match := _WEIGHTED.match(entry):
        text = match["text"]
        try:
            weight = float(match["weight"].strip())
        except ValueError:
            raise RequestError(
                field, entry, _SYNTAX, f"{match['weight'].strip()!r} after the colon is not a number."
            ) from None
    if text.startswith("@"):
        return _make_reference(text, weight, field)
    return make_concept(_ESCAPED.sub(r"\1", text), weight, field)


def expand(
    entries: Iterable[Entry], field: str = "concepts", resolve: Resolver = no_presets
) -> list[Concept]:
    """The concepts, each once, presets replaced by theirs.

    Of a concept that a preset names as well, the largest weight counts. Raises :class:`RequestError` for
    one concept with two weights outside of presets, for a weight beyond 10, and for too many concepts.
    """
    unique: dict[str, Concept] = {}
    typed: dict[str, Concept] = {}
    for entry in entries:
        if isinstance(entry, Concept):
            if (known := typed.setdefault(entry.text, entry)) != entry:
                raise RequestError(
                    field, f"{known}, {entry}", "each concept once", f"Remove one of the two {entry.text!r}."
                )
            named: Iterable[Concept] = (entry,)
        else:
            named = _scaled(resolve(entry.name, entry.field), entry)
        for concept in named:
            if unique.setdefault(concept.text, concept).weight < concept.weight:
                unique[concept.text] = concept
    if len(unique) > MAX_CONCEPTS:
        raise RequestError(field, f"{len(unique)} concepts", f"at most {MAX_CONCEPTS} concepts")
    return list(unique.values())


def _scaled(concepts: Sequence[Concept], reference: PresetReference) -> Sequence[Concept]:
    if reference.weight == 1.0:
        return concepts
    # Twelve digits, so that 1.1 times 1.5 is 1.65.
    return [
        make_concept(c.text, float(f"{c.weight * reference.weight:.12g}"), f"{reference.field} {reference}")
        for c in concepts
    ]


def format_concepts(concepts: list[Concept] | tuple[Concept, ...]) -> str:
    """The text that :func:`parse_concepts` reads back, one concept a line."""
    return "\n".join(str(concept) for concept in concepts)
