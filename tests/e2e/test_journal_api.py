"""The journal over HTTP: pages of records and CSV, filtered."""

from __future__ import annotations

import csv
import io
import uuid
from datetime import datetime, timedelta

import pytest

from tests.e2e.support import erasing, scene

PATH = "/eiup/v1/journal"


@pytest.fixture(scope="module")
def concept():
    """A concept of these tests only, whatever else the journal holds; to a spreadsheet, a formula."""
    return f"=1+star {uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def images(webui, concept):
    """Three images: two in the mode constant, erasing ``concept`` and the moon, and then one in strict."""
    both = [{"concept": concept, "weight": 1.5}, "moon"]
    webui.txt2img(**scene(seed=40, batch_size=2, **erasing(*both, mode="constant", strength=1.0)))
    webui.txt2img(**scene(seed=50, **erasing({"concept": concept}, mode="strict")))


def journal(webui, **parameters):
    answer = webui.get(PATH, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def seeds(webui, **parameters):
    return [record["seed"] for record in journal(webui, **parameters)["records"]]


def test_records_are_newest_first_and_in_pages(webui, concept, images):
    everything = journal(webui, concept=concept)
    assert [record["seed"] for record in everything["records"]] == [50, 41, 40]
    assert everything["next"] is None
    newest = everything["records"][0]
    assert newest["mode"] == "strict"
    assert newest["concepts"][0]["concept"] == concept
    assert len(newest["passes"][0]["progress"]) == 4
    first = journal(webui, concept=concept, limit=2)
    assert first["records"] == everything["records"][:2]
    second = journal(webui, concept=concept, limit=2, cursor=first["next"])
    assert second == {"records": everything["records"][2:], "next": None}
    # These tests' images are the journal's last ones.
    assert seeds(webui, limit=3) == [50, 41, 40]


def test_filters(webui, concept, images):
    newest, *_, oldest = journal(webui, concept=concept)["records"]
    assert seeds(webui, concept=concept, mode="constant") == [41, 40]
    assert seeds(webui, concept=concept, after=newest["time"]) == [50]
    assert seeds(webui, concept=concept, before=newest["time"]) == [41, 40]
    later = datetime.fromisoformat(newest["time"]) + timedelta(seconds=1)
    assert seeds(webui, concept=concept, after=later.isoformat()) == []
    assert seeds(webui, concept=concept, checkpoint=oldest["checkpoint"]) == [50, 41, 40]
    assert seeds(webui, concept=concept, checkpoint="none") == []
    presences = sorted(r["concepts"][0]["presence"] for r in journal(webui, concept=concept)["records"])
    assert len(seeds(webui, concept=concept, presence=presences[0])) == 3
    assert seeds(webui, concept=concept, presence=presences[-1] + 0.001) == []


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"after": "yesterday"}, "after"),
        ({"before": "2026-13-01"}, "before"),
        ({"after": "2026-01-02", "before": "2026-01-01"}, "after"),
        ({"presence": "much"}, "presence"),
        ({"mode": "gentle"}, "mode"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"cursor": "../../etc/passwd:0"}, "cursor"),
        ({"sort": "seed"}, "sort"),
        ({"concept": ["a", "b"]}, "concept"),
    ],
)
def test_wrong_parameters_are_named(webui, parameters, field):
    answer = webui.get(PATH, params=parameters)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"EIUP: {field} is ")
    assert "allowed: " in answer.json()["detail"]


def test_csv(webui, concept, images):
    answer = webui.get(f"{PATH}.csv", params={"concept": concept})
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    lines = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [line["seed"] for line in lines] == ["50", "41", "40"]
    assert {line["concept"] for line in lines} == {f"'{concept}"}
    for line, record in zip(lines, journal(webui, concept=concept)["records"]):
        values = record["concepts"][0]
        assert line["time"] == record["time"]
        assert line["strength"] == str(record["strength"])
        assert [float(line[n]) for n in ("weight", "presence", "gate", "share")] == [
            values[n] for n in ("weight", "presence", "gate", "share")
        ]
    times = {"after": lines[-1]["time"], "before": lines[0]["time"]}
    of_two = list(csv.DictReader(io.StringIO(webui.get(f"{PATH}.csv", params=times).text)))
    assert [line["concept"] for line in of_two] == [f"'{concept}", "moon"] * 2


def test_wrong_parameters_of_csv_are_named(webui):
    answer = webui.get(f"{PATH}.csv", params={"presence": "nan"})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("EIUP: presence is 'nan'")
    assert webui.get(f"{PATH}.csv", params={"limit": "5"}).status_code == 422
