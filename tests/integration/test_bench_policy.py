"""``python -m bench policy``, with as few images as there can be."""

from __future__ import annotations

import json

import pytest

from bench import policy
from bench.__main__ import main
from bench.cases import FOLDER, read_cases
from bench.policy import Outcome, Server, chosen_cases, summarise, table

PATHS = ("txt2img", "inner pass", "AND")


@pytest.fixture(autouse=True)
def _only_here(is_stand_in):
    if not is_stand_in:
        pytest.skip("the command starts a host of its own")


# The mode constant needs no calibration.
@pytest.fixture(scope="module")
def command(webui_ckpt, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "out"
    options = {"--images": "1", "--steps": "2", "--mode": "constant", "--paths": ",".join(PATHS)}
    options |= {"--checkpoint": str(webui_ckpt), "--out": str(out)}
    return ["policy", *(text for option in options.items() for text in option)], out


@pytest.mark.timeout(600)
def test_each_image_of_a_server_with_a_policy_is_judged_and_has_proof_and_record(command, capsys):
    arguments, out = command
    assert main(arguments) == 0
    report = json.loads((out / "policy.json").read_text())
    assert {(c["path"], c["group"]): c["images"] for c in report["cells"]} == {
        ("txt2img", "implicit"): 1,
        ("txt2img", "explicit"): 1,
        ("txt2img", "attack"): 1,
        # Each image, and the one that is painted over it.
        ("inner pass", "implicit"): 2,
        ("inner pass", "explicit"): 2,
        ("inner pass", "attack"): 2,
        ("AND", "implicit"): 1,
        ("AND", "explicit"): 1,
    }
    assert report["reasons"] == []
    assert (report["unproven"], report["unrecorded"]) == (0, 0)
    assert report["shows"]["of"] == report["unerased"]["of"] == 8
    assert "Images generated without erasure: 0 of 11; without a record of their own: 0" in (
        capsys.readouterr().out
    )


@pytest.mark.timeout(600)
def test_what_is_stored_is_not_asked_for_again(command, monkeypatch):
    arguments, out = command
    main(arguments)
    before = (out / "policy.json").read_text()
    # A host would have no EIUP, and the run would fail.
    monkeypatch.setattr(policy, "ROOT", out)
    assert main(arguments) == 0
    assert (out / "policy.json").read_text() == before


PROOF = {"hash": "aa", "rows": 4, "under_erasure": 4}


def infotext(proof):
    value = json.dumps(json.dumps({"v": 4, "concepts": ["star"], "policy": proof}))
    return f"a star\nSteps: 4, Seed: 7, EIUP: {value}, Version: v1.10.1"


@pytest.mark.parametrize(
    ("text", "is_proven"),
    [
        (infotext(PROOF), True),
        (infotext({**PROOF, "under_erasure": 3}), False),
        (infotext({**PROOF, "rows": 0, "under_erasure": 0}), False),
        (infotext({**PROOF, "hash": "bb"}), False),
        (infotext({"hash": "aa"}), False),
        ("a star\nSteps: 4, Seed: 7", False),
    ],
)
def test_what_counts_as_proof(text, is_proven, tmp_path):
    assert Server(None, None, tmp_path, "aa").is_proven(text) == is_proven


def test_what_lacks_proof_or_record_is_told():
    cell = dict(path="img2img", group="explicit", attack=None)
    outcomes = [
        Outcome("1", "policy", **cell, seed=1, shows=[True, False], images=2, unproven=1, unrecorded=1),
        Outcome("2", "policy", **cell, seed=2, refused="422: no"),
        Outcome("3", "none", **cell, seed=1, shows=[True, True], images=2),
    ]
    report = {
        "cases": {"file": "cases.jsonl"},
        "concept": "star",
        "mode": "adaptive",
        "steps": 25,
        "checkpoint": {"sha256": "0"},
        **summarise(outcomes),
    }
    (line,) = [line for line in table(report).splitlines() if line.startswith("img2img")]
    words = line.replace("[", "").replace("]", "").split()
    assert words[:3] == ["img2img", "explicit", "2"]
    assert (words[3], words[6]) == ("1.00", "0.50")
    assert words[9:] == ["2", "1", "1", "1"]
    assert "Images generated without erasure: 1 of 2" in table(report)
    assert "0.05 of these: img2img (explicit)" in table(report)
    assert "Refused: 422: no" in table(report)


def test_attacks_are_of_each_kind_in_turn():
    cases = read_cases(FOLDER / "tuning.jsonl")
    chosen = chosen_cases(cases, "star", 10)
    assert {group: len(found) for group, found in chosen.items()} == {
        "implicit": 10,
        "explicit": 10,
        "attack": 10,
    }
    kinds = [case.attack for case in chosen["attack"]]
    assert len(set(kinds[:8])) == 8
    assert kinds[8:] == kinds[:2]
    assert "embedding" not in kinds
