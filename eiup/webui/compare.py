"""The same images without erasure, to compare: the field ``compare``, and the panel's button for it.

A twin is the job of a processing object ``p`` once more, from the same seeds and prompts as they were
resolved, with EIUP switched off in its script arguments. Its images are appended to the job's; the infotext
of each says under :data:`COMPARE_KEY` which of the job's images it belongs to, counted from 1.
"""

from __future__ import annotations

import base64
import io
import json
from collections import deque
from collections.abc import Mapping
from contextlib import closing
from copy import copy
from dataclasses import dataclass
from typing import Any

from PIL import Image

from modules import errors, processing, shared

from .. import texts
from ..errors import RequestError
from ..request import INFOTEXT_KEY
from .enforcement import refuse_unerased
from .generation import Generation

COMPARE_KEY = "EIUP compare"
# Of a processing object: the host makes them anew, and a job that is kept must not keep them.
_MADE_BY_RUNNING = (
    "sampler", "rng", "c", "uc", "hr_c", "hr_uc", "init_latent", "mask", "nmask", "image_conditioning",
    "overlay_images", "mask_for_overlay", "color_corrections",
)  # fmt: skip
_RESOLVED = {
    "prompt": "all_prompts",
    "negative_prompt": "all_negative_prompts",
    "seed": "all_seeds",
    "subseed": "all_subseeds",
    "hr_prompt": "all_hr_prompts",
    "hr_negative_prompt": "all_hr_negative_prompts",
}


@dataclass(frozen=True)
class _Job:
    """A finished job: ``twin`` makes it once more without erasure, ``infotexts`` are those of its images, and
    ``settings`` the webui's while it ran."""

    twin: Any
    infotexts: tuple[str, ...]
    settings: dict[str, Any]


# The last jobs that pages started: several browsers may generate in turn. A job keeps its initial images.
_LAST_JOBS = 8
_last: deque[_Job] = deque(maxlen=_LAST_JOBS)


def after_job(generation: Generation, p: Any, processed: Any, script: Any) -> None:
    """Append the un-erased images where they are asked for, and keep the job for the panel's button.

    ``script`` is the webui's script object; what goes wrong is reported, and the erased images stay.
    """
    pictures = _pictures(p, processed)
    if not (generation.request.active and pictures):
        return
    obstacle = _obstacle(p)
    if obstacle is None and not p.is_api:
        twin = _without_erasure(p, script)
        _last.append(_Job(twin, tuple(text for _, text in pictures), _settings()))
    if not generation.request.compare:
        return
    if obstacle is None and (shared.state.interrupted or shared.state.stopping_generation):
        obstacle = texts.STOPPED
    if obstacle is None:
        try:
            obstacle = _append_unerased(generation, p, processed, _without_erasure(p, script))
        except Exception as error:
            errors.report("EIUP: the images without erasure could not be made", exc_info=True)
            obstacle = f"{type(error).__name__}: {error}"
    if obstacle is not None:
        processed.comments += f"{texts.NOT_ALL_COMPARED}\n{obstacle}\n"
        processed.extra_generation_params = {**processed.extra_generation_params, COMPARE_KEY: obstacle}


def _settings() -> dict[str, Any]:
    """The webui's settings in force; its ``data`` holds only those that were ever saved or changed."""
    options = shared.opts
    return {name: options.data.get(name, label.default) for name, label in options.data_labels.items()}


def _obstacle(p: Any) -> str | None:
    """Why a job cannot be made once more; None where it can."""
    if p.script_args and p.script_args[0]:
        return texts.CHOSEN_SCRIPT
    if getattr(p, "firstpass_image", None) is not None:
        return texts.UPSCALED
    return None


def _without_erasure(p: Any, script: Any) -> Any:
    """``p``'s job again, not run yet, with EIUP switched off and nothing to be saved."""
    twin = copy(p)
    for name in _MADE_BY_RUNNING:
        if hasattr(twin, name):
            setattr(twin, name, None)
    for name, resolved in _RESOLVED.items():
        if getattr(p, resolved, None) is not None:
            setattr(twin, name, list(getattr(p, resolved)))
    twin.styles = []
    twin.comments = {}
    twin.extra_generation_params = {k: v for k, v in p.extra_generation_params.items() if k != INFOTEXT_KEY}
    twin.override_settings = dict(p.override_settings)
    twin.do_not_save_samples = twin.do_not_save_grid = True
    args = list(p.script_args)
    first = args[script.args_from]
    args[script.args_from] = {**first, "enabled": False} if isinstance(first, Mapping) else False
    twin.script_args = type(p.script_args)(args)
    return twin


def _run(twin: Any) -> Any:
    """Make the twin's images. They do not become what the webui takes for the last generation."""
    options, known = shared.cmd_opts, shared.cmd_opts.no_prompt_history
    options.no_prompt_history = True
    if shared.state.job_count > 0:
        shared.state.job_count += twin.n_iter * (2 if getattr(twin, "enable_hr", False) else 1)
    try:
        return processing.process_images(twin)
    finally:
        options.no_prompt_history = known


def _append_unerased(generation: Generation, p: Any, processed: Any, twin: Any) -> str | None:
    """Append the images of ``twin`` to those of ``processed``; returns why some are missing, else None."""
    erased = _pictures(p, processed)
    with closing(twin):
        unerased = _pictures(twin, _run(twin))
    stopped = generation.unfinished | Generation.of(twin, ()).unfinished
    complete = [n for n in range(min(len(erased), len(unerased))) if n // p.batch_size not in stopped]
    # Masks, and what other extensions append, have no infotexts.
    infotexts = [entry for _, text in erased for entry in (text, *[""] * (_images_each(p) - 1))]
    processed.infotexts[processed.index_of_first_image :] = infotexts
    processed.infotexts += [""] * (len(processed.images) - len(processed.infotexts))
    for number in complete:
        image, infotext = unerased[number]
        infotext += f", {COMPARE_KEY}: image {number + 1} without erasure"
        if "parameters" in image.info:
            image.info["parameters"] = infotext
        processed.images.append(image)
        processed.infotexts.append(infotext)
    for name in ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds"):
        of_images = getattr(processed, name)
        setattr(processed, name, [*of_images, *(of_images[number] for number in complete)])
    return None if len(complete) == len(erased) else texts.STOPPED


def _images_each(p: Any) -> int:
    """How many images of ``p``'s results belong to one infotext: itself, and masks where they are shown."""
    if getattr(p, "mask_for_overlay", None) is None:
        return 1
    shown = ("return_mask", "return_mask_composite")
    return 1 + sum(bool(getattr(shared.opts, name, False)) for name in shown)


def _pictures(p: Any, processed: Any) -> list[tuple[Image.Image, str]]:
    """A job's images with their infotexts, without its grid and masks."""
    first = processed.index_of_first_image
    return list(zip(processed.images[first :: _images_each(p)], processed.infotexts[first:]))


def make_unerased(_task: str, infotext: str) -> tuple[str, str]:
    """The image of the last jobs that has this infotext, without erasure: JSON of ``infotext`` and of
    ``image``, a data URL; and a message for the page. Raises :class:`RequestError` for any other image."""
    refuse_unerased()
    job = next((job for job in reversed(_last) if infotext in job.infotexts), None)
    if job is None:
        raise RequestError(
            "compare",
            "this image",
            f"an image of the last {_LAST_JOBS} generations",
            "Generate it again, with Compare ticked.",
        )
    number = job.infotexts.index(infotext)
    with closing(_single(job, number)) as twin:
        pictures = _pictures(twin, _run(twin))
    if not pictures or shared.state.interrupted or shared.state.skipped:
        return "", texts.NOT_MADE
    data = io.BytesIO()
    pictures[0][0].save(data, format="PNG")
    url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    return json.dumps({"infotext": infotext, "image": url}), ""


def _single(job: _Job, number: int) -> Any:
    """The twin of one image of a job, under the settings that were in force then."""
    twin = copy(job.twin)
    for name, resolved in _RESOLVED.items():
        if getattr(twin, resolved, None) is not None:
            setattr(twin, name, [getattr(twin, resolved)[number]])
    if len(getattr(twin, "init_images", None) or []) > 1:
        twin.init_images = [twin.init_images[number % twin.batch_size]]
    twin.batch_size = twin.n_iter = 1
    twin.extra_generation_params = dict(twin.extra_generation_params)
    now = _settings()
    changed = {k: v for k, v in job.settings.items() if k in now and now[k] != v}
    twin.override_settings = {**changed, **twin.override_settings}
    return twin
