"""The modes on the genuine ldm U-Net: what is erased where, and when sampling is begun anew."""

import math
import zlib
from dataclasses import replace

import pytest
import torch

from eiup import attention
from eiup.build import build_eraser
from eiup.eraser import ConceptEraser, text_cross_attention
from eiup.gate import EMPHASIS
from eiup.preserve import Twin
from eiup.probes import Denoiser, Probe, Sight, probed_layers
from eiup.rows import Row
from eiup.sampling import sample_erased
from eiup.schedule import Window
from eiup.watch import Erasure, Watch
from tests.integration.support import EMPTY, WIDTH, OneLayer, inputs, make_concept, make_unet


def gated_eraser(unet, concepts):
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
    # There is nothing to watch in what a random model paints.
    return build_eraser(unet, concepts, EMPTY, encode, denoiser, mode="adaptive", watches=False)


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


def test_a_concept_that_nothing_tells_from_neutral_prompts_is_told_on_the_console(caplog):
    gated_eraser(make_unet(), [make_concept("star", (1,), 2.0)])
    assert not caplog.messages
    gated_eraser(make_unet(), [make_concept("a", (1,), 2.0)])
    (message,) = caplog.messages
    assert "'a'" in message
    assert "in every image" in message


def test_with_all_gates_shut_nothing_is_computed(monkeypatch):
    unet = make_unet()
    x, t, _ = inputs(1)
    calls = []
    original = attention.outputs
    gated = gated_eraser(unet, [make_concept(weight=2.0)])
    monkeypatch.setattr(attention, "outputs", lambda *args: calls.append(1) or original(*args))
    with gated as eraser:
        for _ in range(3):
            eraser.rows = (Row(0, True, 1),)
            unet(x, t, context=EMPTY[None])
    assert not calls
    assert eraser.evidence()[0].concepts[0].presence == pytest.approx(0.0, abs=0.3)


def test_an_open_gate_erases_as_the_constant_weight_does():
    unet = make_unet()
    concepts = [make_concept("star", (1,), 2.0), make_concept("moon", (1,), 3.0, 2)]
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
    emphasised = 2.0 * concept.context

    def run(eraser):
        with eraser:
            eraser.rows = (Row(0, True, 1),)
            return unet(x, t, context=emphasised[None])

    more = ConceptEraser(unet, [make_concept(weight=2.0**EMPHASIS)], EMPTY)
    torch.testing.assert_close(run(gated_eraser(unet, [concept])), run(more), atol=1e-4, rtol=1e-4)


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


class GivenSight(Sight):
    """Sees its concepts with ``q[i][k]`` in its look ``i``, and from the last one on the same: at the bottom
    of the image, and elsewhere nothing."""

    def __init__(self, layers, q):
        width = sum(layer.to_q.in_features for layer in layers)
        super().__init__(layers, [Probe((0.0,) * width, 0.0)] * len(q[0]), torch.device("cpu"))
        self.coming = list(q)

    def q(self, rows):
        maps = super().q(rows)
        assert maps.shape[0] == 1
        maps[:, -round(maps.shape[1] ** 0.5) :] = torch.tensor(
            self.coming.pop(0) if len(self.coming) > 1 else self.coming[0]
        )
        return maps


def watching(unet, *q, weight=2.0, window=None, **kwargs):
    """An eraser that sees its concepts with ``q[i][k]`` in its look ``i``, whatever the image shows."""
    watch = Watch(GivenSight(probed_layers(text_cross_attention(unet)), q), window, **kwargs)
    concepts = [make_concept(str(k), (1, 2), weight, k + 1) for k in range(len(q[0]))]
    gate = gated_eraser(unet, concepts).gate
    return ConceptEraser(unet, concepts, EMPTY, window, mode="adaptive", gate=gate, watch=watch)


def denoise(unet, eraser, context, passes, timesteps=(900.0, 700.0, 500.0, 400.0, 350.0), x=None):
    """A sampling pass of one image under ``eraser``, a row a call."""
    passes.append([])
    x = inputs(1)[0] if x is None else x
    for timestep in timesteps:
        if eraser is not None:
            eraser.rows = (Row(0, True, 1),)
        x = x - 0.1 * unet(x, torch.full((1,), timestep), context=context[None])
        passes[-1].append(timestep)
    return x


# The first call late enough for a look is the third; the one after a look that saw something is of no use.
LOOK, WHOLE = [900, 700, 500], [900, 700, 500, 400, 350]
# With two calls that are late enough for another one.
LATE = [900, 700, 500, 300, 100]


def erased_at_the_bottom(unet, concept, context, weight, timesteps=WHOLE, window=None, quarters=1):
    """A pass erased with ``weight``, of which at most 12 counts, in the last quarters of the image and a
    tenth of that in the others, and with half of ``weight`` all over behind the look."""

    def outputs(queries, keys, values):
        side = round(queries.shape[1] ** 0.5)
        share = torch.full((side, side), 0.1)
        share[-max(1, math.ceil(side * quarters / 4)) :] = 1.0
        return original(queries, keys, values) * share.flatten()[:, None]

    original = attention.outputs
    behind = next((i for i, t in enumerate(timesteps) if t <= 650), len(timesteps)) + 1
    with ConceptEraser(unet, [replace(concept, weight=min(12.0, weight))], EMPTY, window) as eraser:
        attention.outputs = outputs
        try:
            x = denoise(unet, eraser, context, [], timesteps[:behind])
        finally:
            attention.outputs = original
    with ConceptEraser(unet, [replace(concept, weight=weight / 2)], EMPTY, window) as eraser:
        return denoise(unet, eraser, context, [], timesteps[behind:], x)


def expected_of(unet, concept, context, share, emphasis=1.0):
    """The image erased with ``share`` of the weight: at the bottom, the wider the more often it was begun
    anew, or all over."""
    weight = 2.0 * share * emphasis
    if share >= 2.0:
        quarters = {2.0: 1, 2.5: 1, 3.0: 2}[share]
        return erased_at_the_bottom(unet, concept, context, weight, quarters=quarters)
    with ConceptEraser(unet, [replace(concept, weight=weight)], EMPTY) as constant:
        return denoise(unet, constant, context, [])


@pytest.mark.parametrize(
    ("looks", "passes", "share"),
    [
        ([1.0, 0.4], [LOOK, WHOLE], 2.0),
        ([1.0, 0.5, 0.4], [LOOK, LOOK, WHOLE], 2.5),
        ([1.0, 0.9, 0.5, 0.5], [LOOK, LOOK, LOOK, WHOLE], 3.0),
        ([1.0, 0.9, 0.5, 0.65], [LOOK, LOOK, LOOK, LOOK, WHOLE], 0.0),
        ([1.0, 0.9, 0.9, 0.9, 0.4], [LOOK, LOOK, LOOK, LOOK, WHOLE], 1.0),
        ([1.0, 0.9, 0.9, 0.9, 0.9, 0.5], [LOOK, LOOK, LOOK, LOOK, LOOK, WHOLE], 1.5),
        ([1.0, 0.9, 0.9, 0.9, 0.9, 0.9], [LOOK, LOOK, LOOK, LOOK, LOOK, LOOK, WHOLE], 0.0),
    ],
)
def test_what_is_seen_is_erased_there_as_often_as_it_takes(looks, passes, share):
    unet, made = make_unet(), []
    eraser = watching(unet, *([q] for q in looks))
    (concept,) = eraser.concepts
    with eraser:
        result = sample_erased(eraser, lambda: denoise(unet, eraser, EMPTY, made))
    assert made == passes
    if share:
        expected = expected_of(unet, concept, EMPTY, share)
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)
    else:  # what was seen was not the concept
        assert torch.equal(result, denoise(unet, None, EMPTY, []))
    (seen,) = eraser.evidence()[0].concepts
    assert (seen.gate, seen.begun_anew) == (float(share > 0), share > 0)
    assert seen.seen == pytest.approx(1)


@pytest.mark.parametrize(
    ("looks", "passes", "share"),
    [
        ([0.9, 0.2], [LOOK, WHOLE], 2.0),
        ([0.9, 0.9, 0.5, 0.6], [LOOK, LOOK, LOOK, WHOLE], 3.0),
        ([0.9], [LOOK, LOOK, LOOK, LOOK, LOOK, WHOLE], 1.5),
        ([0.2], [LOOK, WHOLE], 0.5),
    ],
    ids=["seen", "not to be had out there", "nor elsewhere", "not seen"],
)
@pytest.mark.parametrize("emphasis", [1.0, 1.3, 2.0])
def test_what_the_prompt_names_is_erased_in_any_case(looks, passes, share, emphasis):
    unet, made = make_unet(), []
    eraser = watching(unet, *([q] for q in looks))
    (concept,) = eraser.concepts
    context = emphasis * concept.context
    with eraser:
        result = sample_erased(eraser, lambda: denoise(unet, eraser, context, made))
    assert made == passes
    expected = expected_of(unet, concept, context, share, emphasis**EMPHASIS)
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("looks", "passes"),
    [
        ([0.1, 0.5, 0.5], [LATE]),
        ([0.1, 0.5, 0.85, 0.1, 0.3, 0.2], [LATE, LATE]),
        ([0.1, 0.9, 0.1, 0.3, 0.2], [LATE[:-1], LATE]),
        ([0.1, 0.9, 0.1, 0.9, 0.1, 0.9, 0.1, 0.9], [LATE[:-1], LATE[:-1], LATE[:-1], LATE]),
    ],
    ids=["not seen", "seen at last", "seen late", "seen again and again"],
)
def test_what_forms_late_is_erased_in_a_pass_that_is_begun_anew(looks, passes, named):
    """Looked at at progress .5, .7 and .9."""
    unet, made = make_unet(), []
    # What the prompt names is erased from the first look on, which costs a beginning.
    eraser = watching(unet, *([q] for q in [0.1] * named + looks))
    (concept,) = eraser.concepts
    context = concept.context if named else EMPTY
    with eraser:
        result = sample_erased(eraser, lambda: denoise(unet, eraser, context, made, LATE))
    assert made == ([LOOK] if named else []) + passes
    same = torch.equal(result, denoise(unet, None, context, [], LATE))
    assert same == (not named and len(passes) == 1)


@pytest.mark.parametrize(
    ("again", "passes"), [({}, [WHOLE]), ({"again_from": 0.36}, [WHOLE[:4], WHOLE])], ids=["none", "another"]
)
def test_where_another_model_takes_over_every_call_up_to_there_is_looked_at(again, passes):
    unet, made = make_unet(), []
    eraser = watching(unet, [0.1], [0.9], [0.1], **again)
    with eraser:
        sample_erased(eraser, lambda: denoise(unet, eraser, EMPTY, made))
    assert made == passes


def test_what_no_prompt_hints_at_has_to_be_seen_clearly_to_be_erased_late():
    unet, made = make_unet(), []
    eraser = watching(unet, [0.1], [0.5], [0.7])
    with eraser:
        sample_erased(eraser, lambda: denoise(unet, eraser, EMPTY, made, LATE))
    assert made == [LATE]


@pytest.mark.parametrize(("q", "erased"), [(0.1, False), (0.45, True)])
def test_a_prompt_that_only_resembles_a_concept_is_not_believed_where_nobody_sees_it(q, erased):
    unet, made = make_unet(), []
    eraser = watching(unet, [q])
    (concept,) = eraser.concepts
    context = EMPTY + 0.55 * (concept.context - EMPTY)
    with eraser:
        result = sample_erased(eraser, lambda: denoise(unet, eraser, context, made))
    assert torch.equal(result, denoise(unet, None, context, [])) != erased
    assert eraser.evidence()[0].concepts[0].gate == 1


def test_what_the_prompt_brings_in_behind_the_look_is_erased_from_there_on():
    unet, made = make_unet(), []
    eraser = watching(unet, [0.0])
    (concept,) = eraser.concepts

    def sample(eraser):
        x = denoise(unet, eraser, EMPTY, made, (900.0, 500.0))
        return denoise(unet, eraser, concept.context, made, (300.0, 100.0), x)

    with eraser:
        result = sample_erased(eraser, lambda: sample(eraser))
    assert made == [[900, 500], [300, 100]]
    x = denoise(unet, None, EMPTY, [], (900.0, 500.0))
    with ConceptEraser(unet, [concept], EMPTY) as constant:
        expected = denoise(unet, constant, concept.context, [], (300.0, 100.0), x)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("timesteps", "window"),
    [((500.0, 300.0), None), ((800.0, 500.0, 300.0), None), ((900.0, 500.0, 300.0), Window(0.55, 1.0))],
    ids=["begun behind the look", "begun late", "erased late"],
)
@pytest.mark.parametrize("named", [False, True])
def test_where_erasing_can_have_no_effect_before_the_look_it_is_not_judged_by_it(timesteps, window, named):
    unet, made = make_unet(), []
    eraser = watching(unet, [1.0], [1.0], [0.5], window=window)
    (concept,) = eraser.concepts
    context = concept.context if named else EMPTY
    with eraser:
        result = sample_erased(eraser, lambda: denoise(unet, eraser, context, made, timesteps))
    assert len(made) == 2
    expected = erased_at_the_bottom(unet, concept, context, 4.0, timesteps, window)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("looks", "passes"),
    [
        ([0.1, 0.9, 0.1, 0.3], [3, 3]),
        ([1.0, 1.0, 0.9, 1.0, 0.1], [2, 3, 3]),
        ([1.0, 1.0, 0.9], [2, 3, 3, 3]),
    ],
    ids=["seen late", "seen again", "seen again and again"],
)
def test_in_a_pass_that_begins_late_late_looks_tell_what_erasing_does(looks, passes, named):
    """Looked at at progress .5 and .7."""
    unet, made = make_unet(), []
    eraser = watching(unet, *([q] for q in looks))
    (concept,) = eraser.concepts
    context = concept.context if named else EMPTY
    named_only = named and looks[0] < 0.4
    if named_only:  # erased from the first look on, which costs a beginning
        eraser.watch.sight.coming.insert(0, [0.1])
    with eraser:
        sample_erased(eraser, lambda: denoise(unet, eraser, context, made, (800.0, 500.0, 300.0)))
    assert [len(calls) for calls in made] == [2] * named_only + passes
    assert eraser.evidence()[0].concepts[0].begun_anew


def test_what_is_seen_late_in_a_pass_that_begins_late_is_erased():
    """Of the two calls of such a pass, only the second one shows the concept, and no look can tell what
    erasing does: as in img2img in few steps."""
    unet, made = make_unet(), []
    eraser = watching(unet, [0.1], [0.9], [0.1], [0.9])
    with eraser:
        sample_erased(eraser, lambda: denoise(unet, eraser, EMPTY, made, (500.0, 250.0)))
    assert [len(calls) for calls in made] == [2, 2]
    (concept,) = eraser.evidence()[0].concepts
    assert concept.begun_anew
    assert min(concept.share_by_step) > 0


@pytest.mark.parametrize("share", [0.5, 1.0, 2.0])
def test_what_an_earlier_pass_saw_is_erased_with_more_where_it_comes_back_late(share):
    unet, made = make_unet(), []
    eraser = watching(unet, [1.0], [0.9], [0.4], [0.3])
    eraser.watch.erased[0, 0] = Erasure(share)
    with eraser:
        sample_erased(eraser, lambda: denoise(unet, eraser, EMPTY, made, LATE))
    # A first look does not tell what erasing did; what was there at it did not come back.
    assert made == ([LATE] if share == 2.0 else [LATE[:-1], LATE])


def test_an_image_in_which_nothing_is_seen_is_sampled_once_and_without_change():
    unet, passes = make_unet(), []
    eraser = watching(unet, [0.1, 0.2])
    with eraser:
        result = sample_erased(eraser, lambda: denoise(unet, eraser, EMPTY, passes))
    assert len(passes) == 1
    assert torch.equal(result, denoise(unet, None, EMPTY, []))
    assert [c.begun_anew for c in eraser.evidence()[0].concepts] == [False, False]


def test_a_concept_seen_in_the_last_call_is_erased_too():
    unet, passes = make_unet(), []
    eraser = watching(unet, [1.0], [0.0])
    with eraser:
        sample_erased(eraser, lambda: denoise(unet, eraser, EMPTY, passes, (900.0, 500.0)))
    assert len(passes) == 2


def test_a_concept_of_weight_zero_is_not_looked_for():
    unet, passes = make_unet(), []
    eraser = watching(unet, [1.0], weight=0.0)
    with eraser:
        sample_erased(eraser, lambda: denoise(unet, eraser, EMPTY, passes))
    assert len(passes) == 1


def test_a_twin_is_sampled_whole_and_only_what_was_seen_is_erased():
    unet, passes = make_unet(), []
    eraser = watching(unet, [1.0, 0.0], [0.0, 0.0])
    twin = Twin()
    with eraser:
        sample_erased(eraser, lambda: denoise(unet, eraser, EMPTY, passes), twin)
    assert [len(p) for p in passes] == [5, 5]
    first, second = eraser.evidence()[0].concepts
    assert (first.begun_anew, second.begun_anew) == (True, False)
    assert first.share > 0
    assert second.share == 0


def test_a_pass_that_goes_on_with_another_model_erases_what_was_seen_and_looks_no_more():
    unet, other = make_unet(), make_unet(1)
    eraser = watching(unet, [1.0])
    with eraser:
        denoise(unet, eraser, EMPTY, [], (900.0, 500.0))
    following = gated_eraser(other, [make_concept("0", (1, 2), 2.0, 1)])
    following.take_over(eraser)
    passes = []
    with following:
        result = denoise(other, following, EMPTY, passes, (300.0, 100.0))
    assert passes == [[300, 100]]
    constant = ConceptEraser(other, [make_concept("0", (1, 2), 2.0, 1)], EMPTY)
    with constant:
        expected = denoise(other, constant, EMPTY, [], (300.0, 100.0))
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert following.evidence()[0].concepts[0].begun_anew


def test_strict_erases_whatever_the_prompt_says_and_more_where_it_insists():
    unet = make_unet()
    concept = make_concept(weight=1.0)
    x, t, _ = inputs(1)

    def run(eraser, context):
        with eraser:
            eraser.rows = (Row(0, True, 1),)
            return unet(x, t, context=context[None])

    insisting = 2.0 * concept.context
    for context, weight in ((EMPTY, 1.0), (insisting, 2.0**EMPHASIS)):
        gate = gated_eraser(unet, [concept]).gate
        strict = run(ConceptEraser(unet, [concept], EMPTY, mode="strict", gate=gate), context)
        constant = run(ConceptEraser(unet, [make_concept(weight=weight)], EMPTY), context)
        torch.testing.assert_close(strict, constant, atol=1e-4, rtol=1e-4)
