"""What a user asks for: one table of fields for UI, API and infotext."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .concepts import (
    MAX_CONCEPTS,
    MAX_ENTRIES,
    Concept,
    Entry,
    Resolver,
    expand,
    format_concepts,
    is_number_within,
    make_concept,
    make_entry,
    no_presets,
    parse_entries,
)
from .errors import RequestError
from .schedule import Window

INFOTEXT_KEY = "EIUP"
INFOTEXT_VERSION = 4
# Version 1 knew one mode; it and version 2 left out what was their default.
_EARLIER_DEFAULTS = {
    1: {"strength": 3.0, "mode": "constant", "feedback": False},
    2: {"strength": 3.0, "mode": "constant"},
    3: {},
}
# Written even where it is the default, since a default may change.
_ALWAYS_IN_INFOTEXT = ("strength", "mode")
# What an image does not depend on is not written into it.
_NEVER_IN_INFOTEXT = ("enabled", "maps", "compare")

# How the weight of a correction is found, each in a sentence.
MODES = {
    "constant": "Suppresses with one weight in every image, also where the concept is not (the paper).",
    "adaptive": "Erases only in images in which the concept is forming, mostly at the place where it is.",
    "strict": "Suppresses in every image, and more where the prompt emphasises the concept.",
    "projection": "Takes the concept's direction out of the attention.",
}


@dataclass(frozen=True)
class Field:
    """One field: ``minimum`` and ``maximum`` bound numbers, ``choices`` are the texts allowed."""

    name: str
    kind: type
    default: Any
    label: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        if self.kind is bool:
            return "true or false"
        if self.choices:
            return "one of " + ", ".join(self.choices)
        return f"a number from {self.minimum:g} to {self.maximum:g}"

    def check(self, value: Any) -> Any:
        """``value`` in the field's type. Raises :class:`RequestError`."""
        if self.kind is bool:
            if not isinstance(value, bool):
                raise RequestError(self.name, value, self.allowed)
            return value
        if self.choices:
            if not isinstance(value, str) or value not in self.choices:
                raise RequestError(self.name, value, self.allowed)
            return value
        if self.kind is list:
            return tuple(expand(concept_entries(value, self.name), self.name))
        if not is_number_within(value, self.minimum, self.maximum):
            raise RequestError(self.name, value, self.allowed)
        return float(value)


# The order is the order of the UI's components and of the flat list of API arguments; new fields go
# at the end.
FIELDS = (
    Field("enabled", bool, False, "EIUP", "Erase concepts while images are generated."),
    Field(
        "concepts", list, (), "Concepts to erase",
        "One per line or comma, each with an optional weight: watermark:1.5. @name stands for a preset.",
    ),
    Field(
        "strength", float, 2.0, "Strength", "How strongly concepts are suppressed; 0 changes nothing.", 0, 10
    ),
    Field("start", float, 0.0, "Start", "Sampling progress from which concepts are suppressed.", 0, 1),
    Field("end", float, 1.0, "End", "Sampling progress up to which concepts are suppressed.", 0, 1),
    Field(
        "mode", str, "adaptive", "Mode", " ".join(f"{name}: {text}" for name, text in MODES.items()),
        choices=tuple(MODES),
    ),
    Field(
        "preserve", bool, False, "Preserve",
        "Keep everything outside of the erased concept as it would have been. Images in which something is "
        "erased take two to three times as long.",
    ),
    Field(
        "feedback", bool, True, "Use feedback",
        "Weight concepts as what was said of earlier images made with this checkpoint suggests.",
    ),
    Field(
        "maps", bool, False, "Heat maps",
        "Record where in each image the concepts were forming. Other modes than adaptive take a third "
        "more time.",
    ),
    Field(
        "compare", bool, False, "Compare",
        "Make each image once more without erasure, to compare the two. Takes twice the time.",
    ),
)  # fmt: skip
FIELD = {field.name: field for field in FIELDS}


def concept_entries(value: Any, name: str = "concepts") -> list[Entry]:
    """Concepts and presets as the API takes them: text, or a list. Raises :class:`RequestError`."""
    if isinstance(value, str):
        return parse_entries(value, name)
    if not isinstance(value, Sequence):
        raise RequestError(name, value, "a list of concepts, or text with one concept per line or comma")
    if len(value) > MAX_ENTRIES:
        raise RequestError(name, f"{len(value)} concepts", f"at most {MAX_CONCEPTS} concepts")
    entries: list[Entry] = []
    for index, entry in enumerate(value):
        where = f"{name}[{index}]"
        if isinstance(entry, Concept):
            entries.append(make_concept(entry.text, entry.weight, where))
        elif isinstance(entry, str):
            if not entry.strip():
                raise RequestError(
                    where, entry, "text that is not empty", "Remove the entry or name a concept."
                )
            entries += parse_entries(entry, where)
        elif isinstance(entry, Mapping):
            unknown = sorted(set(entry) - {"concept", "weight"}, key=str)
            if unknown:
                raise RequestError(
                    f"{where}.{unknown[0]}", entry[unknown[0]], "the fields concept and weight"
                )
            if "concept" not in entry:
                raise RequestError(where, dict(entry), 'an object with "concept" and, if wanted, "weight"')
            entries.append(make_entry(entry["concept"], entry.get("weight", 1.0), where))
        else:
            raise RequestError(where, entry, 'a text or {"concept": text, "weight": number}')
    return entries


def _literal(entry: Any) -> Any:
    """An entry of infotext, whose texts are concepts whatever characters they hold, and never presets."""
    if isinstance(entry, str):
        return Concept(entry)
    if isinstance(entry, Mapping) and {"concept"} <= set(entry) <= {"concept", "weight"}:
        return Concept(entry["concept"], entry.get("weight", 1.0))
    return entry


@dataclass(frozen=True)
class ErasureRequest:
    """One generation's settings, checked. See :data:`FIELDS`."""

    enabled: bool = FIELD["enabled"].default
    concepts: tuple[Concept, ...] = FIELD["concepts"].default
    strength: float = FIELD["strength"].default
    start: float = FIELD["start"].default
    end: float = FIELD["end"].default
    mode: str = FIELD["mode"].default
    preserve: bool = FIELD["preserve"].default
    feedback: bool = FIELD["feedback"].default
    maps: bool = FIELD["maps"].default
    compare: bool = FIELD["compare"].default

    def __post_init__(self) -> None:
        for field in FIELDS:
            object.__setattr__(self, field.name, field.check(getattr(self, field.name)))
        if self.start > self.end:
            raise RequestError("start", self.start, f"at most end, which is {self.end:g}")

    @property
    def active(self) -> bool:
        """Whether there is anything to do; where not, nothing is hooked at all."""
        return self.enabled and bool(self.concepts)

    @property
    def window(self) -> Window:
        return Window(self.start, self.end)

    @classmethod
    def from_fields(cls, values: Mapping[str, Any], resolve: Resolver = no_presets) -> ErasureRequest:
        """From named fields, as in the API; ``resolve`` knows presets' concepts. Raises
        :class:`RequestError` for unknown or wrong ones."""
        for name in values:
            if name not in FIELD:
                raise RequestError(str(name), values[name], "the fields " + ", ".join(FIELD))
        if "concepts" in values:
            entries = concept_entries(values["concepts"])
            values = {**values, "concepts": expand(entries, resolve=resolve)}
        return cls(**values)

    @classmethod
    def from_args(cls, args: Sequence[Any], resolve: Resolver = no_presets) -> ErasureRequest:
        """From script arguments: one dict of named fields, or values in the order of :data:`FIELDS`.

        The webui fills missing arguments with its components' defaults, so a dict may be followed by
        values, which do not count.
        """
        if args and isinstance(args[0], Mapping):
            return cls.from_fields({"enabled": True, **args[0]}, resolve)
        if len(args) > len(FIELDS):
            raise RequestError("args", list(args), f"one object, or at most {len(FIELDS)} values")
        return cls.from_fields(dict(zip(FIELD, args)), resolve)

    def to_infotext(
        self, result: Mapping[str, Any] | None = None, policy: Mapping[str, Any] | None = None
    ) -> str:
        """One JSON value; most defaults are left out. ``v`` is the format's version, ``result`` what
        :func:`eiup.journal.result_of` says of the image, ``policy`` what a policy did for it."""
        value: dict[str, Any] = {"v": INFOTEXT_VERSION}
        value["concepts"] = [
            c.text if c.weight == 1.0 else {"concept": c.text, "weight": c.weight} for c in self.concepts
        ]
        for field in FIELDS:
            if field.name == "concepts" or field.name in _NEVER_IN_INFOTEXT:
                continue
            own = getattr(self, field.name)
            if own != field.default or field.name in _ALWAYS_IN_INFOTEXT:
                value[field.name] = own
        if result is not None:
            value["result"] = result
        if policy is not None:
            value["policy"] = policy
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_infotext(cls, text: str) -> ErasureRequest:
        """Read :meth:`to_infotext` back. Raises :class:`RequestError`."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise RequestError(INFOTEXT_KEY, text, "the JSON object that EIUP writes into infotext")
        version = value.pop("v", None)
        if version not in (*_EARLIER_DEFAULTS, INFOTEXT_VERSION):
            raise RequestError(
                f"{INFOTEXT_KEY} v", version, f"versions up to {INFOTEXT_VERSION}", "Update the extension."
            )
        for told in ("result", "policy"):
            value.pop(told, None)
        value = {**_EARLIER_DEFAULTS.get(version, {}), **value}
        if isinstance(value.get("concepts"), list):
            value["concepts"] = [_literal(entry) for entry in value["concepts"]]
        return cls.from_fields({"enabled": True, **value})

    def to_fields(self) -> dict[str, Any]:
        """Values for the UI's components, by field name, but for those that infotext does not hold."""
        names = [field.name for field in FIELDS if field.name not in _NEVER_IN_INFOTEXT]
        values = {name: getattr(self, name) for name in ("enabled", *names)}
        values["concepts"] = format_concepts(self.concepts)
        return values
