"""The webui's model as probes are made with it."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from modules import shared

from ..probes import Denoiser
from . import unet_guard
from .encoding import ConceptEncoder

# Latents of probes are square, of about the images' area, in these steps and at most this large.
_STEP, _LARGEST = 16, 64
_CALIBRATING = "EIUP learns what the concepts look like to this checkpoint, once."


class CalibrationStopped(Exception):  # noqa: N818 - a signal, not an error
    """The user has interrupted or skipped the generation while concepts were being calibrated."""


def denoiser_of(model: nn.Module, encode: ConceptEncoder, width: int, height: int) -> Denoiser:
    """For images of ``width x height`` pixels. The empty prompt's pooled vector, where there is one (SDXL),
    serves for all prompts; further channels of the U-Net's input (inpainting) are zeros."""
    unet = model.model.diffusion_model
    channels = unet.out_channels
    side = _STEP * round((width * height) ** 0.5 / 8 / _STEP)
    side = min(max(side, _STEP), _LARGEST)
    alphas = model.alphas_cumprod.float()

    @cache
    def empty() -> Any:
        return encode.conditioning([""])

    def predict(x: Tensor, timestep: int, contexts: Tensor) -> Tensor:
        if shared.state.interrupted or shared.state.skipped:
            raise CalibrationStopped
        shared.state.textinfo = _CALIBRATING
        t = torch.full((len(x),), timestep, device=x.device)
        if isinstance(empty(), dict):
            vector = empty()["vector"][:1].expand(len(x), -1)
            cond: dict[str, Any] = {"crossattn": contexts, "vector": vector}
        else:
            cond = {"c_crossattn": [contexts]}
        if (more := unet.in_channels - channels) > 0:
            cond["c_concat"] = [x.new_zeros(len(x), more, *x.shape[2:])]
        with unet_guard.calibrating():
            output = model.apply_model(x, t, cond).float()
        if getattr(model, "parameterization", "eps") != "v":
            return output
        alpha = alphas[timestep].to(x.device)
        return alpha.sqrt() * output + (1 - alpha).sqrt() * x

    return Denoiser(predict, alphas, (channels, side, side))
