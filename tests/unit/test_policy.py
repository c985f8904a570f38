"""The operator's policy: from a file, and over what users ask for."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.environment import ROOT
from eiup import policy_file
from eiup.concepts import Concept
from eiup.errors import RequestError
from eiup.policy import FIELDS, JournalSettings, Policy, enforce, with_first_mode
from eiup.policy_file import PolicyError, PolicyFile, read_policy
from eiup.request import MODES, ErasureRequest

POLICY = Policy((Concept("nudity"), Concept("watermark", 1.5)), 2.0, ("adaptive", "strict"))


def asked(*concepts, **fields):
    return ErasureRequest(
        True, tuple(Concept(*c) if isinstance(c, tuple) else Concept(c) for c in concepts), **fields
    )


def weights(request):
    return {c.text: request.strength * c.weight for c in request.concepts}


def lifted(policy, request):
    return {lift.field: (lift.asked, lift.in_force) for lift in enforce(policy, request).lifted}


# ----------------------------------------------------------------------------------- the request in force


def test_whoever_asks_for_nothing_gets_the_policy():
    nothing = ErasureRequest()
    in_force = enforce(POLICY, nothing).request
    assert in_force.active
    assert (in_force.mode, in_force.start, in_force.end) == ("adaptive", 0, 1)
    assert weights(in_force) == {"nudity": 2, "watermark": 3}
    assert lifted(POLICY, nothing) == {"enabled": (False, True)}


def test_an_enabled_request_without_concepts_is_lifted_as_well():
    assert lifted(POLICY, ErasureRequest(True)) == {"concepts": ([], ["nudity", "watermark"])}


def test_who_names_no_concept_chooses_how_those_of_the_policy_are_erased():
    policy = Policy(POLICY.concepts, 2.0, ("strict", "adaptive"))
    in_force = enforce(policy, ErasureRequest(True, strength=4.0, mode="adaptive")).request
    assert in_force.mode == "adaptive"
    assert weights(in_force) == {"nudity": 4, "watermark": 6}
    weak = ErasureRequest(True, strength=1.0, mode="constant")
    assert enforce(policy, weak).request.mode == "strict"
    assert weights(enforce(policy, weak).request) == {"nudity": 2, "watermark": 3}
    assert lifted(policy, weak) == {
        "concepts": ([], ["nudity", "watermark"]),
        "strength": (1.0, 2.0),
        "mode": ("constant", "strict"),
    }


@pytest.mark.parametrize(
    ("args", "mode"),
    [
        ([{"concepts": ["nudity"]}, 1], "strict"),
        ([{"concepts": ["nudity"], "mode": "adaptive"}], "adaptive"),
        ([True, "nudity", 2.0, 0.0, 1.0, "adaptive"], "adaptive"),
    ],
)
def test_named_fields_without_a_mode_have_the_first(args, mode):
    policy = Policy(POLICY.concepts, modes=("strict", "adaptive"))
    request = ErasureRequest.from_args(with_first_mode(policy, args))
    assert enforce(policy, request).request.mode == mode


def test_a_request_that_is_strong_enough_is_left_alone():
    request = asked(("nudity", 1.5), ("watermark", 2.0), strength=3.0, mode="strict")
    assert enforce(POLICY, request).request == request
    assert lifted(POLICY, request) == {}


def test_each_weaker_value_is_lifted_and_named():
    request = asked(
        ("nudity", 0.1), strength=0.5, mode="projection", start=0.4, end=0.6, preserve=True, compare=True
    )
    in_force = enforce(POLICY, request).request
    assert weights(in_force) == {"nudity": 2, "watermark": 3}
    assert (in_force.mode, in_force.start, in_force.end) == ("adaptive", 0, 1)
    assert not in_force.preserve
    assert not in_force.compare
    assert lifted(POLICY, request) == {
        "preserve": (True, False),
        "compare": (True, False),
        "concepts": ([], ["watermark"]),
        "weight of nudity": (0.1, 1.0),
        "strength": (0.5, 2.0),
        "mode": ("projection", "adaptive"),
        "start": (0.4, 0.0),
        "end": (0.6, 1.0),
    }


def test_a_window_is_lifted_to_that_of_the_policy_only():
    policy = Policy(POLICY.concepts, end=0.8)
    assert enforce(policy, asked("nudity", start=0.2, end=0.9)).request.window.end == 0.9
    assert enforce(policy, asked("nudity", start=0.2, end=0.3)).request.window.end == 0.8


def test_a_concept_that_users_may_not_add_is_refused():
    with pytest.raises(RequestError, match="concepts is 'star'.*this server's policy"):
        enforce(POLICY, asked("nudity", "star"))


def test_concepts_that_users_may_add_keep_their_weight():
    policy = Policy(POLICY.concepts, users_may_add_concepts=True)
    request = asked("star", ("moon", 0.5), strength=1.0)
    assert weights(enforce(policy, request).request) == {"nudity": 2, "watermark": 3, "star": 1, "moon": 0.5}
    with pytest.raises(RequestError, match="at most 62 besides"):
        enforce(policy, asked(*(f"concept {n}" for n in range(63))))


TEXTS = st.sampled_from(["nudity", "watermark", "star", "moon"])
WEIGHTS = st.floats(0, 10)
REQUESTS = st.builds(
    lambda enabled, concepts, strength, window, mode, preserve, compare: ErasureRequest(
        enabled,
        tuple(Concept(*c) for c in concepts.items()),
        strength,
        *sorted(window),
        mode,
        preserve=preserve,
        compare=compare,
    ),
    st.booleans(),
    st.dictionaries(TEXTS, WEIGHTS),
    WEIGHTS,
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.sampled_from(list(MODES)),
    st.booleans(),
    st.booleans(),
)
POLICIES = st.builds(
    lambda concepts, strength, modes: Policy(
        tuple(Concept(*c) for c in concepts.items()), strength, tuple(modes), users_may_add_concepts=True
    ),
    st.dictionaries(TEXTS, st.floats(0.01, 10), min_size=1),
    st.floats(0.01, 10),
    st.lists(st.sampled_from(list(MODES)), min_size=1, unique=True),
)

# On a busy machine it takes as long as it takes.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(POLICIES, REQUESTS)
def test_nothing_that_is_asked_for_is_weaker_than_the_policy(policy, request):
    in_force = enforce(policy, request).request
    least = {c.text: policy.strength * c.weight for c in policy.concepts}
    # Where no concepts are named, strength and mode are for those of the policy.
    spelt_out = replace(request, concepts=request.concepts or policy.concepts)
    given_weights = weights(spelt_out) if request.enabled else {}
    assert in_force.active
    assert set(weights(in_force)) == {*least, *given_weights}
    for text, weight in weights(in_force).items():
        assert weight == pytest.approx(max(least.get(text, 0), given_weights.get(text, 0)), rel=1e-8)
    assert in_force.mode in policy.modes
    assert (in_force.start, in_force.end) == (0, 1)
    assert not in_force.preserve
    assert not in_force.compare


@unhurried
@given(POLICIES, REQUESTS)
def test_what_is_in_force_is_not_lifted_again_and_survives_infotext(policy, request):
    in_force = enforce(policy, request).request
    assert enforce(policy, in_force).lifted == ()
    again = ErasureRequest.from_infotext(in_force.to_infotext())
    assert weights(again) == weights(in_force)
    assert enforce(policy, again).lifted == ()


# ------------------------------------------------------------------------------------------- its file


def write(tmp_path, content, name="policy.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


EVERYTHING = """{
  "version": 1,
  "concepts": ["nudity", {"concept": "watermark", "weight": 1.5}, "@mine:2"],
  "strength": 3,
  "modes": ["strict", "constant"],
  "start": 0,
  "end": 0.8,
  "users_may_add_concepts": true,
  "when_impossible": "refuse",
  "presets": "sets",
  "journal": {"keep": true, "prompts": true, "days": 90, "megabytes": 10}
}"""


def test_every_field_is_read(tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "mine.txt").write_text("gore\nblood:0.5")
    assert set(json.loads(EVERYTHING)) == set(FIELDS)
    assert read_policy(write(tmp_path, EVERYTHING)) == Policy(
        (Concept("nudity"), Concept("watermark", 1.5), Concept("gore", 2.0), Concept("blood", 1.0)),
        3.0,
        ("strict", "constant"),
        0.0,
        0.8,
        True,
        JournalSettings(True, True, 90, 10),
    )


def test_what_may_be_left_out(tmp_path):
    policy = read_policy(write(tmp_path, {"concepts": ["nudity"]}))
    assert policy == Policy((Concept("nudity"),), 2.0, ("adaptive",), 0.0, 1.0, False, JournalSettings())


@pytest.mark.skipif(policy_file.tomllib is None, reason="TOML needs Python 3.11")
def test_toml_says_the_same_as_json(tmp_path):
    toml = """
        concepts = ["nudity", {concept = "watermark", weight = 1.5}]
        strength = 3
        [journal]
        days = 90
    """
    as_json = {"concepts": ["nudity", "watermark:1.5"], "strength": 3, "journal": {"days": 90}}
    policy = read_policy(write(tmp_path, toml, "policy.toml"))
    assert policy == read_policy(write(tmp_path, as_json))
    assert policy.hash == read_policy(write(tmp_path, as_json)).hash


def test_toml_before_python_3_11_is_an_error_that_names_json(tmp_path, monkeypatch):
    monkeypatch.setattr(policy_file, "tomllib", None)
    with pytest.raises(
        PolicyError, match=r"policy\.toml: TOML needs Python 3\.11\. Write the policy as JSON"
    ):
        read_policy(write(tmp_path, 'concepts = ["nudity"]', "policy.toml"))


def test_presets_are_the_shipped_ones_and_not_those_that_users_save(tmp_path):
    shipped = read_policy(write(tmp_path, {"concepts": ["@nsfw"]}))
    assert len(shipped.concepts) > 1
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "nsfw.txt").write_text("only this")
    own = read_policy(write(tmp_path, {"concepts": ["@nsfw"], "presets": "sets"}))
    assert own.concepts == (Concept("only this"),)
    assert own.hash != shipped.hash


def test_every_field_is_documented():
    documented = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
    journal = [f"journal.{name}" for name in vars(JournalSettings())]
    assert [name for name in (*FIELDS, *journal) if f"`{name}`" not in documented] == []


WRONG = {
    "no object": ("[]", 1, "an object of named fields"),
    "nothing": ("", 1, "no JSON"),
    "cut off": ('{\n"concepts": [\n"nudity"', 3, "a comma or ]"),
    "a comma too many": ('{\n"concepts": ["nudity"],\n}', 3, "a name in double quotes"),
    "a name twice": (
        '{"concepts": ["a"],\n"strength": 2,\n"strength": 0.1}',
        3,
        "'strength' stands here twice",
    ),
    "an unknown field": (
        '{"concepts": ["a"],\n\n"strenght": 2}',
        3,
        "strenght is 2; allowed: the fields version",
    ),
    "an unknown journal field": (
        '{"concepts": ["a"],\n"journal": {\n"day": 2}}',
        3,
        "journal.day is 2; allowed",
    ),
    "no concepts": ('{\n"strength": 2}', 1, "concepts is None"),
    "an empty list": ('{"strength": 2,\n"concepts": []}', 2, "at least one concept"),
    "a wrong entry": (
        '{"concepts": ["a",\n"b",\n{"concept": "c", "wieght": 2}]}',
        3,
        "concepts[2].wieght is 2",
    ),
    "a weight of 0": ('{"strength": 1,\n"concepts": ["a:0"]}', 2, "a number above 0"),
    "an unknown preset": ('{"concepts": ["a",\n"@nobody"]}', 2, "@nobody"),
    "a strength of 0": ('{"concepts": ["a"],\n"strength": 0}', 2, "above 0 and at most 10"),
    "a strength of NaN": ('{"concepts": ["a"],\n"strength": NaN}', 2, "above 0 and at most 10"),
    "a text for a number": ('{"concepts": ["a"],\n"strength": "2"}', 2, "strength is '2'"),
    "an unknown mode": (
        '{"concepts": ["a"],\n"modes": ["strict",\n"off"]}',
        3,
        "modes[1] is 'off'; allowed: one of",
    ),
    "no mode": ('{"concepts": ["a"],\n"modes": []}', 2, "a list of modes"),
    "an empty window": ('{"concepts": ["a"],\n"start": 0.5,\n"end": 0.5}', 2, "less than end"),
    "a number for a switch": ('{"concepts": ["a"],\n"users_may_add_concepts": 1}', 2, "true or false"),
    "another way out": ('{"concepts": ["a"],\n"when_impossible": "warn"}', 2, "allowed: refuse"),
    "a folder that is none": ('{"concepts": ["a"],\n"presets": "nowhere"}', 2, "a folder that exists"),
    "a later version": ('{"concepts": ["a"],\n"version": 2}', 2, "Update the extension"),
    "days below 0": ('{"concepts": ["a"],\n"journal": {"keep": true,\n"days": -1}}', 3, "journal.days is -1"),
    "a journal that is none": ('{"concepts": ["a"],\n"journal": false}', 2, "an object with keep"),
}


@pytest.mark.parametrize(("content", "line", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_with_file_and_line(tmp_path, content, line, message):
    path = write(tmp_path, content)
    with pytest.raises(PolicyError) as raised:
        read_policy(path)
    assert str(raised.value).startswith(f"{path}, line {line}: ")
    assert message in str(raised.value)


TOML_WRONG = {
    "no TOML": ('concepts = ["a"]\nstrength =', 2, "no TOML"),
    "an unknown field": ('concepts = ["a"]\nstrenght = 1', 2, "strenght is 1"),
    "in a table": ('concepts = ["a"]\ndays = 1\n[journal]\ndays = -1', 2, "days is 1; allowed: the fields"),
    "a table's field": ('concepts = ["a"]\n[journal]\nkeep = true\ndays = -1', 4, "journal.days is -1"),
    "a list's element": ('strength = 2\nconcepts = ["a", "b:0"]', 2, "weight of 'b'"),
}


@pytest.mark.skipif(policy_file.tomllib is None, reason="TOML needs Python 3.11")
@pytest.mark.parametrize(("content", "line", "message"), TOML_WRONG.values(), ids=TOML_WRONG)
def test_what_is_wrong_in_toml_is_named_with_file_and_line(tmp_path, content, line, message):
    path = write(tmp_path, content, "policy.toml")
    with pytest.raises(PolicyError) as raised:
        read_policy(path)
    assert str(raised.value).startswith(f"{path}, line {line}: ")
    assert message in str(raised.value)


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "policy.json"
    path.write_bytes(b'{\n"concepts": ["\xff"]}')
    with pytest.raises(PolicyError, match=r"line 2: .*UTF-8"):
        read_policy(path)
    with pytest.raises(PolicyError, match="cannot be read"):
        read_policy(tmp_path / "nobody.json")


def test_a_file_can_be_checked_before_it_is_put_in_place(tmp_path):
    def check(path):
        command = [sys.executable, "-m", "eiup.policy_file", str(path)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    good = write(
        tmp_path,
        {
            "concepts": ["nudity", "watermark:1.5"],
            "strength": 3,
            "modes": ["strict", "adaptive"],
            "end": 0.75,
            "users_may_add_concepts": True,
            "journal": {"days": 90},
        },
    )
    answer = check(good)
    assert answer.returncode == 0
    first, *lines = answer.stdout.splitlines()
    assert str(good) in first
    told = dict(re.split(r":\s+", line, maxsplit=1) for line in lines)
    assert told["hash"] == read_policy(good).hash
    assert told["concepts"] == "nudity, watermark:1.5"
    assert told["least strength"] == "3"
    assert told["modes"] == "strict, adaptive"
    assert told["window"] == "0 to 0.75 of sampling"
    assert told["users may"].startswith("add concepts of their own; choose one of these modes;")
    assert told["journal"] == "kept for 90 days, without prompts"
    strict = check(write(tmp_path, {"concepts": ["nudity"], "journal": {"keep": False}})).stdout
    assert re.search(r"users may: +not add concepts of their own; not choose the mode;", strict)
    assert re.search(r"journal: +not kept", strict)
    bad = write(tmp_path, '{"concepts": ["nudity"],\n"strength": 0}')
    answer = check(bad)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert f"{bad}, line 2: EIUP: strength is 0" in answer.stderr


def test_the_check_of_a_file_has_a_help(tmp_path):
    command = [sys.executable, "-m", "eiup.policy_file"]
    help_ = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert help_.returncode == 0
    assert "FILE" in help_.stdout
    wrong = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "usage" in wrong.stderr


# --------------------------------------------------------------------------------- while the server runs


def test_a_good_version_is_taken_over_once(tmp_path):
    path = write(tmp_path, {"concepts": ["nudity"]})
    followed = PolicyFile(path)
    first = followed.policy
    assert followed.follow() is None
    write(tmp_path, {"concepts": ["nudity", "gore"]})
    assert followed.policy == first
    change = followed.follow()
    assert change.new
    assert followed.policy.hash in change.message
    assert [c.text for c in followed.policy.concepts] == ["nudity", "gore"]
    assert followed.follow() is None


@pytest.mark.parametrize("broken", ["{", '{"concepts": []}', None], ids=["no JSON", "no concepts", "deleted"])
def test_a_broken_version_keeps_the_last_good_one_in_force(tmp_path, broken):
    path = write(tmp_path, {"concepts": ["nudity"]})
    followed = PolicyFile(path)
    first = followed.policy
    if broken is None:
        path.unlink()
    else:
        path.write_text(broken)
    change = followed.follow()
    assert not change.new
    assert str(path) in change.cause
    # Users are told this.
    assert str(tmp_path) not in change.message
    assert first.hash in change.message
    assert followed.policy == first
    assert followed.problem in change.message
    assert followed.follow() is None
    write(tmp_path, {"concepts": ["nudity"]})
    assert "can be read again" in followed.follow().message
    assert followed.problem is None


def test_a_preset_of_the_policy_that_changes_is_taken_over(tmp_path):
    (tmp_path / "sets").mkdir()
    preset = tmp_path / "sets" / "mine.txt"
    preset.write_text("gore")
    followed = PolicyFile(write(tmp_path, {"concepts": ["@mine"], "presets": "sets"}))
    preset.write_text("gore\nblood")
    assert followed.follow().new
    preset.write_text("# nothing")
    assert not followed.follow().new
    assert len(followed.policy.concepts) == 2


def test_a_malformed_policy_is_wrong_from_the_start(tmp_path):
    with pytest.raises(PolicyError, match="line 1"):
        PolicyFile(write(tmp_path, "{"))
