"""Sampling progress on the noise schedule, and the window of progress in which concepts are erased."""

from __future__ import annotations

from dataclasses import dataclass

TRAINING_STEPS = 1000


def progress(timestep: float, training_steps: int = TRAINING_STEPS) -> float:
    """Sampling progress in 0..1 of a U-Net timestep: 0 at pure noise, 1 at the clean image.

    Measured on the noise schedule that the model was trained with, so it means the same for every
    sampler, number of steps and denoising strength.
    """
    return min(1.0, max(0.0, 1.0 - timestep / (training_steps - 1)))


@dataclass(frozen=True)
class Window:
    """``s(t)``: 1 while ``start <= progress <= end``, else 0. The paper's authors use 0 to 0.8."""

    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.start <= self.end <= 1.0:
            raise ValueError(f"a window needs 0 <= start <= end <= 1, not {self.start} to {self.end}")

    def __call__(self, progress: float) -> float:
        return 1.0 if self.start <= progress <= self.end else 0.0
