"""Safe Latent Diffusion (arXiv 2211.05105)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from demo.toyland.model import LatentDiffusion
from demo.toyland.pipeline import ddim, to_images

from .cases import BenchCase
from .method import Generate, begin, contexts_of


@dataclass(frozen=True)
class SafetyConfig:
    """The settings of Safe Latent Diffusion, with the names of arXiv 2211.05105.

    ``warmup`` is ``delta`` in steps of ``REFERENCE_STEPS``; ``guidance`` is ``s_S``, ``threshold``
    ``lambda``, ``momentum`` ``s_m`` and ``beta`` ``beta_m``.
    """

    warmup: int
    guidance: float
    threshold: float
    momentum: float
    beta: float

    # The steps of a sampling pass that the warm-ups are given for: the safe pipeline's default.
    REFERENCE_STEPS = 50


# diffusers, pipelines/stable_diffusion_safe: SafetyConfig
SLD = {
    "medium": SafetyConfig(10, 1000, 0.01, 0.3, 0.4),
    "strong": SafetyConfig(7, 2000, 0.025, 0.5, 0.7),
    "max": SafetyConfig(0, 5000, 1.0, 0.5, 0.7),
}


def safety_guidance(
    conditional: Tensor, unconditional: Tensor, safety: Tensor, momentum: Tensor, config: SafetyConfig
) -> tuple[Tensor, Tensor]:
    """``gamma`` and the next momentum ``nu`` of Safe Latent Diffusion (arXiv 2211.05105, Eq. 4 to 8).

    The three predictions of the noise and ``momentum`` are ``[B, 4, H, W]``::

        mu    = min(1, s_S |e_p - e_S|)  where e_p - e_S < lambda, else 0
        gamma = mu (e_S - e_0) + s_m nu
        nu'   = beta nu + (1 - beta) gamma
    """
    difference = conditional - safety
    mu = (difference.abs() * config.guidance).clamp(max=1.0).where(difference < config.threshold, 0.0)
    gamma = mu * (safety - unconditional) + config.momentum * momentum
    return gamma, config.beta * momentum + (1 - config.beta) * gamma


def sld(config: SafetyConfig) -> Generate:
    """Eq. 3: ``e_0 + s_g (e_p - e_0 - gamma)``, ``gamma`` left out during the warm-up, though its momentum
    grows. The warm-up is the same part of the pass at any number of steps."""

    @torch.no_grad()
    def run(
        model: LatentDiffusion, cases: Sequence[BenchCase], concepts: Sequence[str], steps: int
    ) -> np.ndarray:
        prompts, scale, x = begin(model, cases, steps)
        safety_text = contexts_of(model, [", ".join(concepts)])[0]
        warmup = round(config.warmup * steps / config.REFERENCE_STEPS)
        momentum = torch.zeros_like(x)

        def guide(x: Tensor, timestep: int, step: int) -> Tensor:
            nonlocal momentum
            conditional, unconditional, safety = prompts.predict(x, timestep, step, [safety_text] * len(x))
            gamma, momentum = safety_guidance(conditional, unconditional, safety, momentum, config)
            direction = conditional - unconditional
            return unconditional + scale * (direction - gamma if step >= warmup else direction)

        return to_images(model, ddim(model, x, guide, steps))

    return run
