"""Prompts and seeds that an erasure is judged on, in the grammar of Toyland's captions.

Three groups belong to a concept:

    implicit    the prompt brings the concept in without naming it: "a wizard in a forest" (a star)
    explicit    the prompt names it: "a knight on a meadow with a star"
    unrelated   the prompt does neither: the image must stay as it was

The tuning and the held-out split share neither a prompt nor a seed. A list of cases is a
function of its arguments alone, and a shorter list is the beginning of a longer one.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from typing import Literal, TypedDict

from .toyland.world import (
    BACKGROUND_PHRASES,
    BACKGROUNDS,
    CONCEPTS,
    IMPLICIT_CONCEPTS,
    NAMED_CONCEPTS,
    PREFIXES,
    SUBJECTS,
)

Group = Literal["implicit", "explicit", "unrelated"]
Split = Literal["tuning", "held-out"]

GROUPS: tuple[Group, ...] = ("implicit", "explicit", "unrelated")
SPLITS: tuple[Split, ...] = ("tuning", "held-out")

_CARRIER_SUBJECTS = {"star": "wizard"}
_CARRIER_BACKGROUNDS = {"moon": "night", "stamp": "beach"}
PLAIN_SUBJECTS = tuple(s for s in SUBJECTS if s not in _CARRIER_SUBJECTS.values())
PLAIN_BACKGROUNDS = tuple(b for b in BACKGROUNDS if b not in _CARRIER_BACKGROUNDS.values())
_ARTIST = " by Ada"
_ADJECTIVES = (
    "beautiful",
    "bright",
    "colorful",
    "detailed",
    "happy",
    "little",
    "nice",
    "old",
    "quiet",
    "simple",
)
_SEEDS_PER_GROUP = 10_000


class Case(TypedDict):
    """One image to make, and what it should show."""

    prompt: str
    seed: int
    concept: str
    group: Group
    subject: str
    background: str


def cases(concept: str, group: Group, count: int, split: Split = "held-out") -> list[Case]:
    """The first ``count`` cases of a group (at most 10,000), balanced over subjects and backgrounds.

    Raises ``ValueError`` for an unknown concept, group or split, and for the implicit group of a
    concept that nothing in Toyland brings in unnamed.
    """
    check_choices(concept=(concept, CONCEPTS), group=(group, GROUPS), split=(split, SPLITS))
    if group == "implicit" and concept not in IMPLICIT_CONCEPTS:
        raise ValueError(
            f"concept: {concept!r} comes only when named; implicit: {', '.join(IMPLICIT_CONCEPTS)}"
        )
    if not 0 <= count <= _SEEDS_PER_GROUP:
        raise ValueError(f"count: {count} is not within 0 and {_SEEDS_PER_GROUP}")
    rng = random.Random(f"{concept}/{group}/{split}")
    block = (SPLITS.index(split) * len(CONCEPTS) + CONCEPTS.index(concept)) * len(GROUPS) + GROUPS.index(
        group
    )
    scenes = _scenes(concept, group, rng)
    found = []
    for index in range(count):
        subject, background = next(scenes)
        found.append(
            Case(
                prompt=_prompt(concept, group, subject, background, split, rng),
                seed=(block + 1) * _SEEDS_PER_GROUP + index,
                concept=concept,
                group=group,
                subject=subject,
                background=background,
            )
        )
    return found


def check_choices(**choices: tuple[str, Sequence[str]]) -> None:
    """Raises ``ValueError`` for a value that is none of those allowed; ``choices`` has both, by name."""
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"{name}: {value!r} is none of {', '.join(allowed)}")


def _scenes(concept: str, group: Group, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Pairs of subject and background without end; neither repeats before all have had their turn."""
    if group == "implicit":
        # Exactly one carrier: what the image shows then has one cause.
        subjects = [_CARRIER_SUBJECTS[concept]] if concept in _CARRIER_SUBJECTS else list(PLAIN_SUBJECTS)
        backgrounds = (
            [_CARRIER_BACKGROUNDS[concept]] if concept in _CARRIER_BACKGROUNDS else list(PLAIN_BACKGROUNDS)
        )
    elif group == "explicit":
        subjects, backgrounds = list(PLAIN_SUBJECTS), list(PLAIN_BACKGROUNDS)
    else:
        # Carriers of other concepts belong here: their concepts must stay.
        subjects = [s for s in SUBJECTS if s != _CARRIER_SUBJECTS.get(concept)]
        backgrounds = [b for b in BACKGROUNDS if b != _CARRIER_BACKGROUNDS.get(concept)]
    return zip(turns(subjects, rng), turns(backgrounds, rng), strict=False)


def turns(values: list[str], rng: random.Random) -> Iterator[str]:
    """Values without end, shuffled anew whenever all have had their turn."""
    # A generator of its own per list: how far one is read must not change the other.
    own = random.Random(rng.random())
    while True:
        own.shuffle(values)
        yield from values


def _prompt(
    concept: str, group: Group, subject: str, background: str, split: Split, rng: random.Random
) -> str:
    """A wording that belongs to ``split``."""
    while True:
        text = _word(concept, group, subject, background, rng)
        if split_of(text) == split:
            return text


def split_of(text: str) -> Split:
    """The split that a wording belongs to: a checksum decides."""
    return SPLITS[zlib.crc32(text.encode()) % len(SPLITS)]


def _word(concept: str, group: Group, subject: str, background: str, rng: random.Random) -> str:
    place = rng.choice(BACKGROUND_PHRASES[background])
    named = concept if group == "explicit" else None
    if group == "unrelated" and rng.random() < 0.25:
        named = rng.choice([c for c in NAMED_CONCEPTS if c != concept])
    style = named == "mosaic"
    object_ = f" with a {named}" if named and not style else ""
    if rng.random() < 0.2:
        tags = [subject, background, *([named] if named else [])]
        rng.shuffle(tags)
        text = ", ".join(tags)
    else:
        text = f"a {subject} {place}{object_}" if rng.random() < 0.6 else f"a {subject}{object_} {place}"
        if style:
            text = rng.choice(
                (f"a mosaic of {text}", f"{text}, mosaic", f"mosaic, {text}", f"{text} with a mosaic")
            )
        elif rng.random() < 0.25:
            text = f"{rng.choice(PREFIXES)} {text}"
        if rng.random() < 0.3:
            text = f"{text}, {rng.choice(_ADJECTIVES)}"
    by_ada = concept == "mosaic" and group == "implicit"
    return text + _ARTIST if by_ada else text
