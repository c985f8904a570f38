"""The result of a generation, and the infotext of its images."""

from __future__ import annotations

import json

from modules import errors, infotext_utils, sd_samplers_common
from modules.processing_base import StableDiffusionProcessing, program_version
from modules.shared import opts, state

# Read from p under the same name.
FROM_P = (
    "prompt", "negative_prompt", "subseed_strength", "width", "height", "sampler_name", "cfg_scale", "steps",
    "batch_size", "restore_faces", "sd_model_name", "sd_model_hash", "sd_vae_name", "sd_vae_hash",
    "seed_resize_from_w", "seed_resize_from_h", "extra_generation_params", "styles", "eta", "s_churn",
    "s_tmin", "s_tmax", "s_noise", "s_min_uncond", "sampler_noise_scheduler_override",
    "is_using_inpainting_conditioning", "token_merging_ratio", "token_merging_ratio_hr", "ddim_discretize",
)  # fmt: skip
# Written into the API's "info".
IN_JS = (
    "all_prompts", "all_negative_prompts", "seed", "all_seeds", "subseed", "all_subseeds", "subseed_strength",
    "width", "height", "sampler_name", "cfg_scale", "steps", "batch_size", "restore_faces",
    "face_restoration_model", "sd_model_name", "sd_model_hash", "sd_vae_name", "sd_vae_hash",
    "seed_resize_from_w", "seed_resize_from_h", "denoising_strength", "extra_generation_params",
    "index_of_first_image", "infotexts", "styles", "job_timestamp", "clip_skip",
    "is_using_inpainting_conditioning", "version",
)  # fmt: skip


def _first(value):
    return value[0] if isinstance(value, list) else value


def _number(seed) -> int:
    return -1 if seed is None else int(_first(seed))


class Processed:
    def __init__(
        self, p: StableDiffusionProcessing, images_list: list, seed=-1, info: str = "", subseed=None,
        all_prompts: list | None = None, all_negative_prompts: list | None = None,
        all_seeds: list | None = None, all_subseeds: list | None = None, index_of_first_image: int = 0,
        infotexts: list | None = None, comments: str = "",
    ):  # fmt: skip
        for name in FROM_P:
            setattr(self, name, getattr(p, name))
        self.images = images_list
        self.prompt, self.negative_prompt = _first(p.prompt), _first(p.negative_prompt)
        self.seed, self.subseed = _number(seed), _number(subseed)
        self.info = info
        self.comments = "".join(f"{comment}\n" for comment in p.comments)
        self.image_cfg_scale = getattr(p, "image_cfg_scale", None)
        self.denoising_strength = getattr(p, "denoising_strength", None)
        self.face_restoration_model = None
        self.index_of_first_image = index_of_first_image
        self.job_timestamp = state.job_timestamp
        self.clip_skip = opts.CLIP_stop_at_last_layers
        self.all_prompts = all_prompts or p.all_prompts or [self.prompt]
        self.all_negative_prompts = all_negative_prompts or p.all_negative_prompts or [self.negative_prompt]
        self.all_seeds = all_seeds or p.all_seeds or [self.seed]
        self.all_subseeds = all_subseeds or p.all_subseeds or [self.subseed]
        self.infotexts = infotexts or [info] * len(images_list)
        self.version = program_version()

    def js(self) -> str:
        """JSON for the API and the page; what JSON cannot hold becomes null."""
        main = {"prompt": self.all_prompts[0], "negative_prompt": self.all_negative_prompts[0]}
        return json.dumps(main | {name: getattr(self, name) for name in IN_JS}, default=lambda _: None)

    def infotext(self, p: StableDiffusionProcessing, index: int) -> str:
        return create_infotext(
            p, self.all_prompts, self.all_seeds, self.all_subseeds, comments=[],
            position_in_batch=index % self.batch_size, iteration=index // self.batch_size,
        )  # fmt: skip

    def get_token_merging_ratio(self, for_hr: bool = False) -> float:
        return self.token_merging_ratio_hr if for_hr else self.token_merging_ratio


def _uses_ensd(p: StableDiffusionProcessing) -> bool:
    return bool(opts.eta_noise_seed_delta) and sd_samplers_common.is_sampler_using_eta_noise_seed_delta(p)


def create_infotext(
    p: StableDiffusionProcessing, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int],
    comments: list[str] | None = None, iteration: int = 0, position_in_batch: int = 0,
    use_main_prompt: bool = False, index: int | None = None, all_negative_prompts: list[str] | None = None,
) -> str:  # fmt: skip
    """Prompt, negative prompt, and ``Key: value`` pairs that make the image again.

    Entries of ``p.extra_generation_params`` may be a list (the value at this image's index is taken) or a
    function (called with this function's names as keywords). One that fails is reported and left out.
    """
    if use_main_prompt:
        index = 0
    elif index is None:
        index = position_in_batch + iteration * p.batch_size
    if all_negative_prompts is None:
        all_negative_prompts = p.all_negative_prompts
    prompt_text = p.main_prompt if use_main_prompt else all_prompts[index]
    negative_prompt = p.main_negative_prompt if use_main_prompt else all_negative_prompts[index]
    clip_skip = getattr(p, "clip_skip", opts.CLIP_stop_at_last_layers)
    varies = p.subseed_strength != 0
    subseed = p.all_subseeds[0] if use_main_prompt else all_subseeds[index]
    generation_params = {
        "Steps": p.steps,
        "Sampler": p.sampler_name,
        "Schedule type": p.scheduler,
        "CFG scale": p.cfg_scale,
        "Image CFG scale": getattr(p, "image_cfg_scale", None),
        "Seed": p.all_seeds[0] if use_main_prompt else all_seeds[index],
        "Size": f"{p.width}x{p.height}",
        "Model hash": p.sd_model_hash if opts.add_model_hash_to_info else None,
        "Model": p.sd_model_name if opts.add_model_name_to_info else None,
        "Variation seed": subseed if varies else None,
        "Variation seed strength": p.subseed_strength if varies else None,
        "Denoising strength": p.extra_generation_params.get("Denoising strength"),
        "Clip skip": clip_skip if clip_skip > 1 else None,
        "ENSD": opts.eta_noise_seed_delta if _uses_ensd(p) else None,
        "RNG": opts.randn_source if opts.randn_source != "GPU" else None,
        **p.extra_generation_params,
        "Version": program_version() if opts.add_version_to_infotext else None,
        "User": None,
    }
    known = dict(locals())
    for key, value in generation_params.items():
        try:
            if isinstance(value, list):
                generation_params[key] = value[index]
            elif callable(value):
                generation_params[key] = value(**known)
        except Exception:
            errors.report(f'Error creating infotext for key "{key}"', exc_info=True)
            generation_params[key] = None

    pairs = [
        key if key == value else f"{key}: {infotext_utils.quote(value)}"
        for key, value in generation_params.items()
        if value is not None
    ]
    negative = f"\nNegative prompt: {negative_prompt}" if negative_prompt else ""
    return f"{prompt_text}{negative}\n{', '.join(pairs)}".strip()
