"""An extension for tests: it counts the rows of the U-Net that calibrating costs, and stops it on order.

``POST /eiup-meter/order`` begins to count anew. With ``{"command": "interrupt", "call": 3, "attention": 2}``
that command is given inside of the third U-Net call from then on, after its second text cross-attention; with
``{"unload": true}`` the webui forgets its model, as one does that has not loaded any yet.
With ``{"exit": true}`` the next U-Net call ends the thread that it is made in.
With ``{"unbegun": true}`` the next generation looks as if its job had never been begun.
``<meter:2>`` in a prompt is an extra network, which doubles the text values, and stays active until the next
activation, as a LoRA does.
``GET /eiup-meter`` tells what was counted: ``rows``, the text cross-attentions ``after`` the command, and how
often a model was loaded.
"""

from __future__ import annotations

from functools import partial

from modules import extra_networks, script_callbacks, sd_models, shared


class Meter:
    def __init__(self):
        self.loads = 0
        self.begin({})

    def begin(self, order):
        self.order = order
        self.rows = self.calls = self.attentions = 0
        self.after = None

    def watch(self, model):
        self.loads += 1
        unet = model.model.diffusion_model
        unet.register_forward_pre_hook(self.on_call)
        for name, module in unet.named_modules():
            if name.endswith(".attn2"):
                module.register_forward_hook(self.on_attention)

    def on_call(self, unet, args):
        if self.order.pop("exit", False):
            raise SystemExit
        if self.order.pop("unbegun", False):
            shared.state.time_start = None
        self.calls, self.attentions = self.calls + 1, 0
        self.rows += len(args[0])

    def on_denoiser(self, params):
        self.rows -= len(params.x)  # these are the sampler's

    def on_attention(self, module, args, output):
        self.attentions += 1
        if self.after is not None:
            self.after += 1
        at = (self.order.get("call"), self.order.get("attention"))
        if at == (self.calls, self.attentions):
            getattr(shared.state, self.order["command"])()
            self.after = 0


meter = Meter()


class Network(extra_networks.ExtraNetwork):
    def __init__(self):
        super().__init__("meter")
        self.handles = []

    def activate(self, p, params_list):
        while self.handles:
            self.handles.pop().remove()
        for params in params_list:
            change = partial(self.multiply, float(params.positional[0]))
            for name, module in shared.sd_model.model.diffusion_model.named_modules():
                if name.endswith(".attn2.to_v"):
                    self.handles.append(module.register_forward_hook(change))

    @staticmethod
    def multiply(factor, module, args, output):
        return output * factor

    def deactivate(self, p):
        pass


def add_routes(demo, app):
    def order(request: dict):
        if request.get("unload"):
            data = sd_models.model_data
            data.sd_model, data.was_loaded_at_least_once = None, False
            data.loaded_sd_models.clear()
        meter.begin(request)
        return tell()

    def tell():
        return {"rows": meter.rows, "after": meter.after, "loads": meter.loads}

    extra_networks.register_extra_network(Network())
    app.add_api_route("/eiup-meter/order", order, methods=["POST"])
    app.add_api_route("/eiup-meter", tell, methods=["GET"])


script_callbacks.on_model_loaded(meter.watch)
script_callbacks.on_cfg_denoiser(meter.on_denoiser)
script_callbacks.on_app_started(add_routes)
