"""The page."""

from __future__ import annotations

import json
import mimetypes
import os

import gradio as gr
import torch

import modules.gradio_extensons  # noqa: F401
from modules import (
    extra_networks,
    infotext_utils,
    paths,
    prompt_parser,
    script_callbacks,
    scripts,
    sd_models,
    shared,
)
from modules.call_queue import wrap_gradio_call, wrap_gradio_call_no_job, wrap_gradio_gpu_call  # noqa: F401
from modules.infotext_utils import image_from_url_text  # noqa: F401
from modules.sd_hijack import model_hijack
from modules.shared import opts
from modules.ui_common import create_refresh_button, plaintext_to_html
from modules.ui_components import FormGroup, FormHTML, FormRow, InputAccordion, ToolButton  # noqa: F401
from modules.ui_gradio_extensions import reload_javascript

# Windows may think that scripts are text, and browsers then refuse to run them.
mimetypes.add_type("application/javascript", ".js")
mimetypes.add_type("application/javascript", ".mjs")

random_symbol = "\U0001f3b2\ufe0f"
reuse_symbol = "\u267b\ufe0f"
switch_values_symbol = "\U000021c5"

txt2img_paste_fields: list = []
img2img_paste_fields: list = []


def write_defaults() -> None:
    """Write what the page begins with into ``ui-config.json``, as the host does for every field; here it is
    the size of images. What is in the file already stays."""
    from modules.ui_txt2img import SIZE

    filename = os.path.join(paths.data_path, "ui-config.json")
    if os.path.exists(filename):
        return
    size = {f"{tab}/{name}/value": SIZE for tab in ("txt2img", "img2img") for name in ("Width", "Height")}
    with open(filename, "w", encoding="utf8") as file:
        json.dump(size, file, indent=4)


def update_token_counter(text: str, steps: int) -> str:
    """``tokens/room`` for the longest that the prompt becomes in the course of its schedule."""
    params = script_callbacks.BeforeTokenCounterParams(text, steps, [])
    script_callbacks.before_token_counter_callback(params)
    prompt, _ = extra_networks.parse_prompt(params.prompt)
    _, flat, _ = prompt_parser.get_multicond_prompt_list([prompt])
    schedules = prompt_parser.get_learned_conditioning_prompt_schedules(flat, params.steps)
    texts = [text for schedule in schedules for _, text in schedule]
    count, room = max(model_hijack.get_prompt_lengths(text) for text in texts)
    return f"<span>{count}/{room}</span>"


def create_override_settings_dropdown(tabname: str) -> gr.Dropdown:
    """Settings that a pasted infotext wants changed; shown when there are any."""
    dropdown = gr.Dropdown(
        [], label="Override settings", visible=False, elem_id=f"{tabname}_override_settings", multiselect=True
    )
    dropdown.change(
        fn=lambda chosen: gr.Dropdown.update(visible=bool(chosen)), inputs=[dropdown], outputs=[dropdown]
    )
    return dropdown


def _pnginfo(image):
    """The metadata as HTML, and the infotext for the buttons."""
    from modules import images

    if image is None:
        return "", "", ""
    infotext, items = images.read_info_from_image(image)
    shown = ({"parameters": infotext} if infotext else {}) | items
    blocks = [
        f"<div><p><b>{plaintext_to_html(str(key))}</b></p><p>{plaintext_to_html(str(text))}</p></div>"
        for key, text in shown.items()
    ]
    return "", infotext or "", "\n".join(blocks) or "<div><p>Nothing found in the image.</p></div>"


def _create_pnginfo_tab() -> gr.Blocks:
    with gr.Blocks(analytics_enabled=False) as interface, gr.Row(equal_height=False):
        with gr.Column(variant="panel"):
            image = gr.Image(
                elem_id="pnginfo_image", label="Source", source="upload", interactive=True, type="pil"
            )
        with gr.Column(variant="panel"):
            html = gr.HTML()
            generation_info = gr.Textbox(visible=False, elem_id="pnginfo_generation_info")
            html2 = gr.HTML(elem_id="pnginfo_html2_info")
            with gr.Row():
                buttons = infotext_utils.create_buttons(["txt2img", "img2img"])
        for tabname, button in buttons.items():
            infotext_utils.register_paste_params_button(
                infotext_utils.ParamBinding(
                    button, tabname, source_text_component=generation_info, source_image_component=image
                )
            )
        image.change(
            fn=wrap_gradio_call_no_job(_pnginfo), inputs=[image], outputs=[html, generation_info, html2]
        )
    return interface


def _change_checkpoint(title: str):
    shared.opts.set("sd_model_checkpoint", title)
    return gr.update(value=shared.opts.sd_model_checkpoint)


def _create_settings() -> None:
    """The checkpoint above the tabs, and all settings as JSON for the page's ``opts``."""
    with gr.Row(elem_id="quicksettings", variant="compact"):
        checkpoint = gr.Dropdown(
            label="Stable Diffusion checkpoint", elem_id="setting_sd_model_checkpoint",
            choices=sd_models.checkpoint_tiles(), value=lambda: opts.sd_model_checkpoint,
        )  # fmt: skip
        create_refresh_button(
            checkpoint, sd_models.list_models, lambda: {"choices": sd_models.checkpoint_tiles()},
            "refresh_sd_model_checkpoint",
        )  # fmt: skip
    checkpoint.input(fn=_change_checkpoint, inputs=[checkpoint], outputs=[checkpoint])
    gr.Textbox(elem_id="settings_json", value=opts.dumpjson, visible=False)


def create_ui() -> gr.Blocks:
    """All tabs; also gives scripts the places of their arguments."""
    from modules import ui_img2img, ui_txt2img

    reload_javascript()
    infotext_utils.reset()
    script_callbacks.ui_settings_callback()
    interfaces = [
        (ui_txt2img.create_interface(), "txt2img", "txt2img"),
        (ui_img2img.create_interface(), "img2img", "img2img"),
        (_create_pnginfo_tab(), "PNG Info", "pnginfo"),
        *script_callbacks.ui_tabs_callback(),
    ]
    shared.tab_names = [label for _, label, _ in interfaces]
    txt2img_paste_fields[:] = infotext_utils.paste_fields["txt2img"]["fields"]
    img2img_paste_fields[:] = infotext_utils.paste_fields["img2img"]["fields"]
    with gr.Blocks(theme=shared.gradio_theme, analytics_enabled=False, title="Stable Diffusion") as demo:
        _create_settings()
        infotext_utils.connect_paste_params_buttons()
        with gr.Tabs(elem_id="tabs"):
            for interface, label, ifid in interfaces:
                with gr.TabItem(label, id=ifid, elem_id=f"tab_{ifid}"):
                    interface.render()
        gr.HTML(
            f"<div>stand-in for AUTOMATIC1111 webui v1.10.1 &#x2022; gradio {gr.__version__} &#x2022; "
            f"torch {torch.__version__} &#x2022; <a href='/docs'>API</a></div>",
            elem_id="footer",
        )
    scripts.scripts_current = None
    return demo
