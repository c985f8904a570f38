"""The operator's policy: what is erased from every image of a server, whatever its users ask for.

:func:`enforce` makes the request that is in force from a user's, and says what was lifted for it. Where a
policy comes from, :mod:`eiup.policy_file` knows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .concepts import MAX_CONCEPTS, Concept, Resolver, expand, is_number_within, no_presets
from .errors import RequestError
from .request import FIELD, ErasureRequest, concept_entries

VERSION = 1
HASH_DIGITS = 16
# Of days and megabytes.
MOST = 1e6
# Rounding, of what is compared.
_SLACK = 1 - 1e-9


@dataclass(frozen=True)
class JournalSettings:
    """How the journal is kept: at all, with prompts, for how many ``days``, and in files of how many
    ``megabytes``; 0 stands for no limit."""

    keep: bool = True
    prompts: bool = False
    days: float = 0.0
    megabytes: float = 100.0


@dataclass(frozen=True)
class Policy:
    """What every generation erases at least.

    A concept's least weight is ``strength`` times its own. ``modes`` are those that users may choose from,
    the first the one that counts where they choose another; suppression lasts at least from progress
    ``start`` to ``end``. Where ``users_may_add_concepts``, these come on top.
    """

    concepts: tuple[Concept, ...]
    strength: float = FIELD["strength"].default
    modes: tuple[str, ...] = (FIELD["mode"].default,)
    start: float = 0.0
    end: float = 1.0
    users_may_add_concepts: bool = False
    journal: JournalSettings = field(default_factory=JournalSettings)

    @property
    def hash(self) -> str:
        """Of what it says, presets expanded: two files that say the same have the same."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]

    @property
    def own_request(self) -> ErasureRequest:
        """The request in force where a user asks for nothing."""
        return ErasureRequest(
            True, self.concepts, self.strength, self.start, self.end, self.modes[0], feedback=False
        )


@dataclass(frozen=True)
class Lift:
    """One value of a user's that was weaker than the policy, and the one that counted instead."""

    field: str
    asked: Any
    in_force: Any


@dataclass(frozen=True)
class Enforced:
    """The request in force, and what was lifted for it."""

    request: ErasureRequest
    lifted: tuple[Lift, ...]


def with_first_mode(policy: Policy, args: Sequence[Any]) -> Sequence[Any]:
    """Script arguments with the policy's first mode, where named fields do not name one."""
    if not args or not isinstance(args[0], Mapping):
        return args
    return [{"mode": policy.modes[0], **args[0]}, *args[1:]]


def enforce(policy: Policy, request: ErasureRequest) -> Enforced:
    """What is to be erased where a user asks for ``request``: all of the policy's concepts with at least its
    weights, in one of its modes, in at least its window.

    What could bring a concept back is switched off: ``preserve``, which takes what is outside of a map from
    an un-erased image, and ``compare``, which makes one. A user's stronger values are kept, and so are the
    weights of concepts of his own. Where he names none, his other values are for those of the policy. Raises
    :class:`RequestError` for concepts that he may not add.
    """
    if not request.enabled:
        own_request = replace(policy.own_request, maps=request.maps)
        return Enforced(own_request, (Lift("enabled", False, True),))
    lifted = _switched_off(request)
    if not request.concepts:
        lifted.append(Lift("concepts", [], _texts(policy.concepts)))
        request = replace(request, concepts=policy.concepts)
    _check_own_concepts(policy, request)
    strength = max(request.strength, policy.strength)
    mode = request.mode if request.mode in policy.modes else policy.modes[0]
    start, end = min(request.start, policy.start), max(request.end, policy.end)
    asked = {concept.text: concept.weight for concept in request.concepts}
    concepts = tuple(
        Concept(c.text, _relative(c.weight, policy.strength, asked.get(c.text, 0.0), request.strength))
        for c in policy.concepts
    )
    known = set(_texts(concepts))
    own = tuple(
        Concept(c.text, _relative(0.0, policy.strength, c.weight, request.strength))
        for c in request.concepts
        if c.text not in known
    )
    if len(concepts) + len(own) > MAX_CONCEPTS:
        shown = f"{len(own)} concepts"
        raise RequestError(
            "concepts", shown, f"at most {MAX_CONCEPTS - len(concepts)} besides those of the server's policy"
        )
    missing = [text for text in _texts(concepts) if text not in asked]
    if missing:
        lifted.append(Lift("concepts", [], missing))
    for least, concept in zip(policy.concepts, concepts):
        if concept.text in asked and asked[concept.text] * strength < least.weight * policy.strength * _SLACK:
            lifted.append(Lift(f"weight of {concept.text}", asked[concept.text], concept.weight))
    values = {"strength": strength, "mode": mode, "start": start, "end": end}
    lifted += [
        Lift(name, getattr(request, name), value)
        for name, value in values.items()
        if getattr(request, name) != value
    ]
    in_force = replace(request, **values, concepts=concepts + own, preserve=False, compare=False)
    return Enforced(in_force, tuple(lifted))


def _switched_off(request: ErasureRequest) -> list[Lift]:
    return [Lift(name, True, False) for name in ("preserve", "compare") if getattr(request, name)]


def _check_own_concepts(policy: Policy, request: ErasureRequest) -> None:
    added = sorted({c.text for c in request.concepts} - set(_texts(policy.concepts)))
    if added and not policy.users_may_add_concepts:
        raise RequestError(
            "concepts",
            ", ".join(added),
            "the concepts of this server's policy",
            "Remove the others: the policy does not let users add any.",
        )


def _relative(least: float, policy_strength: float, weight: float, strength: float) -> float:
    """The concept's own weight under the larger of both strengths, so that their product is at least each of
    ``least * policy_strength`` and ``weight * strength``."""
    common = max(policy_strength, strength)
    wanted = max(least * policy_strength, weight * strength) / common
    # Twelve digits, so that 1.1 times 1.5 is 1.65, but never less than what is wanted.
    short = float(f"{wanted:.12g}")
    return short if short >= wanted * _SLACK else wanted


def _texts(concepts: Sequence[Concept]) -> list[str]:
    return [concept.text for concept in concepts]


# ------------------------------------------------------------------------------------ from a file


def policy_of(values: Mapping[str, Any], resolve: Resolver = no_presets) -> Policy:
    """The policy of a file's values; ``resolve`` knows the presets that it may name.

    Raises :class:`RequestError` for unknown and wrong fields; its ``field`` says which, as in
    ``concepts[2]`` or ``journal.days``.
    """
    _check_names(values, _FIELDS)
    given = {name: check(values[name], name) for name, check in _FIELDS.items() if name in values}
    if given.pop("version", VERSION) != VERSION:
        raise RequestError("version", values["version"], str(VERSION), "Update the extension.")
    if "concepts" not in given:
        raise RequestError("concepts", None, "a list of concepts", "Say what is to be erased.")
    given.pop("when_impossible", None)
    given.pop("presets", None)
    given["concepts"] = tuple(expand(concept_entries(values["concepts"]), resolve=resolve))
    if not given["concepts"]:
        raise RequestError("concepts", values["concepts"], "at least one concept")
    for concept in given["concepts"]:
        if not concept.weight > 0:
            raise RequestError(f"concepts weight of {concept.text!r}", concept.weight, "a number above 0")
    policy = Policy(**given)
    if policy.start >= policy.end:
        raise RequestError("start", policy.start, f"less than end, which is {policy.end:g}")
    return policy


def _check_names(values: Mapping[str, Any], known: Mapping[str, Any], within: str = "") -> None:
    for name in values:
        if name not in known:
            raise RequestError(f"{within}{name}", values[name], "the fields " + ", ".join(known))


def _number(value: Any, name: str, most: float, above: bool = False) -> float:
    if not is_number_within(value, 0, most) or (above and value == 0):
        least = "above 0 and at most" if above else "from 0 to"
        raise RequestError(name, value, f"a number {least} {most:g}")
    return float(value)


def _switch(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise RequestError(name, value, "true or false")
    return value


def _modes(value: Any, name: str) -> tuple[str, ...]:
    modes = [value] if isinstance(value, str) else value
    choices = FIELD["mode"].choices
    if not isinstance(modes, list) or not modes:
        raise RequestError(name, value, "a list of modes: " + ", ".join(choices))
    for index, mode in enumerate(modes):
        if mode not in choices:
            raise RequestError(f"{name}[{index}]", mode, FIELD["mode"].allowed)
    return tuple(dict.fromkeys(modes))


def _journal(value: Any, name: str) -> JournalSettings:
    if not isinstance(value, Mapping):
        raise RequestError(name, value, "an object with " + ", ".join(_JOURNAL_FIELDS))
    _check_names(value, _JOURNAL_FIELDS, f"{name}.")
    return JournalSettings(**{k: _JOURNAL_FIELDS[k](v, f"{name}.{k}") for k, v in value.items()})


def _refuse(value: Any, name: str) -> str:
    if value != "refuse":
        raise RequestError(name, value, "refuse", "No image is made that cannot be erased in.")
    return value


def _version(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(name, value, str(VERSION))
    return value


def folder_of_presets(value: Any, name: str) -> str:
    """The field ``presets``: a folder. Raises :class:`RequestError`."""
    if not isinstance(value, str) or not value.strip():
        raise RequestError(name, value, "the path of a folder, from the policy's own")
    return value


_JOURNAL_FIELDS = {
    "keep": _switch,
    "prompts": _switch,
    "days": lambda value, name: _number(value, name, MOST),
    "megabytes": lambda value, name: _number(value, name, MOST),
}
_FIELDS = {
    "version": _version,
    "concepts": lambda value, name: value,
    "strength": lambda value, name: _number(value, name, FIELD["strength"].maximum, above=True),
    "modes": _modes,
    "start": lambda value, name: _number(value, name, 1),
    "end": lambda value, name: _number(value, name, 1),
    "users_may_add_concepts": _switch,
    "when_impossible": _refuse,
    "presets": folder_of_presets,
    "journal": _journal,
}
FIELDS = tuple(_FIELDS)
"""The names of a policy's fields."""
