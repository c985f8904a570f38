"""A published client of the webui's API works with the payload of the README."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from tests.e2e.support import changed, erasing, same, scene

webuiapi = pytest.importorskip("webuiapi")


@pytest.fixture
def client(webui, monkeypatch):
    # A proxy that is set for the network must not stand before this machine.
    monkeypatch.setenv("NO_PROXY", "*")
    url = urlsplit(webui.base_url)
    return webuiapi.WebUIApi(host=url.hostname, port=url.port or 80, use_https=url.scheme == "https")


def test_webuiapi(webui, client, plain):
    settings = scene()
    erased = client.txt2img(**settings, alwayson_scripts={"EIUP": {"args": [{"concepts": ["star"]}]}})
    assert same(client.txt2img(**settings).image, plain)
    assert changed(erased.image, plain)
    assert "EIUP" in erased.info["infotexts"][0]
    with pytest.raises(RuntimeError, match="strength is 11"):
        client.txt2img(**settings, **erasing("star", strength=11))
