"""Places in images of any shape, at the resolutions of a U-Net's layers."""

import pytest
import torch

from eiup.places import highest, map_size, resize, widened


@pytest.mark.parametrize(
    ("positions", "size"),
    [(96 * 64, (96, 64)), (48 * 32, (48, 32)), (12 * 8, (12, 8)), (1000, None)],
)
def test_a_layer_is_known_by_its_positions(positions, size):
    assert map_size(positions, 96, 64) == size


def test_sizes_that_cannot_be_halved_are_rounded_up():
    assert map_size(8 * 10, 30, 40) == (8, 10)
    assert map_size(4 * 5, 30, 40) == (4, 5)


def test_a_place_stays_where_it_is_at_every_resolution():
    places = torch.zeros(6, 4)
    places[5, 1] = 1.0
    finer = resize(places, (12, 8))
    assert finer.nonzero().tolist() == [[10, 2], [10, 3], [11, 2], [11, 3]]
    assert resize(finer, (3, 2)).nonzero().tolist() == [[2, 0]]
    assert torch.equal(resize(finer, (6, 4)), places)


def test_the_highest_places_and_those_next_to_them():
    q = torch.tensor([[0.1, 0.2, 0.1, 0.0], [0.0, 1.0, 0.7, 0.1], [0.0, 0.3, 0.5, 0.0], [0.0] * 4])
    places = highest(q, 0.6)
    assert places.nonzero().tolist() == [[1, 1], [1, 2]]
    assert widened(places).sum() == 12
