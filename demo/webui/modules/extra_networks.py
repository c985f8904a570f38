"""Extra networks, written ``<name:arg:arg>`` in a prompt. None comes with this host."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from dataclasses import dataclass, field

from modules import errors


class ExtraNetwork:
    """Registered under ``name``; called on every generation, with an empty list when not in the prompt."""

    def __init__(self, name: str):
        self.name = name

    def activate(self, p, params_list: list[ExtraNetworkParams]) -> None:
        raise NotImplementedError

    def deactivate(self, p) -> None:
        raise NotImplementedError


@dataclass
class ExtraNetworkParams:
    """The arguments of one ``<name:...>``: ``key=value`` ones are named, the others positional."""

    items: list[str] = field(default_factory=list)

    def __post_init__(self):
        pairs = [item.split("=", 2) for item in self.items]
        self.named = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
        self.positional = [item for item, pair in zip(self.items, pairs, strict=True) if len(pair) != 2]


extra_network_registry: dict[str, ExtraNetwork] = {}
extra_network_aliases: dict[str, ExtraNetwork] = {}


def register_extra_network(extra_network: ExtraNetwork) -> None:
    extra_network_registry[extra_network.name] = extra_network


def register_extra_network_alias(extra_network: ExtraNetwork, alias: str) -> None:
    extra_network_aliases[alias] = extra_network


def _wanted(extra_network_data: dict[str, list[ExtraNetworkParams]]) -> dict[ExtraNetwork, list]:
    found: dict[ExtraNetwork, list] = {}
    for name, params in (extra_network_data or {}).items():
        network = extra_network_registry.get(name) or extra_network_aliases.get(name)
        if network is None:
            logging.getLogger(__name__).warning("Skipping unknown extra network: %s", name)
        else:
            found.setdefault(network, []).extend(params)
    return found


def activate(p, extra_network_data: dict[str, list[ExtraNetworkParams]]) -> None:
    """Activate what prompts ask for, and every other registered network with no arguments."""
    wanted = _wanted(extra_network_data)
    for network in [*wanted, *(n for n in extra_network_registry.values() if n not in wanted)]:
        try:
            network.activate(p, wanted.get(network, []))
        except Exception as error:
            errors.display(error, f"activating extra network {network.name}")
    if p.scripts is not None:
        p.scripts.after_extra_networks_activate(
            p, batch_number=p.iteration, prompts=p.prompts, seeds=p.seeds, subseeds=p.subseeds,
            extra_network_data=extra_network_data,
        )  # fmt: skip


def deactivate(p, extra_network_data: dict[str, list[ExtraNetworkParams]]) -> None:
    wanted = _wanted(extra_network_data)
    for network in [*wanted, *(n for n in extra_network_registry.values() if n not in wanted)]:
        try:
            network.deactivate(p)
        except Exception as error:
            errors.display(error, f"deactivating extra network {network.name}")


_NETWORK = re.compile(r"<(\w+):([^>]+)>")


def parse_prompt(prompt: str) -> tuple[str, dict[str, list[ExtraNetworkParams]]]:
    """The prompt without networks, and the networks by name."""
    networks = defaultdict(list)
    for match in _NETWORK.finditer(prompt):
        networks[match[1]].append(ExtraNetworkParams(match[2].split(":")))
    return _NETWORK.sub("", prompt), networks


def parse_prompts(prompts: list[str]) -> tuple[list[str], dict[str, list[ExtraNetworkParams]] | None]:
    """The prompts without networks; the first prompt's networks count for the batch."""
    parsed = [parse_prompt(prompt) for prompt in prompts]
    return [text for text, _ in parsed], parsed[0][1] if parsed else None
