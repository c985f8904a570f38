"""A webui under a policy whose file the tests write, as they see it from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from demo.host import Client
from eiup.policy_file import read_policy
from tests.e2e.support import encoded, scene
from tests.e2e.test_infotext import value_in

STRENGTH = 2.0
POLICY = {
    "concepts": ["star", {"concept": "moon", "weight": 0.5}],
    "strength": STRENGTH,
    # Users get the first where they ask for nothing, which needs no calibration.
    "modes": ["constant", "strict", "adaptive"],
}


class PolicedServer:
    """``data`` is the webui's data folder, ``file`` its policy's, ``log`` what it writes on the console,
    where that is known."""

    def __init__(self, client: Client, data: Path, file: Path, log: Path | None = None):
        self.client, self.data, self.file, self.log = client, data, file, log
        self._picture: str | None = None

    @property
    def journal(self) -> Path:
        return self.data / "log" / "eiup"

    @property
    def hash(self) -> str:
        """That of the policy in the file."""
        return read_policy(self.file).hash

    def write(self, policy: Any) -> None:
        """Replace the policy; text is written as it is. It counts from the next generation on."""
        text = policy if isinstance(policy, str) else json.dumps(policy)
        self.file.write_text(text, encoding="utf-8")

    def records(self) -> list[dict[str, Any]]:
        """The journal, oldest first."""
        return [json.loads(line) for file in sorted(self.journal.glob("*.jsonl")) for line in file.open()]

    def told(self) -> dict[str, Any]:
        """What the server says of its policy."""
        return self.client.get("/eiup/v1/policy").json()

    def generate(self, **payload: Any) -> dict[str, Any]:
        """The policy's part of the infotext of an image."""
        return value_in(self.client.txt2img(**scene(**payload)).infotexts[0])["policy"]

    def picture(self) -> str:
        """An image to begin with."""
        if self._picture is None:
            self._picture = encoded(self.client.txt2img(**scene()).pngs[0])
        return self._picture

    def mend(self) -> None:
        """Take back what the tests' extension has done."""
        self.client.post("/eiup-saboteur/mend", {})
        assert self.client.post("/eiup-probe/reset", {}).json()["running"] == 0
        # Of another policy or checkpoint: what breaks next is meant for a generation.
        self.client.wait_until_prepared()


def check_proof(server: PolicedServer, infotexts: list[str], records: list[dict[str, Any]]) -> None:
    """Every image says that every row of it was under erasure, and so does the journal."""
    check_infotexts(server, infotexts)
    check_records(server, records)
    assert len(records) == len(infotexts)


def check_infotexts(server: PolicedServer, infotexts: list[str]) -> None:
    assert infotexts
    for infotext in infotexts:
        value = value_in(infotext)
        proof = value["policy"]
        assert proof["hash"] == server.hash
        assert proof["rows"] == proof["under_erasure"] > 0
        weights = {
            c if isinstance(c, str) else c["concept"]: value["strength"]
            * (1 if isinstance(c, str) else c["weight"])
            for c in value["concepts"]
        }
        assert weights["star"] >= STRENGTH
        assert weights["moon"] >= STRENGTH / 2
        assert value["mode"] in POLICY["modes"]
        assert (value.get("start", 0.0), value.get("end", 1.0)) == (0.0, 1.0)
        assert not value.get("preserve")


def check_records(server: PolicedServer, records: list[dict[str, Any]]) -> None:
    for record in records:
        assert record["policy"]["hash"] == server.hash
        assert record["policy"]["rows"] == record["policy"]["under_erasure"] > 0


def check_rows_changed(server: PolicedServer) -> None:
    """The probe has seen from outside that each conditional row was changed in each U-Net call."""
    calls = server.client.post("/eiup-probe/reset", {}).json()["calls"]
    assert any(calls)
    for call in calls:
        assert all(changed for kind, changed in call if kind >= 0)


def check_refusal(server: PolicedServer, response: Any, records: list[dict[str, Any]], reason: str) -> None:
    assert response.status_code in (422, 500), response.text[:500]
    assert "images" not in response.json()
    assert reason in response.json()["errors"]
    assert [record["event"] for record in records] == ["refused"]
    assert reason in records[0]["message"]
    assert records[0]["policy"] == {"hash": server.hash}


def attempt(server: PolicedServer, path: str, payload: dict[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    """The server's answer, and what the journal has of it."""
    before = len(server.records())
    response = server.client.post(f"/sdapi/v1/{path}", payload)
    return response, server.records()[before:]


def infotexts_of(response: Any) -> list[str]:
    assert response.status_code == 200, response.text[:500]
    info = json.loads(response.json()["info"])
    return info["infotexts"][info["index_of_first_image"] :]
