"""The eraser on the genuine ldm U-Net and its cross-attention."""

import math

import pytest
import torch
from ldm.modules.attention import CrossAttention

from eiup.eraser import ConceptEraser
from eiup.errors import ErasureError, UnsupportedModelError
from eiup.rows import Row, conditional_then_unconditional
from eiup.schedule import Window
from tests.integration.support import EMPTY, WIDTH, OneLayer, inputs, make_concept, make_unet, sdp_forward


def hooks_on(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def naive(layer, x, context, concepts, coefficients):
    """The equation written out in float64, one head, position and token at a time."""
    as64 = {name: value.double() for name, value in layer.state_dict().items()}
    q = x.double() @ as64["to_q.weight"].T
    width = q.shape[-1] // layer.heads

    def attend(context64):
        k, v = context64 @ as64["to_k.weight"].T, context64 @ as64["to_v.weight"].T
        maps, values = [], []
        for head in range(layer.heads):
            part = slice(head * width, (head + 1) * width)
            logits = q[..., part] @ k[..., part].transpose(-1, -2) / math.sqrt(width)
            exponentials = (logits - logits.amax(-1, keepdim=True)).exp()
            maps.append(exponentials / exponentials.sum(-1, keepdim=True))
            values.append(v[..., part])
        return maps, values

    maps, values = attend(context.double())
    heads = [m @ v for m, v in zip(maps, values)]
    for concept, coefficient in zip(concepts, coefficients):
        maps, values = attend(concept.context.double())
        for head in range(layer.heads):
            for token in concept.tokens:
                feature = maps[head][..., token : token + 1] * values[head][token]
                heads[head] = heads[head] - coefficient * feature
    return torch.cat(heads, dim=-1) @ as64["to_out.0.weight"].T + as64["to_out.0.bias"]


@pytest.mark.parametrize("forward", ["ldm", "sdp"])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("tokens", [77, 154])
def test_the_hooked_output_is_the_equation(forward, batch, tokens, monkeypatch):
    if forward == "sdp":
        monkeypatch.setattr(CrossAttention, "forward", sdp_forward)
    model = OneLayer().requires_grad_(False)
    assert model.attn2.to_out[0].bias.any()
    concepts = [make_concept("a", (1, 2, 3), 1.5, 1), make_concept("b", (1,), 0.7, 2)]
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(batch, 64, 32, generator=generator)
    context = torch.randn(batch, tokens, WIDTH, generator=generator)
    with ConceptEraser(model, concepts, EMPTY) as eraser:
        eraser.rows = tuple(Row(i, True, 1) for i in range(batch))
        output = model(x, torch.full((batch,), 500.0), context)
    expected = naive(model.attn2, x, context, concepts, [1.5, 0.7])
    assert (output.double() - expected).abs().max() < 1e-5
    assert (output - model(x, None, context)).abs().max() > 1e-3


def test_only_rows_that_add_to_the_prediction_are_touched():
    unet = make_unet()
    x, t, context = inputs(5)
    plain = unet(x, t, context=context)
    with ConceptEraser(unet, [make_concept(weight=2.0)], EMPTY) as eraser:
        eraser.rows = (
            Row(0, True, 1),
            Row(0, True, -1),
            Row(1, True, 1),
            Row(0, False, 0),
            Row(1, False, 0.5),
        )
        erased = unet(x, t, context=context)
    changed = [not torch.equal(a, b) for a, b in zip(plain, erased)]
    assert changed == [True, False, True, False, True]


def test_a_row_is_erased_the_same_alone_and_in_a_batch():
    unet = make_unet()
    x, t, context = inputs(4)
    concepts = [make_concept(weight=2.0), make_concept("moon", (1,), 1.0, 2)]
    with ConceptEraser(unet, concepts, EMPTY) as eraser:
        eraser.rows = conditional_then_unconditional(2)
        together = unet(x, t, context=context)
        for index in range(4):
            eraser.rows = (Row(0, index < 2, 1 if index < 2 else -1),)
            alone = unet(x[index : index + 1], t[:1], context=context[index : index + 1])
            torch.testing.assert_close(alone[0], together[index], atol=1e-5, rtol=1e-5)


def test_a_concept_suppresses_the_same_beside_others():
    model = OneLayer().requires_grad_(False)
    x, context = torch.randn(1, 64, 32), torch.randn(1, 77, WIDTH)

    def output(*concepts):
        with ConceptEraser(model, concepts, EMPTY) as eraser:
            eraser.rows = (Row(0, True, 1),)
            return model(x, torch.tensor([500.0]), context)

    star, moon = make_concept(), make_concept("moon", (1,), 1.0, 2)
    plain = model(x, None, context)
    apart = (output(star) - plain) + (output(moon) - plain)
    torch.testing.assert_close(output(star, moon) - plain, apart, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weights", [(0.0,), (0.0, 0.0)])
def test_weight_zero_changes_no_bit(weights):
    unet = make_unet()
    x, t, context = inputs(2)
    plain = unet(x, t, context=context)
    concepts = [make_concept(str(i), (1,), w, i) for i, w in enumerate(weights)]
    with ConceptEraser(unet, concepts, EMPTY) as eraser:
        eraser.rows = conditional_then_unconditional(1)
        assert torch.equal(unet(x, t, context=context), plain)


def test_outside_of_the_window_no_bit_changes():
    unet = make_unet()
    x, _, context = inputs(1)
    with ConceptEraser(unet, [make_concept(weight=2.0)], EMPTY, Window(0.0, 0.4)) as eraser:
        for timestep, inside in ((900.0, True), (300.0, False)):
            t = torch.tensor([timestep])
            eraser.rows = (Row(0, True, 1),)
            erased = unet(x, t, context=context)
            plain = make_unet()(x, t, context=context)
            assert torch.equal(erased, plain) is not inside


def test_hooks_are_gone_after_an_exception():
    unet = make_unet()
    x, t, context = inputs(1)
    plain = unet(x, t, context=context)

    def explode(module, args):
        raise RuntimeError("in the middle")

    handle = unet.middle_block.register_forward_pre_hook(explode)

    def generate():
        with ConceptEraser(unet, [make_concept()], EMPTY) as eraser:
            eraser.rows = (Row(0, True, 1),)
            unet(x, t, context=context)

    with pytest.raises(RuntimeError, match="in the middle"):
        generate()
    handle.remove()
    assert hooks_on(unet) == 0
    assert torch.equal(unet(x, t, context=context), plain)


@pytest.mark.parametrize("rows", [None, (Row(0, True, 1),)])
def test_a_call_whose_rows_are_not_known_is_an_error(rows):
    unet = make_unet()
    x, t, context = inputs(2)
    with ConceptEraser(unet, [make_concept()], EMPTY) as eraser:
        eraser.rows = rows
        with pytest.raises(ErasureError, match="cannot be told"):
            unet(x, t, context=context)


def test_rows_count_for_one_call_only():
    unet = make_unet()
    x, t, context = inputs(1)
    with ConceptEraser(unet, [make_concept()], EMPTY) as eraser:
        eraser.rows = (Row(0, True, 1),)
        unet(x, t, context=context)
        with pytest.raises(ErasureError, match="none were announced"):
            unet(x, t, context=context)


def test_a_layer_that_is_bypassed_is_an_error():
    unet = make_unet()
    x, t, context = inputs(1)
    layer = next(m for n, m in unet.named_modules() if n.endswith("attn2"))
    with ConceptEraser(unet, [make_concept()], EMPTY) as eraser:
        layer.forward = lambda x, context=None, mask=None: x
        eraser.rows = (Row(0, True, 1),)
        with pytest.raises(ErasureError, match="layers were corrected"):
            unet(x, t, context=context)


def test_a_model_without_text_cross_attention_is_refused():
    with pytest.raises(UnsupportedModelError, match="SD1, SD2 or SDXL"):
        ConceptEraser(torch.nn.Linear(4, 4), [make_concept()], EMPTY)


def test_a_concept_without_tokens_is_refused():
    with pytest.raises(ErasureError, match="no tokens"):
        make_concept(tokens=())


def test_presence_is_one_for_the_concept_itself_and_zero_for_the_empty_prompt():
    unet = make_unet()
    concept = make_concept(weight=2.0)
    x, t, _ = inputs(2)
    with ConceptEraser(unet, [concept], EMPTY) as eraser:
        eraser.rows = (Row(0, True, 1), Row(1, True, 1))
        unet(x, t, context=torch.stack([concept.context, EMPTY]))
    images = eraser.evidence()
    assert images[0].concepts[0].presence == pytest.approx(1.0, abs=1e-4)
    assert images[1].concepts[0].presence == pytest.approx(0.0, abs=1e-4)


def test_the_share_is_the_norm_of_what_was_subtracted():
    model = OneLayer().requires_grad_(False)
    x, context = torch.randn(1, 64, 32), torch.randn(1, 77, WIDTH)
    seen = []
    watch = model.attn2.to_out[0].register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    model(x, None, context)
    watch.remove()
    with ConceptEraser(model, [make_concept(weight=1.7)], EMPTY) as eraser:
        watch = model.attn2.to_out[0].register_forward_pre_hook(lambda m, a: seen.append(a[0]))
        eraser.rows = (Row(0, True, 1),)
        model(x, torch.tensor([500.0]), context)
        watch.remove()
    plain, erased = seen
    share = eraser.evidence()[0].concepts[0].share
    assert share == pytest.approx(float((plain - erased).norm() / plain.norm()), rel=1e-3)


def test_many_concepts_in_slices_equal_those_at_once(monkeypatch):
    unet = make_unet()
    x, t, context = inputs(1)
    concepts = [make_concept(str(i), (1, 2), 1.0, i) for i in range(8)]

    def run():
        with ConceptEraser(unet, concepts, EMPTY) as eraser:
            eraser.rows = (Row(0, True, 1),)
            return unet(x, t, context=context)

    at_once = run()
    monkeypatch.setattr("eiup.attention._ELEMENTS_CPU", 3 * 64 * 32)
    torch.testing.assert_close(run(), at_once, atol=1e-5, rtol=1e-5)


def test_rows_of_one_batch_can_have_different_concepts_erased():
    unet = make_unet()
    x, t, context = inputs(2)
    concepts = [make_concept(weight=2.0), make_concept("moon", (1,), 1.5, 2)]
    with ConceptEraser(unet, concepts, EMPTY) as eraser:
        eraser.rows = (Row(0, True, 1, concept=0), Row(1, True, 1, concept=1))
        together = unet(x, t, context=context)
    for index, concept in enumerate(concepts):
        with ConceptEraser(unet, [concept], EMPTY) as eraser:
            eraser.rows = (Row(0, True, 1),)
            alone = unet(x[index : index + 1], t[:1], context=context[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], atol=1e-5, rtol=1e-5)


def test_a_layer_that_runs_twice_is_an_error():
    unet = make_unet()
    x, t, context = inputs(1)
    layer = next(m for n, m in unet.named_modules() if n.endswith("attn2"))
    original = layer.forward
    with ConceptEraser(unet, [make_concept()], EMPTY) as eraser:
        layer.forward = lambda *args, **kwargs: original(*args, **kwargs) + original(*args, **kwargs)
        eraser.rows = (Row(0, True, 1),)
        with pytest.raises(ErasureError, match="layers were corrected"):
            unet(x, t, context=context)
