"""Classifier-free guidance: one guided prediction out of many rows through the U-Net."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules import prompt_parser, sd_samplers_common, shared
from modules.script_callbacks import (
    AfterCFGCallbackParams,
    CFGDenoisedParams,
    CFGDenoiserParams,
    cfg_after_cfg_callback,
    cfg_denoised_callback,
    cfg_denoiser_callback,
)
from modules.shared import opts, state


def _condition(context: Tensor, image_cond: Tensor) -> dict[str, list[Tensor]]:
    return {"c_crossattn": [context], "c_concat": [image_cond]}


class CFGDenoiser(nn.Module):
    """The model that samplers call.

    Rows of a U-Net batch are every image's sub-prompts, grouped by image, then one uncond per image. How many
    calls they take depends on the settings and on whether the prompts have equally many tokens.
    """

    def __init__(self, sampler):
        super().__init__()
        self.sampler = sampler
        self.model_wrap: nn.Module | None = None
        self.p = None
        self.mask: Tensor | None = None
        self.nmask: Tensor | None = None
        self.init_latent: Tensor | None = None
        self.steps: int | None = None
        self.total_steps: int | None = None
        self.step = 0
        self.image_cfg_scale: float | None = None
        self.padded_cond_uncond = False
        self.padded_cond_uncond_v0 = False
        self.cond_scale_miltiplier = 1.0
        self.need_last_noise_uncond = False
        self.last_noise_uncond: Tensor | None = None
        self.mask_before_denoising = False

    @property
    def inner_model(self) -> nn.Module:
        raise NotImplementedError

    def update_inner_model(self) -> None:
        """After another checkpoint was loaded: wrap it, and take its conds."""
        self.model_wrap = None
        cond, uncond = self.p.get_conds()
        self.sampler.sampler_extra_args["cond"] = cond
        self.sampler.sampler_extra_args["uncond"] = uncond

    def combine_denoised(self, x_out: Tensor, conds_list: list, uncond: Tensor, cond_scale: float) -> Tensor:
        """``uncond + sum over sub-prompts of weight * scale * (cond - uncond)``, per image."""
        base = x_out[-uncond.shape[0] :]
        guided = base.clone()
        for image, subprompts in enumerate(conds_list):
            for row, weight in subprompts:
                guided[image] += (x_out[row] - base[image]) * (weight * cond_scale)
        return guided

    def get_pred_x0(self, x_in: Tensor, x_out: Tensor, sigma: Tensor) -> Tensor:
        """The clean latent that an output of the inner model stands for."""
        return x_out

    def pad_cond_uncond(self, cond: Tensor, uncond: Tensor) -> tuple[Tensor, Tensor]:
        """Lengthen the shorter one by empty prompts."""
        empty = shared.sd_model.cond_stage_model_empty_prompt

        def lengthen(short: Tensor, length: int) -> Tensor:
            self.padded_cond_uncond = True
            repeats = (length - short.shape[1]) // empty.shape[1]
            return torch.cat([short, empty.repeat(short.shape[0], repeats, 1)], dim=1)

        if cond.shape[1] < uncond.shape[1]:
            return lengthen(cond, uncond.shape[1]), uncond
        return cond, lengthen(uncond, cond.shape[1])

    def pad_cond_uncond_v0(self, cond: Tensor, uncond: Tensor) -> tuple[Tensor, Tensor]:
        """Repeat the uncond's last vector, or cut the uncond, to the cond's length."""
        self.padded_cond_uncond_v0 = True
        missing = max(0, cond.shape[1] - uncond.shape[1])
        return cond, torch.cat([uncond, uncond[:, -1:].expand(-1, missing, -1)], dim=1)[:, : cond.shape[1]]

    def _blend(self, latent: Tensor, sigma: Tensor) -> Tensor:
        """Inpainting: the original latents outside the mask."""
        from modules.scripts import MaskBlendArgs

        blended = latent * self.nmask + self.init_latent * self.mask
        if self.p.scripts is None:
            return blended
        args = MaskBlendArgs(
            latent, self.nmask, self.init_latent, self.mask, blended, denoiser=self, sigma=sigma
        )
        self.p.scripts.on_mask_blend(self.p, args)
        return args.blended_latent

    def _skips_uncond(self, sigma: Tensor, s_min_uncond: float) -> bool:
        params = self.p.extra_generation_params
        if opts.skip_early_cond != 0 and self.step / self.total_steps <= opts.skip_early_cond:
            params["Skip Early CFG"] = opts.skip_early_cond
            return True
        if s_min_uncond > 0 and sigma[0] < s_min_uncond and (self.step % 2 or opts.s_min_uncond_all):
            params["NGMS"] = s_min_uncond
            if opts.s_min_uncond_all:
                params["NGMS all steps"] = True
            return True
        return False

    def _pad(self, cond: Tensor, uncond: Tensor) -> tuple[Tensor, Tensor]:
        self.padded_cond_uncond = self.padded_cond_uncond_v0 = False
        if cond.shape[1] != uncond.shape[1]:
            if opts.pad_cond_uncond_v0:
                return self.pad_cond_uncond_v0(cond, uncond)
            if opts.pad_cond_uncond:
                return self.pad_cond_uncond(cond, uncond)
        return cond, uncond

    def _predict(
        self,
        x: Tensor,
        sigma: Tensor,
        image_cond: Tensor,
        cond: Tensor,
        uncond: Tensor | None,
        batch_size: int,
    ) -> Tensor:
        """All rows through the inner model; ``uncond`` is None when unconds are skipped."""
        if uncond is None or cond.shape[1] == uncond.shape[1]:
            context = cond if uncond is None else torch.cat([cond, uncond])
            if opts.batch_cond_uncond:
                return self.inner_model(x, sigma, cond=_condition(context, image_cond))
            calls = [
                (slice(a, a + batch_size), context[a : a + batch_size]) for a in range(0, len(x), batch_size)
            ]
        else:
            # Contexts of unequal length cannot share a batch.
            size = batch_size * 2 if opts.batch_cond_uncond else batch_size
            calls = [
                (slice(a, min(a + size, len(cond))), cond[a : a + size]) for a in range(0, len(cond), size)
            ]
            calls.append((slice(len(cond), len(x)), uncond))
        out = torch.zeros_like(x)
        for rows, context in calls:
            out[rows] = self.inner_model(x[rows], sigma[rows], cond=_condition(context, image_cond[rows]))
        return out

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        uncond,
        cond,
        cond_scale: float,
        s_min_uncond: float,
        image_cond: Tensor,
    ) -> Tensor:
        """The guided prediction for latents ``x [B, C, H, W]`` at ``sigma [B]`` (sigmas, or timesteps)."""
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException

        if sd_samplers_common.apply_refiner(self, sigma):
            cond = self.sampler.sampler_extra_args["cond"]
            uncond = self.sampler.sampler_extra_args["uncond"]

        conds_list, tensor = prompt_parser.reconstruct_multicond_batch(cond, self.step)
        uncond = prompt_parser.reconstruct_cond_batch(uncond, self.step)
        if self.mask_before_denoising and self.mask is not None:
            x = self._blend(x, sigma)

        batch_size = len(conds_list)
        rows = [image for image, subprompts in enumerate(conds_list) for _ in subprompts] + list(
            range(batch_size)
        )
        params = CFGDenoiserParams(
            x[rows],
            image_cond[rows],
            sigma[rows],
            state.sampling_step,
            state.sampling_steps,
            tensor,
            uncond,
            self,
        )
        cfg_denoiser_callback(params)
        x_in, sigma_in, image_cond_in = params.x, params.sigma, params.image_cond
        tensor, uncond = params.text_cond, params.text_uncond

        skip_uncond = self._skips_uncond(sigma, s_min_uncond)
        if skip_uncond:
            x_in, sigma_in = x_in[:-batch_size], sigma_in[:-batch_size]
        tensor, uncond = self._pad(tensor, uncond)
        x_out = self._predict(
            x_in, sigma_in, image_cond_in, tensor, None if skip_uncond else uncond, batch_size
        )

        firsts = [subprompts[0][0] for subprompts in conds_list]
        if skip_uncond:
            # Each image's first cond stands in for its uncond.
            x_out = torch.cat([x_out, x_out[firsts]])
        denoised_params = CFGDenoisedParams(
            x_out, state.sampling_step, state.sampling_steps, self.inner_model
        )
        cfg_denoised_callback(denoised_params)
        if self.need_last_noise_uncond:
            self.last_noise_uncond = x_out[-batch_size:].clone()

        scale = 1.0 if skip_uncond else cond_scale * self.cond_scale_miltiplier
        denoised = self.combine_denoised(x_out, conds_list, uncond, scale)
        if not self.mask_before_denoising and self.mask is not None:
            denoised = self._blend(denoised, sigma)

        self.sampler.last_latent = self.get_pred_x0(x_in[firsts], x_out[firsts], sigma)
        sd_samplers_common.store_latent(self._preview(x_in, x_out, denoised, firsts, sigma))

        after = AfterCFGCallbackParams(denoised, state.sampling_step, state.sampling_steps)
        cfg_after_cfg_callback(after)
        self.step += 1
        return after.x

    def _preview(
        self, x_in: Tensor, x_out: Tensor, denoised: Tensor, firsts: list[int], sigma: Tensor
    ) -> Tensor:
        if opts.live_preview_content == "Prompt":
            return self.sampler.last_latent
        if opts.live_preview_content == "Negative prompt":
            return self.get_pred_x0(x_in[firsts], x_out[-len(firsts) :], sigma)
        return self.get_pred_x0(x_in[firsts], denoised, sigma)
