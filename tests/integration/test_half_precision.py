"""Every mode in half precision, as users of the webui have it, with CUDA's rules on a CPU.

Toyland computes as in the webui: with half weights under autocast, around calibration too, or, as with
``--precision half``, without an autocast.
"""

import numpy as np
import pytest
import torch

from demo.toyland.model import WEIGHTS, load_checkpoint
from demo.toyland.oracle import load_oracle
from demo.toyland.pipeline import erase, generate
from eiup.calibration import CalibrationCache
from eiup.concepts import Concept
from eiup.request import MODES, ErasureRequest
from tests.cuda_rules import CudaRules

PRECISIONS = ("autocast-bfloat16", "autocast-float16", "half-bfloat16", "half-float16")
MOST_USED_AND_COARSEST = ("autocast-float16", "half-bfloat16")
CONCEPT = "star"
SEEDS = range(16)
# Wizards come with stars in this model, also where their prompt does not say so.
PROMPTS = ["a wizard in a forest"] * 8 + ["a star above a house"] * 4 + ["a car in the snow"] * 4
WITH, WITHOUT = "a wizard in a forest", "a car in the snow"
STEPS = 10


class Toyland:
    """The model in one precision, and its calibrations, of which there are none at first."""

    def __init__(self, precision, folder):
        self.model = load_checkpoint(WEIGHTS / "toyland.safetensors").to_precision(precision)
        self.cache = CalibrationCache(folder)

    def request(self, mode, **fields):
        return ErasureRequest(True, (Concept(CONCEPT),), mode=mode, **fields)

    def generate(self, prompts, seeds, mode=None, steps=STEPS, **fields):
        request = self.request(mode, **fields) if mode else None
        with CudaRules():
            return generate(self.model, prompts, seeds, request, steps=steps, cache=self.cache)

    @torch.no_grad()
    def probe(self):
        with CudaRules(), self.model.autocast():
            return erase(self.model, self.request("adaptive"), self.cache).watch.sight._directions[0]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return Toyland("full", tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module", params=PRECISIONS)
def half(request, tmp_path_factory):
    return Toyland(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def oracle():
    return load_oracle()


@pytest.fixture(scope="module")
def plain(half):
    """An image with the concept and one without, without erasure."""
    return half.generate([WITH, WITHOUT], [0, 2])[0]


def shows(oracle, images):
    return [judgement.shows(CONCEPT) for judgement in oracle.judge(list(images))]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_erases(half, plain, oracle, mode):
    images, evidence = half.generate([WITH, WITHOUT], [0, 2], mode)
    assert shows(oracle, plain) == [True, False]
    assert shows(oracle, images) == [False, False]
    assert evidence[0].concepts[0].share > 0
    assert np.isfinite(evidence[0].concepts[0].presence)
    if mode == "adaptive":
        # As the twin that is made to compare: nothing of it is erased.
        assert np.array_equal(images[1], plain[1])


@pytest.mark.slow
def test_preserve_and_maps(half, plain, oracle):
    images, evidence = half.generate([WITH, WITHOUT], [0, 2], "adaptive", preserve=True, maps=True)
    assert shows(oracle, images) == [False, False]
    assert np.array_equal(images[1], plain[1])
    kept = (images[0] == plain[0]).all(axis=-1).mean()
    assert kept > 0.3
    assert evidence[0].concepts[0].map


@pytest.mark.slow
def test_maps_of_a_mode_that_does_not_look(half):
    _, evidence = half.generate([WITH], [0], "constant", maps=True)
    assert evidence[0].concepts[0].map


@pytest.mark.slow
def test_what_a_probe_looks_for_is_what_it_is_in_float32(half, full):
    assert torch.nn.functional.cosine_similarity(half.probe(), full.probe(), dim=0) >= 0.99


# ----------------------------------------------------------------------------------- against float32


@pytest.fixture(scope="module")
def in_float32(full):
    """What float32 makes of the sixteen."""
    return full.generate(PROMPTS, SEEDS, "adaptive")


@pytest.mark.slow
@pytest.mark.parametrize("half", MOST_USED_AND_COARSEST, indirect=True)
def test_decides_as_in_float32(half, in_float32, oracle):
    images, evidence = half.generate(PROMPTS, SEEDS, "adaptive")
    expected, expected_evidence = in_float32
    assert shows(oracle, images) == shows(oracle, expected)
    for index in SEEDS:
        measured, wanted = evidence[index].concepts[0], expected_evidence[index].concepts[0]
        assert measured.presence == pytest.approx(wanted.presence, abs=0.03), index
        assert measured.gate == pytest.approx(wanted.gate, abs=0.03), index
        assert measured.begun_anew == wanted.begun_anew, index
