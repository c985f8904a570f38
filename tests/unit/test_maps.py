"""Heat maps as text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eiup.maps import decode_map, encode_map


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
