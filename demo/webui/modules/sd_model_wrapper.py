"""Toyland's model with the attributes and calls that the host gives a Stable Diffusion checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from ldm.modules.distributions.distributions import DiagonalGaussianDistribution
from torch import Tensor, nn

from demo.toyland.model import LatentDiffusion
from demo.toyland.precision import cast_inputs
from modules import devices


class DiffusionWrapper(nn.Module):
    """Hands the conditioning to the U-Net (``diffusion_model``) as its cross-attention context."""

    conditioning_key = "crossattn"

    def __init__(self, diffusion_model: nn.Module):
        super().__init__()
        self.diffusion_model = diffusion_model

    def forward(
        self, x: Tensor, t: Tensor, c_concat: list | None = None, c_crossattn: list | None = None
    ) -> Tensor:
        return self.diffusion_model(x, t, context=torch.cat(c_crossattn, dim=1))


class WebuiSdModel(nn.Module):
    """A loaded checkpoint. ``cond_stage_model`` is wrapped by ``sd_hijack`` after loading."""

    is_sdxl = is_sdxl_inpaint = is_ssd = is_sd2 = is_sd3 = False
    is_sd1 = True
    lowvram = False
    cond_stage_key = "txt"
    parameterization = "eps"
    latent_channels = 4

    def __init__(self, checkpoint: LatentDiffusion):
        super().__init__()
        self.scale_factor = checkpoint.scale_factor
        self.model = DiffusionWrapper(checkpoint.model.diffusion_model)
        self.first_stage_model = checkpoint.first_stage_model
        self.first_stage_model.dtype = torch.float32
        self.cond_stage_model = checkpoint.cond_stage_model
        self.register_buffer("alphas_cumprod", checkpoint.alphas_cumprod, persistent=False)
        self.num_timesteps = len(self.alphas_cumprod)
        self.sd_checkpoint_info = None
        self.sd_model_checkpoint: str | None = None
        self.sd_model_hash: str | None = None
        self.cond_stage_model_empty_prompt: Tensor | None = None

    @property
    def device(self) -> torch.device:
        return self.alphas_cumprod.device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @contextlib.contextmanager
    def ema_scope(self, context: str | None = None) -> Iterator[None]:
        yield

    def get_learned_conditioning(self, c: list[str]) -> Tensor:
        """Encoded prompts ``[B, 77 * chunks, C]``."""
        return self.cond_stage_model(c)

    def apply_model(self, x_noisy: Tensor, t: Tensor, cond: dict | list | Tensor) -> Tensor:
        """The predicted noise, in the U-Net's dtype; ``cond``: ``{"c_crossattn": [context]}``, a list of
        contexts or a context. Inputs are cast and autocast is entered here, too, as in the host."""
        if not isinstance(cond, dict):
            cond = {"c_crossattn": cond if isinstance(cond, list) else [cond]}
        cond = {name: [part.to(devices.dtype_unet) for part in parts] for name, parts in cond.items()}
        with devices.autocast():
            return self.model(*cast_inputs(x_noisy, t, devices.dtype_unet), **cond)

    def encode_first_stage(self, x: Tensor) -> DiagonalGaussianDistribution:
        """The distribution of the latents of images ``[B, 3, H, W]`` in -1..1."""
        return DiagonalGaussianDistribution(torch.cat(self.first_stage_model.encode(x), dim=1))

    def get_first_stage_encoding(self, encoder_posterior: DiagonalGaussianDistribution | Tensor) -> Tensor:
        """Latents in model space. The mean rather than a sample, so that img2img can be repeated exactly."""
        if isinstance(encoder_posterior, DiagonalGaussianDistribution):
            encoder_posterior = encoder_posterior.mode()
        return self.scale_factor * encoder_posterior

    def decode_first_stage(self, z: Tensor) -> Tensor:
        return self.first_stage_model.decode(z / self.scale_factor)
