"""A webui under a policy whose file the tests write, as they see it from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from demo.host import Client
from eiup.policy_file import read_policy
from tests.e2e.support import encoded, scene
from tests.e2e.test_infotext import value_in


class PolicedServer:
    """``data`` is the webui's data folder, ``file`` its policy's."""

    def __init__(self, client: Client, data: Path, file: Path):
        self.client, self.data, self.file = client, data, file
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
