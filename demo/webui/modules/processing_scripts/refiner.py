"""A second checkpoint for the end of sampling; the switch itself is in ``sd_samplers_common``."""

from __future__ import annotations

import gradio as gr

from modules import scripts, sd_models
from modules.infotext_utils import PasteField
from modules.ui_common import create_refresh_button
from modules.ui_components import InputAccordion


def _title(name: str | None) -> str | None:
    info = sd_models.get_closet_checkpoint_match(name)
    return info.title if info else None


class ScriptRefiner(scripts.ScriptBuiltinUI):
    section = "accordions"
    create_group = False

    def title(self) -> str:
        return "Refiner"

    def ui(self, is_img2img: bool):
        with InputAccordion(False, label="Refiner", elem_id=self.elem_id("enable")) as enable, gr.Row():
            checkpoint = gr.Dropdown(
                label="Checkpoint",
                elem_id=self.elem_id("checkpoint"),
                choices=sd_models.checkpoint_tiles(),
                value="",
            )
            create_refresh_button(
                checkpoint, sd_models.list_models, lambda: {"choices": sd_models.checkpoint_tiles()},
                self.elem_id("checkpoint_refresh"),
            )  # fmt: skip
            switch_at = gr.Slider(
                0.01, 1.0, 0.8, step=0.01, label="Switch at", elem_id=self.elem_id("switch_at")
            )
        self.infotext_fields = [
            PasteField(enable, lambda params: "Refiner" in params),
            PasteField(checkpoint, lambda params: _title(params.get("Refiner")), api="refiner_checkpoint"),
            PasteField(switch_at, "Refiner switch at", api="refiner_switch_at"),
        ]
        return [enable, checkpoint, switch_at]

    def setup(self, p, enable, checkpoint, switch_at) -> None:
        chosen = enable and checkpoint not in (None, "", "None")
        p.refiner_checkpoint = checkpoint if chosen else None
        p.refiner_switch_at = switch_at if chosen else None
