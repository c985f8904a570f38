"""Schedules: where between the largest and the smallest sigma the steps lie."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Scheduler:
    name: str
    label: str
    function: Callable[..., Tensor] | None
    default_rho: float = -1
    need_inner_model: bool = False
    aliases: list[str] | None = None


def _with_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def uniform(n: int, sigma_min: float, sigma_max: float, inner_model, device) -> Tensor:
    return inner_model.get_sigmas(n).to(device)


def karras(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0, device="cpu") -> Tensor:
    """Equal distances in sigma ** (1 / rho); Karras et al. 2022, eq. 5."""
    ramp = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n, device=device)
    return _with_zero(ramp**rho)


def exponential(n: int, sigma_min: float, sigma_max: float, device="cpu") -> Tensor:
    return _with_zero(torch.linspace(math.log(sigma_max), math.log(sigma_min), n, device=device).exp())


def sgm_uniform(n: int, sigma_min: float, sigma_max: float, inner_model, device) -> Tensor:
    start, end = (inner_model.sigma_to_t(torch.tensor(sigma)).item() for sigma in (sigma_max, sigma_min))
    return _with_zero(inner_model.t_to_sigma(torch.linspace(start, end, n + 1)[:-1])).to(device)


schedulers = [
    Scheduler("automatic", "Automatic", None),
    Scheduler("uniform", "Uniform", uniform, need_inner_model=True),
    Scheduler("karras", "Karras", karras, default_rho=7.0),
    Scheduler("exponential", "Exponential", exponential),
    Scheduler("sgm_uniform", "SGM Uniform", sgm_uniform, need_inner_model=True, aliases=["SGMUniform"]),
]
schedulers_map = {key: scheduler for scheduler in schedulers for key in (scheduler.name, scheduler.label)}
