"""What EIUP keeps in the webui's folders: feedback, presets, the journal."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from modules import errors, paths, shared

from ..concepts import is_number_within
from ..errors import ErasureError
from ..feedback import Feedback
from ..journal import Journal
from ..policy import JournalSettings
from ..presets import Presets
from . import in_force


def current_checkpoint() -> str:
    """The short hash of the loaded checkpoint, under which feedback on it is kept."""
    return shared.sd_model.sd_model_hash or ""


def feedback_store() -> Feedback:
    return Feedback(Path(paths.data_path) / "eiup" / "feedback.json")


def preset_store() -> Presets:
    """The shipped presets, and the user's own in the webui's data folder."""
    return Presets(Path(paths.data_path) / "eiup" / "presets")


def journal_folder() -> Path:
    """Where the journal is: ``--eiup-journal-dir``, or ``log/eiup`` in the webui's data folder."""
    chosen = getattr(shared.cmd_opts, "eiup_journal_dir", None)
    return Path(chosen) if chosen else Path(paths.data_path) / "log" / "eiup"


def journal_settings() -> JournalSettings:
    """The policy's, where there is one, else those of the webui."""
    if (policy := in_force.policy()) is not None:
        return policy.journal
    data = shared.opts.data
    return JournalSettings(
        bool(data.get("eiup_journal", True)),
        bool(data.get("eiup_journal_prompts")),
        _limit("eiup_journal_days"),
        _limit("eiup_journal_megabytes"),
    )


def current_journal() -> Journal:
    """The journal as the settings want it."""
    settings = journal_settings()
    return _open_journal(journal_folder(), settings.days, settings.megabytes * 1e6)


def write_to_journal(record: dict[str, Any]) -> None:
    """Append a record. Raises :class:`ErasureError` where it cannot be written; the console says why, since
    that names files of the server."""
    try:
        current_journal().append(record)
    except OSError as error:
        errors.report("EIUP: the journal could not be written", exc_info=True)
        raise ErasureError("the journal cannot be written; the webui's console says why") from error


def _limit(setting: str) -> float:
    """A setting's value; 0, no limit, where it is no number of 0 and more."""
    value = shared.opts.data.get(setting)
    return value if is_number_within(value, 0, float("inf")) else 0


@lru_cache(maxsize=1)
def _open_journal(folder: Path, days: float, max_bytes: float) -> Journal:
    """One and the same as long as the settings are, since it remembers when it last deleted old files."""
    return Journal(folder, days, max_bytes)
