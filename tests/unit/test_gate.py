"""The gate on real linear layers and contexts made by hand."""

import pytest
import torch

from eiup.calibration import ANCHORS, NEUTRAL_PROMPTS, CalibrationCache
from eiup.gate import EMPHASIS, MAX_FACTOR, PromptGate, calibrate

WIDTH, LENGTH = 32, 8
WORDS = ["star", "wizard", "night", "a", "picture", "of", "thing", "some", "art", "moon"]


class Words:
    """Encodes texts word by word, each word as a vector of its own; counts how often it is asked."""

    def __init__(self):
        vectors = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)))[0]
        self.vectors = dict(zip(WORDS, vectors))
        self.padding = vectors[-1]
        # In this model, wizards come with stars.
        self.vectors["wizard"] = self.vectors["wizard"] + 0.9 * self.vectors["star"]
        self.calls = 0

    def __call__(self, texts):
        self.calls += 1
        contexts = self.padding.repeat(len(texts), LENGTH, 1)
        for row, text in enumerate(texts):
            weight = 1.0
            for position, word in enumerate(text.split()[: LENGTH - 1], start=1):
                word, _, emphasis = word.partition(":")
                weight = float(emphasis or 1)
                if word in self.vectors:
                    contexts[row, position] = weight * self.vectors[word]
        return contexts


def values(layer, contexts):
    return layer(contexts)


@pytest.fixture
def encode():
    return Words()


@pytest.fixture
def layers():
    torch.manual_seed(1)
    layers = {name: torch.nn.Linear(WIDTH, WIDTH, bias=False) for name in ("first", "second")}
    for layer in layers.values():
        torch.nn.init.orthogonal_(layer.weight)
        layer.requires_grad_(False)
    return layers


def make_gate(encode, layers, concept, cache=None):
    context, empty = encode([concept, ""])
    tokens = range(1, 1 + len(concept.split()))
    calibration = calibrate(concept, context, tokens, empty, layers, values, encode, cache)
    return PromptGate(layers, values, context[None], [tokens], empty, [calibration])


def test_a_token_is_found_in_every_chunk_of_a_long_prompt(encode, layers):
    chunks = encode(["moon", "a star"])
    decision = make_gate(encode, layers, "star")(chunks.flatten(0, 1)[None])
    assert decision.presence.item() == pytest.approx(1, abs=0.05)


def test_what_all_texts_have_in_common_does_not_count(encode, layers):
    def decide():
        return make_gate(encode, layers, "star")(encode(["a wizard", "a moon"]))

    plain = decide()
    common = 5 * encode.vectors["art"]
    encode.vectors = {word: vector + common for word, vector in encode.vectors.items()}
    encode.padding = encode.padding + common
    torch.testing.assert_close(decide().presence, plain.presence, atol=0.15, rtol=0)


def test_the_gate_opens_for_what_brings_the_concept_in(encode, layers):
    gate = make_gate(encode, layers, "star")
    decision = gate(encode(["a star", "a wizard", "a moon", "a picture of thing", ""]))
    assert decision.gate[:, 0].tolist() == [1, 1, 0, 0, 0]
    assert decision.presence[1, 0] == pytest.approx(0.67, abs=0.05)  # the angle's cosine


def test_emphasis_raises_the_factor_up_to_a_bound(encode, layers):
    decision = make_gate(encode, layers, "star")(encode(["star:0.9", "star:1.6", "star:50"]))
    assert decision.factor[:, 0].tolist() == pytest.approx([1, 1.6**EMPHASIS, MAX_FACTOR], abs=0.01)


def test_an_article_in_the_concept_does_not_open_the_gate(encode, layers):
    decision = make_gate(encode, layers, "a star")(encode(["a moon", "some star"]))
    assert decision.gate[:, 0].tolist() == [0, 1]


def test_a_concept_that_nothing_tells_from_neutral_prompts_is_always_erased(encode, layers):
    decision = make_gate(encode, layers, "a")(encode(["moon", ""]))
    assert decision.gate[:, 0].tolist() == [1, 1]
    assert decision.factor[:, 0].tolist() == [1, 1]


def test_a_layer_that_does_not_separate_is_left_out(encode, layers):
    # A layer that sees everything alike.
    torch.nn.init.constant_(layers["second"].weight, 0.1)
    encode.vectors = {word: vector + 1 for word, vector in encode.vectors.items()}
    context, empty = encode(["star", ""])
    calibration = calibrate("star", context, [1], empty, layers, values, encode)
    assert calibration.keeps()["second"] == [False]


def test_a_calibration_is_read_back_from_its_file(tmp_path, encode, layers):
    cache = CalibrationCache(tmp_path / "cache")
    first = make_gate(encode, layers, "star", cache)(encode(["wizard"]))
    calls = encode.calls
    second = make_gate(encode, layers, "star", cache)(encode(["wizard"]))
    assert encode.calls == calls + 2  # the concept and the prompt, no neutral prompts
    assert torch.equal(first.presence, second.presence)


def test_another_model_has_a_calibration_of_its_own(tmp_path, encode, layers):
    cache = CalibrationCache(tmp_path)
    make_gate(encode, layers, "star", cache)
    layers["first"].weight.mul_(1.01)
    make_gate(encode, layers, "star", cache)
    encode.vectors["star"] = encode.vectors["star"] * 1.01
    make_gate(encode, layers, "star", cache)
    assert len(list(tmp_path.glob("*.json"))) == 3


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"neutral": {"first": ["x"]}, "anchor": {}}', '{"neutral": 3}']
)
def test_a_broken_file_is_made_anew(tmp_path, encode, layers, content):
    cache = CalibrationCache(tmp_path)
    whole = make_gate(encode, layers, "star", cache)(encode(["wizard"]))
    (file,) = tmp_path.glob("*.json")
    good = file.read_text()
    file.write_text(content)
    assert torch.equal(make_gate(encode, layers, "star", cache)(encode(["wizard"])).presence, whole.presence)
    assert file.read_text() == good


def test_neutral_prompts_and_anchors_are_each_different():
    assert len(set(NEUTRAL_PROMPTS)) == len(NEUTRAL_PROMPTS)
    assert all("{}" in anchor for anchor in ANCHORS)
