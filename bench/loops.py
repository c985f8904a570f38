"""Sampling loops of a U-Net with and without erasure, as ``python -m bench speed`` times them."""

from __future__ import annotations

import contextlib
import io
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from demo.toyland.model import WEIGHTS, FusedCrossAttention, load_checkpoint
from eiup.eraser import ConceptEraser, EncodedConcept, layer_values, text_cross_attention
from eiup.gate import Calibration, PromptGate
from eiup.maps import FormingMaps, mapped_layer
from eiup.probes import Probe, Sight, probed_layers
from eiup.rows import conditional_then_unconditional
from eiup.watch import SHARES, Erasure, Watch

with contextlib.redirect_stdout(io.StringIO()):
    from ldm.modules.attention import CrossAttention
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

TEXT_LENGTH = 77
UNETS = {
    "sd15": "Stable Diffusion 1.5's shape: 860M parameters, random weights",
    "toyland": "Toyland's: 4M parameters",
}


class Kind(NamedTuple):
    """What is timed: a mode and a number of concepts. ``places``: each is erased at a place of its own, as in
    a pass that was begun anew, in every image; otherwise ``adaptive`` erases nothing. ``maps``: heat maps are
    made."""

    mode: str
    concepts: int
    places: bool = False
    maps: bool = False

    def __str__(self) -> str:
        if self == PLAIN:
            return "plain again (the noise)"
        what = (
            "" if self.mode != "adaptive" else ", erasing at places" if self.places else ", erasing nothing"
        )
        return f"{self.mode} {self.concepts}{what}{', with maps' if self.maps else ''}"


PLAIN = Kind("plain", 0)


def build_unet(name: str) -> nn.Module:
    """One of ``UNETS``, in float32 on the CPU, with the webui's option *sdp* for its attention."""
    if name == "toyland":
        return load_checkpoint(WEIGHTS / "toyland.safetensors").model.diffusion_model
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
            context_dim=768,
            use_checkpoint=False,
            legacy=False,
        )
    for module in unet.modules():
        if type(module) is CrossAttention:
            module.__class__ = FusedCrossAttention
    for parameter in unet.parameters():
        if not parameter.any():  # ldm starts some layers at zero: a model that sees nothing
            nn.init.normal_(parameter, std=0.02)
    return unet.eval().requires_grad_(False)


class Model:
    """A U-Net on a ``device`` in a ``precision``, called as the webui calls it, and made-up concepts.

    ``half`` is float16 weights under autocast on a GPU, and bfloat16 under autocast on a CPU.
    """

    def __init__(self, name: str, device: str, precision: str, concepts: int):
        self.name, self.device, self.precision = name, torch.device(device), precision
        self.unet = build_unet(name).to(self.device)
        self.dtype = torch.float32
        if precision == "half" and self.device.type == "cuda":
            self.dtype = self.unet.dtype = torch.float16
            self.unet.half()
        self.width: int = next(iter(text_cross_attention(self.unet).values())).to_k.in_features
        encoded = self.random(concepts + 1, TEXT_LENGTH, self.width, seed=1)
        self.empty = encoded[-1]
        self.concepts = [EncodedConcept(f"concept {k}", c, (1, 2)) for k, c in enumerate(encoded[:-1])]

    def random(self, *shape: int, seed: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device)

    def autocast(self) -> contextlib.AbstractContextManager:
        """What the webui enters around sampling."""
        if self.precision == "full":
            return contextlib.nullcontext()
        dtype = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        return torch.autocast(self.device.type, dtype)

    def __call__(self, x: Tensor, timesteps: Tensor, contexts: Tensor) -> Tensor:
        """The predicted noise, in float32."""
        return self.unet(x.to(self.dtype), timesteps, context=contexts.to(self.dtype)).float()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def eraser(self, kind: Kind, images: int) -> ConceptEraser | contextlib.nullcontext:
        """What erases so; made anew for each loop, as the webui does for each pass."""
        if kind == PLAIN:
            return contextlib.nullcontext()
        concepts = self.concepts[: kind.concepts]
        layers = text_cross_attention(self.unet)
        looked_at = probed_layers(layers)
        width = sum(layer.to_q.in_features for layer in looked_at)
        sight = Sight(looked_at, [Probe((0.0,) * width, 0.0)] * kind.concepts, self.device)
        maps = FormingMaps(mapped_layer(layers), sight) if kind.maps else None
        if kind.mode in ("constant", "projection"):
            return ConceptEraser(self.unet, concepts, self.empty, mode=kind.mode, maps=maps)
        # Random prompts have nothing of random concepts: a likeness of about 0.
        low = -10.0 if kind.places else 10.0
        calibration = Calibration(
            (0.0,) * self.width, {n: (low, low) for n in layers}, {n: (low + 1, low + 1) for n in layers}
        )
        gate = PromptGate(
            layers,
            layer_values(),
            torch.stack([concept.context for concept in concepts]),
            [concept.tokens for concept in concepts],
            self.empty,
            [calibration] * kind.concepts,
        )
        watch = Watch(sight) if kind.mode == "adaptive" else None
        if watch is not None and kind.places:
            watch.erased = {
                (image, k): Erasure(SHARES[0], torch.rand(8, 8))
                for image in range(images)
                for k in range(kind.concepts)
            }
        return ConceptEraser(
            self.unet, concepts, self.empty, mode=kind.mode, gate=gate, watch=watch, maps=maps
        )


class Loop:
    """A sampling loop of some ``images`` of ``size`` pixels under classifier-free guidance."""

    def __init__(self, model: Model, images: int, size: int, steps: int):
        self.model, self.images, self.steps = model, images, steps
        self.noise = model.random(images, 4, size // 8, size // 8, seed=2)
        self.context = model.random(2 * images, TEXT_LENGTH, model.width, seed=3)
        # One tensor a step, as samplers make them on the device.
        self.timesteps = torch.linspace(999, 1, steps).to(model.device)[:, None].expand(-1, 2 * images)

    def __call__(self, eraser: Any = None) -> Iterator[Tensor]:
        """The latents after each step. Nothing waits for the device but what is timed."""
        x = self.noise
        for timesteps in self.timesteps:
            if isinstance(eraser, ConceptEraser):
                eraser.rows = conditional_then_unconditional(self.images)
            conditional, unconditional = self.model(torch.cat([x, x]), timesteps, self.context).chunk(2)
            noise = unconditional + 7.0 * (conditional - unconditional)
            x = x + (noise - x) / self.steps
            yield x

    def warm_up(self, kind: Kind) -> None:
        """Two steps, in which libraries choose and keep what they need."""
        with self.model.autocast(), self.model.eraser(kind, self.images) as eraser:
            for _ in itertools.islice(self(eraser), 2):
                pass
            self.model.wait()

    def seconds(self, kind: Kind) -> tuple[float, float]:
        """How long a whole loop takes that erases so, and how much of that passes inside of hooks."""
        with self.model.autocast(), timed_hooks() as inside:
            eraser = self.model.eraser(kind, self.images)
            self.model.wait()
            started = time.perf_counter()
            with eraser:
                for _ in self(eraser):
                    pass
                self.model.wait()
                return time.perf_counter() - started, sum(inside)


@contextlib.contextmanager
def timed_hooks() -> Iterator[list[float]]:
    """The seconds of each run of a hook that is registered meanwhile."""
    inside: list[float] = []
    originals = {
        name: getattr(nn.Module, name) for name in ("register_forward_hook", "register_forward_pre_hook")
    }

    def registering(original: Callable) -> Callable:
        def register(module: nn.Module, hook: Callable, **options: Any) -> Any:
            def timed(*args: Any) -> Any:
                started = time.perf_counter()
                result = hook(*args)
                inside.append(time.perf_counter() - started)
                return result

            return original(module, timed, **options)

        return register

    for name, original in originals.items():
        setattr(nn.Module, name, registering(original))
    try:
        yield inside
    finally:
        for name, original in originals.items():
            setattr(nn.Module, name, original)
