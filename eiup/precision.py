"""Arithmetic in float32, whatever precision the host computes in; and tensors on the host's device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


@contextlib.contextmanager
def full_precision(device: torch.device | str) -> Iterator[None]:
    """While entered, products of float32 tensors on ``device`` are computed in float32.

    A host enters autocast around the whole model, and may allow TF32 on GPUs. Both round what is multiplied
    to half precision, in which quantiles and linear equations cannot be solved. So whatever calibrates,
    decides or looks works inside of this on tensors that are ``.float()``; the model's own modules are called
    outside of it, as the host would call them.
    """
    kind = torch.device(device).type
    allowed = torch.get_float32_matmul_precision()
    try:
        if kind == "cuda" and allowed != "highest":
            torch.set_float32_matmul_precision("highest")
        with _without_autocast(kind):
            yield
    finally:
        if kind == "cuda" and allowed != "highest":
            torch.set_float32_matmul_precision(allowed)


def _without_autocast(kind: str) -> contextlib.AbstractContextManager:
    try:
        return torch.autocast(kind, enabled=False)
    except (RuntimeError, AssertionError):  # a kind of device that has none in this version of torch
        return contextlib.nullcontext()


def brought_to(device: torch.device, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``x``, which is on the CPU, on ``device``. CUDA copies memory before the call returns, so that nothing
    has to be waited for; elsewhere it is."""
    return x.to(device, dtype or x.dtype, non_blocking=device.type == "cuda")
