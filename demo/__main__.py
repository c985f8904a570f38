"""``python -m demo``: erase concepts on Toyland through the extension, and show what came of it.

Makes the environment at first use, starts the stand-in host, makes each image without and with the
extension over the host's HTTP API, and leaves contact sheet, figures and journal in ``demo/out/``.
``python -m demo --serve`` opens the host's page in the browser instead.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import webbrowser
from pathlib import Path

from . import environment


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Erase concepts on Toyland, a small model that comes with the project.",
    )
    parser.add_argument("--serve", action="store_true", help="open the stand-in host's page instead")
    parser.add_argument("--port", type=int, help="the host's port (default: 7860 or a free one)")
    parser.add_argument(
        "--no-browser", action="store_true", help="with --serve: only print the page's address"
    )
    parser.add_argument(
        "--eiup-policy",
        type=Path,
        metavar="FILE",
        help="with --serve: have the concepts of this policy erased from every image (docs/policy.md)",
    )
    parser.add_argument("--quick", action="store_true", help="few images of few steps: a trial of the set-up")
    parser.add_argument(
        "--out",
        type=Path,
        default=environment.ROOT / "demo" / "out",
        help="where the results go (default: demo/out)",
    )
    arguments = parser.parse_args(argv)
    if arguments.port is not None and not 1 <= arguments.port <= 65535:
        parser.error(f"argument --port: {arguments.port} is not within 1 and 65535")
    if arguments.eiup_policy is not None and not arguments.serve:
        parser.error("argument --eiup-policy: needs --serve")
    return arguments


def serve(out: Path, port: int | None, policy: Path | None, browser: bool) -> None:
    """Run the stand-in host, under a ``policy`` where one is given, until it is interrupted; its page opens
    in the browser."""
    from .host import StandIn, free_port

    print("Starting the stand-in host ...", flush=True)
    stand_in = StandIn(out / "serve", out / "webui.log", port or free_port(7860))
    if policy is not None:
        stand_in.command += ["--eiup-policy", str(policy.absolute())]
    with stand_in as host:
        print(f"\nThe page is at  {host.url}\nThe API is at   {host.url}/docs", flush=True)
        print(f"Its console is  {out / 'webui.log'}\nCtrl-C ends it.", flush=True)
        if browser and not webbrowser.open(host.url):
            print("(No browser was found here: open the address yourself.)", flush=True)
        while True:
            time.sleep(0.5)
            host.check()


def main(argv: list[str]) -> int:
    arguments = parse(argv)
    environment.reexec("demo", argv, environment.DEMO_REQUIREMENTS)
    # Ended from outside, the host still has to go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out = arguments.out.absolute()
    try:
        from .host import HostError

        try:
            if arguments.serve:
                serve(out, arguments.port, arguments.eiup_policy, browser=not arguments.no_browser)
            else:
                from . import showcase

                showcase.run(out, arguments.port, quick=arguments.quick)
        except HostError as error:
            print(f"\n{error}", file=sys.stderr)
            return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
