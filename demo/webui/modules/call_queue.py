"""One generation at a time, in the order of arrival; and errors as text in the page."""

from __future__ import annotations

import html
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import wraps

from modules import errors, progress, shared


class FIFOLock:
    """A lock that threads get in the order in which they asked for it."""

    def __init__(self):
        self._guard = threading.Lock()
        self._pending_threads: deque[threading.Lock] = deque()
        self._held = False

    def acquire(self, blocking: bool = True) -> bool:
        with self._guard:
            if not self._held:
                self._held = True
                return True
            if not blocking:
                return False
            turn = threading.Lock()
            turn.acquire()
            self._pending_threads.append(turn)
        turn.acquire()  # until release() hands the lock over
        return True

    def release(self) -> None:
        with self._guard:
            if self._pending_threads:
                self._pending_threads.popleft().release()
            else:
                self._held = False

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error) -> None:
        self.release()


queue_lock = FIFOLock()


def wrap_queued_call(func: Callable) -> Callable:
    """Run under the lock."""

    def queued(*args, **kwargs):
        with queue_lock:
            return func(*args, **kwargs)

    return queued


def wrap_gradio_gpu_call(func: Callable, extra_outputs: list | None = None) -> Callable:
    """For a generation started in the page: queued, with progress under the task id in the first argument."""

    @wraps(func)
    def task(*args, **kwargs):
        first = args[0] if args else None
        task_id = (
            first if isinstance(first, str) and first.startswith("task(") and first.endswith(")") else None
        )
        if task_id is not None:
            progress.add_task_to_queue(task_id)
        with queue_lock:
            shared.state.begin(job=task_id or "")
            progress.start_task(task_id)
            try:
                result = func(*args, **kwargs)
                progress.record_results(task_id, result)
            finally:
                progress.finish_task(task_id)
                shared.state.end()
        return result

    return wrap_gradio_call(task, extra_outputs=extra_outputs, add_stats=True)


def wrap_gradio_call(func: Callable, extra_outputs: list | None = None, add_stats: bool = False) -> Callable:
    """As below, and leaves the state clean."""

    @wraps(func)
    def clean(*args, **kwargs):
        try:
            return func(*args, **kwargs)
        finally:
            state = shared.state
            state.skipped = state.interrupted = state.stopping_generation = False
            state.job_count = 0
            state.job = ""

    return wrap_gradio_call_no_job(clean, extra_outputs, add_stats)


def wrap_gradio_call_no_job(
    func: Callable, extra_outputs: list | None = None, add_stats: bool = False
) -> Callable:
    """Turn an exception into HTML in the last output; the other outputs become ``extra_outputs``."""

    @wraps(func)
    def safe(*args, extra_outputs_array=extra_outputs, **kwargs):
        started = time.perf_counter()
        try:
            results = list(func(*args, **kwargs))
        except Exception as error:
            errors.report("Error completing request", exc_info=True)
            others = [None, ""] if extra_outputs_array is None else list(extra_outputs_array)
            results = [*others, f"<div class='error'>{html.escape(f'{type(error).__name__}: {error}')}</div>"]
        if add_stats:
            minutes, seconds = divmod(time.perf_counter() - started, 60)
            taken = (f"{minutes:.0f} min. " if minutes else "") + f"{seconds:.1f} sec."
            results[-1] += (
                "<div class='performance'><p class='time'>Time taken: "
                f"<span class='measurement'>{taken}</span></p></div>"
            )
        return tuple(results)

    return safe
