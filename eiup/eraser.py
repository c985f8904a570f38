"""ConceptEraser: the hooks that erase concepts in one sampling pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal

import torch
from torch import Tensor, nn

from . import attention
from .errors import ErasureError, UnsupportedModelError
from .evidence import CallEvidence, ImageEvidence, Recorder
from .gate import Decision, PromptGate
from .places import map_size, resize
from .rows import Rows
from .schedule import Window, progress
from .watch import MOST, Watch

ContextTransform = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]
Mode = Literal["constant", "adaptive", "strict", "projection"]


@dataclass(frozen=True)
class EncodedConcept:
    """A concept encoded alone by the model's text encoder.

    ``context [T, C]`` with BOS, tokens, EOS and padding; ``tokens`` are the positions of the concept's
    own tokens in it; ``weight >= 0`` is the strength times the concept's own weight (``w_k``).
    """

    name: str
    context: Tensor
    tokens: tuple[int, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.tokens:
            raise ErasureError(f"the concept {self.name!r} has no tokens in this model's vocabulary")
        if min(self.tokens) < 0 or max(self.tokens) >= self.context.shape[0]:
            raise ErasureError(f"the tokens of {self.name!r} lie outside of its context")


def text_cross_attention(unet: nn.Module) -> dict[str, nn.Module]:
    """The text cross-attention modules of ``unet`` (``attn2`` in its transformer blocks), by name.

    Raises :class:`UnsupportedModelError` where there are none, as in SD3.
    """
    layers = {
        name: module
        for name, module in unet.named_modules()
        if name.rpartition(".")[2] == "attn2" and hasattr(module, "to_q") and hasattr(module, "to_out")
    }
    if not layers:
        raise UnsupportedModelError(
            "this model has no text cross-attention (attn2 modules), so concepts cannot be erased in it. "
            "Use a checkpoint of the SD1, SD2 or SDXL family, or switch EIUP off"
        )
    return layers


def layer_values(transform: ContextTransform | None = None) -> Callable[[nn.Module, Tensor], Tensor]:
    """A function that gives the values ``[B, T, H*d]`` which a layer makes of contexts ``[B, T, C]``."""

    def values(layer: nn.Module, contexts: Tensor) -> Tensor:
        there = contexts.to(next(layer.to_v.parameters()).device)
        _, for_v = transform(layer, there) if transform else (there, there)
        return layer.to_v(for_v).to(contexts.device)

    return values


class _LayerConcepts:
    """The concepts as one attention layer sees them; computed once a sampling pass."""

    def __init__(self, layer: nn.Module, eraser: ConceptEraser):
        self.layer = layer
        self.eraser = eraser
        contexts = torch.stack([*(c.context for c in eraser.concepts), eraser.empty])
        # [K, H, T, d]; the empty prompt is the last.
        self.k, self.v = self.project(contexts)
        self.scale = getattr(layer, "scale", None) or self.k.shape[-1] ** -0.5
        self._selections: dict[tuple[int, ...], _Selection] = {}

    def project(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, H, T, d]`` of contexts ``[B, T, C]``."""
        contexts = contexts.to(next(self.layer.to_k.parameters()).device)
        for_k, for_v = self.eraser.context_transform(self.layer, contexts)
        return (
            attention.split_heads(self.layer.to_k(for_k), self.layer.heads),
            attention.split_heads(self.layer.to_v(for_v), self.layer.heads),
        )

    def selection(self, concepts: tuple[int, ...]) -> _Selection:
        """What the correction for these concepts needs."""
        if concepts not in self._selections:
            self._selections[concepts] = _Selection(self, concepts)
        return self._selections[concepts]

    def outputs(self, q: Tensor) -> list[Tensor]:
        """Attention outputs ``[R, N, H*d]`` for each context: every ``O_k``, and ``O_0`` at the end."""
        return [
            attention.merge_heads(attention.attention(q, k, v, self.scale)) for k, v in zip(self.k, self.v)
        ]


class _Selection:
    """Keys, own tokens' columns and values of some of the concepts in one layer."""

    def __init__(self, all_concepts: _LayerConcepts, concepts: tuple[int, ...]):
        tokens = all_concepts.k.shape[2]
        device = all_concepts.k.device
        pairs = [
            (index, index * tokens + j)
            for index, concept in enumerate(concepts)
            for j in all_concepts.eraser.concepts[concept].tokens
        ]
        self.count = len(concepts)
        self.owner = torch.tensor([index for index, _ in pairs], device=device)
        self.columns = torch.tensor([column for _, column in pairs], device=device)
        index = torch.tensor(concepts, device=device)
        self.k = all_concepts.k[index]
        # [H, J, d]: the values of the concepts' own tokens.
        self.values = all_concepts.v[index].transpose(0, 1).flatten(1, 2)[:, self.columns]


class ConceptEraser:
    """Erases ``concepts`` in every cross-attention of ``unet`` while entered as a context manager.

    Each U-Net call needs to know its rows: set :attr:`rows` before it (one :class:`eiup.rows.Row` a row
    of the batch). A call without them, or of another size, raises :class:`ErasureError`: nothing is ever
    generated with a row that was silently left out. ``empty [T, C]`` is the context of the empty prompt.

    ``mode`` is how the weight of a correction is found: ``constant`` (the paper), ``adaptive`` (needs a
    ``gate``), ``strict`` (the gate counts as open) or ``projection``.

    With a ``watch``, the images are looked at once a sampling pass. Where a concept is seen to form, the
    next U-Net call raises :class:`eiup.watch.ConceptForming`; sampling is to be begun anew from the same
    noise after :meth:`begin_anew`. :func:`eiup.sampling.sample_erased` does that.

    Hooks: on the U-Net itself (timestep, context, rows), on each ``attn2.to_q`` (the queries) and on each
    ``attn2.to_out[0]`` (the heads' output, from which the correction is subtracted). They work under
    every attention optimisation, since all of these call the two as modules, and are removed on exit.

    While :attr:`suspended`, gates decide and nothing is corrected; :attr:`opened` holds the images for which
    there would have been something.

    ``context_transform(layer, contexts [K, T, C])`` returns the contexts for keys and values; by default
    both are the contexts themselves (a host with hypernetworks changes them).
    """

    def __init__(
        self,
        unet: nn.Module,
        concepts: Sequence[EncodedConcept],
        empty: Tensor,
        window: Window | None = None,
        context_transform: ContextTransform | None = None,
        training_steps: int = 1000,
        *,
        mode: Mode = "constant",
        gate: PromptGate | None = None,
        watch: Watch | None = None,
    ):
        if mode in ("adaptive", "strict") and gate is None:
            raise ValueError(f"the mode {mode} needs a gate")
        self.unet = unet
        self.concepts = tuple(concepts)
        self.empty = empty
        self.window = window or Window()
        self.context_transform = context_transform or (lambda layer, contexts: (contexts, contexts))
        self.training_steps = training_steps
        self.mode = mode
        self.gate = gate if mode in ("adaptive", "strict") else None
        self.watch = watch if mode == "adaptive" else None
        self.layers = text_cross_attention(unet)
        self.rows: Rows | None = None
        self.suspended = False
        self.opened: set[int] = set()
        self.recorder = Recorder([c.name for c in self.concepts], [c.weight for c in self.concepts])
        self._weights = torch.tensor([c.weight for c in self.concepts])
        self._per_layer: dict[nn.Module, _LayerConcepts] = {}
        self._queries: dict[nn.Module, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._call: _Call | None = None
        self._decided: tuple[Tensor, Decision] | None = None

    def evidence(self) -> dict[int, ImageEvidence]:
        """What was measured and suppressed so far, by the image's index in the batch."""
        images = self.recorder.images()
        if self.watch is None:
            return images
        return {
            image: evidence.with_looks(
                self.watch.seen[image].tolist() if image in self.watch.seen else None,
                [self.watch.erased.get((image, k), 0.0) > 0 for k in range(len(self.concepts))],
            )
            for image, evidence in images.items()
        }

    @property
    def must_begin_anew(self) -> bool:
        """Whether the sampling pass so far was seen not to be what it should be."""
        return self.watch is not None and self.watch.must_begin_anew

    @property
    def withheld(self) -> set[int]:
        """The images in which something is to be erased that is not erased in the sampling pass so far."""
        return self.watch.withheld if self.watch is not None else set()

    def take_over(self, previous: ConceptEraser) -> None:
        """Go on with a sampling pass in which ``previous`` erased the same concepts on another model.

        Images are not looked at again, since they cannot be begun anew: the first model is gone.
        """
        self.watch, self.opened = previous.watch, previous.opened
        if self.watch is not None:
            self.watch.close()
        self.recorder.calls[:0] = previous.recorder.calls

    def begin_anew(self) -> None:
        """Forget the sampling pass so far, but for what was seen in it."""
        if self.watch is not None:
            self.watch.begin_anew()
        self.opened.clear()
        self.recorder.calls.clear()

    def __enter__(self) -> ConceptEraser:
        if self._handles:
            raise RuntimeError("this ConceptEraser is entered already")
        try:
            # First in, last out: a forward hook of another extension sees the corrected output.
            self._handles.append(self.unet.register_forward_pre_hook(self._before_unet, with_kwargs=True))
            self._handles.append(self.unet.register_forward_hook(self._after_unet))
            for layer in self.layers.values():
                self._handles.append(layer.to_q.register_forward_hook(self._keep_queries(layer)))
                first = layer.to_out[0] if isinstance(layer.to_out, nn.Sequential) else layer.to_out
                self._handles.append(first.register_forward_pre_hook(self._correct(layer)))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._per_layer.clear()
        self._end_call()
        self._call = self._decided = self.rows = None

    # ------------------------------------------------------------------------------------- hooks

    def _before_unet(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        x = args[0] if args else kwargs["x"]
        timesteps = args[1] if len(args) > 1 else kwargs["timesteps"]
        context = args[2] if len(args) > 2 else kwargs["context"]
        rows, self.rows = self.rows, None
        if rows is None or len(rows) != x.shape[0]:
            known = "none were announced" if rows is None else f"{len(rows)} were announced"
            raise ErasureError(
                f"the U-Net runs on a batch of {x.shape[0]} rows, of which {known}; which of them are "
                "conditional cannot be told. Another extension may call the model by itself: disable it, "
                "or EIUP"
            )
        at = progress(float(timesteps.flatten()[0]), self.training_steps)
        if self.watch is not None and not self.suspended:
            self.watch.check(at)
        call = self._call = _Call(rows, at, self._weights * self.window(at), x.device)
        call.latent_size = tuple(x.shape[-2:])
        # Presence is stable over steps; where nothing is corrected, one measurement a pass is enough.
        call.measures = not self.recorder.calls
        call.looks = self.watch is not None and self.watch.looks(at)
        if call.erased and self.gate is not None:
            call.apply(self._decide(call.select(context)))
        if call.erased and self.watch is not None:
            call.follow(self.watch)
        call.settle()
        self.opened.update(call.active_images)
        if self.suspended:
            call.corrects = False

    def _decide(self, contexts: Tensor) -> Decision:
        """The gate's decision for rows with these contexts, which mostly are those of the last call."""
        if self._decided is not None:
            known, decision = self._decided
            if known.shape == contexts.shape and torch.equal(known, contexts):
                return decision
        decision = self.gate(contexts)
        if self.mode == "strict":
            decision = replace(decision, gate=torch.ones_like(decision.gate))
        self._decided = (contexts.clone(), decision)
        return decision

    def _after_unet(self, unet: nn.Module, args: tuple, output: Tensor) -> None:
        call, self._call = self._call, None
        if call is None or not call.erased:
            self._end_call()
            return
        if call.layers != len(self.layers):
            raise ErasureError(
                f"only {call.layers} of the U-Net's {len(self.layers)} text cross-attention layers were "
                "corrected. Another extension may have replaced the others: disable it, or EIUP"
            )
        if call.looks:
            images = [call.rows[row].image for row in call.erased]
            self.opened |= self.watch.look(call.index, images, self._weights > 0, call.latent_size)
        self._end_call()
        self.recorder.add(call.evidence())

    def _end_call(self) -> None:
        self._queries.clear()
        if self.watch is not None:
            self.watch.forget()

    def _keep_queries(self, layer: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            if self._call is not None and self._call.needs_queries:
                self._queries[layer] = output
            if self._call is not None and self._call.looks:
                self.watch.keep(layer, args[0])

        return hook

    def _correct(self, layer: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple) -> tuple | None:
            call = self._call
            if call is None or not call.erased:
                return None
            first = call.layers == 0
            call.layers += 1
            if not call.needs_queries:
                return None
            queries = self._queries.pop(layer, None)
            if queries is None:
                raise ErasureError("a cross-attention layer ran without its queries being seen")
            concepts = self._per_layer.get(layer)
            if concepts is None:
                # Lazily, since the host may bring a block's weights to the device only now.
                concepts = self._per_layer[layer] = _LayerConcepts(layer, self)
            outputs = args[0]
            if first:
                self._measure(call, queries, outputs, concepts)
            if not call.corrects:
                return None
            q = attention.split_heads(call.select_active(queries), layer.heads)
            prompt = call.select_active(outputs)
            change = (
                self._project(call, q, prompt, concepts)
                if self.mode == "projection"
                else self._suppress(call, q, concepts)
            )
            call.base = call.base + prompt.float().square().sum(dim=(1, 2))
            return (call.subtract(outputs, change.to(outputs.dtype)), *args[1:])

        return hook

    def _measure(self, call: _Call, queries: Tensor, outputs: Tensor, concepts: _LayerConcepts) -> None:
        """Presence ``a`` in the first layer, ``[R, K]``."""
        q = attention.split_heads(call.select(queries), concepts.layer.heads)
        prompt = call.select(outputs)
        *of_concepts, empty = concepts.outputs(q)
        call.presence = torch.stack([attention.presence(prompt, o, empty) for o in of_concepts], dim=1)

    def _suppress(self, call: _Call, q: Tensor, concepts: _LayerConcepts) -> Tensor:
        """``sum over k of c_k F_k`` for the active rows and concepts."""
        selection = concepts.selection(call.concepts)
        maps = attention.token_maps(q, selection.k, selection.columns, concepts.scale)
        places = call.places(maps.shape[2])
        if places is not None:
            maps = maps * places[:, None, :, selection.owner].to(maps.dtype)
        energy = attention.feature_energy(maps, selection.values, selection.owner, selection.count)
        call.energy = call.energy + energy * call.active_coefficients.square()
        coefficients = call.active_coefficients[:, selection.owner].to(maps.dtype)
        return attention.merge_heads(attention.correction(maps, selection.values, coefficients))

    def _project(self, call: _Call, q: Tensor, prompt: Tensor, concepts: _LayerConcepts) -> Tensor:
        """``sum over k of w_k clamp(a_k, 0, 3) (O_k - O_0)`` for the active rows and concepts."""
        *of_concepts, empty = concepts.outputs(q)
        weights = call.weights.tolist()
        changes = [attention.projection(prompt, of_concepts[k], empty, weights[k]) for k in call.concepts]
        call.energy = call.energy + torch.stack([c.square().sum(dim=(1, 2)) for c in changes], dim=1)
        return sum(changes)


class _Call:
    """One U-Net call: its rows, the coefficients ``c_k = s(t) w_k g_k f_k`` of each, and what has been
    measured in it so far. *Erased* rows may be corrected; the *active* ones among them are."""

    def __init__(self, rows: Rows, at: float, weights: Tensor, device: torch.device):
        self.rows, self.progress = rows, at
        self.device = device
        self.erased = [index for index, row in enumerate(rows) if row.erased]
        self.weights = weights.to(device)
        self.gate = torch.ones(len(self.erased), len(weights), device=device)
        self.factor = torch.ones_like(self.gate)
        self.measures = self.looks = False
        self.latent_size = (0, 0)
        self.layers = 0
        self._places: list[list[Tensor | None]] = []
        self._places_of_size: dict[int, Tensor | None] = {}
        self.presence: Tensor | None = None
        self.energy: Tensor | float = 0.0
        self.base: Tensor | float = 0.0
        self.index = _as_index(self.erased, device)

    def apply(self, decision: Decision) -> None:
        """Take a gate's decision."""
        self.likeness = decision.presence
        # Copies: the decision may be that of later calls, too.
        self.gate, self.factor = (x.to(self.device, copy=True) for x in (decision.gate, decision.factor))

    def follow(self, watch: Watch) -> None:
        """Erase what was seen, whatever the prompt says, where it was seen; and nothing before the look."""
        images = [self.rows[index].image for index in self.erased]
        likeness = self.likeness.tolist()
        watch.hear(images, likeness)
        concepts = range(len(self.weights))
        shares = [
            [watch.share(image, k, self.progress, z) for k, z in enumerate(row)]
            for image, row in zip(images, likeness)
        ]
        seen = [[bool(watch.erased.get((image, k))) for k in concepts] for image in images]
        self.gate = self.gate.masked_fill(torch.tensor(seen, device=self.device), 1.0)
        self.factor = (self.factor * torch.tensor(shares, device=self.device)).clamp_max(MOST)
        self._places = [[watch.places_at(image, k, self.progress) for k in concepts] for image in images]

    def settle(self) -> None:
        """Find the active rows and concepts; where there are none, nothing is computed."""
        coefficients = self.weights * self.gate * self.factor
        active = (coefficients != 0).tolist()
        self.active = [row for row, concepts in enumerate(active) if any(concepts)]
        self.concepts = tuple(k for k, concept in enumerate(zip(*active)) if any(concept))
        self.corrects = bool(self.active)
        if self.corrects:
            rows = torch.tensor(self.active, device=self.device)
            concepts = torch.tensor(self.concepts, device=self.device)
            self.active_coefficients = coefficients[rows][:, concepts]
            self._active_index = _as_index([self.erased[row] for row in self.active], self.device)

    def places(self, positions: int) -> Tensor | None:
        """Where a layer of so many positions erases the active concepts in the active rows, ``[R, N, K]`` in
        0..1; None where all over."""
        if positions not in self._places_of_size:
            size = map_size(positions, *self.latent_size)
            places = (
                [[self._places[row][k] for k in self.concepts] for row in self.active] if self._places else []
            )
            known = any(place is not None for row in places for place in row)
            self._places_of_size[positions] = (
                _stack_places(places, size).to(self.device) if known and size else None
            )
        return self._places_of_size[positions]

    @property
    def needs_queries(self) -> bool:
        return bool(self.erased) and (self.corrects or self.measures and self.presence is None)

    def select(self, x: Tensor) -> Tensor:
        return x[self.index]

    def select_active(self, x: Tensor) -> Tensor:
        return x[self._active_index]

    def subtract(self, outputs: Tensor, change: Tensor) -> Tensor:
        corrected = outputs.clone()
        corrected[self._active_index] -= change
        return corrected

    @property
    def active_images(self) -> list[int]:
        return [self.rows[self.erased[row]].image for row in self.active]

    def evidence(self) -> CallEvidence:
        energy, base = torch.zeros_like(self.gate), torch.ones(len(self.erased), device=self.device)
        if self.corrects:
            rows = torch.tensor(self.active, device=self.device)
            energy[rows[:, None], torch.tensor(self.concepts, device=self.device)] = self.energy
            base[rows] = self.base
        erased = tuple(row for row in self.rows if row.erased)
        corrected = [row in self.active for row in range(len(self.erased))]
        return CallEvidence(erased, self.progress, corrected, self.presence, self.gate, energy, base)


def _stack_places(places: list[list[Tensor | None]], size: tuple[int, int]) -> Tensor:
    """``[R, N, K]`` of places ``[h, w]``, None where all over, at this size."""
    all_over = torch.ones(size[0] * size[1])
    return torch.stack(
        [
            torch.stack([all_over if p is None else resize(p, size).flatten() for p in row], dim=-1)
            for row in places
        ]
    )


def _as_index(rows: list[int], device: torch.device) -> slice | Tensor:
    """Rows as a slice where they are contiguous, which costs no copy."""
    if rows and rows == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return torch.tensor(rows, dtype=torch.long, device=device)
