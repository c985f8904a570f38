"""What the extension adds to a denoising step, on a U-Net of Stable Diffusion 1.5's shape.

The weights are random: time does not depend on them. Every step with the extension is timed next to a
step without it, once before and once after in turn, and the figure is the median of the ratios of such
pairs: a machine that grows slower, or is shared with others, moves both of a pair alike. The pairs with no
concepts, where the extension hooks nothing, show how far the measurement itself is off.

On a machine whose steps vary by more than the hooks cost, the ratio drowns in that. So the time that passes
inside the hooks is measured as well, as a share of the same step's remaining time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from eiup.eraser import ConceptEraser, EncodedConcept
from eiup.rows import conditional_then_unconditional

with contextlib.redirect_stdout(io.StringIO()):
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

OUT = Path(__file__).parent / "out"
CONCEPTS = (0, 1, 8)
TEXT_LENGTH, TEXT_WIDTH = 77, 768


def build_unet() -> torch.nn.Module:
    """The U-Net of Stable Diffusion 1.5 (860M parameters), with random weights, in float32."""
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        unet = UNetModel(
            image_size=32,
            in_channels=4,
            out_channels=4,
            model_channels=320,
            attention_resolutions=[4, 2, 1],
            num_res_blocks=2,
            channel_mult=[1, 2, 4, 4],
            num_heads=8,
            use_spatial_transformer=True,
            transformer_depth=1,
            context_dim=TEXT_WIDTH,
            use_checkpoint=False,
            legacy=False,
        )
    return unet.eval().requires_grad_(False)


class _Steps:
    """Denoising steps of one image under classifier-free guidance: a conditional and an unconditional row."""

    def __init__(self, unet: torch.nn.Module, size: int):
        generator = torch.Generator().manual_seed(1)
        self.unet = unet
        self.latents = torch.randn(2, 4, size // 8, size // 8, generator=generator)
        self.timesteps = torch.full((2,), 500)
        self.context = torch.randn(2, TEXT_LENGTH, TEXT_WIDTH, generator=generator)
        encoded = torch.randn(max(CONCEPTS) + 1, TEXT_LENGTH, TEXT_WIDTH, generator=generator)
        self.empty = encoded[-1]
        self.concepts = [
            EncodedConcept(f"concept {k}", context, (1, 2)) for k, context in enumerate(encoded[:-1])
        ]

    def seconds(self, concepts: int) -> tuple[float, float]:
        """Time of one step in the middle of a sampling pass that erases so many concepts, and how much of
        it passed inside hooks."""
        if concepts == 0:
            return self._step(None), 0.0
        with _timed_hooks() as inside:
            with ConceptEraser(self.unet, self.concepts[:concepts], self.empty) as eraser:
                return self._step(eraser, inside.clear), sum(inside)

    def _step(self, eraser: ConceptEraser | None, before_step: Callable[[], None] = lambda: None) -> float:
        # The concepts' keys and values are computed once a pass, here by a step on tiny latents.
        for latents in (self.latents[..., :8, :8], self.latents):
            if eraser:
                eraser.rows = conditional_then_unconditional(1)
            before_step()
            started = time.perf_counter()
            self.unet(latents, self.timesteps, context=self.context)
        return time.perf_counter() - started


@contextlib.contextmanager
def _timed_hooks() -> Iterator[list[float]]:
    """The seconds of each run of a hook that is registered meanwhile."""
    inside: list[float] = []
    originals = {
        name: getattr(torch.nn.Module, name)
        for name in ("register_forward_hook", "register_forward_pre_hook")
    }

    def registering(original: Callable) -> Callable:
        def register(module: torch.nn.Module, hook: Callable, **options: Any) -> Any:
            def timed(*args: Any) -> Any:
                started = time.perf_counter()
                result = hook(*args)
                inside.append(time.perf_counter() - started)
                return result

            return original(module, timed, **options)

        return register

    for name, original in originals.items():
        setattr(torch.nn.Module, name, registering(original))
    try:
        yield inside
    finally:
        for name, original in originals.items():
            setattr(torch.nn.Module, name, original)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds",
        type=_at_least(3),
        default=15,
        help="pairs of steps for each number of concepts (default: 15)",
    )
    parser.add_argument(
        "--size",
        type=_at_least(64, 64),
        default=256,
        help="image size in pixels, a multiple of 64 (default: 256)",
    )
    parser.add_argument("--threads", type=_at_least(1), help="torch's threads (default: torch's own choice)")


def _at_least(minimum: int, multiple_of: int = 1) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} is less than {minimum}")
        if value % multiple_of:
            raise argparse.ArgumentTypeError(f"{value} is not a multiple of {multiple_of}")
        return value

    return number


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table and write ``bench/out/speed.json``."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print("Building the U-Net (860M random weights) ...", flush=True)
    with torch.inference_mode():
        steps = _Steps(build_unet(), arguments.size)
        pairs = _measure(steps, arguments.rounds)
    result = {
        "unet": "Stable Diffusion 1.5's shape: 320 channels, random weights, float32",
        "latents": list(steps.latents.shape),
        "context": list(steps.context.shape),
        "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "seconds_per_step_without": statistics.median(
            plain for measured in pairs.values() for plain, _, _ in measured
        ),
        "concepts": {str(count): summarise(measured) for count, measured in pairs.items()},
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "speed.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("\n" + table(result) + "\n\nThe figures are in bench/out/speed.json.")
    return 0


def _measure(steps: _Steps, rounds: int) -> dict[int, list[tuple[float, float, float]]]:
    """Seconds (without, with, of these inside hooks) of each pair, by the number of concepts."""
    pairs: dict[int, list[tuple[float, float, float]]] = {count: [] for count in CONCEPTS}
    for count in CONCEPTS:
        steps.seconds(count)
    pace = {} if sys.stderr.isatty() else {"mininterval": 15.0, "maxinterval": 15.0}
    for index in tqdm(range(rounds), unit="round", dynamic_ncols=True, **pace):
        for count, measured in pairs.items():
            if index % 2:
                erasing = steps.seconds(count)
                measured.append((steps.seconds(0)[0], *erasing))
            else:
                plain, _ = steps.seconds(0)
                measured.append((plain, *steps.seconds(count)))
    return pairs


def summarise(pairs: Sequence[tuple[float, float, float]], resamples: int = 10_000) -> dict[str, Any]:
    """Median ratio of with to without, its 95 % interval by bootstrap over pairs, and the median ratio
    that follows from the time inside hooks alone."""
    ratios = np.array([erasing / plain for plain, erasing, _ in pairs])
    inside = np.array([erasing / (erasing - hooks) for _, erasing, hooks in pairs])
    drawn = np.random.default_rng(0).choice(ratios, (resamples, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return {
        "seconds_per_step": statistics.median(erasing for _, erasing, _ in pairs),
        "ratio_inside_hooks": float(np.median(inside)),
        "ratio": float(np.median(ratios)),
        "ratio_interval_95": [float(low), float(high)],
        "ratios": [round(float(ratio), 5) for ratio in ratios],
    }


def table(result: dict[str, Any]) -> str:
    """The result as aligned text."""
    lines = [f"{'':<28}{'s / step':>9}{'ratio':>8}   95 % interval    inside hooks"]
    lines.append(f"{'without the extension':<28}{result['seconds_per_step_without']:>9.3f}")
    for count, figures in result["concepts"].items():
        label = {"0": "no concepts (nothing hooked)", "1": "1 concept"}.get(count, f"{count} concepts")
        low, high = figures["ratio_interval_95"]
        lines.append(
            f"{label:<28}{figures['seconds_per_step']:>9.3f}{figures['ratio']:>8.3f}"
            f"   [{low:.3f}, {high:.3f}]   {figures['ratio_inside_hooks']:>12.3f}"
        )
    return "\n".join(lines)
