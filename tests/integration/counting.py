"""Counts what the hooks have the device do, on a CPU: operations, and transfers to the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from eiup.eraser import ConceptEraser, text_cross_attention


def is_view(func) -> bool:
    """Whether an operation only gives its input another shape, for which a device has nothing to do."""
    returns = [result.alias_info for result in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returns)


class Operations(TorchDispatchMode):
    """The operations that are dispatched, views left out, by where they are counted."""

    def __init__(self, eraser: ConceptEraser) -> None:
        super().__init__()
        self.eraser = eraser
        self.counts: dict[nn.Module, Counter[str]] = {}
        self.where: nn.Module | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.where is not None and not is_view(func):
            self.counts.setdefault(self.where, Counter())[str(func)] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def in_hooks(eraser: ConceptEraser) -> Iterator[Operations]:
    """While entered, ``eraser`` is, too, and what its hooks dispatch in each attention layer is counted."""
    operations = Operations(eraser)

    def begin(layer: nn.Module):
        def hook(*_) -> None:
            operations.where = layer

        return hook

    def end(*_) -> None:
        operations.where = None

    # Hooks run in the order in which they were registered.
    layers = text_cross_attention(eraser.unet).values()
    for layer in layers:
        layer.to_q.register_forward_hook(begin(layer))
        layer.to_out[0].register_forward_pre_hook(begin(layer))
    with eraser:
        for layer in layers:
            layer.to_q.register_forward_hook(end)
            layer.to_out[0].register_forward_pre_hook(end)
        with operations:
            yield operations


_READS = {
    "tolist", "item", "__bool__", "__float__", "__int__", "__index__", "cpu", "numpy", "equal", "nonzero",
}  # fmt: skip


class OnDevice(torch.Tensor):
    """A tensor on the CPU that counts as one on a device, as does all that is computed from it: what reads
    its values would wait for the device."""

    reads: Counter[str] = Counter()

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        masks = name == "__getitem__" and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], tuple) else (args[1],))
        )
        to_cpu = name == "to" and "cpu" in [a for a in (*args[1:], *kwargs.values()) if isinstance(a, str)]
        if name in _READS or masks or to_cpu:
            cls.reads[name] += 1
        result = super().__torch_function__(func, types, args, kwargs)
        return result.as_subclass(torch.Tensor) if name == "cpu" or to_cpu else result
