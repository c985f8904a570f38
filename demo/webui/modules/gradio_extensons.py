"""Makes gradio tell scripts of every component, and show tooltips. (The name is the host's.)"""

from __future__ import annotations

from functools import wraps

import gradio as gr

from modules import script_callbacks, scripts


def _announce(component_class: type) -> None:
    original = component_class.__init__

    @wraps(original)
    def init(self, *args, **kwargs):
        self.webui_tooltip = kwargs.pop("tooltip", None)
        if scripts.scripts_current is not None:
            scripts.scripts_current.before_component(self, **kwargs)
        script_callbacks.before_component_callback(self, **kwargs)
        original(self, *args, **kwargs)
        # The class that style sheets for the host refer to.
        self.elem_classes = [f"gradio-{self.get_block_name()}", *(self.elem_classes or [])]
        script_callbacks.after_component_callback(self, **kwargs)
        if scripts.scripts_current is not None:
            scripts.scripts_current.after_component(self, **kwargs)

    component_class.__init__ = init


def _describe_tooltips() -> None:
    original = gr.blocks.Block.get_config

    @wraps(original)
    def get_config(self):
        config = original(self)
        if getattr(self, "webui_tooltip", None):
            config["webui_tooltip"] = self.webui_tooltip
        return config

    gr.blocks.Block.get_config = get_config


_announce(gr.components.IOComponent)
_announce(gr.blocks.BlockContext)
_describe_tooltips()
