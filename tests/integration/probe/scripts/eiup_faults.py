"""A third script of the tests' extension: faults at a point of a generation, for ``python -m bench soak``.

Orders are the one argument of its script, an object:

    raise_in      raise in this method of the script or callback, or in the text ``encoder``
    stop          "interrupt" or "skip", once, in a denoiser call or in the method ``stop_in``
    forward       replace the U-Net's forward: by one that calls it ("around"), or by another ("own")
    at            from which time on that it is reached (1, the default), for ``stop``: at which

``POST /eiup-faults/mend`` takes everything back and tells ``fired``, whether a fault took place, and
``hooks``, how many hooks are left on the model.
"""

from __future__ import annotations

import sys

import gradio as gr

from modules import script_callbacks, scripts, shared

METHODS = (
    "before_process", "process", "before_process_batch", "after_extra_networks_activate", "process_batch",
    "process_before_every_sampling", "before_hr", "post_sample", "postprocess_batch",
    "postprocess_batch_list", "postprocess_image", "postprocess_image_after_composite", "postprocess",
)  # fmt: skip
CALLBACKS = ("cfg_denoiser", "cfg_denoised", "cfg_after_cfg")


class Faults:
    def __init__(self):
        self.undo: list = []
        self.orders: dict = {}
        self.reached = 0
        self.fired = False

    def begin(self, orders):
        self.mend()
        self.reached, self.fired = 0, False
        self.orders = orders if isinstance(orders, dict) else {}
        if self.orders.get("raise_in") == "encoder":
            encoder = shared.sd_model.cond_stage_model
            self.undo.append(encoder.register_forward_pre_hook(lambda *_: self.at("encoder")).remove)
        if self.orders.get("forward"):
            self.replace_forward(shared.sd_model.model.diffusion_model)

    def mend(self):
        while self.undo:
            self.undo.pop()()
        self.orders = {}

    def at(self, place):
        """Stop or raise where that is ordered for this place."""
        stops = "stop" in self.orders and place == self.orders.get("stop_in", "cfg_denoiser")
        if stops and not self.fired and self._is_time():
            getattr(shared.state, self.orders["stop"])()
        if self.orders.get("raise_in") == place and self._is_time():
            raise RuntimeError(f"the fault in {place}")

    def _is_time(self):
        self.reached += 1
        is_time = self.reached >= self.orders.get("at", 1)
        self.fired = self.fired or is_time
        return is_time

    def replace_forward(self, unet):
        known = vars(unet).get("forward")
        forward, own = unet.forward, self.orders["forward"] == "own"

        def replaced(x, *args, **kwargs):
            # Where no row is to be erased, another forward prevents nothing.
            counts = not own or any(p._eraser._call.erased for p in self._sampling()._running.values())
            is_time = counts and self._is_time()
            return x * 0.5 if is_time and own else forward(x, *args, **kwargs)

        unet.forward = replaced

        def restore():
            del unet.forward
            if known is not None:
                unet.forward = known

        self.undo.append(restore)

    def _sampling(self):
        return sys.modules["eiup.webui.sampling"].SamplingPass

    def state(self):
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in shared.sd_model.modules())
        return {"fired": self.fired, "hooks": hooks, "running": len(self._sampling()._running)}


faults = Faults()


class FaultsScript(scripts.Script):
    def title(self):
        return "Faults"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Textbox(visible=False)]


def _method(name):
    def method(self, p, *args, **kwargs):
        if name == "before_process":
            faults.begin(args[-1])
        faults.at(name)

    return method


for _name in METHODS:
    setattr(FaultsScript, _name, _method(_name))


def add_routes(demo, app):
    def mend():
        faults.mend()
        return faults.state()

    app.add_api_route("/eiup-faults/mend", mend, methods=["POST"])


script_callbacks.on_cfg_denoiser(lambda params: faults.at("cfg_denoiser"))
script_callbacks.on_cfg_denoised(lambda params: faults.at("cfg_denoised"))
script_callbacks.on_cfg_after_cfg(lambda params: faults.at("cfg_after_cfg"))
script_callbacks.on_app_started(add_routes)
