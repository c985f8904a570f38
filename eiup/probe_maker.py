"""Makes the probes of concepts on one model, and keeps them.

A kept probe is used as it is where the model makes of the concept what it made of it then, but for rounding,
in images of the same size. With another LoRA or weight of one, another CLIP skip or another size, that is not
so, but mostly the probe still holds. So it is checked on few images: it has to see the concept in those that
name it, and not in the same with the concept erased. Only where it does not is another one made.

Neutral images serve all models of a checkpoint. But where a LoRA brings a concept into most of them, a probe
that is to tell it from these is blind, or tells what the LoRA changes and not the concept. So neutral images
say which model they were learnt on, and where those of another one show a concept, the model at hand gets its
own.

A word that a checkpoint does not know has a blind probe, which cannot be checked: it is learnt again for each
model. How much erasing changes an image hardly tells such words from others: in Toyland, of the norm of the
clean prediction, it is 0.82 to 1.09 where a word is not known and 1.13 to 1.69 where it is; in two pairs,
0.91 to 1.03 and 1.05 to 1.83.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .calibration import (
    ANCHORS,
    NEUTRAL_PROMPTS,
    CalibrationCache,
    CalibrationProgress,
    Encode,
    Report,
)
from .eraser import ConceptEraser, ContextTransform, EncodedConcept, layer_values, text_cross_attention
from .probes import (
    CONSTANTS,
    MOST_NEUTRAL,
    Denoiser,
    Neutral,
    Probe,
    fit,
    probed_layers,
    regions,
    seen_in_neutral,
)
from .short_sampling import CALLS, CFG_SCALE, Image, ShortSampling
from .sketch import EMPTY_TOKENS, TOLERANCE, Sketch, distance, sketches

# Images that name a concept, each with and without it erased by this weight, and how many of these check a
# kept probe. Their anchors take turns.
PAIRS = 8
CHECKED_PAIRS = 2
WEIGHT = 2.0
IMAGES_PER_NEUTRAL = 2
# A kept probe holds where it sees the concept in images that name it as clearly as the watch asks where the
# prompt gives no sign, and in the same with the concept erased not so that the watch would see it.
HOLDS, GONE = 0.6, 0.4
# Concepts that are learnt together, in the same U-Net calls: so many fill them.
TOGETHER = 2
# What is kept: files of neutral images, a concept's probes, and the models that each of these was found to
# hold on.
NEUTRAL_FILES = 16
KEPT_PROBES = 4
KEPT_MODELS = 64
_CONSTANTS = (*CONSTANTS, CALLS, CFG_SCALE, PAIRS, WEIGHT, IMAGES_PER_NEUTRAL, NEUTRAL_PROMPTS, ANCHORS)


def rows_needed(concepts: int, neutral: bool = True) -> int:
    """The most U-Net rows that learning so many concepts takes, with or without those of ``neutral``
    prompts."""
    images = IMAGES_PER_NEUTRAL * len(NEUTRAL_PROMPTS)
    return concepts * ShortSampling.rows(2 * PAIRS, PAIRS) + neutral * ShortSampling.rows(
        images, images, clean=False
    )


@dataclass(frozen=True)
class _Model:
    """A model as a probe knows it: the shape of latents, and what its layers make of the concept and of the
    empty prompt."""

    shape: tuple[int, ...]
    concept: Sketch
    empty: Sketch

    def apart(self, other: _Model) -> float:
        """How far another one is from this; up to ``TOLERANCE``, they are the same."""
        if self.shape != other.shape:
            return math.inf
        return max(distance(self.concept, other.concept), distance(self.empty, other.empty))

    @classmethod
    def of(cls, stored: Any) -> _Model:
        """From the JSON of :func:`dataclasses.asdict`."""
        sketch = (tuple(map(float, stored[name])) for name in ("concept", "empty"))
        return cls(tuple(map(int, stored["shape"])), *sketch)


@dataclass(frozen=True)
class _Kept:
    """A probe, and the models that it holds on, the latest last."""

    probe: Probe
    models: tuple[_Model, ...]

    def also_on(self, model: _Model) -> _Kept:
        return replace(self, models=(*self.models[1 - KEPT_MODELS :], model))

    def apart(self, model: _Model) -> float:
        """How far ``model`` is from the nearest that this probe holds on."""
        return min((model.apart(known) for known in self.models), default=math.inf)

    @classmethod
    def all_of(cls, stored: Any) -> list[_Kept]:
        return [cls(Probe.of(one["probe"]), tuple(map(_Model.of, one["models"]))) for one in stored]


@dataclass(frozen=True)
class _Wanted:
    """A concept whose probe is wanted: the file that its probes are kept in, and the model at hand."""

    concept: EncodedConcept
    file: str
    model: _Model


@dataclass(frozen=True)
class _NeutralImages:
    """What is known of images of neutral prompts, and whether they are the model's own, or those of another
    one of the same checkpoint."""

    images: Neutral
    own: bool


class ProbeMaker:
    """Makes probes on ``unet``, whose empty prompt is ``empty [T, C]``.

    ``encode(texts)`` gives contexts ``[B, T, C]``. Probes are read from and written to ``cache``. With a
    ``checkpoint``, the name of the file that the model was loaded from, kept probes are also used on models
    that are not the same, where they hold. Without one, only what was made on the same model is used.
    """

    def __init__(
        self,
        unet: nn.Module,
        empty: Tensor,
        encode: Encode,
        denoiser: Denoiser,
        *,
        context_transform: ContextTransform | None = None,
        cache: CalibrationCache | None = None,
        report: Report | None = None,
        checkpoint: str = "",
    ):
        self.unet, self.empty, self.encode, self.denoiser = unet, empty, encode, denoiser
        self.context_transform, self.cache, self.checkpoint = context_transform, cache, checkpoint
        self._layers = text_cross_attention(unet)
        self._looked_at = probed_layers(self._layers)
        self._width = sum(layer.to_q.in_features for layer in self._looked_at)
        self._values = layer_values(context_transform)
        self._report = report or (lambda progress: None)
        self._neutral: _NeutralImages | None = None
        # What tells the model at hand from others: what its layers make of the empty prompt.
        self._model: Sketch = ()

    def __call__(self, concepts: Sequence[EncodedConcept]) -> list[Probe]:
        """The probes of ``concepts``, kept or made."""
        wanted = self._wanted(concepts)
        probes = self._known(wanted)
        if missing := {w.file: w for w in wanted if w.file not in probes}:
            with self.cache.lock if self.cache else contextlib.nullcontext():
                # Another thread may have made them meanwhile.
                probes |= self._known(list(missing.values()))
                missing = [w for file, w in missing.items() if file not in probes]
                if missing:
                    probes |= self._make(missing)
        return [probes[w.file] for w in wanted]

    # ------------------------------------------------------------------------------------ names and files

    def _wanted(self, concepts: Sequence[EncodedConcept]) -> list[_Wanted]:
        texts = [*(concept.context[list(concept.tokens)] for concept in concepts), self._of_empty]
        *of_concepts, self._model = sketches(texts, self._layers.values(), self._values)
        schedule = CalibrationCache.key(*self._schedule())
        wanted = []
        for concept, sketch in zip(concepts, of_concepts):
            file = CalibrationCache.key("probe", schedule, concept.name, concept.tokens, self.checkpoint)
            model = _Model(tuple(self.denoiser.shape), sketch, self._model)
            wanted.append(_Wanted(concept, f"probe-{file}", model))
        return wanted

    def _neutral_files(self) -> str:
        """What the names of this checkpoint's files of neutral images begin with."""
        some = next(iter(self._layers.values()))
        precision = (some.to_v.weight.dtype, self._values(some, self._of_empty[None]).dtype)
        key = CalibrationCache.key(
            "neutral", *self._schedule(), self.denoiser.shape, precision, self.checkpoint
        )
        return f"neutral-{key}"

    @property
    def _of_empty(self) -> Tensor:
        return self.empty[EMPTY_TOKENS]

    def _schedule(self) -> tuple[Any, ...]:
        return *_CONSTANTS, self.denoiser.parameterization, self.denoiser.alphas_cumprod

    def _kept(self, file: str) -> list[_Kept]:
        kept = self.cache.read(file, _Kept.all_of) if self.cache else None
        return [one for one in kept or [] if len(one.probe.direction) == self._width]

    def _keep(self, file: str, kept: Sequence[_Kept]) -> None:
        if self.cache:
            self.cache.write(file, [asdict(one) for one in kept[-KEPT_PROBES:]])

    def _known(self, wanted: Sequence[_Wanted]) -> dict[str, Probe]:
        """Those that are known to hold on this model, by their files."""
        known = {}
        for w in wanted:
            nearest = min(self._kept(w.file), key=lambda kept: kept.apart(w.model), default=None)
            if nearest and nearest.apart(w.model) <= TOLERANCE:
                known[w.file] = nearest.probe
        return known

    def _checkable(self, file: str) -> list[_Kept]:
        """Those that may hold on this model though they are known only on others."""
        return self._kept(file) if self.checkpoint else []

    # ------------------------------------------------------------------------------------ making

    def _make(self, wanted: Sequence[_Wanted]) -> dict[str, Probe]:
        groups = [
            _Group(wanted[i : i + TOGETHER], i + 1, self._checkable) for i in range(0, len(wanted), TOGETHER)
        ]
        neutral = 0
        if any(group.new for group in groups) and self._stored_neutral() is None:
            neutral = rows_needed(0)
        progress = _Progress(self._report, neutral + sum(group.rows for group in groups), len(wanted))
        if neutral:
            self._learn_neutral(progress)
        probes: dict[str, Probe] = {}
        for group in groups:
            probes |= self._make_group(group, progress)
        return probes

    def _make_group(self, group: _Group, progress: _Progress) -> dict[str, Probe]:
        """Check the kept probes of these concepts, and make those that do not hold."""
        alone = [replace(w.concept, weight=WEIGHT) for w in group.wanted]
        steps = len(self.denoiser.alphas_cumprod)
        eraser = ConceptEraser(self.unet, alone, self.empty, None, self.context_transform, steps)
        sampling = ShortSampling(self._looked_at, self.denoiser, self.empty, eraser, progress.count)
        pairs = _Pairs(sampling, [self._anchors(concept.name) for concept in alone])
        probes: dict[str, Probe] = {}
        with progress.part(group, group.rows_of_check), eraser:
            pairs.sample(group.kept, CHECKED_PAIRS)
        for k in group.kept:
            if (held := self._check(group.wanted[k], *pairs.features(k))) is not None:
                probes[group.wanted[k].file] = held
        unknown = [k for k, w in enumerate(group.wanted) if w.file not in probes]
        if unknown and self._stored_neutral() is None:
            self._learn_neutral(progress.of_more(rows_needed(0)))
        with progress.part(group, group.rows - group.rows_of_check), eraser:
            pairs.sample(unknown, PAIRS)
        for k in unknown:
            w = group.wanted[k]
            probe = self._fit(pairs, k, progress)
            probes[w.file] = probe
            self._keep(w.file, [*self._kept(w.file), _Kept(probe, (w.model,))])
        return probes

    def _fit(self, pairs: _Pairs, concept: int, progress: _Progress) -> Probe:
        """The probe of a concept of ``pairs``. Neutral images of another model have no part in one that is
        blind, nor where they show the concept."""
        shown, erased = pairs.features(concept)
        learnt_from = shown, *pairs.regions(concept), erased
        neutral = self._stored_neutral()
        if not neutral.own:
            share = seen_in_neutral(*learnt_from, neutral.images)
            if share is None:
                return Probe.blind(self._width)
            probe = fit(*learnt_from, neutral.images)
            if share <= MOST_NEUTRAL and not probe.is_blind:
                return probe
            neutral = self._learn_neutral(progress.of_more(rows_needed(0)))
        return fit(*learnt_from, neutral.images)

    def _check(self, wanted: _Wanted, shown: Tensor, erased: Tensor) -> Probe | None:
        """The kept probe that tells these images with the concept best from the same with it erased, where
        one does; it is known from then on to hold on this model."""
        everything = self._kept(wanted.file)
        apart = {}
        for index, kept in enumerate(everything):
            least, most = float(kept.probe.q(shown).amin()), float(kept.probe.q(erased).amax())
            if least >= HOLDS and most <= GONE:
                apart[index] = least - most
        if not apart:
            return None
        best = everything.pop(max(apart, key=apart.__getitem__)).also_on(wanted.model)
        self._keep(wanted.file, [*everything, best])
        return best.probe

    def _anchors(self, concept: str) -> Tensor:
        return self.encode([anchor.format(concept) for anchor in ANCHORS])

    # ------------------------------------------------------------------------------------ neutral prompts

    def _stored_neutral(self) -> _NeutralImages | None:
        """Those of this model, or else those of another one of the checkpoint."""
        if self._neutral is None and self.cache:
            files = self.cache.stored_under(f"{self._neutral_files()}-", "model")
            apart = {name: distance(tuple(model.tolist()), self._model) for name, model in files.items()}
            for name in sorted(apart, key=apart.__getitem__):
                own = apart[name] <= TOLERANCE
                if not own and not self.checkpoint:
                    break
                images = self.cache.read_tensors(name, Neutral.of_tensors)
                if images is not None:
                    self._neutral = _NeutralImages(images, own)
                    break
        return self._neutral

    def _learn_neutral(self, progress: _Progress) -> _NeutralImages:
        contexts = self.encode(list(NEUTRAL_PROMPTS)).repeat_interleave(IMAGES_PER_NEUTRAL, 0)
        images = [Image(context, 1001 + i) for i, context in enumerate(contexts)]
        sampling = ShortSampling(self._looked_at, self.denoiser, self.empty, None, progress.count)
        with progress.part(None, rows_needed(0)):
            features = sampling.features(images)
        tensors = Neutral.of(features).to_tensors()
        # As it will be read, so that a probe does not depend on when it is made.
        self._neutral = _NeutralImages(Neutral.of_tensors(tensors), True)
        if self.cache:
            name = f"{self._neutral_files()}-{CalibrationCache.key(self._model)[:16]}"
            tensors["model"] = torch.tensor(self._model)
            self.cache.write_tensors(name, tensors, NEUTRAL_FILES)
        return self._neutral


class _Group:
    """Concepts that are learnt together, the first of them with this ``number``; ``kept`` are the indices of
    those that have kept probes, which are checked first. ``rows`` is the most U-Net rows they take."""

    def __init__(self, wanted: Sequence[_Wanted], number: int, kept_probes: Callable[[str], list[_Kept]]):
        self.wanted, self.number = wanted, number
        self.kept = [k for k, w in enumerate(wanted) if kept_probes(w.file)]
        self.new = len(self.kept) < len(wanted)
        checked = 2 * CHECKED_PAIRS * len(self.kept)
        self.rows_of_check = ShortSampling.rows(checked, CHECKED_PAIRS) if checked else 0
        rest = 2 * PAIRS * len(wanted) - checked
        self.rows = self.rows_of_check + ShortSampling.rows(rest, PAIRS - (0 if self.new else CHECKED_PAIRS))


class _Pairs:
    """Images whose prompts name one of several concepts, in pairs with and without it erased. ``anchors`` are
    the prompts' contexts, ``[A, T, C]`` for each concept; pairs take them in turns."""

    def __init__(self, sampling: ShortSampling, anchors: Sequence[Tensor]):
        self.sampling, self.anchors = sampling, anchors
        self._features: list[list[Tensor]] = [[] for _ in anchors]
        self._clean: list[list[Tensor]] = [[] for _ in anchors]

    def sample(self, concepts: Sequence[int], pairs: int) -> None:
        """Sample these concepts' images, until there are so many ``pairs`` of each."""
        images = [
            Image(self.anchors[k][i % len(self.anchors[k])], 1 + i, erased)
            for k in concepts
            for i in range(len(self._features[k]), pairs)
            for erased in (None, k)
        ]
        if not images:
            return
        features, clean = (x.unflatten(0, (-1, 2)) for x in self.sampling.features_and_clean(images))
        for k in concepts:
            count = pairs - len(self._features[k])
            self._features[k] += features[:count]
            self._clean[k] += clean[:count]
            features, clean = features[count:], clean[count:]

    def features(self, concept: int) -> tuple[Tensor, Tensor]:
        """Of the images with the concept and of those with it erased, ``[B, N, D]`` each."""
        shown, erased = torch.stack(self._features[concept], dim=1)
        return shown, erased

    def regions(self, concept: int) -> tuple[Tensor, Tensor]:
        """Where images with the concept show it, and where not, ``[B, N]`` each."""
        shown, erased = torch.stack(self._clean[concept], dim=1)
        return regions(shown - erased, self._features[concept][0].shape[1])


class _Progress:
    """Counts U-Net rows, and reports how far a calibration is of which this many ``rows`` are expected."""

    def __init__(self, report: Report, rows: int, concepts: int):
        self._report, self._rows, self._concepts = report, rows, concepts
        self._done, self._reported = 0, 0.0

    def of_more(self, rows: int) -> _Progress:
        """So many more rows are expected."""
        self._rows += rows
        return self

    @contextlib.contextmanager
    def part(self, group: _Group | None, rows: int) -> Iterator[None]:
        """While entered, neutral prompts are learnt or the concepts of a group, with at most this many
        rows."""
        self._group, self._first, self._last = group, self._done, self._done + rows
        yield
        self._done = self._last

    def count(self, rows: int) -> None:
        """A U-Net call of so many rows begins."""
        self._reported = max(self._reported, min(1.0, self._done / self._rows))
        name, number = "", 0
        if self._group is not None:
            # Those that are learnt together count as if it were one after the other.
            among = len(self._group.wanted) * (self._done - self._first) // (self._last - self._first)
            name, number = self._group.wanted[among].concept.name, self._group.number + among
        self._report(CalibrationProgress(name, number, self._concepts, self._reported))
        self._done = min(self._done + rows, self._last - 1)
