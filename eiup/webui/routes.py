"""EIUP's own HTTP routes, behind the same credentials as the webui's API."""

from __future__ import annotations

import secrets
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel

from modules import shared

from ..concepts import expand
from ..request import concept_entries
from . import calibration_routes, journal_routes, policy_routes, preset_routes
from .route_errors import Route, RouteError
from .stores import current_checkpoint, feedback_store, preset_store


class FeedbackFlag(BaseModel):
    """What somebody says of an image: the concept survived in it, or it was spoilt. ``concept`` is one as in
    the list of a generation: ``@name`` stands for all of a preset."""

    concept: str
    verdict: str
    checkpoint: str | None = None

    class Config:
        extra = "forbid"


def add_routes(_demo: Any, app: FastAPI) -> None:
    """Add the routes to the webui's server, once it has started; only where it serves an API at all."""
    if not shared.cmd_opts.api:
        return
    credentials = [Depends(_check_credentials)] if shared.cmd_opts.api_auth else []
    refusals: dict[int | str, dict[str, Any]] = {422: {"description": "What is wrong, under `detail`."}}
    router = APIRouter(route_class=Route, dependencies=credentials, responses=refusals)
    path = "/eiup/v1/feedback"
    router.add_api_route(path, get_feedback, methods=["GET"])
    router.add_api_route(path, post_feedback, methods=["POST"])
    router.add_api_route(path, delete_feedback, methods=["DELETE"])
    for path, endpoint, documentation, answer in journal_routes.ROUTES:
        router.add_api_route(
            path, endpoint, methods=["GET"], openapi_extra=documentation, response_class=answer
        )
    router.add_api_route("/eiup/v1/policy", policy_routes.get_policy, methods=["GET"])
    preset_routes.add_routes(router)
    calibration_routes.add_routes(router)
    app.include_router(router)


def _check_credentials(given: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:
    known = dict(pair.split(":", 1) for pair in shared.cmd_opts.api_auth.split(",") if ":" in pair)
    password = known.get(given.username, "")
    if not (password and secrets.compare_digest(given.password.encode(), password.encode())):
        raise RouteError(401, "Incorrect username or password", headers={"WWW-Authenticate": "Basic"})


def _checkpoint(given: str | None) -> str:
    """The short hash that was given, or the loaded checkpoint's."""
    return given if given is not None else current_checkpoint()


def _answer(checkpoint: str) -> dict[str, Any]:
    return {"checkpoint": checkpoint, "factors": feedback_store().factors(checkpoint)}


def get_feedback(checkpoint: str | None = None) -> dict[str, Any]:
    """The factors of a checkpoint's concepts; by default the loaded one's."""
    return _answer(_checkpoint(checkpoint))


def post_feedback(flag: FeedbackFlag) -> dict[str, Any]:
    """Take a verdict on one image."""
    checkpoint = _checkpoint(flag.checkpoint)
    for concept in expand(concept_entries([flag.concept]), "concept", preset_store().resolver()):
        feedback_store().flag(checkpoint, concept.text, flag.verdict)
    return _answer(checkpoint)


def delete_feedback(checkpoint: str | None = None, concept: str | None = None) -> dict[str, Any]:
    """Forget a concept's factor on a checkpoint, or all of them."""
    feedback_store().reset(_checkpoint(checkpoint), concept)
    return _answer(_checkpoint(checkpoint))
