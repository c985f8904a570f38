"""What preserve keeps of an image's un-erased twin, with predictions that are made up."""

import pytest
import torch

from eiup.errors import ErasureError
from eiup.preserve import Twin, composite
from eiup.watch import BeginAnew

CALLS = 10
SIZE = 16
SMALL = (slice(2, 5), slice(2, 5))


def of(value, batch=2):
    return torch.full((batch, 4, SIZE, SIZE), float(value))


def sample(twin, changed, erased=(0,), everywhere=(), calls=CALLS):
    """An erased pass of two images that differs from the twin, which is 0, by 1 at the places ``changed`` of
    the ``erased`` ones; returns the last blended prediction."""
    twin.rewind(everywhere)
    for call in range(calls):
        clean = of(0)
        for image in erased:
            clean[(image, slice(None), *changed)] = 1.0
        blended = twin.blend(float(call), clean, erased)
    return blended


def kept(calls=CALLS):
    twin = Twin()
    for call in range(calls):
        twin.keep(float(call), of(0))
    twin.latents = of(0)
    return twin


def decode(latents):
    """Pixels of the value of their latents, in a decoder that shifts the whole image by its mean."""
    pixels = latents[:, :3].repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    return pixels + latents.mean(dim=(1, 2, 3), keepdim=True)


def test_what_is_far_from_the_concept_has_the_twins_pixels():
    twin = kept()
    latents = sample(twin, SMALL)
    images = decode(latents)
    twin_image = decode(of(0))
    assert not torch.equal(images[0, :, -8:, -8:], twin_image[0, :, -8:, -8:])
    unchanged = images[1].clone()
    twin.keep_outside(images, decode)
    assert torch.equal(images[0, :, 64:, :], twin_image[0, :, 64:, :])
    assert torch.equal(images[0, :, :, 64:], twin_image[0, :, :, 64:])
    inside = images[0, :, 16:40, 16:40]
    torch.testing.assert_close(inside, decode(latents)[0, :, 16:40, 16:40])
    assert torch.equal(images[1], unchanged)


def test_the_edge_is_no_step():
    inside = torch.zeros(1, 1, SIZE, SIZE)
    inside[0, 0, 6:10, 6:10] = 1.0
    images = composite(torch.ones(1, 3, 128, 128), torch.zeros(1, 3, 128, 128), inside)
    row = images[0, 0, 64]
    assert row[48:80].eq(1).all()
    assert row[:32].eq(0).all()
    assert row[96:].eq(0).all()
    assert row.diff().abs().max() <= 1 / 8


def test_where_the_whole_image_changes_nothing_of_the_twin_is_kept():
    twin, all_over = kept(), (slice(0, SIZE), slice(0, SIZE))
    with pytest.raises(BeginAnew):
        sample(twin, all_over)
    latents = sample(twin, all_over)
    assert latents[0].eq(1).all()
    assert latents[1].eq(0).all()
    images = decode(latents)
    expected = images.clone()
    twin.keep_outside(images, decode)
    assert torch.equal(images, expected)


def test_an_image_in_which_nothing_is_erased_has_no_region_to_be_wide():
    assert sample(kept(), SMALL)[1].eq(0).all()


def test_of_an_image_that_is_erased_everywhere_nothing_of_the_twin_is_kept():
    twin = kept()
    latents = sample(twin, SMALL, everywhere=[0])
    images = decode(latents)
    expected = images.clone()
    twin.keep_outside(images, decode)
    assert torch.equal(images, expected)


def test_a_pass_that_was_stopped_has_nothing_of_the_twin_put_into_it():
    twin = kept()
    images = decode(sample(twin, SMALL, calls=CALLS - 1))
    expected = images.clone()
    twin.keep_outside(images, decode)
    assert torch.equal(images, expected)


def test_a_sampler_that_takes_other_steps_is_refused():
    twin = kept()
    twin.rewind()
    with pytest.raises(ErasureError, match="same steps every time"):
        twin.blend(5.0, of(0), [0])
    for call in range(CALLS):
        twin.blend(float(call), of(0), ())
    with pytest.raises(ErasureError, match="same steps every time"):
        twin.blend(float(CALLS), of(0), ())
