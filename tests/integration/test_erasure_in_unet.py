"""The eraser on the genuine ldm U-Net and its cross-attention."""

import math
import zlib

import pytest
import torch
from ldm.modules.attention import CrossAttention
from ldm.modules.diffusionmodules.openaimodel import UNetModel

from eiup import attention
from eiup.build import build_eraser
from eiup.eraser import ESCALATION, ConceptEraser, EncodedConcept, text_cross_attention
from eiup.errors import ErasureError, UnsupportedModelError
from eiup.preserve import Twin
from eiup.rows import Row, conditional_then_unconditional
from eiup.sampling import sample_erased
from eiup.schedule import Window
from eiup.watch import Denoiser, Probe, Watch, watch_layers

WIDTH = 48


def make_unet(seed=0):
    torch.manual_seed(seed)
    unet = UNetModel(
        image_size=8, in_channels=4, out_channels=4, model_channels=32, attention_resolutions=[1, 2],
        num_res_blocks=1, channel_mult=[1, 2], num_heads=4, use_spatial_transformer=True, context_dim=WIDTH,
        use_checkpoint=False, legacy=False,
    )  # fmt: skip
    for parameter in unet.parameters():
        if not parameter.any():  # ldm starts some layers at zero, which would hide everything
            torch.nn.init.normal_(parameter, std=0.1)
    return unet.eval().requires_grad_(False)


def make_concept(name="star", tokens=(1, 2), weight=1.0, seed=1):
    return EncodedConcept(
        name, torch.randn(77, WIDTH, generator=torch.Generator().manual_seed(seed)), tokens, weight
    )


EMPTY = torch.randn(77, WIDTH, generator=torch.Generator().manual_seed(99))


def inputs(batch, tokens=77, seed=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 4, 8, 8, generator=generator)
    context = torch.randn(batch, tokens, WIDTH, generator=generator)
    return x, torch.full((batch,), 500.0), context


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


def sdp_forward(self, x, context=None, mask=None):
    q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
    q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return self.to_out(out.transpose(1, 2).flatten(2))


class OneLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.attn2 = CrossAttention(32, WIDTH, heads=4, dim_head=16)

    def forward(self, x, timesteps, context):
        return self.attn2(x, context=context)


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
        with pytest.raises(ErasureError, match="were corrected"):
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
    monkeypatch.setattr("eiup.attention._SLICE_ELEMENTS_CPU", 8 * 77 * 4 * 3)
    torch.testing.assert_close(run(), at_once, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------ modes


def gated_eraser(unet, concepts, mode="adaptive", **options):
    """An eraser whose text encoder knows the concepts, and gives any other text noise of its own."""
    known = {concept.name: concept.context for concept in concepts}

    def encode(texts):
        contexts = []
        for text in texts:
            words = text.split()
            noise = torch.randn(77, WIDTH, generator=torch.Generator().manual_seed(zlib.crc32(text.encode())))
            contexts.append(next((known[word] for word in words if word in known), 0.3 * noise + EMPTY))
        return torch.stack(contexts)

    denoiser = Denoiser(None, torch.linspace(0.9999, 0.005, 1000), (4, 16, 16))
    # There is nothing to see in what a random model paints: strict has no watch.
    eraser = build_eraser(unet, concepts, EMPTY, encode, denoiser, mode="strict", **options)
    eraser.mode = mode
    return eraser


def test_a_gate_that_stays_shut_changes_no_bit_of_its_row():
    unet = make_unet()
    concept = make_concept(weight=2.0)
    x, t, context = inputs(3)
    context = torch.stack([EMPTY, concept.context, EMPTY + 0.05 * context[2]])
    plain = unet(x, t, context=context)
    with gated_eraser(unet, [concept]) as eraser:
        eraser.rows = tuple(Row(i, True, 1) for i in range(3))
        erased = unet(x, t, context=context)
    assert [not torch.equal(a, b) for a, b in zip(plain, erased)] == [False, True, False]
    images = eraser.evidence()
    assert [images[i].concepts[0].gate for i in range(3)] == [0, 1, 0]
    assert [images[i].concepts[0].share > 0 for i in range(3)] == [False, True, False]
    assert [images[i].rows for i in range(3)] == [0, 1, 0]


def test_with_all_gates_shut_nothing_is_computed_after_the_first_call(monkeypatch):
    unet = make_unet()
    x, t, _ = inputs(1)
    calls = []
    original = attention.attention
    gated = gated_eraser(unet, [make_concept(weight=2.0)])
    monkeypatch.setattr(attention, "attention", lambda *args: calls.append(1) or original(*args))
    with gated as eraser:
        for _ in range(3):
            eraser.rows = (Row(0, True, 1),)
            unet(x, t, context=EMPTY[None])
    assert len(calls) == 2  # O_k and O_0 of the one layer in which presence is measured, once


def test_an_open_gate_erases_as_the_constant_weight_does():
    unet = make_unet()
    concepts = [make_concept(weight=2.0), make_concept("moon", (1,), 3.0, 2)]
    x, t, _ = inputs(1)

    def run(eraser, context):
        with eraser:
            eraser.rows = (Row(0, True, 1),)
            return unet(x, t, context=context[None])

    adaptive = run(gated_eraser(unet, concepts), concepts[0].context)
    constant = run(ConceptEraser(unet, concepts[:1], EMPTY), concepts[0].context)
    torch.testing.assert_close(adaptive, constant, atol=1e-5, rtol=1e-5)


def test_emphasis_in_the_prompt_raises_the_correction():
    unet = make_unet()
    concept = make_concept(weight=1.0)
    x, t, _ = inputs(1)
    emphasised = EMPTY + 2.0 * (concept.context - EMPTY)

    def run(eraser):
        with eraser:
            eraser.rows = (Row(0, True, 1),)
            return unet(x, t, context=emphasised[None])

    doubled = ConceptEraser(unet, [make_concept(weight=2.0)], EMPTY)
    torch.testing.assert_close(run(gated_eraser(unet, [concept])), run(doubled), atol=1e-4, rtol=1e-4)


def test_a_prompt_that_changes_between_steps_is_judged_anew():
    unet = make_unet()
    concept = make_concept(weight=2.0)
    x, t, _ = inputs(1)
    changed = []
    with gated_eraser(unet, [concept]) as eraser:
        for context in (EMPTY, concept.context, EMPTY):
            eraser.rows = (Row(0, True, 1),)
            erased = unet(x, t, context=context[None])
            changed.append(not torch.equal(erased, make_unet()(x, t, context=context[None])))
    assert changed == [False, True, False]


def test_the_projection_is_its_equation():
    model = OneLayer().requires_grad_(False)
    concept = make_concept(weight=1.5)
    x, context = torch.randn(2, 64, 32), torch.randn(2, 77, WIDTH)
    context[1] = concept.context
    seen = []
    layer = model.attn2
    watch = layer.to_out[0].register_forward_pre_hook(lambda m, a: seen.append(a[0].double()))
    for c in (context, concept.context.expand(2, -1, -1), EMPTY.expand(2, -1, -1)):
        model(x, None, c)
    watch.remove()
    with ConceptEraser(model, [concept], EMPTY, mode="projection") as eraser:
        watch = layer.to_out[0].register_forward_pre_hook(lambda m, a: seen.append(a[0].double()))
        eraser.rows = (Row(0, True, 1), Row(1, True, 1))
        model(x, torch.full((2,), 500.0), context)
        watch.remove()
    prompt, of_concept, empty, projected = seen
    direction = of_concept - empty
    a = ((prompt - empty) * direction).sum((1, 2)) / direction.square().sum((1, 2))
    expected = prompt - 1.5 * a.clamp(0, 3)[:, None, None] * direction
    torch.testing.assert_close(projected, expected, atol=1e-5, rtol=1e-5)
    assert a[1] == pytest.approx(1.0, abs=1e-5)


def test_a_suspended_eraser_changes_nothing_and_says_what_it_would_have():
    unet = make_unet()
    concept = make_concept(weight=2.0)
    x, t, _ = inputs(2)
    context = torch.stack([EMPTY, concept.context])
    plain = unet(x, t, context=context)
    with gated_eraser(unet, [concept]) as eraser:
        eraser.suspended = True
        eraser.rows = (Row(0, True, 1), Row(1, True, 1))
        assert torch.equal(unet(x, t, context=context), plain)
        assert eraser.opened == {1}
        eraser.suspended = False
        eraser.rows = (Row(0, True, 1), Row(1, True, 1))
        assert not torch.equal(unet(x, t, context=context), plain)


# ------------------------------------------------------------------------------------------ watch


def watching(unet, q, mode="adaptive", weight=2.0):
    """An eraser that sees its concepts with ``q[k]`` whatever the image shows."""
    layers = watch_layers(text_cross_attention(unet))
    width = sum(layer.to_q.in_features for layer in layers)
    watch = Watch(layers, [Probe((0.0,) * width, -value) for value in q], torch.device("cpu"))
    concepts = [make_concept(str(k), (1, 2), weight, k + 1) for k in range(len(q))]
    eraser = gated_eraser(unet, concepts, "adaptive")
    return ConceptEraser(unet, concepts, EMPTY, mode=mode, gate=eraser.gate, watch=watch)


def denoise(unet, eraser, context, passes, timesteps=(900.0, 700.0, 500.0, 300.0, 100.0)):
    """A sampling pass of one image under ``eraser``, a row a call."""
    passes.append([])
    x = inputs(1)[0]
    for timestep in timesteps:
        if eraser is not None:
            eraser.rows = (Row(0, True, 1),)
        x = x - 0.1 * unet(x, torch.full((1,), timestep), context=context[None])
        passes[-1].append(timestep)
    return x


def test_an_image_in_which_a_concept_is_seen_is_begun_anew_with_it_erased():
    unet, passes = make_unet(), []
    eraser = watching(unet, [1.0], "adaptive")
    with eraser:
        result = sample_erased(eraser, lambda: denoise(unet, eraser, EMPTY, passes))
    # The first call late enough is the third; the next one would be of no use. An escalation follows.
    assert passes == [[900, 700, 500]] * 2 + [[900, 700, 500, 300, 100]]
    constant = ConceptEraser(unet, [make_concept("0", (1, 2), 2.0 * ESCALATION**2, 1)], EMPTY)
    with constant:
        expected = denoise(unet, constant, EMPTY, [])
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    (seen,) = eraser.evidence()[0].concepts
    assert (seen.gate, seen.begun_anew) == (1, True)
    assert seen.seen == pytest.approx(1)


def test_an_image_in_which_nothing_is_seen_is_sampled_once_and_without_change():
    unet, passes = make_unet(), []
    eraser = watching(unet, [0.1, 0.2], "adaptive")
    with eraser:
        result = sample_erased(eraser, lambda: denoise(unet, eraser, EMPTY, passes))
    assert len(passes) == 1
    assert torch.equal(result, denoise(unet, None, EMPTY, []))
    assert [c.begun_anew for c in eraser.evidence()[0].concepts] == [False, False]


def test_a_concept_seen_in_the_last_call_is_erased_too():
    unet, passes = make_unet(), []
    eraser = watching(unet, [1.0], "adaptive")
    with eraser:
        sample_erased(eraser, lambda: denoise(unet, eraser, EMPTY, passes, (900.0, 500.0)))
    assert len(passes) == 3


def test_a_concept_of_weight_zero_is_not_looked_for():
    unet, passes = make_unet(), []
    eraser = watching(unet, [1.0], weight=0.0)
    with eraser:
        sample_erased(eraser, lambda: denoise(unet, eraser, EMPTY, passes))
    assert len(passes) == 1


def test_a_twin_is_sampled_whole_and_only_what_was_seen_is_erased():
    unet, passes = make_unet(), []
    eraser = watching(unet, [1.0, 0.0], "adaptive")
    twin = Twin()
    with eraser:
        sample_erased(eraser, lambda: denoise(unet, eraser, EMPTY, passes), twin)
    assert [len(p) for p in passes] == [5, 3, 5]
    first, second = eraser.evidence()[0].concepts
    assert (first.begun_anew, second.begun_anew) == (True, False)
    assert first.share > 0
    assert second.share == 0
