"""What the rest of the host and extensions share: settings, state, the current model."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import gradio as gr

from modules import devices, options, shared_cmd_options, shared_options, shared_state, styles, util
from modules.paths_internal import (  # noqa: F401
    data_path,
    extensions_builtin_dir,
    extensions_dir,
    models_path,
    script_path,
)

cmd_opts = shared_cmd_options.cmd_opts
parser = shared_cmd_options.parser

OptionInfo = options.OptionInfo
OptionHTML = options.OptionHTML
options_section = options.options_section
options_templates = shared_options.options_templates
restricted_opts = shared_options.restricted_opts
opts = options.Options(options_templates, restricted_opts)
config_filename = cmd_opts.ui_settings_file
opts.load(config_filename)

state = shared_state.State()
prompt_styles = styles.StyleDatabase(os.path.join(data_path, "styles.csv"))
device = devices.device
weight_load_location = "cpu"
parallel_processing_allowed = True
batch_cond_uncond = True

demo: gr.Blocks | None = None
gradio_theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
settings_components: dict = {}
tab_names: list[str] = []
hide_dirs = {"visible": True}
progress_print_out = sys.stdout
xformers_available = False
hypernetworks: dict = {}
loaded_hypernetworks: list = []
face_restorers: list = []
sd_upscalers: list = []

latent_upscale_default_mode = "Latent"
latent_upscale_modes = {
    "Latent": {"mode": "bilinear", "antialias": False},
    "Latent (antialiased)": {"mode": "bilinear", "antialias": True},
    "Latent (bicubic)": {"mode": "bicubic", "antialias": False},
    "Latent (bicubic antialiased)": {"mode": "bicubic", "antialias": True},
    "Latent (nearest)": {"mode": "nearest", "antialias": False},
    "Latent (nearest-exact)": {"mode": "nearest-exact", "antialias": False},
}

natural_sort_key = util.natural_sort_key
listfiles = util.listfiles
html_path = util.html_path


class TotalTQDM:
    """Extensions drive the host's overall progress bar; here it shows nothing."""

    def update(self) -> None: ...

    def updateTotal(self, new_total: int) -> None: ...  # noqa: N802

    def clear(self) -> None: ...


total_tqdm = TotalTQDM()


class _SharedModule(ModuleType):
    """Makes ``shared.sd_model`` load the checkpoint at its first use."""

    @property
    def sd_model(self):
        from modules import sd_models

        return sd_models.model_data.get_sd_model()

    @sd_model.setter
    def sd_model(self, value) -> None:
        from modules import sd_models

        sd_models.model_data.set_sd_model(value)


sys.modules[__name__].__class__ = _SharedModule
