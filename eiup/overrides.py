"""Values that stand in for those of a request, in one of the images of a plot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from .concepts import Concept, Resolver, expand, no_presets, parse_concepts
from .errors import RequestError
from .request import FIELDS, ErasureRequest, concept_entries

CONCEPT_WEIGHT = "weight of a concept"
# Those on which an image depends.
PLOTTED = tuple(field for field in FIELDS if field.name not in ("maps", "compare"))
AXIS_LABELS = {
    name: f"[EIUP] {name.capitalize()}" for name in (*(field.name for field in PLOTTED), CONCEPT_WEIGHT)
}
"""The plot's axis for each name that :func:`apply_overrides` takes."""


def parse_concept_weight(text: str) -> Concept:
    """One concept with its weight, such as ``star:1.5``. Raises :class:`RequestError`."""
    concepts = parse_concepts(text, CONCEPT_WEIGHT)
    if len(concepts) != 1:
        raise RequestError(CONCEPT_WEIGHT, text, "one concept with its weight, such as star:1.5")
    return concepts[0]


def read_concepts(value: Any, resolve: Resolver = no_presets) -> list[Concept]:
    """Concepts, presets replaced by theirs. Raises :class:`RequestError`."""
    return expand(concept_entries(value), resolve=resolve)


def apply_overrides(
    request: ErasureRequest, overrides: Iterable[tuple[str, Any]], resolve: Resolver = no_presets
) -> ErasureRequest:
    """``request`` with other values: pairs of a field's name, or :data:`CONCEPT_WEIGHT`, and a value.

    Whatever their order, concepts come before their weights. Raises :class:`RequestError`.
    """
    overrides = list(overrides)
    values = {name: value for name, value in overrides if name != CONCEPT_WEIGHT}
    if "concepts" in values:
        values["concepts"] = read_concepts(values["concepts"], resolve)
    request = replace(request, **values)
    for name, value in overrides:
        if name == CONCEPT_WEIGHT:
            request = _weigh(request, value)
    return request


def _weigh(request: ErasureRequest, text: str) -> ErasureRequest:
    weighted = parse_concept_weight(text)
    if weighted.text not in (concept.text for concept in request.concepts):
        advice = f"Add {weighted.text!r} to the concepts."
        raise RequestError(CONCEPT_WEIGHT, text, "a concept that is erased", advice)
    concepts = [weighted if concept.text == weighted.text else concept for concept in request.concepts]
    return replace(request, concepts=concepts)
