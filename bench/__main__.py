"""``python -m bench COMMAND``, in the project's own environment.

Each command is a module of this folder with ``add_arguments(parser)`` and ``run(arguments) -> int``.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from demo import environment

COMMANDS = {
    "speed": "what the extension adds to the time of a denoising step",
    "quality": "how often concepts show without and with erasure, and what is kept, against baselines",
    "many": "the same with many concepts erased at once",
    "maps": "whether heat maps show where a concept would have been",
    "journal": "how long it takes to read a large journal",
    "soak": "whether a policy holds through random generations with random faults",
    "policy": "what a server with a policy makes of prompts and attacks, on every path",
    "cases": "write the files of cases that quality is measured on",
}


def main(argv: list[str]) -> int:
    choice = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the extension.",
        epilog="\n".join(f"  {name:<9} {text}" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choice.add_argument(
        "command", choices=COMMANDS, help="one of the following; each has a --help of its own"
    )
    command = choice.parse_args(argv[:1]).command
    # The commands' modules need what the environment brings.
    environment.reexec("bench", argv, environment.DEMO_REQUIREMENTS)
    module = importlib.import_module(f".{command}", __package__)
    parser = argparse.ArgumentParser(prog=f"python -m bench {command}", description=COMMANDS[command])
    module.add_arguments(parser)
    result: int = module.run(parser.parse_args(argv[1:]))
    return result


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
