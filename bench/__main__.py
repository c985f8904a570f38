"""``python -m bench speed``: measurements, in the project's own environment."""

from __future__ import annotations

import argparse
import sys

from demo import environment


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the extension.")
    commands = parser.add_subparsers(dest="command", required=True)
    speed = commands.add_parser("speed", help="time per denoising step on the SD1.5-shaped U-Net")
    speed.add_argument("--rounds", type=int, default=15, help="pairs of steps for each number of concepts (default: 15)")
    speed.add_argument("--size", type=int, default=256, help="image size in pixels (default: 256)")
    speed.add_argument("--threads", type=int, help="torch's threads (default: torch's own choice)")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 3:
        parser.error(f"argument --rounds: {arguments.rounds} is less than 3, the fewest that an interval can tell of")
    if arguments.size < 64 or arguments.size % 64:
        parser.error(f"argument --size: {arguments.size} is not a multiple of 64, from 64 on")
    if arguments.threads is not None and arguments.threads < 1:
        parser.error(f"argument --threads: {arguments.threads} is less than 1")
    environment.reexec("bench", argv, environment.DEMO_REQUIREMENTS)
    from . import speed as measurement

    measurement.run(environment.ROOT / "bench" / "out", arguments.rounds, arguments.size, arguments.threads)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
