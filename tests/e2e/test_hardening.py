"""What hostile and huge input does to the extension's routes, pages and files: nothing."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from demo.host import StandIn
from tests.e2e.support import erasing, post_raw, scene, with_args
from tests.e2e.test_page import erase, generate, txt2img  # noqa: F401 - a fixture

HOSTILE = '<img src=x onerror="window.hit=1">'
LONGEST_MESSAGE = 1000


# -------------------------------------------------------------------------------------------- credentials


def test_every_route_asks_for_the_credentials_of_the_api(is_stand_in, webui_ckpt, tmp_path):
    if not is_stand_in:
        pytest.skip("needs a webui that is started with credentials")
    host = StandIn(tmp_path / "data", tmp_path / "webui.log", checkpoint=webui_ckpt)
    host.command += ["--nowebui", "--api-auth", "ada:secret"]
    with host:
        # Those that FastAPI knows, so that a new one is among them.
        known = host.client.get("/openapi.json", auth=("ada", "secret")).json()["paths"]
        routes = [(m.upper(), path) for path in known if path.startswith("/eiup") for m in known[path]]
        assert {"/eiup/v1/feedback", "/eiup/v1/journal", "/eiup/v1/policy", "/eiup/v1/presets"} <= {
            path for _, path in routes
        }
        for method, path in routes:
            path = path.replace("{name}", "nobody")

            def ask(method=method, path=path, **credentials):
                return host.client.http.request(method, path, json={}, **credentials).status_code

            assert ask() == 401, (method, path)
            for wrong in (("ada", "wrong"), ("eve", "secret"), ("ada", ""), ("", "")):
                assert ask(auth=wrong) == 401, (method, path, wrong)
            assert ask(auth=("ada", "secret")) in (200, 404, 422), (method, path)


# ------------------------------------------------------------------------------------------- HTML


@pytest.mark.timeout(900)
def test_text_is_no_html_on_the_page(webui, txt2img):  # noqa: F811
    page = txt2img
    page.fill("#txt2img_prompt textarea", f"a wizard {HOSTILE}")
    erase(page, f"{HOSTILE}\nstar")
    page.check("#script_txt2img_eiup_mode input[value=constant]")
    seen = {
        "the counter of tokens": "#script_txt2img_eiup_tokens",
        "the hint of what the prompt names": "#script_txt2img_eiup_named",
    }
    for selector in seen.values():
        page.wait_for_selector(f"{selector} >> text=onerror", timeout=300_000)
    generate(page)
    page.wait_for_selector("#script_txt2img_eiup_panel .eiup-name >> text=onerror", timeout=300_000)
    page.click("#tabs > .tab-nav button:has-text('EIUP journal')")
    page.wait_for_selector("#eiup_journal_table td >> text=onerror", timeout=300_000)
    assert page.evaluate("window.hit") is None
    for selector in (*seen.values(), "#script_txt2img_eiup_panel", "#eiup_journal_table"):
        assert page.locator(f"{selector} img[src=x]").count() == 0


# ------------------------------------------------------------------------------------------- the journal


def test_newlines_forge_no_record(webui, data_folder):
    forged = '\n{"v":1}\n'
    webui.post("/sdapi/v1/options", {"eiup_journal_prompts": True})

    def lines():
        files = sorted((data_folder / "log" / "eiup").glob("*.jsonl"))
        return [line for file in files for line in file.read_text().splitlines()]

    before = len(lines())
    try:
        concept = {"concept": f"star{forged}\r\u2028\x85{forged}"}
        webui.txt2img(**scene(prompt=f"a wizard{forged}", steps=1, **erasing(concept, mode="constant")))
    finally:
        webui.post("/sdapi/v1/options", {"eiup_journal_prompts": False})
    (line,) = lines()[before:]
    record = json.loads(line)
    assert forged in record["prompt"]
    assert "\n" not in record["concepts"][0]["concept"]
    assert record["seed"] == scene()["seed"]


@pytest.mark.parametrize("cursor", ["../../secret:5", "/etc/passwd:9", "2026-01-01/../x:5", "2026-01-01:-5"])
def test_a_cursor_leads_nowhere_else(webui, cursor):
    answer = webui.get("/eiup/v1/journal", params={"cursor": cursor})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("EIUP: cursor is ")


# -------------------------------------------------------------------------------------- what is too much


def nested(depth):
    value = "star"
    for _ in range(depth):
        value = [value]
    return value


MILLION = "x" * 1_000_000
TOO_MUCH = {
    "a text of a million characters": [{"concepts": MILLION}],
    "a million commas": [{"concepts": "," * 1_000_000 + "star:x"}],
    "a million colons": [{"concepts": ":" * 1_000_000}],
    "a million brackets": [{"concepts": "(" * 1_000_000}],
    "a hundred thousand concepts": [{"concepts": [f"star {n}" for n in range(100_000)]}],
    "a million lines": [{"concepts": "star\n" * 1_000_000}],
    "a long name of a field": [{MILLION: 1}],
    "a long name of a concept's field": [{"concepts": [{MILLION: 1}]}],
    "a long name of a preset": [{"concepts": f"@{MILLION}"}],
    "a preset elsewhere": [{"concepts": "@../../../../etc/passwd"}],
    "a long mode": [{"concepts": "star", "mode": MILLION}],
    "lists in lists": [{"concepts": nested(400)}],
    "lists in lists, very deep": [{"concepts": nested(900)}],
    "lists in lists for a number": [{"concepts": "star", "strength": nested(900)}],
    "a weight that is no number": [{"concepts": "star:nan"}],
    "an infinite weight": [{"concepts": "star:1e999"}],
    "a weight of many digits": [{"concepts": f"star:{'9' * 100_000}"}],
}


@pytest.mark.parametrize("args", TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_is_too_much_is_refused_in_few_words(webui, args):
    answer = post_raw(webui, "/sdapi/v1/txt2img", scene(**with_args(args)))
    assert answer.status_code == 422, answer.text[:500]
    assert "images" not in answer.json()
    assert answer.json()["errors"].startswith("EIUP: ")
    assert len(answer.json()["errors"]) < LONGEST_MESSAGE


INFOTEXTS = {
    "lists in lists": f'{{"v":4,"concepts":{"[" * 5000}{"]" * 5000}}}',
    "no JSON": "{" * 5000,
    "many concepts": json.dumps({"v": 4, "concepts": [f"star {n}" for n in range(20_000)]}),
    "a huge number": f'{{"v":4,"concepts":["star"],"strength":{"9" * 10_000}}}',
    "not a number": '{"v":4,"concepts":["star"],"strength":NaN}',
    "another version": '{"v":99,"concepts":["star"]}',
    "a huge text": json.dumps({"v": 4, "concepts": [MILLION]}),
}


@pytest.mark.parametrize("value", INFOTEXTS.values(), ids=INFOTEXTS)
def test_infotext_that_cannot_be_used_is_refused_in_few_words(webui, value):
    infotext = f"a wizard\nSteps: 1, Size: 64x64, EIUP: {json.dumps(value)}, Version: v1.10.1"
    answer = webui.post("/sdapi/v1/txt2img", scene(infotext=infotext, steps=1))
    assert answer.status_code == 422, answer.text[:500]
    assert answer.json()["errors"].startswith("EIUP: ")
    assert len(answer.json()["errors"]) < LONGEST_MESSAGE


PRESETS = {
    "a text of a million characters": {"concepts": MILLION},
    "a long name of a field": {"concepts": "star", MILLION: 1},
    "lists in lists": {"concepts": nested(900)},
    "a weight that is no number": {"concepts": "star:nan"},
    "a description of a million characters": {"concepts": "star", "description": MILLION},
}


@pytest.mark.parametrize("body", PRESETS.values(), ids=PRESETS)
def test_presets_that_are_too_much_are_not_kept(webui, body):
    with suppress(RecursionError):
        assert webui.http.put("/eiup/v1/presets/test-hostile", json=body).status_code in (400, 422)
    assert webui.get("/eiup/v1/presets/test-hostile").status_code == 404


def refused(webui, **payload):
    answer = webui.post("/sdapi/v1/txt2img", scene(steps=1, width=64, height=64, **payload))
    assert answer.status_code == 422, answer.text[:500]
    return answer.json()["errors"]


# Of 26 to 49 words, 900 in all.
LONG = [" ".join(["star"] * count) for count in range(26, 50)]


def test_concepts_of_too_many_tokens_are_refused(webui):
    more = [f"moon {text}" for text in LONG[:8]]
    word = refused(webui, **erasing(*LONG, *more, mode="constant"))
    assert "allowed: at most 1024 tokens in all" in word


def test_a_batch_that_is_too_large_for_its_concepts_is_refused(webui):
    word = refused(webui, batch_size=10, **erasing(*LONG, mode="constant"))
    assert "batch size is '10 rows'; allowed: at most 9 rows" in word
    word = refused(webui, prompt=" AND ".join(["a wizard"] * 10), **erasing(*LONG, mode="constant"))
    assert "at most 9 rows" in word


def test_feedback_is_kept_of_checkpoints_only(webui):
    flag = {"concept": "star", "verdict": "spoilt", "checkpoint": MILLION}
    answer = webui.post("/eiup/v1/feedback", flag)
    assert answer.status_code == 422
    assert len(answer.text) < LONGEST_MESSAGE
