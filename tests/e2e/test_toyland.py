"""What is erased is gone from the picture, and its subject stays: judged by Toyland's oracle."""

from __future__ import annotations

import pytest

from demo.cases import cases
from demo.toyland.oracle import WEIGHTS, load_oracle
from demo.toyland.world import IMPLICIT_CONCEPTS
from tests.e2e.support import erasing, same, scene

IMAGES = 8


@pytest.fixture(scope="module")
def oracle(webui):
    if not WEIGHTS.is_file():
        pytest.skip("Toyland has not been trained")
    if "toyland" not in str(webui.get("/sdapi/v1/options").json()["sd_model_checkpoint"]).lower():
        pytest.skip("this webui does not use Toyland's checkpoint")
    return load_oracle()


def judge(webui, oracle, group, **more):
    payloads = [scene(prompt=case["prompt"], seed=case["seed"], steps=20, **more) for case in group]
    return oracle.judge([webui.txt2img(**payload).images[0] for payload in payloads])


@pytest.mark.parametrize(
    ("concept", "mode"), [*((concept, "constant") for concept in IMPLICIT_CONCEPTS), ("stamp", "adaptive")]
)
def test_a_concept_that_the_prompt_does_not_name_is_erased(webui, oracle, concept, mode):
    group = cases(concept, "implicit", IMAGES)
    assert not any(concept in case["prompt"] for case in group)
    before = judge(webui, oracle, group)
    after = judge(webui, oracle, group, **erasing(concept, mode=mode))
    assert sum(judgement.shows(concept) for judgement in before) >= IMAGES - 2
    assert sum(judgement.shows(concept) for judgement in after) <= 1
    kept = sum(judgement.subject == case["subject"] for judgement, case in zip(after, group))
    assert kept >= IMAGES - 1


@pytest.mark.parametrize("concept", IMPLICIT_CONCEPTS)
def test_adaptive_erasure_keeps_nearly_every_image_that_shows_nothing_of_the_concept(webui, concept):
    same_as_before = []
    for case in cases(concept, "unrelated", IMAGES):
        payload = scene(prompt=case["prompt"], seed=case["seed"], steps=20)
        before = webui.txt2img(**payload)
        after = webui.txt2img(**payload, **erasing(concept, mode="adaptive"))
        same_as_before.append(same(after.images[0], before.images[0]))
    assert sum(same_as_before) >= IMAGES - 2


def test_a_concept_that_the_prompt_names_is_erased(webui, oracle):
    group = cases("star", "explicit", IMAGES)
    assert sum(j.shows("star") for j in judge(webui, oracle, group)) >= IMAGES // 2
    assert sum(j.shows("star") for j in judge(webui, oracle, group, **erasing("star"))) <= 1


def test_two_concepts_are_erased_together(webui, oracle):
    prompts = [{"prompt": "a wizard at night", "seed": seed} for seed in range(500, 504)]
    after = judge(webui, oracle, prompts, **erasing("star", "moon"))
    assert sum(j.shows("star") + j.shows("moon") for j in after) <= 1
    assert sum(j.subject == "wizard" for j in after) >= len(prompts) - 1
