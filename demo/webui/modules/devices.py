"""Where tensors live, on the CPU, and in what precision: that of ``--precision``, as the host decides it.

Half precision is bfloat16, which CPUs compute faster than float16. The autoencoder stays in float32.
"""

from __future__ import annotations

import contextlib
import gc

import torch

from demo.toyland import precision as toyland_precision
from modules.shared_cmd_options import cmd_opts

# The host's names for precisions; its --no-half is for every one of them but "half", which it refuses.
precision: toyland_precision.Precision = {
    "full": "full",
    "autocast": "full" if cmd_opts.no_half else "autocast-bfloat16",
    "half": "half-bfloat16",
}[cmd_opts.precision]

cpu = device = device_interrogate = torch.device("cpu")
dtype = dtype_unet = dtype_inference = toyland_precision.dtype_of(precision)
dtype_vae = torch.float32
unet_needs_upcast = False
force_fp16 = cmd_opts.precision == "half"
"""No autocast: what enters the model is cast before."""
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
    return contextlib.nullcontext() if disable else toyland_precision.autocast(precision)


def without_autocast(disable: bool = False) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if disable else torch.autocast("cpu", enabled=False)


def cond_cast_unet(x: torch.Tensor) -> torch.Tensor:
    return x.to(dtype_unet) if force_fp16 else x


def cond_cast_float(x: torch.Tensor) -> torch.Tensor:
    return x


def test_for_nans(x: torch.Tensor, where: str) -> None:
    """Raise ``NansException`` when *everything* is NaN, as the host does."""
    if torch.isnan(x).all():
        raise NansException(f"A tensor with all NaNs was produced in {where}.")
