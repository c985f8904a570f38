"""What erasing has a device do: few operations in a layer, and hardly any waiting.

Where a GPU waits for kernels to be launched, each of them costs, however small it is; and whatever reads a
value back waits for all that was launched before. Both can be counted on a CPU.
"""

import pytest
import torch

from eiup.eraser import ConceptEraser, text_cross_attention
from eiup.maps import FormingMaps, mapped_layer
from eiup.probes import Probe, Sight, probed_layers
from eiup.rows import Row, conditional_then_unconditional
from eiup.watch import SHARES, Erasure, Watch
from tests.integration.counting import OnDevice, in_hooks
from tests.integration.support import EMPTY, inputs, make_concept, make_unet
from tests.integration.test_modes_in_unet import gated_eraser

TIMESTEPS = (990.0, 950.0, 900.0)


def concepts_of(count):
    return [make_concept(f"c{k}", (1, 2), 2.0, seed=k + 1) for k in range(count)]


def watched_eraser(unet, count, places=True):
    """As in a pass that was begun anew, each concept with a place of its own; or where nothing was seen."""
    eraser = gated_eraser(unet, concepts_of(count))
    layers = probed_layers(text_cross_attention(unet))
    width = sum(layer.to_q.in_features for layer in layers)
    eraser.watch = Watch(Sight(layers, [Probe((0.0,) * width, 0.0)] * count, torch.device("cpu")))
    if places:
        eraser.watch.erased = {
            (image, k): Erasure(SHARES[0], torch.rand(4, 4)) for image in range(2) for k in range(count)
        }
    return eraser


def make_eraser(kind, unet, count):
    if kind == "places":
        return watched_eraser(unet, count)
    if kind == "nothing":
        return watched_eraser(unet, count, places=False)
    if kind in ("adaptive", "strict"):
        eraser = gated_eraser(unet, concepts_of(count))
        eraser.mode = kind
        return eraser
    return ConceptEraser(unet, concepts_of(count), EMPTY, mode=kind)


def run(eraser, unet, rows, reads=None):
    """Three calls of a pass, whose prompt names the first concept."""
    x, t, context = inputs(len(rows))
    context[:1] = eraser.concepts[0].context
    x, t, context = (tensor.as_subclass(OnDevice) for tensor in (x, t, context))
    for timestep in TIMESTEPS:
        OnDevice.reads.clear()
        eraser.rows = rows
        unet(x, torch.full_like(t, timestep), context)
        if reads is not None:
            reads.append(dict(OnDevice.reads))


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize(
    ("kind", "most"),
    [("constant", 8), ("adaptive", 8), ("strict", 8), ("places", 12), ("projection", 16), ("nothing", 0)],
)
def test_few_operations_in_a_layer(kind, most, count, images):
    unet = make_unet()
    rows = conditional_then_unconditional(images)
    with in_hooks(make_eraser(kind, unet, count)) as operations:
        run(operations.eraser, unet, rows)
        operations.counts.clear()
        run(operations.eraser, unet, rows)
    layers = text_cross_attention(unet).values()
    counted = {sum(operations.counts.get(layer, {}).values()) for layer in layers}
    assert max(counted) <= 3 * most, operations.counts
    assert max(counted) > 0 or kind == "nothing"


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("kind", ["constant", "adaptive", "strict", "places", "projection", "nothing"])
def test_one_transfer_to_the_host_in_a_call(kind, count):
    unet, reads = make_unet(), []
    with make_eraser(kind, unet, count) as eraser:
        run(eraser, unet, conditional_then_unconditional(2), reads)
    assert all(sum(of_call.values()) <= 1 for of_call in reads[1:]), reads


def test_prompts_that_alternate_are_judged_once_each():
    unet = make_unet()
    concept = make_concept(weight=2.0)
    x, t, _ = (tensor.as_subclass(OnDevice) for tensor in inputs(1))
    with gated_eraser(unet, [concept]) as eraser:
        reads = []
        for context in (EMPTY, concept.context, EMPTY, concept.context):
            OnDevice.reads.clear()
            eraser.rows = (Row(0, True, 1),)
            unet(x, t, context[None].as_subclass(OnDevice))
            reads.append(sum(OnDevice.reads.values()))
    assert reads == [2, 2, 1, 1]
    assert [concept.gate_by_step for concept in eraser.evidence()[0].concepts] == [(1.0,)]


def test_maps_cost_nothing_behind_the_look():
    unet = make_unet()
    eraser = watched_eraser(unet, 2, places=False)
    layers = text_cross_attention(unet)
    eraser.maps = FormingMaps(mapped_layer(layers), eraser.watch.sight)
    eraser.maps.close()
    with in_hooks(eraser) as operations:
        run(eraser, unet, conditional_then_unconditional(1))
    assert not operations.counts
