"""Text to image with Toyland in this process: for benchmarks, without any host."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from eiup.build import build_eraser
from eiup.calibration import CalibrationCache
from eiup.eraser import ConceptEraser, EncodedConcept
from eiup.evidence import ImageEvidence
from eiup.preserve import Twin
from eiup.probes import Denoiser
from eiup.request import ErasureRequest
from eiup.rows import plan
from eiup.sampling import sample_erased

from .model import LatentDiffusion
from .prompts import ScheduledPrompts, stack_contexts

LATENT_SHAPE = (4, 16, 16)
CFG_SCALE = 5.0


def noise(seeds: Sequence[int]) -> Tensor:
    """Initial noise ``[B, 4, 16, 16]``, each image's from its own seed."""
    return torch.stack(
        [torch.randn(LATENT_SHAPE, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    )


def encode_concepts(model: LatentDiffusion, request: ErasureRequest) -> list[EncodedConcept]:
    """The request's concepts, each encoded alone."""
    tokenizer = model.cond_stage_model.tokenizer
    contexts = model.get_learned_conditioning([concept.text for concept in request.concepts])
    encoded = []
    for concept, context in zip(request.concepts, contexts):
        count = len(tokenizer(concept.text, add_special_tokens=False).input_ids)
        encoded.append(
            EncodedConcept(
                concept.text, context, tuple(range(1, count + 1)), request.strength * concept.weight
            )
        )
    return encoded


Guide = Callable[[Tensor, int, int], Tensor]


def ddim(model: LatentDiffusion, x: Tensor, guide: Guide, steps: int) -> Tensor:
    """Denoise ``x [B, 4, 16, 16]`` by DDIM (arXiv 2010.02502, eta 0); returns the latents.

    ``guide(x, timestep, step)`` is the guided prediction of the noise, ``[B, 4, 16, 16]``, at the model's
    ``timestep`` (999 to 0); ``step`` counts from 0 to ``steps - 1``.
    """
    timesteps = np.linspace(999, 0, steps + 1)[:-1].round().astype(int).tolist()
    for step, (timestep, following) in enumerate(zip(timesteps, [*timesteps[1:], 0])):
        epsilon = guide(x, timestep, step)
        alpha, alpha_next = model.alphas_cumprod[timestep], model.alphas_cumprod[following]
        denoised = (x - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()
        x = alpha_next.sqrt() * denoised + (1 - alpha_next).sqrt() * epsilon
    return denoised


def predict(model: LatentDiffusion, x: Tensor, timestep: int, contexts: Tensor) -> Tensor:
    """The noise in ``x [R, 4, 16, 16]`` under ``contexts [R, T, C]``, without guidance."""
    return model.apply_model(x, torch.full((len(x),), timestep), contexts)


class Prompts:
    """Prompts and negative prompts of a batch in the webui's syntax: conditional rows, then unconditional."""

    def __init__(
        self, model: LatentDiffusion, prompts: Sequence[str], negative_prompts: Sequence[str], steps: int
    ):
        self.model = model
        self.positive = ScheduledPrompts(model, prompts, steps)
        self.negative = ScheduledPrompts(model, negative_prompts, steps, composed=False)
        self.empty = model.get_learned_conditioning([""])[0]

    def predict(
        self, x: Tensor, timestep: int, step: int, others: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        """The conditional noise, sub-prompts combined, and the unconditional; where there are ``others``,
        further contexts, one an image, that under these as well. Each is ``[B, 4, 16, 16]``."""
        contexts = [*self.positive.contexts(step), *self.negative.contexts(step), *others]
        repeated = [x[self.positive.images], x, *([x] if others else [])]
        predicted = predict(self.model, torch.cat(repeated), timestep, stack_contexts(contexts, self.empty))
        rows, unconditional, *rest = predicted.split([len(part) for part in repeated])
        return self.positive.combine(rows, unconditional), unconditional, *rest


def to_images(model: LatentDiffusion, latents: Tensor, twin: Twin | None = None) -> np.ndarray:
    """Decoded latents as ``[B, 128, 128, 3]`` uint8, with what a ``twin`` has outside of what was erased."""
    images = model.decode_first_stage(latents)
    if twin is not None:
        twin.keep_outside(images, model.decode_first_stage)
    images = (images.clamp(-1, 1) + 1) * 127.5
    return images.round().byte().permute(0, 2, 3, 1).numpy()


def erase(
    model: LatentDiffusion, request: ErasureRequest, cache: CalibrationCache | None, watches: bool = True
) -> ConceptEraser:
    """The eraser of a request's concepts in ``model``, to be entered. Without ``watches`` no image is begun
    anew."""
    return build_eraser(
        model.model.diffusion_model,
        encode_concepts(model, request),
        model.get_learned_conditioning([""])[0],
        model.get_learned_conditioning,
        Denoiser(lambda *call: predict(model, *call), model.alphas_cumprod, LATENT_SHAPE),
        mode=request.mode,
        window=request.window,
        cache=cache,
        watches=watches,
        maps=request.maps,
    )


@torch.no_grad()
def generate(
    model: LatentDiffusion,
    prompts: Sequence[str],
    seeds: Sequence[int],
    request: ErasureRequest | None = None,
    *,
    steps: int = 25,
    cfg_scale: float = CFG_SCALE,
    negative_prompt: str | Sequence[str] = "",
    cache: CalibrationCache | None = None,
) -> tuple[np.ndarray, dict[int, ImageEvidence]]:
    """Images ``[B, 128, 128, 3]`` uint8 under classifier-free guidance, and what was suppressed.

    Prompts are in the webui's syntax; ``negative_prompt`` is one for all images, or one an image.
    Calibrations are kept in ``cache``. Where ``model`` computes under an autocast, all but the decoding of
    latents happens under it, as in the webui.
    """
    negative = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else negative_prompt
    with model.autocast():
        encoded = Prompts(model, prompts, negative, steps)
        eraser = erase(model, request, cache) if request is not None and request.active else None
    twin = Twin() if eraser is not None and request.preserve else None

    def guide(x: Tensor, timestep: int, step: int) -> Tensor:
        if eraser is not None:
            eraser.rows = plan(encoded.positive.weights, cfg_scale)
        conditional, unconditional = encoded.predict(x, timestep, step)
        epsilon = unconditional + cfg_scale * (conditional - unconditional)
        if twin is None:
            return epsilon
        alpha = model.alphas_cumprod[timestep]
        clean = (x - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()
        if eraser.suspended:
            twin.keep(timestep, clean)
            return epsilon
        blended = twin.blend(timestep, clean, eraser.opened)
        return (x - alpha.sqrt() * blended) / (1 - alpha).sqrt()

    def sample() -> Tensor:
        return ddim(model, noise(seeds), guide, steps)

    with model.autocast(), eraser or contextlib.nullcontext():
        latents = sample() if eraser is None else sample_erased(eraser, sample, twin)
    return to_images(model, latents, twin), eraser.evidence() if eraser is not None else {}
