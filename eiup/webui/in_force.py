"""The policy in force on this server: that of the file named on its command line, where one is.

The state lives in this module, which survives the webui's *Reload UI*.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modules import shared

from ..policy import Policy
from ..policy_file import Change, PolicyError, PolicyFile

_file: PolicyFile | None = None
# Of the generations at work, the outermost first; those inside of one have its policy.
_entered: list[Policy] = []
_lock = threading.Lock()


def begin() -> bool:
    """Read the policy, once, and say whether there is one. Ends the server's start where it cannot be used:
    the webui swallows any other exception of a script, and would go on without a policy."""
    global _file
    path = getattr(shared.cmd_opts, "eiup_policy", None)
    if path and _file is None:
        try:
            _file = PolicyFile(Path(path))
        except PolicyError as error:
            raise SystemExit(str(error)) from error
        print(f"EIUP: the policy {_file.policy.hash} of {_file.path} is in force.", flush=True)
    return _file is not None


def policy() -> Policy | None:
    """The policy in force now; None on a server without one."""
    if _entered:
        return _entered[0]
    return _file.policy if _file is not None else None


def problem() -> str | None:
    """Why the policy's file as it is now is not in force; None where it is."""
    return _file.problem if _file is not None else None


def follow() -> Change | None:
    """Take over what has changed in the file, unless a generation is at work."""
    with _lock:
        return _file.follow() if _file is not None and not _entered else None


@contextmanager
def entered(policy: Policy) -> Iterator[None]:
    """While entered, a generation is at work under ``policy``."""
    with _lock:
        _entered.append(policy)
    try:
        yield
    finally:
        with _lock:
            _entered.pop()
