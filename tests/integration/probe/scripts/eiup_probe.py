"""An extension for tests: it watches the U-Net's rows from outside, and disturbs a generation on order.

Orders are the one argument of its script, an object:

    prompts         a prompt for each image of the batch
    watch           note for each U-Net call which rows EIUP changed
    raise_in_call   raise inside of this U-Net call (from 1 on)
    raise_unerased  raise inside of U-Net calls while EIUP erases nothing
    stop_in_call    "interrupt" or "skip" in the second denoiser call
    clone           hand the denoiser a copy of the latents
    fail_callback   raise in the denoiser's callback, which the webui swallows
    rerun           run the model once more on the whole batch after each denoiser call
    rerun_row       the same with the first row alone
    hide_attention  give the text cross-attention modules another name
    replace_unet    pretend that the U-Net is replaced by another implementation
    previews        note before each denoiser call whether there is a live preview; as "little_vram", have the
                    webui make them as it does with little VRAM
"""

from __future__ import annotations

import sys

import gradio as gr
import torch

from modules import images, processing, script_callbacks, scripts, sd_samplers, sd_unet, shared


class Probe:
    """What is ordered for the running generation, and what has been seen in it."""

    def __init__(self):
        self.orders: dict = {}
        self.undo: list = []
        self.inner = None
        self.clear()

    def clear(self):
        self.calls: list[list[tuple[int, bool]]] = []
        self.rerun_difference = None
        self.unet_calls = self.denoiser_calls = 0
        self.params = None
        self.watching: list = []
        self.seen: dict = {}
        self.previews: list[bool] = []

    def reset(self):
        """Take everything back that was done to the model."""
        while self.undo:
            self.undo.pop()()
        self.orders = {}

    def begin(self, orders):
        self.reset()
        self.clear()
        self.orders = orders if isinstance(orders, dict) else {}

    def hook(self, handle):
        self.undo.append(handle.remove)

    # ---- before sampling

    def disturb(self):
        unet = shared.sd_model.model.diffusion_model
        if self.orders.get("raise_in_call"):
            self.hook(unet.out.register_forward_pre_hook(self._raise))
        if self.orders.get("raise_unerased"):
            self.hook(unet.out.register_forward_pre_hook(self._raise_unerased))
        if self.orders.get("hide_attention"):
            blocks = [module for module in unet.modules() if "attn2" in module._modules]
            for block in blocks:
                block._modules["text_attention"] = block._modules.pop("attn2")

            def show():
                for block in blocks:
                    block._modules["attn2"] = block._modules.pop("text_attention")

            self.undo.append(show)
        if self.orders.get("replace_unet"):
            sd_unet.current_unet = object()
            self.undo.append(lambda: setattr(sd_unet, "current_unet", None))
        if self.orders.get("previews") == "little_vram":
            shared.parallel_processing_allowed = False
            self.undo.append(lambda: setattr(shared, "parallel_processing_allowed", True))
        if self.orders.get("watch"):
            self.hook(unet.register_forward_pre_hook(lambda module, args: self.calls.append([])))
            for layer in self.layers():
                self.hook(layer.register_forward_pre_hook(self._see_context, with_kwargs=True))
                self.hook(layer.to_out[0].register_forward_pre_hook(self._see_before))

    def layers(self):
        unet = shared.sd_model.model.diffusion_model
        return [module for name, module in unet.named_modules() if name.endswith(".attn2")]

    def _raise(self, module, args):
        self.unet_calls += 1
        if self.unet_calls == self.orders["raise_in_call"]:
            raise RuntimeError("the probe's error in the middle of sampling")

    def _raise_unerased(self, module, args):
        if not self.state()["running"]:
            raise RuntimeError("the probe's error in an image without erasure")

    # ---- which rows are changed: the heads' output before and after EIUP's hook

    def _see_context(self, layer, args, kwargs):
        context = kwargs.get("context", args[1] if len(args) > 1 else None)
        self.seen["kinds"] = [self._kind(row[:77]) for row in context]

    def _kind(self, row):
        """The index of the conditional row with this context, or -1 for an unconditional one."""
        for index, cond in enumerate(self.params.text_cond):
            if torch.equal(cond[:77], row):
                return index
        assert any(torch.equal(uncond[:77], row) for uncond in self.params.text_uncond)
        return -1

    def _see_before(self, module, args):
        self.seen["before"] = args[0].clone()

    def _see_after(self, module, args):
        changed = [not torch.equal(a, b) for a, b in zip(self.seen["before"], args[0])]
        known = self.calls[-1] or [(kind, False) for kind in self.seen["kinds"]]
        self.calls[-1] = [(kind, was or now) for (kind, was), now in zip(known, changed)]

    # ---- callbacks

    def on_denoiser(self, params):
        if not self.orders:
            return
        self.params, self.inner = params, params.denoiser.inner_model
        self.denoiser_calls += 1
        if self.orders.get("previews"):
            stored = (shared.state.current_latent, shared.state.current_image)
            self.previews.append(any(preview is not None for preview in stored))
        if self.orders.get("watch") and params.denoiser.step == 0:
            # In each pass anew, so that they come after EIUP's.
            while self.watching:
                self.watching.pop().remove()
            for layer in self.layers():
                self.watching.append(layer.to_out[0].register_forward_pre_hook(self._see_after))
                self.hook(self.watching[-1])
        if self.orders.get("clone"):
            params.x = params.x.clone()
        if self.denoiser_calls == 2 and self.orders.get("stop_in_call"):
            getattr(shared.state, self.orders["stop_in_call"])()
        if self.orders.get("fail_callback"):
            raise RuntimeError("the probe's error in a callback")

    def on_denoised(self, params):
        rows = len(params.x) if self.orders.get("rerun") else 1 if self.orders.get("rerun_row") else 0
        if not rows:
            return
        before = self.params
        context = torch.cat([before.text_cond, before.text_uncond])[:rows]
        cond = {"c_crossattn": [context], "c_concat": [before.image_cond[:rows]]}
        again = params.inner_model(before.x[:rows].clone(), before.sigma[:rows], cond=cond)
        difference = float((again - params.x[:rows]).abs().max())
        self.rerun_difference = max(difference, self.rerun_difference or 0.0)

    def state(self):
        modules = [*shared.sd_model.modules(), *([self.inner] if self.inner is not None else [])]
        sampling = sys.modules["eiup.webui.sampling"].SamplingPass
        return {
            "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules),
            "running": len(sampling._running),
            "wrapped": [name for name, found in WRAPPED.items() if "eiup" in found.__globals__["__name__"]],
            "calls": self.calls,
            "previews": self.previews,
            "rerun_difference": self.rerun_difference,
        }


WRAPPED = {
    "process_images_inner": processing.process_images_inner,
    "sample": processing.StableDiffusionProcessingTxt2Img.sample,
    "create_sampler": sd_samplers.create_sampler,
    "save_image": images.save_image,
}
probe = Probe()


class ProbeScript(scripts.Script):
    def title(self):
        return "Probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Textbox(visible=False)]

    def before_process(self, p, orders):
        probe.begin(orders)
        if probe.orders.get("prompts"):
            p.prompt = probe.orders["prompts"]

    def process(self, p, orders):
        probe.disturb()

    def postprocess(self, p, processed, orders):
        probe.reset()


def add_routes(demo, app):
    def reset():
        probe.reset()
        return probe.state()

    app.add_api_route("/eiup-probe/reset", reset, methods=["POST"])


script_callbacks.on_cfg_denoiser(probe.on_denoiser)
script_callbacks.on_cfg_denoised(probe.on_denoised)
script_callbacks.on_app_started(add_routes)
