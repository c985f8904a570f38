import pytest
from hypothesis import given
from hypothesis import strategies as st

from eiup.concepts import MAX_CONCEPTS, Concept, format_concepts, make_concept, parse_concepts
from eiup.errors import RequestError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nudity", [Concept("nudity")]),
        ("nudity, watermark:1.5", [Concept("nudity"), Concept("watermark", 1.5)]),
        ("nudity\nVan Gogh style", [Concept("nudity"), Concept("Van Gogh style")]),
        ("# what to leave out\nblood # and gore\n\n", [Concept("blood")]),
        ("  spaced   out  : 0.5 ", [Concept("spaced out", 0.5)]),
        ("(star:1.2)", [Concept("(star:1.2)")]),
        ("(star:1.2):2", [Concept("(star:1.2)", 2.0)]),
        (r"salt\, pepper:2", [Concept("salt, pepper", 2.0)]),
        (r"C\#", [Concept("C#")]),
        (r"4\:3", [Concept("4:3")]),
        ("star, star", [Concept("star")]),
        (" ,\n, ", []),
        ("", []),
    ],
)
def test_syntax(text, expected):
    assert parse_concepts(text) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("star:much", "much"),
        ("star:", "after the colon"),
        ("star:-1", "-1"),
        ("star:11", "0 to 10"),
        ("star:nan", "nan"),
        ("star:inf", "inf"),
        (":2", "not empty"),
        ("star, star:2", "each concept once"),
        ("x" * 501, "500 characters"),
        ("star \ud800", "surrogates"),
    ],
)
def test_what_is_not_in_the_syntax_is_an_error_that_says_so(text, named):
    with pytest.raises(RequestError, match="concepts") as caught:
        parse_concepts(text)
    assert named in str(caught.value)


def test_a_long_run_of_spaces_or_colons_is_read_in_no_time():
    assert parse_concepts("a" + " " * 200_000 + "b") == [Concept("a b")]
    with pytest.raises(RequestError, match="500 characters"):
        parse_concepts("a:" * 100_000 + "b:1")


def test_too_many_concepts():
    with pytest.raises(RequestError, match=f"10000 concepts.*at most {MAX_CONCEPTS}"):
        parse_concepts("\n".join(f"concept {i}" for i in range(10_000)))


texts = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=40).filter(
    lambda t: t.strip() and "\\" not in t and len(" ".join(t.split()).splitlines()) == 1
)


@given(
    st.lists(st.tuples(texts, st.floats(0, 10)), max_size=8, unique_by=lambda pair: " ".join(pair[0].split()))
)
def test_formatted_concepts_are_read_back(pairs):
    concepts = [make_concept(text, weight) for text, weight in pairs]
    assert parse_concepts(format_concepts(concepts)) == concepts
