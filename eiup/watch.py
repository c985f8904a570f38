"""The watch: whether a concept is forming in an image, told from the image and not from the prompt.

A prompt may bring a concept in by a way of its own, which has nothing of the concept's text. But once about
a third of the noise schedule is done, the U-Net's features say what is forming. So images are looked at then,
once a sampling pass, with the concepts' probes (:mod:`eiup.probes`).

Concepts are erased with as much weight as it takes, since more spoils images: with the shares ``SHARES`` of
it, one after the other. Where the prompt opens the gate, sampling begins with the first share. An image in
which ``q`` reaches ``UNERASED`` all the same is begun anew from its noise with the next one.

Where the prompt gave no sign of the concept, an image in which ``q`` reaches ``BOUND`` is begun anew with the
first share. Whether that was right, the next look tells, since the cause of ``q`` was taken away: where more
than ``STUBBORN`` of it is left, the image is begun anew with the next share; and where more than ``MISTAKEN``
of it is left even under the last one, the probe saw something else. Such an image is begun anew as it was.

All this needs erasing to have had its effect before the look. In a pass that begins late, as in img2img, or
where the window of erasure leaves out a part of the schedule up to there, images are begun with the whole
weight, and what is seen is erased for good.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .probes import WATCHED_AT, Probe
from .schedule import Window

BOUND = 0.55
UNERASED = 0.75
# Of the weight.
SHARES = (0.5, 1.0, 1.25)
# Sampling progress at which a pass has to begin for a look to tell what erasing does.
EARLY = 0.1
# Of the first look's q.
STUBBORN = 0.45
MISTAKEN = 0.6


class ConceptForming(Exception):  # noqa: N818 - a signal, not an error
    """Ends a sampling pass in which a concept was seen to form, so that it is begun anew."""


class Watch:
    """Looks at the images of a sampling pass with the probes of its concepts, in U-Net ``layers``.

    ``window`` is that of erasure.

    ``seen`` holds how clearly each concept was seen at most, ``[K]`` by an image's index; ``erased`` the
    shares of the weight with which what was seen is erased, by the image's and the concept's index, 0 where
    the probe was mistaken.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        probes: Sequence[Probe],
        device: torch.device,
        window: Window | None = None,
    ):
        self.layers = tuple(layers)
        window = window or Window()
        self._covered = window.start <= 0 and window.end >= WATCHED_AT
        self.seen: dict[int, Tensor] = {}
        self.erased: dict[tuple[int, int], float] = {}
        self._directions = torch.tensor([probe.direction for probe in probes], device=device)
        self._offsets = torch.tensor([probe.offset for probe in probes], device=device)
        self._features: dict[nn.Module, Tensor] = {}
        self._next: dict[tuple[int, int], float] = {}
        self._by_prompt: set[tuple[int, int]] = set()
        self._began_at: float | None = None
        self._looked_at: float | None = None
        self._closed = False

    @property
    def tells_effect(self) -> bool:
        """Whether erasing has had its effect when images are looked at in this pass."""
        return not self._closed and self._covered and (self._began_at or 0.0) <= EARLY

    @property
    def opening(self) -> float:
        """The share of the weight that erasing begins with."""
        return SHARES[0] if self.tells_effect else 1.0

    @property
    def must_begin_anew(self) -> bool:
        """Whether the sampling pass so far was seen not to be what it should be."""
        return bool(self._next)

    def begin_anew(self) -> None:
        """A sampling pass begins; what was seen in the last one is erased in it."""
        self.erased.update(self._next)
        self._next.clear()
        self._began_at = self._looked_at = None

    def close(self) -> None:
        """Look no more in this pass, since it cannot be begun anew: what was seen is erased from here on with
        the whole weight."""
        self.begin_anew()
        self.erased = {key: share and max(share, 1.0) for key, share in self.erased.items()}
        self._closed = True

    def check(self, at: float) -> None:
        """Raise :class:`ConceptForming` where progress ``at`` lies behind a look that saw a concept."""
        if self._next and at != self._looked_at:
            raise ConceptForming

    def looks(self, at: float) -> bool:
        """Whether to look at the images in a U-Net call: in those of the first denoiser call late enough."""
        if self._began_at is None:
            self._began_at = at
        if self._closed or at < WATCHED_AT - 0.01:
            return False
        if self._looked_at is None:
            self._looked_at = at
        return at == self._looked_at

    def keep(self, layer: nn.Module, features: Tensor) -> None:
        """What enters the attention of ``layer`` in this U-Net call, ``[B, N, D_layer]``."""
        if layer in self.layers:
            self._features[layer] = features

    def forget(self) -> None:
        """The U-Net call is over."""
        self._features.clear()

    def q(self, rows: slice | Tensor) -> Tensor:
        """``q [R, K]`` of the ``rows`` of the U-Net call, on the CPU."""
        h = torch.cat([self._features[layer][rows].float() for layer in self.layers], dim=-1)
        return ((h @ self._directions.T).amax(dim=1) - self._offsets).cpu()

    def look(
        self,
        rows: slice | Tensor,
        images: Sequence[int],
        open_gates: Tensor,
        wanted: Tensor,
        erasing: bool = True,
    ) -> set[int]:
        """Look at ``rows`` of the U-Net call, which belong to these ``images [R]``.

        ``open_gates [R, K]`` says for which concepts a row's gate is open, ``wanted [K]`` which are to be
        erased at all, and ``erasing`` whether they were in this pass. Returns the images to begin anew.
        """
        for image, q, is_open in zip(images, self.q(rows), open_gates.tolist()):
            most = self.seen[image] = torch.maximum(self.seen.get(image, q), q)
            for k in wanted.nonzero().flatten().tolist():
                share = self.erased.get((image, k))
                if share is None and is_open[k]:
                    self._by_prompt.add((image, k))
                if (image, k) in self._by_prompt:
                    following = self._after_gate(share, float(q[k])) if erasing else None
                else:
                    following = self._after_look(share, float(q[k]), float(most[k]))
                if following is not None:
                    self._next[image, k] = following
        return {image for image, _ in self._next}

    def _after_gate(self, share: float | None, q: float) -> float | None:
        """The share to begin anew with where the prompt has opened the gate; None to go on."""
        if not self.tells_effect or q < UNERASED or share == SHARES[-1]:
            return None
        return SHARES[SHARES.index(share or SHARES[0]) + 1]

    def _after_look(self, share: float | None, q: float, most: float) -> float | None:
        """The same where the prompt gave no sign; ``share`` is None before anything was seen."""
        if share is None:
            return self.opening if q >= BOUND else None
        if not self.tells_effect or not share:
            return None
        if share == SHARES[-1]:
            return 0.0 if q > MISTAKEN * most else None
        return SHARES[SHARES.index(share) + 1] if q > STUBBORN * most else None
