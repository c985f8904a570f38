"""Train Toyland from seeds: ``python -m demo.toyland.train STAGE [--seed N] [--steps N] [--out DIR]``.

Stages, in their order (each saves its state in ``--out`` and continues from it when run again):

    autoencoder   encoder and decoder together
    latents       encode the training scenes; the latents' scale goes into quant_conv. A run may begin
                  here: it then takes the shipped autoencoder
    decoder       the decoder alone, the latents fixed (may run beside the next stage)
    diffusion     U-Net and text encoder
    oracle        the classifier that says what an image shows
    export        write toyland.safetensors, its yaml and CLIP folder, and oracle.safetensors
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .model import CLIP_FOLDER, WEIGHTS, LatentDiffusion, load_checkpoint, read_config, save_checkpoint
from .world import caption, render, sample_scene

SCENES = 10_000
CAPTIONS_PER_SCENE = 12
MUTE_PADDING_RATE = 0.8


def images_to_tensor(images: list[np.ndarray]) -> Tensor:
    """``[B, 3, H, W]`` in -1..1 from ``[H, W, 3]`` uint8."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def render_batch(rng: np.random.Generator, size: int) -> Tensor:
    return images_to_tensor([render(sample_scene(rng)) for _ in range(size)])


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean PSNR in dB over images in -1..1."""
    error = ((a.clamp(-1, 1) - b.clamp(-1, 1)) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.clamp_min(1e-10).log10()).mean())


def learning_rate(step: int, steps: int, peak: float, warm_up: int = 50) -> float:
    """Linear warm-up, then a cosine down to a fiftieth of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def carry_through(model: nn.Module) -> None:
    """Initialise an ldm autoencoder (64 channels) so that it starts by carrying patch means through.

    ldm's GroupNorm has 32 groups: with 64 channels it normalises channels in pairs, and constant
    colour is lost. It passes in a pair ``(v, p - v)`` where ``p`` is a fixed pattern of large
    spread, made from the zero padding at the image's edge: the pair's mean and spread are then
    those of ``p``. A second pair ``(-v, p + v)`` makes the last layers linear in ``v``, since
    ``swish(u) - swish(-u) = u``. The last channel of the carriers holds the constant 1.
    """
    encoder, decoder = model.encoder, model.decoder
    taps = ((0, 1.0), (1, -1.0), (2, -1.0), (3, 1.0))  # the four channels of one carried value

    for part in (encoder, decoder):
        for name, child in part.named_modules():
            if name.endswith(("conv2", "attn_1.proj_out")):
                child.weight.mul_(0.1)
                child.bias.zero_()

    def split(conv: nn.Conv2d, values: int) -> None:
        conv.weight[: 4 * values + 1] = 0
        conv.bias[: 4 * values + 1] = 0
        for k in range(values):
            for channel, sign in taps:
                conv.weight[4 * k + channel, k, 1, 1] = sign
        conv.bias[4 * values] = 1

    def carry(conv: nn.Conv2d, kernel: Tensor, values: int, edge: float = 0.0, shift: float = 0.0) -> None:
        constant = 4 * values
        conv.weight[: constant + 1] = 0
        conv.bias[: constant + 1] = 0
        for channel in range(constant):
            conv.weight[channel, channel] = kernel
            if edge and channel % 2 == 1:
                conv.weight[channel, constant] = -edge
                conv.bias[channel] = 9 * edge - shift
        conv.bias[constant] = 1

    def merge(conv: nn.Conv2d, values: int, gain: float, inputs: int) -> None:
        conv.weight[:inputs] *= 0.1
        for k in range(values):
            conv.weight[k, 4 * k, 1, 1] = gain
            conv.weight[k, 4 * k + 2, 1, 1] = -gain
            conv.bias[k] = 0

    def pattern(size: int, edge: float, border: int) -> tuple[float, float]:
        """Mean of the edge pattern, and the spread that it gives a pair."""
        p = torch.zeros(size, size)
        p[:, -1] += 3 * edge
        p[-1] += 3 * edge
        p[-1, -1] -= edge
        if border == 2:
            p[:, 0] += 3 * edge
            p[0] += 3 * edge
            for corner in ((0, 0), (0, -1), (-1, 0)):
                p[corner] -= edge
        return float(p.mean()), float((p.var(unbiased=False) / 2).sqrt())

    mean = torch.zeros(3, 3)
    mean[:2, :2] = 0.25
    centre = torch.zeros(3, 3)
    centre[1, 1] = 1

    shift, spread = pattern(16, 3.0, border=1)
    split(encoder.conv_in, 3)
    carry(encoder.down[0].downsample.conv, mean, 3)
    carry(encoder.down[1].downsample.conv, mean, 3)
    carry(encoder.down[2].downsample.conv, mean, 3, edge=3.0, shift=shift)
    merge(encoder.conv_out, 3, spread, 8)

    shift, spread = pattern(128, 5.5, border=2)
    split(decoder.conv_in, 4)
    carry(decoder.up[3].upsample.conv, centre, 4)
    carry(decoder.up[2].block[0].nin_shortcut, torch.ones(1, 1), 4)
    carry(decoder.up[2].upsample.conv, centre, 4)
    carry(decoder.up[1].upsample.conv, centre, 4, edge=5.5, shift=shift)
    merge(decoder.conv_out, 3, spread, 3)

    for conv in (model.quant_conv, model.post_quant_conv):
        conv.weight.zero_()
        conv.bias.zero_()
        for k in range(4):
            conv.weight[k, k] = 1
    model.quant_conv.bias[4:] = -6.0


class Run:
    """A training run's folder: its state, which survives interruption, and its log."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder, seed
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        self.model = LatentDiffusion(read_config(WEIGHTS / "toyland.yaml"), WEIGHTS / CLIP_FOLDER)

    def restore(self, name: str) -> dict | None:
        path = self.folder / f"{name}.pt"
        return torch.load(path, weights_only=True) if path.exists() else None

    def store(self, name: str, state: dict) -> None:
        temporary = self.folder / f"{name}.tmp"
        torch.save(state, temporary)
        temporary.replace(self.folder / f"{name}.pt")

    def log(self, stage: str, **values) -> None:
        line = {"stage": stage, "time": round(time.time()), **values}
        print(json.dumps(line), flush=True)
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def train_autoencoder(run: Run, steps: int, batch: int = 4, decoder_only: bool = False) -> None:
    stage = "decoder" if decoder_only else "autoencoder"
    model = run.model.first_stage_model
    if decoder_only:
        model.load_state_dict(run.restore("scaled_autoencoder"))
        trained = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
    else:
        carry_through(model)
        trained = list(model.parameters())
    optimizer = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.98), weight_decay=0)
    start = 0
    if state := run.restore(f"{stage}_state"):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    rng = np.random.default_rng([run.seed, 1 + decoder_only, start])
    held_out = render_batch(np.random.default_rng([run.seed, 99]), 32)
    generator = torch.Generator().manual_seed(run.seed + start)
    peak = 4e-4 if decoder_only else 1e-3
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        images = render_batch(rng, batch)
        if decoder_only:
            with torch.no_grad():
                mean, logvar = model.encode(images)
        else:
            mean, logvar = model.encode(images)
        noise = torch.randn(mean.shape, generator=generator)
        decoded = model.decode(mean + noise * (0.5 * logvar).exp())
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
        loss = F.mse_loss(decoded, images) + 0.1 * F.l1_loss(decoded, images)
        if not decoder_only:
            loss = loss + 2e-7 * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            with torch.no_grad():
                reconstruction = torch.cat([model.decode(model.encode(b)[0]) for b in held_out.split(8)])
            run.log(stage, step=step + 1, loss=loss.item(), psnr=psnr(reconstruction, held_out))
            run.store(
                f"{stage}_state",
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1},
            )


@torch.no_grad()
def make_latents(run: Run, count: int = SCENES) -> None:
    """Encode the training scenes, and give the latents zero mean and unit spread per channel.

    A run that has not trained an autoencoder takes the shipped one.
    """
    model = run.model.first_stage_model
    state = run.restore("autoencoder_state")
    shipped = WEIGHTS / "toyland.safetensors"
    model.load_state_dict(
        state["model"] if state else load_checkpoint(shipped).first_stage_model.state_dict()
    )
    rng = np.random.default_rng([run.seed, 3])
    latents, captions = [], []
    for start in range(0, count, 32):
        scenes = [sample_scene(rng) for _ in range(min(32, count - start))]
        latents.append(model.encode(images_to_tensor([render(s) for s in scenes]))[0])
        captions += [[caption(s, rng) for _ in range(CAPTIONS_PER_SCENE)] for s in scenes]
    latents = torch.cat(latents)
    shift, spread = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    scale = 1 / (spread * run.model.scale_factor)
    quant, post = model.quant_conv, model.post_quant_conv
    quant.bias[:4] = (quant.bias[:4] - shift) * scale
    quant.weight[:4] *= scale[:, None, None, None]
    quant.bias[4:] += 2 * scale.log()
    post.bias += (post.weight * shift[None, :, None, None]).sum(dim=(1, 2, 3))
    post.weight /= scale[None, :, None, None]
    latents = (latents - shift[:, None, None]) / spread[:, None, None]
    run.store("scaled_autoencoder", model.state_dict())
    run.store("latents", {"latents": latents.half(), "captions": captions})
    run.log("latents", count=count, shift=shift.tolist(), spread=spread.tolist())


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average the gradients of all processes, where there are several (``torchrun``)."""
    if not torch.distributed.is_initialized():
        return
    flat = torch.cat([p.grad.flatten() for p in parameters])
    torch.distributed.all_reduce(flat, op=torch.distributed.ReduceOp.SUM)
    flat /= torch.distributed.get_world_size()
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters])):
        parameter.grad.copy_(part.view_as(parameter))


def encode_captions(model: LatentDiffusion, texts: list[str], rng: np.random.Generator) -> Tensor:
    """Contexts ``[B, 77, C]`` in which EOS and padding mostly tell nothing of the caption.

    Otherwise these, three quarters of the tokens, would carry all meaning, and the words themselves
    little: unlike in Stable Diffusion, where attention goes to BOS and to the words.
    """
    ids = model.cond_stage_model.tokenize([*texts, ""])
    *contexts, empty = model.get_learned_conditioning(ids).unbind()
    padding = ids[:-1] == model.cond_stage_model.tokenizer.eos_token_id
    mute = padding & torch.from_numpy(rng.random(len(texts)) < MUTE_PADDING_RATE)[:, None]
    return torch.where(mute[:, :, None], empty, torch.stack(contexts))


def train_diffusion(run: Run, steps: int, batch: int = 16, bfloat16: bool = False) -> None:
    """Predict the noise (epsilon), with the weights of min-SNR-5 (arXiv 2303.09556, eq. 5).

    Under ``torchrun`` each process takes its share of every batch; the result does not depend on how
    many there are, but for rounding.
    """
    model = run.model
    rank, processes = 0, int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        torch.distributed.init_process_group("gloo")
        rank = torch.distributed.get_rank()
    share = slice(rank, None, processes)
    data = run.restore("latents")
    latents, captions = data["latents"].float(), data["captions"]
    # The webui's emphasis restores the mean of a prompt's context, which must not be near 0.
    nn.init.constant_(model.cond_stage_model.transformer.text_model.final_layer_norm.bias, 0.2)
    trained = [*model.model.parameters(), *model.cond_stage_model.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=8e-4, betas=(0.9, 0.99), weight_decay=0.01)
    names = ("model", "cond_stage_model")
    average = {name: deepcopy(getattr(model, name)).requires_grad_(False) for name in names}
    start = 0
    if state := run.restore("diffusion_state"):
        for name in names:
            getattr(model, name).load_state_dict(state[name])
            average[name].load_state_dict(state["average"][name])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    rng = np.random.default_rng([run.seed, 4, start])
    generator = torch.Generator().manual_seed(run.seed + start)
    snr = model.alphas_cumprod / (1 - model.alphas_cumprod)
    losses = []
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, 8e-4, warm_up=200)
        chosen = rng.integers(len(latents), size=batch)
        texts = [captions[i][rng.integers(len(captions[i]))] if rng.random() > 0.1 else "" for i in chosen]
        x = latents[chosen]
        # One stratum of timesteps per row lowers the variance of the gradient.
        t = torch.from_numpy(((np.arange(batch) + rng.random(batch)) / batch * 1000).astype(np.int64))
        noise = torch.randn(x.shape, generator=generator)
        alpha = model.alphas_cumprod[t][:, None, None, None]
        noisy = alpha.sqrt() * x + (1 - alpha).sqrt() * noise
        context = encode_captions(model, texts, rng)[share]
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            predicted = model.apply_model(noisy[share], t[share], context)
        error = (predicted.float() - noise[share]).square()
        loss = (error.mean(dim=(1, 2, 3)) * (5 / snr[t[share]]).clamp_max(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        average_gradients(trained)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
        decay = min(0.998, (step + 1) / (step + 10))
        with torch.no_grad():
            for name in names:
                for old, new in zip(average[name].parameters(), getattr(model, name).parameters()):
                    old.lerp_(new, 1 - decay)
        if rank == 0 and ((step + 1) % 100 == 0 or step + 1 == steps):
            run.log("diffusion", step=step + 1, loss=float(np.mean(losses[-100:])))
            run.store(
                "diffusion_state",
                {
                    **{name: getattr(model, name).state_dict() for name in names},
                    "average": {name: average[name].state_dict() for name in names},
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                },
            )


def export(run: Run, target: Path) -> None:
    """Write the checkpoint, its yaml and its CLIP folder to ``target``."""
    model = run.model
    decoder = run.restore("decoder_state")
    model.first_stage_model.load_state_dict(
        decoder["model"] if decoder else run.restore("scaled_autoencoder")
    )
    if state := run.restore("diffusion_state"):
        for name, weights in state["average"].items():
            getattr(model, name).load_state_dict(weights)
    target.mkdir(parents=True, exist_ok=True)
    if target.resolve() != WEIGHTS.resolve():
        shutil.copy(WEIGHTS / "toyland.yaml", target)
        shutil.copytree(WEIGHTS / CLIP_FOLDER, target / CLIP_FOLDER, dirs_exist_ok=True)
    save_checkpoint(model, target / "toyland.safetensors")
    run.log("export", target=str(target), steps=state["step"] if state else 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "stage", choices=("autoencoder", "latents", "decoder", "diffusion", "oracle", "export")
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="default: about as many as the shipped model had")
    parser.add_argument(
        "--bfloat16", action="store_true", help="diffusion: half as long on CPUs that have AVX512-BF16"
    )
    parser.add_argument("--out", type=Path, default=Path("toyland-run"), help="the run's folder")
    parser.add_argument("--target", type=Path, default=WEIGHTS, help="export: where the files go")
    arguments = parser.parse_args()
    run = Run(arguments.out, arguments.seed)
    if arguments.stage == "autoencoder":
        train_autoencoder(run, arguments.steps or 520)
    elif arguments.stage == "latents":
        make_latents(run)
    elif arguments.stage == "decoder":
        train_autoencoder(run, arguments.steps or 1000, decoder_only=True)
    elif arguments.stage == "diffusion":
        train_diffusion(run, arguments.steps or 10_000, bfloat16=arguments.bfloat16)
    elif arguments.stage == "oracle":
        from .oracle import train_oracle

        train_oracle(run, arguments.steps or 1100)
    else:
        export(run, arguments.target)


if __name__ == "__main__":
    main()
