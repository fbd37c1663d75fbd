"""Words: the same as spaCy's English tokenizer makes, in any batch, in linear time."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.corpus import words as module
from llm_trainer.corpus.word_rules import split_run
from llm_trainer.corpus.words import split_words, tabulate

# Run -> what spaCy 3.8's blank English tokenizer makes of it, joined with spaces.
FROZEN = {
    "Hello,": "Hello ,",
    "don't": "do n't",
    "DON'T": "DON'T",
    "can’t": "ca n’t",
    "cannot": "can not",
    "I'm": "I 'm",
    "its": "its",
    "it's": "it 's",
    "she'd've": "she 'd 've",
    "John's": "John 's",
    "dogs'": "dogs '",
    "Mr.": "Mr.",
    "e.g.": "e.g.",
    "U.S.": "U.S.",
    "end.": "end .",
    "I.": "I.",
    "NASA.": "NASA .",
    "wait...": "wait ...",
    "(see": "( see",
    '"Why?"': '" Why ? "',
    "self-made": "self - made",
    "1990-95": "1990 - 95",
    "3,5": "3,5",
    "one,two": "one , two",
    "2.Next": "2.Next",
    "end.Next": "end . Next",
    "and/or": "and/or",
    "he/she": "he / she",
    "5km": "5 km",
    "10%": "10 %",
    "$10": "$ 10",
    "US$5": "US$ 5",
    "C++": "C++",
    "os.path": "os.path",
    "http://a.example/b-c:d": "http://a.example/b-c:d",
    "you@example.com,": "you@example.com ,",
    ":-)": ":-)",
    "f(x):": "f(x ):",
    "write('''": "write ( '' '",
    "__init__": "_ _ init _ _",
    "a=b": "a = b",
    "x<y": "x < y",
    "[1]": "[ 1 ]",
    "10am": "10 am",
    "20°C.": "20 ° C .",
    "•": "•",
    "—": "—",
    "now—then": "now — then",
    "™": "™",
    "привет,": "привет ,",
    "中文。": "中文 。",
}


@pytest.mark.parametrize("run", FROZEN)
def test_words_of_a_run(run: str) -> None:
    assert split_run(run) == FROZEN[run].split()


def test_words_are_those_of_spacy_where_it_is_installed() -> None:
    spacy = pytest.importorskip("spacy")
    tokenizer = spacy.blank("en").tokenizer
    for run in FROZEN:
        assert split_run(run) == [token.text for token in tokenizer(run)], run


@given(st.text(max_size=300))
def test_no_character_is_lost_or_invented(text: str) -> None:
    assert "".join(split_words(text)) == "".join(text.split())
    assert all(word and not word.isspace() for word in split_words(text))


@given(st.lists(st.text(alphabet="ab don't.,() \n", max_size=60), max_size=6))
def test_a_table_holds_the_words_of_every_text(texts: list[str]) -> None:
    table = tabulate(texts)
    for index, text in enumerate(texts):
        assert [table.vocabulary[number] for number in table.of(index)] == split_words(text)
    assert table.counts.tolist() == [len(split_words(text)) for text in texts]
    assert len(set(table.vocabulary)) == len(table.vocabulary) == len(np.unique(table.ids))


def test_a_table_does_not_depend_on_what_was_read_before(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["It's here, isn't it? (Yes.)", "No; it is self-made."]
    warm = tabulate(texts), tabulate(texts)
    monkeypatch.setattr(module, "_words_of_run", {})
    monkeypatch.setattr(module, "_REMEMBERED", 2)
    cold = tabulate(texts)
    for table in warm:
        assert table.vocabulary == cold.vocabulary
        assert np.array_equal(table.ids, cold.ids)


def test_word_hashes_are_fixed() -> None:
    # What an earlier corpus was deduplicated by must find its copies in a later one.
    assert [hex(value) for value in tabulate(["the Corpus"]).hashes.tolist()] == [
        "0xcb1283631cf33d7d",
        "0xb554912a0f91ba27",
    ]


@pytest.mark.parametrize("run", ["(", ".", "a.", "a-", "'", "x@", "9%", "http://a", "1,", "☃", "a,b", "):", "(a"])
def test_long_runs_take_linear_time(run: str) -> None:
    def seconds(copies: int) -> float:
        text = run * copies
        begin = time.process_time()
        split_run(text)
        return time.process_time() - begin

    split_run(run)
    assert seconds(40_000) < max(20 * min(seconds(4_000) for _ in range(3)), 0.5)


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_totals_are_sums_of_each_text(seed: int) -> None:
    chooser = random.Random(seed)
    texts = [" ".join(chooser.choices("abc", k=chooser.randrange(5))) for _ in range(4)]
    table = tabulate(texts)
    values = np.arange(len(table.ids), dtype=np.int64)
    expected = [int(values[a:b].sum()) for a, b in zip(table.starts, table.starts[1:], strict=False)]
    assert table.totals(values).tolist() == expected
