"""End-to-end tests: they talk HTTP only and drive a browser, so they run against any webui."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from demo.host import Client, StandIn
from tests.e2e.support import scene, second_checkpoint

RELOADED_WITHIN = 300


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
    folder = request.getfixturevalue("tmp_path_factory").mktemp("webui")
    second_checkpoint(checkpoint, folder / "checkpoints")
    host = StandIn(folder / "data", folder / "webui.log", checkpoint=checkpoint)
    host.command += ["--ckpt-dir", str(folder / "checkpoints")]
    with host:
        yield host.client


@pytest.fixture(scope="session")
def data_folder(webui: Client) -> Path:
    """Where the webui keeps its files; tests that look at them are skipped where it runs elsewhere."""
    folder = Path(webui.get("/sdapi/v1/cmd-flags").json()["data_dir"])
    if webui.http.base_url.host not in ("127.0.0.1", "localhost") or not folder.is_dir():
        pytest.skip("the files of this webui are on another machine")
    return folder


@pytest.fixture(scope="session")
def reload_ui(request: pytest.FixtureRequest, webui: Client, is_stand_in: bool) -> Callable[[], None]:
    """Has the webui load scripts and page again; a real one does so only when its page says *Reload UI*."""

    def reload_stand_in() -> None:
        assert webui.post("/sdapi/v1/reload-scripts", {}).status_code == 200

    def reload() -> None:
        before = webui.get("/app_id").json()["app_id"]
        page = request.getfixturevalue("browser").new_page()
        page.goto(webui.base_url, wait_until="domcontentloaded")
        # This box is there once the page's own scripts have run; before that, a click is not heard.
        page.wait_for_selector(
            "#script_txt2img_eiup_enabled-visible-checkbox", timeout=RELOADED_WITHIN * 1000
        )
        page.evaluate("document.querySelector('#settings_restart_gradio').click()")
        deadline = time.monotonic() + RELOADED_WITHIN
        while time.monotonic() < deadline:
            time.sleep(1)
            try:
                is_new = webui.get("/app_id").json()["app_id"] != before
                if is_new and webui.get("/sdapi/v1/options").status_code == 200:
                    break
            except (httpx.TransportError, ValueError, KeyError):
                continue
        else:
            pytest.fail("the webui has not come back")
        page.close()

    return reload_stand_in if is_stand_in else reload


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
