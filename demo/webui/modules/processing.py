"""One generation, from ``p`` to a ``Processed``.

``p`` classes are in processing_base, processing_txt2img and processing_img2img; they are imported from here.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image

from modules import devices, extra_networks, images, paths, scripts, sd_models, sd_samplers, sd_unet, shared
from modules.processed import Processed, create_infotext
from modules.processing_base import (  # noqa: F401
    StableDiffusionProcessing,
    create_random_tensors,
    decode_latent_batch,
    fix_seed,
    get_fixed_seed,
    opt_C,
    opt_f,
    program_version,
)
from modules.processing_img2img import StableDiffusionProcessingImg2Img, create_binary_mask  # noqa: F401
from modules.processing_txt2img import StableDiffusionProcessingTxt2Img  # noqa: F401
from modules.rng import ImageRNG
from modules.sd_hijack import model_hijack
from modules.sd_samplers_common import decode_first_stage, images_tensor_to_samples  # noqa: F401
from modules.shared import opts, state


def process_images(p: StableDiffusionProcessing) -> Processed:
    """Generate under ``p.override_settings``; settings are as before afterwards, whatever happens."""
    if p.scripts is not None:
        p.scripts.before_process(p)

    stored = {key: opts.data[key] for key in p.override_settings if key in opts.data}
    try:
        if p.override_settings.get("sd_model_checkpoint") not in sd_models.checkpoint_aliases:
            p.override_settings.pop("sd_model_checkpoint", None)
            sd_models.reload_model_weights()  # a refiner of the last generation may still be loaded
        for key, value in p.override_settings.items():
            opts.set(key, value, is_api=True, run_callbacks=False)
            if key == "sd_model_checkpoint":
                sd_models.reload_model_weights()
        sd_samplers.fix_p_invalid_sampler_and_scheduler(p)
        return process_images_inner(p)
    finally:
        if p.override_settings_restore_afterwards:
            for key, value in stored.items():
                setattr(opts, key, value)


def _prepare(p: StableDiffusionProcessing) -> None:
    """Fix seeds, prompts and the model's names."""
    seed, subseed = get_fixed_seed(p.seed), get_fixed_seed(p.subseed)
    p.restore_faces = bool(p.restore_faces)
    p.tiling = opts.tiling if p.tiling is None else p.tiling
    if p.refiner_checkpoint not in (None, "", "None", "none"):
        p.refiner_checkpoint_info = sd_models.get_closet_checkpoint_match(p.refiner_checkpoint)
        if p.refiner_checkpoint_info is None:
            raise RuntimeError(f"Could not find checkpoint with name {p.refiner_checkpoint}")
    p.sd_model_name = shared.sd_model.sd_checkpoint_info.name_for_extra
    p.sd_model_hash = shared.sd_model.sd_model_hash
    model_hijack.clear_comments()
    p.fill_fields_from_opts()
    p.setup_prompts()
    count = len(p.all_prompts)
    varies = p.subseed_strength == 0
    p.all_seeds = seed if isinstance(seed, list) else [int(seed) + (i if varies else 0) for i in range(count)]
    p.all_subseeds = subseed if isinstance(subseed, list) else [int(subseed) + i for i in range(count)]
    if not p.do_not_reload_embeddings:
        model_hijack.load_embeddings()


def process_images_inner(p: StableDiffusionProcessing) -> Processed:
    if isinstance(p.prompt, list):
        assert p.prompt, "the list of prompts is empty"
    else:
        assert p.prompt is not None
    _prepare(p)
    if p.scripts is not None:
        p.scripts.process(p)

    output = _Output()
    with torch.no_grad(), p.sd_model.ema_scope():
        with devices.autocast():
            p.init(p.all_prompts, p.all_seeds, p.all_subseeds)
            sd_unet.apply_unet()
        if state.job_count == -1:
            state.job_count = p.n_iter
        for number in range(p.n_iter):
            p.iteration = number
            state.skipped = False
            if state.interrupted or state.stopping_generation:
                break
            if not _process_batch(p, number, output):
                break
        if not output.infotexts:
            output.infotexts.append(Processed(p, []).infotext(p, 0))
        p.color_corrections = None
        _add_grid(p, output)

    if not p.disable_extra_networks and p.extra_network_data:
        extra_networks.deactivate(p, p.extra_network_data)
    processed = Processed(
        p, images_list=output.images, seed=p.all_seeds[0], info=output.infotexts[0],
        subseed=p.all_subseeds[0], index_of_first_image=output.index_of_first_image,
        infotexts=output.infotexts,
    )  # fmt: skip
    if p.scripts is not None:
        p.scripts.postprocess(p, processed)
    return processed


class _Output:
    """Images so far, with an infotext for each."""

    def __init__(self):
        self.images: list[Image.Image] = []
        self.infotexts: list[str] = []
        self.index_of_first_image = 0

    def add(self, image: Image.Image, infotext: str, at: int | None = None) -> None:
        if opts.enable_pnginfo:
            image.info["parameters"] = infotext
        at = len(self.images) if at is None else at
        self.images.insert(at, image)
        self.infotexts.insert(at, infotext)


def _process_batch(p: StableDiffusionProcessing, number: int, output: _Output) -> bool:
    """Generate one batch; False when no prompts are left for it."""
    sd_models.reload_model_weights()  # the refiner of the last batch may still be loaded
    rows = slice(number * p.batch_size, (number + 1) * p.batch_size)

    def take_prompts() -> None:
        p.prompts = p.all_prompts[rows]
        p.negative_prompts = p.all_negative_prompts[rows]

    take_prompts()
    p.seeds = p.all_seeds[rows]
    p.subseeds = p.all_subseeds[rows]
    p.rng = ImageRNG(
        (opt_C, p.height // opt_f, p.width // opt_f), p.seeds, subseeds=p.subseeds,
        subseed_strength=p.subseed_strength, seed_resize_from_h=p.seed_resize_from_h,
        seed_resize_from_w=p.seed_resize_from_w,
    )  # fmt: skip

    def about() -> dict:
        return {"batch_number": number, "prompts": p.prompts, "seeds": p.seeds, "subseeds": p.subseeds}

    if p.scripts is not None:
        p.scripts.before_process_batch(p, **about())
    if not p.prompts:
        return False
    p.parse_extra_network_prompts()
    if not p.disable_extra_networks:
        with devices.autocast():
            extra_networks.activate(p, p.extra_network_data)
    if p.scripts is not None:
        p.scripts.process_batch(p, **about())
    p.setup_conds()
    p.extra_generation_params.update(model_hijack.extra_generation_params)
    if number == 0 and not shared.cmd_opts.no_prompt_history:
        _remember_parameters(p)
    for comment in model_hijack.comments:
        p.comment(comment)
    if p.n_iter > 1:
        state.job = f"Batch {number + 1} out of {p.n_iter}"

    with devices.autocast():
        samples = p.sample(
            conditioning=p.c, unconditional_conditioning=p.uc, seeds=p.seeds, subseeds=p.subseeds,
            subseed_strength=p.subseed_strength, prompts=p.prompts,
        )  # fmt: skip
    if p.scripts is not None:
        post_sample = scripts.PostSampleArgs(samples)
        p.scripts.post_sample(p, post_sample)
        samples = post_sample.samples
    if not getattr(samples, "already_decoded", False):
        samples = decode_latent_batch(p.sd_model, samples, target_device=devices.cpu, check_for_nans=True)
    decoded = ((torch.stack(list(samples)).float() + 1) / 2).clamp(0, 1)
    state.nextjob()

    pictures = list(decoded)
    if p.scripts is not None:
        p.scripts.postprocess_batch(p, decoded, batch_number=number)
        take_prompts()
        batch = scripts.PostprocessBatchListArgs(list(decoded))
        p.scripts.postprocess_batch_list(p, batch, batch_number=number)
        pictures = batch.images
    for index, picture in enumerate(pictures):
        _finish_image(p, index, picture, output)
    return True


def _remember_parameters(p: StableDiffusionProcessing) -> None:
    """Write the file that the page's paste button reads when the prompt is empty."""
    os.makedirs(paths.data_path, exist_ok=True)
    with open(os.path.join(paths.data_path, "params.txt"), "w", encoding="utf8") as file:
        file.write(Processed(p, []).infotext(p, 0))


def _batch_infotext(p: StableDiffusionProcessing, index: int = 0, use_main_prompt: bool = False) -> str:
    return create_infotext(
        p, p.prompts, p.seeds, p.subseeds, use_main_prompt=use_main_prompt, index=index,
        all_negative_prompts=p.negative_prompts,
    )  # fmt: skip


def _finish_image(p: StableDiffusionProcessing, index: int, picture: torch.Tensor, output: _Output) -> None:
    """From a tensor ``[3, H, W]`` in 0..1 to a finished image with its infotext."""
    p.batch_index = index
    image = Image.fromarray((255.0 * np.moveaxis(picture.cpu().numpy(), 0, 2)).astype(np.uint8))
    if p.scripts is not None:
        pp = scripts.PostprocessImageArgs(image)
        p.scripts.postprocess_image(p, pp)
        image = pp.image
    mask = getattr(p, "mask_for_overlay", None)
    overlays = (p.overlay_images or []) if opts.overlay_inpaint else []
    overlay = overlays[index] if index < len(overlays) else None
    if p.scripts is not None:
        args = scripts.PostProcessMaskOverlayArgs(index, mask, overlay)
        p.scripts.postprocess_maskoverlay(p, args)
        mask, overlay = args.mask_for_overlay, args.overlay_image
    image = apply_overlay(image, p.paste_to, overlay)
    if p.scripts is not None:
        pp = scripts.PostprocessImageArgs(image)
        p.scripts.postprocess_image_after_composite(p, pp)
        image = pp.image
    infotext = _batch_infotext(p, index)
    if p.save_samples():
        images.save_image(
            image,
            p.outpath_samples,
            "",
            p.seeds[index],
            p.prompts[index],
            opts.samples_format,
            info=infotext,
            p=p,
        )
    output.add(image, infotext)
    if mask is not None and opts.return_mask:
        output.images.append(mask.convert("RGB"))


def apply_overlay(image: Image.Image, paste_loc: tuple | None, overlay: Image.Image | None) -> Image.Image:
    """The original around an inpainted region."""
    if overlay is None:
        return image
    if paste_loc is not None:
        x, y, width, height = paste_loc
        base = Image.new("RGBA", overlay.size)
        base.paste(images.resize_image(1, image, width, height), (x, y))
        image = base
    image = image.convert("RGBA")
    image.alpha_composite(overlay)
    return image.convert("RGB")


def _add_grid(p: StableDiffusionProcessing, output: _Output) -> None:
    if p.do_not_save_grid or (len(output.images) < 2 and opts.grid_only_if_multiple) or not output.images:
        return
    grid = images.image_grid(output.images, p.batch_size)
    infotext = _batch_infotext(p, use_main_prompt=True)
    if opts.grid_save:
        images.save_image(
            grid, p.outpath_grids, "grid", p.all_seeds[0], p.all_prompts[0], opts.grid_format, info=infotext,
            p=p, grid=True,
        )  # fmt: skip
    if opts.return_grid:
        output.add(grid, infotext, at=0)
        output.index_of_first_image = 1
