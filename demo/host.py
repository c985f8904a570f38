"""Starts the stand-in host as a process of its own and makes images through its API."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from . import environment

EXTENSION = "EIUP"
CHECKPOINT = environment.ROOT / "demo" / "toyland" / "weights" / "toyland.safetensors"
READY_WITHIN = 180.0
ANSWER_WITHIN = 600.0
_READY = re.compile(rb"^Ready: http", re.MULTILINE)


class HostError(RuntimeError):
    """The host did not start, died, or refused a request; the message holds what it said."""


@dataclass(frozen=True)
class Generation:
    """An answer of ``/sdapi/v1/txt2img``: PNG files as sent, their infotexts, and the JSON of ``info``."""

    pngs: list[bytes]
    infotexts: list[str]
    info: dict[str, Any]

    @property
    def images(self) -> list[Image.Image]:
        return [Image.open(io.BytesIO(png)).convert("RGB") for png in self.pngs]


class Client:
    """The parts of the webui's HTTP API that the demo and the tests use."""

    def __init__(self, base_url: str):
        self.base_url = base_url.rstrip("/")
        # A proxy that is set for the network must not stand before this machine.
        self.http = httpx.Client(base_url=self.base_url, timeout=ANSWER_WITHIN, trust_env=False)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.http.get(path, **options)

    def post(self, path: str, json: Any, **options: Any) -> httpx.Response:
        return self.http.post(path, json=json, **options)

    def txt2img(self, **payload: Any) -> Generation:
        """``POST /sdapi/v1/txt2img``. Raises ``HostError`` for any answer but 200."""
        return self._generate("/sdapi/v1/txt2img", payload)

    def img2img(self, **payload: Any) -> Generation:
        """``POST /sdapi/v1/img2img``. Raises ``HostError`` for any answer but 200."""
        return self._generate("/sdapi/v1/img2img", payload)

    def _generate(self, path: str, payload: dict[str, Any]) -> Generation:
        response = self.post(path, payload)
        if response.status_code != 200:
            raise HostError(f"{path} answered {response.status_code}: {response.text[:2000]}")
        answer = response.json()
        info = json.loads(answer["info"])
        pngs = [base64.b64decode(image.split(",", 1)[-1]) for image in answer["images"]]
        return Generation(pngs, info["infotexts"], info)

    def wait_until_prepared(self) -> None:
        """Wait until no concepts are being calibrated in the background, as a policy's are. Raises
        ``HostError`` where that takes too long."""
        deadline = time.monotonic() + ANSWER_WITHIN
        while (told := self.get("/eiup/v1/calibrations").json())["running"]:
            if time.monotonic() > deadline:
                raise HostError(f"Concepts are still being calibrated after {ANSWER_WITHIN:.0f} s: {told}")
            time.sleep(0.1)

    def close(self) -> None:
        self.http.close()


class StandIn:
    """``python -m demo.webui`` in a child process, ready to answer on entry and ended on exit.

    What the host writes goes to ``log``. Raises ``HostError`` where it does not get ready.
    """

    def __init__(self, data_dir: Path, log: Path, port: int | None = None, checkpoint: Path = CHECKPOINT):
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        options = ["--port", str(self.port), "--data-dir", str(data_dir), "--ckpt", str(checkpoint)]
        self.command = [sys.executable, "-m", "demo.webui", *options]

    def __enter__(self) -> StandIn:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._log_file = self.log.open("wb")
        # In a group of its own: Ctrl-C reaches us alone, and we end the host in order.
        group: dict[str, Any] = {"start_new_session": True}
        if os.name == "nt":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self.process = subprocess.Popen(
            self.command,
            cwd=environment.ROOT,
            # Threads that wait must not keep the few cores busy.
            env={"OMP_WAIT_POLICY": "PASSIVE", **environment.child_environment(), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self._log_file,
            stderr=subprocess.STDOUT,
            **group,
        )
        try:
            self.client = Client(self.url)
            self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def _end(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log_file.close()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            self.check()
            # The host says when its routes are complete; until then it must not be asked.
            if not _READY.search(self.log.read_bytes()):
                time.sleep(0.1)
                continue
            try:
                # 401: it asks for credentials, so it answers.
                if self.client.get("/sdapi/v1/options", timeout=5).status_code in (200, 401):
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise HostError(f"The stand-in host was not ready after {READY_WITHIN:.0f} s.\n{self.last_lines()}")

    def check(self) -> None:
        """Raise ``HostError`` where the host's process has ended."""
        code = self.process.poll()
        if code is not None:
            raise HostError(f"The stand-in host ended with exit code {code}.\n{self.last_lines()}")

    def txt2img(self, **payload: Any) -> Generation:
        """As ``Client.txt2img``; where the host died on the way, the error shows its last lines."""
        try:
            return self.client.txt2img(**payload)
        except httpx.TransportError as error:
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                raise HostError(
                    f"The stand-in host does not answer: {error!r}\n{self.last_lines()}"
                ) from error
            self.check()
            raise

    def last_lines(self, count: int = 20) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
        return "\n".join(
            [f"Its last lines (all of them are in {self.log}):", *(f"    {line}" for line in lines)]
        )


def free_port(preferred: int = 0) -> int:
    """``preferred`` where nothing listens there, else any free port."""
    for port in dict.fromkeys((preferred, 0)):
        with socket.socket() as probe:
            if os.name != "nt":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise HostError("No free port was found on 127.0.0.1.")
