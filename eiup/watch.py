"""The watch: whether and where a concept is forming in an image, told from the image and not from the prompt.

A prompt may bring a concept in by a way of its own, which has nothing of the concept's text; and what has
much of that text need not bring it in. But once about a third of the noise schedule is done, the U-Net's
features say what is forming, and where. So images are looked at then, with the
concepts' probes (:mod:`eiup.probes`), and up to there nothing is erased. An image is begun anew from its
noise, with a concept erased,

- where the prompt names the concept or a synonym: from a calibrated likeness ``z`` of ``NAMED`` on;
- where the prompt opens the gate, and ``q`` reaches ``LIKELY``;
- where the prompt gives no sign, and ``q`` reaches ``BOUND``.

It is erased at the places that have at least ``PLACE`` of the image's ``q``, with more than the weight, and
with ``ELSEWHERE`` of that in the rest of the image, which is hardly touched so but does not show the concept
in its stead. Behind the look, where an image's layout stands, it is erased all over with ``AFTERWARDS`` of
that. What the prompt brings in but is not ``SEEN`` is erased all over, with ``UNSEEN`` of the weight.

Whether that was enough, the next look tells, since the cause of ``q`` was taken away: where more than
``STUBBORN`` of it is left, the image is begun anew with the next one of the ``SHARES`` of the weight, also
at the places at which the concept is seen now. Where more than ``IDLE`` is left at the place at which it
was seen most clearly, what makes the concept lies beside, and it is erased around these places, too. Where
that place has yielded, another one at which ``q`` stays ``ALIKE`` while it is erased is not the concept.
Where more than ``IDLE`` of ``q`` is left under all shares, the concept is erased ``ALL_OVER``. Where more
than ``MISTAKEN`` of it is left in the end, and the prompt does not even hint at the concept (``z`` below
``HINTED``), the probe saw something else. Such an image is begun anew as it was.

What is not to be seen yet, or is erased up to the look, may form behind it. So from ``LATE`` on images are
looked at in every call: one in which a concept has ``q`` of ``BOUND``, of ``BOUND_LATE`` where nothing hints
at it, is begun anew with it erased. One in which it was erased, to ``GONE`` or less, and comes back, is so
with the next of the ``SHARES``, and twice as much behind the look. Where another model takes over before
the end, a pass cannot be begun anew from there on, and it is looked at in every call up to there.

This needs erasing to have had its effect before the look. In a pass that begins late, as in img2img, that is
so in late looks only, and in none if it begins too late for these: what was seen is erased without a look at
the effect, and what is ``BOUND`` in a late look then gets the next of the ``SHARES``. Where the window of
erasure leaves out a part of the schedule up to the look, what is seen is erased for good.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .errors import NotFiniteError
from .gate import LOW
from .places import highest, map_size, widened
from .probes import WATCHED_AT, Sight
from .schedule import Window

NAMED = 0.8
HINTED = 0.35
LIKELY = 0.2
SEEN = 0.4
BOUND = 0.6
BOUND_LATE = 0.8
# Of the largest q.
PLACE = 0.6
# Of the weight.
SHARES = (2.0, 2.5, 3.0)
ALL_OVER = (1.0, 1.5)
_LADDER = SHARES + ALL_OVER
UNSEEN = 0.5
# Of the weight, emphasis included.
MOST = 6.0
# Of these shares.
ELSEWHERE = 0.1
AFTERWARDS = 0.5
# Of the first look's q; what is left of it below CLEAN is nothing.
STUBBORN = 0.45
MISTAKEN = 0.6
IDLE = 0.7
CLEAN = 0.35
GONE = 0.5
ALIKE = 0.85
# Sampling progress: a pass has to begin this early for a look to tell what erasing does, or this much before
# a late one; and a look has to come this early for a probe to speak against the prompt.
EARLY = 0.1
TAKES_EFFECT = WATCHED_AT - EARLY
TIMELY = 0.5
# Sampling progress from which on images are looked at again.
LATE = 0.68


class BeginAnew(Exception):  # noqa: N818 - a signal, not an error
    """Ends a sampling pass that is to be begun anew from its noise."""


@dataclass(frozen=True)
class Erasure:
    """How a concept is erased from an image: with what share of the weight, and how much of that counts at
    each place, ``[h, w]`` in 0..1; None where all of it all over. Where there are places, ``afterwards`` of
    the share counts all over behind the look."""

    share: float
    places: Tensor | None = None
    afterwards: float = AFTERWARDS

    @property
    def behind(self) -> Erasure:
        """The same behind the look: all over."""
        return self if self.places is None else Erasure(self.share * self.afterwards)


NOTHING = Erasure(0.0)


class Watch:
    """Looks at the images of a sampling pass with the ``sight`` that the probes of its concepts give.

    ``window`` is that of erasure. Images are looked at again from ``again_from`` on.

    By an image's index, ``seen`` holds how clearly each concept was seen at most, ``[K]``; by the image's and
    the concept's, ``erased`` how what was seen is erased up to the look: not at all where the probe was
    mistaken; and, by both, ``seen_late`` the ``q [N]`` of what a late look was the first to see.
    """

    def __init__(self, sight: Sight, window: Window | None = None, again_from: float = LATE):
        self.sight, self.again_from = sight, again_from
        window = window or Window()
        self._covered = window.start <= 0 and window.end >= WATCHED_AT
        self._covered_late = self._covered and window.end >= again_from
        self.seen: dict[int, Tensor] = {}
        self.erased: dict[tuple[int, int], Erasure] = {}
        self.seen_late: dict[int, dict[int, Tensor]] = defaultdict(dict)
        self._likeness: dict[int, list[float]] = {}
        self._maps: dict[int, Tensor] = {}
        self._late_maps: dict[int, Tensor] = {}
        self._next: dict[tuple[int, int], Erasure] = {}
        self._settled: set[tuple[int, int]] = set()
        self._hinted: set[tuple[int, int]] = set()
        self._dismissed: set[tuple[int, int]] = set()
        self._unerased: dict[tuple[int, int], Tensor] = {}
        self._most: dict[tuple[int, int], float] = {}
        self._last_maps: dict[int, Tensor] = {}
        self._began_at: float | None = None
        self._looked_at: float | None = None
        self._looked_late_at: float | None = None
        self._is_late = False
        self._closed = False
        self._passes = 0

    @property
    def tells_effect(self) -> bool:
        """Whether erasing has had its effect when images are looked at in this pass."""
        return self._covered and (self._began_at or 0.0) <= EARLY

    def _tells_effect_on(self, pair: tuple[int, int]) -> bool:
        """The same of a concept in an image: not where an earlier pass saw it, and nobody knows its ``q`` in
        this one without erasure."""
        return self.tells_effect and pair in self._unerased

    @property
    def _tells_late(self) -> bool:
        """The same of a late look."""
        return self._covered_late and (self._began_at or 0.0) <= self._looked_late_at - TAKES_EFFECT

    @property
    def must_begin_anew(self) -> bool:
        """Whether the sampling pass so far was seen not to be what it should be."""
        return bool(self._next)

    def erases(self, image: int, concept: int) -> bool:
        """Whether a concept that was seen is erased, whatever the prompt says."""
        return self.erased.get((image, concept), NOTHING).share > 0

    @property
    def erased_everywhere(self) -> set[int]:
        """The images in which a concept without places is erased."""
        return {image for (image, _), e in self.erased.items() if e.share > 0 and e.places is None}

    def withheld(self, wanted: Sequence[int]) -> set[int]:
        """The images in which some of the ``wanted`` concepts, which their prompts bring in, is not erased
        yet, since this pass has not come to its look."""
        if self._looked_at is not None or self._closed:
            return set()
        return {
            image
            for image, heard in self._likeness.items()
            if any(heard[k] > LOW and not self.erases(image, k) for k in wanted)
        }

    def begin_anew(self) -> None:
        """A sampling pass begins; what was seen in the last one is erased in it."""
        self.erased.update(self._next)
        self._next.clear()
        self._last_maps, self._maps, self._late_maps = self._maps, {}, {}
        self._settled.clear()
        self._likeness.clear()
        self._dismissed.clear()
        self._began_at = self._looked_at = self._looked_late_at = None
        self._passes += 1

    def go_on_from(self, before: Watch) -> None:
        """This pass goes on with the images of the pass ``before``: what was seen there is erased from the
        first call on, as it was there behind the look. These images show nothing of it any more, and this
        pass may bring it back into them."""
        self.erased.update((pair, erasure.behind) for pair, erasure in before.erased.items())
        self._passes += 1

    def close(self) -> None:
        """Look no more in this pass, since it cannot be begun anew: what was seen is erased from here on, and
        what the prompt brings in."""
        self.begin_anew()
        self._closed = True

    def check(self, at: float) -> None:
        """Raise :class:`BeginAnew` where progress ``at`` lies behind a look that saw a concept."""
        if self._next and at not in (self._looked_at, self._looked_late_at):
            raise BeginAnew

    def looks(self, at: float) -> bool:
        """Whether to look at the images in a U-Net call: in those of the first denoiser call late enough, and
        of all from ``again_from`` on."""
        if self._began_at is None:
            self._began_at = at
        if self._closed or at < WATCHED_AT - 0.01:
            return False
        if self._looked_at is None:
            self._looked_at = at
        elif at >= self.again_from - 0.01 and at not in (self._looked_at, self._looked_late_at):
            self._looked_late_at = at
            self._late_maps.clear()
            self._settled = set(self._next)
        self._is_late = at != self._looked_at
        return at in (self._looked_at, self._looked_late_at)

    def _is_behind(self, at: float) -> bool:
        """Whether progress ``at`` lies behind the look of this pass, or there is none to come."""
        return self._closed or self._looked_at is not None and at != self._looked_at

    def state(self, at: float) -> Hashable:
        """The same for U-Net calls in which :meth:`erasure` answers alike."""
        return self._passes, self._is_behind(at), frozenset(self._dismissed)

    def erasure(self, image: int, concept: int, at: float, likeness: float) -> Erasure:
        """How to erase at progress ``at`` what was seen, or what the prompt brings in with the calibrated
        ``likeness``."""
        pair = image, concept
        if self.erases(*pair):
            known = self.erased[pair]
            return known.behind if self._is_behind(at) else known
        if not self._is_behind(at):
            return NOTHING
        # Behind the look it is too late to begin anew for what the prompt brings in only now.
        doubted = pair in self._dismissed or pair in self.erased
        return NOTHING if doubted and likeness < NAMED else Erasure(1.0)

    def hear(self, images: Sequence[int], likeness: Sequence[Sequence[float]]) -> None:
        """What the prompts of rows of these ``images [R]`` say in a U-Net call, ``[R, K]``."""
        for image, heard in zip(images, likeness):
            self._likeness[image] = list(map(max, heard, self._likeness.get(image, heard)))

    def look(
        self,
        rows: slice | Tensor,
        images: Sequence[int],
        wanted: Sequence[int],
        latent_size: tuple[int, int],
    ) -> set[int]:
        """Look for the ``wanted`` concepts in ``rows`` of the U-Net call, which belong to ``images [R]``, of
        latents ``[H, W]``. Returns the images to begin anew."""
        late = self._looked_late_at is not None
        maps, next_erasure = (self._late_maps, self._next_late) if late else (self._maps, self._next_erasure)
        q = self.sight.q(rows)
        if not q.isfinite().all():
            raise NotFiniteError("what tells whether a concept is forming")
        for image, by_position in zip(images, q):
            # The webui may make a U-Net call of each row of an image.
            maps[image] = torch.maximum(maps.get(image, by_position), by_position)
        for image in set(images):
            by_position = maps[image]
            size = map_size(len(by_position), *latent_size)
            q = by_position.amax(dim=0)
            self.seen[image] = torch.maximum(self.seen.get(image, q), q)
            for k in wanted:
                if (image, k) in self._settled:
                    continue
                self._next.pop((image, k), None)
                if erasure := next_erasure((image, k), by_position[:, k], size):
                    self._next[image, k] = erasure
        return {image for image, _ in self._next}

    def _next_erasure(self, pair: tuple[int, int], q: Tensor, size: tuple[int, int] | None) -> Erasure | None:
        """How to erase in a pass that is begun anew, from ``q [N]`` at places of this size; None to go on."""
        self._most[pair] = max(self._most.get(pair, float("-inf")), float(q.amax()))
        if pair not in self.erased:
            self._unerased[pair] = q
            share = self._first_share(pair, float(q.amax()))
            return None if share is None else Erasure(share, self._places(share, q, size))
        image, concept = pair
        known = self.erased[pair]
        if not known.share or not self._tells_effect_on(pair):
            return None
        if known.share == UNSEEN:
            seen = q.amax() >= SEEN
            return Erasure(SHARES[0], self._places(SHARES[0], q, size)) if seen else None
        unerased = self._unerased[pair]
        idle = bool(q[unerased.argmax()] > IDLE * unerased.amax())
        if known.places is not None and not idle:
            last = self._last_maps[image][:, concept]
            alike = (q >= ALIKE * last) & (last >= ALIKE * q)
            q = q.masked_fill(alike & (known.places.flatten() == 1), float("-inf"))
        share = self._next_share(pair, float(q.amax()))
        if share is None:
            return None
        erasure = self._also_at(known, share, q, size)
        if idle and known.places is not None and erasure.places is not None:
            return replace(erasure, places=widened(erasure.places))
        return erasure

    def _next_late(self, pair: tuple[int, int], q: Tensor, size: tuple[int, int] | None) -> Erasure | None:
        """The same where ``q [N]`` is that of a late look: what formed behind the first one."""
        image, concept = pair
        known = self.erased.get(pair)
        bound = BOUND_LATE if known is None and pair not in self._hinted else BOUND
        if q.amax() < bound or known is not None and not self._tells_late:
            return None
        weakly = known is not None and 0 < known.share < SHARES[0]
        if known is None or weakly and (known.share == UNSEEN or not self._tells_effect_on(pair)):
            self.seen_late[image][concept] = q
            return Erasure(SHARES[0], self._places(SHARES[0], q, size))
        was_gone = not self.tells_effect or self._maps[image][:, concept].amax() <= GONE
        if known.share not in SHARES[:-1] or not was_gone:
            return None
        erasure = self._also_at(known, SHARES[SHARES.index(known.share) + 1], q, size)
        return replace(erasure, afterwards=2 * known.afterwards)

    def _also_at(self, known: Erasure, share: float, q: Tensor, size: tuple[int, int] | None) -> Erasure:
        """Erasure with another share, where it is ``known`` and where ``q [N]`` sees the concept now."""
        places = self._places(share, q, size)
        if known.places is not None and share in SHARES:
            places = known.places if places is None else torch.maximum(known.places, places)
        return Erasure(share, places, known.afterwards)

    def _places(self, share: float, q: Tensor, size: tuple[int, int] | None) -> Tensor | None:
        """Where to erase with this share what is seen with ``q [N]``; None for all over."""
        if share not in SHARES or size is None or q.amax() < SEEN:
            return None
        return highest(q.unflatten(0, size), PLACE).clamp_min(ELSEWHERE)

    def _next_share(self, pair: tuple[int, int], left: float) -> float | None:
        """The share to begin anew with where this much of ``q`` is left; None to go on."""
        share, most = self.erased[pair].share, self._most[pair]
        if left <= max(CLEAN, STUBBORN * most):
            return None
        if share == _LADDER[-1] or share == SHARES[-1] and left <= IDLE * most:
            mistaken = left > MISTAKEN * most and pair not in self._hinted
            return 0.0 if mistaken else None
        return _LADDER[_LADDER.index(share) + 1]

    def _first_share(self, pair: tuple[int, int], q: float) -> float | None:
        """The same where the concept has not been erased."""
        image, concept = pair
        likeness = self._likeness[image][concept]
        by_prompt = likeness > LOW
        believed = by_prompt and (q >= LIKELY or self._looked_at > TIMELY)
        self._dismissed.discard(pair)
        if likeness > HINTED:
            self._hinted.add(pair)
        if q >= SEEN and (believed or q >= BOUND):
            return SHARES[0]
        if believed or likeness >= NAMED:
            return UNSEEN if self.tells_effect else 1.0
        if by_prompt:
            self._dismissed.add(pair)
        return None
