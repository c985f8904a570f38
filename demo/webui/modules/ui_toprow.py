"""The prompts, and the buttons beside them."""

from __future__ import annotations

import gradio as gr

from modules import images, shared
from modules.ui_components import ToolButton

PASTE = "\u2199\ufe0f"
CLEAR = "\U0001f5d1\ufe0f"
KEYS = "(Press Ctrl+Enter to generate, Alt+Enter to skip, Esc to interrupt)"


def _interrupt() -> None:
    """End now, or, with several images to go, after the current one."""
    state = shared.state
    if shared.opts.interrupt_after_current and state.job_count > 1 and not state.stopping_generation:
        state.stop_generating()
        gr.Info("Generation will stop after finishing this image, click again to stop immediately.")
    else:
        state.interrupt()


class Toprow:
    def __init__(self, tabname: str):
        self.tabname = tabname
        with gr.Row(elem_id=f"{tabname}_toprow", variant="compact"):
            with gr.Column(elem_id=f"{tabname}_prompt_container", scale=6):
                self.prompt = self._prompt("Prompt", "prompt")
                self.prompt_img = gr.File(
                    label="",
                    elem_id=f"{tabname}_prompt_image",
                    file_count="single",
                    type="binary",
                    visible=False,
                )
                self.negative_prompt = self._prompt("Negative prompt", "neg_prompt")
            with gr.Column(scale=1, elem_id=f"{tabname}_actions_column"):
                self._create_buttons()
        self.prompt_img.change(
            fn=images.image_data, inputs=[self.prompt_img], outputs=[self.prompt, self.prompt_img],
            show_progress=False,
        )  # fmt: skip

    def _prompt(self, label: str, item: str) -> gr.Textbox:
        with gr.Row(elem_id=f"{self.tabname}_{item}_row", elem_classes=["prompt-row"]):
            return gr.Textbox(
                label=label, elem_id=f"{self.tabname}_{item}", show_label=False, lines=3,
                elem_classes=["prompt"], placeholder=f"{label}\n{KEYS}",
            )  # fmt: skip

    def _create_buttons(self) -> None:
        name = self.tabname
        with gr.Row(elem_id=f"{name}_generate_box", elem_classes=["generate-box"]):
            self.interrupt = gr.Button(
                "Interrupt", elem_id=f"{name}_interrupt", elem_classes="generate-box-interrupt"
            )
            self.skip = gr.Button("Skip", elem_id=f"{name}_skip", elem_classes="generate-box-skip")
            self.interrupting = gr.Button(
                "Interrupting...", elem_id=f"{name}_interrupting", elem_classes="generate-box-interrupting"
            )
            self.submit = gr.Button("Generate", elem_id=f"{name}_generate", variant="primary")
        with gr.Row(elem_id=f"{name}_tools"):
            self.paste = ToolButton(
                value=PASTE, elem_id="paste",
                tooltip="Read generation parameters from prompt or last generation if prompt is empty.",
            )  # fmt: skip
            self.clear_prompt_button = ToolButton(
                value=CLEAR, elem_id=f"{name}_clear_prompt", tooltip="Clear prompt"
            )
            self.token_counter = gr.HTML(
                value="<span>0/75</span>", elem_id=f"{name}_token_counter", elem_classes=["token-counter"]
            )
        self.skip.click(fn=shared.state.skip, inputs=[], outputs=[], queue=False)
        self.interrupt.click(
            fn=_interrupt,
            _js=f"() => showSubmitInterruptingPlaceholder('{name}')",
            inputs=[],
            outputs=[],
            queue=False,
        )
        self.interrupting.click(fn=_interrupt, inputs=[], outputs=[], queue=False)
        self.clear_prompt_button.click(
            fn=None, _js="() => ['', '']", inputs=[], outputs=[self.prompt, self.negative_prompt]
        )
