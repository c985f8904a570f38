"""What erasing adds to sampling: time, kernels, waits for the device, memory; and how long calibrating takes.

What is timed are whole loops as samplers make them: the latents change, timesteps fall, and nothing waits for
the device until the end. Each loop with erasure is timed next to a plain one, before it and after it in turn;
the figure is the median of the ratios of such pairs. A plain loop beside a plain loop shows how far the
measurement itself is off. The weights of the U-Net of Stable Diffusion 1.5's shape are random: time does not
depend on them.

On a machine whose steps vary by more than the hooks cost, the ratio drowns in that. So on a CPU the time that
passes inside of hooks is measured as well, as a share of the loop's remaining time. On a GPU that says
nothing, since its kernels run behind.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demo.toyland.model import WEIGHTS, load_checkpoint
from demo.toyland.pipeline import erase
from eiup.build import build_eraser
from eiup.calibration import CalibrationCache
from eiup.concepts import Concept
from eiup.eraser import EncodedConcept
from eiup.probes import Denoiser
from eiup.request import ErasureRequest

from .counts import COUNTED, count
from .loops import PLAIN, TEXT_LENGTH, UNETS, Kind, Loop, Model

OUT = Path(__file__).parent / "out" / "speed.json"
# By importance: where time is short, the last ones are left out.
KINDS = (
    (
        PLAIN,
        Kind("adaptive", 1),
        Kind("adaptive", 1, places=True),
        Kind("constant", 1),
        Kind("adaptive", 8),
        Kind("adaptive", 8, places=True),
        Kind("constant", 8),
    ),
    (Kind("strict", 1), Kind("projection", 1), Kind("strict", 8), Kind("projection", 8)),
    (
        Kind("adaptive", 32),
        Kind("adaptive", 32, places=True),
        Kind("constant", 32),
        Kind("strict", 32),
        Kind("projection", 32),
        Kind("adaptive", 1, maps=True),
        Kind("adaptive", 8, maps=True),
    ),
)
MOST = max(kind.concepts for tier in KINDS for kind in tier)
# What is not given is this, by device.
DEFAULTS = {
    "cuda": {"images": [1, 4], "sizes": [512, 1024], "steps": 20, "rounds": 5},
    "cpu": {"images": [1], "sizes": [256], "steps": 5, "rounds": 3},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=found, help=f"default here: {found}")
    parser.add_argument(
        "--precision",
        choices=["full", "half"],
        default="full",
        help="half: on a GPU float16 weights under autocast, as in the webui; on a CPU autocast to bfloat16",
    )
    parser.add_argument("--unet", choices=UNETS, default="sd15", help=f"default: sd15, {UNETS['sd15']}")
    parser.add_argument(
        "--images", type=_numbers(1), help="a batch's, with commas between (GPU: 1,4; CPU: 1)"
    )
    parser.add_argument(
        "--sizes", type=_numbers(64, 64), help="pixels, multiples of 64 (GPU: 512,1024; CPU: 256)"
    )
    parser.add_argument("--steps", type=_number(4), help="of a loop (GPU: 20; CPU: 5)")
    parser.add_argument(
        "--rounds", type=_number(1), help="pairs of loops a row of the table (GPU: 5; CPU: 3)"
    )
    parser.add_argument(
        "--kinds",
        type=_kinds,
        default=(),
        metavar="TEXT",
        help="those whose name begins so, and the noise; several with semicolons between",
    )
    parser.add_argument("--minutes", type=float, help="begin nothing new behind these")
    parser.add_argument(
        "--calibrate",
        action=argparse.BooleanOptionalAction,
        help="time calibration on this U-Net (default: but for sd15 on a CPU, where it takes half an hour)",
    )
    parser.add_argument("--threads", type=_number(1), help="torch's threads (default: torch's own choice)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help="default: bench/out/speed.json")


def _number(minimum: int, multiple_of: int = 1) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} is less than {minimum}")
        if value % multiple_of:
            raise argparse.ArgumentTypeError(f"{value} is not a multiple of {multiple_of}")
        return value

    return number


def _numbers(minimum: int, multiple_of: int = 1) -> Callable[[str], list[int]]:
    number = _number(minimum, multiple_of)
    return lambda text: [number(part) for part in text.split(",")]


def _kinds(text: str) -> tuple[str, ...]:
    beginnings = tuple(part.strip() for part in text.split(";"))
    known = [str(kind) for tier in KINDS for kind in tier]
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in known):
            allowed = ", ".join(map(repr, known[1:]))
            raise argparse.ArgumentTypeError(f"{beginning!r} begins no name; allowed: {allowed}")
    return beginnings


def run(arguments: argparse.Namespace) -> int:
    """Measure, print as it goes, and keep ``--out`` up to date. Returns 1 where a part failed."""
    for name, value in DEFAULTS[arguments.device].items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.calibrate is None:
        arguments.calibrate = arguments.device == "cuda" or arguments.unet != "sd15"
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.device == "cuda":
        # As the webui does.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    with torch.inference_mode():
        measurement = Measurement(arguments)
        measurement()
    print("\n" + table(measurement.result) + f"\n\nThe figures are in {arguments.out}.")
    return 1 if measurement.result["errors"] else 0


class Measurement:
    """All parts, each of which may fail or be left out for want of time; ``result`` is what goes to JSON."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.ends = time.monotonic() + 60 * (arguments.minutes or float("inf"))
        self.result: dict[str, Any] = {
            "device": device_name(arguments.device),
            "precision": precision_name(arguments),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "unet": UNETS[arguments.unet],
            "steps": arguments.steps,
            "rounds": arguments.rounds,
            "loops": [],
            "calibration": {},
            "left_out": [],
            "errors": {},
        }

    def __call__(self) -> None:
        described = ("unet", "device", "precision", "torch")
        print("; ".join(f"{name}: {self.result[name]}" for name in described), flush=True)
        arguments = self.arguments
        model = Model(arguments.unet, arguments.device, arguments.precision, MOST)
        # The first of these is what most people generate.
        settings = list(itertools.product(arguments.images, arguments.sizes))
        print(HEADER, flush=True)
        # The important kinds in all settings before the others in most.
        order = sorted(itertools.product(range(len(KINDS)), range(len(settings))), key=sum)
        for number, (tier, setting) in enumerate((KINDS[t], settings[s]) for t, s in order):
            loop = Loop(model, *setting, arguments.steps)
            for kind in tier:
                if kind == PLAIN or str(kind).startswith(arguments.kinds or ""):
                    name = f"{setting[0]} x {setting[1]} px, {kind}"
                    self.part(
                        name, lambda loop=loop, kind=kind, setting=setting: self.time(loop, kind, setting)
                    )
            if number == 0 and arguments.calibrate:
                self.part("calibration", lambda: self.calibrate(model, arguments.sizes[0]))
        self.part("calibration on Toyland", self.calibrate_toyland)
        self.write()

    def part(self, name: str, measure: Callable[[], None]) -> None:
        """Measure a part, unless time is over; what it raises is told, and the others go on."""
        if time.monotonic() > self.ends:
            self.result["left_out"].append(name)
            return
        try:
            measure()
        except Exception as error:
            self.result["errors"][name] = f"{type(error).__name__}: {error}"
            print(f"{name} failed: {self.result['errors'][name]}", file=sys.stderr, flush=True)
        if self.arguments.device == "cuda":
            torch.cuda.empty_cache()
        self.write()

    def write(self) -> None:
        self.arguments.out.parent.mkdir(parents=True, exist_ok=True)
        self.arguments.out.write_text(json.dumps(self.result, indent=2) + "\n", encoding="utf-8")

    def time(self, loop: Loop, kind: Kind, setting: tuple[int, int]) -> None:
        """One row of the table."""
        loop.warm_up(PLAIN)
        loop.warm_up(kind)
        pairs: list[tuple[float, float, float]] = []
        peaks: dict[Kind, int] = {}
        for index in range(self.arguments.rounds):
            taken = {}
            for what in (kind, PLAIN) if index % 2 else (PLAIN, kind):
                if loop.model.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                # A plain loop beside a plain one has the same name.
                taken[what, len(taken)] = loop.seconds(what)
                if loop.model.device.type == "cuda":
                    peaks[what] = max(peaks.get(what, 0), torch.cuda.max_memory_allocated())
            first, second = taken.values()
            plain, with_it = (second, first) if index % 2 else (first, second)
            pairs.append((plain[0], *with_it))
        row = {
            "images": setting[0],
            "size": setting[1],
            "kind": str(kind),
            **kind._asdict(),
            **summarise(pairs, loop.steps),
        }
        if loop.model.device.type == "cuda":
            del row["ratio_inside_hooks"]  # kernels run behind: it says nothing
            row["peak_bytes"] = peaks[kind]
            row["peak_bytes_plain"] = peaks[PLAIN]
        if setting == (self.arguments.images[0], self.arguments.sizes[0]):
            row["a_step"] = count(loop, kind)
        self.result["loops"].append(row)
        print(line(row), flush=True)

    def calibrate(self, model: Model, size: int) -> None:
        """Of the mode ``adaptive`` on this U-Net, for a concept, for a further one, and for eight at once."""
        shape = (4, size // 8, size // 8)
        alphas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
        alphas = torch.cumprod(1 - alphas**2, 0).float().to(model.device)
        rows = 0

        def predict(x: Tensor, timestep: int, contexts: Tensor) -> Tensor:
            nonlocal rows
            rows += len(x)
            return model(x, torch.full((len(x),), float(timestep), device=model.device), contexts)

        def encode(texts: Sequence[str]) -> Tensor:
            return torch.stack([context_of(text, model.width) for text in texts]).to(model.device)

        def measure(name: str, concepts: Sequence[str], folder: str) -> None:
            nonlocal rows
            rows = 0
            contexts = zip(concepts, encode(concepts))
            started = time.perf_counter()
            with model.autocast():
                build_eraser(
                    model.unet,
                    [EncodedConcept(concept, context, (1,)) for concept, context in contexts],
                    encode([""])[0],
                    encode,
                    Denoiser(predict, alphas, shape),
                    mode="adaptive",
                    cache=CalibrationCache(Path(folder)),
                )
            model.wait()
            seconds = time.perf_counter() - started
            self.result["calibration"][f"{name}, {size} px"] = {"seconds": seconds, "unet_rows": rows}
            print(f"calibrating {name}, {size} px: {seconds:.1f} s, {rows} rows of the U-Net", flush=True)

        with TemporaryDirectory() as folder:
            measure("the first concept", ["one"], folder)
            measure("a further one", ["one", "two"], folder)
        if self.arguments.device == "cuda":
            with TemporaryDirectory() as folder:
                measure("eight at once, the first ones", [f"word{k}" for k in range(8)], folder)

    def calibrate_toyland(self) -> None:
        """The same on Toyland, which runs on the CPU in float32."""
        model = load_checkpoint(WEIGHTS / "toyland.safetensors")
        with TemporaryDirectory() as folder:
            cache = CalibrationCache(Path(folder))
            for name, concepts in (("the first concept", ["star"]), ("a further one", ["star", "moon"])):
                request = ErasureRequest(True, tuple(map(Concept, concepts)), mode="adaptive")
                started = time.perf_counter()
                erase(model, request, cache)
                seconds = time.perf_counter() - started
                name = f"{name}, Toyland on the CPU in float32"
                self.result["calibration"][name] = {"seconds": seconds}
                print(f"calibrating {name}: {seconds:.1f} s", flush=True)


def context_of(text: str, width: int) -> Tensor:
    """What a made-up text encoder makes of a text, ``[77, width]``: the same for the same text, each token at
    one norm."""
    generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    context = torch.randn(TEXT_LENGTH, width, generator=generator)
    return width**0.5 * torch.nn.functional.normalize(context, dim=-1)


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU {names[0] if names else platform.processor() or platform.machine()}"


def precision_name(arguments: argparse.Namespace) -> str:
    if arguments.precision == "full":
        return "float32" + (" (TF32)" if arguments.device == "cuda" else "")
    return "float16 weights, autocast" if arguments.device == "cuda" else "float32 weights, autocast bfloat16"


def summarise(
    pairs: Sequence[tuple[float, float, float]], steps: int, resamples: int = 10_000
) -> dict[str, Any]:
    """Of loops ``(plain, with, of that inside of hooks)`` in seconds: the median ratio of with to plain, its
    95 % interval by bootstrap over pairs, and the median ratio that follows from the time inside of hooks."""
    ratios = np.array([erasing / plain for plain, erasing, _ in pairs])
    inside = np.array([erasing / (erasing - hooks) for _, erasing, hooks in pairs])
    drawn = np.random.default_rng(0).choice(ratios, (resamples, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return {
        "seconds_per_step_plain": statistics.median(plain for plain, _, _ in pairs) / steps,
        "seconds_per_step": statistics.median(erasing for _, erasing, _ in pairs) / steps,
        "ratio": float(np.median(ratios)),
        "ratio_interval_95": [float(low), float(high)],
        "ratio_inside_hooks": float(np.median(inside)),
        "ratios": [round(float(ratio), 5) for ratio in ratios],
    }


NOTE = f"""in hooks: the ratio that follows from the time inside of hooks
kernels: {{kernels}}; waits: for the device; reads: copies to the host; all a step, of {COUNTED} in which no
image is looked at
memory: peak, as a ratio to the plain loop's"""
WIDTH = max(len(str(kind)) for tier in KINDS for kind in tier) + 2
HEADER = (
    f"{'images':>6} {'px':>5}  {'':<{WIDTH}}{'ms / step':>9}{'ratio':>7}   {'95 % interval':<16}"
    f"{'in hooks':>8}{'kernels':>9}{'waits':>7}{'reads':>7}{'memory':>8}"
)


def line(row: dict[str, Any]) -> str:
    """A row of the table; what was not measured is left blank."""
    low, high = row["ratio_interval_95"]
    a_step = row.get("a_step", {})
    numbers = [f"{a_step[n]:.1f}" if n in a_step else "" for n in ("kernels", "waits", "reads")]
    inside = f"{row['ratio_inside_hooks']:.3f}" if "ratio_inside_hooks" in row else ""
    memory = f"{row['peak_bytes'] / row['peak_bytes_plain']:.3f}" if "peak_bytes" in row else ""
    return (
        f"{row['images']:>6} {row['size']:>5}  {row['kind']:<{WIDTH}}{1000 * row['seconds_per_step']:>9.1f}"
        f"{row['ratio']:>7.3f}   {f'[{low:.3f}, {high:.3f}]':<16}{inside:>8}"
        f"{numbers[0]:>9}{numbers[1]:>7}{numbers[2]:>7}{memory:>8}"
    )


def table(result: dict[str, Any]) -> str:
    """The result as aligned text."""
    lines = [
        f"{result['device']}, {result['precision']}, torch {result['torch']}",
        result["unet"],
        "",
        HEADER,
    ]
    lines += [line(row) for row in sorted(result["loops"], key=lambda row: (row["images"], row["size"]))]
    kernels = "operations, views left out" if result["device"].startswith("CPU") else "that are launched"
    lines += ["", NOTE.format(kernels=kernels), ""]
    for name, figures in result["calibration"].items():
        rows = f", {figures['unet_rows']} rows of the U-Net" if "unet_rows" in figures else ""
        lines.append(f"calibrating {name}: {figures['seconds']:.1f} s{rows}")
    lines += [f"left out for want of time: {name}" for name in result["left_out"]]
    lines += [f"failed: {name}: {error}" for name, error in result["errors"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    # In whatever environment this is: that of `python -m bench` has a torch for CPUs.
    _parser = argparse.ArgumentParser(prog="python -m bench.speed", description=__doc__)
    add_arguments(_parser)
    sys.exit(run(_parser.parse_args()))
