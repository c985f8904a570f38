"""Starts the server: scripts, checkpoint, page, API, in the host's order."""

from __future__ import annotations

import os
import threading
import time

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import uvicorn
from fastapi import FastAPI

from modules import extensions, paths, script_callbacks, scripts, sd_models, shared
from modules.call_queue import queue_lock, wrap_queued_call

HOST = "127.0.0.1"


def initialize() -> None:
    """Find extensions and checkpoints, run the scripts, load the model."""
    os.makedirs(paths.data_path, exist_ok=True)
    extensions.list_extensions()
    sd_models.list_models()
    scripts.load_scripts()
    shared.opts.onchange("sd_model_checkpoint", wrap_queued_call(sd_models.reload_model_weights), call=False)
    assert shared.sd_model is not None


def create_ui():
    """Make the page. The API needs it too: scripts get their arguments' places from their components."""
    from modules import ui

    script_callbacks.before_ui_callback()
    shared.demo = ui.create_ui()
    ui.write_defaults()
    return shared.demo


def reload_scripts() -> None:
    """Unload and run all scripts again; library modules stay in ``sys.modules``, as in the host.

    A page that is already open keeps its old components until the server starts anew.
    """
    script_callbacks.app_reload_callback()
    script_callbacks.script_unloaded_callback()
    extensions.list_extensions()
    scripts.load_scripts()
    create_ui()
    _app.router.routes[:] = [route for route in _app.router.routes if route not in _extension_routes]
    _start_extensions(None if shared.cmd_opts.nowebui else shared.demo, _app)


_app: FastAPI | None = None
_extension_routes: list = []
"""What extensions added to the app: they add it again after a reload."""


def _start_extensions(demo, app: FastAPI) -> None:
    global _app, _extension_routes

    known = list(app.router.routes)
    script_callbacks.app_started_callback(demo, app)
    _app, _extension_routes = app, [route for route in app.router.routes if route not in known]


def _create_api(app: FastAPI) -> None:
    from modules.api.api import Api

    Api(app, queue_lock)


def _add_internal_routes(app: FastAPI) -> None:
    from modules import progress

    progress.setup_progress_api(app)
    app.add_api_route("/internal/ping", lambda: {}, methods=["GET"])


def _serve_api() -> None:
    create_ui()
    app = FastAPI()
    _add_internal_routes(app)
    _create_api(app)
    _start_extensions(None, app)
    server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=shared.cmd_opts.port, log_level="warning"))
    threading.Thread(target=_announce_when, args=(lambda: server.started,), daemon=True).start()
    server.run()


def _announce_when(ready) -> None:
    while not ready():
        time.sleep(0.05)
    announce()


def announce() -> None:
    print(f"Ready: http://{HOST}:{shared.cmd_opts.port}", flush=True)


def _serve_page() -> None:
    demo = create_ui().queue(64)
    app, _, _ = demo.launch(
        server_name=HOST, server_port=shared.cmd_opts.port, prevent_thread_lock=True, quiet=True,
        show_api=False, allowed_paths=[paths.script_path, *(found.path for found in extensions.active())],
        app_kwargs={"docs_url": "/docs", "redoc_url": "/redoc"},
    )  # fmt: skip
    # Routes and middleware are added to a running app, so its middleware is put together anew.
    app.user_middleware = [entry for entry in app.user_middleware if entry.cls.__name__ != "CORSMiddleware"]
    app.middleware_stack = None
    _add_internal_routes(app)
    _create_api(app)
    app.middleware_stack = app.build_middleware_stack()
    _start_extensions(demo, app)
    announce()
    demo.block_thread()


def main() -> None:
    initialize()
    if shared.cmd_opts.nowebui:
        _serve_api()
    else:
        _serve_page()
