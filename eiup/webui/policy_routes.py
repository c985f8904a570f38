"""The policy in force, over HTTP; it can be read there, and nothing of it changed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from . import in_force
from .enforcement import current_policy


def get_policy() -> dict[str, Any]:
    """The ``policy`` with its ``hash``, null where there is none, and the ``problem`` of a newer version."""
    policy = current_policy()
    told = None if policy is None else {"hash": policy.hash, **asdict(policy)}
    return {"policy": told, "problem": in_force.problem()}
