"""What users say of images adjusts a concept's weight on a checkpoint, within bounds and without training.

The idea of arXiv 2407.21035, for weights instead of parameters: an image in which a concept survived raises
the concept's factor on this checkpoint, one that was spoilt lowers it.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Literal, get_args

from .concepts import Concept, make_concept
from .errors import RequestError
from .files import write_atomically

Verdict = Literal["survived", "spoilt"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
STEP = 1.25
MINIMUM, MAXIMUM = 0.5, 2.5
VERSION = 1
# The whole SHA-256.
LONGEST_HASH = 64
_writing = threading.Lock()


class Feedback:
    """Factors by checkpoint (its short hash) and concept, kept in ``file``.

    A file that cannot be read raises :class:`RequestError` rather than be taken for an empty one: its
    factors may be what keeps a concept away.
    """

    def __init__(self, file: Path):
        self.file = Path(file)

    def factors(self, checkpoint: str) -> dict[str, float]:
        """The factors of a checkpoint's concepts that are not 1."""
        return self._read().get(checkpoint, {})

    def weighted(self, concepts: tuple[Concept, ...], checkpoint: str) -> tuple[Concept, ...]:
        """The concepts with their weights times their factors, at most the largest weight allowed."""
        factors = self.factors(checkpoint)
        return tuple(
            make_concept(c.text, min(10.0, round(c.weight * factors.get(c.text, 1.0), 4))) for c in concepts
        )

    def flag(self, checkpoint: str, concept: str, verdict: str) -> float:
        """Take a verdict on one image; returns the concept's factor from now on."""
        concept = make_concept(concept, field="concept").text
        if len(checkpoint) > LONGEST_HASH:
            raise RequestError("checkpoint", checkpoint, "the short hash of a checkpoint")
        if verdict not in VERDICTS:
            raise RequestError("verdict", verdict, "one of " + ", ".join(VERDICTS))
        if any("\ud800" <= character <= "\udfff" for character in checkpoint):
            allowed = "text without lone surrogates, which are no characters"
            raise RequestError("checkpoint", checkpoint, allowed)
        with _writing:
            all_factors = self._read()
            factors = all_factors.setdefault(checkpoint, {})
            step = STEP if verdict == "survived" else 1 / STEP
            factor = round(min(MAXIMUM, max(MINIMUM, factors.get(concept, 1.0) * step)), 4)
            factors[concept] = factor
            if factor == 1.0:
                del factors[concept]
            self._write(all_factors)
        return factor

    def reset(self, checkpoint: str, concept: str | None = None) -> None:
        """Forget one concept's factor on a checkpoint, or all of them."""
        with _writing:
            all_factors = self._read()
            if concept is None:
                all_factors.pop(checkpoint, None)
            else:
                all_factors.get(checkpoint, {}).pop(concept, None)
            self._write(all_factors)

    def _read(self) -> dict[str, dict[str, float]]:
        try:
            stored = json.loads(self.file.read_text(encoding="utf-8"))
            if stored["v"] != VERSION:
                raise ValueError(f"version {stored['v']}")
            return {
                str(checkpoint): {str(concept): float(factor) for concept, factor in factors.items()}
                for checkpoint, factors in stored["factors"].items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(
                "feedback",
                self.file.name,
                "a file that EIUP wrote",
                f"Mend or delete it, in the webui's data folder ({type(error).__name__}).",
            ) from error

    def _write(self, factors: dict[str, dict[str, float]]) -> None:
        kept = {checkpoint: values for checkpoint, values in factors.items() if values}
        write_atomically(self.file, json.dumps({"v": VERSION, "factors": kept}, indent=1))
