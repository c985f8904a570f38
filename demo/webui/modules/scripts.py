"""The base class of scripts, and loading them.

The two runners (txt2img, img2img) hold one instance of each script; see ``script_runner``.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from modules import errors, extensions, paths, script_callbacks, script_loading

AlwaysVisible = object()


@dataclass
class MaskBlendArgs:
    """A blend of generated and original latents; ``denoiser`` is None for the last one."""

    current_latent: Any
    nmask: Any
    init_latent: Any
    mask: Any
    blended_latent: Any
    denoiser: Any = None
    sigma: Any = None

    @property
    def is_final_blend(self) -> bool:
        return self.denoiser is None


@dataclass
class PostSampleArgs:
    samples: Any


@dataclass
class PostprocessImageArgs:
    image: Any


@dataclass
class PostProcessMaskOverlayArgs:
    index: int
    mask_for_overlay: Any
    overlay_image: Any


@dataclass
class PostprocessBatchListArgs:
    images: list


@dataclass
class OnComponent:
    component: Any


class Script:
    """A script of an extension. Subclasses override what they need.

    ``*args`` are the values of the components that ``ui()`` returned, in that order. All of these methods
    may be called any number of times; what they raise is reported and swallowed.
    """

    name: str | None = None
    """The title in lower case."""
    section: str | None = None
    """Where in the page the components go; None is the end of the settings column."""
    filename: str | None = None
    args_from: int | None = None
    args_to: int | None = None
    """``p.script_args[args_from:args_to]`` are this script's."""
    alwayson = False
    is_txt2img = False
    is_img2img = False
    tabname: str | None = None
    group = None
    create_group = True
    """Wrap the components of an always visible script into a gr.Group."""
    infotext_fields: list | None = None
    """Pairs (component, infotext label or function of the parsed infotext), set in ``ui()``."""
    paste_field_names: list[str] | None = None
    """Infotext labels that the "Send to" buttons carry over, set in ``ui()``."""
    api_info = None
    on_before_component_elem_id: list | None = None
    on_after_component_elem_id: list | None = None
    setup_for_ui_only = False
    controls = None

    def title(self) -> str:
        raise NotImplementedError

    def ui(self, is_img2img: bool):
        """Create components and return those whose values are wanted as ``*args``."""

    def show(self, is_img2img: bool):
        """False: not here. True: in the list of scripts. ``AlwaysVisible``: always there and always run."""
        return True

    def run(self, p, *args):
        """For a script chosen from the list: do everything and return a ``Processed``."""

    def setup(self, p, *args):
        """When ``p`` has both its scripts and their arguments."""

    def before_process(self, p, *args):
        """First thing in processing, before settings are overridden."""

    def process(self, p, *args):
        """After seeds and prompts are known, before anything is generated."""

    def before_process_batch(self, p, *args, **kwargs):
        """Before extra networks are parsed. kwargs: batch_number, prompts, seeds, subseeds."""

    def after_extra_networks_activate(self, p, *args, **kwargs):
        """After extra networks are active. kwargs as above, and extra_network_data."""

    def process_batch(self, p, *args, **kwargs):
        """Before prompts are encoded. kwargs as in before_process_batch."""

    def process_before_every_sampling(self, p, *args, **kwargs):
        """Before each sampling pass; twice with hires fix. kwargs: x, noise, c, uc."""

    def before_hr(self, p, *args):
        """Before the second pass of hires fix."""

    def on_mask_blend(self, p, mba: MaskBlendArgs, *args):
        """When inpainting blends the original back in."""

    def post_sample(self, p, ps: PostSampleArgs, *args):
        """After sampling, before decoding."""

    def postprocess_batch(self, p, *args, **kwargs):
        """After decoding. kwargs: images ``[B, 3, H, W]`` in 0..1, batch_number."""

    def postprocess_batch_list(self, p, pp: PostprocessBatchListArgs, *args, **kwargs):
        """As above, with a list that may be changed."""

    def postprocess_image(self, p, pp: PostprocessImageArgs, *args):
        """For each image."""

    def postprocess_maskoverlay(self, p, ppmo: PostProcessMaskOverlayArgs, *args):
        """For each image, before the original is laid over it."""

    def postprocess_image_after_composite(self, p, pp: PostprocessImageArgs, *args):
        """For each image, after the original was laid over it."""

    def postprocess(self, p, processed, *args):
        """At the very end, with the ``Processed``."""

    def before_component(self, component, **kwargs):
        """Before gradio creates any component of this tab."""

    def after_component(self, component, **kwargs):
        """After gradio created any component of this tab."""

    def on_before_component(self, callback, *, elem_id: str) -> None:
        """Have ``callback(OnComponent)`` called before the component with this id is created."""
        self.on_before_component_elem_id = [*(self.on_before_component_elem_id or []), (elem_id, callback)]

    def on_after_component(self, callback, *, elem_id: str) -> None:
        """Have ``callback(OnComponent)`` called after the component with this id was created."""
        self.on_after_component_elem_id = [*(self.on_after_component_elem_id or []), (elem_id, callback)]

    def describe(self) -> str:
        return ""

    def _tab_prefix(self) -> str:
        # A script that shows in both tabs exists twice, and its ids must differ.
        both = self.show(True) == self.show(False)
        return ("img2img_" if self.is_img2img else "txt2img_") if both else ""

    def elem_id(self, item_id: str) -> str:
        """An element id made of this script's tab and title."""
        title = re.sub(r"[^a-z_0-9]", "", re.sub(r"\s", "_", self.title().lower()))
        return f"script_{self._tab_prefix()}{title}_{item_id}"


class ScriptBuiltinUI(Script):
    """A part of the page itself that is written as a script."""

    setup_for_ui_only = True

    def elem_id(self, item_id: str) -> str:
        return self._tab_prefix() + item_id

    def show(self, is_img2img: bool):
        return AlwaysVisible


class ScriptFile(NamedTuple):
    basedir: str
    filename: str
    path: str


class ScriptClassData(NamedTuple):
    script_class: type[Script]
    path: str
    basedir: str
    module: ModuleType


scripts_data: list[ScriptClassData] = []
current_basedir = paths.script_path

scripts_txt2img = None
scripts_img2img = None
scripts_current = None
"""The runner whose tab is being created, which hears of every new component."""


def basedir() -> str:
    """The folder of the extension whose script is being loaded."""
    return current_basedir


def list_scripts(scriptdirname: str, extension: str, *, include_extensions: bool = True) -> list[ScriptFile]:
    """Files with this ending in a folder of the host and of every active extension."""
    folders = [paths.script_path]
    if include_extensions:
        folders += [active.path for active in extensions.active()]
    found = []
    for base in folders:
        folder = os.path.join(base, scriptdirname)
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        found += [
            ScriptFile(base, name, os.path.join(folder, name))
            for name in names
            if name.lower().endswith(extension)
        ]
    return found


def list_files_with_name(filename: str) -> list[str]:
    """This file in the host's folder and in every active extension's, where it exists."""
    folders = [paths.script_path] + [active.path for active in extensions.active()]
    return [path for path in (os.path.join(folder, filename) for folder in folders) if os.path.isfile(path)]


def load_scripts() -> None:
    """Forget every callback and script, then run all script files again."""
    global current_basedir, scripts_txt2img, scripts_img2img

    from modules.script_runner import ScriptRunner

    scripts_data.clear()
    script_callbacks.clear_callbacks()
    files = list_scripts("scripts", ".py")
    files += list_scripts("modules/processing_scripts", ".py", include_extensions=False)
    for file in files:
        saved = list(sys.path)
        try:
            if file.basedir != paths.script_path:
                sys.path.insert(0, file.basedir)
            current_basedir = file.basedir
            module = script_loading.load_module(file.path)
            for found in vars(module).values():
                if inspect.isclass(found) and issubclass(found, Script):
                    scripts_data.append(ScriptClassData(found, file.path, file.basedir, module))
        except Exception:
            errors.report(f"Error loading script: {file.filename}", exc_info=True)
        finally:
            sys.path[:] = saved
            current_basedir = paths.script_path

    scripts_txt2img = ScriptRunner()
    scripts_img2img = ScriptRunner()


reload_scripts = load_scripts
