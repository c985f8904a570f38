"""One sampling pass of the webui with erasure in it.

The hooks live exactly as long as the sampler's ``sample`` call. Errors are raised inside of that call,
since the webui catches those of script methods and callbacks and would generate without erasure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from modules import devices, processing, shared
from modules.script_callbacks import AfterCFGCallbackParams, CFGDenoiserParams

from .. import rows
from ..build import build_eraser
from ..correction import as_index
from ..eraser import ConceptEraser, Mode
from ..errors import ErasureError, RequestError
from ..evidence import ImageEvidence
from ..preserve import Twin
from ..request import ErasureRequest
from ..sampling import sample_erased
from .calibrating import CalibrationStopped, shown_calibration
from .denoising import calibration_cache, checkpoint_identity, denoiser_of, erasable_unet
from .encoding import ConceptEncoder, through_hypernetworks

# Of the steps: where a refiner takes over this early, it does so before images are looked at.
EARLY_SWITCH = 0.4
# Of a denoiser call: rows in which concepts are erased, times the concepts' tokens.
MAX_ROW_TOKENS = 8192


class SamplingPass:
    """Erasure while ``sampler`` samples once for ``p``; ``before`` is the pass whose images this one goes on
    with, where there is one.

    ``evidence`` holds, after the pass, what was suppressed in each image of the batch, and ``checkpoint``
    the short hash of the checkpoint that it began with.
    """

    _running: dict[int, SamplingPass] = {}

    def __init__(self, p: Any, request: ErasureRequest, name: str, before: SamplingPass | None = None):
        self.p, self.request, self.name, self.before = p, request, name, before
        self.evidence: dict[int, ImageEvidence] = {}
        self.checkpoint: str | None = None
        self._eraser: ConceptEraser | None = None
        self._erased_model: tuple[nn.Module, Any] | None = None
        self._plan: rows.Rows | None = None
        self._latents: Tensor | None = None
        self._inner: nn.Module | None = None
        self._inner_handle: torch.utils.hooks.RemovableHandle | None = None
        self._failure: Exception | None = None
        self._twin: Twin | None = None
        self._denoiser_call: CFGDenoiserParams | None = None

    @classmethod
    def is_running(cls, sampler: Any) -> bool:
        return id(sampler) in cls._running

    def run(self, sampler: Any, sample: Callable, *args: Any, **kwargs: Any) -> Any:
        """``sample(*args, **kwargs)`` with the concepts erased."""
        self._running[id(sampler)] = self
        try:
            begins = not self._switches_early()
            self._attach(watches=begins, maps=begins and self.request.maps)
            self._go_on()
            self.checkpoint = shared.sd_model.sd_model_hash

            if self.request.preserve:
                self._refuse_refiner()
                self._twin = Twin()
            repeats = any(x is not None for x in (self._twin, self._eraser.watch, self._eraser.maps))
            noise = NoiseState(self.p.rng) if repeats else None

            def sample_from_the_same_noise() -> Tensor:
                if noise is not None:
                    noise.restore()
                self._failure = None
                result = sample(*args, **kwargs)
                if self._failure is not None:
                    raise self._failure
                return result

            result = sample_erased(self._eraser, sample_from_the_same_noise, self._twin)
            self.evidence = self._eraser.evidence()
            return result
        finally:
            del self._running[id(sampler)]
            self._detach()

    def _switches_early(self) -> bool:
        """Whether a refiner takes over before there is something to look at, so that nothing can be begun
        anew."""
        return self._has_refiner() and (self.p.refiner_switch_at or 1.0) < EARLY_SWITCH

    def _has_refiner(self) -> bool:
        return getattr(self.p, "refiner_checkpoint_info", None) is not None

    def _go_on(self) -> None:
        watch = self._eraser.watch
        before = self.before._eraser.watch if self.before is not None else None
        if watch is not None and before is not None:
            watch.go_on_from(before)

    def _refuse_refiner(self) -> None:
        if self._has_refiner():
            raise RequestError(
                "preserve", True, "false where a refiner is used", "Switch one of the two off."
            )

    def _attach(self, watches: bool = False, maps: bool = False) -> None:
        model = shared.sd_model
        unet = erasable_unet(model)
        encode = ConceptEncoder(model, self.p.width, self.p.height)
        concepts, empty = encode.concepts(self.request.concepts, self.request.strength)
        cache, checkpoint = calibration_cache(), checkpoint_identity(model)
        denoiser = denoiser_of(model, encode, self.p.width, self.p.height)

        def build(mode: Mode, maps: bool) -> ConceptEraser:
            with torch.no_grad(), devices.autocast(), shown_calibration(unet) as report:
                return build_eraser(
                    unet,
                    concepts,
                    empty,
                    encode,
                    denoiser,
                    mode=mode,
                    window=self.request.window,
                    context_transform=through_hypernetworks,
                    cache=cache,
                    watches=watches,
                    goes_on=self._has_refiner(),
                    maps=maps,
                    report=report,
                    checkpoint=checkpoint,
                )

        try:
            eraser = build(self.request.mode, maps)
        except CalibrationStopped:
            # The sampler stops, too; should it not, nothing passes that was to be erased.
            eraser = build("constant", maps=False)
        eraser.__enter__()
        self._eraser = eraser
        self._erased_model = (unet, model.sd_checkpoint_info)

    def _detach(self) -> None:
        if self._inner_handle is not None:
            self._inner_handle.remove()
        if self._eraser is not None:
            self._eraser.__exit__(None, None, None)
        self._inner = self._inner_handle = self._latents = self._plan = None
        self._denoiser_call = None

    def keep_outside(self, images: Tensor) -> None:
        """Put into decoded ``images [B, 3, H, W]`` in 0..1, in place, what their twins have outside of the
        erased concepts, where there are twins. What is inpainted is left to the webui, which blends latents
        and images with its mask."""
        twin = self._twin
        if twin is None or getattr(self.p, "mask", None) is not None:
            return

        def decode(latents: Tensor) -> Tensor:
            decoded = processing.decode_latent_batch(
                self.p.sd_model, latents, target_device=devices.cpu, check_for_nans=True
            )
            return ((torch.stack(list(decoded)).float() + 1) / 2).clamp(0, 1)

        twin.keep_outside(images, decode)

    @classmethod
    def on_denoiser(cls, params: CFGDenoiserParams) -> None:
        """The webui's ``on_cfg_denoiser`` callback: plan the rows of the coming denoiser call."""
        running = cls._running.get(id(params.denoiser.sampler))
        if running is not None:
            running._plan_rows(params)

    @classmethod
    def on_denoised(cls, params: AfterCFGCallbackParams) -> None:
        """The webui's ``on_cfg_after_cfg`` callback: withhold what is not erased yet, and keep the twin's
        prediction, or blend with it."""
        if cls._running:
            running = list(cls._running.values())[-1]
            if running._failure is None:
                try:
                    running._withhold()
                    if running._twin is not None:
                        running._use_twin(params)
                except Exception as error:
                    # The webui would swallow it and go on; it is raised after the pass instead.
                    running._failure = error

    def _withhold(self) -> None:
        """What is not erased yet is neither previewed nor left as the image where the user stops here."""
        withheld = self._withheld()
        sampler = self._denoiser_call.denoiser.sampler
        if withheld and sampler.last_latent is not None:
            shared.state.current_latent = None
            sampler.last_latent = sampler.last_latent.clone()
            # One by one: a list as an index has to be brought to the GPU, which would be waited for.
            for image in withheld:
                sampler.last_latent[image].zero_()

    def _withheld(self) -> set[int]:
        return self._eraser.withheld

    def _use_twin(self, params: AfterCFGCallbackParams) -> None:
        call, output = self._denoiser_call, params.x
        first_rows = [
            next(n for n, row in enumerate(self._plan) if row.image == i) for i in range(len(output))
        ]
        index = as_index(first_rows, call.x.device)
        x, sigma = call.x[index], call.sigma[index]
        clean, noise_level = call.denoiser.get_pred_x0(x, output, sigma), float(sigma[0])
        if self._eraser.suspended:
            self._twin.keep(noise_level, clean)
            # The twin is not for looking at: no live preview of it.
            shared.state.current_latent = None
            return
        blended = self._twin.blend(noise_level, clean, self._eraser.opened)
        # The clean prediction is linear in the sampler's own: x0 = a x + b output.
        b = call.denoiser.get_pred_x0(torch.zeros_like(x), torch.ones_like(output), sigma)
        params.x = output + (blended - clean) / b

    def _plan_rows(self, params: CFGDenoiserParams) -> None:
        self._plan = self._latents = None
        try:
            self._watch(params.denoiser.inner_model)
            self._follow_refiner()
            denoiser = params.denoiser
            arguments = denoiser.sampler.sampler_extra_args
            weights = [[float(part.weight) for part in image] for image in arguments["cond"].batch]
            edit = shared.sd_model.cond_stage_key == "edit" and denoiser.image_cfg_scale not in (None, 1.0)
            plan = rows.plan(
                weights,
                float(arguments["cond_scale"]) * float(denoiser.cond_scale_miltiplier),
                unconditional_skipped=_skips_unconditional(denoiser, params.sigma, edit),
                image_cfg_scale=float(denoiser.image_cfg_scale) if edit else None,
            )
            if len(plan) != params.x.shape[0]:
                raise ErasureError(
                    f"the denoiser has {params.x.shape[0]} rows where {len(plan)} follow from the prompts. "
                    "Another extension may have changed the batch: disable it, or EIUP"
                )
            _check_memory(plan, self._eraser)
            self._plan, self._latents, self._denoiser_call = plan, params.x, params
        except Exception as error:
            # The webui would swallow it and go on; it is raised in the U-Net call instead.
            self._failure = error

    def _follow_refiner(self) -> None:
        model = shared.sd_model
        if self._erased_model == (model.model.diffusion_model, model.sd_checkpoint_info):
            return
        previous = self._eraser
        previous.__exit__(None, None, None)
        self._attach()
        self._eraser.take_over(previous)

    def _watch(self, inner: nn.Module) -> None:
        if inner is self._inner:
            return
        if self._inner_handle is not None:
            self._inner_handle.remove()
        self._inner = inner
        self._inner_handle = inner.register_forward_pre_hook(self._announce_rows)

    def _announce_rows(self, inner: nn.Module, args: tuple) -> None:
        if self._failure is not None:
            raise self._failure
        if self._plan is None:
            raise ErasureError("the denoiser ran without its rows being planned")
        x = args[0]
        first = self._first_row(x)
        self._eraser.rows = rows.part(self._plan, first, x.shape[0])

    def _first_row(self, x: Tensor) -> int:
        """Latents of a denoiser call are views of the planned batch; their offset is the first row. A
        call on other latents repeats the whole batch, or cannot be told apart."""
        planned = self._latents
        if x.untyped_storage().data_ptr() == planned.untyped_storage().data_ptr():
            return (x.storage_offset() - planned.storage_offset()) // planned.stride(0)
        storage_rows = x.untyped_storage().nbytes() // max(1, x[0].numel() * x.element_size())
        if storage_rows == len(self._plan) and x.is_contiguous():
            return x.storage_offset() // x[0].numel()
        return 0 if x.shape[0] == len(self._plan) else len(self._plan)


class NoiseState:
    """The state of an ``ImageRNG``, to draw the same noise again."""

    def __init__(self, rng: Any):
        self.rng, self.is_first = rng, rng.is_first
        self.states = [
            g.get_state() if isinstance(g, torch.Generator) else dict(vars(g)) for g in rng.generators
        ]

    def restore(self) -> None:
        self.rng.is_first = self.is_first
        for generator, state in zip(self.rng.generators, self.states):
            if isinstance(generator, torch.Generator):
                generator.set_state(state)
            else:
                vars(generator).update(state)


def _check_memory(plan: rows.Rows, eraser: ConceptEraser) -> None:
    """Raises :class:`RequestError` for a batch whose attention to the concepts would take all memory."""
    erased, tokens = sum(row.erased for row in plan), sum(len(c.tokens) for c in eraser.concepts)
    if erased * tokens > MAX_ROW_TOKENS:
        raise RequestError(
            "batch size",
            f"{erased} rows",
            f"at most {MAX_ROW_TOKENS // tokens} rows where the concepts have {tokens} tokens",
            "A row is an image's, or one of the parts between AND. Choose a smaller batch or fewer concepts.",
        )


def _skips_unconditional(denoiser: Any, sigma: Tensor, edit: bool) -> bool:
    """Whether the webui leaves the unconditional rows out of this call (*skip early CFG*, *NGMS*)."""
    early = shared.opts.skip_early_cond
    if early != 0 and denoiser.step / denoiser.total_steps <= early:
        return True
    minimum = denoiser.sampler.sampler_extra_args["s_min_uncond"]
    turn = denoiser.step % 2 or shared.opts.s_min_uncond_all
    return bool(turn and minimum > 0 and sigma[0] < minimum and not edit)
