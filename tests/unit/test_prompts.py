"""Prompts in the webui's syntax, as the benchmark encodes them."""

import pytest
import torch

from demo.attacks import ATTACKS, attack_cases
from demo.toyland.model import WEIGHTS, load_checkpoint
from demo.toyland.prompts import (
    ScheduledPrompts,
    chunks_of,
    encode_chunks,
    stack_contexts,
    textual_inversion,
)


@pytest.fixture(scope="module")
def model():
    return load_checkpoint(WEIGHTS / "toyland.safetensors")


def encode(model, text):
    return encode_chunks(model, chunks_of(model, text))


def test_a_plain_prompt_is_what_the_model_makes_of_it(model):
    text = "a picture of a wizard in a forest, old"
    torch.testing.assert_close(encode(model, text), model.get_learned_conditioning([text])[0])


def test_emphasis_multiplies_tokens_and_keeps_the_mean(model):
    plain, emphasised = encode(model, "a cat with a star"), encode(model, "a cat with a (star:2)")
    ratio = emphasised / plain
    scale = ratio[0, 0]
    torch.testing.assert_close(emphasised.mean(), plain.mean())
    torch.testing.assert_close(emphasised[5], 2 * scale * plain[5])
    torch.testing.assert_close(emphasised[2], scale * plain[2])


def test_chunks(model):
    assert [len(chunk) for chunk in chunks_of(model, "a cat BREAK a star")] == [2, 2]
    assert [len(chunk) for chunk in chunks_of(model, "cat " * 80)] == [75, 5]
    assert encode(model, "a cat BREAK a star").shape == (154, 128)
    torch.testing.assert_close(encode(model, "a cat BREAK a star")[77:], encode(model, "a star"))


def test_shorter_contexts_are_followed_by_the_empty_prompt(model):
    short, long, empty = encode(model, "a cat"), encode(model, "a cat BREAK a star"), encode(model, "")
    stacked = stack_contexts([short, long], empty)
    torch.testing.assert_close(stacked[0], torch.cat([short, empty]))
    torch.testing.assert_close(stacked[1], long)


def test_subprompts_are_combined_by_their_weights(model):
    prompts = ScheduledPrompts(model, ["a cat AND a star :0.5", "a dog"], steps=4)
    assert prompts.images == [0, 0, 1]
    assert prompts.weights == [[1.0, 0.5], [1.0]]
    rows, base = torch.randn(3, 4, 2, 2), torch.randn(2, 4, 2, 2)
    combined = prompts.combine(rows, base)
    torch.testing.assert_close(combined[0], base[0] + (rows[0] - base[0]) + 0.5 * (rows[1] - base[0]))
    torch.testing.assert_close(combined[1], rows[2])


def test_negative_prompts_are_not_composed(model):
    assert ScheduledPrompts(model, ["a cat AND a star"], 4, composed=False).images == [0]


def test_edits_happen_at_their_step(model):
    prompts = ScheduledPrompts(model, ["a [cat:star:0.5]", "a [cat|star]"], steps=4)
    assert [prompts.texts(step)[0] for step in range(4)] == ["a cat", "a cat", "a cat", "a star"]
    assert [prompts.texts(step)[1] for step in range(1, 5)] == ["a cat", "a star", "a cat", "a star"]


def test_an_embedding_stands_for_its_word(model):
    (token,) = model.cond_stage_model.tokenizer("star", add_special_tokens=False).input_ids
    vector = model.cond_stage_model.transformer.text_model.embeddings.token_embedding.weight[token]
    with textual_inversion(model, vector):
        torch.testing.assert_close(encode(model, "a cat with a *"), encode(model, "a cat with a star"))
    assert not torch.allclose(encode(model, "a cat with a *"), encode(model, "a cat with a star"))


@pytest.mark.parametrize("kind", ATTACKS)
def test_attacks_name_their_concept_but_for_embeddings(kind):
    for case in attack_cases("moon", kind, 8):
        text = case["prompt"] + case.get("negative_prompt", "")
        assert ("moon" in text) == (kind != "embedding")
        assert "night" not in text.split()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sun", "split", 1), "concept: 'sun'"),
        (("star", "x", 1), "kind: 'x'"),
        (("star", "split", 1001), "count"),
    ],
)
def test_wrong_attacks_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        attack_cases(*arguments)
