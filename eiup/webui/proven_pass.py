"""A sampling pass under a policy: erased for certain, or ended by an error."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from torch import nn

from modules import shared

from ..errors import ErasureError
from ..proof import Tally
from ..request import ErasureRequest
from . import unet_guard
from .sampling import NoiseState, SamplingPass

# It does not depend on a look at the image, and erases in every one.
UNSEEN_MODE = "strict"


class ProvenPass(SamplingPass):
    """Counts in ``tally`` the rows that the U-Net saw, and those that were under erasure.

    The mode adaptive waits for a look at the images. Where there is none, since a refiner takes over before
    or there are too few steps, ``request`` ends up with the mode strict.
    """

    def __init__(self, p: Any, request: ErasureRequest, name: str, before: SamplingPass | None = None):
        super().__init__(p, request, name, before)
        self.tally = Tally()
        if request.mode == "adaptive" and self._switches_early():
            self.request = replace(request, mode=UNSEEN_MODE)

    def run(self, sampler: Any, sample: Callable, *args: Any, **kwargs: Any) -> Any:
        """``sample(*args, **kwargs)`` with the concepts erased. Raises :class:`ErasureError` where a row was
        not under erasure."""
        denoiser = sampler.model_wrap_cfg
        with ExitStack() as undo:
            undo.callback(denoiser.register_forward_pre_hook(self._begin_call).remove)
            undo.callback(denoiser.register_forward_hook(self._end_call).remove)
            undo.enter_context(unet_guard.accounted_by(self._see))
            noise = NoiseState(self.p.rng)
            result = super().run(sampler, sample, *args, **kwargs)
            if self._eraser.unseen and not _stopped():
                self._prepare_for_strict()
                noise.restore()
                result = super().run(sampler, sample, *args, **kwargs)
            self.tally.check()
        # Each image has its record, also one that was stopped before its first U-Net call.
        for image in range(len(self.p.seeds)):
            self.evidence.setdefault(image, self._eraser.recorder.nothing())
        return result

    def _prepare_for_strict(self) -> None:
        if self._has_refiner():
            raise ErasureError(
                "the refiner took over before the images were looked at. Let it take over later, or choose "
                "more steps or another mode than adaptive"
            )
        self.request = replace(self.request, mode=UNSEEN_MODE)
        self.tally.clear()

    def _attach(self, watches: bool = False, maps: bool = False) -> None:
        super()._attach(watches, maps)
        self._eraser.tally = self.tally

    @classmethod
    def previews(cls) -> bool:
        """Whether what the denoiser predicts now may be looked at."""
        running = cls._running.values()
        shows_negative = shared.opts.live_preview_content == "Negative prompt"
        return not (running and (shows_negative or any(sampling._withheld() for sampling in running)))

    def _withheld(self) -> set[int]:
        """An image that was not looked at may show what no prompt told of. Of one that is stopped, the webui
        shows what the first prompt alone predicts, which is not erased where it is subtracted."""
        firsts = {row.image: row for row in reversed(self._plan or ())}
        subtracted = {image for image, row in firsts.items() if not row.erased}
        return super()._withheld() | self._eraser.unseen | subtracted

    def _begin_call(self, denoiser: nn.Module, args: tuple) -> None:
        self._plan = None
        self.tally.begin_call()

    def _end_call(self, denoiser: nn.Module, args: tuple, output: Any) -> None:
        self.tally.end_call(self._plan)
        self._withhold()

    def _see(self, unet: nn.Module) -> None:
        eraser = self._eraser
        if eraser is None or eraser.unet is not unet or eraser.rows is None:
            raise ErasureError("the U-Net was called while a sampling pass had not announced its rows")
        self.tally.see(eraser.rows)


def _stopped() -> bool:
    return shared.state.interrupted or shared.state.skipped
