"""The texts that the page shows, in English.

Those of the fields are in ``request.py``, and those that JavaScript writes are there, in calls of
``eiup.translate``. The folder
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

LONGEST = "Longest concept:"
TOO_LONG = "Too long:"
TOKENS_ALLOWED = "tokens allowed"

PRESET = "Preset"
PRESETS = "Presets"
ADD_PRESET = "Add preset"
NAME = "Name"
DESCRIBED = "Comments at the beginning of the concepts are the preset's description."
SAVE_PRESET = "Save the concepts as a preset"
DELETE_PRESET = "Delete the chosen preset"
REFRESH_PRESETS = "Refresh presets"
DOWNLOAD_PRESET = "The chosen preset's file"
UPLOAD_PRESET = "Add a preset's file"
SAVED = "Saved."
ADDED = "Added."
DELETED = "Deleted:"
SHIPPED_AGAIN = "Deleted; the shipped preset of this name counts again."
SHIPPED = "shipped"
YOUR_OWN = "your own"

NOT_ALL_COMPARED = "EIUP: not every image was made without erasure to compare:"
STOPPED = "the generation was stopped"
CHOSEN_SCRIPT = "a script that was chosen from the list works with the images itself"
UPSCALED = "the first pass of an upscaled image is the erased image"
NOT_MADE = "The image without erasure was not made: stopped."

JOURNAL = "EIUP journal"
AFTER = "After (UTC)"
BEFORE = "Before (UTC)"
MINIMUM_PRESENCE = "Minimum presence"
CHECKPOINT_HASH = "Checkpoint (short hash)"
SHOW = "Show"
NEWER = "Newer"
OLDER = "Older"
EXPORT = "Export CSV"
EXPORTED = "The journal as CSV"
NO_IMAGES = "The journal has no such images."
TIME = "Time (UTC)"
SEED = "Seed"
CHECKPOINT = "Checkpoint"
PROMPT = "Prompt"
CONCEPT = "Concept"
WEIGHT = "Weight"
PRESENCE = "Presence"
GATE = "Gate"
SUPPRESSED = "Suppressed"
SEEN = "Seen"
BEGUN_ANEW = "Begun anew"
YES = "yes"
NO = "no"

POLICY = (
    "This server's policy has these concepts erased from every image. They cannot be removed, and erasing "
    "cannot be switched off."
)
POLICY_STRENGTH = "Least strength:"
POLICY_MODES = "Modes:"
POLICY_MORE = "Concepts of your own come on top."
POLICY_NO_MORE = "No other concepts can be added."
POLICY_OFF = "Preserve and Compare are switched off: both need an image without erasure."
POLICY_KEPT = (
    "The policy's file has changed and cannot be used. The last good version stays in force; the server's "
    "console says why."
)

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
