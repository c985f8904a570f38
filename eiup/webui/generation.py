"""One generation of the webui (a processing object ``p``), from its arguments to its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from modules import paths, shared

from ..feedback import Feedback
from ..journal import Journal, PassEvidence, image_record
from ..overrides import apply_overrides
from ..request import INFOTEXT_KEY, ErasureRequest
from .sampling import SamplingPass
from .xyz import overrides_of

_ATTRIBUTE = "eiup_generation"


class Generation:
    """What EIUP does in one generation.

    A request with an error in it is kept as that error, which is raised when sampling starts: the webui
    swallows whatever a script method raises, and would generate without erasure.
    """

    def __init__(self, p: Any, args: Sequence[Any]):
        self.error: Exception | None = None
        self.request = ErasureRequest()
        self.passes: list[SamplingPass] = []
        try:
            request = apply_overrides(ErasureRequest.from_args(args), overrides_of(p))
            self.request = _with_feedback(request)
        except Exception as error:
            self.error = error
        if self.request.active:
            p.extra_generation_params[INFOTEXT_KEY] = self.request.to_infotext()
        else:
            p.extra_generation_params.pop(INFOTEXT_KEY, None)

    @classmethod
    def begin(cls, p: Any, args: Sequence[Any]) -> Generation:
        generation = cls(p, args)
        setattr(p, _ATTRIBUTE, generation)
        return generation

    @classmethod
    def of(cls, p: Any, args: Sequence[Any]) -> Generation:
        """``p``'s generation; begun now where the webui left ``before_process`` out."""
        return getattr(p, _ATTRIBUTE, None) or cls.begin(p, args)

    def erase_in_next_sampling(self, p: Any) -> None:
        """Wrap the sampler that ``p`` is about to use.

        It belongs to this generation, so nothing of the wrapping outlives it. img2img uses one sampler
        for all its batches; it is wrapped once.
        """
        if self.error is None and not self.request.active:
            return
        sampler = p.sampler
        for method in ("sample", "sample_img2img"):
            original = getattr(sampler, method)
            if getattr(original, "func", None) != self._sample:
                setattr(sampler, method, partial(self._sample, p, sampler, original))

    def _sample(self, p: Any, sampler: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        if self.error is not None:
            raise self.error
        if SamplingPass.is_running(sampler):
            return sample(*args, **kwargs)
        name = "hires" if getattr(p, "is_hr_pass", False) else "first"
        sampling = SamplingPass(p, self.request, name)
        result = sampling.run(sampler, sample, *args, **kwargs)
        self.passes.append(sampling)
        return result

    def record_batch(self, p: Any) -> None:
        """Write the journal's records of the batch that has been sampled."""
        passes, self.passes = self.passes, []
        if not shared.opts.data.get("eiup_journal", True):
            return
        journal = Journal(journal_folder())
        prompts = p.prompts if shared.opts.data.get("eiup_journal_prompts") else [None] * len(p.seeds)
        for index, (seed, prompt) in enumerate(zip(p.seeds, prompts)):
            parts = [
                PassEvidence(sampling.name, sampling.checkpoint, sampling.evidence[index])
                for sampling in passes
                if index in sampling.evidence
            ]
            if parts:
                window = (self.request.start, self.request.end)
                journal.append(
                    image_record(
                        parts,
                        mode=self.request.mode,
                        strength=self.request.strength,
                        window=window,
                        seed=int(seed),
                        prompt=prompt,
                    )
                )


def _with_feedback(request: ErasureRequest) -> ErasureRequest:
    """The request with what was learnt of its concepts; such weights are written out and not learnt again."""
    if not (request.active and request.feedback):
        return request
    concepts = feedback_store().weighted(request.concepts, current_checkpoint())
    return request if concepts == request.concepts else replace(request, concepts=concepts, feedback=False)


def current_checkpoint() -> str:
    """The short hash of the loaded checkpoint, under which feedback on it is kept."""
    return shared.sd_model.sd_model_hash or ""


def feedback_store() -> Feedback:
    return Feedback(Path(paths.data_path) / "eiup" / "feedback.json")


def journal_folder() -> Path:
    """Where the journal is: ``--eiup-journal-dir``, or ``log/eiup`` in the webui's data folder."""
    chosen = getattr(shared.cmd_opts, "eiup_journal_dir", None)
    return Path(chosen) if chosen else Path(paths.data_path) / "log" / "eiup"
