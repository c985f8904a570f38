"""Seed, and the variation of it."""

from __future__ import annotations

import gradio as gr

from modules import scripts, ui
from modules.infotext_utils import PasteField
from modules.ui_components import ToolButton


class ScriptSeed(scripts.ScriptBuiltinUI):
    section = "seed"
    create_group = False

    def title(self) -> str:
        return "Seed"

    def ui(self, is_img2img: bool):
        with gr.Row(elem_id=self.elem_id("seed_row")):
            seed = gr.Number(label="Seed", value=-1, elem_id=self.elem_id("seed"), min_width=100, precision=0)
            random_seed = ToolButton(
                ui.random_symbol,
                elem_id=self.elem_id("random_seed"),
                tooltip="Set seed to -1: a new one every time",
            )
            extra = gr.Checkbox(label="Extra", elem_id=self.elem_id("subseed_show"), value=False)
        with gr.Row(visible=False, elem_id=self.elem_id("subseed_row")) as extras:
            subseed = gr.Number(
                label="Variation seed", value=-1, elem_id=self.elem_id("subseed"), precision=0
            )
            strength = gr.Slider(
                0, 1, 0.0, step=0.01, label="Variation strength", elem_id=self.elem_id("subseed_strength")
            )
        random_seed.click(fn=lambda: -1, show_progress=False, inputs=[], outputs=[seed])
        extra.change(
            lambda shown: gr.update(visible=shown), show_progress=False, inputs=[extra], outputs=[extras]
        )
        self.infotext_fields = [
            PasteField(seed, "Seed", api="seed"),
            PasteField(extra, lambda params: "Variation seed" in params),
            PasteField(subseed, "Variation seed", api="subseed"),
            PasteField(strength, "Variation seed strength", api="subseed_strength"),
        ]
        return [seed, extra, subseed, strength]

    def setup(self, p, seed, extra, subseed, strength) -> None:
        p.seed = seed
        if extra and strength > 0:
            p.subseed, p.subseed_strength = subseed, strength
