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
from .evidence import ImageEvidence, Recorder
from .gate import Decision, PromptGate
from .maps import FormingMaps
from .proof import Tally
from .rows import Rows
from .schedule import Window, progress
from .unet_call import UNetCall
from .watch import BeginAnew, Watch

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

    With a ``watch``, the images are looked at in some U-Net calls. Where a concept is seen to form, the
    next U-Net call raises :class:`eiup.watch.BeginAnew`; sampling is to be begun anew from the same
    noise after :meth:`begin_anew`. :func:`eiup.sampling.sample_erased` does that.

    Hooks: on the U-Net itself (timestep, context, rows), on each ``attn2.to_q`` (the queries) and on each
    ``attn2.to_out[0]`` (the heads' output, from which the correction is subtracted). They work under
    every attention optimisation, since all of these call the two as modules, and are removed on exit.

    While :attr:`suspended`, gates decide and nothing is corrected; :attr:`opened` holds the images for which
    there would have been something. While :attr:`surveying`, too, the pass ends where ``maps`` are made.
    A :attr:`tally` is told of the rows that passed all layers.

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
        maps: FormingMaps | None = None,
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
        self.maps = maps
        self.layers = text_cross_attention(unet)
        self.rows: Rows | None = None
        self.suspended = self.surveying = False
        self.tally: Tally | None = None
        self.opened: set[int] = set()
        self._images: set[int] = set()
        self.recorder = Recorder([c.name for c in self.concepts])
        self._weights = torch.tensor([c.weight for c in self.concepts])
        self._wanted = [k for k, concept in enumerate(self.concepts) if concept.weight > 0]
        self._per_layer: dict[nn.Module, _LayerConcepts] = {}
        self._queries: dict[nn.Module, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._call: UNetCall | None = None
        self._decided: tuple[Tensor, Decision] | None = None

    def evidence(self) -> dict[int, ImageEvidence]:
        """What was measured and suppressed so far, by the image's index in the batch."""
        images = self.recorder.images()
        if self.watch is not None:
            images = {
                image: evidence.with_looks(
                    self.watch.seen[image].tolist() if image in self.watch.seen else None,
                    [self.watch.erases(image, k) for k in range(len(self.concepts))],
                )
                for image, evidence in images.items()
            }
        if self.maps is not None:
            late = self.watch.seen_late if self.watch is not None else {}
            images = {
                image: evidence.with_maps(self.maps.of(image, late.get(image)))
                for image, evidence in images.items()
            }
        return images

    @property
    def must_begin_anew(self) -> bool:
        """Whether the sampling pass so far was seen not to be what it should be."""
        return self.watch is not None and self.watch.must_begin_anew

    @property
    def erased_everywhere(self) -> set[int]:
        """The images in which a concept that has no known place is erased in the sampling pass to come."""
        return self.watch.erased_everywhere if self.watch is not None else set()

    @property
    def withheld(self) -> set[int]:
        """The images in which something is to be erased that is not erased in the sampling pass so far."""
        if self.surveying:
            return set(self._images)
        return self.watch.withheld(self._wanted) if self.watch is not None else set()

    @property
    def unseen(self) -> set[int]:
        """The images that the watch has not looked at; none where there is no watch."""
        return self._images - self.watch.seen.keys() if self.watch is not None else set()

    def take_over(self, previous: ConceptEraser) -> None:
        """Go on with a sampling pass in which ``previous`` erased the same concepts on another model.

        Images are not looked at again, since they cannot be begun anew: the first model is gone.
        """
        self.watch, self.opened, self.maps = previous.watch, previous.opened, previous.maps
        if self.watch is not None:
            self.watch.close()
        if self.maps is not None:
            self.maps.close()
        self.recorder.calls[:0] = previous.recorder.calls

    def begin_anew(self) -> None:
        """Forget the sampling pass so far, but for what was seen in it."""
        if self.watch is not None:
            self.watch.begin_anew()
        if self.maps is not None:
            self.maps.close()
        self.opened.clear()
        self.recorder.calls.clear()
        if self.tally is not None:
            self.tally.clear()

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
        maps = self.maps is not None and self.maps.collects(at)
        if self.surveying and not maps:
            raise BeginAnew
        size = tuple(x.shape[-2:])
        call = self._call = UNetCall(rows, at, self._weights * self.window(at), size, x.device)
        # Presence is stable over steps; where nothing is corrected, one measurement a pass is enough.
        call.measures = not self.recorder.calls
        call.looks = self.watch is not None and self.watch.looks(at)
        call.maps = maps
        self._images.update(row.image for row in rows)
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
        if call is not None and call.erased:
            self._finish(call)
        self._end_call()
        if call is not None and self.tally is not None:
            self.tally.decide(call.rows)

    def _finish(self, call: UNetCall) -> None:
        """Look at the images where it is time to, and record what was done."""
        if call.layers != len(self.layers):
            raise ErasureError(
                f"only {call.layers} of the U-Net's {len(self.layers)} text cross-attention layers were "
                "corrected. Another extension may have replaced the others: disable it, or EIUP"
            )
        images = [call.rows[row].image for row in call.erased]
        if call.maps:
            self.maps.see(images, call.index, call.progress)
        if call.looks:
            self.opened |= self.watch.look(call.index, images, self._wanted, call.latent_size)
        self.recorder.add(call.evidence())

    def _end_call(self) -> None:
        self._queries.clear()
        for observer in (self.watch, self.maps):
            if observer is not None:
                observer.sight.forget()

    def _keep_queries(self, layer: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            if self._call is not None and (self._call.needs_queries or self._maps(layer)):
                self._queries[layer] = output
            if self._call is not None and self._call.looks:
                self.watch.sight.keep(layer, args[0])
            if self._call is not None and self._call.maps:
                self.maps.sight.keep(layer, args[0])

        return hook

    def _correct(self, layer: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple) -> tuple | None:
            call = self._call
            if call is None or not call.erased:
                return None
            first = call.layers == 0
            call.layers += 1
            if not (call.needs_queries or self._maps(layer)):
                return None
            queries = self._queries.pop(layer, None)
            if queries is None:
                raise ErasureError("a cross-attention layer ran without its queries being seen")
            concepts = self._per_layer.get(layer)
            if concepts is None:
                # Lazily, since the host may bring a block's weights to the device only now.
                concepts = self._per_layer[layer] = _LayerConcepts(layer, self)
            outputs = args[0]
            if first and call.presence is None:
                self._measure(call, queries, outputs, concepts)
            if self._maps(layer):
                self._map(call, queries, concepts)
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

    def _measure(self, call: UNetCall, queries: Tensor, outputs: Tensor, concepts: _LayerConcepts) -> None:
        """Presence ``a`` in the first layer, ``[R, K]``."""
        q = attention.split_heads(call.select(queries), concepts.layer.heads)
        prompt = call.select(outputs)
        *of_concepts, empty = concepts.outputs(q)
        call.presence = torch.stack([attention.presence(prompt, o, empty) for o in of_concepts], dim=1)

    def _maps(self, layer: nn.Module) -> bool:
        return self._call.maps and layer is self.maps.layer

    def _map(self, call: UNetCall, queries: Tensor, concepts: _LayerConcepts) -> None:
        """Where the concepts are forming, for the maps."""
        q = attention.split_heads(call.select(queries), concepts.layer.heads)
        selection = concepts.selection(tuple(range(len(self.concepts))))
        maps = attention.token_maps(q, selection.k, selection.columns, concepts.scale)
        features = attention.feature_map(maps, selection.values, selection.owner, selection.count)
        images = [call.rows[row].image for row in call.erased]
        self.maps.add(images, call.progress, features, call.latent_size)

    def _suppress(self, call: UNetCall, q: Tensor, concepts: _LayerConcepts) -> Tensor:
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

    def _project(self, call: UNetCall, q: Tensor, prompt: Tensor, concepts: _LayerConcepts) -> Tensor:
        """``sum over k of w_k clamp(a_k, 0, 3) (O_k - O_0)`` for the active rows and concepts."""
        *of_concepts, empty = concepts.outputs(q)
        weights = call.weights.tolist()
        changes = [attention.projection(prompt, of_concepts[k], empty, weights[k]) for k in call.concepts]
        call.energy = call.energy + torch.stack([c.square().sum(dim=(1, 2)) for c in changes], dim=1)
        return sum(changes)
