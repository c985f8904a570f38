"""Where tensors live: on the CPU, in float32."""

from __future__ import annotations

import contextlib
import gc

import torch

cpu = device = device_interrogate = torch.device("cpu")
dtype = dtype_vae = dtype_unet = dtype_inference = torch.float32
unet_needs_upcast = False
fp8 = False


class NansException(Exception):  # noqa: N818
    pass


def get_optimal_device() -> torch.device:
    return device


def get_optimal_device_name() -> str:
    return "cpu"


def torch_gc() -> None:
    gc.collect()


def autocast(disable: bool = False) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()


def without_autocast(disable: bool = False) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()


def cond_cast_unet(x: torch.Tensor) -> torch.Tensor:
    return x


def cond_cast_float(x: torch.Tensor) -> torch.Tensor:
    return x


def test_for_nans(x: torch.Tensor, where: str) -> None:
    """Raise ``NansException`` when *everything* is NaN, as the host does."""
    if torch.isnan(x).all():
        raise NansException(f"A tensor with all NaNs was produced in {where}.")
