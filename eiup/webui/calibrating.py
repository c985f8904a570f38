"""Calibrating in the webui: what is learnt is shown while it is, and Interrupt and Skip end it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from modules import shared

from ..calibration import CalibrationProgress, Report

# The webui's fraction of a job is its sampling's; while concepts are calibrated, it has as many steps.
_STEPS = 1000
_LONGEST_CONCEPT = 40
# How many modules of the U-Net a GPU may be behind of what is launched on it.
_AHEAD = 2


class CalibrationStopped(Exception):  # noqa: N818 - a signal, not an error
    """Concepts were being calibrated, and that is no longer wanted."""


@contextmanager
def shown_calibration(unet: nn.Module) -> Iterator[Report]:
    """While entered, a generation's calibration can be shown by the report that this gives, and raises
    :class:`CalibrationStopped` as soon as the generation is interrupted or skipped."""
    shown = _Shown()
    try:
        with stoppable(unet, _generation_stopped):
            yield shown
    finally:
        shown.end()


@contextmanager
def stoppable(unet: nn.Module, stopped: Callable[[], bool]) -> Iterator[None]:
    """While entered, a call of ``unet`` raises :class:`CalibrationStopped` soon after ``stopped()`` is true:
    it is asked at each block and each text cross-attention, of which a call has dozens."""
    pace = _Pace()

    def ask(module: nn.Module, args: tuple) -> None:
        pace.keep(args)
        if stopped():
            raise CalibrationStopped

    handles = [module.register_forward_pre_hook(ask) for module in _parts(unet)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def told(progress: CalibrationProgress) -> str:
    """What is learnt, in one line: the webui's page does not show more than one."""
    if not progress.concept:
        return "EIUP learns this checkpoint"
    concept = " ".join(progress.concept.split())
    if len(concept) > _LONGEST_CONCEPT:
        concept = f"{concept[: _LONGEST_CONCEPT - 3]}..."
    return f"EIUP learns {concept}, {progress.number} of {progress.of}"


def _generation_stopped() -> bool:
    return shared.state.interrupted or shared.state.skipped


def _parts(unet: nn.Module) -> list[nn.Module]:
    """Blocks are in lists, whatever the U-Net calls them."""
    blocks = {block for part in unet.modules() if isinstance(part, nn.ModuleList) for block in part}
    attentions = {module for name, module in unet.named_modules() if name.endswith(".attn2")}
    parts = blocks | attentions
    return [module for module in unet.modules() if module in parts]


class _Shown:
    """A :data:`Report` that tells by the webui's progress of its job, which is afterwards as it was."""

    def __init__(self) -> None:
        self._before: dict[str, Any] = {}
        self._began = 0.0

    def __call__(self, progress: CalibrationProgress) -> None:
        now = {
            # First: no preview becomes due because the step grows.
            "current_image_sampling_step": _STEPS + 1,
            "sampling_steps": _STEPS,
            "sampling_step": round(_STEPS * progress.done),
            "textinfo": told(progress),
        }
        if not self._before:
            self._before = {name: getattr(shared.state, name) for name in now}
            self._began = time.time()
        self._set(now)

    def end(self) -> None:
        if not self._before:
            return
        self._set(dict(reversed(self._before.items())))
        # The time that is left is estimated from that since the job began, in which nothing was sampled.
        # None where an extension generates without having begun a job.
        if shared.state.time_start is not None:
            shared.state.time_start += time.time() - self._began
        self._before = {}

    def _set(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(shared.state, name, value)


class _Pace:
    """Waits for a GPU, on which a whole call would otherwise be launched before the first part of it ran."""

    def __init__(self) -> None:
        self._launched: deque[torch.cuda.Event] = deque()

    def keep(self, args: tuple) -> None:
        if not (args and isinstance(args[0], Tensor) and args[0].is_cuda):
            return
        event = torch.cuda.Event()
        # With --device-id, the model is on another GPU than torch's current one.
        event.record(torch.cuda.current_stream(args[0].device))
        self._launched.append(event)
        if len(self._launched) > _AHEAD:
            self._launched.popleft().synchronize()
