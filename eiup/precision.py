"""Arithmetic in float32, whatever precision the host computes in."""

from __future__ import annotations

import contextlib

import torch


def full_precision(device: torch.device | str) -> contextlib.AbstractContextManager:
    """While entered, no autocast changes what is computed on ``device``.

    A host enters autocast around the whole model. It turns products of float32 tensors into half
    precision, in which quantiles and linear equations cannot be solved. So whatever calibrates, decides or
    looks works inside of this on tensors that are ``.float()``; the model's own modules are called outside
    of it, as the host would call them.
    """
    try:
        return torch.autocast(torch.device(device).type, enabled=False)
    except RuntimeError:  # a kind of device that has no autocast in this version of torch
        return contextlib.nullcontext()
