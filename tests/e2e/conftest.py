"""End-to-end tests: they talk HTTP only and drive a browser, so they run against any webui."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from demo.host import Client, StandIn
from tests.e2e.support import scene


def _second_checkpoint(first: Path, folder: Path) -> None:
    """A checkpoint that paints otherwise: the first one with the values of its text layers negated."""
    folder.mkdir()
    state = load_file(first)
    for name in state:
        if name.endswith("attn2.to_v.weight"):
            state[name] = -state[name]
    save_file(state, folder / "second.safetensors", metadata={"format": "pt"})
    shutil.copy(first.with_suffix(".yaml"), folder / "second.yaml")
    for clip in (path for path in first.parent.iterdir() if path.is_dir()):
        shutil.copytree(clip, folder / clip.name)


@pytest.fixture(scope="session")
def webui(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of the webui at ``--webui-url``, or of a stand-in host with two checkpoints."""
    url = request.config.getoption("--webui-url")
    if url:
        client = Client(url)
        yield client
        client.close()
        return
    checkpoint = request.getfixturevalue("webui_ckpt")
    folder = tmp_path_factory.mktemp("webui")
    _second_checkpoint(checkpoint, folder / "checkpoints")
    host = StandIn(folder / "data", folder / "webui.log", checkpoint=checkpoint)
    host.command += ["--ckpt-dir", str(folder / "checkpoints")]
    with host:
        yield host.client


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    """Playwright's ``Browser``, headless, that draws in software and asks nothing of other machines."""
    from playwright.sync_api import sync_playwright

    switches = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
                "disable-component-update", "disable-sync")  # fmt: skip
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=[f"--{name}" for name in switches]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def plain(webui: Client) -> Image.Image:
    """The scene without any word of EIUP in the payload."""
    return webui.txt2img(**scene()).images[0]


@pytest.fixture(scope="session")
def other_checkpoint(webui: Client) -> str:
    """The name of a checkpoint that is not in use; where there is none, the test is skipped."""
    current = webui.get("/sdapi/v1/options").json()["sd_model_checkpoint"]
    listed: list[dict[str, Any]] = webui.get("/sdapi/v1/sd-models").json()
    others = [model["title"] for model in listed if current not in (model["title"], model["model_name"])]
    if not others:
        pytest.skip("this webui lists one checkpoint only")
    return others[0]
