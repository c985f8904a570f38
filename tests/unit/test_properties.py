"""What holds for any text, any JSON and any name, found out with many of them."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from eiup.concepts import (
    Concept,
    PresetReference,
    format_concepts,
    make_concept,
    parse_concepts,
    parse_entries,
)
from eiup.errors import RequestError
from eiup.evidence import ConceptEvidence, ImageEvidence
from eiup.journal import Journal, PassEvidence, event_record, image_record
from eiup.journal_query import JournalFilter, newest_first
from eiup.policy import FIELDS as POLICY_FIELDS
from eiup.policy_file import PolicyError, read_policy
from eiup.presets import Presets
from eiup.request import FIELD, MODES, ErasureRequest
from tests.e2e.test_infotext import value_in

quick = settings(derandomize=True, deadline=None, max_examples=60, database=None)

# Texts of the characters that mean something somewhere, and any others.
TEXTS = st.one_of(
    st.text(alphabet="ab\\:,#@()[]\"'<>. \n\r\t\u2028\u0085\x1c1.5-{}", max_size=40),
    st.text(max_size=40),
)
ANY_TEXTS = st.one_of(TEXTS, st.text(alphabet=st.characters(), max_size=20), st.just("\ud800"))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.just(10**400)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)


@st.composite
def made_concepts(draw):
    """Concepts as the API makes them, each once."""
    text = draw(ANY_TEXTS)
    weight = draw(st.one_of(st.just(1.0), st.floats(0, 10)))
    try:
        return make_concept(text, weight)
    except RequestError:
        assume(False)


CONCEPTS = st.lists(made_concepts(), max_size=4, unique_by=lambda concept: concept.text)


def attempt(make, *args):
    """What ``make(*args)`` gives, or the error that it raises for what is wrong in them; nothing else."""
    try:
        return make(*args), None
    except (RequestError, PolicyError) as error:
        return None, error


def named(error: RequestError) -> str:
    """The field that an error names, also in what people read."""
    assert str(error).startswith(f"EIUP: {error.field or repr(error.field)} is ")
    assert "allowed: " in str(error)
    return error.field


# ------------------------------------------------------------------------------- concepts and requests


@quick
@given(ANY_TEXTS)
def test_any_text_is_concepts_or_an_error_that_names_the_field(text):
    concepts, error = attempt(parse_concepts, text)
    if error:
        assert named(error).startswith("concepts")
        return
    assert all(isinstance(concept, Concept) for concept in concepts)
    assert parse_concepts(format_concepts(concepts)) == concepts


@quick
@given(CONCEPTS)
@example([Concept("a\\", 2.0)])
def test_concepts_that_are_written_out_are_read_back(concepts):
    assert parse_concepts(format_concepts(concepts)) == concepts


@quick
@given(ANY_TEXTS)
def test_entries_that_are_written_out_are_read_back(text):
    with suppress(RequestError):
        entries = parse_entries(text)
        assume(not any(isinstance(entry, PresetReference) and "\\" in entry.name for entry in entries))
        assert parse_entries("\n".join(map(str, entries))) == entries


ALMOST_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "enabled": st.one_of(st.booleans(), JSON),
        "concepts": st.one_of(
            ANY_TEXTS,
            st.lists(
                st.one_of(
                    ANY_TEXTS,
                    st.fixed_dictionaries({"concept": ANY_TEXTS}, optional={"weight": st.floats(0, 11)}),
                    JSON,
                ),
                max_size=3,
            ),
            JSON,
        ),
        "strength": st.one_of(st.floats(0, 11), JSON),
        "start": st.one_of(st.floats(0, 1), JSON),
        "end": st.one_of(st.floats(0, 1), JSON),
        "mode": st.one_of(st.sampled_from(list(MODES)), JSON),
        "maps": JSON,
    },
)


@quick
@given(ALMOST_FIELDS)
def test_named_fields_are_a_request_or_an_error_that_names_the_field(fields):
    request, error = attempt(ErasureRequest.from_fields, fields)
    if error:
        assert named(error).split("[")[0].split(" ")[0] in fields
        return
    assert 0 <= request.start <= request.end <= 1
    assert 0 <= request.strength <= 10
    assert request.mode in MODES


@quick
@given(st.lists(JSON, max_size=len(FIELD) + 2))
def test_any_arguments_are_a_request_or_an_error_that_names_the_field(args):
    _, error = attempt(ErasureRequest.from_args, args)
    if error:
        field = named(error).split("[")[0].split(" ")[0].split(".")[0]
        assert field in {*FIELD, "args"} or error.field in args[0]


REQUESTS = st.builds(
    ErasureRequest,
    enabled=st.just(True),
    concepts=CONCEPTS.map(tuple),
    strength=st.floats(0, 10),
    start=st.floats(0, 0.5),
    end=st.floats(0.5, 1),
    mode=st.sampled_from(list(MODES)),
    preserve=st.booleans(),
    feedback=st.booleans(),
)


@quick
@given(REQUESTS)
def test_infotext_is_read_back(request):
    assert ErasureRequest.from_infotext(request.to_infotext()) == request
    # As the webui writes it among other values.
    quoted = json.dumps(request.to_infotext(), ensure_ascii=False)
    value = value_in(f"a wizard\nSteps: 4, Sampler: Euler, EIUP: {quoted}, Version: v1.10.1")
    assert ErasureRequest.from_infotext(json.dumps(value)) == request


@quick
@given(ANY_TEXTS)
def test_any_infotext_is_a_request_or_an_error(text):
    with suppress(RequestError):
        ErasureRequest.from_infotext(text)


@quick
@given(JSON)
def test_any_json_in_infotext_is_a_request_or_an_error(value):
    with suppress(RequestError):
        ErasureRequest.from_infotext(json.dumps({"v": 4, "concepts": value}))


# ------------------------------------------------------------------------------------------- the journal

NOON = datetime(2026, 11, 25, 12, tzinfo=timezone.utc)


def record_of(concept: str, prompt: str, checkpoint: str) -> dict:
    evidence = ConceptEvidence(concept, 0.5, 1.0, 0.1, (0.5,), (1.0,), (0.1,))
    part = PassEvidence("first", checkpoint, ImageEvidence((0.0,), (evidence,), 1, 1))
    return image_record(
        [part],
        weights=[1.0],
        strength=2.0,
        mode="adaptive",
        window=(0.0, 1.0),
        seed=1,
        prompt=prompt,
        time=NOON,
    )


@quick
@given(st.lists(st.tuples(ANY_TEXTS, ANY_TEXTS, ANY_TEXTS), min_size=1, max_size=4))
def test_any_text_is_one_line_of_the_journal_and_reads_back(texts):
    records = [record_of(*three) for three in texts]
    records += [event_record("refused", message, policy=policy, time=NOON) for message, policy, _ in texts]
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        for record in records:
            path = journal.append(record)
        content = path.read_bytes()
        assert list(journal.records()) == records
        assert [record for _, record in newest_first(Path(folder), JournalFilter())] == records[::-1]
    assert content.isascii()
    assert content.endswith(b"\n")
    assert len(content.splitlines()) == content.count(b"\n") == len(records)


# -------------------------------------------------------------------------------------------- the policy

ALMOST_POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "version": st.one_of(st.just(1), JSON),
        "concepts": st.one_of(st.lists(st.one_of(TEXTS, JSON), max_size=3), JSON),
        "strength": st.one_of(st.floats(0, 11), JSON),
        "modes": st.one_of(st.lists(st.sampled_from(list(MODES)), max_size=3), JSON),
        "start": st.one_of(st.floats(0, 1), JSON),
        "end": st.one_of(st.floats(0, 1), JSON),
        "users_may_add_concepts": JSON,
        "when_impossible": st.one_of(st.just("refuse"), JSON),
        "presets": st.one_of(ANY_TEXTS, JSON),
        "journal": st.one_of(
            st.fixed_dictionaries({}, optional={"keep": JSON, "days": st.one_of(st.floats(0, 9), JSON)}), JSON
        ),
        "another": JSON,
    },
)


def read(content: bytes) -> PolicyError | None:
    """The error in a policy's file; None where there is none."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "policy.json"
        path.write_bytes(content)
        policy, error = attempt(read_policy, path)
    if error:
        assert str(error).startswith(str(path))
        return error
    assert policy.concepts
    assert all(concept.weight > 0 for concept in policy.concepts)
    assert policy.strength > 0
    assert policy.start < policy.end
    return None


@quick
@given(ALMOST_POLICIES)
@example({"concepts": ["star"], "presets": "a" * 300})
@example({"concepts": ["star"], "presets": "\0"})
@example({"concepts": ["star"], "presets": "policy.json"})
def test_an_object_is_a_policy_or_an_error_that_names_file_and_field(values):
    error = read(json.dumps(values).encode())
    if error:
        wrong = error.__cause__
        assert isinstance(wrong, RequestError)
        assert named(wrong) == wrong.field
        assert str(wrong) in str(error)
        first = wrong.field.split("[")[0].split(".")[0].split(" ")[0]
        assert wrong.field in values or first in POLICY_FIELDS


FILES = st.one_of(JSON.map(json.dumps).map(str.encode), st.binary(max_size=60), TEXTS.map(str.encode))


@quick
@given(FILES)
def test_any_file_is_a_policy_or_an_error_that_names_it(content):
    read(content)


# ------------------------------------------------------------------------------------------- the presets

NAMES = st.one_of(
    ANY_TEXTS,
    st.sampled_from(
        ["../secret", "..", ".", "", "/etc/passwd", "own/../../secret", "..\\secret", "con", "a.b", "a/b"]
        + ["secret\0", "mine\n", "a" * 65, "a" * 300, "A", "mine"]
    ),
    st.text(alphabet="a.-_/\\", max_size=8),
)  # fmt: skip


@quick
@given(NAMES)
def test_no_name_of_a_preset_leads_out_of_the_folder(name):
    with TemporaryDirectory() as folder:
        root = Path(folder)
        own, shipped = root / "place" / "own", root / "place" / "shipped"
        for place in (root, root / "place"):
            place.mkdir(exist_ok=True)
            (place / "secret.txt").write_text("secret")
        own.mkdir()
        shipped.mkdir()
        (own / "mine.txt").write_text("star")
        presets = Presets(own, shipped)

        def outside() -> dict[Path, str]:
            return {
                path: path.read_text() for path in root.rglob("*") if path.is_file() and path.parent != own
            }

        before = outside()
        for use in (presets.get, presets.file, presets.concepts, presets.delete):
            with suppress(RequestError):
                assert "secret" not in str(use(name))
        with suppress(RequestError):
            saved = presets.save(name, "moon")
            assert saved.name == name
            assert presets.file(name).resolve().parent == own.resolve()
        with pytest.raises(RequestError):
            parse_concepts("@../secret", resolve=presets.resolver())
        assert outside() == before
        assert all(path.is_file() and path.parent == own for path in own.rglob("*"))
