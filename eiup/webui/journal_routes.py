"""The journal over HTTP: pages of records as JSON, and all records as CSV."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from ..errors import RequestError
from ..journal_csv import csv_chunks
from ..journal_query import FILTERS, MAX_LIMIT, Cursor, JournalFilter, find_page, newest_first, parse_limit
from .stores import journal_folder

DEFAULT_LIMIT = 100
_PAGING = {
    "limit": f"How many records at most, 1 to {MAX_LIMIT}; by default {DEFAULT_LIMIT}.",
    "cursor": "Where to go on: what an earlier answer has as its next.",
}


class CsvResponse(StreamingResponse):
    media_type = "text/csv"


def get_journal(request: Request) -> Response:
    """A page of records, newest first: ``{"records": [...], "next": cursor or null}``."""
    given = _parameters(request, (*FILTERS, *_PAGING))
    limit = parse_limit(given.pop("limit", str(DEFAULT_LIMIT)))
    cursor = given.pop("cursor", None)
    start = Cursor.parse(cursor) if cursor else None
    page = find_page(journal_folder(), JournalFilter.from_fields(given), limit, start)
    # ASCII, since texts may hold lone surrogates, which no UTF-8 can carry.
    content = json.dumps({"records": page.records, "next": page.next})
    return Response(content, media_type="application/json")


def get_journal_csv(request: Request) -> Response:
    """All records that the filters select, as CSV: one line per image and concept, newest first."""
    wanted = JournalFilter.from_fields(_parameters(request, FILTERS))
    chunks = csv_chunks((record for _, record in newest_first(journal_folder(), wanted)), wanted)
    return CsvResponse(
        (chunk.encode("utf-8", "replace") for chunk in chunks),
        headers={"Content-Disposition": 'attachment; filename="eiup-journal.csv"'},
    )


def _parameters(request: Request, known: Iterable[str]) -> dict[str, str]:
    """The query's parameters. Raises :class:`RequestError` for unknown and for repeated ones."""
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise RequestError(name, value, "the parameters " + ", ".join(known))
        if name in given:
            raise RequestError(name, value, "one value", f"It is given twice; {given[name]!r} is the other.")
        given[name] = value
    return given


def _documented(descriptions: dict[str, str]) -> dict[str, Any]:
    return {
        "parameters": [
            {"name": name, "in": "query", "description": description, "schema": {"type": "string"}}
            for name, description in descriptions.items()
        ]
    }


# Path, endpoint, what the API's documentation says of the parameters, and what it answers.
ROUTES = (
    ("/eiup/v1/journal", get_journal, _documented(FILTERS | _PAGING), JSONResponse),
    ("/eiup/v1/journal.csv", get_journal_csv, _documented(FILTERS), CsvResponse),
)
