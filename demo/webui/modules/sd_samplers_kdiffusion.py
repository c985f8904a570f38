"""Samplers that work with sigmas."""

from __future__ import annotations

import torch
from torch import Tensor

from modules import devices, sd_samplers_common, sd_samplers_functions, sd_schedulers, shared
from modules.kdiffusion_schedule import CompVisDenoiser
from modules.sd_samplers_cfg_denoiser import CFGDenoiser
from modules.shared import opts

samplers_k_diffusion = [
    ("DPM++ 2M", sd_samplers_functions.dpmpp_2m, ["k_dpmpp_2m"], {"scheduler": "karras"}),
    (
        "Euler a",
        sd_samplers_functions.euler_ancestral,
        ["k_euler_a", "k_euler_ancestral"],
        {"uses_ensd": True},
    ),
    ("Euler", sd_samplers_functions.euler, ["k_euler"], {}),
    ("Heun", sd_samplers_functions.heun, ["k_heun"], {"second_order": True}),
]
samplers_data_k_diffusion = [
    sd_samplers_common.SamplerData(
        label, lambda model, function=function: KDiffusionSampler(function, model), aliases, options
    )
    for label, function, aliases, options in samplers_k_diffusion
]


class CFGDenoiserKDiffusion(CFGDenoiser):
    @property
    def inner_model(self) -> CompVisDenoiser:
        if self.model_wrap is None:
            self.model_wrap = CompVisDenoiser(shared.sd_model)
        return self.model_wrap


class KDiffusionSampler(sd_samplers_common.Sampler):
    def __init__(self, function, sd_model):
        super().__init__(function)
        self.model_wrap_cfg = CFGDenoiserKDiffusion(self)
        self.model_wrap = self.model_wrap_cfg.inner_model

    def get_sigmas(self, p, steps: int) -> Tensor:
        """Sigmas from large to 0, one more than there are steps."""
        discard = self.discards_next_to_last(p)
        count = steps + discard
        wanted = (p.hr_scheduler if p.is_hr_pass else p.scheduler) or "Automatic"
        if wanted == "Automatic":
            wanted = self.config.options.get("scheduler")
        scheduler = sd_schedulers.schedulers_map.get(wanted)
        if p.sampler_noise_scheduler_override:
            sigmas = p.sampler_noise_scheduler_override(count)
        elif scheduler is None or scheduler.function is None:
            sigmas = self.model_wrap.get_sigmas(count)
        else:
            sigmas = self._scheduled(p, scheduler, count)
        if discard:
            sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
        return sigmas.to(devices.cpu)

    def _scheduled(self, p, scheduler: sd_schedulers.Scheduler, count: int) -> Tensor:
        params = p.extra_generation_params
        if not p.is_hr_pass:
            params["Schedule type"] = scheduler.label
        elif scheduler.label != params.get("Schedule type"):
            params["Hires schedule type"] = scheduler.label
        arguments = {
            "sigma_min": self.model_wrap.sigma_min.item(),
            "sigma_max": self.model_wrap.sigma_max.item(),
        }
        for name, label in (("sigma_min", "Schedule min sigma"), ("sigma_max", "Schedule max sigma")):
            value = getattr(opts, name)
            if value not in (0, arguments[name]):
                arguments[name] = params[label] = value
        if scheduler.default_rho != -1 and opts.rho not in (0, scheduler.default_rho):
            arguments["rho"] = params["Schedule rho"] = opts.rho
        if scheduler.need_inner_model:
            arguments["inner_model"] = self.model_wrap
        return scheduler.function(n=count, device=devices.cpu, **arguments)

    def sample(
        self, p, x, conditioning, unconditional_conditioning, steps=None, image_conditioning=None
    ) -> Tensor:
        steps = steps or p.steps
        sigmas = self.get_sigmas(p, steps)
        x = x * sigmas[0]
        arguments = self.initialize(p) | {"sigmas": sigmas}
        return self.launch(
            p, steps, x, x, arguments, conditioning, unconditional_conditioning, image_conditioning
        )

    def sample_img2img(
        self, p, x, noise, conditioning, unconditional_conditioning, steps=None, image_conditioning=None
    ) -> Tensor:
        steps, t_enc = sd_samplers_common.setup_img2img_steps(p, steps)
        sigmas = self.get_sigmas(p, steps)[steps - t_enc - 1 :]
        noisy = x + noise * sigmas[0]
        noisy = sd_samplers_common.add_extra_noise(p, noise, x, noisy, 1.0)
        arguments = self.initialize(p) | {"sigmas": sigmas}
        self.model_wrap_cfg.init_latent = x
        return self.launch(
            p, t_enc + 1, noisy, x, arguments, conditioning, unconditional_conditioning, image_conditioning
        )
