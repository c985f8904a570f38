"""What the server is doing now; read by the progress API, written by the sampler."""

from __future__ import annotations

import datetime
import time
from typing import Any

SHOWN_IN_API = (
    "skipped", "interrupted", "stopping_generation", "job", "job_count", "job_timestamp", "job_no",
    "sampling_step", "sampling_steps",
)  # fmt: skip


class State:
    def __init__(self):
        self.server_start = time.time()
        self.need_restart = False
        self.sampling_steps = 0
        self._reset(job="", job_count=0)

    def _reset(self, job: str, job_count: int) -> None:
        self.skipped = False
        self.interrupted = False
        self.stopping_generation = False
        self.job = job
        self.job_no = 0
        self.job_count = job_count
        self.job_timestamp = datetime.datetime.now().strftime("%Y%m%d%H%M%S")
        self.processing_has_refined_job_count = False
        self.sampling_step = 0  # sampling_steps are the last job's until this one samples
        self.current_latent = None
        self.current_image = None
        self.current_image_sampling_step = 0
        self.id_live_preview = 0
        self.textinfo: str | None = None
        self.time_start = time.time()

    def begin(self, job: str = "(unknown)") -> None:
        self._reset(job=job, job_count=-1)

    def end(self) -> None:
        self.job = ""
        self.job_count = 0

    def skip(self) -> None:
        self.skipped = True

    def interrupt(self) -> None:
        self.interrupted = True

    def stop_generating(self) -> None:
        self.stopping_generation = True

    def nextjob(self) -> None:
        self.job_no += 1
        self.sampling_step = 0
        self.current_image_sampling_step = 0

    def set_current_image(self) -> None:
        """Decode a preview when enough steps have passed since the last one."""
        from modules import shared

        every = shared.opts.show_progress_every_n_steps
        if not shared.opts.live_previews_enable or every == -1 or self.current_latent is None:
            return
        if self.sampling_step - self.current_image_sampling_step >= every:
            self.do_set_current_image()

    def do_set_current_image(self) -> None:
        from modules import sd_samplers_common

        if self.current_latent is None:
            return
        self.current_image = sd_samplers_common.samples_to_image_grid(self.current_latent)
        self.current_image_sampling_step = self.sampling_step
        self.id_live_preview += 1

    def dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in SHOWN_IN_API}
