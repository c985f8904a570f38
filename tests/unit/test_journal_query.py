"""Reading the journal: filters, pages, CSV, rotation and retention."""

import csv
import io
import json
import os
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from eiup.errors import RequestError
from eiup.journal import Journal, event_record
from eiup.journal_csv import csv_chunks
from eiup.journal_query import Cursor, JournalFilter, find_page, newest_first, parse_limit

VERSION_1 = Path(__file__).parent / "data" / "2026-03-14.jsonl"
START = datetime(2026, 3, 1, 23, 59, 50, tzinfo=timezone.utc)


def record(seed, time=None, concepts=(("star", 0.5),), **more):
    """A record as small as one can be; ``seed`` seconds after the start unless a time is given."""
    time = time or START + timedelta(seconds=seed)
    listed = [{"concept": concept, "presence": presence} for concept, presence in concepts]
    return {"v": 1, "time": time.isoformat(timespec="milliseconds"), "seed": seed, "concepts": listed, **more}


def fill(folder, *records, **limits):
    journal = Journal(folder, **limits)
    for one in records:
        journal.append(one)
    return journal


def seeds(folder, **filters):
    return [r["seed"] for _, r in newest_first(folder, JournalFilter.from_fields(filters))]


def pages(folder, limit, **filters):
    """The seeds of all pages, following ``next``."""
    result, cursor = [], None
    while True:
        page = find_page(folder, JournalFilter.from_fields(filters), limit, cursor)
        result.append([r["seed"] for r in page.records])
        if page.next is None:
            return result
        cursor = Cursor.parse(page.next)


# ------------------------------------------------------------------------------------------- order, pages


def test_newest_first_over_midnight(tmp_path):
    fill(tmp_path, *(record(seed) for seed in range(20)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2026-03-01.jsonl", "2026-03-02.jsonl"]
    assert seeds(tmp_path) == list(range(19, -1, -1))


def test_pages_hold_everything_once(tmp_path):
    fill(tmp_path, *(record(seed) for seed in range(20)))
    assert pages(tmp_path, 6) == [
        [19, 18, 17, 16, 15, 14],
        [13, 12, 11, 10, 9, 8],
        [7, 6, 5, 4, 3, 2],
        [1, 0],
    ]
    # A page that is just full has nothing after it.
    assert pages(tmp_path, 20) == [list(range(19, -1, -1))]


def test_new_records_do_not_shift_the_pages_behind_a_cursor(tmp_path):
    fill(tmp_path, *(record(seed) for seed in range(20)))
    first = find_page(tmp_path, JournalFilter(), 5)
    fill(tmp_path, record(100), record(101))
    second = find_page(tmp_path, JournalFilter(), 5, Cursor.parse(first.next))
    assert [r["seed"] for r in second.records] == [14, 13, 12, 11, 10]


def test_lines_longer_than_what_is_read_at_once(tmp_path):
    large = {"map": "A" * 700_000}
    fill(tmp_path, *(record(seed, **(large if seed % 3 == 1 else {})) for seed in range(9)))
    assert seeds(tmp_path) == list(range(8, -1, -1))
    assert pages(tmp_path, 2) == [[8, 7], [6, 5], [4, 3], [2, 1], [0]]
    (found,) = find_page(
        tmp_path, JournalFilter(), 1, Cursor.parse(find_page(tmp_path, JournalFilter(), 7).next)
    ).records
    assert found == record(1, **large)


def test_a_folder_that_does_not_exist_is_an_empty_journal(tmp_path):
    assert pages(tmp_path / "none", 5) == [[]]


def test_damaged_lines_harm_nothing(tmp_path):
    path = tmp_path / "2026-03-01.jsonl"
    fill(tmp_path, record(1))
    with open(path, "ab") as file:
        file.write(
            b'\n\n[1]\nnull\n{"v":1,"time":3,"concepts":{}}\n\xff\xfe\n{"time":NaN}\n' + b"[" * 100_000
        )
        file.write(b'\n{"v":1,"time":"2026-03-01T23:59:59.')
    fill(tmp_path, record(2))
    with open(path, "ab") as file:
        file.write(json.dumps(record(3)).encode()[:-1])
    assert seeds(tmp_path, after="2026-03-01") == [2, 1]
    assert seeds(tmp_path, concept="star", presence=0.1) == [2, 1]
    found = [r for _, r in newest_first(tmp_path, JournalFilter())]
    assert found == [record(2), {"v": 1, "time": 3, "concepts": {}}, record(1)]
    assert len(list(csv.reader(io.StringIO("".join(csv_chunks(found, JournalFilter())))))) == 3


def test_unknown_fields_are_passed_through(tmp_path):
    later = record(1, map={"star": "AAEC"}, v=9)
    fill(tmp_path, later)
    assert find_page(tmp_path, JournalFilter(), 1).records == [later]


def test_other_files_are_not_read(tmp_path):
    line = json.dumps(record(7)) + "\n"
    for name in (
        "notes.jsonl",
        "2026-03-01.0.jsonl",
        "2026-02-31.jsonl",
        "x2026-03-01.jsonl",
        "2026-03-01.jsonl.bak",
    ):
        (tmp_path / name).write_text(line)
    (tmp_path / "2026-03-02.jsonl").mkdir()
    outside = tmp_path.parent / "outside.jsonl"
    outside.write_text(line)
    os.symlink(outside, tmp_path / "2026-03-03.jsonl")
    assert seeds(tmp_path) == []


# ------------------------------------------------------------------------------------------- filters


def test_times(tmp_path):
    fill(tmp_path, *(record(seed) for seed in range(20)))
    assert seeds(tmp_path, after="2026-03-02") == list(range(19, 9, -1))
    assert seeds(tmp_path, before="2026-03-02") == list(range(9, -1, -1))
    assert seeds(tmp_path, after="2026-03-01T23:59:58Z", before="2026-03-02T00:00:03") == [12, 11, 10, 9, 8]
    assert seeds(tmp_path, after="2026-03-02T01:00:05+01:00") == [19, 18, 17, 16, 15]
    assert seeds(tmp_path, after="2026-03-02T00:00:05.000001Z") == [19, 18, 17, 16]
    assert seeds(tmp_path, before="2026-03-02T00:00:05.000001Z")[0] == 15
    assert seeds(tmp_path, after="2027-01-01") == []


def test_a_time_with_another_offset_is_filed_and_found_by_utc(tmp_path):
    east = datetime(2026, 3, 2, 1, 0, tzinfo=timezone(timedelta(hours=9)))
    path = fill(tmp_path).append(record(1, time=east))
    assert path.name == "2026-03-01.jsonl"
    assert seeds(tmp_path, after="2026-03-01T15:59:59Z", before="2026-03-01T16:00:01Z") == [1]


def test_concept_and_presence_are_those_of_one_concept(tmp_path):
    fill(
        tmp_path,
        record(1, concepts=[("star", 0.9), ("moon", 0.1)]),
        record(2, concepts=[("star", 0.2), ("moon", 0.8)]),
        record(3, concepts=[("starfish", 0.9)]),
        record(4, concepts=[('café "x"\\', -0.1)]),
    )
    assert seeds(tmp_path, concept=" star ") == [2, 1]
    assert seeds(tmp_path, concept="star", presence="0.5") == [1]
    assert seeds(tmp_path, presence=0.5) == [3, 2, 1]
    assert seeds(tmp_path, presence=0.2) == [3, 2, 1]
    assert seeds(tmp_path, presence=-1) == [4, 3, 2, 1]
    assert seeds(tmp_path, concept='café "x"\\') == [4]
    assert seeds(tmp_path, concept="0.9") == []


def test_checkpoint_and_mode(tmp_path):
    fill(
        tmp_path,
        record(1, checkpoint="abc", mode="adaptive", passes=[{"checkpoint": "abc"}, {"checkpoint": "def"}]),
        record(2, checkpoint="def", mode="strict"),
        record(3, checkpoint=None, mode="adaptive", note="abc"),
    )
    assert seeds(tmp_path, checkpoint="abc") == [1]
    assert seeds(tmp_path, checkpoint="def") == [2, 1]
    assert seeds(tmp_path, mode="adaptive") == [3, 1]
    assert seeds(tmp_path, mode="adaptive", checkpoint="def") == [1]
    assert seeds(tmp_path, mode="", checkpoint=None) == [3, 2, 1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("after", "yesterday"),
        ("before", "2026-02-30"),
        ("after", "2026-03-01T00:00:00 01:00"),
        ("after", "0001-01-01T00:00:00+14:00"),
        ("presence", "much"),
        ("presence", "nan"),
        ("concept", "x" * 501),
        ("mode", "gentle"),
        ("sort", "seed"),
    ],
)
def test_wrong_filters_are_named(field, value):
    with pytest.raises(RequestError) as caught:
        JournalFilter.from_fields({field: value})
    assert caught.value.field == field
    assert "allowed: " in str(caught.value)


def test_an_empty_range_of_time_is_refused():
    with pytest.raises(RequestError, match="after is '2026-03-02'; allowed: earlier than before"):
        JournalFilter.from_fields({"after": "2026-03-02", "before": "2026-03-02T00:00Z"})


@pytest.mark.parametrize("text", ["", "0", "1001", "-1", "1.5", "9" * 5000, "\u0661"])
def test_wrong_limits_are_refused(text):
    with pytest.raises(RequestError, match="from 1 to 1000"):
        parse_limit(text)


@pytest.mark.parametrize(
    "text",
    ["x", "2026-03-01", "2026-03-01:", "2026-03-01:-1", "../2026-03-01:0", "2026-02-31:5", "2026-03-01.0:5"],
)
def test_wrong_cursors_are_refused(text):
    with pytest.raises(RequestError, match="cursor"):
        Cursor.parse(text)


def test_an_invented_cursor_harms_nothing(tmp_path):
    fill(tmp_path, record(1), record(2))
    size = (tmp_path / "2026-03-01.jsonl").stat().st_size
    assert [
        r["seed"]
        for r in find_page(tmp_path, JournalFilter(), 5, Cursor.parse(f"2026-03-01:{size - 9}")).records
    ] == [1]
    assert [
        r["seed"] for r in find_page(tmp_path, JournalFilter(), 5, Cursor.parse("2026-03-01:999999")).records
    ] == [2, 1]


# ------------------------------------------------------------------------------------------- version 1


def test_records_of_the_first_versions_are_read(tmp_path):
    shutil.copy(VERSION_1, tmp_path)
    stored = [json.loads(line) for line in VERSION_1.read_text().splitlines()]
    assert [r for _, r in newest_first(tmp_path, JournalFilter())] == stored[::-1]
    assert list(Journal(tmp_path).records()) == stored
    assert seeds(tmp_path, concept="star", presence=0.5) == [7]
    assert seeds(tmp_path, mode="strict") == [8]
    assert seeds(tmp_path, checkpoint="fedcba9876") == [9]
    assert seeds(tmp_path, after="2026-03-14T09:30Z", before="2026-03-14T12:00Z") == [8]
    lines = list(csv.DictReader(io.StringIO("".join(csv_chunks(stored, JournalFilter())))))
    assert [line["concept"] for line in lines] == ["star", "star", 'café, "old"', "moon"]
    assert [line["mode"] for line in lines] == ["", "strict", "strict", "adaptive"]
    assert [line["begun_anew"] for line in lines] == ["", "", "", "true"]
    assert lines[2]["presence"] == "-0.05"


# ------------------------------------------------------------------------------------------- CSV


def test_csv_has_a_line_an_image_and_concept(tmp_path):
    fill(
        tmp_path,
        record(1, concepts=[("star", 0.9), ("moon", 0.1)], mode="strict"),
        record(2, concepts=[("star", 0.2)], mode="strict"),
    )

    def lines(**filters):
        wanted = JournalFilter.from_fields(filters)
        text = "".join(csv_chunks((r for _, r in newest_first(tmp_path, wanted)), wanted))
        return [
            (line["seed"], line["concept"], line["presence"]) for line in csv.DictReader(io.StringIO(text))
        ]

    assert lines() == [("2", "star", "0.2"), ("1", "star", "0.9"), ("1", "moon", "0.1")]
    assert lines(concept="star", presence=0.5) == [("1", "star", "0.9")]
    assert lines(mode="constant") == []


def test_csv_has_a_line_for_what_is_no_image(tmp_path):
    refusal = event_record("refused", "EIUP: no image,\nsee =1", policy="ab12", seed=5, checkpoint="cd34")
    fill(tmp_path, record(1, concepts=[("star", 0.9)]), refusal)

    def lines(**filters):
        wanted = JournalFilter.from_fields(filters)
        text = "".join(csv_chunks((r for _, r in newest_first(tmp_path, wanted)), wanted))
        return [
            (line["seed"], line["concept"], line["event"], line["message"])
            for line in csv.DictReader(io.StringIO(text, newline=""))
        ]

    image, event = ("1", "star", "", ""), ("5", "", "refused", "EIUP: no image,\nsee =1")
    assert sorted(lines()) == [image, event]
    assert lines(concept="star") == lines(presence="0.5") == [image]
    assert lines(checkpoint="cd34") == [event]


@pytest.mark.parametrize(
    "text", ["=1+1", "+SUM(A1)", "-2+3", "@A1", "\tx", "\r=1", "  =1", "\uff1d1", '=HYPERLINK("http://x")']
)
def test_formulas_are_no_formulas_in_csv(text):
    rows = list(
        csv.reader(
            io.StringIO("".join(csv_chunks([record(1, concepts=[(text, 1)])], JournalFilter())), newline="")
        )
    )
    assert f"'{text}" in rows[1]


@pytest.mark.parametrize(
    "text", ["-5", "+1.5", "1e-3", "star", "a=b", "café", 'with "quotes", commas\nand lines']
)
def test_numbers_and_plain_text_stay_as_they_are_in_csv(text):
    rows = list(
        csv.reader(
            io.StringIO("".join(csv_chunks([record(1, concepts=[(text, 1)])], JournalFilter())), newline="")
        )
    )
    assert text in rows[1]


# ------------------------------------------------------------------------------------------- rotation


def test_a_day_is_continued_in_parts(tmp_path):
    size = len(json.dumps(record(0), separators=(",", ":"))) + 1
    fill(tmp_path, *(record(seed, time=START) for seed in range(10, 40)), max_bytes=4 * (size + 1))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"2026-03-01.jsonl", *(f"2026-03-01.{part}.jsonl" for part in range(1, 8))}
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 4 * (size + 1)
    # Of more than ten parts, too.
    fill(tmp_path, *(record(seed, time=START) for seed in range(40, 60)), max_bytes=1)
    assert seeds(tmp_path) == list(range(59, 9, -1))
    assert [r["seed"] for r in Journal(tmp_path).records()] == list(range(10, 60))
    assert sum(pages(tmp_path, 7), []) == list(range(59, 9, -1))


def test_a_record_larger_than_a_part_is_written_all_the_same(tmp_path):
    fill(tmp_path, record(1), record(2), max_bytes=10)
    assert seeds(tmp_path) == [2, 1]


def day(ago):
    return (datetime.now(timezone.utc) - timedelta(days=ago)).date().isoformat()


def test_old_files_are_deleted_and_nothing_else(tmp_path):
    kept = [f"{day(0)}.jsonl", f"{day(0)}.1.jsonl", f"{day(1)}.jsonl", f"{day(3)}.jsonl", f"{day(-2)}.jsonl"]
    old = [f"{day(4)}.jsonl", f"{day(4)}.2.jsonl", f"{day(400)}.jsonl"]
    foreign = ["notes.txt", f"{day(9)}.json", f"{day(9)}.jsonl.gz", f"my-{day(9)}.jsonl", f"{day(9)}.x.jsonl"]
    for name in (*kept, *old, *foreign):
        (tmp_path / name).write_text("{}\n")
    below = tmp_path / "below"
    below.mkdir()
    (below / f"{day(9)}.jsonl").write_text("{}\n")
    (tmp_path / f"{day(8)}.jsonl").mkdir()
    fill(tmp_path, record(1, time=datetime.now(timezone.utc)), days=3)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, *foreign, "below", f"{day(8)}.jsonl"}
    assert (below / f"{day(9)}.jsonl").exists()


def test_0_days_keep_everything(tmp_path):
    fill(tmp_path, record(1, time=datetime(2001, 1, 1, tzinfo=timezone.utc)), record(2), days=0)
    assert seeds(tmp_path) == [2, 1]


def test_records_of_today_outlive_any_retention(tmp_path):
    now = datetime.now(timezone.utc)
    fill(tmp_path, record(1, time=now), record(2, time=now), days=1e-9, max_bytes=1)
    fill(tmp_path, record(3, time=now), days=1e-9)
    assert sorted(seeds(tmp_path)) == [1, 2, 3]
