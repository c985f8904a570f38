"""A server with a policy: how it starts, how it follows the file, and what it says of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from demo.environment import ROOT
from demo.host import HostError, StandIn
from eiup import policy_file
from eiup.policy_file import read_policy
from tests.e2e.support import erasing, scene
from tests.e2e.test_infotext import value_in
from tests.e2e.test_page import fill_number, generate
from tests.integration.test_generation_life_cycle import PROBE

OPENED_WITHIN = 300_000
POLICY = {"concepts": ["star"], "modes": ["constant"]}


class Server:
    """A stand-in host with a policy in ``file``; made ready by entering :attr:`host`."""

    def __init__(self, folder, checkpoint, policy=POLICY, name="policy.json", options=("--nowebui",)):
        self.folder, self.file = folder, folder / name
        self.write(policy)
        self.host = StandIn(folder / "data", folder / "webui.log", checkpoint=checkpoint)
        self.host.command += [*options, "--eiup-policy", str(self.file), "--extension", str(ROOT)]

    def write(self, policy):
        text = policy if isinstance(policy, str) else json.dumps(policy)
        self.file.write_text(text, encoding="utf-8")

    @property
    def client(self):
        return self.host.client

    def records(self):
        files = sorted((self.folder / "data" / "log" / "eiup").glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.open()]

    def generate(self, **payload):
        """The policy's part of the infotext of an image."""
        return value_in(self.client.txt2img(**scene(**payload)).infotexts[0])["policy"]

    def told(self):
        return self.client.get("/eiup/v1/policy").json()


@pytest.fixture(autouse=True)
def _only_here(is_stand_in):
    if not is_stand_in:
        pytest.skip("a policy is named when a webui is started")


@pytest.fixture(scope="module")
def server(webui_ckpt, tmp_path_factory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("policy"), webui_ckpt)
    made.host.command += ["--extension", str(PROBE)]
    with made.host:
        yield made


@pytest.fixture(autouse=True)
def policy_as_it_was(request):
    yield
    if "server" in request.fixturenames:
        request.getfixturevalue("server").write(POLICY)


# ---------------------------------------------------------------------------------------------- the start

MALFORMED = {
    "no JSON": ('{"concepts": ["star"],\n  strength: 2}', "policy.json", "line 2"),
    "an unknown field": (
        '{"concepts": ["star"],\n\n"strenght": 2}',
        "policy.json",
        "line 3: EIUP: strenght is 2",
    ),
    "no TOML": ("concepts =", "policy.toml", "TOML"),
}


@pytest.mark.parametrize(("text", "name", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_policy_stops_the_start(tmp_path, webui_ckpt, text, name, message):
    server = Server(tmp_path, webui_ckpt, text, name)
    with pytest.raises(HostError) as raised, server.host:
        pass
    log = (tmp_path / "webui.log").read_text()
    assert f"argument --eiup-policy: {server.file}" in log
    assert message in log
    assert "exit code 2" in str(raised.value)


def test_a_policy_that_does_not_exist_stops_the_start(tmp_path, webui_ckpt):
    server = Server(tmp_path, webui_ckpt)
    server.file.unlink()
    with pytest.raises(HostError, match="exit code 2"), server.host:
        pass
    assert "cannot be read" in (tmp_path / "webui.log").read_text()


def test_a_webui_in_which_the_policy_cannot_be_enforced_does_not_start(tmp_path, webui_ckpt):
    other = tmp_path / "a-webui-of-its-own"
    (other / "scripts").mkdir(parents=True)
    (other / "scripts" / "changes.py").write_text(
        "from modules import sd_models\n\ndel sd_models.SdModelData\n"
    )
    server = Server(tmp_path, webui_ckpt)
    server.host.command += ["--extension", str(other)]
    # The other one first.
    at = server.host.command.index("--extension")
    server.host.command[at + 1], server.host.command[-1] = (
        server.host.command[-1],
        server.host.command[at + 1],
    )
    with pytest.raises(HostError), server.host:
        pass
    assert "EIUP: the policy cannot be enforced" in (tmp_path / "webui.log").read_text()


@pytest.mark.skipif(policy_file.tomllib is None, reason="TOML needs Python 3.11")
def test_a_policy_in_toml(tmp_path, webui_ckpt):
    server = Server(tmp_path, webui_ckpt, 'concepts = ["star"]\nmodes = ["constant"]', "policy.toml")
    with server.host:
        proof = server.generate()
    assert proof["hash"] == read_policy(server.file).hash
    assert proof["rows"] == proof["under_erasure"] > 0


def test_without_a_policy_nothing_is_touched(tmp_path, webui_ckpt):
    host = StandIn(tmp_path / "data", tmp_path / "webui.log", checkpoint=webui_ckpt)
    host.command += ["--nowebui", "--extension", str(ROOT), "--extension", str(PROBE)]
    with host:
        assert host.client.get("/eiup/v1/policy").json() == {"policy": None, "problem": None}
        assert "EIUP" not in host.client.txt2img(**scene()).infotexts[0]
        erased = host.client.txt2img(**scene(**erasing("star", mode="constant"))).infotexts[0]
        assert "policy" not in value_in(erased)
        state = host.client.post("/eiup-probe/reset", {}).json()
        assert (state["hooks"], state["wrapped"]) == (0, [])


# --------------------------------------------------------------------------------------- following the file


def test_a_new_version_is_taken_over_between_generations(server):
    first = server.generate()["hash"]
    server.write({"concepts": ["star", "moon"], "modes": ["constant"]})
    second = server.generate()["hash"]
    assert first != second == read_policy(server.file).hash
    assert server.told()["policy"]["hash"] == second
    assert [r["policy"]["hash"] for r in server.records() if r.get("event") == "policy"][-1] == second


def test_a_generation_ends_under_the_policy_that_it_began_with(server):
    before = server.generate()["hash"]
    stop = threading.Event()

    def change_when_at_work():
        while not stop.is_set():
            state = server.client.get("/sdapi/v1/progress", params={"skip_current_image": True}).json()[
                "state"
            ]
            if state["job_count"] > 0 and state["sampling_step"] >= 3:
                server.write({"concepts": ["moon"], "modes": ["constant"]})
                server.told()
                return
            time.sleep(0.02)

    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change_when_at_work)
        answer = server.client.txt2img(**scene(steps=30, n_iter=2))
        stop.set()
        changing.result()
    assert json.loads(server.file.read_text())["concepts"] == ["moon"]
    assert [value_in(text)["policy"]["hash"] for text in answer.infotexts[-2:]] == [before, before]
    assert server.generate()["hash"] == read_policy(server.file).hash


@pytest.mark.parametrize("broken", ['{"concepts": ["star"],\n"strength": 0}', "{", None])
def test_a_broken_version_keeps_the_last_good_one_and_says_so(server, broken):
    good = server.generate()["hash"]
    known = len(server.records())
    if broken is None:
        server.file.unlink()
    else:
        server.write(broken)
    proof = server.generate()
    assert proof["hash"] == good
    assert proof["rows"] == proof["under_erasure"] > 0
    (event,) = [r for r in server.records()[known:] if r.get("event") == "policy"]
    assert good in event["message"]
    log = (server.folder / "webui.log").read_text()
    assert f"{event['message']}\n{server.file}" in log
    told = server.told()
    assert told["policy"]["hash"] == good
    assert told["problem"] in event["message"]
    # Where the file is, is nothing that users have to know.
    assert str(server.folder) not in f"{told['problem']} {event['message']}"
    # Each thing once.
    server.generate()
    assert len([r for r in server.records()[known:] if r.get("event") == "policy"]) == 1
    server.write(POLICY)
    server.generate()
    assert server.told()["problem"] is None


def test_what_cannot_be_written_names_no_file_of_the_server(server):
    journal = server.folder / "data" / "log" / "eiup"
    server.generate()
    journal.rename(journal.with_name("kept"))
    journal.write_text("a file in the place of the folder")
    try:
        answer = server.client.post("/sdapi/v1/txt2img", scene())
    finally:
        journal.unlink()
        journal.with_name("kept").rename(journal)
    assert answer.status_code == 500
    assert "the journal cannot be written" in answer.json()["errors"]
    assert str(server.folder) not in answer.text
    assert str(journal) in (server.folder / "webui.log").read_text()


def test_switching_the_extension_off_makes_no_image_unerased(server):
    name = ROOT.name
    try:
        server.client.post("/sdapi/v1/options", {"disabled_extensions": [name]})
        assert server.client.post("/sdapi/v1/reload-scripts", {}).status_code == 200
        known = len(server.records())
        response = server.client.post("/sdapi/v1/txt2img", scene())
        assert response.status_code == 500
        assert "EIUP" in response.json()["errors"]
        (record,) = server.records()[known:]
        assert record["event"] == "refused"
    finally:
        server.client.post("/sdapi/v1/options", {"disabled_extensions": []})
        server.client.post("/sdapi/v1/reload-scripts", {})
    assert server.generate()["rows"] > 0


def test_reloaded_scripts_wrap_nothing_twice(server):
    for _ in range(2):
        assert server.client.post("/sdapi/v1/reload-scripts", {}).status_code == 200
    proof = server.generate()
    assert proof["rows"] == proof["under_erasure"] == 4
    state = server.client.post("/eiup-probe/reset", {}).json()
    assert (state["hooks"], len(state["wrapped"])) == (1, 4)


# ----------------------------------------------------------------------------------------- what is shown


def test_the_route_tells_the_policy_and_takes_none(server):
    policy = server.told()["policy"]
    assert policy["concepts"] == [{"text": "star", "weight": 1.0}]
    assert (policy["strength"], policy["modes"], policy["users_may_add_concepts"]) == (
        2.0,
        ["constant"],
        False,
    )
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert server.client.http.request(method, "/eiup/v1/policy", json={}).status_code == 405


@pytest.fixture(scope="module")
def page_server(webui_ckpt, tmp_path_factory) -> Iterator[Server]:
    policy = {"concepts": ["star", "<b>moon</b>:1.5"], "modes": ["constant"], "strength": 3}
    made = Server(tmp_path_factory.mktemp("policy-page"), webui_ckpt, policy, options=())
    with made.host:
        yield made


def open_page(server, page):
    # Whatever the page asks of other machines is no part of the test.
    page.route(lambda url: not url.startswith(server.host.url), lambda route: route.abort())
    page.goto(server.host.url, wait_until="domcontentloaded")
    page.wait_for_selector("#script_txt2img_eiup_policy li", timeout=OPENED_WITHIN)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_the_accordion_has_the_concepts_locked(page_server, page, tab):
    open_page(page_server, page)
    if tab == "img2img":
        page.get_by_role("tab", name="img2img").or_(page.get_by_role("button", name="img2img")).first.click()
    shown = page.locator(f"#script_{tab}_eiup_policy").first
    shown.wait_for(state="visible")
    assert shown.locator("li").all_inner_texts() == ["star", "<b>moon</b>:1.5"]
    assert "They cannot be removed" in shown.inner_text()
    assert "No other concepts can be added." in shown.inner_text()
    told = shown.locator("p").all_inner_texts()
    assert {"Least strength: 3", "Modes: constant"} <= set(told)
    box = page.locator(f"#script_{tab}_eiup_enabled-visible-checkbox")
    assert box.is_checked()
    assert box.is_disabled()
    assert shown.locator("input, textarea, button").count() == 0


def fill_in_a_scene(page):
    page.fill("#txt2img_prompt textarea", "a wizard in a forest")
    for name, value in (("steps", 2), ("width", 128), ("height", 128)):
        fill_number(page, f"#txt2img_{name} input[type=number]", value)


@pytest.mark.timeout(900)
def test_a_box_that_was_unticked_all_the_same_changes_nothing(page_server, page):
    open_page(page_server, page)
    fill_in_a_scene(page)
    known = len(page_server.records())
    page.evaluate(
        """() => {
            const box = document.querySelector("#script_txt2img_eiup_enabled-checkbox input");
            document.querySelector("#script_txt2img_eiup_policy").remove();
            box.checked = false;
            updateInput(box);
        }"""
    )
    assert '"policy"' in generate(page).replace("\\", "")
    (record,) = page_server.records()[known:]
    assert record["policy"]["lifted"] == [{"field": "enabled", "asked": False, "in_force": True}]
    told = page.locator("#script_txt2img_eiup_panel .eiup-lifted")
    told.wait_for(state="attached", timeout=OPENED_WITHIN)  # the accordion is closed
    assert told.text_content() == "Changed by this server's policy: enabled: false \u2192 true"
    assert record["policy"]["rows"] == record["policy"]["under_erasure"] > 0


def part(page, name, tab="txt2img"):
    return page.locator(f"#script_{tab}_eiup_{name}")


def allowed_modes(page):
    """The modes that can be chosen, and the one that is."""
    modes = part(page, "mode input[type=radio]")
    values = modes.evaluate_all("inputs => inputs.filter(i => !i.disabled).map(i => i.value)")
    return values, modes.evaluate_all("inputs => inputs.filter(i => i.checked).map(i => i.value)")


@pytest.mark.timeout(900)
def test_only_what_the_policy_allows_is_offered(page_server, page):
    open_page(page_server, page)
    part(page, "mode input[value=constant]:checked").wait_for(timeout=OPENED_WITHIN)
    assert allowed_modes(page) == (["constant"], ["constant"])
    reason = "This server's policy does not allow it."
    assert part(page, "mode label[title]:has(input[value=strict])").get_attribute("title") == reason
    for name in ("preserve", "compare"):
        assert part(page, f"{name} input").is_disabled()
        assert part(page, f"{name} label").get_attribute("title") == reason
    assert "Preserve and Compare are switched off" in part(page, "policy p").all_inner_texts()[-1]
    assert part(page, "concepts textarea").is_visible()
    assert not part(page, "concepts textarea").get_attribute("placeholder")
    for name in ("preset input", "add_preset", "presets_panel"):
        assert not part(page, name).is_visible()
    # Concepts that would be refused are told while one types.
    part(page, "concepts textarea").fill("fish")
    part(page, "tokens .error >> text=the concepts of this server's policy").wait_for(timeout=OPENED_WITHIN)
    part(page, "concepts textarea").fill("star:2")
    part(page, "tokens >> text=1/75").wait_for(timeout=OPENED_WITHIN)


@pytest.mark.timeout(900)
def test_a_page_that_is_opened_later_offers_what_the_new_version_allows(page_server, page):
    policy = page_server.file.read_text()
    try:
        page_server.write(
            {
                "concepts": ["star"], "modes": ["strict", "adaptive"], "users_may_add_concepts": True,
                "strength": 3.0, "end": 0.9,
            }
        )  # fmt: skip
        open_page(page_server, page)
        part(page, "policy >> text=Modes: strict, adaptive").wait_for(timeout=OPENED_WITHIN)
        part(page, "mode input[value=constant]:disabled").wait_for(timeout=OPENED_WITHIN)
        part(page, "mode input[value=strict]:checked").wait_for(timeout=OPENED_WITHIN)  # the first
        assert allowed_modes(page) == (["adaptive", "strict"], ["strict"])
        for name, bound, value in (("strength", "min", "3"), ("end", "min", "0.9"), ("start", "max", "0")):
            assert part(page, f"{name} input[type=number]").get_attribute(bound) == value
        assert [float(v.input_value()) for v in part(page, "strength input").all()] == [3.0, 3.0]
        known = len(page_server.records())
        fill_in_a_scene(page)
        part(page, "mode label:has(input[value=adaptive])").click()
        generate(page)
        (record,) = page_server.records()[known:]
        assert (record["mode"], record["strength"]) == ("adaptive", 3.0)
        assert [lift["field"] for lift in record["policy"]["lifted"]] == ["concepts"]
        assert "nudity" in part(page, "concepts textarea").get_attribute("placeholder")
        for name in ("preset input", "add_preset", "presets_panel"):
            assert part(page, name).is_visible()
        part(page, "concepts textarea").fill("moon")
        part(page, "tokens >> text=1/75").wait_for(timeout=OPENED_WITHIN)
    finally:
        page_server.write(policy)


@pytest.mark.timeout(900)
def test_a_pasted_infotext_brings_back_nothing_that_is_forbidden(page_server, page):
    open_page(page_server, page)
    part(page, "mode input[value=constant]:checked").wait_for(timeout=OPENED_WITHIN)
    value = {"v": 4, "concepts": ["star"], "strength": 4.0, "mode": "strict", "preserve": True}
    infotext = f"a wizard\nSteps: 2, Sampler: Euler, Size: 128x128, EIUP: {json.dumps(json.dumps(value))}"
    page.fill("#txt2img_prompt textarea", infotext)
    page.click("#paste")
    page.wait_for_function(
        "box => document.querySelector(box).value === 'star'",
        arg="#script_txt2img_eiup_concepts textarea",
        timeout=OPENED_WITHIN,
    )
    part(page, "preserve input:not(:checked):disabled").wait_for(timeout=OPENED_WITHIN)
    part(page, "mode input[value=constant]:checked").wait_for(timeout=OPENED_WITHIN)
    known = len(page_server.records())
    generate(page)
    (record,) = page_server.records()[known:]
    lifted = {lift["field"] for lift in record["policy"].get("lifted", ())}
    assert not lifted & {"mode", "preserve"}


@pytest.mark.timeout(900)
def test_the_panel_compares_with_no_image_without_erasure(page_server, page):
    open_page(page_server, page)
    fill_in_a_scene(page)
    generate(page)
    page.wait_for_selector("#script_txt2img_eiup_panel .eiup-concept", timeout=OPENED_WITHIN)
    assert page.locator(".eiup-compare-button").count() == 0
    known = len(page_server.records())
    # What the button does, of a page that has it all the same.
    page.evaluate("document.querySelector('#script_txt2img_eiup_make_unerased').click()")
    error = page.locator("#script_txt2img_eiup_compare_log .error")
    error.wait_for(state="visible", timeout=OPENED_WITHIN)
    assert "This server's policy has no image made without erasure." in error.inner_text()
    assert page.locator(".eiup-slider, .eiup-unerased").count() == 0
    assert len(page_server.records()) == known


@pytest.mark.timeout(900)
def test_the_journal_shows_refusals(page_server, page):
    payload = scene(**erasing("forest"))
    assert page_server.client.post("/sdapi/v1/txt2img", payload).status_code == 422
    open_page(page_server, page)
    page.click("#tabs > .tab-nav button:has-text('EIUP journal')")
    page.wait_for_selector("#eiup_journal_table td >> text=concepts is 'forest'", timeout=OPENED_WITHIN)


@pytest.mark.timeout(900)
def test_the_accordion_says_that_a_new_version_cannot_be_used(page_server, page):
    policy = page_server.file.read_text()
    try:
        page_server.write("{")
        open_page(page_server, page)
        shown = page.locator("#script_txt2img_eiup_policy .error")
        shown.wait_for(state="visible")
        assert "The last good version stays in force" in shown.inner_text()
    finally:
        page_server.write(policy)
