"""EIUP's routes, as the server's own OpenAPI has them, whatever is sent: never a server error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import checks

from demo.environment import ROOT
from demo.host import Client, StandIn

OPERATIONS = [
    ("GET", "/eiup/v1/feedback"), ("POST", "/eiup/v1/feedback"), ("DELETE", "/eiup/v1/feedback"),
    ("GET", "/eiup/v1/journal"), ("GET", "/eiup/v1/journal.csv"), ("GET", "/eiup/v1/policy"),
    ("GET", "/eiup/v1/presets"), ("GET", "/eiup/v1/presets/{name}"), ("PUT", "/eiup/v1/presets/{name}"),
    ("DELETE", "/eiup/v1/presets/{name}"), ("GET", "/eiup/v1/calibrations"),
    ("POST", "/eiup/v1/calibrations"), ("DELETE", "/eiup/v1/calibrations"),
]  # fmt: skip
# The fields of bodies, each with what it may be.
BODIES = {
    ("POST", "/eiup/v1/feedback"): {"concept": "star", "verdict": "spoilt", "checkpoint": "0123456789"},
    ("PUT", "/eiup/v1/presets/{name}"): {"concepts": "star", "description": "a star"},
    ("POST", "/eiup/v1/calibrations"): {"concepts": "star", "width": 128, "height": 128},
}
TEXTS = st.one_of(
    st.text(alphabet="ab\\:,#@()[]\"'<>./ \n\r\t\0-_%5", max_size=20),
    st.text(max_size=20),
    st.sampled_from(["star", "spoilt", "survived", "mine", "nsfw", "../x", "2026-11-25", "0", "-1", "1e999"]),
    st.just("\ud800"),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def client(is_stand_in, webui_ckpt, tmp_path_factory) -> Iterator[Client]:
    if not is_stand_in:
        pytest.skip("what is stored on a webui is its users'")
    folder = tmp_path_factory.mktemp("fuzzed")
    stand_in = StandIn(folder / "data", folder / "webui.log", checkpoint=webui_ckpt)
    stand_in.command += ["--nowebui", "--extension", str(ROOT)]
    with stand_in:
        yield stand_in.client


@pytest.fixture(autouse=True)
def nothing_is_left_to_be_calibrated(client):
    yield
    client.http.delete("/eiup/v1/calibrations")


def described(client: Client) -> dict:
    paths = client.get("/openapi.json").json()["paths"]
    return {path: methods for path, methods in paths.items() if path.startswith("/eiup/")}


def test_no_route_is_left_out(client):
    known = {(method.upper(), path) for path, methods in described(client).items() for method in methods}
    assert known == set(OPERATIONS)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda value: value)
def test_whatever_is_sent_is_answered_or_refused(client, method, path):
    described_here = described(client)[path][method.lower()]
    names = [p["name"] for p in described_here.get("parameters", ()) if p["in"] == "query"]
    queries = st.lists(st.tuples(st.sampled_from([*names, "another"]), TEXTS), max_size=3)
    fields = BODIES.get((method, path), {})
    named = {name: st.one_of(st.just(right), TEXTS, JSON) for name, right in fields.items()}
    bodies = st.one_of(st.fixed_dictionaries(named), st.fixed_dictionaries({}, optional=named), JSON)

    @settings(
        derandomize=True,
        deadline=None,
        max_examples=40 if fields else 15,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(st.just("mine"), TEXTS), queries, bodies)
    def send(name, query, body):
        url = path.replace("{name}", escaped(name))
        url += "?" + "&".join(f"{key}={escaped(value)}" for key, value in query)
        content = json.dumps(body).encode() if fields else None
        answer = client.http.request(method, url, content=content)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            check_told(answer)
        elif answer.status_code == 200 and "json" in answer.headers["content-type"]:
            assert isinstance(answer.json(), dict)

    send()


def check_told(answer) -> None:
    """The message is text, and nothing around it."""
    told = answer.json()
    assert isinstance(told["detail"], str)
    assert told["detail"]
    assert told.get("errors", "") in ("", told["detail"])


def escaped(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "feedback", {"concept": "star", "verdict": "spoilt", "checkpoint": "\ud800"}),
        ("POST", "feedback", {"concept": "\ud800", "verdict": "spoilt"}),
        ("POST", "feedback", {"concept": "star", "verdict": "\ud800"}),
        ("PUT", "presets/mine", {"concepts": "star", "description": "\ud800"}),
        ("PUT", "presets/mine", {"concepts": ["\ud800"]}),
        ("PUT", "presets/mine", {"concepts": "star", "\ud800": 1}),
        ("POST", "feedback", {"concept": "star", "verdict": ["\ud800"]}),
        ("POST", "calibrations", {"concepts": ["\ud800"]}),
        ("POST", "calibrations", {"concepts": "star", "\ud800": 1}),
    ],
    ids=str,
)
def test_what_is_no_character_is_refused(client, method, path, body):
    answer = client.http.request(method, f"/eiup/v1/{path}", content=json.dumps(body).encode())
    assert answer.status_code == 422, answer.text
    check_told(answer)


REFUSED = {
    "an unknown preset": ("GET", "presets/nowhere", None, 404, "preset is 'nowhere'"),
    "a shipped preset": ("DELETE", "presets/watermarks", None, 409, "presets of your own"),
    "an unknown field": ("PUT", "presets/mine", b'{"weight": 1}', 422, "body weight: extra fields"),
    "no JSON": ("PUT", "presets/mine", b'{"weight": \xed\xa0\x80', 422, "body"),
    "no body": ("POST", "feedback", None, 422, "body: field required"),
    "a wrong verdict": (
        "POST",
        "feedback",
        b'{"concept": "star", "verdict": "bad"}',
        422,
        "verdict is 'bad'",
    ),
    "a wrong size": (
        "POST",
        "calibrations",
        b'{"concepts": "star", "width": 1e999}',
        422,
        "body width: value is not a valid integer",
    ),
    "a wrong time": ("GET", "journal?after=yesterday", None, 422, "after is 'yesterday'"),
}


@pytest.mark.parametrize(("method", "path", "content", "status", "message"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_a_sentence(client, method, path, content, status, message):
    answer = client.http.request(method, f"/eiup/v1/{path}", content=content)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"].startswith("EIUP: ")
    assert message in answer.json()["detail"]
    check_told(answer)


@pytest.mark.timeout(600)
def test_answers_are_as_the_openapi_has_them(client):
    """schemathesis makes requests of what the server's OpenAPI says, and holds the answers against it."""
    schema = schemathesis.from_dict(client.get("/openapi.json").json(), base_url=client.base_url)
    tried = set()
    for operation in schema.include(path_regex="^/eiup/").get_all_operations():
        operation = operation.ok()

        @settings(
            derandomize=True,
            deadline=None,
            max_examples=15,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def send(case):
            answer = case.call(session=session)
            case.validate_response(
                answer,
                checks=(
                    checks.not_a_server_error,
                    checks.content_type_conformance,
                    checks.response_schema_conformance,
                ),
            )

        with requests.Session() as session:
            send()
        tried.add((operation.method.upper(), operation.path))
    assert tried == set(OPERATIONS)
