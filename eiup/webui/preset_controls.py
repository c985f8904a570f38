"""Presets in the accordion: put one into the concepts, look at them, save, delete and share them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from .. import texts
from ..concepts import PresetReference, parse_entries
from ..errors import RequestError
from ..presets import NAMES, SUFFIX, Preset, read_text
from .errors_shown import error_as_html
from .stores import preset_store


def build(concepts: gr.Textbox, elem_id: Callable[[str], str]) -> None:
    """Build the controls beneath ``concepts``. None of them is an argument of the script."""
    with gr.Row(elem_id=elem_id("preset_row")):
        chosen = gr.Dropdown(preset_store().names(), label=texts.PRESET, elem_id=elem_id("preset"))
        add = gr.Button(texts.ADD_PRESET, size="sm", elem_id=elem_id("add_preset"))
    with gr.Accordion(texts.PRESETS, open=False, elem_id=elem_id("presets_panel")):
        shown = gr.HTML(elem_id=elem_id("shown_preset"))
        name = gr.Textbox(label=texts.NAME, info=texts.DESCRIBED, elem_id=elem_id("preset_name"))
        with gr.Row():
            save = gr.Button(texts.SAVE_PRESET, size="sm", elem_id=elem_id("save_preset"))
            delete = gr.Button(texts.DELETE_PRESET, size="sm", elem_id=elem_id("delete_preset"))
            refresh = gr.Button(texts.REFRESH_PRESETS, size="sm", elem_id=elem_id("refresh_presets"))
        with gr.Row():
            download = gr.File(
                label=texts.DOWNLOAD_PRESET, interactive=False, elem_id=elem_id("download_preset")
            )
            upload = gr.File(
                label=texts.UPLOAD_PRESET,
                file_types=[SUFFIX],
                interactive=True,
                elem_id=elem_id("upload_preset"),
            )
    for component in (chosen, add, name, save, delete, refresh):
        # Other scripts' components of the same label would share its entry in the webui's ui-config.json.
        component.do_not_save_to_config = True
    panel = [chosen, shown, download]
    quiet: dict[str, Any] = {"show_progress": False, "queue": False}
    add.click(_add, [concepts, chosen], [concepts], **quiet)
    chosen.input(_showing_errors(_choose), [chosen], panel, **quiet)
    save.click(_showing_errors(_save), [name, concepts], panel, **quiet)
    delete.click(_showing_errors(_delete), [chosen], panel, **quiet)
    refresh.click(_showing_errors(_choose), [chosen], panel, **quiet)
    # Not preprocessed: gradio would copy any file of this machine that a client names.
    uploaded = _showing_errors(lambda file: _upload(file, Path(upload.DEFAULT_TEMP_DIR)))
    upload.upload(uploaded, [upload], panel, preprocess=False, **quiet)


def _add(text: str, name: str | None) -> str:
    """The concepts with the preset named among them, once, whatever its weight."""
    if not name:
        return text
    try:
        presets = (entry for entry in parse_entries(text) if isinstance(entry, PresetReference))
        named = any(preset.name == name for preset in presets)
    except RequestError:
        named = False
    return text if named else f"{text.rstrip()}\n@{name}".lstrip()


def _showing_errors(action: Callable[..., tuple]) -> Callable[..., tuple]:
    """``action``, or the error that it raises, as HTML, with the list anew and no file."""

    @wraps(action)
    def run(*args: Any) -> tuple:
        try:
            return action(*args)
        except RequestError as error:
            return gr.update(choices=preset_store().names()), error_as_html(error), None

    return run


def _choose(name: str | None) -> tuple:
    """Everything anew: the list, and the chosen preset where it is still there, else what is amiss."""
    store = preset_store()
    if name in store.names():
        return _panel(name)
    errors = [RequestError("preset", file, NAMES, "Rename the file.") for file in store.misnamed()]
    return gr.update(choices=store.names(), value=None), "".join(map(error_as_html, errors)), None


def _save(name: str, text: str) -> tuple:
    preset = preset_store().save((name or "").strip(), text)
    return _panel(preset.name, texts.SAVED)


def _delete(name: str | None) -> tuple:
    if not name:
        raise RequestError("preset", name, "a preset chosen from the list")
    store = preset_store()
    store.delete(name)
    if name in store.names():
        return _panel(name, texts.SHIPPED_AGAIN)
    word = f"<p><span>{texts.DELETED}</span> @{escape(name)}</p>"
    return gr.update(choices=store.names(), value=None), word, None


def _upload(file: Any, folder: Path) -> tuple:
    """``file`` is what the browser says of the file that it has uploaded: ``name`` is where gradio has put
    it, ``orig_name`` what it was called."""
    file = file[0] if isinstance(file, list) and file else file
    if not isinstance(file, dict) or not isinstance(file.get("name"), str):
        raise RequestError("file", file, "a preset's file")
    path = Path(file["name"]).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise RequestError("file", path.name, "an uploaded file")
    name = Path(str(file.get("orig_name") or path.name)).stem
    preset = preset_store().save(name, read_text(path))
    return _panel(preset.name, texts.ADDED)


def _panel(name: str, word: str = "") -> tuple:
    """The list with ``name`` chosen, what the preset is, and its file."""
    store = preset_store()
    preset = store.get(name)
    return gr.update(choices=store.names(), value=name), _as_html(preset, word), str(store.file(name))


def _as_html(preset: Preset, word: str) -> str:
    try:
        concepts = preset_store().concepts(preset.name)
        listed = f"<p>{escape(', '.join(map(str, concepts)))}</p>"
    except RequestError as error:
        listed = error_as_html(error)
    description = escape(preset.description).replace("\n", "<br>")
    origin = texts.SHIPPED if preset.shipped else texts.YOUR_OWN
    named = f"<b>@{escape(preset.name)}</b> (<span>{origin}</span>)"
    return f"<p><span>{word}</span> {named} {description}</p>{listed}"
