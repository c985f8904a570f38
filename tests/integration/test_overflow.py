"""What overflows in half precision ends in an error, and in no image that is not erased as asked."""

from dataclasses import replace

import pytest
import torch
from ldm.modules.attention import CrossAttention

from eiup.eraser import ConceptEraser
from eiup.errors import NotFiniteError
from eiup.rows import Row
from eiup.sampling import sample_erased
from tests.integration.support import EMPTY, WIDTH, OneLayer, inputs, make_concept, make_unet, sdp_forward
from tests.integration.test_modes_in_unet import denoise, gated_eraser, watching


@pytest.mark.parametrize("mode", ["constant", "projection"])
def test_what_overflows_in_half_precision_ends_in_an_error(mode, monkeypatch):
    """With half weights and no autocast, as with the webui's ``--precision half``."""
    monkeypatch.setattr(CrossAttention, "forward", sdp_forward)
    model = OneLayer().requires_grad_(False).half()
    concept = make_concept(weight=1e6)
    concept = replace(concept, context=concept.context.half())
    x, context = torch.randn(1, 64, 32).half(), torch.randn(1, 77, WIDTH).half()

    def sample():
        eraser.rows = (Row(0, True, 1),)
        return model(x, torch.tensor([500.0]), context)

    with ConceptEraser(model, [concept], EMPTY.half(), mode=mode) as eraser:
        with pytest.raises(NotFiniteError, match="--no-half"):
            sample_erased(eraser, sample)


def test_a_prompt_of_which_nothing_can_be_told_ends_in_an_error():
    unet = make_unet()
    with gated_eraser(unet, [make_concept(weight=2.0)]) as eraser:
        eraser.rows = (Row(0, True, 1),)
        x, t, context = inputs(1)
        with pytest.raises(NotFiniteError, match="--no-half"):
            unet(x, t, context * float("inf"))


def test_an_image_in_which_nothing_can_be_seen_ends_in_an_error():
    unet = make_unet()
    eraser = watching(unet, [float("nan")])
    with eraser, pytest.raises(NotFiniteError, match="--no-half"):
        sample_erased(eraser, lambda: denoise(unet, eraser, EMPTY, []))
