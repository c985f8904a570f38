"""Small helpers under the host's names."""

from __future__ import annotations

import os
import re

from modules.paths_internal import cwd, script_path


def natural_sort_key(text: str, regex: re.Pattern = re.compile(r"(\d+)")) -> list:
    """Sort key under which ``a2`` comes before ``a10``."""
    return [int(part) if part.isdigit() else part.lower() for part in regex.split(text)]


def listfiles(dirname: str) -> list[str]:
    names = sorted((name for name in os.listdir(dirname) if not name.startswith(".")), key=natural_sort_key)
    return [path for path in (os.path.join(dirname, name) for name in names) if os.path.isfile(path)]


def truncate_path(target_path: str, base_path: str = cwd) -> str:
    """The path relative to ``base_path`` where it lies below it, else absolute."""
    target, base = os.path.abspath(target_path), os.path.abspath(base_path)
    return os.path.relpath(target, base) if target.startswith(base + os.sep) else target


def html_path(filename: str) -> str:
    return os.path.join(script_path, "html", filename)
