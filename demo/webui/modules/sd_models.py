"""Checkpoints: finding, naming, loading and switching them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import logging as transformers_logging

from demo.toyland.model import load_checkpoint
from modules import devices, paths, script_callbacks, sd_hijack, shared
from modules.paths_internal import toyland_path
from modules.sd_model_wrapper import WebuiSdModel
from modules.shared import opts

# The tokenizer warns about prompts of more than 77 tokens, which are cut into chunks here.
transformers_logging.set_verbosity_error()

model_path = os.path.join(paths.models_path, "Stable-diffusion")

checkpoints_list: dict[str, CheckpointInfo] = {}
"""Checkpoints by title."""
checkpoint_aliases: dict[str, CheckpointInfo] = {}
"""Checkpoints by everything that they may be called."""


class CheckpointInfo:
    """A checkpoint file and its names: ``title`` is ``file name [short hash]``."""

    def __init__(self, filename: str):
        self.filename = filename
        self.is_safetensors = True
        self.metadata: dict = {}
        self.name = os.path.basename(filename)
        self.name_for_extra = self.model_name = os.path.splitext(self.name)[0]
        with open(filename, "rb") as file:
            content = file.read()
        self.sha256: str | None = hashlib.sha256(content).hexdigest()
        # The old hash, of 64 kB from the second megabyte on.
        self.hash = hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
        self.shorthash: str | None = self.sha256[:10]
        self.title = f"{self.name} [{self.shorthash}]"
        self.short_title = f"{self.name_for_extra} [{self.shorthash}]"
        self.ids = [
            self.hash, self.shorthash, self.sha256, self.name, self.model_name, self.title, self.short_title,
            f"{self.name} [{self.hash}]",
        ]  # fmt: skip

    def register(self) -> None:
        checkpoints_list[self.title] = self
        checkpoint_aliases.update(dict.fromkeys(self.ids, self))

    def calculate_shorthash(self) -> str | None:
        return self.shorthash


def _checkpoint_files() -> Iterator[str]:
    if shared.cmd_opts.ckpt is not None:
        if os.path.isfile(shared.cmd_opts.ckpt):
            yield os.path.abspath(shared.cmd_opts.ckpt)
        else:
            print(f"Checkpoint in --ckpt argument not found: {shared.cmd_opts.ckpt}", file=sys.stderr)
    for folder in (shared.cmd_opts.ckpt_dir, toyland_path, model_path):
        if folder is not None and os.path.isdir(folder):
            # Other models, such as the oracle, have no configuration beside them.
            files = (
                path for path in Path(folder).glob("*.safetensors") if path.with_suffix(".yaml").is_file()
            )
            yield from sorted(str(path.absolute()) for path in files)


def list_models() -> None:
    """Look for checkpoints again. Where two have the same name, the first found keeps it."""
    checkpoints_list.clear()
    checkpoint_aliases.clear()
    found = [CheckpointInfo(filename) for filename in dict.fromkeys(_checkpoint_files())]
    for info in reversed(found):
        info.register()
    in_order = {info.title: info for info in found}
    checkpoints_list.clear()
    checkpoints_list.update(in_order)
    if shared.cmd_opts.ckpt is not None and found:
        opts.data["sd_model_checkpoint"] = found[0].title


def checkpoint_tiles(use_short: bool = False) -> list[str]:
    """Titles, under the host's misspelt name."""
    return [info.short_title if use_short else info.title for info in checkpoints_list.values()]


def get_closet_checkpoint_match(search_string: str | None) -> CheckpointInfo | None:
    """The checkpoint of that name or hash, or else the one with the shortest title that contains it."""
    if not search_string:
        return None
    if search_string in checkpoint_aliases:
        return checkpoint_aliases[search_string]
    for wanted in (search_string, search_string.rsplit("[", 1)[0].strip()):
        found = [info for info in checkpoints_list.values() if wanted and wanted in info.title]
        if found:
            return min(found, key=lambda info: len(info.title))
    return None


def select_checkpoint() -> CheckpointInfo:
    """The checkpoint of the settings, or the first one; ``FileNotFoundError`` when there is none."""
    wanted = opts.sd_model_checkpoint
    if wanted in checkpoint_aliases:
        return checkpoint_aliases[wanted]
    if not checkpoints_list:
        raise FileNotFoundError(
            f"No checkpoint found in {toyland_path} or {model_path}. Name one with --ckpt FILE: a "
            ".safetensors file with the .yaml of the same name and the folder toyland-clip beside it."
        )
    first = next(iter(checkpoints_list.values()))
    if wanted is not None:
        print(f"Checkpoint {wanted} not found; loading fallback {first.title}", file=sys.stderr)
    return first


class SdModelData:
    """The model in use, and the ones kept in memory (``opts.sd_checkpoints_limit`` of them)."""

    def __init__(self):
        self.sd_model: WebuiSdModel | None = None
        self.loaded_sd_models: list[WebuiSdModel] = []
        self.was_loaded_at_least_once = False
        self.lock = threading.Lock()

    def get_sd_model(self) -> WebuiSdModel | None:
        if not self.was_loaded_at_least_once:
            with self.lock:
                if not self.was_loaded_at_least_once:
                    load_model()
        return self.sd_model

    def set_sd_model(self, v: WebuiSdModel | None, already_loaded: bool = False) -> None:
        self.sd_model = v
        self.loaded_sd_models = [model for model in self.loaded_sd_models if model is not v]
        if v is not None:
            self.loaded_sd_models.insert(0, v)


model_data = SdModelData()


class SkipWritingToConfig(contextlib.AbstractContextManager):
    """While it lasts, switching checkpoints leaves the settings alone."""

    skip = False

    def __enter__(self) -> None:
        self.previous, SkipWritingToConfig.skip = SkipWritingToConfig.skip, True

    def __exit__(self, *error) -> None:
        SkipWritingToConfig.skip = self.previous


def load_model(checkpoint_info: CheckpointInfo | None = None) -> WebuiSdModel:
    """Load a checkpoint, make it the current model and tell extensions."""
    info = checkpoint_info or select_checkpoint()
    sd_model = WebuiSdModel(load_checkpoint(Path(info.filename)).to_precision(devices.precision))
    sd_model.sd_checkpoint_info = info
    sd_model.sd_model_checkpoint = info.filename
    sd_model.sd_model_hash = info.shorthash
    sd_hijack.model_hijack.hijack(sd_model)
    sd_model.eval().requires_grad_(False)
    model_data.set_sd_model(sd_model)
    del model_data.loaded_sd_models[max(1, int(opts.sd_checkpoints_limit)) :]
    model_data.was_loaded_at_least_once = True
    _note_in_settings(info)
    sd_hijack.model_hijack.embedding_db.load_textual_inversion_embeddings(force_reload=True)
    script_callbacks.model_loaded_callback(sd_model)
    with devices.autocast(), torch.no_grad():
        sd_model.cond_stage_model_empty_prompt = sd_model.get_learned_conditioning([""])
    print(f"Loaded checkpoint {info.title}", flush=True)
    return sd_model


def _note_in_settings(info: CheckpointInfo) -> None:
    if not SkipWritingToConfig.skip:
        opts.data["sd_model_checkpoint"] = info.title
        opts.data["sd_checkpoint_hash"] = info.sha256


def reload_model_weights(
    sd_model: WebuiSdModel | None = None, info: CheckpointInfo | None = None, forced_reload: bool = False
) -> WebuiSdModel:
    """Make the checkpoint of ``info`` (or of the settings) the current one, loading it if need be.

    A model that is still in memory is used again without ``on_model_loaded`` being called.
    """
    info = info or select_checkpoint()
    current = sd_model or model_data.sd_model
    if current is not None and current.sd_model_checkpoint == info.filename and not forced_reload:
        return current
    for kept in model_data.loaded_sd_models:
        if kept.sd_model_checkpoint == info.filename and not forced_reload:
            model_data.set_sd_model(kept)
            sd_hijack.model_hijack.clip = kept.cond_stage_model
            _note_in_settings(info)
            return kept
    return load_model(info)


def unload_model_weights(sd_model: WebuiSdModel | None = None, info: CheckpointInfo | None = None) -> None:
    """Accepted for compatibility: this small model stays in memory."""
