"""Progress of the generations that the page starts, by task id."""

from __future__ import annotations

import base64
import io
import random
import string
import time
from collections import deque

from pydantic import BaseModel

from modules import shared

current_task: str | None = None
pending_tasks: dict[str, float] = {}
finished_tasks: deque[str] = deque(maxlen=16)
recorded_results: deque[tuple] = deque(maxlen=2)


def create_task_id(task_type: str) -> str:
    return f"task({task_type}-{''.join(random.choices(string.ascii_uppercase + string.digits, k=7))})"


def add_task_to_queue(id_job: str) -> None:
    pending_tasks[id_job] = time.time()


def start_task(id_task: str | None) -> None:
    global current_task
    current_task = id_task
    pending_tasks.pop(id_task, None)


def finish_task(id_task: str | None) -> None:
    global current_task
    if current_task == id_task:
        current_task = None
    finished_tasks.append(id_task)


def record_results(id_task: str | None, res) -> None:
    recorded_results.append((id_task, res))


class ProgressRequest(BaseModel):
    id_task: str | None = None
    id_live_preview: int = -1
    live_preview: bool = True


class ProgressResponse(BaseModel):
    active: bool
    queued: bool
    completed: bool
    progress: float | None = None
    eta: float | None = None
    live_preview: str | None = None
    id_live_preview: int | None = None
    textinfo: str | None = None


def fraction_done() -> float:
    """How much of the current job is done, 0..1."""
    state = shared.state
    if state.job_count <= 0:
        return 0.0
    steps = state.sampling_step / state.sampling_steps if state.sampling_steps > 0 else 0.0
    return min((state.job_no + steps) / state.job_count, 1.0)


def _preview(known: int) -> tuple[str | None, int]:
    """The live preview as a data URI, unless the client has it."""
    state = shared.state
    state.set_current_image()
    if state.id_live_preview == known or state.current_image is None:
        return None, known
    kind = shared.opts.live_previews_image_format
    buffer = io.BytesIO()
    state.current_image.save(buffer, format=kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", state.id_live_preview


def progressapi(req: ProgressRequest) -> ProgressResponse:
    active, queued = req.id_task == current_task, req.id_task in pending_tasks
    answer = ProgressResponse(active=active, queued=queued, completed=req.id_task in finished_tasks)
    if not active:
        place = sorted(pending_tasks, key=pending_tasks.get).index(req.id_task) + 1 if queued else 0
        answer.textinfo = f"In queue: {place}/{len(pending_tasks)}" if queued else "Waiting..."
        answer.id_live_preview = -1
        return answer
    answer.progress = fraction_done()
    elapsed = time.time() - shared.state.time_start
    answer.eta = elapsed / answer.progress - elapsed if answer.progress > 0 else None
    answer.id_live_preview = req.id_live_preview
    if shared.opts.live_previews_enable and req.live_preview:
        answer.live_preview, answer.id_live_preview = _preview(req.id_live_preview)
    answer.textinfo = shared.state.textinfo
    return answer


def setup_progress_api(app) -> None:
    app.add_api_route("/internal/progress", progressapi, methods=["POST"], response_model=ProgressResponse)
    app.add_api_route(
        "/internal/pending-tasks",
        lambda: {"size": len(pending_tasks), "tasks": list(pending_tasks)},
        methods=["GET"],
    )
