"""Textual inversion against a method: an embedding that brings an erased concept back.

As in the attacks on erased models (arXiv 2308.01508, 2407.12383), the embedding ``v`` of a pseudo-word is
optimised so that the model, while the method erases, predicts the noise in images that show the concept::

    min over v of || e - e_theta(x_t, t, "... with a *") ||^2

The attacker has the weights and images of the concept, here drawn ones, and knows the method.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo.toyland.model import LatentDiffusion
from demo.toyland.prompts import EMBEDDING_WORD, textual_inversion
from demo.toyland.train import images_to_tensor
from demo.toyland.world import BACKGROUND_PHRASES, Scene, render, sample_scene

from .method import Method

STEPS = 150
BATCH = 8
IMAGES = 96
LEARNING_RATE = 0.02
# What the embedding begins as: a word that says nothing.
INITIAL_WORD = "thing"


def embedding_for(
    method: Method, model: LatentDiffusion, concept: str, path: Path, steps: int = STEPS
) -> Tensor:
    """The embedding ``[C]`` that brings ``concept`` back past ``method``, kept in ``path``."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        save_file({EMBEDDING_WORD: optimise(method, model, concept, steps)}, partial)
        partial.replace(path)
    return load_file(path)[EMBEDDING_WORD]


def optimise(method: Method, model: LatentDiffusion, concept: str, steps: int = STEPS) -> Tensor:
    """An embedding ``[C]``, by Adam on random noise levels of images that show ``concept``."""
    rng, generator = np.random.default_rng(17), torch.Generator().manual_seed(17)
    scenes = _scenes(concept, rng)
    with torch.no_grad():
        latents = torch.cat(
            [
                model.encode_first_stage(images_to_tensor([render(scene) for scene in scenes[i : i + BATCH]]))
                for i in range(0, len(scenes), BATCH)
            ]
        )
    encoder = model.cond_stage_model
    (initial,) = encoder.tokenizer(INITIAL_WORD, add_special_tokens=False).input_ids
    table = encoder.transformer.text_model.embeddings.token_embedding.weight
    vector = table[initial].clone().requires_grad_()
    optimizer = torch.optim.Adam([vector], lr=LEARNING_RATE)
    with method.attacked(model, concept) as predict:
        for _ in range(steps):
            chosen = rng.choice(len(scenes), BATCH, replace=False)
            prompts = [_caption(scenes[index], rng) for index in chosen]
            noise = torch.randn(latents[chosen].shape, generator=generator)
            timesteps = torch.randint(len(model.alphas_cumprod), (BATCH,), generator=generator)
            alpha = model.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
            x = alpha.sqrt() * latents[chosen] + (1 - alpha).sqrt() * noise
            with textual_inversion(model, vector):
                loss = F.mse_loss(predict(prompts, x, timesteps), noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return vector.detach()


def _scenes(concept: str, rng: np.random.Generator) -> list[Scene]:
    """Scenes that show ``concept`` and no other."""
    scenes: list[Scene] = []
    while len(scenes) < IMAGES:
        scene = sample_scene(rng)
        if scene.subject and scene.concepts == {concept}:
            scenes.append(scene)
    return scenes


def _caption(scene: Scene, rng: np.random.Generator) -> str:
    return f"a {scene.subject} {rng.choice(BACKGROUND_PHRASES[scene.background])} with a {EMBEDDING_WORD}"
