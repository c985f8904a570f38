"""Small U-Nets with genuine ldm attention, and concepts for them."""

from __future__ import annotations

import torch
from ldm.modules.attention import CrossAttention
from ldm.modules.diffusionmodules.openaimodel import UNetModel

from eiup.eraser import EncodedConcept

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
    return EncodedConcept(name, make_context(seed), tokens, weight)


def make_context(seed):
    """Tokens of one norm, as behind a text encoder's last normalisation."""
    context = torch.randn(77, WIDTH, generator=torch.Generator().manual_seed(seed))
    return WIDTH**0.5 * torch.nn.functional.normalize(context, dim=-1)


EMPTY = make_context(99)


def inputs(batch, tokens=77, seed=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 4, 8, 8, generator=generator)
    context = torch.randn(batch, tokens, WIDTH, generator=generator)
    return x, torch.full((batch,), 500.0), context


class OneLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.attn2 = CrossAttention(32, WIDTH, heads=4, dim_head=16)

    def forward(self, x, timesteps, context):
        return self.attn2(x, context=context)


def sdp_forward(self, x, context=None, mask=None):
    """The forward of a cross-attention with the webui's optimisation *sdp*."""
    q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
    q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return self.to_out(out.transpose(1, 2).flatten(2))
