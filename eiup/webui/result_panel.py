"""The result panel's place in the accordion; ``javascript/eiup-panel.js`` draws it from infotext."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from modules.call_queue import wrap_gradio_gpu_call

from .compare import make_unerased


def build(elem_id: Callable[[str], str]) -> None:
    """The panel's place, and what its button *Compare* sets going."""
    tab = "img2img" if "img2img" in elem_id("panel") else "txt2img"
    gr.HTML(elem_id=elem_id("panel"), elem_classes="eiup-place")
    task = gr.Textbox(visible=False)
    infotext = gr.Textbox(visible=False)
    unerased = gr.Textbox(visible=False, elem_id=elem_id("unerased"))
    start = gr.Button(visible=False, elem_id=elem_id("make_unerased"))
    message = gr.HTML(elem_id=elem_id("compare_log"), elem_classes="html-log")
    start.click(
        fn=wrap_gradio_gpu_call(make_unerased, extra_outputs=[""]),
        _js=f"() => eiupPanel.startComparing('{tab}')",
        inputs=[task, infotext],
        outputs=[unerased, message],
        show_progress=False,
    ).then(fn=None, _js=f"(made) => eiupPanel.endComparing('{tab}', made)", inputs=[unerased])
