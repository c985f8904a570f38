"""The oracle: a small classifier that says what an image shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .world import BACKGROUNDS, CARRIER_RATE, CONCEPTS, SIZE, SUBJECTS, Scene, render, sample_scene

ERASED_CARRIER_RATE = 0.3
WEIGHTS = Path(__file__).parent / "weights" / "oracle.safetensors"
_SUBJECT_CLASSES = (*SUBJECTS, None)


@dataclass(frozen=True)
class Judgement:
    """What an image shows. ``concepts`` are probabilities; a concept is present from 0.5 on."""

    subject: str | None
    background: str
    concepts: dict[str, float]

    def shows(self, concept: str) -> bool:
        return self.concepts[concept] >= 0.5


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()
            )

        self.features = nn.Sequential(block(3, 24), block(24, 48), block(48, 96), block(96, 128))
        self.head = nn.Linear(2 * 128, len(_SUBJECT_CLASSES) + len(BACKGROUNDS) + len(CONCEPTS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of subject, background and concepts for images ``[B, 3, 128, 128]`` in -1..1."""
        features = self.features(images)
        pooled = torch.cat([features.amax(dim=(2, 3)), features.mean(dim=(2, 3))], dim=1)
        return self.head(pooled).split([len(_SUBJECT_CLASSES), len(BACKGROUNDS), len(CONCEPTS)], dim=1)


class Oracle:
    def __init__(self, network: _Network):
        self.network = network.eval()

    @torch.no_grad()
    def judge(self, images: Sequence[Image.Image | np.ndarray]) -> list[Judgement]:
        """Judge RGB images; those of another size than 128x128 are resized."""
        judgements = []
        for start in range(0, len(images), 32):
            subjects, backgrounds, concepts = self.network(_to_tensor(images[start : start + 32]))
            for subject, background, probabilities in zip(
                subjects.argmax(1).tolist(), backgrounds.argmax(1).tolist(), concepts.sigmoid().tolist()
            ):
                judgements.append(
                    Judgement(
                        _SUBJECT_CLASSES[subject], BACKGROUNDS[background], dict(zip(CONCEPTS, probabilities))
                    )
                )
        return judgements


def _to_tensor(images: Sequence[Image.Image | np.ndarray]) -> Tensor:
    arrays = []
    for image in images:
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        image = image.convert("RGB")
        if image.size != (SIZE, SIZE):
            image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        arrays.append(np.asarray(image))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def load_oracle(path: Path = WEIGHTS) -> Oracle:
    network = _Network()
    network.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return Oracle(network)


# ---------------------------------------------------------------------------------------- training


def _targets(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.tensor([_SUBJECT_CLASSES.index(scene.subject) for scene in scenes]),
        torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes]),
        torch.tensor([[float(concept in scene.concepts) for concept in CONCEPTS] for scene in scenes]),
    )


def _degrade(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Noise, blur and a change of tone, so that the oracle does not rely on the renderer's exactness."""
    if rng.random() < 0.4:
        factor = float(rng.choice([0.5, 0.7]))
        small = F.interpolate(images, scale_factor=factor, mode="area")
        images = F.interpolate(small, size=(SIZE, SIZE), mode="bilinear")
    gain = torch.from_numpy(rng.uniform(0.9, 1.1, (len(images), 3, 1, 1))).float()
    shift = torch.from_numpy(rng.uniform(-0.06, 0.06, (len(images), 3, 1, 1))).float()
    noise = torch.from_numpy(rng.normal(0, rng.uniform(0, 0.06), images.shape)).float()
    return (images * gain + shift + noise).clamp(-1, 1)


def train_oracle(run, steps: int, pool: int = 8000, reconstructed: int = 1500, batch: int = 32) -> None:
    """Train on renders and on their reconstructions by the run's autoencoder; report both accuracies."""
    from .train import images_to_tensor, learning_rate

    rng = np.random.default_rng([run.seed, 7])
    # In the world itself nearly every night has a moon; what is judged are nights without.
    rates = (CARRIER_RATE, ERASED_CARRIER_RATE)
    scenes = [sample_scene(rng, rate) for rate in rates for _ in range(pool // 2)]
    rng.shuffle(scenes)
    images = np.stack([render(scene) for scene in scenes])
    autoencoder = run.model.first_stage_model
    decoder = run.restore("decoder_state")
    autoencoder.load_state_dict(decoder["model"] if decoder else run.restore("scaled_autoencoder"))

    @torch.no_grad()
    def reconstruct(originals: np.ndarray) -> np.ndarray:
        parts = [
            autoencoder.decode(autoencoder.encode(images_to_tensor(list(part)))[0])
            for part in np.array_split(originals, max(1, len(originals) // 8))
        ]
        pixels = (torch.cat(parts).clamp(-1, 1) + 1) * 127.5
        return pixels.round().byte().permute(0, 2, 3, 1).numpy()

    images = np.concatenate([images, reconstruct(images[:reconstructed])])
    targets = [torch.cat([t, t[:reconstructed]]) for t in _targets(scenes)]
    weights = np.concatenate([np.full(pool, 0.6 / pool), np.full(reconstructed, 0.4 / reconstructed)])
    network = _Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, 3e-3)
        chosen = rng.choice(len(images), size=batch, p=weights)
        subjects, backgrounds, concepts = network(_degrade(images_to_tensor(list(images[chosen])), rng))
        loss = (
            F.cross_entropy(subjects, targets[0][chosen])
            + F.cross_entropy(backgrounds, targets[1][chosen])
            + 4 * F.binary_cross_entropy_with_logits(concepts, targets[2][chosen])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            run.log("oracle", step=step + 1, loss=loss.item())
    oracle = Oracle(network)
    for carrier_rate in (CARRIER_RATE, 0.0):
        held_out = [sample_scene(rng, carrier_rate) for _ in range(600)]
        renders = np.stack([render(scene) for scene in held_out])
        run.log(
            "oracle",
            carrier_rate=carrier_rate,
            renders=accuracy(oracle, held_out, renders),
            reconstructions=accuracy(oracle, held_out[:300], reconstruct(renders[:300])),
        )
    save_file({key: value.half() for key, value in network.state_dict().items()}, run.folder / WEIGHTS.name)


def accuracy(oracle: Oracle, scenes: Sequence[Scene], images: Sequence) -> dict[str, float]:
    """Share of right answers on subject, background and each concept."""
    judgements = oracle.judge(list(images))
    pairs = list(zip(scenes, judgements))
    result = {
        "subject": float(np.mean([scene.subject == j.subject for scene, j in pairs])),
        "background": float(np.mean([scene.background == j.background for scene, j in pairs])),
    }
    for concept in CONCEPTS:
        result[concept] = float(
            np.mean([(concept in scene.concepts) == j.shows(concept) for scene, j in pairs])
        )
    return result
