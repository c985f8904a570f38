"""One generation of the webui (a processing object ``p``), from its arguments to its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from modules import shared

from ..journal import PassEvidence, image_record, result_of
from ..overrides import apply_overrides
from ..request import INFOTEXT_KEY, ErasureRequest
from .sampling import SamplingPass
from .stores import current_checkpoint, current_journal, feedback_store, preset_store
from .xyz import overrides_of

_ATTRIBUTE = "eiup_generation"


class Generation:
    """What EIUP does in one generation.

    A request with an error in it is kept as that error, which is raised when sampling starts: the webui
    swallows whatever a script method raises, and would generate without erasure. ``unfinished`` are the
    numbers of the batches that were stopped or skipped while they were sampled.
    """

    def __init__(self, p: Any, args: Sequence[Any]):
        self.error: Exception | None = None
        self.request = ErasureRequest()
        self.passes: list[SamplingPass] = []
        try:
            resolve = preset_store().resolver()
            request = ErasureRequest.from_args(args, resolve)
            self.request = _with_feedback(apply_overrides(request, overrides_of(p), resolve))
        except Exception as error:
            self.error = error
        self.records: dict[int, dict[str, Any]] = {}
        self.unfinished: set[int] = set()
        if self.request.active:
            p.extra_generation_params[INFOTEXT_KEY] = self._infotext
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
        # Those of the last batch do not belong to what the webui saves before this one's are made.
        self.records.clear()
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

    def _infotext(self, p: Any, index: int, iteration: int = 0, **kwargs: Any) -> str:
        """What the webui writes into an image: with what was suppressed in it, once its batch is recorded.

        The webui counts images from the job's first one where it names the batch, else from the batch's.
        """
        record = None if kwargs.get("use_main_prompt") else self.records.get(index - iteration * p.batch_size)
        return self.request.to_infotext(result_of(record) if record else None)

    def end(self, p: Any) -> None:
        """What the webui reports of the whole job is what was asked for."""
        if self.request.active:
            p.extra_generation_params[INFOTEXT_KEY] = self.request.to_infotext()

    def record_batch(self, p: Any) -> None:
        """Make the records of the images of the batch that has been sampled, and write the journal."""
        if shared.state.interrupted or shared.state.skipped:
            self.unfinished.add(p.iteration)
        passes, self.passes = self.passes, []
        prompts = p.prompts if shared.opts.data.get("eiup_journal_prompts") else [None] * len(p.seeds)
        window = (self.request.start, self.request.end)
        for index, (seed, prompt) in enumerate(zip(p.seeds, prompts)):
            parts = [
                PassEvidence(sampling.name, sampling.checkpoint, sampling.evidence[index])
                for sampling in passes
                if index in sampling.evidence
            ]
            if parts:
                self.records[index] = image_record(
                    parts,
                    mode=self.request.mode,
                    strength=self.request.strength,
                    window=window,
                    seed=int(seed),
                    prompt=prompt,
                )
        if shared.opts.data.get("eiup_journal", True):
            journal = current_journal()
            for record in self.records.values():
                journal.append(record)


def _with_feedback(request: ErasureRequest) -> ErasureRequest:
    """The request with what was learnt of its concepts; such weights are written out and not learnt again."""
    if not (request.active and request.feedback):
        return request
    concepts = feedback_store().weighted(request.concepts, current_checkpoint())
    return request if concepts == request.concepts else replace(request, concepts=concepts, feedback=False)
