"""What txt2img and img2img share."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from modules import devices, extra_networks, prompt_parser, rng, sd_samplers, sd_samplers_common, shared
from modules.shared import opts, state

opt_C = 4  # noqa: N816
"""Channels of a latent."""
opt_f = 8
"""Pixels per latent position, along each side."""


def program_version() -> str:
    """Whose behaviour this is: readers of infotexts look at the version."""
    return "v1.10.1"


def get_fixed_seed(seed):
    """A seed that is not random any more; a list stays as it is."""
    if isinstance(seed, str):
        seed = int(seed) if seed.strip().lstrip("-").isdigit() else -1
    return random.randrange(4294967294) if seed in (None, -1) else seed


def fix_seed(p: StableDiffusionProcessing) -> None:
    p.seed = get_fixed_seed(p.seed)
    p.subseed = get_fixed_seed(p.subseed)


def create_random_tensors(
    shape, seeds, subseeds=None, subseed_strength=0.0, seed_resize_from_h=0, seed_resize_from_w=0, p=None
) -> Tensor:
    return rng.ImageRNG(
        shape, seeds, subseeds, subseed_strength, seed_resize_from_h, seed_resize_from_w
    ).next()


class DecodedSamples(list):
    already_decoded = True


def decode_latent_batch(
    model, batch: Tensor, target_device=None, check_for_nans: bool = False
) -> DecodedSamples:
    """Images ``[3, H, W]`` in -1..1, each decoded alone."""
    if check_for_nans:
        devices.test_for_nans(batch, "unet")
    decoded = DecodedSamples(
        sd_samplers_common.decode_first_stage(model, latent[None])[0] for latent in batch
    )
    if check_for_nans:
        for image in decoded:
            devices.test_for_nans(image, "vae")
    return decoded


def _internal(default: Any = None) -> Any:
    """A field that is not an argument."""
    return field(default=default, init=False)


@dataclass(repr=False, eq=False)
class StableDiffusionProcessing:
    sd_model: object = None
    outpath_samples: str = None
    outpath_grids: str = None
    prompt: str = ""
    prompt_for_display: str = None
    negative_prompt: str = ""
    styles: list[str] = None
    seed: int = -1
    subseed: int = -1
    subseed_strength: float = 0
    seed_resize_from_h: int = -1
    seed_resize_from_w: int = -1
    seed_enable_extras: bool = True
    sampler_name: str = None
    scheduler: str = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int = 50
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    restore_faces: bool = None
    tiling: bool = None
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    extra_generation_params: dict[str, Any] = None
    overlay_images: list = None
    eta: float = None
    do_not_reload_embeddings: bool = False
    denoising_strength: float = None
    ddim_discretize: str = None
    s_min_uncond: float = None
    s_churn: float = None
    s_tmax: float = None
    s_tmin: float = None
    s_noise: float = None
    override_settings: dict[str, Any] = None
    override_settings_restore_afterwards: bool = True
    sampler_index: int = None
    refiner_checkpoint: str = None
    refiner_switch_at: float = None
    token_merging_ratio: ClassVar[float] = 0
    token_merging_ratio_hr: ClassVar[float] = 0
    disable_extra_networks: bool = False
    firstpass_image: Image.Image = None

    # Encoded prompts of the last generation, kept for the next: [what they depend on, conds].
    cached_uc: ClassVar[list] = [None, None]
    cached_c: ClassVar[list] = [None, None]

    scripts_value: Any = _internal()
    script_args_value: Any = _internal()
    scripts_setup_complete: bool = _internal(False)
    comments: dict = _internal()
    sampler: Any = _internal()
    is_using_inpainting_conditioning: bool = _internal(False)
    paste_to: tuple | None = _internal()
    is_hr_pass: bool = _internal(False)
    c: Any = _internal()
    uc: Any = _internal()
    rng: Any = _internal()
    step_multiplier: int = _internal(1)
    firstpass_steps: int = _internal(0)
    color_corrections: list = _internal()
    all_prompts: list = _internal()
    all_negative_prompts: list = _internal()
    all_seeds: list = _internal()
    all_subseeds: list = _internal()
    iteration: int = _internal(0)
    batch_index: int = _internal(0)
    main_prompt: str = _internal()
    main_negative_prompt: str = _internal()
    prompts: list = _internal()
    negative_prompts: list = _internal()
    seeds: list = _internal()
    subseeds: list = _internal()
    extra_network_data: dict = _internal()
    refiner_checkpoint_info: Any = _internal()
    sampler_noise_scheduler_override: Any = _internal()
    user: str = _internal()
    sd_model_name: str = _internal()
    sd_model_hash: str = _internal()
    sd_vae_name: str = _internal()
    sd_vae_hash: str = _internal()
    is_api: bool = _internal(False)

    def __post_init__(self):
        self.comments = {}
        self.styles = self.styles or []
        self.extra_generation_params = self.extra_generation_params or {}
        self.override_settings = self.override_settings or {}
        self.script_args = self.script_args or {}
        if not self.seed_enable_extras:
            self.subseed, self.subseed_strength = -1, 0
            self.seed_resize_from_h = self.seed_resize_from_w = 0

    # ---- the model and the scripts ----------------------------------------------------------

    def fill_fields_from_opts(self) -> None:
        """Fields left at None take the settings' values."""
        for name in ("s_min_uncond", "s_churn", "s_tmin", "s_tmax", "s_noise"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(opts, name))
        self.s_tmax = self.s_tmax or float("inf")

    def _setup_scripts_once(self) -> None:
        if self.scripts_value and self.script_args_value and not self.scripts_setup_complete:
            self.setup_scripts()

    def setup_scripts(self) -> None:
        self.scripts_setup_complete = True
        self.scripts.setup_scrips(self, is_ui=not self.is_api)

    @property
    def scripts(self):
        return self.scripts_value

    @scripts.setter
    def scripts(self, value) -> None:
        self.scripts_value = value
        self._setup_scripts_once()

    @property
    def script_args(self):
        return self.script_args_value

    @script_args.setter
    def script_args(self, value) -> None:
        self.script_args_value = value
        self._setup_scripts_once()

    def comment(self, text: str) -> None:
        self.comments[text] = 1

    def get_token_merging_ratio(self, for_hr: bool = False) -> float:
        return 0

    def save_samples(self) -> bool:
        """Whether images are to be written to disk."""
        complete = not (state.interrupted or state.skipped)
        return bool(
            opts.samples_save and not self.do_not_save_samples and (complete or opts.save_incomplete_images)
        )

    # ---- conditioning -------------------------------------------------------------------------

    def txt2img_image_conditioning(
        self, x: Tensor, width: int | None = None, height: int | None = None
    ) -> Tensor:
        """Nothing for this kind of checkpoint, in the shape that the host uses for nothing."""
        return x.new_zeros(x.shape[0], 5, 1, 1)

    def img2img_image_conditioning(
        self, source_image, latent_image, image_mask=None, round_image_mask=True
    ) -> Tensor:
        return latent_image.new_zeros(latent_image.shape[0], 5, 1, 1)

    def setup_prompts(self) -> None:
        """One prompt and one negative prompt per image, with styles."""
        if isinstance(self.prompt, list):
            prompts = self.prompt
        elif isinstance(self.negative_prompt, list):
            prompts = [self.prompt] * len(self.negative_prompt)
        else:
            prompts = [self.prompt] * (self.batch_size * self.n_iter)
        negative = self.negative_prompt
        negatives = negative if isinstance(negative, list) else [negative] * len(prompts)
        if len(prompts) != len(negatives):
            raise RuntimeError(
                f"Received a different number of prompts ({len(prompts)}) "
                f"and negative prompts ({len(negatives)})"
            )
        style = shared.prompt_styles
        self.all_prompts = [style.apply_styles_to_prompt(text, self.styles) for text in prompts]
        self.all_negative_prompts = [
            style.apply_negative_styles_to_prompt(text, self.styles) for text in negatives
        ]
        self.main_prompt, self.main_negative_prompt = self.all_prompts[0], self.all_negative_prompts[0]

    def parse_extra_network_prompts(self) -> None:
        self.prompts, self.extra_network_data = extra_networks.parse_prompts(self.prompts)

    def cached_params(
        self, required_prompts, steps, extra_network_data, hires_steps=None, use_old_scheduling=False
    ):
        """All that encoded prompts depend on."""
        return (
            list(required_prompts), steps, hires_steps, use_old_scheduling, opts.CLIP_stop_at_last_layers,
            shared.sd_model.sd_checkpoint_info, extra_network_data, self.width, self.height, opts.emphasis,
            opts.comma_padding_backtrack,
        )  # fmt: skip

    def get_conds_with_caching(
        self, function, required_prompts, steps, caches, extra_network_data, hires_steps=None
    ):
        """``function(model, prompts, ...)``, or a cached result for the same arguments."""
        wanted = self.cached_params(
            required_prompts, steps, extra_network_data, hires_steps, opts.use_old_scheduling
        )
        for cache in caches:
            if cache[0] is not None and cache[0] == wanted:
                return cache[1]
        with devices.autocast():
            caches[0][1] = function(
                shared.sd_model, required_prompts, steps, hires_steps, opts.use_old_scheduling
            )
        caches[0][0] = wanted
        return caches[0][1]

    def total_steps(self, sampler_name: str, steps: int) -> int:
        config = sd_samplers.find_sampler_config(sampler_name)
        return config.total_steps(steps) if config else steps

    def setup_conds(self) -> None:
        """Encode the batch's prompts into ``c`` and ``uc``."""
        size = {"width": self.width, "height": self.height}
        prompts = prompt_parser.SdConditioning(self.prompts, **size)
        negatives = prompt_parser.SdConditioning(self.negative_prompts, **size, is_negative_prompt=True)
        self.firstpass_steps = self.total_steps(self.sampler_name, self.steps)
        self.step_multiplier = self.firstpass_steps // self.steps
        self.uc = self.get_conds_with_caching(
            prompt_parser.get_learned_conditioning, negatives, self.firstpass_steps, [self.cached_uc],
            self.extra_network_data,
        )  # fmt: skip
        self.c = self.get_conds_with_caching(
            prompt_parser.get_multicond_learned_conditioning, prompts, self.firstpass_steps, [self.cached_c],
            self.extra_network_data,
        )  # fmt: skip

    def get_conds(self):
        return self.c, self.uc

    # ---- the generation -------------------------------------------------------------------------

    def init(self, all_prompts, all_seeds, all_subseeds) -> None:
        """Before the first batch."""

    def sample(
        self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts
    ) -> Tensor | DecodedSamples:
        """One batch of latents."""
        raise NotImplementedError

    def close(self) -> None:
        self.sampler = None
        self.c = self.uc = None
        if not opts.persistent_cond_cache:
            for cache in (StableDiffusionProcessing.cached_c, StableDiffusionProcessing.cached_uc):
                cache[:] = [None, None]


def _get_sd_model(self: StableDiffusionProcessing):
    return shared.sd_model


def _ignore_sd_model(self: StableDiffusionProcessing, value) -> None:
    """The model is always the current one; the constructor's argument has no effect, as in the host."""


StableDiffusionProcessing.sd_model = property(_get_sd_model, _ignore_sd_model)
