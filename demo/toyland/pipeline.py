"""Text to image with Toyland in this process: for benchmarks, without any host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eiup.build import build_eraser
from eiup.eraser import EncodedConcept
from eiup.evidence import ImageEvidence
from eiup.request import ErasureRequest
from eiup.rows import conditional_then_unconditional

from .model import LatentDiffusion

LATENT_SHAPE = (4, 16, 16)


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


@torch.no_grad()
def generate(
    model: LatentDiffusion,
    prompts: Sequence[str],
    seeds: Sequence[int],
    request: ErasureRequest | None = None,
    *,
    steps: int = 25,
    cfg_scale: float = 5.0,
    negative_prompt: str = "",
) -> tuple[np.ndarray, dict[int, ImageEvidence]]:
    """Images ``[B, 128, 128, 3]`` uint8 by DDIM (arXiv 2010.02502, eta 0), and what was suppressed."""
    count = len(prompts)
    context = model.get_learned_conditioning([*prompts, *[negative_prompt] * count])
    timesteps = np.linspace(999, 0, steps + 1)[:-1].round().astype(int).tolist()
    x = noise(seeds)
    eraser = None
    if request is not None and request.active:
        empty = model.get_learned_conditioning([""])[0]
        eraser = build_eraser(
            model.model.diffusion_model,
            encode_concepts(model, request),
            empty,
            model.get_learned_conditioning,
            mode=request.mode,
            window=request.window,
        )
        eraser.__enter__()
    try:
        for index, timestep in enumerate(timesteps):
            following = timesteps[index + 1] if index + 1 < steps else 0
            if eraser is not None:
                eraser.rows = conditional_then_unconditional(count, cfg_scale)
            t = torch.full((2 * count,), timestep)
            conditional, unconditional = model.apply_model(torch.cat([x, x]), t, context).chunk(2)
            epsilon = unconditional + cfg_scale * (conditional - unconditional)
            alpha, alpha_next = model.alphas_cumprod[timestep], model.alphas_cumprod[following]
            denoised = (x - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()
            x = alpha_next.sqrt() * denoised + (1 - alpha_next).sqrt() * epsilon
        images = (model.decode_first_stage(denoised).clamp(-1, 1) + 1) * 127.5
    finally:
        if eraser is not None:
            eraser.__exit__(None, None, None)
    evidence = eraser.evidence() if eraser is not None else {}
    return images.round().byte().permute(0, 2, 3, 1).numpy(), evidence
