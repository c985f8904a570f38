"""Samplers that work with timesteps: what callbacks get as ``sigma`` is a timestep."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules import devices, sd_samplers_common, sd_samplers_functions, shared
from modules.sd_samplers_cfg_denoiser import CFGDenoiser

samplers_timesteps = [("DDIM", sd_samplers_functions.ddim, ["ddim"], {})]
samplers_data_timesteps = [
    sd_samplers_common.SamplerData(
        label, lambda model, function=function: CompVisSampler(function, model), aliases, options
    )
    for label, function, aliases, options in samplers_timesteps
]


class CompVisTimestepsDenoiser(nn.Module):
    """Noisy latent and timestep in, predicted noise out."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.inner_model = model

    def forward(self, input: Tensor, timesteps: Tensor, **kwargs) -> Tensor:
        return self.inner_model.apply_model(input, timesteps, **kwargs)


class CFGDenoiserTimesteps(CFGDenoiser):
    def __init__(self, sampler):
        super().__init__(sampler)
        self.alphas = shared.sd_model.alphas_cumprod
        self.mask_before_denoising = True

    def get_pred_x0(self, x_in: Tensor, x_out: Tensor, sigma: Tensor) -> Tensor:
        alpha = self.alphas[sigma.long()].view(-1, 1, 1, 1)
        return (x_in - (1 - alpha).sqrt() * x_out) / alpha.sqrt()

    @property
    def inner_model(self) -> CompVisTimestepsDenoiser:
        if self.model_wrap is None:
            self.model_wrap = CompVisTimestepsDenoiser(shared.sd_model)
        return self.model_wrap


class CompVisSampler(sd_samplers_common.Sampler):
    eta_option_field = "eta_ddim"
    eta_infotext_field = "Eta DDIM"
    eta_default = 0.0

    def __init__(self, function, sd_model):
        super().__init__(function)
        self.model_wrap_cfg = CFGDenoiserTimesteps(self)
        self.model_wrap = self.model_wrap_cfg.inner_model

    def get_timesteps(self, p, steps: int) -> Tensor:
        count = steps + self.discards_next_to_last(p)
        return (torch.arange(0, 1000, 1000 // count, device=devices.device) + 1).clamp(0, 999)

    def sample(
        self, p, x, conditioning, unconditional_conditioning, steps=None, image_conditioning=None
    ) -> Tensor:
        steps = steps or p.steps
        arguments = self.initialize(p) | {"timesteps": self.get_timesteps(p, steps)}
        return self.launch(
            p, steps, x, x, arguments, conditioning, unconditional_conditioning, image_conditioning
        )

    def sample_img2img(
        self, p, x, noise, conditioning, unconditional_conditioning, steps=None, image_conditioning=None
    ) -> Tensor:
        steps, t_enc = sd_samplers_common.setup_img2img_steps(p, steps)
        timesteps = self.get_timesteps(p, steps)
        alpha = shared.sd_model.alphas_cumprod[timesteps[t_enc]]
        noisy = x * alpha.sqrt() + noise * (1 - alpha).sqrt()
        noisy = sd_samplers_common.add_extra_noise(p, noise, x, noisy, alpha.sqrt())
        arguments = self.initialize(p) | {"timesteps": timesteps[:t_enc]}
        self.model_wrap_cfg.init_latent = x
        return self.launch(
            p, t_enc + 1, noisy, x, arguments, conditioning, unconditional_conditioning, image_conditioning
        )
