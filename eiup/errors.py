"""The errors that reach a user."""

from __future__ import annotations


class EiupError(Exception):
    """An error whose message tells the user what to do.

    ``status_code`` and ``detail`` are what the webui's API turns into the HTTP answer.
    """

    def __init__(self, message: str, status_code: int):
        super().__init__(message)
        self.status_code = status_code
        self.detail = message


def _cut(text: str, longest: int) -> str:
    """What a user has sent may have any length, the names of his fields included."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


class RequestError(EiupError):
    """A field of a request is wrong: names the field, its value, and what is allowed."""

    def __init__(self, field: str, value: object, allowed: str, advice: str = ""):
        self.field, self.value, self.allowed = field, value, allowed
        try:
            shown = repr(value)
        except (ValueError, RecursionError):  # an integer of too many digits to print, or lists in lists
            shown = f"a huge {type(value).__name__}"
        message = f"EIUP: {_cut(field or repr(field), 160)} is {_cut(shown, 80)}; allowed: {allowed}."
        super().__init__(f"{message} {advice}".strip(), 422)


class ErasureError(EiupError):
    """Erasure was asked for and cannot be carried out; no image may be made."""

    def __init__(self, message: str):
        super().__init__(f"EIUP: {message}", 500)


class NotFiniteError(ErasureError):
    """``what`` is infinite or not a number: half precision has overflowed."""

    def __init__(self, what: str):
        super().__init__(
            f"{what} overflowed, as happens in half precision, so the image could not be erased as asked. "
            "Lower the strength, the weights of concepts or of LoRAs, or start the webui with --no-half"
        )


class UnsupportedModelError(ErasureError):
    """The model has no text cross-attention that concepts could be erased in."""
