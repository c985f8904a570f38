"""``python -m tests [pytest's arguments]``: the whole set-up, then ruff and every test.

Makes the environment at first use. The page's tests use a Chromium or Chrome of this machine; as root
on Debian it is installed where there is none, elsewhere those tests are skipped with a word (in CI, where
the variable CI is set, they fail). The exit code is 0 only where both ruff and pytest are content.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from demo import environment
from tests.chromium import provide_chromium


def main(arguments: list[str]) -> int:
    environment.reexec("tests", arguments, environment.TEST_REQUIREMENTS)
    if not provide_chromium():
        consequence = "fail" if os.environ.get("CI") else "are skipped"
        print(
            f"No Chromium or Chrome was found: the tests of the page {consequence}. Install one to run them."
        )
    print("ruff check", flush=True)
    ruff = _run("ruff", "check", ".")
    # Last, so that its summary is what the output ends with.
    pytest = _run("pytest", *(arguments if _names_tests(arguments) else [*arguments, "tests"]))
    return pytest or ruff


def _names_tests(arguments: list[str]) -> bool:
    return any(not a.startswith("-") and (environment.ROOT / a.split("::")[0]).exists() for a in arguments)


def _run(module: str, *arguments: str) -> int:
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=environment.ROOT)
    # Ended from outside, the tests still have a host to end.
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the child has had its own Ctrl-C and ends by itself


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
