"""Under a policy, EIUP does not depend on being called as a script: it is in the webui's own functions.

Scripts can be left out: by other extensions' inner passes, which run some of them only, or by code that has
no script runner. What every generation passes is wrapped instead, once in the life of the server:
``processing.process_images_inner``, the processing classes' ``sample``, ``sd_samplers.create_sampler``,
``sd_samplers_common.store_latent``, ``images.save_image`` and, for the U-Net,
``SdModelData.set_sd_model``. All of these let exceptions through.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from modules import images, processing, sd_models, sd_samplers, sd_samplers_common, shared

from ..errors import ErasureError
from . import in_force, unet_guard
from .enforcement import record_refusal
from .generation import Generation
from .proven_pass import ProvenPass

_installed = False


def install() -> None:
    """Wrap the webui's functions where there is a policy; without one, nothing is touched."""
    global _installed
    if not in_force.begin() or _installed:
        return
    _wrap(processing, "process_images_inner", _process)
    for kind in (processing.StableDiffusionProcessingTxt2Img, processing.StableDiffusionProcessingImg2Img):
        _wrap(kind, "sample", _sample_batch)
    _wrap(sd_samplers, "create_sampler", _create_sampler)
    _wrap(sd_models.SdModelData, "set_sd_model", _set_model)
    _wrap(sd_samplers_common, "store_latent", _store_latent)
    _wrap(images, "save_image", _save)
    unet_guard.guard(sd_models.model_data.sd_model)
    _installed = True


def _wrap(owner: Any, name: str, around: Callable) -> None:
    original = getattr(owner, name)

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(owner, name, wrapped)


def _process(original: Callable, p: Any, *args: Any, **kwargs: Any) -> Any:
    """One generation: its images, or an error that the journal tells of."""
    policy = in_force.policy()
    try:
        generation = Generation.under_policy(p)
        policy = generation.policy
        with in_force.entered(policy):
            return _generate(generation, original, p, *args, **kwargs)
    except Exception as error:
        record_refusal(policy, error, getattr(p, "seed", None))
        raise


def _generate(generation: Generation, original: Callable, p: Any, *args: Any, **kwargs: Any) -> Any:
    unet_guard.guard(shared.sd_model)
    try:
        processed = original(p, *args, **kwargs)
        generation.record_batch(p)
        if processed.images:
            _check_sampled(generation)
        return processed
    finally:
        generation.over = True


def _sample_batch(original: Callable, p: Any, *args: Any, **kwargs: Any) -> Any:
    """The latents of a batch: recorded before anything is done with them."""
    generation = Generation.under_policy(p)
    generation.begin_batch()
    samples = original(p, *args, **kwargs)
    generation.record_batch(p)
    return samples


def _create_sampler(original: Callable, *args: Any, **kwargs: Any) -> Any:
    sampler = original(*args, **kwargs)
    unet_guard.guard(shared.sd_model)
    for method in ("sample", "sample_img2img"):
        setattr(sampler, method, partial(_sample, sampler, getattr(sampler, method)))
    return sampler


def _sample(sampler: Any, sample: Callable, p: Any, *args: Any, **kwargs: Any) -> Any:
    return Generation.under_policy(p).sample(p, sampler, sample, p, *args, **kwargs)


def _set_model(original: Callable, data: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    result = original(data, model, *args, **kwargs)
    unet_guard.guard(model)
    return result


def _store_latent(original: Callable, *args: Any, **kwargs: Any) -> None:
    """A live preview, which another thread decodes at any moment, or with little VRAM the webui at once."""
    if ProvenPass.previews():
        original(*args, **kwargs)


def _save(original: Callable, *args: Any, **kwargs: Any) -> Any:
    """An image is not written either where its generation will not give it out."""
    p = kwargs.get("p")
    generation = Generation.known(p)
    # An image to upscale is the user's own, and may be saved before it is sampled.
    if generation is not None and getattr(p, "firstpass_image", None) is None:
        _check_sampled(generation)
    return original(*args, **kwargs)


def _check_sampled(generation: Generation) -> None:
    if not (generation.sampled or shared.state.interrupted or shared.state.skipped):
        raise ErasureError("an image was made without a sampling pass, so without erasure")
