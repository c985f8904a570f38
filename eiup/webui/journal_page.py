"""The tab *EIUP journal*: what was suppressed in which image, newest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import Any

import gradio as gr

from .. import texts
from ..errors import RequestError
from ..journal_csv import csv_chunks
from ..journal_query import Cursor, JournalFilter, Page, find_page, newest_first, objects
from ..request import FIELD
from .errors_shown import error_as_html
from .stores import journal_folder

# The table's columns: fields of a record, and of each of its concepts.
IMAGE_COLUMNS = {
    "time": texts.TIME,
    "seed": texts.SEED,
    "checkpoint": texts.CHECKPOINT,
    "mode": FIELD["mode"].label,
    "strength": FIELD["strength"].label,
}
CONCEPT_COLUMNS = {
    "concept": texts.CONCEPT,
    "weight": texts.WEIGHT,
    "presence": texts.PRESENCE,
    "gate": texts.GATE,
    "share": texts.SUPPRESSED,
    "seen": texts.SEEN,
    "begun_anew": texts.BEGUN_ANEW,
}
# How the table writes numbers; the export has them as they are.
NUMBERS = {"strength": "g", "weight": "g", "presence": ".2f", "gate": ".2f", "share": ".2f", "seen": ".2f"}
IMAGES_A_PAGE = 50
EXPORT_KEPT_SECONDS = 3600


@dataclass(frozen=True)
class View:
    """What a browser shows: the filters, and the cursors of the pages up to the present one."""

    filters: dict[str, Any] = field(default_factory=dict)
    cursors: tuple[str | None, ...] = (None,)
    next: str | None = None

    def older(self) -> View:
        return View(self.filters, (*self.cursors, self.next)) if self.next else self

    def newer(self) -> View:
        return View(self.filters, self.cursors[:-1] or (None,))


def tab() -> list[tuple[gr.Blocks, str, str]]:
    """The tab for the webui's ``on_ui_tabs``."""
    with gr.Blocks(analytics_enabled=False) as interface:
        with gr.Row():
            boxes = [
                gr.Textbox(label=texts.AFTER, placeholder="2026-11-25", elem_id="eiup_journal_after"),
                gr.Textbox(label=texts.BEFORE, placeholder="2026-11-26", elem_id="eiup_journal_before"),
                gr.Textbox(label=texts.CONCEPT, elem_id="eiup_journal_concept"),
                gr.Textbox(label=texts.MINIMUM_PRESENCE, placeholder="0.5", elem_id="eiup_journal_presence"),
                gr.Textbox(label=texts.CHECKPOINT_HASH, elem_id="eiup_journal_checkpoint"),
            ]
            # The first one is any of them.
            mode = gr.Dropdown(
                ["", *FIELD["mode"].choices], value="", label=FIELD["mode"].label, elem_id="eiup_journal_mode"
            )
        with gr.Row():
            show = gr.Button(texts.SHOW, variant="primary", elem_id="eiup_journal_show")
            newer = gr.Button(texts.NEWER, interactive=False, elem_id="eiup_journal_newer")
            older = gr.Button(texts.OLDER, interactive=False, elem_id="eiup_journal_older")
            export = gr.Button(texts.EXPORT, elem_id="eiup_journal_export")
        file = gr.File(label=texts.EXPORTED, visible=False, elem_id="eiup_journal_csv")
        table = gr.HTML(elem_id="eiup_journal_table")
        view = gr.State(View())
        filters = [*boxes, mode]
        shown = [table, view, newer, older]

        def export_csv(*values: str | None) -> tuple[Any, Any]:
            try:
                return gr.update(value=_write_csv(file, _filters(values)), visible=True), gr.update()
            except RequestError as error:
                return gr.update(value=None, visible=False), error_as_html(error)

        # Not in the webui's queue, which a busy machine may not open in time.
        quiet: dict[str, Any] = {"show_progress": False, "queue": False}
        # javascript/eiup-journal.js clicks it when one turns to the tab.
        for trigger in (show.click, mode.input, *(box.submit for box in boxes)):
            trigger(lambda *values: _show(View(_filters(values))), filters, shown, **quiet)
        newer.click(lambda view: _show(view.newer()), [view], shown, **quiet)
        older.click(lambda view: _show(view.older()), [view], shown, **quiet)
        export.click(export_csv, filters, [file, table])
    return [(interface, texts.JOURNAL, "eiup_journal")]


def _filters(values: tuple[str | None, ...]) -> dict[str, str | None]:
    return dict(zip(("after", "before", "concept", "presence", "checkpoint", "mode"), values))


def _show(view: View) -> tuple[str, View, Any, Any]:
    """The values of the table, the view, and the buttons *Newer* and *Older*."""
    cursor = view.cursors[-1]
    try:
        page = find_page(
            journal_folder(),
            JournalFilter.from_fields(view.filters),
            IMAGES_A_PAGE,
            Cursor.parse(cursor) if cursor else None,
        )
    except RequestError as error:
        return error_as_html(error), View(), gr.update(interactive=False), gr.update(interactive=False)
    return (
        _table(page),
        View(view.filters, view.cursors, page.next),
        gr.update(interactive=len(view.cursors) > 1),
        gr.update(interactive=page.next is not None),
    )


def _table(page: Page) -> str:
    if not page.records:
        return f"<p>{texts.NO_IMAGES}</p>"
    image_columns = dict(IMAGE_COLUMNS)
    if any("prompt" in record for record in page.records):
        image_columns["prompt"] = texts.PROMPT
    titles = {**image_columns, **CONCEPT_COLUMNS}
    header = "".join(f"<th class='{_kind(name)}'>{title}</th>" for name, title in titles.items())
    rows = "".join(_rows(record, image_columns) for record in page.records)
    table = f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<div class='eiup-journal'>{table}</div>"


def _rows(record: Mapping[str, Any], image_columns: Iterable[str]) -> str:
    """An image's rows, one a concept; the first has the cells that belong to all of them. What is no image
    has its message in place of a concept."""
    concepts = objects(record, "concepts") or [{"concept": record.get("message")}]
    image = "".join(_cell(name, record.get(name), rows=len(concepts)) for name in image_columns)
    rows = ["".join(_cell(name, concept.get(name)) for name in CONCEPT_COLUMNS) for concept in concepts]
    rows[0] = image + rows[0]
    return "".join(f"<tr>{row}</tr>" for row in rows)


def _cell(name: str, value: Any, rows: int = 1) -> str:
    return f"<td class='{_kind(name)}' rowspan='{rows}'>{escape(_text(name, value))}</td>"


def _kind(name: str) -> str:
    """What a column holds, for the style sheet."""
    return "number" if name in NUMBERS else name


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return texts.YES if value else texts.NO
    if name in NUMBERS and isinstance(value, float):
        return format(value, NUMBERS[name])
    if name == "time":
        return str(value)[:19].replace("T", " ")
    return str(value)


def _write_csv(file: gr.File, filters: Mapping[str, Any]) -> str:
    """The path of a CSV file among those that gradio hands out to browsers. Earlier ones are deleted here,
    since nobody else does."""
    wanted = JournalFilter.from_fields(filters)
    records = (record for _, record in newest_first(journal_folder(), wanted))
    for earlier in map(Path, tuple(file.temp_files)):
        if earlier.exists() and earlier.stat().st_mtime < time() - EXPORT_KEPT_SECONDS:
            earlier.unlink(missing_ok=True)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"eiup-journal-{datetime.now(timezone.utc):%Y-%m-%d-%H%M%S}.csv"
        # With a byte order mark, by which spreadsheets know UTF-8.
        with open(path, "w", encoding="utf-8-sig", errors="replace", newline="") as target:
            target.writelines(csv_chunks(records, wanted))
        return file.make_temp_copy_if_needed(path)
