"""Finds the browser that the page's tests drive; standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PLACES = (
    "/usr/bin/chromium",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
)


def find_chromium() -> str | None:
    """Path of a Chromium or Chrome on this machine."""
    found = (shutil.which(name) for name in (*NAMES, *PLACES))
    return next((path for path in found if path), None)


def provide_chromium() -> str | None:
    """A Chromium on this machine; on Debian it is installed where root runs us and none is there."""
    path = find_chromium()
    if path or sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("apt-get"):
        return path
    print("No Chromium was found: installing Debian's, for the tests of the page ...", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "chromium"]):
        result = subprocess.run(
            ["apt-get", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if result.returncode != 0:
            lines = (result.stdout + result.stderr).strip().splitlines()[-8:]
            print(
                "\n".join([f"apt-get {command[0]} failed:", *(f"    {line}" for line in lines)]), flush=True
            )
    return find_chromium()
