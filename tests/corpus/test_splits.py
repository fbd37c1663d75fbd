"""Split expressions as in the ``datasets`` library, and a hold-out that does not leak."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import DataError
from llm_trainer.corpus import Document, open_dataset
from llm_trainer.corpus.splits import cut_document, parse_split, plan_hold_out


def texts(handle) -> list[str]:
    return [document.text for document in handle]


edges = st.one_of(st.none(), st.integers(-100, 100))


@pytest.mark.covers("R181")
@settings(max_examples=200, deadline=None)
@given(start=edges, stop=edges, percent=st.booleans(), count=st.integers(100, 1000))
def test_slices_select_what_the_datasets_library_selects(start, stop, percent, count):
    library = pytest.importorskip("datasets")
    unit = "%" if percent else ""
    inside = ":".join("" if edge is None else f"{edge}{unit}" for edge in (start, stop))
    expression = f"train[{inside}]"
    [part] = parse_split(expression)
    [expected] = library.ReadInstruction.from_spec(expression).to_absolute({"train": count})
    wanted = list(range(count))[expected.from_ : expected.to]
    assert list(range(count))[slice(*part.bounds(count))] == wanted


@pytest.mark.covers("R181")
@settings(max_examples=100, deadline=None)
@given(start=edges, stop=edges, count=st.integers(1, 150))
def test_slices_in_documents_are_python_slices(start, stop, count):
    inside = ":".join("" if edge is None else str(edge) for edge in (start, stop))
    records = [f"text {number}" for number in range(count)]
    handle = open_dataset(records, split=f"train[{inside}]", validation_fraction=0)
    assert texts(handle) == records[start:stop]


@pytest.mark.covers("R181")
def test_sums_and_percentages():
    data = {"train": [f"a{i}" for i in range(200)], "test": ["t0", "t1"], "validation": ["v0"]}
    assert texts(open_dataset(data, split="train[:1%]")) == ["a0", "a1"]
    assert texts(open_dataset(data, split="train[:1%]+test")) == ["a0", "a1", "t0", "t1"]
    assert texts(open_dataset(data, split="train[10:12]+valid")) == ["a10", "a11", "v0"]
    assert len(texts(open_dataset(data, split="all"))) == 203


@pytest.mark.parametrize(
    "bad", ["", "train[", "train[1]", "train[:1.5%]", "train[:%]", "train[10:50%]", "train[:200%]"]
)
def test_a_split_that_cannot_be_read_is_explained(bad):
    with pytest.raises(DataError, match="split"):
        parse_split(bad)


def test_an_unknown_split_lists_those_there_are():
    with pytest.raises(DataError, match="no split 'tset'; it has train, validation, all"):
        open_dataset(["a", "b"], split="tset")


@pytest.mark.covers("R205")
@settings(max_examples=100, deadline=None)
@given(
    records=st.lists(st.sampled_from([f"text {number}" for number in range(60)]), min_size=2, max_size=200).filter(
        lambda records: len(set(records)) > 1
    ),
    fraction=st.sampled_from([0.01, 0.05, 0.3, 0.9]),
)
def test_the_hold_out_loses_nothing_leaks_nothing_and_leaves_no_side_empty(records, fraction):
    training = texts(open_dataset(records, validation_fraction=fraction))
    validation = texts(open_dataset(records, split="validation", validation_fraction=fraction))
    assert sorted(training + validation) == sorted(records)
    assert not set(training) & set(validation)
    assert training and validation


@pytest.mark.covers("R205")
def test_equal_texts_land_on_the_same_side_whatever_surrounds_them():
    records = [f"text {number}" for number in range(2000)]
    validation = set(texts(open_dataset(records, split="validation")))
    assert 60 < len(validation) < 140  # 5 % of 2000
    shuffled = [*reversed(records), *(f"new {number}" for number in range(500)), *(f"  {text}\n" for text in records)]
    again = {text.strip() for text in texts(open_dataset(shuffled, split="validation"))}
    assert {text for text in again if text.startswith("text")} == validation
    assert not again & {text.strip() for text in texts(open_dataset(shuffled))}


@pytest.mark.covers("R205")
def test_slices_of_train_never_meet_the_validation_split():
    records = [f"text {number}" for number in range(400)]
    validation = set(texts(open_dataset(records, split="validation")))
    for split in ("train[:50%]", "train[50%:]", "train[:100]", "train[-100:]"):
        assert not set(texts(open_dataset(records, split=split))) & validation
    assert len(texts(open_dataset(records, split="train[:100]"))) == 100
    halves = texts(open_dataset(records, split="train[:50%]+train[50%:]"))
    assert halves == texts(open_dataset(records))


def test_finding_the_rule_reads_only_the_beginning_of_a_large_source():
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield Document(f"text {read}", str(read))

    plan_hold_out(endless(), 0.05)
    assert read < 500


def test_one_long_text_is_cut_at_a_line_and_its_end_is_held_out():
    lines = [f"line number {number}\n" for number in range(1000)]
    book = "".join(lines)
    handle = open_dataset([book])
    training, validation = texts(handle), texts(handle.validation())
    assert training[0] + validation[0] == book
    assert training[0].endswith("\n")
    assert 0.04 < len(validation[0]) / len(book) < 0.06


def test_a_text_too_short_to_cut_says_what_to_do():
    with pytest.raises(DataError, match="validation_fraction=0"):
        cut_document(Document("x", "a"), 0.05)
    assert texts(open_dataset(["x"], validation_fraction=0)) == ["x"]


def test_without_a_hold_out_there_is_no_validation_split():
    with pytest.raises(DataError, match="set validation_fraction above 0"):
        open_dataset(["a", "b"], validation_fraction=0).validation()
