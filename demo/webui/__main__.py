"""Start the stand-in host: ``python -m demo.webui --port 7860`` from the repository's root."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def main() -> None:
    """Put ``modules`` where extensions look for it, then hand over to the launcher."""
    import demo.toyland.model  # noqa: F401  (must be imported while the root is still importable)

    # A real webui has an extension's folder on sys.path only while its scripts load. Were the
    # repository's root importable all the time, a late import would work here and fail there.
    sys.path[:] = [str(HERE)] + [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

    from modules import launcher

    launcher.main()


if __name__ == "__main__":
    main()
