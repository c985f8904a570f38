"""The extensions named on the command line."""

from __future__ import annotations

import configparser
import os
from dataclasses import dataclass

from modules import shared, shared_cmd_options


@dataclass
class Extension:
    name: str
    path: str
    canonical_name: str
    enabled: bool = True
    is_builtin: bool = False
    remote: str = ""
    branch: str = ""
    commit_hash: str = ""
    version: str = ""
    commit_date: int = 0


extensions: list[Extension] = []


def _canonical_name(folder: str) -> str:
    metadata = configparser.ConfigParser()
    metadata.read(os.path.join(folder, "metadata.ini"), encoding="utf-8")
    return metadata.get("Extension", "Name", fallback=os.path.basename(folder)).lower().strip()


def list_extensions() -> None:
    """Fill ``extensions`` from ``--extension``."""
    extensions.clear()
    for folder in shared_cmd_options.extension_folders(shared.cmd_opts):
        name = os.path.basename(folder)
        enabled = name not in shared.opts.disabled_extensions and shared.opts.disable_all_extensions == "none"
        extensions.append(Extension(name, folder, _canonical_name(folder), enabled))


def active() -> list[Extension]:
    return [extension for extension in extensions if extension.enabled]


def find_extension(filename: str) -> Extension | None:
    """The extension that a file belongs to."""
    path = os.path.abspath(filename)
    return next((found for found in extensions if path.startswith(found.path + os.sep)), None)
