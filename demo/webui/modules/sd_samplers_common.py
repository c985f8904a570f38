"""What all samplers share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules import devices, images, script_callbacks, sd_models, shared
from modules.shared import opts, state


class SamplerData(NamedTuple):
    name: str
    constructor: Callable
    aliases: list[str]
    options: dict[str, Any]

    def total_steps(self, steps: int) -> int:
        """How often the model is called."""
        return steps * 2 if self.options.get("second_order", False) else steps


CHURN = {"s_churn": "Sigma churn", "s_tmin": "Sigma tmin", "s_tmax": "Sigma tmax", "s_noise": "Sigma noise"}
"""Arguments of some sampling functions, and their labels in the infotext."""


class InterruptedException(BaseException):
    """Raised inside the denoiser to end sampling; ends it with the latest latent."""


def is_sampler_using_eta_noise_seed_delta(p) -> bool:
    """Whether noise after the first comes from the shifted seed."""
    from modules import sd_samplers

    config = sd_samplers.find_sampler_config(p.sampler_name)
    eta = p.eta if p.eta is not None or p.sampler is None else p.sampler.eta
    return eta != 0 and config is not None and config.options.get("uses_ensd", False)


def setup_img2img_steps(p, steps: int | None = None) -> tuple[int, int]:
    """Steps of the whole schedule, and how many of them (less one) are sampled."""
    strength = min(p.denoising_strength, 0.999)
    if opts.img2img_fix_steps or steps is not None:
        requested = steps or p.steps
        return (int(requested / strength) if p.denoising_strength > 0 else 0), requested - 1
    return p.steps, int(strength * p.steps)


def add_extra_noise(p, noise: Tensor, x: Tensor, xi: Tensor, scale) -> Tensor:
    """``opts.img2img_extra_noise`` on top of the noisy latent ``xi``."""
    if opts.img2img_extra_noise <= 0:
        return xi
    p.extra_generation_params["Extra noise"] = opts.img2img_extra_noise
    params = script_callbacks.ExtraNoiseParams(noise, x, xi)
    script_callbacks.extra_noise_callback(params)
    return params.xi + params.noise * opts.img2img_extra_noise * scale


# ---- latents and images -------------------------------------------------------------------


def decode_first_stage(model, x: Tensor) -> Tensor:
    """Images ``[B, 3, H, W]`` in -1..1 of latents."""
    with torch.no_grad(), devices.without_autocast():
        return model.decode_first_stage(x.to(devices.dtype_vae))


def samples_to_images_tensor(sample: Tensor, approximation: int | None = None, model=None) -> Tensor:
    return decode_first_stage(model or shared.sd_model, sample)


def tensor_to_pil(image: Tensor) -> Image.Image:
    """A PIL image of ``[3, H, W]`` in 0..1."""
    array = 255.0 * np.moveaxis(image.clamp(0, 1).cpu().numpy(), 0, 2)
    return Image.fromarray(array.astype(np.uint8))


def single_sample_to_image(sample: Tensor, approximation: int | None = None) -> Image.Image:
    return tensor_to_pil(decode_first_stage(shared.sd_model, sample.unsqueeze(0))[0] * 0.5 + 0.5)


def sample_to_image(samples: Tensor, index: int = 0, approximation: int | None = None) -> Image.Image:
    return single_sample_to_image(samples[index])


def samples_to_image_grid(samples: Tensor, approximation: int | None = None) -> Image.Image:
    return images.image_grid([single_sample_to_image(sample) for sample in samples])


def images_tensor_to_samples(image: Tensor, approximation: int | None = None, model=None) -> Tensor:
    """Latents of images ``[B, 3, H, W]`` in 0..1, each encoded alone."""
    model = model or shared.sd_model
    with torch.no_grad():
        return torch.cat(
            [model.get_first_stage_encoding(model.encode_first_stage(one[None] * 2 - 1)) for one in image]
        )


def store_latent(decoded: Tensor) -> None:
    state.current_latent = decoded
    every = opts.show_progress_every_n_steps
    shows = opts.live_previews_enable and every > 0 and state.sampling_step % every == 0
    if shows and not shared.parallel_processing_allowed:
        state.current_image = sample_to_image(decoded)
        state.id_live_preview += 1


# ---- refiner ------------------------------------------------------------------------------


def _completed(cfg_denoiser, sigma: Tensor | None) -> float:
    """How much of the sampling is done, 0..1: by steps, or on the noise schedule."""
    if opts.refiner_switch_by_sample_steps or sigma is None:
        cfg_denoiser.p.extra_generation_params["Refiner switch by sampling steps"] = True
        return cfg_denoiser.step / cfg_denoiser.total_steps
    largest = sigma.max()
    sigmas = getattr(cfg_denoiser.inner_model, "sigmas", None)
    timestep = largest if sigmas is None else (sigmas - largest).abs().argmin()
    return (999 - int(timestep)) / 1000


def apply_refiner(cfg_denoiser, sigma: Tensor | None = None) -> bool:
    """Switch to the refiner when its time has come; returns whether conds have changed."""
    p = cfg_denoiser.p
    info = p.refiner_checkpoint_info
    completed = _completed(cfg_denoiser, sigma)
    if info is None or shared.sd_model.sd_checkpoint_info is info:
        return False
    if p.refiner_switch_at is not None and completed < p.refiner_switch_at:
        return False
    if getattr(p, "enable_hr", False):
        if opts.hires_fix_refiner_pass == ("first pass" if p.is_hr_pass else "second pass"):
            return False
        if opts.hires_fix_refiner_pass != "second pass":
            p.extra_generation_params["Hires refiner"] = opts.hires_fix_refiner_pass
    p.extra_generation_params["Refiner"] = info.short_title
    p.extra_generation_params["Refiner switch at"] = p.refiner_switch_at
    with sd_models.SkipWritingToConfig():
        sd_models.reload_model_weights(info=info)
    p.setup_conds()
    cfg_denoiser.update_inner_model()
    return True


# ---- the sampler --------------------------------------------------------------------------


class Sampler:
    """One sampling pass. ``model_wrap_cfg`` is the guided model that the sampling function calls."""

    eta_option_field = "eta_ancestral"
    eta_infotext_field = "Eta"
    eta_default = 1.0

    def __init__(self, func: Callable):
        self.func = func
        self.funcname = func.__name__
        self.config: SamplerData | None = None
        self.p = None
        self.eta: float | None = None
        self.s_min_uncond = 0.0
        self.stop_at: int | None = None
        self.last_latent: Tensor | None = None
        self.model_wrap_cfg = None
        self.model_wrap = None
        self.sampler_extra_args: dict[str, Any] | None = None
        self.conditioning_key = shared.sd_model.model.conditioning_key

    def discards_next_to_last(self, p) -> bool:
        if opts.always_discard_next_to_last_sigma:
            p.extra_generation_params["Discard penultimate sigma"] = True
        return bool(opts.always_discard_next_to_last_sigma)

    def callback_state(self, d: dict[str, Any]) -> None:
        if self.stop_at is not None and d["i"] > self.stop_at:
            raise InterruptedException
        state.sampling_step = d["i"]
        shared.total_tqdm.update()

    def initialize(self, p) -> dict[str, Any]:
        """Prepare the denoiser for ``p``; returns arguments for the sampling function."""
        self.p = p
        denoiser = self.model_wrap_cfg
        denoiser.p = p
        denoiser.mask = getattr(p, "mask", None)
        denoiser.nmask = getattr(p, "nmask", None)
        denoiser.step = 0
        denoiser.image_cfg_scale = getattr(p, "image_cfg_scale", None)
        self.s_min_uncond = getattr(p, "s_min_uncond", 0.0)
        self.eta = p.eta if p.eta is not None else getattr(opts, self.eta_option_field, 0.0)
        known = inspect.signature(self.func).parameters
        arguments = {}
        if "eta" in known:
            arguments["eta"] = self.eta
            if self.eta != self.eta_default:
                p.extra_generation_params[self.eta_infotext_field] = self.eta
        for name, label in CHURN.items():
            if name in known:
                setting = getattr(opts, name)
                # A setting that was changed wins over p; 0 for the largest sigma means no limit.
                value = getattr(p, name) if setting == opts.get_default(name) else setting
                arguments[name] = value
                if value != known[name].default:
                    p.extra_generation_params[label] = value
        return arguments

    def launch(
        self, p, steps: int, x: Tensor, last_latent: Tensor, arguments: dict[str, Any], conditioning,
        unconditional_conditioning, image_conditioning,
    ) -> Tensor:  # fmt: skip
        """Run the sampling function; when it is interrupted, the latest clean latent is the result."""
        self.last_latent = last_latent
        self.sampler_extra_args = {
            "cond": conditioning,
            "image_cond": image_conditioning,
            "uncond": unconditional_conditioning,
            "cond_scale": p.cfg_scale,
            "s_min_uncond": self.s_min_uncond,
        }
        self.model_wrap_cfg.steps = steps
        self.model_wrap_cfg.total_steps = self.config.total_steps(steps)
        state.sampling_steps = steps
        state.sampling_step = 0
        try:
            samples = self.func(
                self.model_wrap_cfg, x, extra_args=self.sampler_extra_args, callback=self.callback_state,
                noise=p.rng.next, **arguments,
            )  # fmt: skip
        except InterruptedException:
            samples = self.last_latent
        self.add_infotext(p)
        return samples

    def sample(
        self, p, x, conditioning, unconditional_conditioning, steps=None, image_conditioning=None
    ) -> Tensor:
        """Latents from noise ``x``."""
        raise NotImplementedError

    def sample_img2img(
        self, p, x, noise, conditioning, unconditional_conditioning, steps=None, image_conditioning=None
    ) -> Tensor:
        """Latents from the latents ``x`` with noise added."""
        raise NotImplementedError

    def add_infotext(self, p) -> None:
        if self.model_wrap_cfg.padded_cond_uncond:
            p.extra_generation_params["Pad conds"] = True
        if self.model_wrap_cfg.padded_cond_uncond_v0:
            p.extra_generation_params["Pad conds v0"] = True
