"""What the accordion says of the server's policy: which concepts nobody can remove, and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

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
        shown = gr.HTML(elem_id=elem_id("policy"), elem_classes="eiup-policy")
        # As its value, it would be shown first as it was when the page was built.
        shown.attach_load_event(_shown, None)


def begin_with_first_mode(mode: Any) -> None:
    """On a server with a policy, have the page begin with the mode that counts where none is chosen."""
    if is_locked():
        mode.attach_load_event(lambda: current_policy().modes[0], None)


def offer_only_allowed(components: list[Any]) -> None:
    """Have ``javascript/eiup-policy.js`` look again when gradio itself changes one of the ``components``, as
    a pasted infotext does."""
    if is_locked():
        for component in components:
            component.change(fn=None, _js="() => { setTimeout(eiup.updateAll); }")


def _shown() -> str:
    """HTML; what the policy allows is in its attributes, too, for ``javascript/eiup-policy.js``."""
    policy = current_policy()
    if policy is None:
        return ""
    concepts = "".join(f"<li>{escape(str(concept))}</li>" for concept in policy.concepts)
    adding = policy.users_may_add_concepts
    allowed = (
        f"data-modes='{' '.join(policy.modes)}' data-adding='{str(adding).lower()}' "
        f"data-strength='{policy.strength}' data-start='{policy.start}' data-end='{policy.end}'"
    )
    problem = f"<p class='error'>{texts.POLICY_KEPT}</p>" if in_force.problem() else ""
    return (
        f"<div {allowed}><p><span>{texts.POLICY}</span></p><ul>{concepts}</ul>"
        f"<p><span>{texts.POLICY_MORE if adding else texts.POLICY_NO_MORE}</span></p>"
        f"<p><span>{texts.POLICY_STRENGTH}</span> {policy.strength:g}</p>"
        f"<p><span>{texts.POLICY_MODES}</span> <span>{', '.join(policy.modes)}</span></p>"
        f"<p><span>{texts.POLICY_OFF}</span></p>{problem}</div>"
    )
