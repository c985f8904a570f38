import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from demo.host import CHECKPOINT
from eiup.concepts import MAX_CONCEPTS, Concept, PresetReference, format_concepts, parse_concepts
from eiup.errors import RequestError
from eiup.presets import (
    MAX_BYTES,
    SHIPPED,
    Presets,
    ShippedPresetError,
    UnknownPresetError,
    read_preset,
)
from eiup.request import ErasureRequest, concept_entries

SHIPPED_NAMES = {
    "hate", "harassment", "violence", "self-harm", "sexual", "shocking", "illegal-activity",
    "nsfw", "watermarks", "text", "artist-styles",
}  # fmt: skip


@pytest.fixture
def presets(tmp_path):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "sky.txt").write_text("# EIUP preset 1\n# What shines.\n\nstar\nmoon:0.5\n")
    return Presets(tmp_path / "data" / "presets", shipped)


def texts(concepts):
    return {concept.text: concept.weight for concept in concepts}


# ---------------------------------------------------------------------------------------- shipped


def test_the_shipped_presets():
    assert set(Presets(Path("nowhere")).names()) == SHIPPED_NAMES


@pytest.mark.parametrize("name", sorted(SHIPPED_NAMES))
def test_a_shipped_preset_is_small_described_and_fits_the_text_encoder(name):
    preset = Presets(Path("nowhere")).get(name)
    assert preset.shipped
    assert preset.description
    assert (SHIPPED / f"{name}.txt").read_text(encoding="utf-8") == preset.file_text
    concepts = Presets(Path("nowhere")).concepts(name)
    assert 5 <= len(concepts) <= 12
    # Toyland's vocabulary has few words: it needs more tokens than CLIP's.
    tokenizer = CLIPTokenizer.from_pretrained(CHECKPOINT.parent / "toyland-clip")
    for concept in concepts:
        assert 1 <= len(tokenizer.tokenize(concept.text)) <= 75


# ----------------------------------------------------------------------------------------- syntax


def test_a_preset_stands_for_its_concepts(presets):
    resolve = presets.resolver()
    assert parse_concepts("@sky", resolve=resolve) == [Concept("star"), Concept("moon", 0.5)]
    assert texts(parse_concepts("stamp:2, @sky : 1.1 # both", resolve=resolve)) == {
        "stamp": 2.0,
        "star": 1.1,
        "moon": 0.55,
    }


@pytest.mark.parametrize(
    "concepts",
    [
        "stamp\n@sky:2",
        ["stamp", "@sky:2"],
        ["stamp, @sky:2"],
        ["stamp", {"concept": "@sky", "weight": 2}],
        ["stamp", {"concept": " @sky ", "weight": 2.0}],
    ],
)
def test_every_way_to_say_it(presets, concepts):
    resolve = presets.resolver()
    expected = (Concept("stamp"), Concept("star", 2.0), Concept("moon", 1.0))
    assert ErasureRequest.from_args([{"concepts": concepts}], resolve).concepts == expected
    assert ErasureRequest.from_args([True, concepts], resolve).concepts == expected


@pytest.mark.parametrize(
    ("concepts", "expected"),
    [
        (r"\@sky", "@sky"),
        ([r"\@sky"], "@sky"),
        ([{"concept": r"\@sky"}], "@sky"),
        ("sky@night", "sky@night"),
        ("(@sky:1.2)", "(@sky:1.2)"),
        ([{"concept": "me@home"}], "me@home"),
    ],
)
def test_a_literal_at_sign(presets, concepts, expected):
    request = ErasureRequest.from_args([{"concepts": concepts}], presets.resolver())
    assert request.concepts == (Concept(expected),)


def test_the_larger_weight_counts_unless_both_were_typed(presets):
    presets.save("night", "moon:2, star:0.1")
    resolve = presets.resolver()
    assert texts(parse_concepts("@sky, @night", resolve=resolve)) == {"star": 1.0, "moon": 2.0}
    assert texts(parse_concepts("@night, @sky", resolve=resolve)) == {"moon": 2.0, "star": 1.0}
    assert texts(parse_concepts("star:3, @sky", resolve=resolve)) == {"star": 3.0, "moon": 0.5}
    assert texts(parse_concepts("@sky, star:0.5", resolve=resolve)) == {"star": 1.0, "moon": 0.5}
    assert texts(parse_concepts("@sky, @sky:2", resolve=resolve)) == {"star": 2.0, "moon": 1.0}
    with pytest.raises(RequestError, match="each concept once"):
        parse_concepts("star:3, @sky, star:2", resolve=resolve)


@pytest.mark.parametrize(
    ("concepts", "named"),
    [
        ("@clouds", ["concepts", "'@clouds'", "sky"]),
        (["star", "@clouds"], ["concepts[1]", "'@clouds'", "sky"]),
        ("@../sky", ["concepts", "'@../sky'", "sky"]),
        ("@Sky", ["concepts", "'@Sky'", "sky"]),
        ("@", ["concepts", "'@'", "sky"]),
        ("@sky:11", ["concepts", "weight of '@sky'", "11", "0 to 10"]),
        ("@sky:much", ["concepts", "much"]),
        ([{"concept": "@sky", "weight": "2"}], ["concepts[0]", "weight of '@sky'", "'2'", "0 to 10"]),
        ("@heavy:4", ["@heavy:4", "weight of 'stone'", "12", "0 to 10"]),
    ],
)
def test_what_is_wrong_is_named(presets, concepts, named):
    presets.save("heavy", "stone:3")
    with pytest.raises(RequestError) as caught:
        ErasureRequest.from_args([{"concepts": concepts}], presets.resolver())
    assert caught.value.status_code == 422
    for part in named:
        assert part in str(caught.value)


def test_without_presets_a_reference_is_an_error_that_says_how_to_write_the_text():
    for read in (parse_concepts, lambda text: ErasureRequest(True, text)):
        with pytest.raises(RequestError, match=r"concepts is '@sky'.*no presets.*\\@sky"):
            read("@sky")


def test_the_number_of_concepts_counts_after_expansion(presets):
    presets.save("many", "\n".join(f"thing {n}" for n in range(MAX_CONCEPTS)))
    assert len(parse_concepts("@many", resolve=presets.resolver())) == MAX_CONCEPTS
    with pytest.raises(RequestError, match=f"{MAX_CONCEPTS + 2} concepts.*at most"):
        parse_concepts("@many, @sky", resolve=presets.resolver())


# --------------------------------------------------------------------------------------- infotext


def test_the_infotext_has_the_concepts_and_is_read_when_the_preset_is_gone(presets):
    made = ErasureRequest.from_args([{"concepts": "@sky"}], presets.resolver())
    assert "sky" not in made.to_infotext()
    assert ErasureRequest.from_infotext(made.to_infotext()) == made


@pytest.mark.parametrize("entry", ['"@sky"', '{"concept":"@sky"}', '{"concept":"@sky","weight":1.0}'])
def test_a_text_that_looks_like_a_preset_is_literal_in_infotext(presets, entry):
    request = ErasureRequest.from_infotext(f'{{"v":3,"concepts":[{entry}]}}')
    assert request.concepts == (Concept("@sky"),)
    # So it comes back through the page, too.
    fields = request.to_fields()
    assert fields["concepts"] == r"\@sky"
    assert ErasureRequest.from_fields(fields, presets.resolver()).concepts == request.concepts


# ---------------------------------------------------------------------------------------- nesting


def test_presets_in_presets(presets):
    presets.save("night", "owl, @sky:2")
    presets.save("all", "@night:0.5, stamp")
    assert texts(presets.concepts("all")) == {"owl": 0.5, "star": 1.0, "moon": 0.5, "stamp": 1.0}


def test_a_circle_is_an_error(presets):
    presets.own.mkdir(parents=True)
    (presets.own / "one.txt").write_text("star\n@two")
    (presets.own / "two.txt").write_text("moon\n@one")
    (presets.own / "self.txt").write_text("@self")
    with pytest.raises(RequestError, match="@one > @two > @one"):
        parse_concepts("@one", resolve=presets.resolver())
    with pytest.raises(RequestError, match="@self > @self"):
        presets.concepts("self")


def test_a_circle_cannot_be_saved(presets):
    presets.save("one", "star")
    presets.save("two", "@one")
    with pytest.raises(RequestError, match="@one > @two > @one"):
        presets.save("one", "@two")
    assert presets.get("one").text == "star"


def test_presets_nested_too_deep_or_very_often_end(presets):
    presets.own.mkdir(parents=True)
    (presets.own / "p0.txt").write_text("star")
    for n in range(1, 2000):
        (presets.own / f"p{n}.txt").write_text(f"@p{n - 1}, " * 50)
    assert texts(presets.concepts("p5")) == {"star": 1.0}
    with pytest.raises(RequestError, match="8 deep"):
        presets.concepts("p1999")


# ------------------------------------------------------------------------------------------ files


def test_save_get_delete(presets):
    saved = presets.save("mine", "star:2\n# a note\nmoon", "Two things.\nNot more.")
    assert saved == Presets(presets.own, presets.shipped).get("mine")
    assert (saved.description, saved.text) == ("Two things.\nNot more.", "star:2\n# a note\nmoon")
    assert presets.names() == ["mine", "sky"]
    assert (presets.own / "mine.txt").read_text() == (
        "# EIUP preset 1\n# Two things.\n# Not more.\n\nstar:2\n# a note\nmoon\n"
    )
    presets.delete("mine")
    assert presets.names() == ["sky"]
    with pytest.raises(UnknownPresetError, match="mine.*sky"):
        presets.get("mine")
    with pytest.raises(UnknownPresetError, match="mine.*sky"):
        presets.delete("mine")


def test_the_own_preset_counts_until_it_is_deleted(presets):
    presets.save("sky", "cloud")
    assert not presets.get("sky").shipped
    assert texts(presets.concepts("sky")) == {"cloud": 1.0}
    presets.delete("sky")
    assert presets.get("sky").shipped
    with pytest.raises(ShippedPresetError, match="sky.*your own"):
        presets.delete("sky")
    assert texts(presets.concepts("sky")) == {"star": 1.0, "moon": 0.5}


OLD_FILE = (
    "\ufeff# EIUP preset 1\r\n# Marks.\r\n#\r\n# By hand.\r\n\r\nwatermark:1.5, logo # both\r\nC\\#\r\n"
)


def test_a_file_of_version_1_is_read(presets):
    """This file stays as it is, whatever later versions write."""
    presets.own.mkdir(parents=True)
    (presets.own / "marks.txt").write_bytes(OLD_FILE.encode())
    assert presets.get("marks").description == "Marks.\n\nBy hand."
    assert texts(presets.concepts("marks")) == {"watermark": 1.5, "logo": 1.0, "C#": 1.0}


def test_a_file_without_a_header_is_read():
    preset = read_preset("mine", "# Mine.\nstar\n# not a description\nmoon")
    assert (preset.description, preset.text) == ("Mine.", "star\n# not a description\nmoon")


def test_a_file_of_a_later_version_is_an_error():
    with pytest.raises(RequestError, match="version 2.*Update"):
        read_preset("mine", "# EIUP preset 2\nstar")


lines = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), max_size=30).map(str.strip)
concept_texts = st.text(
    st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp"), blacklist_characters="\\"),
    min_size=1,
    max_size=30,
).filter(lambda t: t.split())
concept_lists = st.lists(
    st.builds(lambda t, w: Concept(" ".join(t.split()), w), concept_texts, st.floats(0, 10)),
    min_size=1,
    max_size=8,
    unique_by=lambda concept: concept.text,
)


@given(concept_lists, st.lists(lines, max_size=4))
def test_what_was_written_is_read_back(concepts, description):
    text, described = format_concepts(concepts), "\n".join(description).strip()
    written = read_preset("mine", f"# EIUP preset 1\n\n{text}")
    assert parse_concepts(written.text) == concepts
    again = read_preset("mine", written.file_text)
    assert again == written
    with_description = type(written)("mine", described, written.text, False)
    assert read_preset("mine", with_description.file_text) == with_description


@given(concept_lists)
def test_entries_are_written_so_that_they_are_read_back(concepts):
    entries = [*concepts, PresetReference("sky", 1.5), PresetReference("night")]
    assert concept_entries("\n".join(map(str, entries))) == entries
    assert concept_entries([str(entry) for entry in entries]) == entries


BAD_NAMES = [
    "", ".", "..", "../sky", "a/b", "a\\b", "/etc/passwd", "sky.txt", "Sky", "sky\n", "sky\0", "\u0455ky",
    "a" * 65, "con", "lpt1", "~", "a b", None, 7,
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_no_name_leaves_the_folder(presets, name):
    presets.save("mine", "star")
    (presets.own.parent / "outside.txt").write_text("secret")
    before = sorted(presets.own.parent.rglob("*"))
    with pytest.raises(RequestError, match="lower-case"):
        presets.save(name, "star")
    with pytest.raises(RequestError, match="lower-case"):
        presets.delete(name)
    with pytest.raises(UnknownPresetError, match="mine, sky"):
        presets.get(name)
    assert sorted(presets.own.parent.rglob("*")) == before


@given(st.text(min_size=1, max_size=70))
def test_any_other_text_is_no_name(tmp_path_factory, name):
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-_")
    if not set(name) <= allowed or len(name) > 64:
        presets = Presets(tmp_path_factory.getbasetemp() / "none")
        with pytest.raises(RequestError):
            presets.save(name, "star")
        assert not presets.own.exists()


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own there")
def test_links_are_not_followed(presets, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    presets.own.mkdir(parents=True)
    (presets.own / "linked.txt").symlink_to(secret)
    os.mkfifo(presets.own / "pipe.txt")
    (presets.own / "folder.txt").mkdir()
    for name in ("linked", "pipe", "folder"):
        with pytest.raises(RequestError, match="plain files"):
            parse_concepts(f"@{name}", resolve=presets.resolver())
    presets.save("linked", "star")
    assert secret.read_text() == "secret"
    assert texts(presets.concepts("linked")) == {"star": 1.0}
    presets.own.joinpath("again.txt").symlink_to(secret)
    presets.delete("again")
    assert secret.exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"star\xff", "UTF-8"),
        (b"# nothing\n", "at least one concept"),
        (b"", "at least one concept"),
        (b"star:much", "much"),
        (b"star, star:2", "each concept once"),
        (b"x" * (MAX_BYTES + 1), f"{MAX_BYTES} bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_that_names_it(presets, content, named):
    presets.own.mkdir(parents=True)
    (presets.own / "broken.txt").write_bytes(content)
    with pytest.raises(RequestError, match="broken") as caught:
        parse_concepts("@broken", resolve=presets.resolver())
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("text", "description", "named"),
    [
        ("", None, "at least one concept"),
        ("# only a comment", None, "at least one concept"),
        ("star:much", None, "much"),
        ("@nowhere", None, "'@nowhere'"),
        ("star \ud800", None, "surrogates"),
        ("star # \ud800", None, "surrogates"),
        (7, None, "7"),
        ("star", 7, "7"),
        ("star", "d" * MAX_BYTES, "bytes"),
        ("# EIUP preset 9\nstar", None, "version 9"),
    ],
)
def test_what_could_not_be_used_is_not_saved(presets, text, description, named):
    presets.save("mine", "star")
    with pytest.raises(RequestError) as caught:
        presets.save("mine", text, description)
    assert named in str(caught.value)
    assert presets.get("mine").text == "star"


def test_what_cannot_be_written_is_said(presets):
    presets.own.parent.write_text("where the folder would be")
    with pytest.raises(RequestError, match="preset is 'mine'; allowed: a file that can be written"):
        presets.save("mine", "star")


def test_files_of_other_names_are_told(presets):
    presets.save("mine", "star")
    (presets.own / "My Preset.txt").write_text("star")
    (presets.own / "notes.md").write_text("star")
    assert presets.names() == ["mine", "sky"]
    assert presets.misnamed() == ["My Preset.txt"]
