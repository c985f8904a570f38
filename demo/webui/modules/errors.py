"""Reports of exceptions that the host swallows."""

from __future__ import annotations

import sys
import textwrap
import traceback
from typing import Any

KEPT = 5
exception_records: list[dict[str, Any]] = []
"""The latest exceptions, oldest first."""


def record_exception() -> None:
    """Remember the exception being handled, if there is one."""
    kind, error, trace = sys.exc_info()
    if error is None:
        return
    frames = [[f"{frame.filename}, line {frame.lineno}, {frame.name}", frame.line]
              for frame in traceback.extract_tb(trace)]  # fmt: skip
    exception_records.append({"exception": str(error), "traceback": frames})
    del exception_records[:-KEPT]


def get_exceptions() -> list[dict[str, Any]]:
    return exception_records[::-1]


def report(message: str, *, exc_info: bool = False) -> None:
    """Print ``*** message`` to stderr, with the traceback being handled when ``exc_info``."""
    record_exception()
    text = textwrap.indent(message, "*** ", lambda line: True)
    if exc_info:
        text += "\n" + textwrap.indent(traceback.format_exc(), "    ") + "\n---"
    print(text, file=sys.stderr, flush=True)


def display(e: BaseException, task: str, *, full_traceback: bool = False) -> None:
    """Print an exception under the name of the task that it broke off."""
    record_exception()
    lines = traceback.format_exception(type(e), e, e.__traceback__)
    stack = traceback.format_stack()[:-1] if full_traceback else []
    print(f"{task or 'error'}: {type(e).__name__}\n" + "".join(stack + lines), file=sys.stderr, flush=True)


_displayed: set[str] = set()


def display_once(e: BaseException, task: str) -> None:
    """``display``, but only the first time that this task fails."""
    if task not in _displayed:
        _displayed.add(task)
        display(e, task)


def print_error_explanation(message: str) -> None:
    record_exception()
    rule = "=" * max(len(line) for line in message.strip().splitlines())
    print(f"{rule}\n{message.strip()}\n{rule}", file=sys.stderr, flush=True)
