"""Reads the operator's policy from its file, JSON or TOML, and follows the file while the server runs.

``python -m eiup.policy_file FILE`` says whether the server would start with it, and what it says.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from json.decoder import JSONDecodeError, scanstring
from pathlib import Path
from typing import Any

from .errors import EiupError, RequestError
from .policy import JournalSettings, Policy, folder_of_presets, policy_of
from .presets import SHIPPED, Presets

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = None  # type: ignore[assignment]

MAX_BYTES = 1024 * 1024
# A field's place in a file: ("concepts", 2) is concepts[2].
Place = tuple[str | int, ...]
_FIELD = re.compile(r"(\w+)(?:\[(\d+)\])?(?:\.(\w+))?")
_TOML_LINE = re.compile(r"at line (\d+)")


class PolicyError(EiupError):
    """A policy's file cannot be used; the message names it and, where it can, the line.

    ``told`` is what users of the server may know of it: no path, and no value, which may be one.
    """

    def __init__(self, path: Path, line: int | None, message: str, told: str | None = None):
        where = f"{path}, line {line}" if line else str(path)
        self.told = f"{f'line {line}: ' if line else ''}{told or message}"
        super().__init__(f"{where}: {message}", 500)


def read_policy(path: Path) -> Policy:
    """The policy in ``path``. Raises :class:`PolicyError` for whatever is wrong with it."""
    text = _text_of(path)
    values, line_of = _toml(path, text) if path.suffix.lower() == ".toml" else _json(path, text)
    if not isinstance(values, Mapping):
        raise PolicyError(path, 1, "a policy is an object of named fields.")
    try:
        presets = SHIPPED
        if "presets" in values:
            presets = path.parent / folder_of_presets(values["presets"], "presets")
            if not _is_folder(presets):
                raise RequestError("presets", values["presets"], "a folder that exists")
        return policy_of(values, Presets(presets).resolver())
    except RequestError as error:
        told = f"{error.field} is wrong; allowed: {error.allowed}."
        raise PolicyError(path, _line_of(error.field, line_of), str(error), told) from error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, or a folder that may not be looked into
        return False


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyError(path, None, f"the policy cannot be read: {error.strerror or error!r}.") from error
    if len(content) > MAX_BYTES:
        raise PolicyError(path, None, f"a policy has at most {MAX_BYTES} bytes.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise PolicyError(path, line, "a policy is text in UTF-8. Save it as UTF-8.") from None


def _line_of(field: str, line_of: Callable[[Place], int | None]) -> int | None:
    match = _FIELD.match(field)
    if match is None:
        return None
    name, index, inner = match.groups()
    place = (name, *([int(index)] if index else []), *([inner] if inner else []))
    while place:
        if line := line_of(place):
            return line
        place = place[:-1]
    return 1


# ----------------------------------------------------------------------------------------- syntaxes


def _json(path: Path, text: str) -> tuple[Any, Callable[[Place], int | None]]:
    try:
        reader = _JsonReader(text)
        return reader.read(), reader.lines.get
    except JSONDecodeError as error:
        raise PolicyError(path, error.lineno, f"this is no JSON: {error.msg}.") from None
    except ValueError as error:  # an integer of too many digits to read
        raise PolicyError(path, None, f"this is no JSON: {error}.") from None
    except RecursionError:
        raise PolicyError(path, None, "this JSON is nested too deep.") from None


class _JsonReader:
    """JSON with the lines on which its values stand; a name given twice is an error."""

    def __init__(self, text: str):
        self.text = text
        self.lines: dict[Place, int] = {}
        self._decoder = json.JSONDecoder()

    def read(self) -> Any:
        value, end = self._value(self._skip(0), ())
        if self._skip(end) != len(self.text):
            raise JSONDecodeError("something follows its end", self.text, self._skip(end))
        return value

    def _skip(self, at: int) -> int:
        while self.text[at : at + 1] in (" ", "\t", "\n", "\r"):
            at += 1
        return at

    def _value(self, at: int, place: Place) -> tuple[Any, int]:
        self.lines.setdefault(place, self.text.count("\n", 0, at) + 1)
        if self.text[at : at + 1] == "{":
            return self._members(at, place)
        if self.text[at : at + 1] == "[":
            values: list[Any] = []
            end = self._each(at, "]", lambda n: self._item(n, place, values))
            return values, end
        return self._decoder.raw_decode(self.text, at)

    def _item(self, at: int, place: Place, values: list[Any]) -> int:
        value, end = self._value(at, (*place, len(values)))
        values.append(value)
        return end

    def _members(self, at: int, place: Place) -> tuple[dict[str, Any], int]:
        members: dict[str, Any] = {}

        def member(at: int) -> int:
            if self.text[at : at + 1] != '"':
                raise JSONDecodeError("a name in double quotes is missing", self.text, at)
            name, end = scanstring(self.text, at + 1)
            if name in members:
                raise JSONDecodeError(f"{name!r} stands here twice", self.text, at)
            self.lines[(*place, name)] = self.text.count("\n", 0, at) + 1
            colon = self._skip(end)
            if self.text[colon : colon + 1] != ":":
                raise JSONDecodeError(f"a colon is missing after {name!r}", self.text, colon)
            members[name], end = self._value(self._skip(colon + 1), (*place, name))
            return end

        return members, self._each(at, "}", member)

    def _each(self, at: int, closing: str, read: Callable[[int], int]) -> int:
        """Read what stands between the brackets at ``at``, with commas between."""
        at = self._skip(at + 1)
        if self.text[at : at + 1] == closing:
            return at + 1
        while True:
            at = self._skip(read(at))
            if self.text[at : at + 1] == closing:
                return at + 1
            if self.text[at : at + 1] != ",":
                raise JSONDecodeError(f"a comma or {closing} is missing", self.text, at)
            at = self._skip(at + 1)


def _toml(path: Path, text: str) -> tuple[Any, Callable[[Place], int | None]]:
    if tomllib is None:
        raise PolicyError(path, None, "TOML needs Python 3.11. Write the policy as JSON.")
    try:
        return tomllib.loads(text), lambda place: _toml_line(text, place)
    except tomllib.TOMLDecodeError as error:
        match = _TOML_LINE.search(str(error))
        line = int(match[1]) if match else text.count("\n") + 1  # at end of document
        raise PolicyError(path, line, f"this is no TOML: {error}.") from None


def _toml_line(text: str, place: Place) -> int | None:
    """The line of a field's name, in its table where it lies in one."""
    *tables, name = (part for part in place if isinstance(part, str))
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\[?\s*([\w.-]+)\s*\]", line):
            table = header[1].split(".")
            if table == [*tables, name]:
                return number
        elif (key := re.match(r"\s*['\"]?([\w.-]+)['\"]?\s*=", line)) and [
            *table,
            *key[1].split("."),
        ] == [*tables, name]:
            return number
    return None


# --------------------------------------------------------------------------------- while the server runs


@dataclass(frozen=True)
class Change:
    """What a look at the file brought: a ``message`` for people, and whether another policy is in force.
    ``cause`` is for the operator alone, since it names the file."""

    message: str
    new: bool
    cause: str = ""


class PolicyFile:
    """The policy of a file that may change. Raises :class:`PolicyError` where it is wrong from the start.

    ``policy`` is the last good one; ``problem`` says why the file as it is now is not in force, without its
    path; None where it is.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.policy = read_policy(self.path)
        self.problem: str | None = None
        self._cause = ""

    def follow(self) -> Change | None:
        """Look at the file again, between two generations: a good version is taken over, otherwise the last
        good one stays in force. Returns what there is to say, each thing once."""
        try:
            policy = read_policy(self.path)
        except PolicyError as error:
            if str(error) == self._cause:
                return None
            self.problem, self._cause = error.told, str(error)
            kept = f"The last good version ({self.policy.hash}) stays in force."
            message = f"EIUP: the policy has changed and cannot be used. {kept} Its file: {self.problem}"
            return Change(message, False, self._cause)
        recovered, self.problem, self._cause = self.problem is not None, None, ""
        if policy == self.policy:
            return (
                Change(f"EIUP: the policy {policy.hash} can be read again.", new=False) if recovered else None
            )
        self.policy = policy
        return Change(f"EIUP: a new version of the policy is in force ({policy.hash}).", new=True)


def report(policy: Policy) -> str:
    """What a policy says, in lines of a label and a value."""
    lines = {
        "hash": policy.hash,
        "concepts": ", ".join(map(str, policy.concepts)),
        "least strength": f"{policy.strength:g}",
        "modes": ", ".join(policy.modes),
        "window": f"{policy.start:g} to {policy.end:g} of sampling",
        "users may": _allowed(policy),
        "journal": _kept(policy.journal),
    }
    width = max(map(len, lines)) + 1
    return "\n".join(f"{f'{label}:':{width}} {value}" for label, value in lines.items())


def _allowed(policy: Policy) -> str:
    added = "add" if policy.users_may_add_concepts else "not add"
    chosen = "choose one of these modes" if len(policy.modes) > 1 else "not choose the mode"
    return f"{added} concepts of their own; {chosen}; raise strength and weights; not preserve or compare"


def _kept(journal: JournalSettings) -> str:
    if not journal.keep:
        return "not kept"
    prompts = "with prompts" if journal.prompts else "without prompts"
    days = f"for {journal.days:g} days" if journal.days else "for ever"
    return f"kept {days}, {prompts}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m eiup.policy_file",
        description="Says whether the webui would start with a policy, and what the policy is.",
        epilog="The exit code is 1 where the webui would not start; the message names the line.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the policy: JSON, or TOML in a .toml file")
    path = parser.parse_args(arguments).file
    try:
        policy = read_policy(path)
    except PolicyError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"The policy in {path} can be used.\n{report(policy)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
