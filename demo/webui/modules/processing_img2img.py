"""img2img and inpainting."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from modules import images, sd_samplers, shared
from modules.processing_base import StableDiffusionProcessing, _internal, create_random_tensors
from modules.scripts import MaskBlendArgs
from modules.sd_samplers_common import images_tensor_to_samples
from modules.shared import opts

FILL, ORIGINAL, LATENT_NOISE, LATENT_NOTHING = range(4)


def create_binary_mask(image: Image.Image, round: bool = True) -> Image.Image:
    """A mask from the alpha channel where it says anything, else the brightness; ``round``: no greys."""
    if image.mode == "RGBA" and image.getextrema()[-1] != (255, 255):
        image = image.getchannel("A")
    mask = image.convert("L")
    return mask.point(lambda value: 255 if value > 128 else 0) if round else mask


def _as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.moveaxis(np.array(image.convert("RGB")).astype(np.float32) / 255.0, 2, 0))


def _blur(mask: Image.Image, x: int, y: int) -> Image.Image:
    return mask.filter(ImageFilter.GaussianBlur((x, y))) if x or y else mask


def _padded_box(mask: Image.Image, padding: int, aspect: float) -> tuple[int, int, int, int] | None:
    """The box around the mask, padded and widened to the aspect ratio as far as the image reaches."""
    box = mask.getbbox()
    if box is None:
        return None
    left, top = max(0, box[0] - padding), max(0, box[1] - padding)
    right, bottom = min(mask.width, box[2] + padding), min(mask.height, box[3] + padding)
    width, height = (
        max(right - left, round((bottom - top) * aspect)),
        max(bottom - top, round((right - left) / aspect)),
    )
    width, height = min(width, mask.width), min(height, mask.height)
    left = min(max(0, (left + right - width) // 2), mask.width - width)
    top = min(max(0, (top + bottom - height) // 2), mask.height - height)
    return left, top, left + width, top + height


def _fill(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Colours from around the mask, blurred into it."""
    outside = Image.composite(Image.new("RGBA", image.size), image.convert("RGBA"), mask)
    filled = Image.new("RGBA", image.size)
    for radius in (256, 64, 16, 4, 0):
        filled.alpha_composite(outside.filter(ImageFilter.GaussianBlur(radius)))
    filled.putalpha(255)
    return Image.composite(filled.convert("RGB"), image.convert("RGB"), mask)


@dataclass(repr=False, eq=False)
class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    init_images: list = None
    resize_mode: int = 0
    denoising_strength: float = 0.75
    image_cfg_scale: float = None
    mask: Any = None
    mask_blur_x: int = 4
    mask_blur_y: int = 4
    mask_blur: InitVar[int] = None
    mask_round: bool = True
    inpainting_fill: int = 0
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = 0
    inpainting_mask_invert: int = 0
    initial_noise_multiplier: float = None
    latent_mask: Image.Image = None
    force_task_id: str = None

    image_mask: Any = _internal()
    nmask: Tensor = _internal()
    image_conditioning: Tensor = _internal()
    init_img_hash: str = _internal()
    mask_for_overlay: Image.Image = _internal()
    init_latent: Tensor = _internal()

    def __post_init__(self, mask_blur: int | None):
        super().__post_init__()
        if isinstance(mask_blur, int):
            self.mask_blur_x = self.mask_blur_y = mask_blur
        self.image_mask, self.mask = self.mask, None
        if self.initial_noise_multiplier is None:
            self.initial_noise_multiplier = opts.initial_noise_multiplier

    def _prepare_mask(self) -> tuple[Image.Image | None, tuple[int, int, int, int] | None]:
        """The mask in the image's final size, and the box that is inpainted alone (None: all of it)."""
        if self.image_mask is None:
            return None, None
        params = self.extra_generation_params
        mask = create_binary_mask(self.image_mask, round=self.mask_round)
        if self.inpainting_mask_invert:
            mask = ImageOps.invert(mask)
            params["Mask mode"] = "Inpaint not masked"
        if self.mask_blur_x or self.mask_blur_y:
            mask = _blur(mask, self.mask_blur_x, self.mask_blur_y)
            params["Mask blur"] = self.mask_blur_x if self.mask_blur_x == self.mask_blur_y else None
        self.overlay_images = []
        if not self.inpaint_full_res:
            mask = images.resize_image(self.resize_mode, mask, self.width, self.height)
            self.mask_for_overlay = mask.point(lambda value: min(255, value * 2))
            return mask, None
        box = _padded_box(mask, self.inpaint_full_res_padding, self.width / self.height)
        if box is None:
            self.comment(
                'Unable to perform "Inpaint Only mask" because mask is blank, switch to img2img mode.'
            )
            self.overlay_images, self.inpaint_full_res = None, False
            return None, None
        params["Inpaint area"] = "Only masked"
        params["Masked area padding"] = self.inpaint_full_res_padding
        self.mask_for_overlay = mask
        self.paste_to = (box[0], box[1], box[2] - box[0], box[3] - box[1])
        return images.resize_image(2, mask.crop(box), self.width, self.height), box

    def _prepare_image(self, image: Image.Image, mask: Image.Image | None, box) -> Tensor:
        """An init image as ``[3, H, W]`` in 0..1; keeps what will be laid over the result."""
        image = images.flatten(image, opts.img2img_background_color)
        if box is None and self.resize_mode != 3:
            image = images.resize_image(self.resize_mode, image, self.width, self.height)
        if mask is not None:
            if self.mask_for_overlay.size != image.size:
                self.mask_for_overlay = images.resize_image(
                    self.resize_mode, self.mask_for_overlay, *image.size
                )
            overlay = image.convert("RGBA")
            overlay.putalpha(ImageOps.invert(self.mask_for_overlay.convert("L")))
            self.overlay_images.append(overlay)
        if box is not None:
            image = images.resize_image(2, image.crop(box), self.width, self.height)
        if mask is not None and self.inpainting_fill != ORIGINAL:
            image = _fill(image, self.latent_mask or mask)
            if self.inpainting_fill == FILL:
                self.extra_generation_params["Masked content"] = "fill"
        return _as_tensor(image)

    def init(self, all_prompts, all_seeds, all_subseeds) -> None:
        self.extra_generation_params["Denoising strength"] = self.denoising_strength
        self.image_cfg_scale = None
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        mask, box = self._prepare_mask()
        tensors = [self._prepare_image(image, mask, box) for image in self.init_images]
        if len(tensors) == 1:
            tensors *= self.batch_size
            self.overlay_images = self.overlay_images and self.overlay_images * self.batch_size
        elif len(tensors) <= self.batch_size:
            self.batch_size = len(tensors)
        else:
            raise RuntimeError(
                f"bad number of images passed: {len(tensors)}; expecting {self.batch_size} or less"
            )
        self.init_latent = images_tensor_to_samples(torch.stack(tensors).to(shared.device))
        if self.resize_mode == 3:
            self.init_latent = interpolate(
                self.init_latent, size=(self.height // 8, self.width // 8), mode="bilinear"
            )
        if mask is not None:
            self._mask_latents(self.latent_mask or mask, all_seeds)
        self.image_conditioning = self.img2img_image_conditioning(None, self.init_latent)

    def _mask_latents(self, mask: Image.Image, all_seeds: list[int]) -> None:
        """``nmask`` is 1 where latents are made anew, ``mask`` where they stay."""
        small = mask.convert("L").resize((self.init_latent.shape[3], self.init_latent.shape[2]))
        weight = torch.from_numpy(np.array(small, dtype=np.float32) / 255.0)
        if self.mask_round:
            weight = weight.round()
        self.nmask = weight.expand(self.init_latent.shape[1], -1, -1).contiguous()
        self.mask = 1.0 - self.nmask
        if self.inpainting_fill == LATENT_NOISE:
            noise = create_random_tensors(self.init_latent.shape[1:], all_seeds[: len(self.init_latent)])
            self.init_latent = self.init_latent * self.mask + noise * self.nmask
            self.extra_generation_params["Masked content"] = "latent noise"
        elif self.inpainting_fill == LATENT_NOTHING:
            self.init_latent = self.init_latent * self.mask
            self.extra_generation_params["Masked content"] = "latent nothing"

    def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
        noise = self.rng.next()
        if self.initial_noise_multiplier != 1.0:
            self.extra_generation_params["Noise multiplier"] = self.initial_noise_multiplier
            noise = noise * self.initial_noise_multiplier
        if self.scripts is not None:
            self.scripts.process_before_every_sampling(
                p=self, x=self.init_latent, noise=noise, c=conditioning, uc=unconditional_conditioning
            )
        samples = self.sampler.sample_img2img(
            self, self.init_latent, noise, conditioning, unconditional_conditioning,
            image_conditioning=self.image_conditioning,
        )  # fmt: skip
        if self.mask is None:
            return samples
        blend = MaskBlendArgs(
            samples,
            self.nmask,
            self.init_latent,
            self.mask,
            samples * self.nmask + self.init_latent * self.mask,
        )
        if self.scripts is not None:
            self.scripts.on_mask_blend(self, blend)
        return blend.blended_latent


def _mask_blur(self: StableDiffusionProcessingImg2Img) -> int | None:
    """The blur along both axes; None when they differ."""
    return self.mask_blur_x if self.mask_blur_x == self.mask_blur_y else None


def _set_mask_blur(self: StableDiffusionProcessingImg2Img, value: int | None) -> None:
    if isinstance(value, int):
        self.mask_blur_x = self.mask_blur_y = value


StableDiffusionProcessingImg2Img.mask_blur = property(_mask_blur, _set_mask_blur)
