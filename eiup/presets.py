"""Presets: named sets of concepts, each a text file ``NAME.txt`` that people write, read and share.

The first line is ``# EIUP preset 1``, the version of the format; it may be missing. The comment lines that
follow are the description; the rest is in the syntax of concepts, and may name other presets.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .concepts import Concept, Resolver, parse_concepts
from .errors import RequestError
from .files import write_atomically

VERSION = 1
SHIPPED = Path(__file__).resolve().parents[1] / "presets"
MAX_BYTES = 64 * 1024
MAX_DEPTH = 8
SUFFIX = ".txt"
# The names that Windows has for devices are none for files there.
_NAME = re.compile(r"(?!(con|prn|aux|nul|com\d|lpt\d)\Z)[a-z0-9_-]{1,64}")
NAMES = "1 to 64 lower-case letters, digits, hyphens and underscores"
_HEADER = re.compile(r"#\s*EIUP preset (?P<version>\d{1,9})\s*", re.IGNORECASE)


class UnknownPresetError(RequestError):
    """There is no preset of this name."""


class ShippedPresetError(RequestError):
    """Shipped presets cannot be deleted."""


@dataclass(frozen=True)
class Preset:
    """``text`` is in the syntax of concepts, as it was written; ``shipped`` ones come with the extension."""

    name: str
    description: str
    text: str
    shipped: bool

    @property
    def file_text(self) -> str:
        """What the preset's file holds, to be read back by :func:`read_preset`."""
        described = [f"# {line}".rstrip() for line in self.description.splitlines()]
        return "\n".join([f"# EIUP preset {VERSION}", *described, "", self.text, ""])


def check_name(name: object) -> str:
    """``name`` where it is one that presets may have. Raises :class:`RequestError`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RequestError("preset", name, NAMES)
    return name


def read_preset(name: str, content: str, shipped: bool = False) -> Preset:
    """The preset in a file's ``content``. Raises :class:`RequestError` for a later version's."""
    lines = content.splitlines()
    if lines and (header := _HEADER.fullmatch(lines[0])):
        if int(header["version"]) > VERSION:
            raise RequestError(
                f"preset {name}",
                f"version {int(header['version'])}",
                f"versions up to {VERSION}",
                "Update the extension.",
            )
        del lines[0]
    count = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    description = "\n".join(line[1:].strip() for line in lines[:count])
    return Preset(name, description.strip(), "\n".join(lines[count:]).strip(), shipped)


class Presets:
    """The presets in the folders ``own`` and ``shipped``; of the same name, the own one counts.

    Files that are no plain files of at most 64 KiB (links, above all) raise :class:`RequestError` when they
    are used.
    """

    def __init__(self, own: Path, shipped: Path = SHIPPED):
        self.own, self.shipped = Path(own), Path(shipped)

    def names(self) -> list[str]:
        """All names, sorted; files of other names are left out (see :meth:`misnamed`)."""
        return sorted(
            {path.stem for path in (*_files(self.own), *_files(self.shipped)) if _NAME.fullmatch(path.stem)}
        )

    def misnamed(self) -> list[str]:
        """Files in the own folder whose names are none for presets."""
        return sorted(path.name for path in _files(self.own) if not _NAME.fullmatch(path.stem))

    def get(self, name: str, field: str = "preset") -> Preset:
        """Raises :class:`UnknownPresetError`, or :class:`RequestError` for a file that cannot be read."""
        if isinstance(name, str) and _NAME.fullmatch(name):
            for folder in (self.own, self.shipped):
                content = _read(folder / f"{name}{SUFFIX}")
                if content is not None:
                    return read_preset(name, content, shipped=folder is self.shipped)
        shown = f"@{name}" if field != "preset" else name
        raise UnknownPresetError(field, shown, f"the presets {', '.join(self.names()) or '(none)'}")

    def file(self, name: str) -> Path:
        """The file of a preset that :meth:`get` gives."""
        return (self.shipped if self.get(name).shipped else self.own) / f"{name}{SUFFIX}"

    def concepts(self, name: str) -> list[Concept]:
        """A preset's concepts, those of presets that it names among them."""
        return list(self.resolver()(name, "preset"))

    def resolver(self) -> Resolver:
        """What :func:`eiup.concepts.expand` asks for presets' concepts. For one request: it reads each file
        once."""
        return partial(self._resolve, known={}, path=())

    def save(self, name: str, text: str, description: str | None = None) -> Preset:
        """Create or replace the own preset of this name; what was shipped under it no longer counts.

        Without a description, ``text`` may be a whole file, or begin with comments that describe it.
        Raises :class:`RequestError` for whatever could not be used.
        """
        check_name(name)
        if not isinstance(text, str):
            raise RequestError("concepts", text, "text")
        if description is not None and not isinstance(description, str):
            raise RequestError("description", description, "text")
        preset = read_preset(name, text)
        if description is not None:
            described = "\n".join(line.strip() for line in description.strip().splitlines())
            preset = Preset(name, described, "\n".join(text.splitlines()).strip(), shipped=False)
        content = preset.file_text
        try:
            size = len(content.encode())
        except UnicodeEncodeError:
            raise RequestError(
                "preset", name, "text without lone surrogates, which are no characters"
            ) from None
        if size > MAX_BYTES:
            raise RequestError("preset", f"{size} bytes", f"at most {MAX_BYTES} bytes")
        # As it will be read, so that nothing is kept that cannot be used.
        self._expand(read_preset(name, content), "concepts", known={}, path=())
        try:
            write_atomically(self.own / f"{name}{SUFFIX}", content)
        except OSError as error:
            raise RequestError("preset", name, "a file that can be written", f"({error!r})") from error
        return self.get(name)

    def delete(self, name: str) -> None:
        """Delete an own preset; a shipped one of the same name counts again."""
        check_name(name)
        try:
            (self.own / f"{name}{SUFFIX}").unlink()
        except FileNotFoundError:
            self.get(name)
            raise ShippedPresetError(
                "preset",
                name,
                "presets of your own",
                "Shipped ones stay; save your own of this name instead.",
            ) from None
        except OSError as error:
            raise RequestError("preset", name, "a file that can be deleted", f"({error!r})") from error

    def _resolve(
        self, name: str, field: str, known: dict[str, Sequence[Concept]], path: tuple[str, ...]
    ) -> Sequence[Concept]:
        if name in path:
            circle = " > ".join(f"@{part}" for part in (*path[path.index(name) :], name))
            raise RequestError(field, circle, "presets that do not name themselves", "Break the circle.")
        if len(path) >= MAX_DEPTH:
            raise RequestError(field, f"@{path[0]}", f"presets in presets, at most {MAX_DEPTH} deep")
        if name not in known:
            known[name] = self._expand(self.get(name, field), field, known, path)
        return known[name]

    def _expand(
        self, preset: Preset, field: str, known: dict[str, Sequence[Concept]], path: tuple[str, ...]
    ) -> Sequence[Concept]:
        inner = partial(self._resolve, known=known, path=(*path, preset.name))
        concepts = parse_concepts(preset.text, f"{field} @{preset.name}", inner)
        if not concepts:
            raise RequestError(f"{field} @{preset.name}", preset.text, "at least one concept")
        return concepts


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix == SUFFIX] if folder.is_dir() else []


def _read(path: Path) -> str | None:
    """The file's text; None where there is no such file. Links are not followed, pipes not waited for."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise RequestError(
                "preset", path.name, "plain files, no links or folders", "Delete or replace it."
            )
        return read_text(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RequestError("preset", path.name, "a file that can be read", f"({error!r})") from error


def read_text(path: Path) -> str:
    """The text of a file that may be a preset's. Raises :class:`RequestError`, and FileNotFoundError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RequestError("preset", path.name, "a file that can be read", f"({error!r})") from error
    if len(content) > MAX_BYTES:
        raise RequestError("preset", path.name, f"files of at most {MAX_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError("preset", path.name, "text in UTF-8", "Save it as UTF-8.") from None
