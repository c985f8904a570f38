"""``python -m demo --serve --eiup-policy FILE``: a policy to try, without a webui."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from demo.environment import ROOT
from demo.host import Client, free_port
from eiup.policy_file import read_policy

READY_WITHIN = 300


@pytest.fixture(autouse=True)
def _only_here(is_stand_in):
    if not is_stand_in:
        pytest.skip("the demo starts a server of its own")


def demo(*options, **kwargs):
    command = [sys.executable, "-u", "-m", "demo", *map(str, options)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs
    )


def serve(folder, policy):
    return demo("--serve", "--no-browser", "--port", free_port(), "--out", folder, "--eiup-policy", policy)


def test_the_policy_is_in_force_on_the_served_page(tmp_path):
    file = tmp_path / "policy.json"
    file.write_text(json.dumps({"concepts": ["star"], "modes": ["strict"]}))
    with serve(tmp_path, file) as process:
        try:
            printed = ""
            for line in process.stdout:
                printed += line
                if found := re.search(r"The page is at\s+(\S+)", printed):
                    break
            assert found, printed
            client = Client(found[1])
            assert client.get("/eiup/v1/policy").json()["policy"]["hash"] == read_policy(file).hash
            assert "script_txt2img_eiup_policy" in client.get("/config").text
            client.close()
        finally:
            process.terminate()


def test_a_wrong_policy_is_told_with_its_line(tmp_path):
    file = tmp_path / "policy.json"
    file.write_text('{"concepts": ["star"],\n"strenght": 2}')
    with serve(tmp_path, file) as process:
        printed, _ = process.communicate(timeout=READY_WITHIN)
    assert process.returncode == 1
    assert f"{file}, line 2: EIUP: strenght is 2" in printed


def test_without_serve_the_option_is_refused(tmp_path):
    with demo("--eiup-policy", tmp_path / "policy.json") as process:
        printed, _ = process.communicate(timeout=READY_WITHIN)
    assert process.returncode == 2
    assert "--eiup-policy: needs --serve" in printed
