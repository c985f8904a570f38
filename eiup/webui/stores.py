"""What EIUP keeps in the webui's folders: feedback, presets, the journal."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from modules import paths, shared

from ..concepts import is_number_within
from ..feedback import Feedback
from ..journal import Journal
from ..presets import Presets


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


def current_journal() -> Journal:
    """The journal as the settings want it."""
    days, megabytes = (_limit(f"eiup_journal_{name}") for name in ("days", "megabytes"))
    return _open_journal(journal_folder(), days, megabytes * 1e6)


def _limit(setting: str) -> float:
    """A setting's value; 0, no limit, where it is no number of 0 and more."""
    value = shared.opts.data.get(setting)
    return value if is_number_within(value, 0, float("inf")) else 0


@lru_cache(maxsize=1)
def _open_journal(folder: Path, days: float, max_bytes: float) -> Journal:
    """One and the same as long as the settings are, since it remembers when it last deleted old files."""
    return Journal(folder, days, max_bytes)
