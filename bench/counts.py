"""What a sampling step has the device do: kernels that are launched, and waits for their results."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .loops import Kind, Loop

# Steps that are not counted, in which keys, values and decisions are made that are kept; and steps that are.
BEFORE, COUNTED = 2, 3
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel")
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")
READS = frozenset({
    "item", "tolist", "cpu", "numpy", "equal", "nonzero", "__bool__", "__float__", "__int__", "__index__",
})  # fmt: skip


def count(loop: Loop, kind: Kind) -> dict[str, float]:
    """Counts a step, of steps in which no image is looked at.

    On a GPU ``kernels`` and ``waits`` come from the profiler, and ``reads`` are copies to the host. On a CPU
    ``kernels`` are operations that are dispatched, views left out, and ``reads`` those calls that would wait
    for a device, were their tensors on one: at most so many.
    """
    counting = _on_gpu if loop.model.device.type == "cuda" else _on_cpu
    with loop.model.autocast(), loop.model.eraser(kind, loop.images) as eraser:
        steps = loop(eraser)
        for _ in itertools.islice(steps, BEFORE):
            pass
        loop.model.wait()
        counted = min(COUNTED, loop.steps - BEFORE)
        total = counting(lambda: list(itertools.islice(steps, counted)))
    return {name: number / counted for name, number in total.items()}


def _on_gpu(run: Callable[[], Any]) -> dict[str, int]:
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
    names = Counter(event.name for event in profile.events())

    def number(*beginnings: str) -> int:
        return sum(count for name, count in names.items() if name.startswith(beginnings))

    return {"kernels": number(*LAUNCHES), "waits": number(*WAITS), "reads": number("Memcpy DtoH")}


def _on_cpu(run: Callable[[], Any]) -> dict[str, int]:
    with _Reads() as reads, _Operations() as operations:
        run()
    return {"kernels": operations.number, "reads": reads.number}


class _Operations(TorchDispatchMode):
    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aliases = [result.alias_info for result in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in aliases):
            self.number += 1
        return func(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    number = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += getattr(func, "__name__", "") in READS
        return func(*args, **(kwargs or {}))
