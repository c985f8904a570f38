"""Under a policy, no U-Net call but those of sampling passes under erasure, and of calibrations."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from ..errors import ErasureError

_handles: weakref.WeakKeyDictionary[nn.Module, RemovableHandle] = weakref.WeakKeyDictionary()
# Of each thread, who answers for the U-Net calls that it makes, the innermost last.
_local = threading.local()


def guard(model: Any) -> None:
    """Refuse, from now on, calls of the U-Net of ``model`` for which nobody answers. A hook that another
    extension has removed is put back."""
    unet = getattr(getattr(model, "model", None), "diffusion_model", None)
    if not isinstance(unet, nn.Module):
        return
    known = _handles.get(unet)
    if known is None or known.id not in unet._forward_pre_hooks:
        _handles[unet] = unet.register_forward_pre_hook(_ask)


@contextmanager
def accounted_by(answer: Callable[[nn.Module], None]) -> Iterator[None]:
    """While entered, ``answer(unet)`` is asked before each U-Net call of this thread; it raises to refuse."""
    answering = _answering()
    answering.append(answer)
    try:
        yield
    finally:
        answering.pop()


def calibrating() -> Any:
    """While entered, U-Net calls are those of a calibration, of which nothing leaves."""
    return accounted_by(_allow)


def _allow(unet: nn.Module) -> None:
    pass


def _answering() -> list[Callable[[nn.Module], None]]:
    if not hasattr(_local, "answering"):
        _local.answering = []
    return _local.answering


def _ask(unet: nn.Module, args: tuple) -> None:
    answering = _answering()
    if not answering:
        raise ErasureError(
            "the U-Net was called outside of sampling under erasure, which this server's policy does not "
            "allow. Another extension may call the model by itself: disable it"
        )
    answering[-1](unet)
