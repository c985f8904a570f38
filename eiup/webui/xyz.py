"""EIUP's axes in the webui's X/Y/Z plot script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

from modules import scripts

from ..errors import RequestError
from ..overrides import (
    AXIS_LABELS,
    CONCEPT_WEIGHT,
    PLOTTED,
    apply_overrides,
    parse_concept_weight,
    read_concepts,
)
from ..request import INFOTEXT_KEY, ErasureRequest, Field
from .stores import preset_store

_SCRIPT = "xyz_grid.py"
_ATTRIBUTE = "eiup_overrides"
_PLOT_ATTRIBUTE = "eiup_plot"
_SWITCHES = {"true": True, "false": False}


@dataclass
class _Plot:
    """EIUP's axes of one plot with their values, which the processing objects of all its images share."""

    axes: list[tuple[str, Sequence[Any]]] = dataclass_field(default_factory=list)
    checked: bool = False

    @classmethod
    def of(cls, p: Any) -> _Plot:
        if not hasattr(p, _PLOT_ATTRIBUTE):
            setattr(p, _PLOT_ATTRIBUTE, cls())
        return getattr(p, _PLOT_ATTRIBUTE)

    def check(self, p: Any) -> None:
        """Raises :class:`RequestError` where values do not go together, before the first image is made:
        the plot would leave such an image black without a word."""
        if self.checked:
            return
        self.checked = True
        resolve = preset_store().resolver()
        request = ErasureRequest.from_args(_arguments(p), resolve)
        names = [name for name, _ in self.axes]
        for values in product(*(values for _, values in self.axes)):
            apply_overrides(request, zip(names, values), resolve)


def _arguments(p: Any) -> Sequence[Any]:
    """EIUP's script arguments of a processing object."""
    script = next(script for script in p.scripts.alwayson_scripts if script.title() == INFOTEXT_KEY)
    return p.script_args[script.args_from : script.args_to]


def add_axes() -> None:
    """Add an axis for each field, and one for a concept's weight, where they are not there yet."""
    for script in scripts.scripts_data:
        if Path(script.path).name == _SCRIPT and hasattr(script.module, "axis_options"):
            known = {option.label for option in script.module.axis_options}
            script.module.axis_options += [
                option for option in _axes(script.module) if option.label not in known
            ]


def overrides_of(p: Any) -> Sequence[tuple[str, Any]]:
    """What the plot has set for the image that ``p`` is about to make."""
    return getattr(p, _ATTRIBUTE, ())


def _axes(plot: ModuleType) -> list[Any]:
    options = [
        plot.AxisOption(
            AXIS_LABELS[field.name], _type_of(field), _apply(field.name),
            confirm=_confirm(field.name, _check_of(field)), choices=_choices_of(field),
        )
        for field in PLOTTED
    ]  # fmt: skip
    weight = plot.AxisOption(
        AXIS_LABELS[CONCEPT_WEIGHT], str, _apply(CONCEPT_WEIGHT),
        confirm=_confirm(CONCEPT_WEIGHT, parse_concept_weight),
    )  # fmt: skip
    return [*options, weight]


def _check_of(field: Field) -> Callable[[Any], Any]:
    if field.kind is list:
        return lambda text: read_concepts(text, preset_store().resolver())
    return field.check


def _type_of(field: Field) -> Callable[[Any], Any]:
    # Ranges such as 0-2 [5] are for axes whose type is float itself.
    if field.kind is bool:
        return lambda text: _switch(field, text)
    return float if field.kind is float else str


def _switch(field: Field, text: str) -> bool:
    try:
        return _SWITCHES[text.lower()]
    except KeyError:
        raise RequestError(field.name, text, field.allowed) from None


def _choices_of(field: Field) -> Callable[[], list[str]] | None:
    if field.kind is bool:
        return lambda: ["True", "False"]
    return (lambda: list(field.choices)) if field.choices else None


def _apply(name: str) -> Callable[[Any, Any, Any], None]:
    def apply(p: Any, value: Any, _values: Any) -> None:
        _Plot.of(p).check(p)
        # ``p`` is a shallow copy for one image: what it shares with the others must not change.
        setattr(p, _ATTRIBUTE, (*overrides_of(p), (name, value)))

    return apply


def _confirm(name: str, check: Callable[[Any], Any]) -> Callable[[Any, Sequence[Any]], None]:
    """Rejects a wrong value before anything is generated. ``check`` raises :class:`RequestError`."""

    def confirm(p: Any, values: Sequence[Any]) -> None:
        for value in values:
            check(value)
        _Plot.of(p).axes.append((name, values))

    return confirm
