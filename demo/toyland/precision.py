"""Half precision as the webui has it, on a CPU.

The webui casts the weights to half precision and computes under ``torch.autocast``, or, with ``--precision
half``, without that, everything being cast by hand. The autoencoder stays in float32, as with
``--no-half-vae``.
"""

from __future__ import annotations

import contextlib
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

with contextlib.redirect_stdout(None):
    from ldm.modules.diffusionmodules.util import GroupNorm32

Precision = Literal["full", "autocast-bfloat16", "autocast-float16", "half-bfloat16", "half-float16"]
NORMS = (nn.GroupNorm, nn.LayerNorm)


class _Convolution(nn.Conv2d):
    """With weights, input and output in half precision and sums in float32, as on a GPU; CPUs take twenty
    times as long for sums in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        x, weight, bias = _in_full_precision(x, self.weight, self.bias)
        with torch.autocast("cpu", enabled=False):
            return self._conv_forward(x, weight, bias).to(self.weight.dtype)


class _Linear(nn.Linear):
    """The same of a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        x, weight, bias = _in_full_precision(x, self.weight, self.bias)
        with torch.autocast("cpu", enabled=False):
            return F.linear(x, weight, bias).to(self.weight.dtype)


def _in_full_precision(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What a layer computes with. As on a GPU, only an autocast takes an input of another dtype."""
    if torch.is_autocast_cpu_enabled():
        x = x.to(weight.dtype)
    elif x.dtype != weight.dtype:
        raise RuntimeError(
            f"expected mat1 and mat2 to have the same dtype, but got: {x.dtype} != {weight.dtype}"
        )
    return x.float(), weight.float(), None if bias is None else bias.float()


_COMPUTED_AS = {nn.Conv2d: _Convolution, nn.Linear: _Linear}


def dtype_of(precision: Precision) -> torch.dtype:
    """What weights are in. Raises ``ValueError`` for a precision that there is not."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; it has to be one of {', '.join(get_args(Precision))}")
    return torch.float32 if precision == "full" else getattr(torch, precision.partition("-")[2])


def autocast(precision: Precision) -> contextlib.AbstractContextManager:
    """To be entered where the webui enters ``devices.autocast()``."""
    if not precision.startswith("autocast"):
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype_of(precision))


def cast_weights(unet: nn.Module, text_encoder: nn.Module, precision: Precision) -> None:
    """Cast the weights of a model, which is in float32."""
    dtype = dtype_of(precision)
    if precision == "full":
        return
    for module in (*unet.modules(), *text_encoder.modules()):
        # CUDA's autocast computes norms in float32 whatever their weights are in; the CPU's does not.
        if not (isinstance(module, NORMS) and precision.startswith("autocast")):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
        module.__class__ = _COMPUTED_AS.get(type(module), type(module))
        if isinstance(module, GroupNorm32) and precision.startswith("half"):
            module.__class__ = nn.GroupNorm  # which hands its input on in float32, as its weights are not
    unet.dtype = dtype
    # ldm makes the timesteps' embedding in float32, which the webui casts.
    unet.time_embed.register_forward_pre_hook(lambda module, args: (args[0].to(dtype),))


def cast_inputs(x: Tensor, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The latents and timesteps that a U-Net with weights in ``dtype`` is given, as the webui casts them."""
    # In bfloat16 there is no timestep between 992, 996 and 1000; the webui's half is float16.
    return x.to(dtype), t if dtype == torch.float32 else t.to(torch.float16)
