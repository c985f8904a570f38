"""ConceptEraser: the hooks that erase concepts in one sampling pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal

import torch
from torch import Tensor, nn

from . import attention
from .correction import Correction, as_index
from .errors import ErasureError, NotFiniteError, UnsupportedModelError
from .evidence import ImageEvidence, Recorder
from .gate import Decision, PromptGate
from .maps import FormingMaps
from .precision import brought_to
from .proof import Tally
from .rows import Rows
from .schedule import Window, progress
from .unet_call import Plan, UNetCall
from .watch import BeginAnew, Watch

# How many decisions of the gate, and what follows from them, are kept: prompts may alternate from step to
# step, and the rows of one step come in several calls.
_KEPT = 8

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
    """A function that gives the values ``[B, T, H*d]`` which a layer makes of contexts ``[B, T, C]``.

    Contexts are cast to the weights' half precision, as a host casts them before they enter the U-Net. Where
    the host keeps the weights on another device until they are needed, they are brought to the contexts' and
    back: a CPU may not compute in half precision, and autocast does not reach it.
    """

    def values(layer: nn.Module, contexts: Tensor) -> Tensor:
        weight = next(layer.to_v.parameters())
        home = weight.device
        if weight.dtype in (torch.float16, torch.bfloat16):
            contexts = contexts.to(weight.dtype)
        _, for_v = transform(layer, contexts) if transform else (contexts, contexts)
        if home == contexts.device:
            return layer.to_v(for_v)
        try:
            return layer.to_v.to(contexts.device)(for_v)
        finally:
            layer.to_v.to(home)

    return values


class _LayerConcepts:
    """The concepts as one attention layer sees them; computed once a sampling pass.

    ``all_keys [K + 1, H, T, d]`` are those of the concepts and, last, of the empty prompt; ``keys`` and
    ``values [K, H, T, d]`` the concepts', values zero but for their own tokens. ``all_values`` are there only
    where the ``whole`` contexts are attended to.
    """

    def __init__(self, layer: nn.Module, eraser: ConceptEraser, dtype: torch.dtype, whole: bool):
        self.layer = layer
        contexts = torch.stack([*(c.context for c in eraser.concepts), eraser.empty])
        contexts = contexts.to(next(layer.to_k.parameters()).device, eraser.context_dtype)
        for_k, for_v = eraser.context_transform(layer, contexts)
        keys = attention.split_heads(layer.to_k(for_k), layer.heads)
        scale = getattr(layer, "scale", None)
        if scale:  # what a fused attention divides by itself, sqrt d, is already in the keys
            keys = keys * (scale * keys.shape[-1] ** 0.5)
        self.all_keys = keys.to(dtype)
        self.keys = self.all_keys[:-1]
        all_values = attention.split_heads(layer.to_v(for_v), layer.heads).to(dtype)
        self.all_values = all_values if whole else None
        own = torch.zeros(len(eraser.concepts), contexts.shape[1])
        for index, concept in enumerate(eraser.concepts):
            own[index, list(concept.tokens)] = 1.0
        self.values = all_values[:-1] * brought_to(keys.device, own, dtype)[:, None, :, None]


@dataclass(frozen=True, eq=False)
class _Decided:
    """The gate's decision, where there is one, for rows with these ``contexts [R, T, C]``."""

    contexts: Tensor
    decision: Decision | None


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
        self.context_dtype = empty.dtype
        self._weights = torch.tensor([c.weight for c in self.concepts])
        self._wanted = [k for k, concept in enumerate(self.concepts) if concept.weight > 0]
        self._per_layer: dict[nn.Module, _LayerConcepts] = {}
        self._queries: dict[nn.Module, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._call: UNetCall | None = None
        self._decided: list[_Decided] = []
        self._plans: dict[tuple, Plan] = {}
        self._last: Correction | None = None
        self._indices: dict[tuple[int, ...], slice | Tensor] = {}

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

    def check(self) -> None:
        """Raise :class:`NotFiniteError` where half precision has overflowed in what was erased so far."""
        self.recorder.read()

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
        self.recorder.go_on_from(previous.recorder)

    def begin_anew(self) -> None:
        """Forget the sampling pass so far, but for what was seen in it."""
        if self.watch is not None:
            self.watch.begin_anew()
        if self.maps is not None:
            self.maps.close()
        self.opened.clear()
        self._forget_decisions()
        self.recorder.clear()
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
        self._indices.clear()
        self._forget_decisions()
        self._end_call()
        self._call = self.rows = None

    def _forget_decisions(self) -> None:
        self._plans.clear()
        self._decided.clear()
        self._last = None

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
        index = self._index(rows, x.device)
        contexts = context[index]
        self.context_dtype = context.dtype
        timestep, decided = self._read(timesteps, contexts)
        at = progress(timestep, self.training_steps)
        if self.watch is not None and not self.suspended:
            self.watch.check(at)
        maps = self.maps is not None and self.maps.collects(at)
        if self.surveying and not maps:
            raise BeginAnew
        is_new = decided is None
        if is_new:
            decision = self._decide(contexts) if len(contexts) and self.gate is not None else None
            decided = _Decided(contexts.clone(), decision)
        self._keep(decided)
        looks = self.watch is not None and self.watch.looks(at)
        plan = self._plan(rows, index, at, decided, x)
        call = self._call = UNetCall(plan, at, len(self.layers), corrects=not self.suspended)
        # Presence is stable over steps: one measurement of each prompt is enough.
        call.measures, call.looks, call.maps = is_new, looks, maps
        self._images.update(row.image for row in rows)
        self.opened.update(plan.active_images)

    def _index(self, rows: Rows, device: torch.device) -> slice | Tensor:
        """Where the erased ones among the rows are."""
        erased = tuple(index for index, row in enumerate(rows) if row.erased)
        if erased not in self._indices:
            self._indices[erased] = as_index(erased, device)
        return self._indices[erased]

    def _read(self, timesteps: Tensor, contexts: Tensor) -> tuple[float, _Decided | None]:
        """The timestep, and what was decided for rows with these contexts, None where they are new: the one
        transfer of a U-Net call, since each waits for all that the device has still to do."""
        known = [decided for decided in self._decided if decided.contexts.shape == contexts.shape]
        alike = [(decided.contexts == contexts).all() for decided in known]
        timestep, *same = torch.stack([x.float() for x in (timesteps.flatten()[0], *alike)]).tolist()
        return timestep, next((decided for decided, is_same in zip(known, same) if is_same), None)

    def _keep(self, decided: _Decided) -> None:
        """Keep what was decided last, and before; where no row is erased, there is nothing to keep."""
        if len(decided.contexts):
            others = [one for one in self._decided if one is not decided]
            self._decided = [decided, *others[: _KEPT - 1]]

    def _plan(
        self, rows: Rows, index: slice | Tensor, at: float, decided: _Decided, latents: Tensor
    ) -> Plan:
        """What follows from the gate's decision and from what was seen; the same as long as these are."""
        inside, size = self.window(at), tuple(latents.shape[-2:])
        seen = self.watch.state(at) if self.watch is not None else None
        key = (rows, inside, size, decided, seen)
        plan = self._plans.get(key)
        if plan is None:
            weights = self._weights * inside
            plan = Plan(rows, index, weights, size, latents.device, decided.decision, self.watch, at)
            while len(self._plans) >= _KEPT:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = plan
        if plan.correction is not self._last and plan.correction is not None:
            # With many concepts and layers, they are too large to be kept for several.
            if self._last is not None:
                self._last.forget_layers()
            self._last = plan.correction
        return plan

    def _decide(self, contexts: Tensor) -> Decision:
        """The gate's decision for rows with these contexts, on the CPU."""
        decision = self.gate(contexts)
        read = torch.stack([decision.presence, decision.gate, decision.factor]).cpu()
        if not read.isfinite().all():
            raise NotFiniteError("what tells whether the prompt brings a concept in")
        decision = Decision(*read)
        if self.mode == "strict":
            decision = replace(decision, gate=torch.ones_like(decision.gate))
        return decision

    def _after_unet(self, unet: nn.Module, args: tuple, output: Tensor) -> None:
        call, self._call = self._call, None
        if call is not None and call.erases:
            self._finish(call, output)
        self._end_call()
        if call is not None and self.tally is not None:
            self.tally.decide(call.plan.rows)

    def _finish(self, call: UNetCall, output: Tensor) -> None:
        """Look at the images where it is time to, and record what was done."""
        if call.passed != len(self.layers):
            raise self._wrong_number_of(call.passed)
        plan = call.plan
        if call.maps:
            self.maps.see(plan.images, plan.index, call.progress)
        if call.looks:
            self.opened |= self.watch.look(plan.index, plan.images, self._wanted, plan.latent_size)
        call.see_output(output)
        self.recorder.add(call.evidence())

    def _wrong_number_of(self, layers: int) -> ErasureError:
        return ErasureError(
            f"{layers} text cross-attention layers were corrected where the U-Net has {len(self.layers)}. "
            "Another extension may have replaced some of them: disable it, or EIUP"
        )

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
            if call is None or not call.erases:
                return None
            number = call.passed
            call.passed += 1
            if call.passed > len(self.layers):
                raise self._wrong_number_of(call.passed)
            if not (call.needs_queries or self._maps(layer)):
                return None
            queries = self._queries.pop(layer, None)
            if queries is None:
                raise ErasureError("a cross-attention layer ran without its queries being seen")
            concepts = self._per_layer.get(layer)
            if concepts is None:
                # Lazily, since the host may bring a block's weights to the device only now.
                whole = self.mode == "projection" or number == 0 and call.presence is None
                concepts = self._per_layer[layer] = _LayerConcepts(layer, self, queries.dtype, whole)
            outputs = args[0]
            if number == 0 and call.measures and call.presence is None:
                call.presence = attention.presence(
                    call.select(outputs), call.select(queries), concepts.all_keys, concepts.all_values
                )
            if self._maps(layer):
                features = attention.feature_map(call.select(queries), concepts.keys, concepts.values)
                self.maps.add(
                    call.plan.images, call.progress, features.permute(1, 2, 0), call.plan.latent_size
                )
            if call.correction is None:
                return None
            return (self._corrected(call, call.norms[number], queries, outputs, concepts), *args[1:])

        return hook

    def _maps(self, layer: nn.Module) -> bool:
        return self._call.maps and layer is self.maps.layer

    def _corrected(
        self, call: UNetCall, norms: Tensor, queries: Tensor, outputs: Tensor, concepts: _LayerConcepts
    ) -> Tensor:
        """``outputs [B, N, C]`` less what is suppressed; what is measured goes into ``norms [K + 1, R]``."""
        correction = call.correction
        prompt, queries = outputs[correction.index], queries[correction.index]
        torch.linalg.vector_norm(prompt.detach(), dim=(1, 2), dtype=torch.float32, out=norms[-1])
        if self.mode == "projection":
            every = correction.with_empty(len(concepts.keys))
            keys, values = concepts.all_keys[every], concepts.all_values[every]
            change = attention.projection(prompt, queries, keys, values, correction.on_device, norms[:-1])
        else:
            keys, values = correction.keys_and_values(concepts.layer, concepts.keys, concepts.values)
            weights = correction.weights(prompt.shape[1], queries.dtype)
            change = attention.suppression(queries, keys, values, weights, norms[:-1])
        return correction.subtract(outputs, change)
