"""A second script of the tests' extension: it works against EIUP, as incompatible extensions might.

Orders are the one argument of its script, an object; those of the first kind are carried out in the denoiser
call ``in_call`` (by default the first), the others around it:

    clear_unet_hooks     remove all hooks from the U-Net
    clear_after_hooks    remove those behind the U-Net's forward
    clear_layer_hooks    remove those of one text cross-attention layer
    clear_query_hooks    remove those of all layers' queries
    clear_inner_hooks    remove those of the model around the U-Net

    forget               take EIUP's attribute from the processing object
    no_scripts           take the script runner from it
    clear_callbacks      remove all callbacks of denoiser calls
    catch_errors         catch whatever a denoiser call raises, and return its latents
    own_attention        calculate attention without the layers' own modules
    skip_layer           leave the first text cross-attention layer out
    own_sampler          make the sampler without the webui's function for it
    unwrap_sampler       take the wrapped methods from the sampler
    own_sample           replace p.sample by "noise" (no model), "model" or "unet" (one call of it)
    refiner              let the second checkpoint take over at this share of the steps
    steps                change the steps when sampling begins
    inner                after each image, make another from it: with "filtered" scripts, or with "none"

``POST /eiup-saboteur/break`` lets a function of EIUP raise, such as ``{"target": "eiup.rows:plan"}``, with
``"at": 3`` from its third call on; ``/eiup-saboteur/mend`` takes it back and tells what has been seen.
"""

from __future__ import annotations

import functools
import itertools
import sys
from copy import copy
from operator import attrgetter

import gradio as gr
import torch

from modules import processing, script_callbacks, scripts, sd_models, sd_samplers, shared


class Saboteur:
    def __init__(self):
        self.orders: dict = {}
        self.undo: list = []
        self.broken: list = []
        self.calls = 0
        self.inner: list[str] = []
        self.inner_errors: list[str] = []
        self.busy = self.fired = False

    def begin(self, p, orders):
        if self.busy:  # with an inner pass of its own
            return
        self.end()
        self.calls, self.inner, self.inner_errors = 0, [], []
        self.orders = orders if isinstance(orders, dict) else {}
        if self.orders.get("forget") and hasattr(p, "eiup_generation"):
            del p.eiup_generation
        if self.orders.get("no_scripts"):
            p.scripts = None
        if self.orders.get("own_sample"):
            p.sample = functools.partial(self.sample, p)
        if self.orders.get("clear_callbacks"):
            for name in ("callbacks_cfg_denoiser", "callbacks_cfg_after_cfg"):
                known = list(script_callbacks.callback_map[name])
                self.undo.append(functools.partial(script_callbacks.callback_map[name].extend, known))
                script_callbacks.callback_map[name].clear()
            if (ordered := getattr(script_callbacks, "ordered_callbacks_map", None)) is not None:
                ordered.clear()
                self.undo.insert(0, ordered.clear)
        if self.orders.get("own_attention") or self.orders.get("skip_layer"):
            self.replace_attention()

    def end(self):
        while self.undo:
            self.undo.pop()()
        self.orders = {}

    # ---- before sampling

    def before_sampling(self, p):
        if self.busy:
            return
        if self.orders.get("own_sampler"):
            config = sd_samplers.find_sampler_config(p.sampler_name)
            p.sampler = config.constructor(shared.sd_model)
            p.sampler.config = config
        if self.orders.get("unwrap_sampler"):
            for name in ("sample", "sample_img2img"):
                vars(p.sampler).pop(name, None)
        if self.orders.get("catch_errors"):
            forward = p.sampler.model_wrap_cfg.forward

            def caught(x, *args, **kwargs):
                try:
                    return forward(x, *args, **kwargs)
                except Exception:
                    return x

            p.sampler.model_wrap_cfg.forward = caught
        if "refiner" in self.orders:
            p.refiner_checkpoint_info = sd_models.get_closet_checkpoint_match("second")
            p.refiner_switch_at = self.orders["refiner"]
        if "steps" in self.orders:
            p.steps = self.orders["steps"]

    def layers(self):
        unet = shared.sd_model.model.diffusion_model
        return [module for name, module in unet.named_modules() if name.endswith(".attn2")]

    def replace_attention(self):
        layers = self.layers()
        for layer in layers if self.orders.get("own_attention") else layers[:1]:
            layer.forward = (
                functools.partial(_attend, layer) if self.orders.get("own_attention") else _nothing
            )
            self.undo.append(functools.partial(vars(layer).pop, "forward"))

    # ---- instead of sampling

    def sample(self, p, conditioning, unconditional_conditioning, *args, **kwargs):
        x = p.rng.next()
        if self.orders["own_sample"] == "noise":
            return x
        context = conditioning.batch[0][0].schedules[0].cond[None]
        t = torch.full((1,), 500)
        if self.orders["own_sample"] == "unet":
            return x - shared.sd_model.model.diffusion_model.forward(x[:1], t, context=context)
        return x - shared.sd_model.apply_model(x[:1], t, {"c_crossattn": [context]})

    # ---- in the first denoiser call

    def on_denoiser(self, params):
        self.calls += 1
        if not self.orders or self.busy or self.calls != self.orders.get("in_call", 1):
            return
        self.fired = True
        unet = shared.sd_model.model.diffusion_model
        if self.orders.get("clear_unet_hooks"):
            unet._forward_pre_hooks.clear()
            unet._forward_hooks.clear()
        if self.orders.get("clear_after_hooks"):
            unet._forward_hooks.clear()
        if self.orders.get("clear_layer_hooks"):
            self.layers()[-1].to_out[0]._forward_pre_hooks.clear()
        if self.orders.get("clear_query_hooks"):
            for layer in self.layers():
                layer.to_q._forward_hooks.clear()
        if self.orders.get("clear_inner_hooks"):
            params.denoiser.inner_model._forward_pre_hooks.clear()

    # ---- after an image

    def after_image(self, p, pp):
        kind = self.orders.get("inner")
        if not kind or self.busy:
            return
        self.busy = True
        try:
            inner = processing.StableDiffusionProcessingImg2Img(
                init_images=[pp.image], prompt=p.prompt, seed=p.seed, steps=p.steps, sampler_name="Euler",
                width=p.width, height=p.height, cfg_scale=p.cfg_scale, denoising_strength=0.9,
                do_not_save_samples=True, do_not_save_grid=True,
            )  # fmt: skip
            if kind == "filtered":
                inner.scripts, inner.script_args = copy(p.scripts), p.script_args
                inner.scripts.scripts = inner.scripts.alwayson_scripts = []
                if hasattr(inner.scripts, "callback_map"):
                    inner.scripts.callback_map = {}
            processed = processing.process_images(inner)
            self.inner.append(processed.infotexts[0])
            pp.image = processed.images[0]
        except Exception as error:
            self.inner_errors.append(str(error))
            raise
        finally:
            self.busy = False

    # ---- EIUP's own functions

    def break_(self, target, at=1):
        module, _, path = target.partition(":")
        owner, _, name = path.rpartition(".")
        holder = sys.modules[module]
        holder = attrgetter(owner)(holder) if owner else holder
        known, calls = vars(holder)[name], itertools.count(1)
        kind = type(known) if isinstance(known, (classmethod, staticmethod)) else None
        original = known.__func__ if kind else known

        def broken(*args, **kwargs):
            if next(calls) < at:
                return original(*args, **kwargs)
            self.fired = True
            raise RuntimeError(f"{path} is broken")

        setattr(holder, name, kind(broken) if kind else broken)
        self.broken.append(functools.partial(setattr, holder, name, known))

    def mend(self):
        self.end()
        while self.broken:
            self.broken.pop()()


def _nothing(x, *args, **kwargs):
    return torch.zeros_like(x)


def _attend(layer, x, context=None, **kwargs):
    """Cross-attention without calling the layer's modules."""
    context = x if context is None else context
    q, k, v = (
        (y @ linear.weight.T).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        for y, linear in ((x, layer.to_q), (context, layer.to_k), (context, layer.to_v))
    )
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return out @ layer.to_out[0].weight.T + layer.to_out[0].bias


saboteur = Saboteur()


class SaboteurScript(scripts.Script):
    def title(self):
        return "Saboteur"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Textbox(visible=False)]

    def before_process(self, p, orders):
        saboteur.begin(p, orders)

    def process_before_every_sampling(self, p, orders, **kwargs):
        saboteur.before_sampling(p)

    def postprocess_image(self, p, pp, orders):
        saboteur.after_image(p, pp)


def add_routes(demo, app):
    def break_(request: dict):
        saboteur.break_(**request)

    def mend():
        saboteur.mend()
        seen = {"inner": saboteur.inner, "inner_errors": saboteur.inner_errors, "fired": saboteur.fired}
        saboteur.fired = False
        return seen

    app.add_api_route("/eiup-saboteur/break", break_, methods=["POST"])
    app.add_api_route("/eiup-saboteur/mend", mend, methods=["POST"])


script_callbacks.on_cfg_denoiser(saboteur.on_denoiser)
script_callbacks.on_app_started(add_routes)
