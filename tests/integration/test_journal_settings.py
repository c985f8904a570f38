"""The settings of the journal, in a webui: how long its files are kept and how large they grow."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest

from demo.host import StandIn
from tests.e2e.support import erasing, scene

PAYLOAD = scene(steps=1, width=64, height=64, **erasing("star", mode="constant"))


@pytest.fixture
def host(is_stand_in, webui_ckpt, tmp_path):
    if not is_stand_in:
        pytest.skip("a real webui's journal lies in its own folder")
    stand_in = StandIn(tmp_path / "data", tmp_path / "webui.log", checkpoint=webui_ckpt)
    stand_in.command += ["--nowebui"]
    with stand_in:
        yield stand_in.client


def test_the_settings_govern_the_files(host, tmp_path):
    folder = tmp_path / "data" / "log" / "eiup"
    folder.mkdir(parents=True)
    today = datetime.now(timezone.utc).date()
    old, recent = (folder / f"{today - timedelta(days=days)}.jsonl" for days in (40, 20))
    for path in (old, recent):
        path.write_text('{"v":1}\n')

    def generate(**settings):
        assert host.post("/sdapi/v1/options", settings).status_code == 200
        host.txt2img(**PAYLOAD)

    # By default, files are kept for ever, and a day has one.
    generate()
    generate()
    assert len(list(folder.iterdir())) == 3
    generate(eiup_journal_days=30, eiup_journal_megabytes=1e-6)
    assert not old.exists()
    assert recent.exists()
    own = set(folder.iterdir()) - {recent}
    assert len(own) == 2
    assert [json.loads(line)["seed"] for path in own for line in path.open()] == [PAYLOAD["seed"]] * 3
    # What is no number from 0 up is no limit.
    generate(eiup_journal_days=-5, eiup_journal_megabytes="much")
    assert recent.exists()
    assert host.get("/eiup/v1/journal").json()["records"][0]["seed"] == PAYLOAD["seed"]
