"""The samplers by name."""

from __future__ import annotations

import sys

from modules import sd_samplers_common, sd_samplers_kdiffusion, sd_samplers_timesteps, sd_schedulers, shared

SamplerData = sd_samplers_common.SamplerData
samples_to_image_grid = sd_samplers_common.samples_to_image_grid
sample_to_image = sd_samplers_common.sample_to_image

all_samplers = [
    *sd_samplers_kdiffusion.samplers_data_k_diffusion,
    *sd_samplers_timesteps.samplers_data_timesteps,
]
all_samplers_map = {sampler.name: sampler for sampler in all_samplers}
samplers = samplers_for_img2img = all_samplers
samplers_map = {
    known.lower(): sampler.name for sampler in all_samplers for known in (sampler.name, *sampler.aliases)
}


def find_sampler_config(name: str | None) -> SamplerData | None:
    return all_samplers[0] if name is None else all_samplers_map.get(name)


def create_sampler(name: str, model) -> sd_samplers_common.Sampler:
    config = find_sampler_config(name)
    assert config is not None, f"bad sampler name: {name}"
    sampler = config.constructor(model)
    sampler.config = config
    return sampler


def visible_samplers() -> list[SamplerData]:
    return [sampler for sampler in samplers if sampler.name not in shared.opts.hide_samplers]


def visible_sampler_names() -> list[str]:
    return [sampler.name for sampler in visible_samplers()]


def get_sampler_and_scheduler(
    sampler_name: str | None, scheduler_name: str | None, *, convert_automatic: bool = True
) -> tuple[str, str]:
    """Existing names of a sampler and a scheduler.

    Understands old names such as ``DPM++ 2M Karras``. An unknown name becomes the default. A scheduler that
    is the sampler's own becomes ``Automatic``.
    """
    default = samplers[0]
    name = sampler_name or default.name
    scheduler = sd_schedulers.schedulers_map.get(scheduler_name, sd_schedulers.schedulers[0])
    endings = {
        " " + known: candidate
        for candidate in sd_schedulers.schedulers
        for known in (candidate.label, candidate.name, *(candidate.aliases or []))
    }
    for ending, candidate in endings.items():
        if name.endswith(ending):
            name, scheduler = name[: -len(ending)], candidate
            break
    sampler = all_samplers_map.get(name, default)
    if convert_automatic and sampler.options.get("scheduler") == scheduler.name:
        scheduler = sd_schedulers.schedulers[0]
    return sampler.name, scheduler.label


def fix_p_invalid_sampler_and_scheduler(p) -> None:
    wanted = p.sampler_name, p.scheduler
    p.sampler_name, p.scheduler = get_sampler_and_scheduler(*wanted, convert_automatic=False)
    if (p.sampler_name, p.scheduler) != wanted and wanted != (p.sampler_name, None):
        print(f"Sampler and scheduler {wanted} replaced by {(p.sampler_name, p.scheduler)}", file=sys.stderr)


def get_sampler_from_infotext(d: dict) -> str:
    return get_sampler_and_scheduler(d.get("Sampler"), d.get("Schedule type"))[0]


def get_scheduler_from_infotext(d: dict) -> str:
    return get_sampler_and_scheduler(d.get("Sampler"), d.get("Schedule type"))[1]


def get_hr_sampler_and_scheduler(d: dict) -> tuple[str, str]:
    """The second pass's sampler and scheduler, where they differ from the first's."""
    sampler, scheduler = d.get("Sampler"), d.get("Schedule type")
    hr_sampler = d.get("Hires sampler", "Use same sampler")
    hr_scheduler = d.get("Hires schedule type", "Use same scheduler")
    found_sampler, found_scheduler = get_sampler_and_scheduler(
        sampler if hr_sampler == "Use same sampler" else hr_sampler,
        scheduler if hr_scheduler == "Use same scheduler" else hr_scheduler,
    )
    return (
        "Use same sampler" if found_sampler == sampler else found_sampler,
        "Use same scheduler" if found_scheduler == scheduler else found_scheduler,
    )


def get_hr_sampler_from_infotext(d: dict) -> str:
    return get_hr_sampler_and_scheduler(d)[0]


def get_hr_scheduler_from_infotext(d: dict) -> str:
    return get_hr_sampler_and_scheduler(d)[1]


def set_samplers() -> None:
    """The list is fixed; extensions call this after adding to it."""
    all_samplers_map.update({sampler.name: sampler for sampler in all_samplers})
