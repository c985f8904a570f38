"""Toyland's model: genuine `ldm` modules, in the genuine checkpoint format."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .precision import Precision, autocast, cast_inputs, cast_weights
from .tokenizer import LENGTH

with contextlib.redirect_stdout(io.StringIO()):
    from ldm.modules.attention import CrossAttention
    from ldm.modules.diffusionmodules.model import Decoder, Encoder
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

WEIGHTS = Path(__file__).parent / "weights"
CLIP_FOLDER = "toyland-clip"


class _TextEncoder(nn.Module):
    """The layout of ldm's ``FrozenCLIPEmbedder``: tokenizer and ``transformer``."""

    def __init__(self, folder: Path):
        super().__init__()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.transformer = CLIPTextModel(CLIPTextConfig.from_pretrained(folder))
        self.max_length = LENGTH

    def tokenize(self, texts: list[str]) -> Tensor:
        """Token ids ``[B, 77]``, padded with EOS; longer texts are cut."""
        return self.tokenizer(
            texts, truncation=True, max_length=LENGTH, padding="max_length", return_tensors="pt"
        ).input_ids

    def forward(self, texts: list[str] | Tensor) -> Tensor:
        """Contexts ``[B, 77, C]``, in float32 also where this computes in half precision: the webui's have
        been multiplied with emphasis, which is."""
        ids = texts if isinstance(texts, Tensor) else self.tokenize(texts)
        return self.transformer(input_ids=ids).last_hidden_state.float()


class FusedCrossAttention(CrossAttention):
    """ldm's attention with PyTorch's fused kernel, as under the webui's option *sdp*. On CPUs it is faster
    than ldm's own to sample with, and slower to train."""

    def forward(self, x: Tensor, context: Tensor | None = None, mask: None = None) -> Tensor:
        context = x if context is None else context
        projected = (self.to_q(x), self.to_k(context), self.to_v(context))
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in projected)
        outputs = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(outputs.transpose(1, 2).flatten(2))


class _DiffusionWrapper(nn.Module):
    def __init__(self, unet: UNetModel):
        super().__init__()
        self.diffusion_model = unet

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        return self.diffusion_model(x, t, context=context)


class _AutoencoderKL(nn.Module):
    """ldm's ``AutoencoderKL`` without its training harness; the same parameter names."""

    def __init__(self, ddconfig: dict, embed_dim: int):
        super().__init__()
        with contextlib.redirect_stdout(io.StringIO()):
            self.encoder = Encoder(**ddconfig)
            self.decoder = Decoder(**ddconfig)
        self.quant_conv = nn.Conv2d(2 * ddconfig["z_channels"], 2 * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance ``[B, 4, H/8, W/8]`` of images ``[B, 3, H, W]`` in -1..1."""
        return self.quant_conv(self.encoder(images)).chunk(2, dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))


class LatentDiffusion(nn.Module):
    """The parts of an LDM checkpoint under their genuine names, with the noise schedule.

    Latents handed in and out are in model space (scaled by ``scale_factor``) and in float32, whatever
    ``precision`` the model computes in; :meth:`autocast` is for its callers to enter, as the webui does.
    """

    precision: Precision = "full"

    def __init__(self, config: dict, clip_folder: Path):
        super().__init__()
        parameters = config["model"]["params"]
        self.scale_factor = parameters["scale_factor"]
        self.model = _DiffusionWrapper(UNetModel(**parameters["unet_config"]["params"]))
        first_stage = parameters["first_stage_config"]["params"]
        self.first_stage_model = _AutoencoderKL(first_stage["ddconfig"], first_stage["embed_dim"])
        self.cond_stage_model = _TextEncoder(clip_folder)
        roots = torch.linspace(
            parameters["linear_start"] ** 0.5, parameters["linear_end"] ** 0.5, parameters["timesteps"],
            dtype=torch.float64,
        )  # fmt: skip
        self.register_buffer("alphas_cumprod", torch.cumprod(1 - roots**2, 0).float(), persistent=False)

    def encode_first_stage(self, images: Tensor) -> Tensor:
        return self.first_stage_model.encode(images)[0] * self.scale_factor

    def decode_first_stage(self, latents: Tensor) -> Tensor:
        return self.first_stage_model.decode(latents / self.scale_factor)

    def get_learned_conditioning(self, texts: list[str]) -> Tensor:
        return self.cond_stage_model(texts)

    def apply_model(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        dtype = self.model.diffusion_model.dtype
        return self.model(*cast_inputs(x, t, dtype), context.to(dtype)).float()

    def autocast(self) -> contextlib.AbstractContextManager:
        """The webui enters this around the encoding of prompts and around sampling, but not around the
        decoding of latents."""
        return autocast(self.precision)

    def to_precision(self, precision: Precision) -> LatentDiffusion:
        """Cast this model, which has to be in float32, to what it is to compute in."""
        cast_weights(self.model.diffusion_model, self.cond_stage_model, precision)
        self.precision = precision
        return self


def read_config(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def load_checkpoint(path: Path) -> LatentDiffusion:
    """Load ``NAME.safetensors`` with ``NAME.yaml`` and the CLIP folder beside it, in float32.

    Raises ``FileNotFoundError`` where one of the three is missing and ``RuntimeError`` where
    the weights do not fit the configuration.
    """
    model = LatentDiffusion(read_config(path.with_suffix(".yaml")), path.parent / CLIP_FOLDER)
    state = {key: value.float() for key, value in load_file(path).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.endswith("position_ids")]
    if missing or unexpected:
        raise RuntimeError(
            f"{path} does not fit its yaml: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    for module in model.modules():
        if type(module) is CrossAttention:
            module.__class__ = FusedCrossAttention
    return model.eval().requires_grad_(False)


def save_checkpoint(model: LatentDiffusion, path: Path) -> None:
    """Write the weights in half precision under the names that LDM checkpoints use."""
    state = {
        key: value.half().contiguous()
        for key, value in model.state_dict().items()
        if value.is_floating_point()
    }
    save_file(state, path, metadata={"format": "pt"})
