"""The HTTP API under ``/sdapi/v1``."""

from __future__ import annotations

import time
from contextlib import closing
from secrets import compare_digest
from typing import Any

import gradio as gr
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from modules import (
    extensions,
    images,
    infotext_utils,
    processing,
    progress,
    script_callbacks,
    scripts,
    sd_models,
    sd_samplers,
    sd_schedulers,
    shared,
)
from modules.api import models
from modules.api.infotext import apply_infotext
from modules.api.middleware import install_error_handling
from modules.api.pictures import decode_base64_to_image, encode_pil_to_base64
from modules.shared import opts


def validate_sampler_name(name: str) -> str:
    if name not in sd_samplers.all_samplers_map:
        raise HTTPException(status_code=400, detail="Sampler not found")
    return name


def script_name_to_index(name: str, known: list[scripts.Script]) -> int:
    """Index of the script with this title, whatever its case; 422 where there is none."""
    titles = [script.title().lower() for script in known]
    if name.lower() not in titles:
        raise HTTPException(status_code=422, detail=f"Script '{name}' not found")
    return titles.index(name.lower())


def default_script_args(runner) -> list:
    """Values of all components as ``ui()`` makes them; the first says that no script is selected."""
    args: list = [None] * max([1, *(script.args_to or 1 for script in runner.scripts)])
    args[0] = 0
    with gr.Blocks():
        for script in runner.scripts:
            controls = script.ui(script.is_img2img)
            if controls:
                args[script.args_from : script.args_to] = [control.value for control in controls]
    return args


class Api:
    def __init__(self, app: FastAPI, queue_lock):
        self.app = app
        self.queue_lock = queue_lock
        pairs = (shared.cmd_opts.api_auth or "").split(",")
        self.credentials = dict(pair.split(":", 1) for pair in pairs if pair)
        install_error_handling(app)
        self.read_scripts()
        self._add_routes()

    def read_scripts(self) -> None:
        """Take the defaults of the scripts' arguments, once their components were made."""
        self.default_script_arg_txt2img = default_script_args(scripts.scripts_txt2img)
        self.default_script_arg_img2img = default_script_args(scripts.scripts_img2img)

    def _add_routes(self) -> None:
        get, post = ["GET"], ["POST"]
        for path, endpoint, methods, response in (
            ("txt2img", self.text2imgapi, post, models.TextToImageResponse),
            ("img2img", self.img2imgapi, post, models.ImageToImageResponse),
            ("png-info", self.pnginfoapi, post, models.PNGInfoResponse),
            ("progress", self.progressapi, get, models.ProgressResponse),
            ("interrupt", self.interruptapi, post, None),
            ("skip", self.skip, post, None),
            ("options", self.get_config, get, None),
            ("options", self.set_config, post, None),
            ("cmd-flags", self.get_cmd_flags, get, None),
            ("samplers", self.get_samplers, get, list[models.SamplerItem]),
            ("schedulers", self.get_schedulers, get, list[models.SchedulerItem]),
            ("latent-upscale-modes", self.get_latent_upscale_modes, get, None),
            ("upscalers", self.get_upscalers, get, None),
            ("sd-models", self.get_sd_models, get, list[models.SDModelItem]),
            ("refresh-checkpoints", self.refresh_checkpoints, post, None),
            ("scripts", self.get_scripts_list, get, models.ScriptsList),
            ("script-info", self.get_script_info, get, list[models.ScriptInfo]),
            ("extensions", self.get_extensions_list, get, None),
            ("reload-scripts", self.reload_scripts, post, None),
        ):
            self.add_api_route(f"/sdapi/v1/{path}", endpoint, methods=methods, response_model=response)

    def add_api_route(self, path: str, endpoint, **kwargs) -> None:
        if self.credentials:
            kwargs["dependencies"] = [Depends(self.auth)]
        self.app.add_api_route(path, endpoint, **kwargs)

    def auth(self, credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> bool:
        expected = self.credentials.get(credentials.username)
        if expected is not None and compare_digest(credentials.password.encode(), expected.encode()):
            return True
        raise HTTPException(
            status_code=401, detail="Incorrect username or password", headers={"WWW-Authenticate": "Basic"}
        )

    # ---- scripts ----------------------------------------------------------------------------

    def get_scripts_list(self):
        return models.ScriptsList(
            txt2img=[script.name for script in scripts.scripts_txt2img.scripts if script.name is not None],
            img2img=[script.name for script in scripts.scripts_img2img.scripts if script.name is not None],
        )

    def get_script_info(self):
        runners = scripts.scripts_txt2img, scripts.scripts_img2img
        return [
            script.api_info for runner in runners for script in runner.scripts if script.api_info is not None
        ]

    def reload_scripts(self) -> dict:
        """This stand-in's own: what "Reload UI" does to scripts, without the page."""
        from modules import launcher

        with self.queue_lock:
            launcher.reload_scripts()
            self.read_scripts()
        return {}

    def get_selectable_script(self, script_name: str | None, script_runner):
        if not script_name:
            return None, None
        index = script_name_to_index(script_name, script_runner.selectable_scripts)
        return script_runner.selectable_scripts[index], index

    def init_script_args(
        self, request, default_script_args, selectable, selectable_index, runner, infotext_args
    ):
        """Arguments of all scripts: defaults, then the infotext's, then the request's.

        Surplus arguments of an always visible script are dropped; missing ones keep their defaults.
        """
        args = default_script_args.copy()
        for index, value in infotext_args.items():
            args[index] = value
        if selectable is not None:
            args[selectable.args_from : selectable.args_to] = request.script_args
            args[0] = selectable_index + 1
        for name, given in (request.alwayson_scripts or {}).items():
            script = runner.scripts[script_name_to_index(name, runner.scripts)]
            if not script.alwayson:
                raise HTTPException(
                    status_code=422, detail="Cannot have a selectable script in the always on scripts params"
                )
            room = script.args_to - script.args_from
            for offset, value in enumerate(given.get("args", [])[:room]):
                args[script.args_from + offset] = value
        return args

    # ---- generation -------------------------------------------------------------------------

    def _generate(
        self, kind: str, request, runner, default_args: list, processing_class: type, prepare
    ) -> tuple:
        """What txt2img and img2img share; ``prepare(p)`` completes ``p``. Returns images and the info."""
        task_id = request.force_task_id or progress.create_task_id(kind)
        infotext_args = apply_infotext(request, kind, runner)
        selectable, selectable_index = self.get_selectable_script(request.script_name, runner)
        sampler, scheduler = sd_samplers.get_sampler_and_scheduler(
            request.sampler_name or request.sampler_index, request.scheduler
        )
        script_args = self.init_script_args(
            request, default_args, selectable, selectable_index, runner, infotext_args
        )
        args = dict(vars(request)) | {
            "sampler_name": validate_sampler_name(sampler),
            "do_not_save_samples": not request.save_images,
            "do_not_save_grid": not request.save_images,
        }
        if not args["scheduler"] and scheduler != "Automatic":
            args["scheduler"] = scheduler
        for name in (*models.FOR_BOTH, "include_init_images"):
            if name != "force_task_id":
                args.pop(name, None)

        progress.add_task_to_queue(task_id)
        with self.queue_lock, closing(processing_class(sd_model=shared.sd_model, **args)) as p:
            prepare(p)
            p.is_api = True
            p.scripts = runner
            p.outpath_grids = getattr(opts, f"outdir_{kind}_grids")
            p.outpath_samples = getattr(opts, f"outdir_{kind}_samples")
            try:
                shared.state.begin(job=f"scripts_{kind}")
                progress.start_task(task_id)
                if selectable is not None:
                    p.script_args = script_args
                    processed = runner.run(p, *p.script_args)
                else:
                    p.script_args = tuple(script_args)
                    processed = processing.process_images(p)
            finally:
                progress.finish_task(task_id)
                shared.state.end()
                shared.total_tqdm.clear()
        pictures = [encode_pil_to_base64(image) for image in processed.images] if request.send_images else []
        return pictures, processed.js()

    def text2imgapi(self, txt2imgreq: models.StableDiffusionTxt2ImgProcessingAPI):
        pictures, info = self._generate(
            "txt2img", txt2imgreq, scripts.scripts_txt2img, self.default_script_arg_txt2img,
            processing.StableDiffusionProcessingTxt2Img, lambda p: None,
        )  # fmt: skip
        return models.TextToImageResponse(images=pictures, parameters=vars(txt2imgreq), info=info)

    def img2imgapi(self, img2imgreq: models.StableDiffusionImg2ImgProcessingAPI):
        if img2imgreq.init_images is None:
            raise HTTPException(status_code=404, detail="Init image not found")
        mask = decode_base64_to_image(img2imgreq.mask) if img2imgreq.mask else None

        def prepare(p) -> None:
            p.init_images = [decode_base64_to_image(image) for image in img2imgreq.init_images]
            p.image_mask = mask

        pictures, info = self._generate(
            "img2img", img2imgreq, scripts.scripts_img2img, self.default_script_arg_img2img,
            processing.StableDiffusionProcessingImg2Img, prepare,
        )  # fmt: skip
        if not img2imgreq.include_init_images:
            img2imgreq.init_images = img2imgreq.mask = None
        return models.ImageToImageResponse(images=pictures, parameters=vars(img2imgreq), info=info)

    def pnginfoapi(self, req: models.PNGInfoRequest):
        infotext, items = images.read_info_from_image(decode_base64_to_image(req.image.strip()))
        parameters = infotext_utils.parse_generation_parameters(infotext or "")
        script_callbacks.infotext_pasted_callback(infotext or "", parameters)
        texts = {key: value for key, value in items.items() if isinstance(value, (str, int, float))}
        return models.PNGInfoResponse(info=infotext or "", items=texts, parameters=parameters)

    # ---- state ------------------------------------------------------------------------------

    def progressapi(self, req: models.ProgressRequest = Depends()):
        state = shared.state
        if state.job_count == 0:
            return models.ProgressResponse(
                progress=0, eta_relative=0, state=state.dict(), textinfo=state.textinfo
            )
        done = min(0.01 + progress.fraction_done(), 1)
        elapsed = time.time() - state.time_start
        state.set_current_image()
        current = None
        if state.current_image is not None and not req.skip_current_image:
            current = encode_pil_to_base64(state.current_image)
        return models.ProgressResponse(
            progress=done, eta_relative=elapsed / done - elapsed, state=state.dict(), current_image=current,
            textinfo=state.textinfo,
        )  # fmt: skip

    def interruptapi(self) -> dict:
        shared.state.interrupt()
        return {}

    def skip(self) -> None:
        shared.state.skip()

    # ---- settings and lists -----------------------------------------------------------------

    def get_config(self):
        return dict(opts.data)

    def set_config(self, req: dict[str, Any]):
        checkpoint = req.get("sd_model_checkpoint")
        if checkpoint is not None and checkpoint not in sd_models.checkpoint_aliases:
            raise RuntimeError(f"model {checkpoint!r} not found")
        for key, value in req.items():
            opts.set(key, value, is_api=True)
        opts.save(shared.config_filename)

    def get_cmd_flags(self):
        return vars(shared.cmd_opts)

    def get_samplers(self):
        return [
            {"name": sampler.name, "aliases": sampler.aliases, "options": sampler.options}
            for sampler in sd_samplers.all_samplers
        ]

    def get_schedulers(self):
        fields = models.SchedulerItem.__fields__
        return [{name: getattr(scheduler, name) for name in fields} for scheduler in sd_schedulers.schedulers]

    def get_latent_upscale_modes(self):
        return [{"name": name} for name in shared.latent_upscale_modes]

    def get_upscalers(self):
        return [{"name": scaler.name} for scaler in shared.sd_upscalers]

    def get_sd_models(self):
        return [
            models.SDModelItem(
                title=info.title, model_name=info.model_name, hash=info.shorthash, sha256=info.sha256,
                filename=info.filename, config=info.filename.removesuffix(".safetensors") + ".yaml",
            ) for info in sd_models.checkpoints_list.values()
        ]  # fmt: skip

    def refresh_checkpoints(self) -> None:
        with self.queue_lock:
            sd_models.list_models()

    def get_extensions_list(self):
        return [vars(extension) for extension in extensions.extensions]
