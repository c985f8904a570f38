"""ConceptEraser: the hooks that erase concepts in one sampling pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor, nn

from . import attention
from .errors import ErasureError, UnsupportedModelError
from .evidence import ImageEvidence, Recorder
from .rows import Row, Rows
from .schedule import Window, progress

ContextTransform = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]


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


class _LayerConcepts:
    """The concepts as one attention layer sees them; computed once a sampling pass."""

    def __init__(self, layer: nn.Module, eraser: ConceptEraser):
        heads = layer.heads
        contexts = torch.stack([*(c.context for c in eraser.concepts), eraser.empty])
        weight = next(layer.to_k.parameters())
        for_k, for_v = eraser.context_transform(layer, contexts.to(weight.device, eraser.context_dtype))
        # [K, H, T, d]; the empty prompt is the last.
        self.k = attention.split_heads(layer.to_k(for_k), heads)
        self.v = attention.split_heads(layer.to_v(for_v), heads)
        tokens = self.k.shape[2]
        pairs = [(k, k * tokens + j) for k, concept in enumerate(eraser.concepts) for j in concept.tokens]
        self.owner = torch.tensor([k for k, _ in pairs], device=self.k.device)
        self.columns = torch.tensor([column for _, column in pairs], device=self.k.device)
        # [H, J, d]: the values of the concepts' own tokens.
        self.values = self.v.transpose(0, 1).flatten(1, 2)[:, self.columns]
        self.scale = getattr(layer, "scale", None) or self.k.shape[-1] ** -0.5


class ConceptEraser:
    """Erases ``concepts`` in every cross-attention of ``unet`` while entered as a context manager.

    Each U-Net call needs to know its rows: set :attr:`rows` before it (one :class:`eiup.rows.Row` a row
    of the batch). A call without them, or of another size, raises :class:`ErasureError`: nothing is ever
    generated with a row that was silently left out. ``empty [T, C]`` is the context of the empty prompt.

    Hooks: on the U-Net itself (timestep, rows), on each ``attn2.to_q`` (the queries) and on each
    ``attn2.to_out[0]`` (the heads' output, from which the correction is subtracted). They work under
    every attention optimisation, since all of these call the two as modules, and are removed on exit.

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
    ):
        self.unet = unet
        self.concepts = tuple(concepts)
        self.empty = empty
        self.window = window or Window()
        self.context_transform = context_transform or (lambda layer, contexts: (contexts, contexts))
        self.context_dtype = empty.dtype
        self.training_steps = training_steps
        self.layers = text_cross_attention(unet)
        self.rows: Rows | None = None
        self.recorder = Recorder([c.name for c in self.concepts], [c.weight for c in self.concepts])
        self._weights = torch.tensor([c.weight for c in self.concepts])
        self._per_layer: dict[nn.Module, _LayerConcepts] = {}
        self._queries: dict[nn.Module, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._call: _Call | None = None

    def evidence(self) -> dict[int, ImageEvidence]:
        """What was measured and suppressed so far, by the image's index in the batch."""
        return self.recorder.images()

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
        self._queries.clear()
        self._call = None
        self.rows = None

    # ------------------------------------------------------------------------------------- hooks

    def _before_unet(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        x = args[0] if args else kwargs["x"]
        timesteps = args[1] if len(args) > 1 else kwargs["timesteps"]
        rows, self.rows = self.rows, None
        if rows is None or len(rows) != x.shape[0]:
            known = "none were announced" if rows is None else f"{len(rows)} were announced"
            raise ErasureError(
                f"the U-Net runs on a batch of {x.shape[0]} rows, of which {known}; which of them are "
                "conditional cannot be told. Another extension may call the model by itself: disable it, "
                "or EIUP"
            )
        at = progress(float(timesteps.flatten()[0]), self.training_steps)
        self._call = _Call(rows, at, self._weights * self.window(at), x.device)

    def _after_unet(self, unet: nn.Module, args: tuple, output: Tensor) -> None:
        call, self._call = self._call, None
        self._queries.clear()
        if call is None or not call.erased:
            return
        if call.layers != len(self.layers):
            raise ErasureError(
                f"only {call.layers} of the U-Net's {len(self.layers)} text cross-attention layers were "
                "corrected. Another extension may have replaced the others: disable it, or EIUP"
            )
        erased = tuple(rows for rows in call.rows if rows.erased)
        self.recorder.add(erased, call.progress, call.corrects, call.presence, call.energy, call.base)

    def _keep_queries(self, layer: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            if self._call is not None and self._call.erased:
                self._queries[layer] = output

        return hook

    def _correct(self, layer: nn.Module) -> Callable:
        def hook(module: nn.Module, args: tuple) -> tuple | None:
            call = self._call
            if call is None or not call.erased:
                return None
            concepts = self._per_layer.get(layer)
            if concepts is None:
                # Lazily, since the host may bring a block's weights to the device only now.
                concepts = self._per_layer[layer] = _LayerConcepts(layer, self)
            queries = self._queries.pop(layer, None)
            if queries is None:
                raise ErasureError("a cross-attention layer ran without its queries being seen")
            outputs = args[0]
            q = attention.split_heads(call.select(queries), layer.heads)
            prompt = call.select(outputs)
            if call.layers == 0:
                call.presence = _presence(q, prompt, concepts)
            call.layers += 1
            maps = attention.token_maps(q, concepts.k[:-1], concepts.columns, concepts.scale)
            energy = attention.feature_energy(maps, concepts.values, concepts.owner, len(self.concepts))
            call.energy = call.energy + energy * call.weights.square()
            call.base = call.base + prompt.float().square().sum(dim=(1, 2))
            if not call.corrects:
                return None
            coefficients = call.weights[concepts.owner].to(maps.dtype).expand(maps.shape[0], -1)
            change = attention.correction(maps, concepts.values, coefficients)
            return (call.subtract(outputs, attention.merge_heads(change).to(outputs.dtype)), *args[1:])

        return hook


class _Call:
    """One U-Net call: its rows, the weights ``s(t) w_k``, and what has been measured in it so far."""

    def __init__(self, rows: Rows, at: float, weights: Tensor, device: torch.device):
        self.rows, self.progress = rows, at
        self.corrects = bool((weights != 0).any())
        self.weights = weights.to(device)
        self.erased = [index for index, row in enumerate(rows) if row.erased]
        self.layers = 0
        self.presence: Tensor = torch.zeros(())
        self.energy: Tensor | float = 0.0
        self.base: Tensor | float = 0.0
        first, count = (self.erased[0], len(self.erased)) if self.erased else (0, 0)
        contiguous = self.erased == list(range(first, first + count))
        self._index = slice(first, first + count) if contiguous else torch.tensor(self.erased, device=device)

    def select(self, x: Tensor) -> Tensor:
        return x[self._index]

    def subtract(self, outputs: Tensor, change: Tensor) -> Tensor:
        corrected = outputs.clone()
        corrected[self._index] -= change
        return corrected


def _presence(q: Tensor, prompt: Tensor, concepts: _LayerConcepts) -> Tensor:
    """``a_k`` of each row: ``[R, K]``."""
    outputs = [
        attention.merge_heads(attention.attention(q, k, v, concepts.scale))
        for k, v in zip(concepts.k, concepts.v)
    ]
    empty = outputs.pop()
    return torch.stack([attention.presence(prompt, output, empty) for output in outputs], dim=1)


def conditional_then_unconditional(images: int) -> Rows:
    """The rows of plain classifier-free guidance: each image's conditional row, then the others."""
    return (*(Row(i, True) for i in range(images)), *(Row(i, False) for i in range(images)))
