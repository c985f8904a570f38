"""``python -m bench soak`` in short: random generations with random faults under a policy."""

from __future__ import annotations

import json

import pytest

from bench.soak import soak
from bench.soak_cases import draw
from demo.host import CHECKPOINT

GENERATIONS, SEED = 40, 3


@pytest.mark.timeout(1200)
def test_a_policy_holds_through_random_faults(is_stand_in, webui_ckpt, tmp_path):
    if not is_stand_in or webui_ckpt != CHECKPOINT:
        pytest.skip("a policy is named when a webui is started")
    report = soak(tmp_path, GENERATIONS, SEED, adaptive=False)
    assert report.violations == []
    assert report.generations == GENERATIONS
    outcomes = sum(report.outcomes.values(), start=type(next(iter(report.outcomes.values())))())
    assert outcomes["made"] >= 10
    assert outcomes["refused"] >= 5


def test_a_run_is_repeated_from_its_seed():
    def run(seed):
        cases = [draw(seed, index, "picture", ["Euler", "DDIM"]) for index in range(50)]
        return [json.dumps([case.path, case.payload, case.fault.breaks]) for case in cases]

    assert run(1) == run(1)
    assert run(1) != run(2)
