"""Noise per image, from that image's own seed: an image is the same alone and in a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from modules import devices, shared


def create_generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(int(seed))


def randn_local(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Normal noise from a seed, leaving torch's global generator alone."""
    return torch.randn(shape, generator=create_generator(seed), device="cpu").to(devices.device)


def slerp(amount: float, low: Tensor, high: Tensor) -> Tensor:
    """Spherical interpolation along dimension 1, linear where the two nearly coincide."""
    cosine = torch.cosine_similarity(low, high, dim=1)
    if cosine.mean() > 0.9995:
        return torch.lerp(low, high, amount)
    angle = torch.acos(cosine).unsqueeze(1)
    return (torch.sin((1 - amount) * angle) * low + torch.sin(amount * angle) * high) / torch.sin(angle)


class ImageRNG:
    """The noise of one batch: ``next()`` gives the start noise first, then noise for each step."""

    def __init__(
        self, shape: tuple[int, ...], seeds: list[int], subseeds: list[int] | None = None,
        subseed_strength: float = 0.0, seed_resize_from_h: int = 0, seed_resize_from_w: int = 0,
    ):  # fmt: skip
        self.shape = tuple(int(size) for size in shape)
        self.seeds = seeds
        self.subseeds = subseeds
        self.subseed_strength = subseed_strength
        self.seed_resize_from_h = seed_resize_from_h
        self.seed_resize_from_w = seed_resize_from_w
        self.generators = [create_generator(seed) for seed in seeds]
        self.is_first = True

    def _start_noise(self, index: int) -> Tensor:
        noise = torch.randn(self.shape, generator=self.generators[index])
        if self.subseeds is None or self.subseed_strength == 0:
            return noise
        subseed = self.subseeds[index] if index < len(self.subseeds) else 0
        return slerp(self.subseed_strength, noise, randn_local(subseed, self.shape))

    def first(self) -> Tensor:
        noise = torch.stack([self._start_noise(index) for index in range(len(self.seeds))])
        if shared.opts.eta_noise_seed_delta:
            self.generators = [
                create_generator(seed + shared.opts.eta_noise_seed_delta) for seed in self.seeds
            ]
        return noise.to(devices.device)

    def next(self) -> Tensor:
        if self.is_first:
            self.is_first = False
            return self.first()
        return torch.stack([torch.randn(self.shape, generator=g) for g in self.generators]).to(devices.device)
