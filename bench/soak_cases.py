"""Random generations for ``python -m bench soak``: what is asked for, and what goes wrong in it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

STRENGTH = 2.0
# Users get the first mode where they ask for nothing. Toyland's calibration for adaptive takes a while, once.
POLICY: dict[str, Any] = {
    "concepts": ["star", {"concept": "moon", "weight": 0.5}],
    "strength": STRENGTH,
    "modes": ["constant", "strict", "adaptive"],
}
PROMPTS = (
    "a wizard in a forest",
    "a wizard with a star, a moon",
    "",
    "a wizard AND a star :0.7 AND a moon :-0.5",
    "a cat AND a forest :0.4",
    "a wizard [star:moon:0.5] in a forest",
    "a wizard [with a star:0.6] [in a forest::0.4]",
    "a wizard in a [forest|star]",
    "a wizard with a (star:1.9) and a ((moon))",
    "a wizard BREAK a star",
    "ein Zauberer, 魔法使い, \U0001f319 \\(moon\\) [[[",
    "a star " * 60,
)
ONE_LESS = ("DDIM",)
NEGATIVE = ("", "a star", "forest AND moon", "a [moon:star:0.5] " * 30)


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a generation.

    ``outcome`` is what has to come of it: ``refused`` (an error, no image), ``unwritten`` (the same, where
    nothing can be recorded), ``same`` (the images that come without it), ``erased`` (images under erasure),
    ``stopped`` (the same, maybe fewer), ``rejected`` (the host does not begin). ``orders`` go to ``script``
    of the tests' extension, ``breaks`` to its route that breaks functions. Where ``waits``, it may not take
    place, since its point is not reached.
    """

    name: str
    outcome: str
    script: str = ""
    orders: dict[str, Any] = field(default_factory=dict)
    breaks: dict[str, Any] | None = None
    waits: bool = False


NONE = Fault("none", "erased")

# EIUP's own functions. Without the last one, images are made all the same: the guard does not need it.
OWN = (
    "eiup.webui.generation:Generation.begin",
    "eiup.webui.generation:Generation.sample",
    "eiup.webui.generation:Generation.record_batch",
    "eiup.webui.generation:enforce",
    "eiup.webui.generation:image_record",
    "eiup.webui.sampling:SamplingPass._attach",
    "eiup.webui.sampling:SamplingPass._plan_rows",
    "eiup.webui.sampling:SamplingPass._first_row",
    "eiup.webui.encoding:ConceptEncoder.concepts",
    "eiup.webui.proven_pass:ProvenPass._see",
    "eiup.eraser:ConceptEraser._before_unet",
    "eiup.eraser:ConceptEraser._corrected",
    "eiup.eraser:ConceptEraser._after_unet",
    "eiup.eraser:ConceptEraser.__enter__",
    "eiup.eraser:ConceptEraser.evidence",
    "eiup.rows:plan",
    "eiup.proof:Tally.decide",
    "eiup.proof:Tally.end_call",
)
NOT_NEEDED = "eiup.webui.generation:Generation.erase_in_next_sampling"
HOOKS = (
    "clear_unet_hooks", "clear_after_hooks", "clear_layer_hooks", "clear_query_hooks", "clear_inner_hooks",
)  # fmt: skip
AROUND: tuple[dict[str, Any], ...] = (
    {"clear_callbacks": True},
    {"own_attention": True},
    {"skip_layer": True},
    {"own_sampler": True},
    {"unwrap_sampler": True},
    {"own_sample": "noise"},
    {"own_sample": "model"},
    {"own_sample": "unet"},
    {"catch_errors": True, "clear_layer_hooks": True},
)
PROBED: tuple[dict[str, Any], ...] = ({"hide_attention": True}, {"replace_unet": True})
DISTURBING: tuple[dict[str, Any], ...] = ({"clone": True}, {"fail_callback": True})
WITHOUT_SCRIPT: tuple[dict[str, Any], ...] = (
    {"no_scripts": True}, {"no_scripts": True, "forget": True}, {"forget": True},
)  # fmt: skip
METHODS = (
    "before_process", "process", "before_process_batch", "after_extra_networks_activate", "process_batch",
    "process_before_every_sampling", "before_hr", "post_sample", "postprocess_batch",
    "postprocess_batch_list", "postprocess_image", "postprocess_image_after_composite", "postprocess",
    "cfg_denoiser", "cfg_denoised", "cfg_after_cfg",
)  # fmt: skip
WRONG: tuple[tuple[Any, str], ...] = (
    ([{"concepts": ["star", "forest"]}], "refused"),
    ([{"concepts": ["star"], "strength": 11}], "refused"),
    ([{"concepts": "star:x"}], "refused"),
    ([{"concepts": [7]}], "refused"),
    ([{"policy": "off"}], "refused"),
    ([{"concepts": ["@nobody"]}], "refused"),
    ([{"start": 0.9, "end": 0.1}], "refused"),
    (["no"], "refused"),
    ([True, "star", 2.0, 0.0, 1.0, "nothing"], "refused"),
    (None, "rejected"),
)


@dataclass(frozen=True)
class Case:
    """One generation: ``POST /sdapi/v1/{path}``; ``plain`` is the payload without its fault's orders."""

    path: str
    plain: dict[str, Any]
    fault: Fault

    @property
    def payload(self) -> dict[str, Any]:
        if not self.fault.script:
            return self.plain
        scripts = {**self.plain["alwayson_scripts"], self.fault.script: {"args": [self.fault.orders]}}
        return {**self.plain, "alwayson_scripts": scripts}

    @property
    def unsampled(self) -> bool:
        """Whether no step is left of img2img: DDIM makes one less than the webui gives it."""
        if self.path != "img2img" or self.plain["sampler_name"] not in ONE_LESS:
            return False
        steps = int(self.plain["steps"])
        return min(int(self.plain["denoising_strength"] * steps), steps - 1) <= 1

    @property
    def outcome(self) -> str:
        """The fault's; nothing can be proven of an image that is not sampled."""
        known = self.fault.outcome
        return "refused" if self.unsampled and known not in ("unwritten", "rejected") else known

    @property
    def images(self) -> int:
        return int(self.plain["batch_size"] * self.plain["n_iter"])


def draw(seed: int, index: int, picture: str, samplers: list[str], adaptive: bool = True) -> Case:
    """Generation ``index`` of the run of this seed; ``picture`` is what img2img begins with, in base64."""
    chosen = random.Random(f"{seed}-{index}")
    fault = _fault(chosen)
    path = chosen.choice(("txt2img", "txt2img", "img2img"))
    plain = _payload(chosen, samplers)
    if path == "img2img":
        plain |= {"init_images": [picture], "denoising_strength": chosen.choice((0.3, 0.7, 1.0))}
        if chosen.random() < 0.3:
            plain["mask"] = picture
    elif chosen.random() < 0.3:
        plain |= {
            "enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "hr_second_pass_steps": 2,
            "denoising_strength": 0.7, "hr_prompt": chosen.choice(("", "a star and a moon")),
        }  # fmt: skip
    scripts: dict[str, Any] = {}
    # What does not erase in these rows or images does not miss what is broken.
    simple = fault.outcome in ("refused", "unwritten") or "clear" in fault.name
    if not simple and chosen.random() < 0.15:
        plain["cfg_scale"] = chosen.choice((1, -3))
    args = _arguments(chosen, adaptive and not simple)
    if fault.name == "wrong":
        args, outcome = chosen.choice(WRONG)
        fault = Fault("wrong" if outcome == "refused" else "unknown script", outcome)
        if outcome == "rejected":
            scripts["nobody's"] = {"args": []}
    if args is not None:
        scripts["EIUP"] = {"args": args}
    return Case(path, plain | {"alwayson_scripts": scripts}, fault)


def _payload(chosen: random.Random, samplers: list[str]) -> dict[str, Any]:
    return {
        "prompt": chosen.choice(PROMPTS),
        "negative_prompt": chosen.choice(NEGATIVE),
        "seed": chosen.randrange(2**32),
        "steps": chosen.randint(2, 6),
        "width": chosen.choice((64, 64, 96)),
        "height": 64,
        "cfg_scale": 5,
        "sampler_name": chosen.choice(samplers),
        "batch_size": chosen.choice((1, 1, 1, 2)),
        "n_iter": chosen.choice((1, 1, 1, 2)),
    }


def _arguments(chosen: random.Random, adaptive: bool) -> Any:
    """What a user asks EIUP for; None where nothing is said."""
    modes = ["constant", "strict", *(["adaptive"] if adaptive else [])]
    named: dict[str, Any] = {
        "concepts": chosen.choice((["star"], ["star", "moon"], "star:0.01, moon:3", [])),
        "mode": chosen.choice(modes),
        "strength": chosen.choice((0, 0.5, 2.0, 4)),
    }
    if chosen.random() < 0.3:
        named |= {"start": 0.2, "end": chosen.choice((0.2, 0.6, 1))}
    for name, chance in (("maps", 0.15), ("preserve", 0.15), ("compare", 0.15)):
        if chosen.random() < chance:
            named[name] = True
    if named.get("maps") and not adaptive:
        del named["maps"]
    return chosen.choice((None, [], [{"enabled": False}], [False, "star", 0.5], [named], [named], [named]))


def _fault(chosen: random.Random) -> Fault:
    """Half of the generations have one."""
    kind = chosen.choice(("none",) * 9 + ("own", "own", "hooks", "around", "probed", "forward", "encoder",
                                          "script", "script", "disturbing", "without", "stop"))  # fmt: skip
    at = chosen.randint(1, 6)
    if kind == "none":
        return Fault("wrong", "refused") if chosen.random() < 0.2 else NONE
    if kind == "own":
        target = chosen.choice((*OWN, NOT_NEEDED, "eiup.journal:Journal.append"))
        outcome = {NOT_NEEDED: "erased", "eiup.journal:Journal.append": "unwritten"}.get(target, "refused")
        at = 1 if outcome == "unwritten" else chosen.randint(1, 4)
        return Fault(target.partition(":")[2], outcome, breaks={"target": target, "at": at}, waits=True)
    if kind == "hooks":
        name = chosen.choice(HOOKS)
        return Fault(name, "refused", "Saboteur", {name: True, "in_call": at}, waits=True)
    if kind == "around":
        orders = chosen.choice(AROUND)
        return Fault(_name(orders), "refused", "Saboteur", orders)
    if kind == "probed":
        orders = chosen.choice((*PROBED, {"raise_in_call": 1}))
        return Fault(_name(orders), "refused", "Probe", orders)
    if kind == "forward":
        how = chosen.choice(("own", "around"))
        outcome = "refused" if how == "own" else "same"
        return Fault(f"forward: {how}", outcome, "Faults", {"forward": how, "at": at}, waits=True)
    if kind == "encoder":
        orders = {"raise_in": "encoder", "at": chosen.randint(1, 4)}
        return Fault("encoder", "refused", "Faults", orders, waits=True)
    if kind == "script":
        method = chosen.choice(METHODS)
        return Fault(f"in {method}", "same", "Faults", {"raise_in": method, "at": chosen.randint(1, 2)})
    if kind == "disturbing":
        orders = chosen.choice(DISTURBING)
        return Fault(_name(orders), "same", "Probe", orders)
    if kind == "without":
        orders = chosen.choice(WITHOUT_SCRIPT)
        return Fault(_name(orders), "erased", "Saboteur", orders)
    stop = chosen.choice(("interrupt", "skip"))
    place = chosen.choice(("cfg_denoiser", "cfg_denoiser", "process_before_every_sampling"))
    at = at if place == "cfg_denoiser" else chosen.randint(1, 2)
    return Fault(stop, "stopped", "Faults", {"stop": stop, "stop_in": place, "at": at})


def _name(orders: dict[str, Any]) -> str:
    return ", ".join(key if value is True else f"{key} {value}" for key, value in orders.items())
