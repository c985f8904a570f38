"""Fixtures of the tests inside of a webui."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from demo.environment import ROOT
from demo.host import Client, StandIn
from tests.e2e.support import second_checkpoint
from tests.integration.policed import POLICY, PolicedServer
from tests.integration.test_generation_life_cycle import PROBE

# Settings that the tests override, as the webui has them by default.
OVERRIDDEN = {
    "eiup_journal": True,
    "skip_early_cond": 0.0,
    "s_min_uncond_all": False,
    "batch_cond_uncond": True,
    "live_preview_content": "Prompt",
    "live_previews_enable": True,
    "show_progress_every_n_steps": 1,
}


@pytest.fixture(scope="session")
def policed(request: pytest.FixtureRequest) -> Iterator[PolicedServer]:
    """A webui under a policy, with a second checkpoint and the extension ``probe/``: a stand-in host, or the
    webui at ``--webui-url`` whose policy ``--webui-policy`` names; that file is put back."""
    begin = _real if request.config.getoption("--webui-url") else _stand_in
    with ExitStack() as ending:
        yield begin(request, ending)


def _stand_in(request: pytest.FixtureRequest, ending: ExitStack) -> PolicedServer:
    checkpoint = request.getfixturevalue("webui_ckpt")
    folder: Path = request.getfixturevalue("tmp_path_factory").mktemp("policy")
    file = folder / "policy.json"
    file.write_text(json.dumps(POLICY))
    second_checkpoint(checkpoint, folder / "checkpoints")
    host = StandIn(folder / "data", folder / "webui.log", checkpoint=checkpoint)
    host.command += ["--ckpt-dir", str(folder / "checkpoints"), "--eiup-policy", str(file)]
    # EIUP first: the probe's callbacks come after its own.
    host.command += ["--nowebui", "--extension", str(ROOT), "--extension", str(PROBE)]
    ending.enter_context(host)
    host.client.wait_until_prepared()
    return PolicedServer(host.client, folder / "data", file, host.log)


def _real(request: pytest.FixtureRequest, ending: ExitStack) -> PolicedServer:
    file: Path | None = request.config.getoption("--webui-policy")
    if file is None:
        pytest.skip("--webui-policy does not name the file of this webui's policy")
    client = Client(request.config.getoption("--webui-url"))
    ending.callback(client.close)
    if client.post("/eiup-probe/reset", {}).status_code != 200:
        pytest.fail("this webui does not have tests/integration/probe among its extensions", pytrace=False)
    # What was never saved, the webui does not put back after a generation that overrides it.
    client.post("/sdapi/v1/options", OVERRIDDEN)
    data = Path(client.get("/sdapi/v1/cmd-flags").json()["data_dir"])
    server = PolicedServer(client, data, file)
    ending.callback(file.write_bytes, file.read_bytes())
    server.write(POLICY)
    told = server.told()["policy"]
    if told is None or told["hash"] != server.hash:
        pytest.fail(f"this webui was not started with --eiup-policy {file}", pytrace=False)
    return server
