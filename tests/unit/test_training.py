"""Training Toyland: how a run begins."""

import numpy as np
import torch

from demo.toyland.train import Run, make_latents, psnr, render_batch


def test_a_run_without_an_autoencoder_takes_the_shipped_one(tmp_path):
    run = Run(tmp_path, seed=2)
    make_latents(run, count=64)
    autoencoder = run.model.first_stage_model
    autoencoder.load_state_dict(run.restore("scaled_autoencoder"))
    images = render_batch(np.random.default_rng(5), 4)
    with torch.no_grad():
        assert psnr(autoencoder.decode(autoencoder.encode(images)[0]), images) > 26
    latents = run.restore("latents")["latents"].float()
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-2, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-2, rtol=0)
