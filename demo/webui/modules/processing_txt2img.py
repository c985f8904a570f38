"""txt2img, with hires fix as a second pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from modules import devices, extra_networks, images, prompt_parser, rng, sd_models, sd_samplers, shared
from modules.processing_base import StableDiffusionProcessing, _internal, decode_latent_batch, opt_f
from modules.sd_samplers_common import images_tensor_to_samples, tensor_to_pil
from modules.shared import opts, state


def _hr_prompt(p, index, prompt_text, **kwargs):
    """For the infotext: the second pass's prompt, where it is another one."""
    return p.all_hr_prompts[index] if p.all_hr_prompts[index] != prompt_text else None


def _hr_negative_prompt(p, index, negative_prompt, **kwargs):
    return p.all_hr_negative_prompts[index] if p.all_hr_negative_prompts[index] != negative_prompt else None


@dataclass(repr=False, eq=False)
class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    enable_hr: bool = False
    denoising_strength: float = 0.75
    firstphase_width: int = 0
    firstphase_height: int = 0
    hr_scale: float = 2.0
    hr_upscaler: str = None
    hr_second_pass_steps: int = 0
    hr_resize_x: int = 0
    hr_resize_y: int = 0
    hr_checkpoint_name: str = None
    hr_sampler_name: str = None
    hr_scheduler: str = None
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    force_task_id: str = None

    cached_hr_uc: ClassVar[list] = [None, None]
    cached_hr_c: ClassVar[list] = [None, None]

    hr_checkpoint_info: Any = _internal()
    hr_upscale_to_x: int = _internal(0)
    hr_upscale_to_y: int = _internal(0)
    truncate_x: int = _internal(0)
    truncate_y: int = _internal(0)
    latent_scale_mode: dict = _internal()
    hr_c: Any = _internal()
    hr_uc: Any = _internal()
    all_hr_prompts: list = _internal()
    all_hr_negative_prompts: list = _internal()
    hr_prompts: list = _internal()
    hr_negative_prompts: list = _internal()
    hr_extra_network_data: Any = _internal()

    def __post_init__(self):
        super().__post_init__()
        if self.firstphase_width or self.firstphase_height:
            self.hr_upscale_to_x, self.hr_upscale_to_y = self.width, self.height
            self.width, self.height = self.firstphase_width, self.firstphase_height

    def calculate_target_resolution(self) -> None:
        """Size of the second pass, and how much of it to cut off to get the wanted aspect ratio."""
        wanted_x, wanted_y = self.hr_resize_x, self.hr_resize_y
        if not wanted_x and not wanted_y:
            self.extra_generation_params["Hires upscale"] = self.hr_scale
            self.hr_upscale_to_x = int(self.width * self.hr_scale)
            self.hr_upscale_to_y = int(self.height * self.hr_scale)
            return
        self.extra_generation_params["Hires resize"] = f"{wanted_x}x{wanted_y}"
        by_width = not wanted_y or (wanted_x and self.width * wanted_y < wanted_x * self.height)
        if by_width:
            self.hr_upscale_to_x, self.hr_upscale_to_y = wanted_x, wanted_x * self.height // self.width
        else:
            self.hr_upscale_to_x, self.hr_upscale_to_y = wanted_y * self.width // self.height, wanted_y
        if wanted_x and wanted_y:
            self.truncate_x = (self.hr_upscale_to_x - wanted_x) // opt_f
            self.truncate_y = (self.hr_upscale_to_y - wanted_y) // opt_f

    def init(self, all_prompts, all_seeds, all_subseeds) -> None:
        if not self.enable_hr:
            return
        params = self.extra_generation_params
        params["Denoising strength"] = self.denoising_strength
        if self.hr_checkpoint_name and self.hr_checkpoint_name != "Use same checkpoint":
            self.hr_checkpoint_info = sd_models.get_closet_checkpoint_match(self.hr_checkpoint_name)
            if self.hr_checkpoint_info is None:
                raise RuntimeError(f"Could not find checkpoint with name {self.hr_checkpoint_name}")
            params["Hires checkpoint"] = self.hr_checkpoint_info.short_title
        if self.hr_sampler_name is not None and self.hr_sampler_name != self.sampler_name:
            params["Hires sampler"] = self.hr_sampler_name
        params["Hires prompt"] = _hr_prompt
        params["Hires negative prompt"] = _hr_negative_prompt
        if self.hr_scheduler is None:
            self.hr_scheduler = self.scheduler
        self.latent_scale_mode = shared.latent_upscale_modes.get(
            shared.latent_upscale_default_mode if self.hr_upscaler is None else self.hr_upscaler
        )
        if self.latent_scale_mode is None and self.hr_upscaler not in {
            scaler.name for scaler in shared.sd_upscalers
        }:
            raise RuntimeError(f"could not find upscaler named {self.hr_upscaler}")
        self.calculate_target_resolution()
        if not state.processing_has_refined_job_count:
            state.job_count = (self.n_iter if state.job_count == -1 else state.job_count) * 2
            state.processing_has_refined_job_count = True
        if self.hr_second_pass_steps:
            params["Hires steps"] = self.hr_second_pass_steps
        if self.hr_upscaler is not None:
            params["Hires upscaler"] = self.hr_upscaler

    def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        if self.firstpass_image is not None and self.enable_hr:
            array = np.moveaxis(
                np.array(self.firstpass_image.convert("RGB")).astype(np.float32) / 255.0, 2, 0
            )
            samples = images_tensor_to_samples(torch.from_numpy(array)[None])
        else:
            x = self.rng.next()
            if self.scripts is not None:
                self.scripts.process_before_every_sampling(
                    p=self, x=x, noise=x, c=conditioning, uc=unconditional_conditioning
                )
            samples = self.sampler.sample(
                self, x, conditioning, unconditional_conditioning,
                image_conditioning=self.txt2img_image_conditioning(x),
            )  # fmt: skip
            if not self.enable_hr:
                return samples
        with sd_models.SkipWritingToConfig():
            sd_models.reload_model_weights(info=self.hr_checkpoint_info)
        return self.sample_hr_pass(samples, None, seeds, subseeds, subseed_strength, prompts)

    def _upscaled(self, samples: Tensor) -> Tensor:
        if self.latent_scale_mode is not None:
            size = self.hr_upscale_to_y // opt_f, self.hr_upscale_to_x // opt_f
            return interpolate(samples, size=size, **self.latent_scale_mode)
        pictures = [tensor_to_pil(image * 0.5 + 0.5) for image in decode_latent_batch(self.sd_model, samples)]
        resized = [
            np.moveaxis(
                np.array(images.resize_image(0, picture, self.hr_upscale_to_x, self.hr_upscale_to_y)), 2, 0
            ) for picture in pictures
        ]  # fmt: skip
        return images_tensor_to_samples(torch.from_numpy(np.stack(resized).astype(np.float32) / 255.0))

    def sample_hr_pass(self, samples, decoded_samples, seeds, subseeds, subseed_strength, prompts):
        """Scale the latents up, add noise and sample again; returns decoded images."""
        if state.interrupted:
            return samples
        self.is_hr_pass = True
        self.sampler = sd_samplers.create_sampler(self.hr_sampler_name or self.sampler_name, self.sd_model)
        samples = self._upscaled(samples)
        state.nextjob()
        cut_y, cut_x = self.truncate_y, self.truncate_x
        height, width = samples.shape[2:]
        samples = samples[:, :, cut_y // 2 : height - (cut_y + 1) // 2, cut_x // 2 : width - (cut_x + 1) // 2]
        self.rng = rng.ImageRNG(
            samples.shape[1:], self.seeds, subseeds=self.subseeds, subseed_strength=self.subseed_strength
        )
        noise = self.rng.next()
        if not self.disable_extra_networks:
            with devices.autocast():
                extra_networks.activate(self, self.hr_extra_network_data)
        with devices.autocast():
            self.calculate_hr_conds()
        if self.scripts is not None:
            self.scripts.before_hr(self)
            self.scripts.process_before_every_sampling(
                p=self, x=samples, noise=noise, c=self.hr_c, uc=self.hr_uc
            )
        samples = self.sampler.sample_img2img(
            self, samples, noise, self.hr_c, self.hr_uc, steps=self.hr_second_pass_steps or self.steps,
            image_conditioning=self.txt2img_image_conditioning(samples),
        )  # fmt: skip
        self.sampler = None
        decoded = decode_latent_batch(self.sd_model, samples, target_device=devices.cpu, check_for_nans=True)
        self.is_hr_pass = False
        return decoded

    def close(self) -> None:
        super().close()
        self.hr_c = self.hr_uc = None
        if not opts.persistent_cond_cache:
            for cache in (self.cached_hr_c, self.cached_hr_uc):
                cache[:] = [None, None]

    def setup_prompts(self) -> None:
        super().setup_prompts()
        if not self.enable_hr:
            return
        self.hr_prompt = self.hr_prompt or self.prompt
        self.hr_negative_prompt = self.hr_negative_prompt or self.negative_prompt
        count = self.batch_size * self.n_iter

        def each(prompts) -> list[str]:
            return prompts if isinstance(prompts, list) else [prompts] * count

        style = shared.prompt_styles
        self.all_hr_prompts = [
            style.apply_styles_to_prompt(text, self.styles) for text in each(self.hr_prompt)
        ]
        self.all_hr_negative_prompts = [
            style.apply_negative_styles_to_prompt(text, self.styles) for text in each(self.hr_negative_prompt)
        ]

    def calculate_hr_conds(self) -> None:
        """Encode the second pass's prompts, unless that has been done."""
        if self.hr_c is not None:
            return
        size = {"width": self.hr_upscale_to_x, "height": self.hr_upscale_to_y}
        prompts = prompt_parser.SdConditioning(self.hr_prompts, **size)
        negatives = prompt_parser.SdConditioning(self.hr_negative_prompts, **size, is_negative_prompt=True)
        steps = self.total_steps(
            self.hr_sampler_name or self.sampler_name, self.hr_second_pass_steps or self.steps
        )
        self.hr_uc = self.get_conds_with_caching(
            prompt_parser.get_learned_conditioning, negatives, self.firstpass_steps,
            [self.cached_hr_uc, self.cached_uc], self.hr_extra_network_data, steps,
        )  # fmt: skip
        self.hr_c = self.get_conds_with_caching(
            prompt_parser.get_multicond_learned_conditioning, prompts, self.firstpass_steps,
            [self.cached_hr_c, self.cached_c], self.hr_extra_network_data, steps,
        )  # fmt: skip

    def setup_conds(self) -> None:
        if self.is_hr_pass:
            # The refiner was switched to during the second pass.
            self.hr_c = None
            self.calculate_hr_conds()
            return
        super().setup_conds()
        self.hr_c = self.hr_uc = None
        if self.enable_hr and self.hr_checkpoint_info is None and opts.hires_fix_use_firstpass_conds:
            self.calculate_hr_conds()

    def get_conds(self):
        return (self.hr_c, self.hr_uc) if self.is_hr_pass else super().get_conds()

    def parse_extra_network_prompts(self) -> None:
        super().parse_extra_network_prompts()
        if self.enable_hr:
            rows = slice(self.iteration * self.batch_size, (self.iteration + 1) * self.batch_size)
            self.hr_negative_prompts = self.all_hr_negative_prompts[rows]
            self.hr_prompts, self.hr_extra_network_data = extra_networks.parse_prompts(
                self.all_hr_prompts[rows]
            )
