"""One generation of the webui (a processing object ``p``), from its arguments to its records."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from torch import Tensor

from modules import shared

from ..errors import ErasureError
from ..journal import PassEvidence, image_record, result_of
from ..overrides import apply_overrides
from ..policy import Lift, enforce, with_first_mode
from ..request import INFOTEXT_KEY, ErasureRequest
from .enforcement import current_policy
from .proven_pass import ProvenPass
from .sampling import SamplingPass
from .stores import current_checkpoint, feedback_store, journal_settings, preset_store, write_to_journal
from .xyz import overrides_of

_ATTRIBUTE = "eiup_generation"


class Generation:
    """What EIUP does in one generation.

    A request with an error in it is kept as that error, which is raised when sampling starts: the webui
    swallows whatever a script method raises, and would generate without erasure. ``unfinished`` are the
    numbers of the batches that were stopped or skipped while they were sampled.

    Under a ``policy``, ``request`` is what is in force under it, and ``lifted`` what was weaker; ``proofs``
    say of each image of the batch how many rows were seen and how many were under erasure.
    """

    def __init__(self, p: Any, args: Sequence[Any]):
        self.error: Exception | None = None
        self.request = ErasureRequest()
        self.passes: list[SamplingPass] = []
        self.policy = current_policy()
        self.lifted: tuple[Lift, ...] = ()
        try:
            resolve = preset_store().resolver()
            if self.policy is not None:
                args = with_first_mode(self.policy, args)
            request = ErasureRequest.from_args(args, resolve)
            request = _with_feedback(apply_overrides(request, overrides_of(p), resolve))
            if self.policy is not None:
                enforced = enforce(self.policy, request)
                request, self.lifted = enforced.request, enforced.lifted
            self.request = request
        except Exception as error:
            self.error = error
        self.records: dict[int, dict[str, Any]] = {}
        self.proofs: dict[int, dict[str, int]] = {}
        self.sampled = self.over = False
        self._owner = weakref.ref(p)
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
        return cls.known(p) or cls.begin(p, args)

    @staticmethod
    def known(p: Any) -> Generation | None:
        """``p``'s generation where it has one."""
        return getattr(p, _ATTRIBUTE, None)

    @classmethod
    def under_policy(cls, p: Any) -> Generation:
        """``p``'s generation, on a server with a policy; begun now where no script was called for it, since
        its last one is over, or was that of which ``p`` is a copy."""
        known = cls.known(p)
        if known is None or known.over or known._owner() is not p:
            return cls.begin(p, ())
        return known

    def begin_batch(self) -> None:
        """The records of the last batch do not belong to what the webui saves before this one's are made."""
        self.records.clear()
        self.proofs.clear()

    def erase_in_next_sampling(self, p: Any) -> None:
        """Wrap the sampler that ``p`` is about to use.

        It belongs to this generation, so nothing of the wrapping outlives it. img2img uses one sampler
        for all its batches; it is wrapped once.
        """
        self.begin_batch()
        if self.error is None and not self.request.active:
            return
        sampler = p.sampler
        for method in ("sample", "sample_img2img"):
            original = getattr(sampler, method)
            if getattr(original, "func", None) != self.sample:
                setattr(sampler, method, partial(self.sample, p, sampler, original))

    def sample(self, p: Any, sampler: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        """``sample(*args, **kwargs)`` with the concepts erased. Raises the error of a wrong request."""
        if self.error is not None:
            raise self.error
        if SamplingPass.is_running(sampler):
            return sample(*args, **kwargs)
        is_second = getattr(p, "is_hr_pass", False)
        kind = SamplingPass if self.policy is None else ProvenPass
        before = self.passes[-1] if is_second and self.passes else None
        sampling = kind(p, self.request, "hires" if is_second else "first", before)
        result = sampling.run(sampler, sample, *args, **kwargs)
        self.passes.append(sampling)
        self.sampled = True
        if sampling.request.mode != self.request.mode:
            self.lifted += (Lift("mode", self.request.mode, sampling.request.mode),)
            self.request = sampling.request
        return result

    def _infotext(self, p: Any, index: int, iteration: int = 0, **kwargs: Any) -> str:
        """What the webui writes into an image: with what was suppressed in it, once its batch is recorded.

        The webui counts images from the job's first one where it names the batch, else from the batch's.
        """
        at = None if kwargs.get("use_main_prompt") else index - iteration * p.batch_size
        record = self.records.get(at)
        return self.request.to_infotext(result_of(record) if record else None, self._policy_note(at))

    def _policy_note(self, index: int | None = None) -> dict[str, Any] | None:
        """What the policy did for an image of the batch, or for the job; None where there is none."""
        if self.policy is None:
            return None
        proof: dict[str, int] = {}
        if index is not None:
            # What the webui saves between two passes is not recorded yet.
            proof = self.proofs.get(index) or _proof(self.passes, index)
        lifted = {"lifted": [asdict(lift) for lift in self.lifted]} if self.lifted else {}
        return {"hash": self.policy.hash, **proof, **lifted}

    def end(self, p: Any) -> None:
        """What the webui reports of the whole job is what was asked for."""
        if self.request.active:
            p.extra_generation_params[INFOTEXT_KEY] = self.request.to_infotext(policy=self._policy_note())

    def _check_seen(self, p: Any) -> None:
        """Samplers may have no step left to make, such as DDIM in img2img of two: then there is nothing that
        could be proven, or recorded."""
        if p.iteration not in self.unfinished and not all(proof["rows"] for proof in self.proofs.values()):
            raise ErasureError(
                "an image was made without a call of the U-Net, so without erasure. Choose more steps, a "
                "larger denoising strength or another sampler"
            )

    def keep_outside(self, p: Any, images: Tensor) -> None:
        """Under *Preserve*, put into the batch's decoded ``images [B, 3, H, W]``, in place, what they have
        outside of the erased concepts without erasure."""
        if not self.passes:
            return
        try:
            self.passes[-1].keep_outside(images)
        except Exception:
            # The webui writes an error of a script on the console only.
            p.comment("EIUP: what is outside of the erased concepts was not preserved; the console says why.")
            raise

    def record_batch(self, p: Any) -> None:
        """Make the records of the images of the batch that has been sampled, and write the journal; once."""
        if shared.state.interrupted or shared.state.skipped:
            self.unfinished.add(p.iteration)
        passes, self.passes = self.passes, []
        if not passes:
            return
        if self.policy is not None:
            self.proofs = {index: _proof(passes, index) for index in range(len(p.seeds))}
            self._check_seen(p)
        made: dict[int, dict[str, Any]] = {}
        journal = journal_settings()
        prompts = p.prompts if journal.prompts else [None] * len(p.seeds)
        window = (self.request.start, self.request.end)
        for index, (seed, prompt) in enumerate(zip(p.seeds, prompts)):
            parts = [
                PassEvidence(sampling.name, sampling.checkpoint, sampling.evidence[index])
                for sampling in passes
                if index in sampling.evidence
            ]
            if parts:
                made[index] = image_record(
                    parts,
                    weights=[concept.weight for concept in self.request.concepts],
                    mode=self.request.mode,
                    strength=self.request.strength,
                    window=window,
                    seed=int(seed),
                    prompt=prompt,
                    policy=self._policy_note(index),
                )
        self.records.update(made)
        if journal.keep:
            for record in made.values():
                write_to_journal(record)


def _proof(passes: Sequence[ProvenPass], index: int) -> dict[str, int]:
    """Of an image, the rows of all passes that the U-Net saw, and those that were under erasure."""
    return {
        "rows": sum(sampling.tally.seen[index] for sampling in passes),
        "under_erasure": sum(sampling.tally.decided[index] for sampling in passes),
    }


def _with_feedback(request: ErasureRequest) -> ErasureRequest:
    """The request with what was learnt of its concepts; such weights are written out and not learnt again."""
    if not (request.active and request.feedback):
        return request
    concepts = feedback_store().weighted(request.concepts, current_checkpoint())
    return request if concepts == request.concepts else replace(request, concepts=concepts, feedback=False)
