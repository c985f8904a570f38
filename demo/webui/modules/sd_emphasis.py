"""How ``(a:1.3)`` changes an encoded prompt."""

from __future__ import annotations

from torch import Tensor


class Emphasis:
    """``after_transformers`` changes ``z [B, T, C]`` by ``multipliers [B, T]``; ``tokens`` are the ids."""

    name = "Base"
    tokens: list[list[int]]
    multipliers: Tensor
    z: Tensor

    def after_transformers(self) -> None:
        """Leave ``z`` as it is."""


class EmphasisNone(Emphasis):
    """Brackets are ordinary characters."""

    name = "None"


class EmphasisIgnore(Emphasis):
    """Brackets are parsed, but change nothing."""

    name = "Ignore"


class EmphasisOriginalNoNorm(Emphasis):
    """Multiply each token's vector."""

    name = "No norm"

    def after_transformers(self) -> None:
        self.z = self.z * self.multipliers.unsqueeze(-1)


class EmphasisOriginal(EmphasisOriginalNoNorm):
    """Multiply each token's vector, then scale all so that the mean of ``z`` is what it was."""

    name = "Original"

    def after_transformers(self) -> None:
        mean = self.z.mean()
        super().after_transformers()
        self.z = self.z * (mean / self.z.mean())


options = [EmphasisNone, EmphasisIgnore, EmphasisOriginal, EmphasisOriginalNoNorm]


def get_current_option(emphasis_option_name: str) -> type[Emphasis]:
    return next((option for option in options if option.name == emphasis_option_name), EmphasisOriginal)
