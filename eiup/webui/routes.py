"""EIUP's own HTTP routes, behind the same credentials as the webui's API."""

from __future__ import annotations

import secrets
from typing import Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel

from modules import shared

from ..errors import EiupError, RequestError
from . import journal_routes, policy_routes, preset_routes
from .stores import current_checkpoint, feedback_store


class FeedbackFlag(BaseModel):
    """What somebody says of an image: the concept survived in it, or it was spoilt."""

    concept: str
    verdict: str
    checkpoint: str | None = None


def add_routes(_demo: Any, app: FastAPI) -> None:
    """Add the routes to the webui's server, once it has started; only where it serves an API at all."""
    if not shared.cmd_opts.api:
        return
    options: dict[str, Any] = {}
    if shared.cmd_opts.api_auth:
        options["dependencies"] = [Depends(_check_credentials)]
    path = "/eiup/v1/feedback"
    app.add_api_route(path, get_feedback, methods=["GET"], **options)
    app.add_api_route(path, post_feedback, methods=["POST"], **options)
    app.add_api_route(path, delete_feedback, methods=["DELETE"], **options)
    for path, endpoint, documentation in journal_routes.ROUTES:
        app.add_api_route(path, endpoint, methods=["GET"], openapi_extra=documentation, **options)
    app.add_api_route("/eiup/v1/policy", policy_routes.get_policy, methods=["GET"], **options)
    preset_routes.add_routes(app, options)


def _check_credentials(given: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:
    known = dict(pair.split(":", 1) for pair in shared.cmd_opts.api_auth.split(",") if ":" in pair)
    password = known.get(given.username, "")
    if not (password and secrets.compare_digest(given.password.encode(), password.encode())):
        raise HTTPException(401, "Incorrect username or password", headers={"WWW-Authenticate": "Basic"})


def _checkpoint(given: str | None) -> str:
    """The short hash that was given, or the loaded checkpoint's."""
    return given if given is not None else current_checkpoint()


def _answer(checkpoint: str) -> dict[str, Any]:
    return {"checkpoint": checkpoint, "factors": feedback_store().factors(checkpoint)}


def get_feedback(checkpoint: str | None = None) -> dict[str, Any]:
    """The factors of a checkpoint's concepts; by default the loaded one's."""
    return _raising_http(lambda: _answer(_checkpoint(checkpoint)))


def post_feedback(flag: FeedbackFlag) -> dict[str, Any]:
    """Take a verdict on one image."""

    def run() -> dict[str, Any]:
        checkpoint = _checkpoint(flag.checkpoint)
        feedback_store().flag(checkpoint, flag.concept, flag.verdict)
        return _answer(checkpoint)

    return _raising_http(run)


def delete_feedback(checkpoint: str | None = None, concept: str | None = None) -> dict[str, Any]:
    """Forget a concept's factor on a checkpoint, or all of them."""

    def run() -> dict[str, Any]:
        feedback_store().reset(_checkpoint(checkpoint), concept)
        return _answer(_checkpoint(checkpoint))

    return _raising_http(run)


def _raising_http(run: Any) -> dict[str, Any]:
    try:
        return run()
    except EiupError as error:
        status = error.status_code if isinstance(error, RequestError) else 500
        raise HTTPException(status, str(error)) from error
