"""The txt2img tab."""

from __future__ import annotations

import gradio as gr

from modules import (
    infotext_utils,
    processing,
    scripts,
    sd_models,
    sd_samplers,
    sd_schedulers,
    shared,
    txt2img,
    ui,
)
from modules.call_queue import wrap_gradio_gpu_call, wrap_queued_call
from modules.infotext_utils import PasteField
from modules.shared import opts
from modules.ui_common import create_output_panel
from modules.ui_components import FormGroup, FormHTML, FormRow, InputAccordion, ResizeHandleRow, ToolButton
from modules.ui_toprow import Toprow

SIZE = 128
"""Toyland's images are small."""
CFG_SCALE = 5.0


def _final_resolution(
    enable: bool, width: int, height: int, scale: float, resize_x: int, resize_y: int
) -> str:
    if not enable:
        return ""
    p = processing.StableDiffusionProcessingTxt2Img(
        width=width, height=height, enable_hr=True, hr_scale=scale, hr_resize_x=resize_x, hr_resize_y=resize_y
    )
    p.calculate_target_resolution()
    target = f"{p.hr_resize_x or p.hr_upscale_to_x}x{p.hr_resize_y or p.hr_upscale_to_y}"
    return (
        f"from <span class='resolution'>{width}x{height}</span> to <span class='resolution'>{target}</span>"
    )


class _Hires:
    """The components of hires fix."""

    def __init__(self):
        with InputAccordion(False, label="Hires. fix", elem_id="txt2img_hr") as self.enable:
            with self.enable.extra():
                self.final = FormHTML(value="", elem_id="txtimg_hr_finalres", min_width=0)
            with FormRow(elem_id="txt2img_hires_fix_row1", variant="compact"):
                modes = [*shared.latent_upscale_modes, *[scaler.name for scaler in shared.sd_upscalers]]
                self.upscaler = gr.Dropdown(
                    label="Upscaler", elem_id="txt2img_hr_upscaler", choices=modes,
                    value=shared.latent_upscale_default_mode,
                )  # fmt: skip
                self.steps = gr.Slider(0, 150, 0, step=1, label="Hires steps", elem_id="txt2img_hires_steps")
                self.denoising = gr.Slider(
                    0.0, 1.0, 0.7, step=0.01, label="Denoising strength", elem_id="txt2img_denoising_strength"
                )
            with FormRow(elem_id="txt2img_hires_fix_row2", variant="compact"):
                self.scale = gr.Slider(
                    1.0, 4.0, 2.0, step=0.05, label="Upscale by", elem_id="txt2img_hr_scale"
                )
                self.resize_x = gr.Slider(
                    0, 2048, 0, step=8, label="Resize width to", elem_id="txt2img_hr_resize_x"
                )
                self.resize_y = gr.Slider(
                    0, 2048, 0, step=8, label="Resize height to", elem_id="txt2img_hr_resize_y"
                )
            with FormRow(
                elem_id="txt2img_hires_fix_row3", variant="compact", visible=opts.hires_fix_show_sampler
            ) as self.sampler_row:
                same = "Use same checkpoint"
                self.checkpoint = gr.Dropdown(
                    label="Checkpoint", elem_id="hr_checkpoint", value=same,
                    choices=[same, *sd_models.checkpoint_tiles(use_short=True)],
                )  # fmt: skip
                same = "Use same sampler"
                self.sampler = gr.Dropdown(
                    label="Hires sampling method", elem_id="hr_sampler", value=same,
                    choices=[same, *sd_samplers.visible_sampler_names()],
                )  # fmt: skip
                same = "Use same scheduler"
                self.scheduler = gr.Dropdown(
                    label="Hires schedule type", elem_id="hr_scheduler", value=same,
                    choices=[same, *[scheduler.label for scheduler in sd_schedulers.schedulers]],
                )  # fmt: skip
            with FormRow(
                elem_id="txt2img_hires_fix_row4", variant="compact", visible=opts.hires_fix_show_prompts
            ) as self.prompts_row:
                self.prompt = gr.Textbox(label="Hires prompt", elem_id="hires_prompt", lines=2)
                self.negative_prompt = gr.Textbox(
                    label="Hires negative prompt", elem_id="hires_neg_prompt", lines=2
                )

    def inputs(self) -> list:
        """In the order of ``txt2img.txt2img``'s arguments."""
        return [
            self.enable, self.denoising, self.scale, self.upscaler, self.steps, self.resize_x, self.resize_y,
            self.checkpoint, self.sampler, self.scheduler, self.prompt, self.negative_prompt,
        ]  # fmt: skip

    def show_resolution(self, width: gr.Slider, height: gr.Slider) -> None:
        watched = [self.enable, width, height, self.scale, self.resize_x, self.resize_y]
        for component in watched:
            component.change(fn=_final_resolution, inputs=watched, outputs=[self.final], show_progress=False)

    def paste_fields(self) -> list[PasteField]:
        def used(params: dict) -> bool:
            return "Denoising strength" in params and (
                "Hires upscale" in params or "Hires upscaler" in params
            )

        def shows_sampler(params: dict):
            labels = ("Hires sampler", "Hires checkpoint", "Hires schedule type")
            differs = any(not str(params.get(label, "Use same")).startswith("Use same") for label in labels)
            return gr.update(visible=True) if differs else gr.update()

        def shows_prompts(params: dict):
            given = params.get("Hires prompt") or params.get("Hires negative prompt")
            return gr.update(visible=True) if given else gr.update()

        return [
            PasteField(self.denoising, "Denoising strength", api="denoising_strength"),
            PasteField(self.enable, used, api="enable_hr"),
            PasteField(self.scale, "Hires upscale", api="hr_scale"),
            PasteField(self.upscaler, "Hires upscaler", api="hr_upscaler"),
            PasteField(self.steps, "Hires steps", api="hr_second_pass_steps"),
            PasteField(self.resize_x, "Hires resize-1", api="hr_resize_x"),
            PasteField(self.resize_y, "Hires resize-2", api="hr_resize_y"),
            PasteField(self.checkpoint, "Hires checkpoint", api="hr_checkpoint_name"),
            PasteField(self.sampler, sd_samplers.get_hr_sampler_from_infotext, api="hr_sampler_name"),
            PasteField(self.scheduler, sd_samplers.get_hr_scheduler_from_infotext, api="hr_scheduler"),
            PasteField(self.sampler_row, shows_sampler),
            PasteField(self.prompt, "Hires prompt", api="hr_prompt"),
            PasteField(self.negative_prompt, "Hires negative prompt", api="hr_negative_prompt"),
            PasteField(self.prompts_row, shows_prompts),
        ]


def create_interface() -> gr.Blocks:
    runner = scripts.scripts_current = scripts.scripts_txt2img
    runner.initialize_scripts(is_img2img=False)
    with gr.Blocks(analytics_enabled=False) as interface:
        toprow = Toprow("txt2img")
        task_id = gr.Label(visible=False)
        with ResizeHandleRow(equal_height=False):
            with gr.Column(variant="compact", elem_id="txt2img_settings"):
                runner.prepare_ui()
                runner.setup_ui_for_section("sampler")
                with gr.Row(elem_id="txt2img_accordions", elem_classes="accordions"):
                    hires = _Hires()
                    runner.setup_ui_for_section("accordions")
                with FormRow():
                    with gr.Column(elem_id="txt2img_column_size", scale=4, min_width=200):
                        width = gr.Slider(64, 2048, SIZE, step=8, label="Width", elem_id="txt2img_width")
                        height = gr.Slider(64, 2048, SIZE, step=8, label="Height", elem_id="txt2img_height")
                    with gr.Column(
                        elem_id="txt2img_dimensions_row",
                        scale=0,
                        min_width=40,
                        elem_classes="dimensions-tools",
                    ):
                        switch = ToolButton(value=ui.switch_values_symbol, elem_id="txt2img_res_switch_btn")
                    with gr.Column(elem_id="txt2img_column_batch", scale=3, min_width=160):
                        batch_count = gr.Slider(
                            1, 100, 1, step=1, label="Batch count", elem_id="txt2img_batch_count"
                        )
                        batch_size = gr.Slider(
                            1, 8, 1, step=1, label="Batch size", elem_id="txt2img_batch_size"
                        )
                cfg_scale = gr.Slider(
                    1.0, 30.0, CFG_SCALE, step=0.5, label="CFG Scale", elem_id="txt2img_cfg_scale"
                )
                runner.setup_ui_for_section("seed")
                override_settings = ui.create_override_settings_dropdown("txt2img")
                with FormGroup(elem_id="txt2img_script_container"):
                    custom_inputs = runner.setup_ui()
            output = create_output_panel("txt2img")

        hires.show_resolution(width, height)
        switch.click(fn=None, _js="() => switchWidthHeight('txt2img')", inputs=None, outputs=None)
        call = {
            "fn": wrap_gradio_gpu_call(txt2img.txt2img, extra_outputs=[None, "", ""]),
            "_js": "submit",
            "inputs": [
                task_id, toprow.prompt, toprow.negative_prompt, batch_count, batch_size, cfg_scale, height,
                width, *hires.inputs(), override_settings, *custom_inputs,
            ],
            "outputs": [output.gallery, output.generation_info, output.infotext, output.html_log],
            "show_progress": False,
        }  # fmt: skip
        toprow.prompt.submit(**call)
        toprow.submit.click(**call)
        steps = runner.script("Sampler").steps
        toprow.prompt.change(
            fn=wrap_queued_call(ui.update_token_counter), inputs=[toprow.prompt, steps],
            outputs=[toprow.token_counter], show_progress=False,
        )  # fmt: skip

        infotext_utils.add_paste_fields(
            "txt2img", None,
            [
                PasteField(toprow.prompt, "Prompt", api="prompt"),
                PasteField(toprow.negative_prompt, "Negative prompt", api="negative_prompt"),
                PasteField(cfg_scale, "CFG scale", api="cfg_scale"),
                PasteField(width, "Size-1", api="width"),
                PasteField(height, "Size-2", api="height"),
                PasteField(batch_size, "Batch size", api="batch_size"),
                *hires.paste_fields(),
                *runner.infotext_fields,
            ],
            override_settings,
        )  # fmt: skip
        infotext_utils.register_paste_params_button(
            infotext_utils.ParamBinding(toprow.paste, "txt2img", source_text_component=toprow.prompt)
        )
    scripts.scripts_current = None
    return interface
