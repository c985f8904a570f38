import json
import subprocess
import sys
from multiprocessing import Process
from pathlib import Path

from eiup.evidence import ConceptEvidence, ImageEvidence
from eiup.journal import Journal, PassEvidence, image_record

ROOT = Path(__file__).parents[2]
EVIDENCE = ImageEvidence(
    (0.1, 0.5),
    (ConceptEvidence("star\n{}", 0.8, 1.0, 0.03, (0.7, None), (1.0, 1.0), (0.02, 0.04)),),
    2,
    2,
)


FIRST = PassEvidence("first", "abc", EVIDENCE)


def record(seed=1, passes=(FIRST,), **kwargs):
    return image_record(
        passes, weights=[0.5], mode="adaptive", strength=2.0, window=(0.0, 1.0), seed=seed, **kwargs
    )


def test_records_are_read_back(tmp_path):
    journal = Journal(tmp_path / "new" / "folder")
    path = journal.append(record())
    assert path.name == record()["time"][:10] + ".jsonl"
    (read,) = journal.records()
    assert read["passes"][0]["concepts"][0]["presence_by_step"] == [0.7, None]
    assert read["seed"] == 1


def test_an_image_of_two_passes_is_one_record_with_the_larger_values():
    weaker = ConceptEvidence("star\n{}", 0.3, 0.5, 0.05, (0.3,), (0.5,), (0.05,), seen=0.9, begun_anew=True)
    hires = PassEvidence("hires", "def", ImageEvidence((0.6,), (weaker,), 1, 1))
    both = record(passes=(FIRST, hires))
    assert both["concepts"] == [
        {
            "concept": "star\n{}",
            "weight": 0.5,
            "presence": 0.8,
            "gate": 1.0,
            "share": 0.05,
            "seen": 0.9,
            "begun_anew": True,
        }
    ]
    assert [(p["pass"], p["checkpoint"], p["rows"]) for p in both["passes"]] == [
        ("first", "abc", 2),
        ("hires", "def", 1),
    ]


def test_the_prompt_is_left_out_unless_given(tmp_path):
    assert "prompt" not in record()
    assert record(prompt="a wizard")["prompt"] == "a wizard"


def test_a_newline_in_a_concept_cannot_forge_a_record(tmp_path):
    journal = Journal(tmp_path)
    path = journal.append(record())
    assert len(path.read_text().splitlines()) == 1


def test_half_a_line_after_a_crash_harms_nothing(tmp_path):
    journal = Journal(tmp_path)
    path = journal.append(record(1))
    with open(path, "a") as file:
        file.write(json.dumps(record(2))[:50])
    journal.append(record(3))
    assert [r["seed"] for r in journal.records()] == [1, 3]


def _append_many(folder, first):
    journal = Journal(folder)
    for seed in range(first, first + 100):
        journal.append(record(seed))


def test_several_processes_share_a_journal(tmp_path):
    processes = [Process(target=_append_many, args=(tmp_path, first)) for first in (0, 100, 200)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(r["seed"] for r in Journal(tmp_path).records()) == list(range(300))


WRITER = """
import sys
from pathlib import Path

from eiup.journal import Journal

folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
journal = Journal(folder, max_bytes=200_000)
print("ready", flush=True)
sys.stdin.readline()
for seed in range(count):
    # Some are of many pages of memory, which are not written at once.
    filling = name * (seed % 20 * 1000 + 1)
    record = {"time": "2026-11-25T00:00:00+00:00", "writer": name, "seed": seed, "filling": filling}
    journal.append(record)
"""


def test_records_of_several_processes_are_whole_also_after_a_line_that_a_crash_cut(tmp_path):
    count, names = 60, "abcd"
    (tmp_path / "2026-11-25.jsonl").write_bytes(b'{"time":"2026-11-25T00:')
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), name, str(count)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name in names
    ]
    for writer in writers:
        assert writer.stdout.readline().strip() == b"ready"
    for writer in writers:
        writer.stdin.write(b"\n")
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0] * len(names)
    written = list(Journal(tmp_path).records())
    for name in names:
        own = [record for record in written if record["writer"] == name]
        assert sorted(record["seed"] for record in own) == list(range(count))
        assert all(record["filling"] == name * (record["seed"] % 20 * 1000 + 1) for record in own)
    assert len(list(tmp_path.iterdir())) > 3
