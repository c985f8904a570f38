"""What EIUP's routes answer where something is wrong: a message under ``detail``, in every case."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from ..errors import EiupError, RequestError

_LONGEST_NAME = 160


class RouteError(HTTPException):
    """Its text is its ``detail``: the webui writes both into the answer, and the text of a plain
    HTTPException is the tuple of its arguments."""

    def __init__(self, status_code: int, detail: str, headers: dict[str, str] | None = None):
        # What was sent, and is told of, may hold lone surrogates, which no UTF-8 can carry.
        super().__init__(status_code, detail.encode(errors="backslashreplace").decode(), headers)

    def __str__(self) -> str:
        return str(self.detail)


class Route(APIRoute):
    """A route whose endpoint raises :class:`EiupError`, and whose parameters and body may be wrong. Unknown
    parameters are refused, but where the endpoint reads the request itself."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answer_or_refuse(request: Request) -> Response:
            try:
                if self.dependant.request_param_name is None:
                    self._refuse_unknown_parameters(request)
                return await answer(request)
            except EiupError as error:
                raise RouteError(error.status_code, str(error)) from error
            except RequestValidationError as error:
                raise RouteError(422, _told(error)) from error

        return answer_or_refuse

    def _refuse_unknown_parameters(self, request: Request) -> None:
        known = [field.alias for field in self.dependant.query_params]
        for name, value in request.query_params.items():
            if name not in known:
                raise RequestError(
                    name, value, f"the parameters {', '.join(known)}" if known else "no parameters"
                )


def _told(error: RequestValidationError) -> str:
    """Where in the request what is wrong: ``EIUP: body weight: extra fields not permitted.``"""
    parts = (f"{_place(part['loc'])}: {part['msg']}" for part in error.errors())
    return f"EIUP: {'; '.join(parts)}."


def _place(location: tuple[Any, ...]) -> str:
    return " ".join(str(part)[:_LONGEST_NAME] for part in location)
