"""Heat maps as text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eiup.maps import FormingMaps, decode_map, encode_map
from eiup.probes import Probe, Sight


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_the_largest_value_stays_where_it_is(height, width, data):
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    values = torch.zeros(height, width)
    values[y, x] = 1.0
    found = decode_map(encode_map(values))
    assert max(found.shape) <= 16
    if height * width == 1:
        assert found.tolist() == [[0.0]]  # nothing stands out
        return
    assert found.max() == 1
    rows, columns = ((found == 1).any(dim=d).nonzero().flatten().tolist() for d in (1, 0))
    assert any(abs((r + 0.5) / found.shape[0] * height - (y + 0.5)) <= height / found.shape[0] for r in rows)
    assert any(abs((c + 0.5) / found.shape[1] * width - (x + 0.5)) <= width / found.shape[1] for c in columns)


def test_the_shape_of_the_image_is_kept():
    assert decode_map(encode_map(torch.rand(96, 64))).shape == (16, 11)
    assert decode_map(encode_map(torch.rand(8, 12))).shape == (8, 12)


@pytest.mark.parametrize(
    "text", ["", "16x16", "16x16:", "2x2:!!!!", "x2:AAA=", "99x1:" + "AAAA" * 17, "0x0:", "2x2:AAAAAA=="]
)
def test_what_is_no_map_is_refused(text):
    with pytest.raises(ValueError, match=".*"):
        decode_map(text)


@pytest.mark.parametrize(("offset", "found"), [(0.0, (4, 4)), (5.0, (1, 6))])
def test_a_map_has_its_maximum_where_the_probe_sees_the_concept_if_it_does(offset, found):
    """The word is attended at one place, with less at another, where the concept forms."""
    layer = torch.nn.Identity()
    maps = FormingMaps(layer, Sight([layer], [Probe((1.0,), offset)], torch.device("cpu")))
    features = torch.zeros(8, 8)
    features[1, 6], features[4, 4] = 2.0, 1.0
    q = torch.zeros(4, 4)
    q[2, 2] = 1.0
    for at in (0.1, 0.2, 0.4):
        assert maps.collects(at)
        maps.add([0], at, features.reshape(1, -1, 1), (8, 8))
        maps.sight.keep(layer, q.reshape(1, -1, 1))
        maps.see([0], slice(None), at)
    assert not maps.collects(0.5)
    (text,) = maps.of(0)
    assert divmod(int(decode_map(text).argmax()), 8) == found
    later = torch.zeros(4, 4)
    later[3, 0] = 0.9
    (text,) = maps.of(0, {0: later.flatten()})
    y, x = divmod(int(decode_map(text).argmax()), 8)
    assert (y // 2, x // 2) == (3, 0)
