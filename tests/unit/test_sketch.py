"""Sketches of models made of linear layers."""

import pytest
import torch

from eiup.sketch import TOLERANCE, distance, sketches

WIDTHS = (16, 48, 48, 32, 64, 64, 24, 48)


def make_layers():
    torch.manual_seed(2)
    return [torch.nn.Linear(40, width, bias=False).requires_grad_(False) for width in WIDTHS]


def make_texts(*lengths):
    return [torch.randn(n, 40, generator=torch.Generator().manual_seed(n)) for n in lengths]


def sketch(texts, layers):
    return sketches(texts, layers, lambda layer, x: layer(x))


@pytest.mark.parametrize("share", [0.02, 0.05, 0.2])
def test_the_distance_is_about_the_share_by_which_values_differ(share):
    layers, others, texts = make_layers(), make_layers(), make_texts(2, 3, 4)
    for layer in others:
        change = torch.randn(layer.weight.shape)
        layer.weight.add_(share * change * layer.weight.norm() / change.norm())
    for one, other in zip(sketch(texts, layers), sketch(texts, others)):
        assert share / 2 < distance(one, other) < 1.6 * share
        assert distance(one, other) > TOLERANCE


def test_a_text_has_its_sketch_whatever_it_is_sketched_with():
    layers, texts = make_layers(), make_texts(2, 3, 5)
    for text, together in zip(texts, sketch(texts, layers)):
        (alone,) = sketch([text], layers)
        assert distance(alone, together) < 1e-5


def test_the_order_of_tokens_and_how_large_values_are_count():
    layers, (text,) = make_layers(), make_texts(3)
    (one,) = sketch([text], layers)
    for other in (text.flip(0), 1.1 * text):
        assert distance(one, *sketch([other], layers)) > TOLERANCE


def test_what_is_no_number_is_near_nothing():
    layers, (text,) = make_layers(), make_texts(3)
    (broken,) = sketch([text * float("inf")], layers)
    assert not distance(broken, broken) <= TOLERANCE
    assert not distance(broken, ()) <= TOLERANCE
