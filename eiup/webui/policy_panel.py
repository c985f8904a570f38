"""What the accordion says of the server's policy: its concepts, which nobody can remove."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import gradio as gr

from .. import texts
from . import in_force
from .enforcement import current_policy


def is_locked() -> bool:
    """Whether the accordion cannot be switched off."""
    return in_force.policy() is not None


def build(elem_id: Callable[[str], str]) -> None:
    """The policy, as it is whenever the page is loaded; nothing on a server without one."""
    if is_locked():
        gr.HTML(_shown, elem_id=elem_id("policy"), elem_classes="eiup-policy")


def _shown() -> str:
    policy = current_policy()
    if policy is None:
        return ""
    concepts = "".join(f"<li>{escape(str(concept))}</li>" for concept in policy.concepts)
    more = texts.POLICY_MORE if policy.users_may_add_concepts else texts.POLICY_NO_MORE
    problem = f"<p class='error'>{texts.POLICY_KEPT}</p>" if in_force.problem() else ""
    return (
        f"<p><span>{texts.POLICY}</span></p><ul>{concepts}</ul>"
        f"<p><span>{texts.POLICY_STRENGTH}</span> {policy.strength:g} <span>{more}</span></p>{problem}"
    )
