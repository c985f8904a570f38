"""Changes of the policy's file, and refusals under it, as console and journal tell of them."""

from __future__ import annotations

import sys
from typing import Any

from ..errors import ErasureError, RequestError
from ..journal import event_record
from ..policy import Policy
from . import in_force, preparing
from .stores import current_checkpoint, journal_settings, write_to_journal

# The reason of a refusal may hold what a user typed; no more of it than this.
_LONGEST = 1000
_RECORDED = "eiup_recorded"


def current_policy() -> Policy | None:
    """The policy for a generation that begins; None on a server without one. What has changed in its file is
    taken over unless another generation is at work, and told."""
    change = in_force.follow()
    policy = in_force.policy()
    if change is not None and policy is not None:
        told = "\n".join(filter(None, (change.message, change.cause)))
        print(f"\n{'=' * 80}\n{told}\n{'=' * 80}", file=sys.stderr, flush=True)
        _write(event_record("policy", change.message, policy=policy.hash))
        if change.new:
            preparing.prepare_policy()
    return policy


def record_refusal(policy: Policy, error: Exception, seed: Any) -> None:
    """Note in the journal that no image was made, and why; once for each error."""
    if getattr(error, _RECORDED, False):
        return
    reason = str(error)
    if not reason.startswith("EIUP: "):
        reason = f"EIUP: no image was made under the policy: {type(error).__name__}: {reason}"
    _write(
        event_record(
            "refused",
            reason[:_LONGEST],
            policy=policy.hash,
            seed=seed if isinstance(seed, int) else None,
            checkpoint=_checkpoint(),
        )
    )
    setattr(error, _RECORDED, True)


def refuse_unerased() -> None:
    """Raise :class:`RequestError` where images without erasure are not to be made."""
    if in_force.policy() is not None:
        raise RequestError(
            "compare", True, "false", "This server's policy has no image made without erasure."
        )


def _checkpoint() -> str | None:
    try:
        return current_checkpoint()
    except Exception:
        return None


def _write(record: dict[str, Any]) -> None:
    if not journal_settings().keep:
        return
    try:
        write_to_journal(record)
    except ErasureError:
        print(record["message"], file=sys.stderr, flush=True)
