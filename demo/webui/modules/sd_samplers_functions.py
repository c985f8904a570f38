"""Samplers: each walks from noise to a clean latent, calling the guided model at every step.

``model(x, value, **extra_args)`` returns the clean latent for a sigma, or eps for a timestep (DDIM).
``noise()`` gives new noise, from each image's own seed. ``callback`` is told each step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _derivative(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """dx / dsigma of the probability flow; Karras et al. 2022, eq. 1."""
    return (x - denoised) / sigma


def _tell(callback, i: int, x: Tensor, sigma, denoised: Tensor) -> None:
    if callback is not None:
        callback({"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})


def _rows(x: Tensor, value) -> Tensor:
    return torch.full((x.shape[0],), float(value), dtype=x.dtype, device=x.device)


def _churn(x: Tensor, sigma: Tensor, steps: int, noise, churn: tuple[float, float, float, float]):
    """Noise added before a step, and the sigma that it leads to; Karras et al. 2022, algorithm 2."""
    s_churn, s_tmin, s_tmax, s_noise = churn
    gamma = min(s_churn / steps, 2**0.5 - 1) if s_tmin <= sigma <= s_tmax else 0.0
    if gamma == 0:
        return x, sigma
    higher = sigma * (1 + gamma)
    return x + noise() * s_noise * (higher**2 - sigma**2).sqrt(), higher


@torch.no_grad()
def euler(
    model, x: Tensor, sigmas: Tensor, *, extra_args: dict, callback=None, noise=None,
    s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = math.inf, s_noise: float = 1.0,
) -> Tensor:  # fmt: skip
    steps = len(sigmas) - 1
    for i in range(steps):
        x, now = _churn(x, sigmas[i], steps, noise, (s_churn, s_tmin, s_tmax, s_noise))
        denoised = model(x, _rows(x, now), **extra_args)
        _tell(callback, i, x, now, denoised)
        x = x + _derivative(x, now, denoised) * (sigmas[i + 1] - now)
    return x


@torch.no_grad()
def euler_ancestral(
    model, x: Tensor, sigmas: Tensor, *, extra_args: dict, callback=None, noise=None, eta: float = 1.0
) -> Tensor:
    """A step down to less than the next sigma, then noise up to it."""
    for i in range(len(sigmas) - 1):
        now, then = sigmas[i], sigmas[i + 1]
        denoised = model(x, _rows(x, now), **extra_args)
        _tell(callback, i, x, now, denoised)
        up = torch.minimum(then, eta * then * ((now**2 - then**2) / now**2).sqrt())
        down = (then**2 - up**2).sqrt()
        x = x + _derivative(x, now, denoised) * (down - now)
        if then > 0:
            x = x + noise() * up
    return x


@torch.no_grad()
def heun(
    model, x: Tensor, sigmas: Tensor, *, extra_args: dict, callback=None, noise=None,
    s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = math.inf, s_noise: float = 1.0,
) -> Tensor:  # fmt: skip
    """Second order; Karras et al. 2022, algorithm 1. The last step is Euler's."""
    steps = len(sigmas) - 1
    for i in range(steps):
        x, now = _churn(x, sigmas[i], steps, noise, (s_churn, s_tmin, s_tmax, s_noise))
        then = sigmas[i + 1]
        denoised = model(x, _rows(x, now), **extra_args)
        _tell(callback, i, x, now, denoised)
        slope = _derivative(x, now, denoised)
        ahead = x + slope * (then - now)
        if then > 0:
            slope = (slope + _derivative(ahead, then, model(ahead, _rows(x, then), **extra_args))) / 2
        x = x + slope * (then - now)
    return x


@torch.no_grad()
def dpmpp_2m(model, x: Tensor, sigmas: Tensor, *, extra_args: dict, callback=None, noise=None) -> Tensor:
    """Lu et al. 2022, DPM-Solver++(2M), with lambda = -log sigma."""
    previous = None
    for i in range(len(sigmas) - 1):
        now, then = sigmas[i], sigmas[i + 1]
        denoised = model(x, _rows(x, now), **extra_args)
        _tell(callback, i, x, now, denoised)
        if then == 0:
            x = denoised
            continue
        target = denoised
        if previous is not None:
            # Extrapolates from the two latest predictions.
            ratio = (now / then).log() / (sigmas[i - 1] / now).log()
            target = denoised + (denoised - previous) * ratio / 2
        x = target + (x - target) * (then / now)
        previous = denoised
    return x


@torch.no_grad()
def ddim(
    model, x: Tensor, timesteps: Tensor, *, extra_args: dict, callback=None, noise=None, eta: float = 0.0
) -> Tensor:
    """Song et al. 2021, eq. 12. ``timesteps`` ascend; N of them make N - 1 calls, as in the real host."""
    alphas = model.inner_model.inner_model.alphas_cumprod[timesteps].double()
    for i, index in enumerate(range(len(timesteps) - 1, 0, -1)):
        a, a_prev = alphas[index], alphas[index - 1]
        eps = model(x, _rows(x, timesteps[index]), **extra_args)
        clean = (x - (1 - a).sqrt().float() * eps) / a.sqrt().float()
        sigma = eta * ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt()
        x = (
            a_prev.sqrt().float() * clean
            + (1 - a_prev - sigma**2).sqrt().float() * eps
            + sigma.float() * noise()
        )
        _tell(callback, i, x, 0, clean)
    return x
