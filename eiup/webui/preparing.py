"""Concepts that are calibrated ahead, in the background: one at a time, between the webui's generations.

The state lives in this module, which survives the webui's *Reload UI*.
"""

from __future__ import annotations

import atexit
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from modules import devices, errors, extra_networks, paths, processing, sd_models, shared
from modules.call_queue import queue_lock

from ..build import calibrate_concepts
from ..calibration import CalibrationProgress
from ..concepts import Concept, is_number_within
from ..errors import EiupError, RequestError
from . import in_force
from .calibrating import CalibrationStopped, stoppable
from .denoising import calibration_cache, checkpoint_identity, denoiser_of, erasable_unet
from .encoding import ConceptEncoder, through_hypernetworks

MAX_WAITING = 256
# Pixels.
SIZES = (64, 8192)
_DEFAULT_SIZE = 512
# Seconds between two concepts: who waits for the webui's queue is woken, and takes its turn, in this time.
_TURN = 0.1
# How often a concept is begun anew because somebody waits for the webui's queue; then it is finished.
_GIVES_WAY = 3
# Seconds between two looks whether a model has been loaded.
_LOOK = 0.5
# Seconds.
_STOPPED_WITHIN = 30.0


@dataclass
class Wanted:
    """A concept to be calibrated for images of ``width x height``: its gate, its probe or both.

    ``checkpoint`` is the one that it was asked for; None stands for whichever is loaded when its turn comes.
    """

    concept: str
    width: int
    height: int
    gate: bool = True
    probes: bool = True
    checkpoint: str | None = None
    of_policy: bool = False
    stopped: bool = field(default=False, compare=False)
    gave_way: int = field(default=0, compare=False)

    def is_to_end(self) -> bool:
        return self.stopped or self.gave_way < _GIVES_WAY and _somebody_waits()


class Preparation:
    """The queue of concepts, and the thread that works on it while there are any."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[Wanted] = []
        self._current: Wanted | None = None
        self._working = self._loads = False
        self._share = 0.0
        self._finished = 0
        # Of the checkpoint, as a user knows it, those that are prepared, in their order.
        self._checkpoint: str | None = None
        self._identity: str | None = None
        self._prepared: list[str] = []
        self._problem: str | None = None

    def add(self, concepts: Sequence[Wanted], loads: bool = False) -> None:
        """Put concepts at the end of the queue; with ``loads``, load a model for them where none is yet.
        Raises :class:`RequestError` where too many would be waiting."""
        with self._changed:
            new = [wanted for wanted in concepts if wanted not in self._waiting]
            asked = sum(not wanted.of_policy for wanted in (*self._waiting, *new))
            if asked > MAX_WAITING and not all(wanted.of_policy for wanted in new):
                raise RequestError(
                    "concepts",
                    f"{len(new)} concepts",
                    f"at most {MAX_WAITING} that are waiting",
                    "Wait until these are prepared, or stop them: DELETE /eiup/v1/calibrations.",
                )
            if not (self._waiting or self._current):
                self._finished, self._problem = 0, None
            self._waiting += new
            self._loads = self._loads or loads
            if self._waiting and not self._working:
                self._working = True
                threading.Thread(target=self._work, name="eiup-calibrations", daemon=True).start()

    def forget_policy(self) -> None:
        """Take what waits for a policy out of the queue: it has changed, or the checkpoint has."""
        with self._changed:
            self._waiting = [wanted for wanted in self._waiting if not wanted.of_policy]

    def stop(self) -> None:
        """Empty the queue and end what is being calibrated. Returns once it has ended, or after 30 seconds: a
        call of the U-Net may take longer to come to its next block, and a model longer to load. Then it is
        still told as running, and ends as soon as it can."""
        with self._changed:
            self._waiting.clear()
            self._loads = False
            if (stopped := self._current) is not None:
                stopped.stopped = True
                self._changed.wait_for(lambda: self._current is not stopped, _STOPPED_WITHIN)
            self._finished = 0

    def told(self) -> dict[str, Any]:
        """How far it is, as ``GET /eiup/v1/calibrations`` answers."""
        with self._changed:
            at = self._current
            of = self._finished + (at is not None) + len(self._waiting)
            return {
                "running": at is not None or self._goes_on(),
                "concept": at.concept if at else None,
                "number": self._finished + (at is not None),
                "of": of,
                "done": round((self._finished + self._share) / of, 4) if of else 0.0,
                "checkpoint": self._checkpoint,
                "problem": self._problem,
                "prepared": list(self._prepared),
                "waiting": [wanted.concept for wanted in self._waiting],
            }

    def _goes_on(self) -> bool:
        """Whether what is waiting will be prepared without anybody's doing: not where it waits for a
        generation to load the checkpoint of the settings again."""
        waits_for_model = bool(self._waiting) and sd_models.model_data.sd_model is None
        return waits_for_model or self._next() is not None

    def _work(self) -> None:
        ended = False
        try:
            while not (ended := self._has_ended()):
                self._take_turn()
        finally:
            # By what is not an Exception, such as a SystemExit out of another extension's hook.
            if not ended:
                self._give_up()

    def _has_ended(self) -> bool:
        """Whether nothing is waiting; from then on, what is added needs another thread."""
        with self._changed:
            if not self._waiting:
                self._working = self._loads = False
            return not self._working

    def _give_up(self) -> None:
        with self._changed:
            self._waiting.clear()
            self._working = self._loads = False
            self._problem = (
                "EIUP: preparing was ended by something else in the webui; its console may say why. Ask for "
                "the concepts again."
            )

    def _take_turn(self) -> None:
        with self._changed:
            may_begin = self._next() is not None
        if may_begin:
            # Generations hold it, too, and changes of the checkpoint.
            with queue_lock:
                self._prepare_next()
        time.sleep(_TURN if may_begin else _LOOK)

    def _next(self) -> Wanted | None:
        """The first that can be prepared with the model that is loaded now. A policy's are for the checkpoint
        of the settings."""
        model = sd_models.model_data.sd_model
        if model is None:
            return self._waiting[0] if self._loads and self._waiting else None
        of_settings = _is_of_settings(model)
        return next((wanted for wanted in self._waiting if of_settings or not wanted.of_policy), None)

    def _prepare_next(self) -> None:
        with self._changed:
            if (wanted := self._next()) is None:
                return
            self._waiting.remove(wanted)
            self._current, self._share = wanted, 0.0
        problem, ended = None, False
        try:
            problem = self._prepare(wanted)
        except CalibrationStopped:
            ended = True
        except EiupError as error:
            problem = str(error)
        except Exception as error:
            errors.report(f"EIUP: {wanted.concept!r} could not be calibrated", exc_info=True)
            problem = (
                f"EIUP: {wanted.concept!r} could not be calibrated: {type(error).__name__}; the webui's "
                "console says why."
            )
        finally:
            with self._changed:
                self._problem = problem or self._problem
                if ended and not wanted.stopped:
                    wanted.gave_way += 1
                    self._waiting.insert(0, wanted)
                else:
                    self._finished += not wanted.stopped
                self._current, self._share = None, 0.0
                self._changed.notify_all()

    def _prepare(self, wanted: Wanted) -> str | None:
        """Calibrate it; returns why this was not done, None where it was."""
        # The first load of a model, which is not in the queue, holds this lock until all is done.
        with sd_models.model_data.lock:
            pass
        model = shared.sd_model
        if model is None:
            return "EIUP: no checkpoint is loaded; the webui's console says why."
        identity = checkpoint_identity(model)
        self._begin_checkpoint(model, identity)
        if wanted.checkpoint not in (None, identity):
            return (
                f"EIUP: {wanted.concept!r} was to be prepared for another checkpoint than the one that is "
                "loaded now. Load that one, and ask for it again."
            )
        _calibrate(model, wanted, self._report)
        with self._changed:
            if wanted.concept not in self._prepared:
                self._prepared.append(wanted.concept)
        return None

    def _begin_checkpoint(self, model: Any, identity: str) -> None:
        with self._changed:
            if identity != self._identity:
                self._identity, self._prepared = identity, []
                self._checkpoint = model.sd_model_hash or model.sd_checkpoint_info.name

    def _report(self, progress: CalibrationProgress) -> None:
        self._share = progress.done


def _calibrate(model: Any, wanted: Wanted, report: Any) -> None:
    unet = erasable_unet(model)
    encode = ConceptEncoder(model, wanted.width, wanted.height)
    with torch.no_grad(), devices.autocast(), stoppable(unet, wanted.is_to_end):
        _deactivate_extra_networks()
        concepts, empty = encode.concepts([Concept(wanted.concept)], strength=1.0)
        calibrate_concepts(
            unet,
            concepts,
            empty,
            encode,
            denoiser_of(model, encode, wanted.width, wanted.height),
            context_transform=through_hypernetworks,
            cache=calibration_cache(),
            report=report,
            checkpoint=checkpoint_identity(model),
            gate=wanted.gate,
            probes=wanted.probes,
        )


def _is_of_settings(model: Any) -> bool:
    """Whether the webui would begin a generation with ``model``. It loads a refiner or the checkpoint of the
    second pass without noting it in the settings (``SkipWritingToConfig``), and leaves it loaded until the
    next generation begins; so it does with a checkpoint in ``override_settings``, which it takes back."""
    wanted = sd_models.checkpoint_aliases.get(shared.opts.sd_model_checkpoint)
    return wanted is None or model.sd_checkpoint_info.filename == wanted.filename


def _somebody_waits() -> bool:
    """Whether another thread waits for the webui's queue. The webui has no call that tells it; where its lock
    is another one, nobody is seen to wait, and they wait until the concept is finished."""
    return bool(getattr(queue_lock, "_pending_threads", None))


def _deactivate_extra_networks() -> None:
    """Take the last generation's LoRAs and hypernetworks from the model: the webui leaves them there until
    the next generation activates its own. Those that the settings add to every prompt are kept."""
    generation = processing.StableDiffusionProcessingTxt2Img()
    # To which the settings' are added.
    generation.all_prompts = [""]
    extra_networks.activate(generation, {})


_started = False
preparation = Preparation()
# A thread that computes while Python ends takes the process down with it.
atexit.register(preparation.stop)


def prepare_policy() -> None:
    """Have the concepts of the policy in force calibrated, as far as its modes need it; on a server without a
    policy, nothing."""
    policy = in_force.policy()
    if policy is None:
        return
    probes = "adaptive" in policy.modes
    gate = probes or "strict" in policy.modes
    preparation.forget_policy()
    if gate:
        width, height = default_size()
        preparation.add(
            [Wanted(c.text, width, height, gate, probes, of_policy=True) for c in policy.concepts]
        )


def default_size() -> tuple[int, int]:
    """Width and height that the page of this webui begins with, whose defaults are in ``ui-config.json``."""
    file = getattr(shared.cmd_opts, "ui_config_file", None) or Path(paths.data_path) / "ui-config.json"
    try:
        kept = json.loads(Path(file).read_text(encoding="utf-8"))
        sizes = [kept[f"txt2img/{name}/value"] for name in ("Width", "Height")]
    except (OSError, ValueError, KeyError, TypeError):
        sizes = []
    if len(sizes) == 2 and all(is_number_within(size, *SIZES) for size in sizes):
        return int(sizes[0]), int(sizes[1])
    return _DEFAULT_SIZE, _DEFAULT_SIZE


def on_server_started(_demo: Any, _app: Any) -> None:
    """The webui's ``on_app_started`` callback."""
    global _started
    _started = True
    prepare_policy()


def on_model_loaded(model: Any) -> None:
    """The webui's ``on_model_loaded`` callback. The first one may come before the server has started, and
    while the webui still does something with the model; others come in the middle of a generation, for its
    refiner."""
    if _started and _is_of_settings(model):
        prepare_policy()
