"""End-to-end tests: they talk HTTP only and drive a browser, so they run against any webui."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demo.host import Client, StandIn
from tests.e2e.support import scene, second_checkpoint


@pytest.fixture(scope="session")
def webui_folder(is_stand_in: bool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the stand-in host keeps its files; a test that looks at them is skipped on a real webui."""
    if not is_stand_in:
        pytest.skip("the files of this webui are not known")
    return tmp_path_factory.mktemp("webui")


@pytest.fixture(scope="session")
def webui(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of the webui at ``--webui-url``, or of a stand-in host with two checkpoints."""
    url = request.config.getoption("--webui-url")
    if url:
        client = Client(url)
        yield client
        client.close()
        return
    checkpoint = request.getfixturevalue("webui_ckpt")
    folder = request.getfixturevalue("webui_folder")
    second_checkpoint(checkpoint, folder / "checkpoints")
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
