"""Sampler, schedule and steps."""

from __future__ import annotations

import gradio as gr

from modules import scripts, sd_samplers, sd_schedulers
from modules.infotext_utils import PasteField
from modules.ui_components import FormRow


class ScriptSampler(scripts.ScriptBuiltinUI):
    section = "sampler"

    def title(self) -> str:
        return "Sampler"

    def ui(self, is_img2img: bool):
        samplers = sd_samplers.visible_sampler_names()
        labels = [scheduler.label for scheduler in sd_schedulers.schedulers]
        tab = self.tabname
        with FormRow(elem_id=f"sampler_selection_{tab}"):
            self.sampler_name = gr.Dropdown(
                samplers, value=samplers[0], label="Sampling method", elem_id=f"{tab}_sampling"
            )
            self.scheduler = gr.Dropdown(
                labels, value=labels[0], label="Schedule type", elem_id=f"{tab}_scheduler"
            )
            self.steps = gr.Slider(1, 150, 20, step=1, label="Sampling steps", elem_id=f"{tab}_steps")
        self.infotext_fields = [
            PasteField(self.steps, "Steps", api="steps"),
            PasteField(self.sampler_name, sd_samplers.get_sampler_from_infotext, api="sampler_name"),
            PasteField(self.scheduler, sd_samplers.get_scheduler_from_infotext, api="scheduler"),
        ]
        return [self.steps, self.sampler_name, self.scheduler]

    def setup(self, p, steps, sampler_name, scheduler) -> None:
        p.steps, p.sampler_name, p.scheduler = steps, sampler_name, scheduler
