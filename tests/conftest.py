"""Options and fixtures that all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.host import CHECKPOINT, Client, StandIn
from tests.chromium import find_chromium


def pytest_configure() -> None:
    # Ended from outside, fixtures still tear down: no host outlives the tests.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("eiup")
    group.addoption(
        "--webui-url",
        metavar="URL",
        help="run tests/e2e against this webui, e.g. http://127.0.0.1:7860 (default: a stand-in host)",
    )
    group.addoption(
        "--webui-policy",
        metavar="FILE",
        type=Path,
        help="the file that the webui at --webui-url was started with as its --eiup-policy; tests write it",
    )
    group.addoption(
        "--ckpt",
        metavar="FILE",
        type=Path,
        default=CHECKPOINT,
        help="the checkpoint that the stand-in host loads (default: Toyland's)",
    )


@pytest.fixture(scope="session")
def webui_ckpt(request: pytest.FixtureRequest) -> Path:
    """The checkpoint that the stand-in host loads."""
    path: Path = request.config.getoption("--ckpt").absolute()
    if not path.is_file():
        pytest.fail(f"--ckpt: {path} does not exist", pytrace=False)
    return path


@pytest.fixture(scope="session")
def webui(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of the webui at ``--webui-url``, or of a stand-in host that runs as long as the tests do."""
    url = request.config.getoption("--webui-url")
    if url:
        client = Client(url)
        yield client
        client.close()
        return
    checkpoint = request.getfixturevalue("webui_ckpt")
    folder = request.getfixturevalue("tmp_path_factory").mktemp("webui")
    with StandIn(folder / "data", folder / "webui.log", checkpoint=checkpoint) as host:
        yield host.client


@pytest.fixture(scope="session")
def is_stand_in(request: pytest.FixtureRequest) -> bool:
    """Whether ``webui`` is the stand-in host, not a real webui."""
    return not request.config.getoption("--webui-url")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium or Chrome; tests that use it are skipped where there is none, and fail in CI."""
    path = find_chromium()
    if path is None:
        word = "no Chromium or Chrome was found on this machine"
        if os.environ.get("CI"):
            pytest.fail(word, pytrace=False)
        pytest.skip(word)
    return path


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[object]:
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


@pytest.fixture
def page(browser: object) -> Iterator[object]:
    """A fresh page of the browser."""
    page = browser.new_page(viewport={"width": 1280, "height": 1600})  # type: ignore[attr-defined]
    yield page
    page.close()
