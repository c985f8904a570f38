"""Folders, known before anything else is imported."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

cwd = os.getcwd()
modules_path = str(Path(__file__).resolve().parent)
script_path = str(Path(modules_path).parent)
repository_path = str(Path(script_path).parents[1])


def _early_arguments() -> argparse.Namespace:
    """The folders that other options' defaults depend on."""
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--data-dir", default=os.path.join(repository_path, "demo", "out", "webui"))
    early.add_argument("--models-dir", default=None)
    return early.parse_known_args()[0]


_early = _early_arguments()
data_path = os.path.abspath(_early.data_dir)
models_path = os.path.abspath(_early.models_dir or os.path.join(data_path, "models"))
toyland_path = os.path.join(repository_path, "demo", "toyland", "weights")
extensions_dir = os.path.join(data_path, "extensions")
extensions_builtin_dir = os.path.join(script_path, "extensions-builtin")
default_output_dir = os.path.join(data_path, "outputs")
