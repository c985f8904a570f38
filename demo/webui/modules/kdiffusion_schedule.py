"""The checkpoint's noise schedule in k-diffusion's terms: sigma = sqrt((1 - a) / a), t continuous.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CompVisDenoiser(nn.Module):
    """An eps-predicting LDM model as a denoiser: noisy latent and sigma in, clean latent out."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.inner_model = model
        sigmas = ((1 - model.alphas_cumprod) / model.alphas_cumprod).sqrt()
        self.register_buffer("sigmas", sigmas)
        self.register_buffer("log_sigmas", sigmas.log())

    @property
    def sigma_min(self) -> Tensor:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        return self.sigmas[-1]

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        """Timesteps, linear in log sigma between the trained ones."""
        log_sigma = sigma.clamp(min=1e-10).log()
        upper = torch.searchsorted(self.log_sigmas, log_sigma.contiguous()).clamp(1, len(self.sigmas) - 1)
        low, high = self.log_sigmas[upper - 1], self.log_sigmas[upper]
        weight = ((log_sigma - low) / (high - low)).clamp(0, 1)
        return upper - 1 + weight

    def t_to_sigma(self, t: Tensor) -> Tensor:
        lower, upper = t.float().floor().long(), t.float().ceil().long()
        return torch.lerp(self.log_sigmas[lower], self.log_sigmas[upper], t.float().frac()).exp()

    def get_sigmas(self, n: int) -> Tensor:
        """``n`` sigmas at equal distances in t, and 0."""
        t = torch.linspace(len(self.sigmas) - 1, 0, n, device=self.sigmas.device)
        return torch.cat([self.t_to_sigma(t), t.new_zeros(1)])

    def forward(self, input: Tensor, sigma: Tensor, **kwargs) -> Tensor:
        scale = sigma.view(-1, 1, 1, 1)
        eps = self.inner_model.apply_model(input / (scale**2 + 1).sqrt(), self.sigma_to_t(sigma), **kwargs)
        return input - scale * eps
