"""Calibrating ahead, over HTTP: ask for concepts, see how far it is, stop it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, StrictInt

from modules import sd_models

from ..concepts import Concept, expand, is_number_within
from ..errors import RequestError
from ..policy import enforce
from ..request import ErasureRequest, concept_entries
from .denoising import checkpoint_identity
from .encoding import check_token_count, conditioner_of
from .enforcement import current_policy
from .preparing import SIZES, Wanted, default_size, preparation
from .stores import preset_store

PATH = "/eiup/v1/calibrations"


class CalibrationsBody(BaseModel):
    """``concepts`` is text in the syntax of concepts or a list, as in the arguments of a generation; their
    weights do not matter. ``width`` and ``height`` are those of the images, in pixels."""

    concepts: Any = None
    width: StrictInt | None = None
    height: StrictInt | None = None

    class Config:
        extra = "forbid"


def add_routes(router: APIRouter) -> None:
    router.add_api_route(PATH, get_calibrations, methods=["GET"])
    router.add_api_route(PATH, post_calibrations, methods=["POST"], status_code=202)
    router.add_api_route(PATH, delete_calibrations, methods=["DELETE"])


def get_calibrations() -> dict[str, Any]:
    """What is being calibrated in the background, what waits for it, and what is prepared."""
    # What has changed in its file is prepared, too.
    current_policy()
    return preparation.told()


def post_calibrations(body: CalibrationsBody) -> dict[str, Any]:
    """Have concepts calibrated in the background for the loaded checkpoint; they are put behind those that
    are waiting."""
    concepts = expand(concept_entries(body.concepts), resolve=preset_store().resolver())
    if not concepts:
        raise RequestError("concepts", body.concepts, "at least one concept")
    if (policy := current_policy()) is not None:
        enforce(policy, ErasureRequest(True, tuple(concepts)))
    width, height = default_size()
    if body.width is not None:
        width = _checked_size("width", body.width)
    if body.height is not None:
        height = _checked_size("height", body.height)
    checkpoint = _checked_by_loaded_model(concepts)
    wanted = [Wanted(concept.text, width, height, checkpoint=checkpoint) for concept in concepts]
    preparation.add(wanted, loads=True)
    return preparation.told()


def delete_calibrations() -> dict[str, Any]:
    """Stop what is being calibrated, and forget what is waiting; what was finished is kept. Where it takes
    longer than 30 seconds to end, the answer says that it is still ``running``."""
    preparation.stop()
    return preparation.told()


def _checked_size(name: str, value: int) -> int:
    if not is_number_within(value, *SIZES):
        raise RequestError(name, value, f"a whole number of pixels from {SIZES[0]} to {SIZES[1]}")
    return value


def _checked_by_loaded_model(concepts: list[Concept]) -> str | None:
    """The loaded checkpoint, whose vocabulary the concepts are in; None where none is loaded yet."""
    model = sd_models.model_data.sd_model
    if model is None:
        return None
    conditioner = conditioner_of(model)
    for concept in concepts:
        check_token_count(conditioner, concept)
    return checkpoint_identity(model)
