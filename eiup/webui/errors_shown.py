"""Errors as the page shows them; ``style.css`` knows their class."""

from __future__ import annotations

from html import escape

from ..errors import EiupError


def error_as_html(error: EiupError, tag: str = "p") -> str:
    return f"<{tag} class='error'>{escape(str(error))}</{tag}>"
