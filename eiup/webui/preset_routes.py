"""Presets over HTTP: list, read, create or replace, delete."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, StrictStr

from ..errors import RequestError
from ..presets import NAMES, ShippedPresetError, UnknownPresetError
from ..request import concept_entries
from .route_errors import RouteError
from .stores import preset_store

PATH = "/eiup/v1/presets"


class PresetBody(BaseModel):
    """``concepts`` is text in the syntax of concepts or a list, as in the arguments of a generation. Without
    a description, comments at the beginning of the text are it."""

    concepts: Any = None
    description: StrictStr | None = None

    class Config:
        extra = "forbid"


def add_routes(router: APIRouter) -> None:
    one = f"{PATH}/{{name}}"
    router.add_api_route(PATH, list_presets, methods=["GET"])
    router.add_api_route(one, get_preset, methods=["GET"])
    router.add_api_route(one, put_preset, methods=["PUT"])
    router.add_api_route(one, delete_preset, methods=["DELETE"])


def list_presets() -> dict[str, Any]:
    """All presets; one that cannot be used has an ``error`` in place of its concepts."""
    store = preset_store()
    presets: list[dict[str, Any]] = []
    for name in store.names():
        try:
            presets.append(_answer(name))
        except RequestError as error:
            presets.append({"name": name, "error": str(error)})
    for file in store.misnamed():
        error = RequestError("preset", file, NAMES, "Rename the file.")
        presets.append({"name": file.encode(errors="replace").decode(), "error": str(error)})
    return {"presets": presets}


def get_preset(name: str) -> dict[str, Any]:
    """One preset."""
    _check_exists(name)
    return _answer(name)


def put_preset(name: str, body: PresetBody) -> dict[str, Any]:
    """Create or replace the user's own preset of this name."""
    entries = concept_entries(body.concepts)
    text = body.concepts if isinstance(body.concepts, str) else "\n".join(map(str, entries))
    preset_store().save(name, text, body.description)
    return _answer(name)


def delete_preset(name: str) -> dict[str, Any]:
    """Delete the user's own preset; the answer is the list of those that remain."""
    _check_exists(name)
    try:
        preset_store().delete(name)
    except ShippedPresetError as error:
        raise RouteError(409, str(error)) from error
    return list_presets()


def _answer(name: str) -> dict[str, Any]:
    """``concepts`` are what the preset stands for, ``text`` is how it was written."""
    preset = preset_store().get(name)
    return {
        "name": preset.name,
        "description": preset.description,
        "concepts": [str(concept) for concept in preset_store().concepts(name)],
        "text": preset.text,
        "shipped": preset.shipped,
    }


def _check_exists(name: str) -> None:
    try:
        preset_store().get(name)
    except UnknownPresetError as error:
        raise RouteError(404, str(error)) from error
    except RequestError:
        pass  # It exists, though it cannot be used.
