"""Errors as JSON, and a log of requests."""

from __future__ import annotations

import time

from fastapi import FastAPI, HTTPException, Request
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse

from modules import errors, shared


def error_response(request: Request, error: Exception) -> JSONResponse:
    """An exception as ``{error, detail, body, errors}``; reported unless it is a deliberate HTTP error."""
    known = vars(error)
    content = {
        "error": type(error).__name__,
        "detail": known.get("detail", ""),
        "body": known.get("body", ""),
        "errors": str(error),
    }
    if not isinstance(error, HTTPException):
        errors.report(f"API error: {request.method}: {request.url} {content}", exc_info=True)
    return JSONResponse(
        status_code=known.get("status_code", 500),
        content=jsonable_encoder(content),
        headers=known.get("headers"),
    )


def install_error_handling(app: FastAPI) -> None:
    @app.middleware("http")
    async def log_and_catch(request: Request, call_next):
        started = time.perf_counter()
        try:
            response = await call_next(request)
        except Exception as error:
            response = error_response(request, error)
        duration = f"{time.perf_counter() - started:.4f}"
        response.headers["X-Process-Time"] = duration
        if shared.cmd_opts.api_log and request.url.path.startswith("/sdapi"):
            print(f"API {response.status_code} {request.method} {request.url.path} {duration}", flush=True)
        return response

    @app.exception_handler(HTTPException)
    async def http_exception(request: Request, error: HTTPException):
        return error_response(request, error)
