"""img2img and inpainting, as the page starts them."""

from __future__ import annotations

import gradio as gr
from PIL import Image

from modules import processing, scripts
from modules.infotext_utils import create_override_settings_dict
from modules.shared import opts
from modules.txt2img import run_and_show

INPAINT = 1
"""Index of the tab with the mask."""


def img2img(
    id_task: str, request: gr.Request, mode: int, prompt: str, negative_prompt: str,
    init_img: Image.Image | None, init_img_with_mask: dict | None, mask_blur: int, inpainting_fill: int,
    inpaint_full_res: int, inpaint_full_res_padding: int, inpainting_mask_invert: int, n_iter: int,
    batch_size: int, cfg_scale: float, denoising_strength: float, height: int, width: int, resize_mode: int,
    override_settings_texts: list, *args,
) -> tuple:  # fmt: skip
    image, mask = init_img, None
    if mode == INPAINT and init_img_with_mask is not None:
        image = init_img_with_mask["image"]
        mask = processing.create_binary_mask(init_img_with_mask["mask"])
    if image is None:
        raise ValueError("no image: put one into the img2img tab first")
    p = processing.StableDiffusionProcessingImg2Img(
        outpath_samples=opts.outdir_samples or opts.outdir_img2img_samples,
        outpath_grids=opts.outdir_grids or opts.outdir_img2img_grids,
        prompt=prompt,
        negative_prompt=negative_prompt,
        n_iter=n_iter,
        batch_size=batch_size,
        cfg_scale=cfg_scale,
        width=width,
        height=height,
        init_images=[image],
        mask=mask,
        mask_blur=mask_blur,
        inpainting_fill=inpainting_fill,
        inpaint_full_res=bool(inpaint_full_res),
        inpaint_full_res_padding=inpaint_full_res_padding,
        inpainting_mask_invert=inpainting_mask_invert,
        resize_mode=resize_mode,
        denoising_strength=denoising_strength,
        override_settings=create_override_settings_dict(override_settings_texts),
    )
    return run_and_show(p, scripts.scripts_img2img, args, request)
