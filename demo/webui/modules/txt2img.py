"""txt2img, as the page starts it."""

from __future__ import annotations

from contextlib import closing

import gradio as gr

from modules import processing, scripts, shared
from modules.infotext_utils import create_override_settings_dict
from modules.shared import opts
from modules.ui_common import plaintext_to_html


def run_and_show(p, runner, args: tuple, request: gr.Request) -> tuple:
    """Generate with the scripts' arguments; returns what the page shows."""
    p.scripts = runner
    p.script_args = args
    p.user = getattr(request, "username", None)
    with closing(p):
        processed = runner.run(p, *args) or processing.process_images(p)
    shared.total_tqdm.clear()
    return (
        processed.images, processed.js(), plaintext_to_html(processed.info),
        plaintext_to_html(processed.comments, classname="comments"),
    )  # fmt: skip


def txt2img(
    id_task: str, request: gr.Request, prompt: str, negative_prompt: str, n_iter: int, batch_size: int,
    cfg_scale: float, height: int, width: int, enable_hr: bool, denoising_strength: float, hr_scale: float,
    hr_upscaler: str, hr_second_pass_steps: int, hr_resize_x: int, hr_resize_y: int, hr_checkpoint_name: str,
    hr_sampler_name: str, hr_scheduler: str, hr_prompt: str, hr_negative_prompt: str,
    override_settings_texts: list, *args,
) -> tuple:  # fmt: skip
    def unless_same(name: str) -> str | None:
        return None if name.startswith("Use same ") else name

    p = processing.StableDiffusionProcessingTxt2Img(
        outpath_samples=opts.outdir_samples or opts.outdir_txt2img_samples,
        outpath_grids=opts.outdir_grids or opts.outdir_txt2img_grids,
        prompt=prompt,
        negative_prompt=negative_prompt,
        n_iter=n_iter,
        batch_size=batch_size,
        cfg_scale=cfg_scale,
        width=width,
        height=height,
        enable_hr=enable_hr,
        denoising_strength=denoising_strength,
        hr_scale=hr_scale,
        hr_upscaler=hr_upscaler,
        hr_second_pass_steps=hr_second_pass_steps,
        hr_resize_x=hr_resize_x,
        hr_resize_y=hr_resize_y,
        hr_checkpoint_name=unless_same(hr_checkpoint_name),
        hr_sampler_name=unless_same(hr_sampler_name),
        hr_scheduler=unless_same(hr_scheduler),
        hr_prompt=hr_prompt,
        hr_negative_prompt=hr_negative_prompt,
        override_settings=create_override_settings_dict(override_settings_texts),
    )
    return run_and_show(p, scripts.scripts_txt2img, args, request)
