"""Callbacks that extensions register: ``on_X(callback)`` to register, ``X_callback(...)`` to run them.

An exception in a callback is reported and swallowed; the next callback runs.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modules import errors


@dataclass
class ImageSaveParams:
    """An image about to be saved: the PIL image, ``p``, the path, texts for its metadata."""

    image: Any
    p: Any
    filename: str
    pnginfo: dict[str, str]


@dataclass
class ExtraNoiseParams:
    """``noise [B, C, H, W]`` to be added, the latent ``x`` and the noisy latent ``xi``."""

    noise: Any
    x: Any
    xi: Any


@dataclass
class CFGDenoiserParams:
    """The rows that go into the U-Net: every image's conds, then the unconds.

    ``sigma`` holds timesteps for samplers such as DDIM.
    """

    x: Any
    image_cond: Any
    sigma: Any
    sampling_step: int
    total_sampling_steps: int
    text_cond: Any
    text_uncond: Any
    denoiser: Any = None


@dataclass
class CFGDenoisedParams:
    """The rows that came out of the U-Net, before guidance combines them."""

    x: Any
    sampling_step: int
    total_sampling_steps: int
    inner_model: Any


@dataclass
class AfterCFGCallbackParams:
    """The guided prediction ``x [B, C, H, W]``."""

    x: Any
    sampling_step: int
    total_sampling_steps: int


@dataclass
class BeforeTokenCounterParams:
    prompt: str
    steps: int
    styles: list
    is_positive: bool = True


@dataclass
class ScriptCallback:
    script: str
    callback: Callable
    name: str = "unnamed"


CATEGORIES = (
    "app_started", "model_loaded", "ui_tabs", "ui_train_tabs", "ui_settings", "before_image_saved",
    "image_saved", "extra_noise", "cfg_denoiser", "cfg_denoised", "cfg_after_cfg", "before_component",
    "after_component", "image_grid", "infotext_pasted", "script_unloaded", "before_ui", "on_reload",
    "list_optimizers", "list_unets", "before_token_counter",
)  # fmt: skip

callback_map: dict[str, list[ScriptCallback]] = {f"callbacks_{category}": [] for category in CATEGORIES}


def add_callback(
    callbacks: list[ScriptCallback], fun: Callable, *, name: str | None = None, category: str = "unknown",
    filename: str | None = None,
) -> None:  # fmt: skip
    """Append a callback, named after its extension, file (the caller's unless given) and category."""
    from modules import extensions

    if filename is None:
        filename = _calling_file()
    extension = extensions.find_extension(filename)
    owner = extension.canonical_name if extension else "base"
    base = "/".join(part for part in (owner, os.path.basename(filename), category, name) if part)
    taken = {existing.name for existing in callbacks}
    unique, number = base, 1
    while unique in taken:
        unique = f"{base}-{number}"
        number += 1
    callbacks.append(ScriptCallback(filename, fun, unique))


def _calling_file() -> str:
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame.f_code.co_filename if frame is not None else "unknown file"


def clear_callbacks() -> None:
    for callbacks in callback_map.values():
        callbacks.clear()


def _remove_where(matches: Callable[[ScriptCallback], bool]) -> None:
    for callbacks in callback_map.values():
        callbacks[:] = [entry for entry in callbacks if not matches(entry)]


def remove_callbacks_for_function(callback_func: Callable) -> None:
    _remove_where(lambda entry: entry.callback == callback_func)


def remove_current_script_callbacks() -> None:
    """Remove what the calling file registered."""
    filename = _calling_file()
    _remove_where(lambda entry: entry.script == filename)


def _run(category: str, *args: Any, backwards: bool = False, **kwargs: Any) -> list[Any]:
    """Run a category's callbacks; what they returned, leaving out those that failed."""
    callbacks = list(callback_map[f"callbacks_{category}"])
    results = []
    for entry in reversed(callbacks) if backwards else callbacks:
        try:
            results.append(entry.callback(*args, **kwargs))
        except Exception:
            errors.report(f"Error executing callback {category} for {entry.script}", exc_info=True)
    return results


def app_started_callback(demo: Any, app: Any) -> None:
    _run("app_started", demo, app)


def app_reload_callback() -> None:
    _run("on_reload")


def model_loaded_callback(sd_model: Any) -> None:
    _run("model_loaded", sd_model)


def ui_tabs_callback() -> list[tuple]:
    return [tab for tabs in _run("ui_tabs") for tab in tabs or []]


def ui_settings_callback() -> None:
    _run("ui_settings")


def before_image_saved_callback(params: ImageSaveParams) -> None:
    _run("before_image_saved", params)


def image_saved_callback(params: ImageSaveParams) -> None:
    _run("image_saved", params)


def extra_noise_callback(params: ExtraNoiseParams) -> None:
    _run("extra_noise", params)


def cfg_denoiser_callback(params: CFGDenoiserParams) -> None:
    _run("cfg_denoiser", params)


def cfg_denoised_callback(params: CFGDenoisedParams) -> None:
    _run("cfg_denoised", params)


def cfg_after_cfg_callback(params: AfterCFGCallbackParams) -> None:
    _run("cfg_after_cfg", params)


def before_component_callback(component: Any, **kwargs: Any) -> None:
    _run("before_component", component, **kwargs)


def after_component_callback(component: Any, **kwargs: Any) -> None:
    _run("after_component", component, **kwargs)


def infotext_pasted_callback(infotext: str, params: dict[str, Any]) -> None:
    _run("infotext_pasted", infotext, params)


def script_unloaded_callback() -> None:
    _run("script_unloaded", backwards=True)


def before_ui_callback() -> None:
    _run("before_ui", backwards=True)


def list_unets_callback() -> list:
    found: list = []
    _run("list_unets", found)
    return found


def before_token_counter_callback(params: BeforeTokenCounterParams) -> None:
    _run("before_token_counter", params)


def _registrar(category: str, when: str) -> Callable:
    def register(callback: Callable, *, name: str | None = None) -> None:
        add_callback(
            callback_map[f"callbacks_{category}"],
            callback,
            name=name,
            category=category,
            filename=_calling_file(),
        )

    register.__doc__ = f"Register a callback that runs {when}."
    return register


on_app_started = _registrar("app_started", "with (demo, app) when the server has started")
on_before_reload = _registrar("on_reload", "before scripts are loaded again")
on_model_loaded = _registrar("model_loaded", "with the model after a checkpoint was loaded")
on_ui_tabs = _registrar("ui_tabs", "to make tabs: a list of (blocks, title, elem_id), or None")
on_ui_train_tabs = _registrar("ui_train_tabs", "for the real host's training tab; never here")
on_ui_settings = _registrar("ui_settings", "before settings are shown: call shared.opts.add_option there")
on_before_image_saved = _registrar("before_image_saved", "with ImageSaveParams, which may be changed")
on_image_saved = _registrar("image_saved", "with ImageSaveParams after an image was written")
on_extra_noise = _registrar("extra_noise", "with ExtraNoiseParams before extra noise is added")
on_cfg_denoiser = _registrar("cfg_denoiser", "with CFGDenoiserParams before each call of the U-Net")
on_cfg_denoised = _registrar("cfg_denoised", "with CFGDenoisedParams after each call of the U-Net")
on_cfg_after_cfg = _registrar("cfg_after_cfg", "with AfterCFGCallbackParams after guidance")
on_before_component = _registrar("before_component", "with (component, **kwargs) before gradio creates it")
on_after_component = _registrar("after_component", "with (component, **kwargs) after gradio created it")
on_image_grid = _registrar("image_grid", "before a grid of images is made")
on_infotext_pasted = _registrar("infotext_pasted", "with (infotext, parameters) before they are applied")
on_script_unloaded = _registrar("script_unloaded", "before scripts are loaded again: undo every patch")
on_before_ui = _registrar("before_ui", "before the page is made")
on_list_optimizers = _registrar("list_optimizers", "to list attention optimisations; never here")
on_list_unets = _registrar("list_unets", "to list replacements of the U-Net")
on_before_token_counter = _registrar("before_token_counter", "with BeforeTokenCounterParams")
