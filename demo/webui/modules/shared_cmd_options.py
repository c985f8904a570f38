"""Command line options: the webui's own names, then whatever an extension's ``preload.py`` adds."""

from __future__ import annotations

import argparse
import os

from modules import script_loading
from modules.paths_internal import data_path, models_path, repository_path

# Switches of the real host that extensions look at; none of them changes anything here.
IGNORED_SWITCHES = (
    "allow-code", "api", "disable-all-extensions", "disable-console-progressbars", "disable-extra-extensions",
    "freeze-settings", "hide-ui-dir-config", "listen", "lowram", "lowvram", "medvram", "medvram-sdxl",
    "no-gradio-queue", "no-half-vae", "no-prompt-history", "opt-sdp-attention", "share",
    "skip-load-model-at-start", "skip-torch-cuda-test", "use-textbox-seed", "xformers",
)  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo.webui", description=__doc__)
    parser.add_argument("--port", type=int, default=7860, help="port on 127.0.0.1")
    parser.add_argument("--nowebui", action="store_true", help="serve the API only, no page")
    parser.add_argument(
        "--api-auth", default=None, metavar="USER:PASS", help="basic auth for the API; commas between"
    )
    parser.add_argument("--api-log", action="store_true", help="print every API request")
    parser.add_argument("--ckpt", default=None, metavar="FILE", help="checkpoint to load at the start")
    parser.add_argument("--ckpt-dir", default=None, metavar="DIR", help="folder with further checkpoints")
    parser.add_argument("--data-dir", default=data_path, metavar="DIR", help="settings, outputs, embeddings")
    parser.add_argument("--models-dir", default=models_path, metavar="DIR", help="models/ of a real host")
    parser.add_argument(
        "--extension", action="append", default=None, metavar="DIR",
        help="extension to load (default: this repository); may be given several times",
    )  # fmt: skip
    parser.add_argument("--embeddings-dir", default=os.path.join(data_path, "embeddings"), metavar="DIR")
    parser.add_argument("--ui-settings-file", default=os.path.join(data_path, "config.json"), metavar="FILE")
    parser.add_argument(
        "--precision", default="full", choices=["full", "half", "autocast"],
        help="full: float32 (default); autocast, as most users of the real host have it: weights in half "
        "precision, here bfloat16, under autocast; half: the same without autocast, inputs being cast",
    )  # fmt: skip
    parser.add_argument("--no-half", action="store_true", help="float32 with --precision autocast, too")
    parser.add_argument("--theme", default=None, choices=["light", "dark"], help="theme of the page")
    for name in IGNORED_SWITCHES:
        parser.add_argument(f"--{name}", action="store_true", help="accepted for compatibility; ignored")
    return parser


def extension_folders(arguments: argparse.Namespace) -> list[str]:
    """Absolute folders of the extensions to load."""
    return [os.path.abspath(folder) for folder in arguments.extension or [repository_path]]


parser = build_parser()
for _folder in extension_folders(parser.parse_known_args()[0]):
    script_loading.preload_extension(_folder, parser)
cmd_opts = parser.parse_args()
if cmd_opts.no_half and cmd_opts.precision == "half":
    parser.error("--precision half and --no-half contradict each other: leave one of them out")
cmd_opts.api = True
