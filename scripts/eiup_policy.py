"""EIUP's policy in the webui. The start of the server ends where it is named and cannot be enforced.

A script of its own, since the webui swallows the errors of scripts: were ``eiup.py`` to fail, the server
would go on without it.
"""

from modules import shared

if getattr(shared.cmd_opts, "eiup_policy", None):
    try:
        from eiup.webui import guard

        guard.install()
    except Exception as error:
        raise SystemExit(f"EIUP: the policy cannot be enforced: {error!r}") from error
