"""What the extension adds to a denoising step, on a U-Net of Stable Diffusion 1.5's shape.

The weights are random: time does not depend on them. Every step with the extension is timed next to a
step without it, once before and once after in turn, and the figure is the median of the ratios of such
pairs: a machine that grows slower, or is shared with others, moves both of a pair alike. The pairs with no
concepts, where the extension hooks nothing, show how far the measurement itself is off.

On a machine whose steps vary by more than the hooks cost, the ratio drowns in that. So the time that passes
inside the hooks is measured as well, as a share of the same step's remaining time.

The mode "adaptive" costs what it erases: it is measured with every concept erased at its place ("open"),
and with none ("closed"). How long it takes to calibrate a concept is measured on Toyland.
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
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from demo.toyland.model import WEIGHTS, load_checkpoint
from demo.toyland.pipeline import erase
from eiup.concepts import Concept
from eiup.eraser import ConceptEraser, EncodedConcept, layer_values, text_cross_attention
from eiup.gate import Calibration, PromptGate
from eiup.maps import FormingMaps, mapped_layer
from eiup.probes import Probe, Sight, probed_layers
from eiup.request import ErasureRequest
from eiup.rows import conditional_then_unconditional
from eiup.watch import SHARES, Erasure, Watch

with contextlib.redirect_stdout(io.StringIO()):
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

OUT = Path(__file__).parent / "out"


class Kind(NamedTuple):
    """What is measured: a mode, the number of concepts, whether the gate is open, and whether heat maps are
    made, as they are up to the look of the mode "adaptive", with nothing erased."""

    mode: str
    concepts: int
    gate_open: bool = False
    maps: bool = False

    def __str__(self) -> str:
        if not self.concepts:
            return "no concepts (nothing hooked)"
        gate = "" if self.mode == "constant" else ", open" if self.gate_open else ", closed"
        maps = ", with maps" if self.maps else ""
        return f"{self.mode}{gate}{maps}, {self.concepts} concept{'s' if self.concepts > 1 else ''}"


KINDS = (
    Kind("none", 0),
    Kind("constant", 1, True),
    Kind("constant", 8, True),
    Kind("adaptive", 1, True),
    Kind("adaptive", 8, True),
    Kind("adaptive", 1),
    Kind("adaptive", 8),
    Kind("adaptive", 1, maps=True),
    Kind("adaptive", 8, maps=True),
)
MOST = max(kind.concepts for kind in KINDS)
WIDTH = max(len(str(kind)) for kind in KINDS) + 2
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
        self.timesteps = torch.full((2,), 800)
        self.context = torch.randn(2, TEXT_LENGTH, TEXT_WIDTH, generator=generator)
        encoded = torch.randn(MOST + 1, TEXT_LENGTH, TEXT_WIDTH, generator=generator)
        self.empty = encoded[-1]
        self.concepts = [
            EncodedConcept(f"concept {k}", context, (1, 2)) for k, context in enumerate(encoded[:-1])
        ]

    def seconds(self, kind: Kind) -> tuple[float, float]:
        """Time of one step of a sampling pass that erases so, and how much of it passed inside
        hooks."""
        if kind.concepts == 0:
            return self._step(None), 0.0
        with _timed_hooks() as inside:
            with self._eraser(kind) as eraser:
                return self._step(eraser, inside.clear), sum(inside)

    def _eraser(self, kind: Kind) -> ConceptEraser:
        count = kind.concepts
        concepts = self.concepts[:count]
        if kind.mode == "constant":
            return ConceptEraser(self.unet, concepts, self.empty)
        layers = text_cross_attention(self.unet)
        looked_at = probed_layers(layers)
        # Random prompts have nothing of random concepts: a likeness of about 0.
        low = -10.0 if kind.gate_open else 10.0
        calibration = Calibration(
            (0.0,) * TEXT_WIDTH, {n: (low, low) for n in layers}, {n: (low + 1, low + 1) for n in layers}
        )
        gate = PromptGate(
            layers,
            layer_values(),
            torch.stack([concept.context for concept in concepts]),
            [concept.tokens for concept in concepts],
            self.empty,
            [calibration] * count,
        )
        width = sum(layer.to_q.in_features for layer in looked_at)
        sight = Sight(looked_at, [Probe((0.0,) * width, 0.0)] * count, self.empty.device)
        watch = Watch(sight)
        if kind.gate_open:
            # As in a pass that was begun anew, up to its look: each concept at a place of its own.
            watch.erased = {(0, k): Erasure(SHARES[0], torch.rand(8, 8)) for k in range(count)}
        maps = FormingMaps(mapped_layer(layers), sight) if kind.maps else None
        return ConceptEraser(
            self.unet, concepts, self.empty, mode="adaptive", gate=gate, watch=watch, maps=maps
        )

    def _step(self, eraser: ConceptEraser | None, before_step: Callable[[], None] = lambda: None) -> float:
        # What is computed once a pass, such as keys and values, falls to an earlier step on tiny latents.
        for latents, timesteps in (
            (self.latents[..., :8, :8], self.timesteps + 1),
            (self.latents, self.timesteps),
        ):
            if eraser:
                eraser.rows = conditional_then_unconditional(1)
                if eraser.maps:
                    eraser.maps = FormingMaps(eraser.maps.layer, eraser.maps.sight)  # those of other latents
            before_step()
            started = time.perf_counter()
            self.unet(latents, timesteps, context=self.context)
        return time.perf_counter() - started


def calibration_seconds(concepts: Sequence[str]) -> float:
    """How long it takes to calibrate the mode "adaptive" for concepts on Toyland, with an empty cache."""
    model = load_checkpoint(WEIGHTS / "toyland.safetensors")
    request = ErasureRequest(True, tuple(map(Concept, concepts)), mode="adaptive")
    started = time.perf_counter()
    erase(model, request, cache=None)
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
        help="pairs of steps for each row of the table (default: 15)",
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
        first, both = calibration_seconds(["star"]), calibration_seconds(["star", "moon"])
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
        "calibration_seconds": {"first concept": first, "a further one": both - first},
        "steps": [
            {"kind": str(kind), **kind._asdict(), **summarise(measured)} for kind, measured in pairs.items()
        ],
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "speed.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("\n" + table(result) + "\n\nThe figures are in bench/out/speed.json.")
    return 0


def _measure(steps: _Steps, rounds: int) -> dict[Kind, list[tuple[float, float, float]]]:
    """Seconds (without, with, of these inside hooks) of each pair, by what is measured."""
    pairs: dict[Kind, list[tuple[float, float, float]]] = {kind: [] for kind in KINDS}
    for kind in KINDS:
        steps.seconds(kind)
    pace = {} if sys.stderr.isatty() else {"mininterval": 15.0, "maxinterval": 15.0}
    for index in tqdm(range(rounds), unit="round", dynamic_ncols=True, **pace):
        for kind, measured in pairs.items():
            if index % 2:
                erasing = steps.seconds(kind)
                measured.append((steps.seconds(KINDS[0])[0], *erasing))
            else:
                plain, _ = steps.seconds(KINDS[0])
                measured.append((plain, *steps.seconds(kind)))
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
    lines = [f"{'':<{WIDTH}}{'s / step':>9}{'ratio':>8}   95 % interval    inside hooks"]
    lines.append(f"{'without the extension':<{WIDTH}}{result['seconds_per_step_without']:>9.3f}")
    for figures in result["steps"]:
        low, high = figures["ratio_interval_95"]
        lines.append(
            f"{figures['kind']:<{WIDTH}}{figures['seconds_per_step']:>9.3f}{figures['ratio']:>8.3f}"
            f"   [{low:.3f}, {high:.3f}]   {figures['ratio_inside_hooks']:>12.3f}"
        )
    lines.append("")
    for name, seconds in result["calibration_seconds"].items():
        lines.append(f"calibrating on Toyland, {name}: {seconds:.1f} s")
    return "\n".join(lines)
