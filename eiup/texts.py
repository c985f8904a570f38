"""The texts that the page shows, in English.

Those of the fields are in ``request.py``, and those that JavaScript writes are there. The folder
``localizations`` holds their translations: the webui replaces whatever is shown and equals one of its keys,
so that a text that is to be translated stands in an element of its own.
"""

from __future__ import annotations

from .overrides import AXIS_LABELS
from .request import FIELDS

FEEDBACK = "Feedback"
SURVIVED = "A concept survived"
SPOILT = "The image was spoilt"
FORGET = "Forget all of this checkpoint"
ON_THIS_CHECKPOINT = "On this checkpoint:"
NOTHING_LEARNT = "nothing learnt; every concept has its own weight"
KEEP_JOURNAL = "Keep a journal of what was suppressed, image by image"
RECORD_PROMPTS = "Record prompts in the journal"
SAVE_MAPS = "Save heat maps beside images"
KEEP_DAYS = "Delete files of the journal after this many days (0: never)"
MEGABYTES_A_FILE = "Begin a new file when a day's has this many MB (0: never)"
_OWN = tuple(text for name, text in globals().items() if name.isupper() and isinstance(text, str))


def shown() -> set[str]:
    """All of them but the extension's name, which has no translation."""
    fields = (text for field in FIELDS if field.name != "enabled" for text in (field.label, field.help))
    return {*fields, *AXIS_LABELS.values(), *_OWN}
