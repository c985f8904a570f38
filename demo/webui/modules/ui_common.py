"""Parts that several tabs have."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr

from modules import infotext_utils, scripts, shared
from modules.ui_components import ToolButton

REFRESH = "\U0001f504"


def plaintext_to_html(text: str, classname: str | None = None) -> str:
    """A paragraph with line breaks."""
    attribute = f" class='{classname}'" if classname else ""
    return f"<p{attribute}>" + "<br>\n".join(html.escape(line) for line in text.split("\n")) + "</p>"


def update_generation_info(generation_info: str, html_info: str, img_index: int) -> str:
    """The infotext of the image that was selected in the gallery."""
    infotexts = json.loads(generation_info)["infotexts"] if generation_info else []
    return plaintext_to_html(infotexts[img_index]) if 0 <= img_index < len(infotexts) else html_info


@dataclass
class OutputPanel:
    gallery: gr.Gallery
    generation_info: gr.Textbox
    infotext: gr.HTML
    html_log: gr.HTML


def create_output_panel(tabname: str) -> OutputPanel:
    """Gallery, the selected image's infotext, and errors."""
    with (
        gr.Column(elem_id=f"{tabname}_results"),
        gr.Column(variant="panel", elem_id=f"{tabname}_results_panel"),
    ):
        with gr.Group(elem_id=f"{tabname}_gallery_container"):
            gallery = gr.Gallery(
                label="Output", show_label=False, elem_id=f"{tabname}_gallery", columns=4, preview=True,
                height=shared.opts.gallery_height or None,
            )  # fmt: skip
        with gr.Row(elem_id=f"image_buttons_{tabname}", elem_classes="image-buttons"):
            send = ToolButton(
                "\U0001f5bc\ufe0f", elem_id=f"{tabname}_send_to_img2img",
                tooltip="Send image and generation parameters to img2img tab.",
            )  # fmt: skip
        with gr.Group():
            infotext = gr.HTML(elem_id=f"html_info_{tabname}", elem_classes="infotext")
            html_log = gr.HTML(elem_id=f"html_log_{tabname}", elem_classes="html-log")
            generation_info = gr.Textbox(visible=False, elem_id=f"generation_info_{tabname}")
            selected = gr.Button(visible=False, elem_id=f"{tabname}_generation_info_button")
        selected.click(
            fn=update_generation_info, _js="(info, html) => [info, html, selected_gallery_index()]",
            inputs=[generation_info, infotext, infotext], outputs=[infotext], show_progress=False,
        )  # fmt: skip
    runner = scripts.scripts_img2img if tabname == "img2img" else scripts.scripts_txt2img
    infotext_utils.register_paste_params_button(
        infotext_utils.ParamBinding(
            send,
            "img2img",
            source_tabname="txt2img" if tabname == "txt2img" else None,
            source_image_component=gallery,
            paste_field_names=runner.paste_field_names,
        )  # fmt: skip
    )
    return OutputPanel(gallery, generation_info, infotext, html_log)


def create_refresh_button(
    refresh_component, refresh_method: Callable, refreshed_args, elem_id: str
) -> ToolButton:
    """A button that reads a dropdown's choices again."""

    def refresh():
        refresh_method()
        args = refreshed_args() if callable(refreshed_args) else refreshed_args
        for name, value in args.items():
            setattr(refresh_component, name, value)
        return gr.update(**args)

    button = ToolButton(value=REFRESH, elem_id=elem_id, tooltip=f"{refresh_component.label}: refresh")
    button.click(fn=refresh, inputs=[], outputs=[refresh_component])
    return button
