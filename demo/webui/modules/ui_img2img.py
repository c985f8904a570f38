"""The img2img tab, with inpainting."""

from __future__ import annotations

import gradio as gr

from modules import img2img, infotext_utils, scripts, ui
from modules.call_queue import wrap_gradio_gpu_call, wrap_queued_call
from modules.ui_common import create_output_panel
from modules.ui_components import FormGroup, FormRow, ResizeHandleRow
from modules.ui_toprow import Toprow
from modules.ui_txt2img import CFG_SCALE, SIZE


class _Inpainting:
    """What is only used with a mask."""

    def __init__(self):
        with FormGroup(elem_id="inpaint_controls"):
            with FormRow():
                self.blur = gr.Slider(0, 64, 4, step=1, label="Mask blur", elem_id="img2img_mask_blur")
                self.padding = gr.Slider(
                    0, 256, 32, step=4, label="Only masked padding, pixels",
                    elem_id="img2img_inpaint_full_res_padding",
                )  # fmt: skip
            with FormRow():
                self.invert = self._radio("Mask mode", ["Inpaint masked", "Inpaint not masked"], "mask_mode")
                self.area = self._radio("Inpaint area", ["Whole picture", "Only masked"], "inpaint_full_res")
            fills = ["fill", "original", "latent noise", "latent nothing"]
            self.fill = self._radio("Masked content", fills, "inpainting_fill", "original")

    @staticmethod
    def _radio(label: str, choices: list[str], item: str, value: str | None = None) -> gr.Radio:
        return gr.Radio(
            label=label, choices=choices, value=value or choices[0], type="index", elem_id=f"img2img_{item}"
        )

    def inputs(self) -> list:
        return [self.blur, self.fill, self.area, self.padding, self.invert]

    def paste_fields(self) -> list[tuple]:
        return [
            (self.blur, "Mask blur"), (self.invert, "Mask mode"), (self.fill, "Masked content"),
            (self.area, "Inpaint area"), (self.padding, "Masked area padding"),
        ]  # fmt: skip


def create_interface() -> gr.Blocks:
    runner = scripts.scripts_current = scripts.scripts_img2img
    runner.initialize_scripts(is_img2img=True)
    with gr.Blocks(analytics_enabled=False) as interface:
        toprow = Toprow("img2img")
        task_id = gr.Label(visible=False)
        with ResizeHandleRow(equal_height=False):
            with gr.Column(variant="compact", elem_id="img2img_settings"):
                runner.prepare_ui()
                picture = {
                    "source": "upload",
                    "interactive": True,
                    "type": "pil",
                    "image_mode": "RGBA",
                    "height": 300,
                }
                with gr.Tabs(elem_id="mode_img2img"):
                    with gr.TabItem("img2img", id="img2img", elem_id="img2img_img2img_tab"):
                        init_img = gr.Image(
                            label="Image for img2img",
                            elem_id="img2img_image",
                            show_label=False,
                            tool="editor",
                            **picture,
                        )
                    with gr.TabItem("Inpaint", id="inpaint", elem_id="img2img_inpaint_tab"):
                        init_img_with_mask = gr.Image(
                            label="Image for inpainting with mask", show_label=False, elem_id="img2maskimg",
                            tool="sketch", **picture,
                        )  # fmt: skip
                        inpainting = _Inpainting()
                resize_mode = gr.Radio(
                    label="Resize mode", elem_id="resize_mode", type="index", value="Just resize",
                    choices=["Just resize", "Crop and resize", "Resize and fill",
                    "Just resize (latent upscale)"],
                )  # fmt: skip
                runner.setup_ui_for_section("sampler")
                with gr.Row(elem_id="img2img_accordions", elem_classes="accordions"):
                    runner.setup_ui_for_section("accordions")
                with FormRow():
                    with gr.Column(elem_id="img2img_column_size", scale=4, min_width=200):
                        width = gr.Slider(64, 2048, SIZE, step=8, label="Width", elem_id="img2img_width")
                        height = gr.Slider(64, 2048, SIZE, step=8, label="Height", elem_id="img2img_height")
                    with gr.Column(elem_id="img2img_column_batch", scale=3, min_width=160):
                        batch_count = gr.Slider(
                            1, 100, 1, step=1, label="Batch count", elem_id="img2img_batch_count"
                        )
                        batch_size = gr.Slider(
                            1, 8, 1, step=1, label="Batch size", elem_id="img2img_batch_size"
                        )
                cfg_scale = gr.Slider(
                    1.0, 30.0, CFG_SCALE, step=0.5, label="CFG Scale", elem_id="img2img_cfg_scale"
                )
                denoising = gr.Slider(
                    0.0,
                    1.0,
                    0.75,
                    step=0.01,
                    label="Denoising strength",
                    elem_id="img2img_denoising_strength",
                )
                runner.setup_ui_for_section("seed")
                override_settings = ui.create_override_settings_dropdown("img2img")
                with FormGroup(elem_id="img2img_script_container"):
                    custom_inputs = runner.setup_ui()
            output = create_output_panel("img2img")

        call = {
            "fn": wrap_gradio_gpu_call(img2img.img2img, extra_outputs=[None, "", ""]),
            "_js": "submit_img2img",
            "inputs": [
                task_id, task_id, toprow.prompt, toprow.negative_prompt, init_img, init_img_with_mask,
                *inpainting.inputs(), batch_count, batch_size, cfg_scale, denoising, height, width,
                resize_mode, override_settings, *custom_inputs,
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
        fields = [
            (toprow.prompt, "Prompt"), (toprow.negative_prompt, "Negative prompt"), (cfg_scale, "CFG scale"),
            (width, "Size-1"), (height, "Size-2"), (batch_size, "Batch size"), (denoising,
            "Denoising strength"), *inpainting.paste_fields(), *runner.infotext_fields,
        ]  # fmt: skip
        infotext_utils.add_paste_fields("img2img", init_img, fields, override_settings)
        infotext_utils.add_paste_fields("inpaint", init_img_with_mask, fields, override_settings)
        infotext_utils.register_paste_params_button(
            infotext_utils.ParamBinding(toprow.paste, "img2img", source_text_component=toprow.prompt)
        )
    scripts.scripts_current = None
    return interface
