"""Folders under the name that most extensions import."""

from modules.paths_internal import (  # noqa: F401
    cwd,
    data_path,
    extensions_builtin_dir,
    extensions_dir,
    models_path,
    script_path,
)

paths = {"Stable Diffusion": script_path}
