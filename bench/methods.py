"""The methods that ``python -m bench quality`` compares, by name.

Each baseline is written from its paper, with the numbers of its authors' code; where the two differ, or
leave something open, its docstring says what was chosen. A method knows the concept's word and the case's
prompt, seed and negative prompt, and never what the case should show.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import eiup
from demo.toyland.model import LatentDiffusion
from demo.toyland.pipeline import CFG_SCALE, ddim, generate, noise, predict, to_images
from eiup.attention import attention, merge_heads, split_heads
from eiup.calibration import CalibrationCache
from eiup.concepts import Concept
from eiup.eraser import text_cross_attention
from eiup.request import FIELD, ErasureRequest

from .cases import BenchCase

CALIBRATIONS = Path(__file__).parent / "out" / "calibrations"

Generate = Callable[[LatentDiffusion, Sequence[BenchCase], int], np.ndarray]


@dataclass(frozen=True)
class Method:
    """``generate(model, cases, steps)`` makes the images ``[B, 128, 128, 3]`` uint8 of cases that share
    one concept. Stored images belong to a name and its ``settings``."""

    name: str
    description: str
    source: str
    generate: Generate
    settings: Mapping[str, Any] = field(default_factory=dict)


def concept_of(cases: Sequence[BenchCase]) -> str:
    """The concept that the cases share. Raises ``ValueError`` where they do not."""
    concepts = {case.concept for case in cases}
    if len(concepts) != 1:
        raise ValueError(f"cases: {sorted(concepts)} in one batch; a batch has one concept")
    return concepts.pop()


def _columns(cases: Sequence[BenchCase]) -> tuple[list[str], list[str], list[int]]:
    """Prompts, negative prompts and seeds."""
    return [c.prompt for c in cases], [c.negative_prompt for c in cases], [c.seed for c in cases]


# ----------------------------------------------------------------------------------- our own methods


def erasing(name: str, description: str, source: str = "this project", **fields: Any) -> Method:
    """A method that is the product under an :class:`ErasureRequest` of these fields."""

    def run(model: LatentDiffusion, cases: Sequence[BenchCase], steps: int) -> np.ndarray:
        request = ErasureRequest(True, (Concept(concept_of(cases)),), **fields)
        prompts, negative, seeds = _columns(cases)
        cache = CalibrationCache(CALIBRATIONS)
        return generate(model, prompts, seeds, request, steps=steps, negative_prompt=negative, cache=cache)[0]

    settings = {**asdict(ErasureRequest(**fields)), "code": _code_of_eiup()}
    return Method(name, description, source, run, settings)


def _code_of_eiup() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(eiup.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


# ------------------------------------------------------------------------------------------ by text


def _plain(model: LatentDiffusion, cases: Sequence[BenchCase], steps: int) -> np.ndarray:
    prompts, negative, seeds = _columns(cases)
    return generate(model, prompts, seeds, steps=steps, negative_prompt=negative)[0]


def _negative_prompt(model: LatentDiffusion, cases: Sequence[BenchCase], steps: int) -> np.ndarray:
    prompts, negative, seeds = _columns(cases)
    concept = concept_of(cases)
    negative = [f"{text}, {concept}" if text else concept for text in negative]
    return generate(model, prompts, seeds, steps=steps, negative_prompt=negative)[0]


def without_concept(prompt: str, concept: str) -> str:
    """``prompt`` with the concept's words taken out, and what only led up to them.

    >>> without_concept("a knight on a meadow with a star, old", "star")
    'a knight on a meadow, old'
    """
    named = rf"(?:(?:a|an|the)\s+)?{re.escape(concept)}(?:e?s)?\b"
    for pattern in (
        rf"\b{named}\s+(?:and|of)\s+",  # "with a star and a moon", "a mosaic of a knight"
        rf"\b(?:with|and|of)\s+{named}",
        rf"\b{named}",
    ):
        prompt = re.sub(pattern, "", prompt, flags=re.IGNORECASE)
    parts = (" ".join(part.split()) for part in prompt.split(","))
    return ", ".join(part for part in parts if part)


def _prompt_edit(model: LatentDiffusion, cases: Sequence[BenchCase], steps: int) -> np.ndarray:
    prompts, negative, seeds = _columns(cases)
    prompts = [without_concept(prompt, concept_of(cases)) for prompt in prompts]
    return generate(model, prompts, seeds, steps=steps, negative_prompt=negative)[0]


# ----------------------------------------------------------------------------- Safe Latent Diffusion


@dataclass(frozen=True)
class SafetyConfig:
    """The settings of Safe Latent Diffusion, with the names of arXiv 2211.05105.

    ``warmup`` is ``delta`` in steps of ``REFERENCE_STEPS``; ``guidance`` is ``s_S``, ``threshold``
    ``lambda``, ``momentum`` ``s_m`` and ``beta`` ``beta_m``.
    """

    warmup: int
    guidance: float
    threshold: float
    momentum: float
    beta: float

    # The steps of a sampling pass that the warm-ups are given for: the safe pipeline's default.
    REFERENCE_STEPS = 50


# diffusers, pipelines/stable_diffusion_safe: SafetyConfig
SLD = {
    "medium": SafetyConfig(10, 1000, 0.01, 0.3, 0.4),
    "strong": SafetyConfig(7, 2000, 0.025, 0.5, 0.7),
    "max": SafetyConfig(0, 5000, 1.0, 0.5, 0.7),
}


def safety_guidance(
    conditional: Tensor, unconditional: Tensor, safety: Tensor, momentum: Tensor, config: SafetyConfig
) -> tuple[Tensor, Tensor]:
    """``gamma`` and the next momentum ``nu`` of Safe Latent Diffusion (arXiv 2211.05105, Eq. 4 to 8).

    The three predictions of the noise and ``momentum`` are ``[B, 4, H, W]``::

        mu    = min(1, s_S |e_p - e_S|)  where e_p - e_S < lambda, else 0
        gamma = mu (e_S - e_0) + s_m nu
        nu'   = beta nu + (1 - beta) gamma
    """
    difference = conditional - safety
    mu = (difference.abs() * config.guidance).clamp(max=1.0).where(difference < config.threshold, 0.0)
    gamma = mu * (safety - unconditional) + config.momentum * momentum
    return gamma, config.beta * momentum + (1 - config.beta) * gamma


def _sld(config: SafetyConfig) -> Generate:
    """Eq. 3: ``e_0 + s_g (e_p - e_0 - gamma)``, ``gamma`` left out during the warm-up, though its momentum
    grows. The warm-up is the same part of the pass at any number of steps."""

    @torch.no_grad()
    def run(model: LatentDiffusion, cases: Sequence[BenchCase], steps: int) -> np.ndarray:
        prompts, negative, seeds = _columns(cases)
        context = model.get_learned_conditioning([*prompts, *negative, *[c.concept for c in cases]])
        warmup = round(config.warmup * steps / config.REFERENCE_STEPS)
        x = noise(seeds)
        momentum = torch.zeros_like(x)

        def guide(x: Tensor, timestep: int, step: int) -> Tensor:
            nonlocal momentum
            conditional, unconditional, safety = predict(model, x, timestep, context)
            gamma, momentum = safety_guidance(conditional, unconditional, safety, momentum, config)
            direction = conditional - unconditional
            return unconditional + CFG_SCALE * (direction - gamma if step >= warmup else direction)

        return to_images(model, ddim(model, x, guide, steps))

    return run


# --------------------------------------------------------------------------------------------- AdaVD


@dataclass(frozen=True)
class Shift:
    """AdaVD's erasing shift ``s / (1 + exp(-p (cos - epsilon)))``; the numbers are its authors'."""

    p: float = 100.0
    epsilon: float = 0.93
    s: float = 2.0

    def __call__(self, cosine: Tensor) -> Tensor:
        return self.s * torch.sigmoid(self.p * (cosine - self.epsilon))


def orthogonal_complement(values: Tensor, target: Tensor, shift: Callable[[Tensor], Tensor]) -> Tensor:
    """``values [..., T, C]`` less their part along ``target [T, C]``, token by token (arXiv 2412.06143)::

        v - shift(cos(v, v*)) <v, v*> / <v*, v*> v*

    ``C`` is all heads together. ``shift = torch.ones_like`` is the plain orthogonal complement.
    """
    along = (values * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True).clamp_min(1e-12)
    cosine = torch.cosine_similarity(values, target, dim=-1).unsqueeze(-1)
    return values - shift(cosine) * along * target


@contextlib.contextmanager
def _decomposed_values(unet: nn.Module, target: Tensor, rows: int, shift: Shift) -> Iterator[None]:
    """While entered, the values of the first ``rows`` rows in every text cross-attention of ``unet`` are the
    complements of those of the context ``target [T, C_text]``. BOS stays as it is."""

    def hook_for(layer: nn.Module) -> Callable:
        of_target = layer.to_v(target)[1:]

        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            output = output.clone()
            output[:rows, 1:] = orthogonal_complement(output[:rows, 1:], of_target, shift)
            return output

        return hook

    with contextlib.ExitStack() as stack:
        for layer in text_cross_attention(unet).values():
            stack.callback(layer.to_v.register_forward_hook(hook_for(layer)).remove)
        yield


def _adavd(shift: Shift) -> Generate:
    """AdaVD: the target of every position is the value of the concept's last own token, spread over all
    positions but BOS, as in the authors' code.

    That code also puts the unconditional row's values beside the conditional's in each inner product, and
    changes both; the paper speaks of the prompt's values, and so only conditional rows are changed here.
    """

    @torch.no_grad()
    def run(model: LatentDiffusion, cases: Sequence[BenchCase], steps: int) -> np.ndarray:
        concept = concept_of(cases)
        last = len(model.cond_stage_model.tokenizer(concept, add_special_tokens=False).input_ids)
        context = model.get_learned_conditioning([concept])[0]
        target = context[last].expand_as(context)
        with _decomposed_values(model.model.diffusion_model, target, len(cases), shift):
            return _plain(model, cases, steps)

    return run


# ---------------------------------------------------------------------------------- Growth Inhibitors


class _TwinAttention:
    """The attention of the Growth Inhibitors' procedure, on rows ``[twins, erased, the rest]`` of ``count``
    each (the rest unconditional), while entered. Set :attr:`step` before each U-Net call.

    For the erased row: in cross-attention, the twin's maps for the prompt's positions and ``weight`` times
    its own maps of the concept at the inserted positions; in self-attention, the twin's maps.
    ``inserted`` are an image's positions of the concept, ``concept [T, C_text]`` is its context.
    """

    SMALL = 16**2

    def __init__(
        self,
        unet: nn.Module,
        concept: Tensor,
        inserted: Sequence[slice],
        weight: float,
        cross_until: int,
        self_until: int,
    ):
        self.unet, self.concept, self.inserted, self.weight = unet, concept, inserted, weight
        self.cross_until, self.self_until = cross_until, self_until
        self.step = 0
        self._seen: dict[nn.Module, Tensor] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _TwinAttention:
        def keep(module: nn.Module, args: tuple, output: Tensor) -> None:
            self._seen[module] = output

        for name, layer in self.unet.named_modules():
            kind = name.rpartition(".")[2]
            if kind in ("attn1", "attn2"):
                for projection in (layer.to_q, layer.to_k, layer.to_v):
                    self._stack.callback(projection.register_forward_hook(keep).remove)
                own = self._cross(layer) if kind == "attn2" else self._self(layer)
                self._stack.callback(layer.to_out[0].register_forward_pre_hook(own).remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._seen.clear()

    def _heads(self, layer: nn.Module) -> tuple[Tensor, ...]:
        """``q, k, v`` of the conditional rows: ``[2 * count, H, N, d]``."""
        rows = 2 * len(self.inserted)
        return tuple(
            split_heads(self._seen.pop(projection)[:rows], layer.heads)
            for projection in (layer.to_q, layer.to_k, layer.to_v)
        )

    def _replace(self, outputs: Tensor, erased: Tensor) -> tuple[Tensor]:
        count = len(self.inserted)
        outputs = outputs.clone()
        outputs[count : 2 * count] = merge_heads(erased)
        return (outputs,)

    def _self(self, layer: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple) -> tuple | None:
            q, k, v = self._heads(layer)
            if self.step >= self.self_until or q.shape[2] > self.SMALL:
                return None
            count = len(self.inserted)
            return self._replace(args[0], attention(q[:count], k[:count], v[count:], layer.scale))

        return hook

    def _cross(self, layer: nn.Module) -> Callable:
        of_concept = split_heads(layer.to_k(self.concept), layer.heads)

        def hook(module: nn.Module, args: tuple) -> tuple | None:
            q, k, v = self._heads(layer)
            if self.step >= self.cross_until:
                return None
            count = len(self.inserted)
            maps = (q[:count] @ k[:count].mT * layer.scale).softmax(-1)
            inhibitors = self.weight * (q[count:] @ of_concept.mT * layer.scale).softmax(-1)
            for image, at in enumerate(self.inserted):
                end = maps[image, ..., at.start].clone()
                maps[image, ..., at] = inhibitors[image, ..., 1 : 1 + at.stop - at.start]
                # The prompt's EOS comes behind the inserted words; the padding stays where it is.
                maps[image, ..., at.stop] = end
            return self._replace(args[0], maps @ v[count:])

        return hook


def growth_inhibitors_context(
    model: LatentDiffusion, prompts: Sequence[str], concept: str
) -> tuple[Tensor, Tensor, Tensor, list[slice]]:
    """Contexts of the prompts and of prompts with the concept inserted ``[B, 77, C]``, the concept's own
    ``[77, C]``, and the positions of the inserted tokens in each prompt."""
    tokenizer = model.cond_stage_model.tokenizer
    length = model.cond_stage_model.max_length
    words = tokenizer(concept, add_special_tokens=False).input_ids
    plain = model.get_learned_conditioning(list(prompts))
    own = model.get_learned_conditioning([concept])[0]
    joint, inserted = [], []
    for prompt in prompts:
        ids = tokenizer(prompt, add_special_tokens=False).input_ids[: length - 2 - len(words)]
        row = [tokenizer.bos_token_id, *ids, *words]
        joint.append(row + [tokenizer.eos_token_id] * (length - len(row)))
        inserted.append(slice(1 + len(ids), 1 + len(ids) + len(words)))
    erased = model.get_learned_conditioning(torch.tensor(joint))
    for row, at in zip(erased, inserted):
        row[at] = own[1 : 1 + len(words)]
    return plain, erased, own, inserted


def _growth_inhibitors(weight: float, cross_steps: float, self_steps: float) -> Generate:
    """The procedure of "Growth Inhibitors for Erasure" as its authors published it
    (github:CD22104/Growth-Inhibitors-for-Erasure), which goes beyond its Algorithm 1.

    An un-erased twin of each image is denoised in the same batch. The erased row's prompt is followed by
    the concept, whose positions hold the concept's own embeddings. For the first ``cross_steps`` of the
    steps the row takes the prompt's attention maps from the twin, and at the concept's positions ``weight``
    times the map of the concept's own prompt under its own queries; afterwards it attends that context by
    itself. For the first ``self_steps`` it takes self-attention maps of up to 16 x 16 positions from the
    twin, which here is every layer. Unconditional rows stay as they are.

    Left open: the weights come from an adapter whose parameters were not published; here ``weight`` is one
    constant, minus the product's default strength. Changed: their index map meets the prompt's EOS map
    with the embedding of the concept's first token; here it meets the longer prompt's own EOS.
    """

    @torch.no_grad()
    def run(model: LatentDiffusion, cases: Sequence[BenchCase], steps: int) -> np.ndarray:
        prompts, negative, seeds = _columns(cases)
        count = len(cases)
        plain, erased, own, inserted = growth_inhibitors_context(model, prompts, concept_of(cases))
        unconditional = model.get_learned_conditioning(negative)
        context = torch.cat([plain, erased, unconditional, unconditional])
        unet = model.model.diffusion_model
        twins = _TwinAttention(
            unet, own, inserted, weight, int(cross_steps * (steps + 1)), int(self_steps * steps)
        )

        def guide(x: Tensor, timestep: int, step: int) -> Tensor:
            twins.step = step
            conditional, without = predict(model, x, timestep, context)
            return without + CFG_SCALE * (conditional - without)

        with twins:
            latents = ddim(model, noise([*seeds, *seeds]), guide, steps)
        return to_images(model, latents[count:])

    return run


# ----------------------------------------------------------------------------------------- registry

_EIUP = "arXiv 2408.01014, Algorithm 1"
_INHIBITORS = {"weight": -FIELD["strength"].default, "cross_steps": 0.8, "self_steps": 0.4}
_ALL = (
    Method("none", "no erasure: the reference of every other method", "", _plain),
    Method("negative-prompt", "the concept as negative prompt, after the case's own", "", _negative_prompt),
    Method("prompt-edit", "the concept's words taken out of the prompt", "", _prompt_edit),
    *(
        Method(
            f"sld-{name}",
            f"Safe Latent Diffusion, {name}, the concept as safety text",
            "arXiv 2211.05105; numbers of diffusers' safe pipeline",
            _sld(config),
            asdict(config),
        )
        for name, config in SLD.items()
    ),
    Method(
        "adavd",
        "orthogonal complement in value space with adaptive shift",
        "arXiv 2412.06143; numbers of github:WYuan1001/AdaVD",
        _adavd(Shift()),
        asdict(Shift()),
    ),
    Method(
        "growth-inhibitors",
        "the published procedure: twin trajectory, injected maps, copied self-attention",
        "github:CD22104/Growth-Inhibitors-for-Erasure (arXiv 2408.01014 v2)",
        _growth_inhibitors(**_INHIBITORS),
        _INHIBITORS,
    ),
    erasing("eiup-constant", "EIUP at the default strength", _EIUP, mode="constant"),
    erasing("eiup-adaptive", "EIUP where the prompt or the image asks for it", _EIUP, mode="adaptive"),
    erasing("eiup-preserve", "eiup-adaptive that preserves", _EIUP, mode="adaptive", preserve=True),
)
METHODS = {method.name: method for method in _ALL}
