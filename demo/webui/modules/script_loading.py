"""Run extension files as modules."""

from __future__ import annotations

import argparse
import importlib.util
import os
from types import ModuleType

from modules import errors

loaded_scripts: dict[str, ModuleType] = {}
"""Modules by path, as of their last run."""


def load_module(path: str) -> ModuleType:
    """Run the file and return it as a module that is *not* in ``sys.modules``."""
    spec = importlib.util.spec_from_file_location(os.path.basename(path), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded_scripts[path] = module
    return module


def preload_extension(folder: str, parser: argparse.ArgumentParser) -> None:
    """Let ``preload.py`` of an extension add its command line options."""
    path = os.path.join(folder, "preload.py")
    if not os.path.isfile(path):
        return
    try:
        module = load_module(path)
        if hasattr(module, "preload"):
            module.preload(parser)
    except Exception:
        errors.report(f"Error running preload() for {path}", exc_info=True)
