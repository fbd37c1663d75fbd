"""Learning merges: the fast trainer equals the readable one and the definition; bad requests are explained."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.tokenizer import BPETokenizer, TextTypeError, bpe_fast, bpe_plain
from llm_trainer.tokenizer import counting as counting_module
from llm_trainer.tokenizer.counting import count_pretokens
from llm_trainer.tokenizer.pretokenize import SPLIT_PATTERNS, split_pattern
from tests.tokenizer.samples import SCRIPTS, many_strings, standard_library, trained


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("pattern", SPLIT_PATTERNS)
def test_fast_and_readable_twin_learn_and_encode_alike(script: str, pattern: str) -> None:
    texts = [SCRIPTS[script] * 2, *list(SCRIPTS.values())[:3]]
    counts = count_pretokens(texts, split_pattern(pattern))
    readable = bpe_plain.train_merges(counts, 120, min_frequency=1)
    assert bpe_fast.train_merges(counts, 120, min_frequency=1) == readable
    assert len(readable) == 120

    tokenizer = BPETokenizer().train_from_iterator(texts, 257 + 120, pattern=pattern, min_frequency=1)
    assert list(tokenizer.vocabulary.merges) == readable
    for text in SCRIPTS.values():
        assert tokenizer.encode(text) == bpe_plain.encode(text, tokenizer.vocabulary)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text("ab", min_size=1, max_size=14).map(str.encode), st.integers(1, 5), max_size=8))
def test_twins_agree_where_pairs_overlap(word_counts: dict[bytes, int]) -> None:
    # Two letters make runs such as aaaa and abab, where a wrong correction of the counts shows at once.
    fast = bpe_fast.train_merges(word_counts, 40, min_frequency=1)
    assert fast == bpe_plain.train_merges(word_counts, 40, min_frequency=1)
    made = [left + right for left, right in fast]
    assert len(set(made)) == len(made)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=10), min_size=1, max_size=5))
def test_pairs_are_counted_by_the_definition(words: list[str]) -> None:
    text_counts = Counter(tuple(letter.encode() for letter in word) for word in words)
    expected: Counter[tuple[bytes, bytes]] = Counter()
    for word in words:
        for position in range(len(word) - 1):
            expected[word[position].encode(), word[position + 1].encode()] += 1
    assert bpe_plain.count_pairs(text_counts) == expected


def test_first_merges_are_the_most_frequent_pairs_and_ties_go_by_bytes() -> None:
    # "ab" 3 times; "cd" and "ef" twice: the smaller bytes first; "gh" once is below min_frequency.
    merges = bpe_fast.train_merges({b"ef": 2, b"cd": 2, b"ab": 3, b"gh": 1}, 10, min_frequency=2)
    assert merges == [(b"a", b"b"), (b"c", b"d"), (b"e", b"f")]


def test_merges_equal_the_tokenizers_library() -> None:
    """Ties aside (the library breaks them in its own way), both learn tokens of the same frequencies."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    texts = standard_library(300_000)
    ours = BPETokenizer().train_from_iterator(texts, 1000, workers=1)
    theirs = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(split_pattern("gpt4")), "isolated")
    theirs.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    theirs.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=999, initial_alphabet=alphabet, show_progress=False)
    )
    lengths = [
        sum(len(ours.encode(text)) for text in texts),
        sum(len(theirs.encode(text).ids) for text in texts),
    ]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.001)


@pytest.mark.covers("R111")
def test_vocab_size_is_exactly_what_was_asked_for() -> None:
    tokenizer = trained(vocab_size=700)
    assert tokenizer.vocab_size == len(tokenizer) == 700
    assert tokenizer.token_byte_lengths().shape == (700,)
    tokens = [tokenizer.token_bytes(i) for i in range(700) if i not in tokenizer.special_tokens.values()]
    assert len(set(tokens)) == 697


def test_order_of_documents_and_number_of_workers_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting_module, "_PARALLEL_FROM", 3_000)
    monkeypatch.setattr(counting_module, "_BATCH_CHARACTERS", 1_000)
    texts = many_strings()
    shuffled = random.Random(1).sample(texts, len(texts))
    one = BPETokenizer().train_from_iterator(texts, 500, workers=1)
    two = BPETokenizer().train_from_iterator(iter(shuffled), 500, workers=2)
    assert two.fingerprint() == one.fingerprint()


def test_training_replaces_what_was_known_and_failed_training_does_not() -> None:
    tokenizer = BPETokenizer().train_from_iterator(["abab abab"], 259)
    before, ids = tokenizer.fingerprint(), tokenizer.encode("abab")
    with pytest.raises(DataError):
        tokenizer.train_from_iterator(["xyxy xyxy"], 10_000)
    assert (tokenizer.fingerprint(), tokenizer.encode("abab")) == (before, ids)
    tokenizer.train_from_iterator(["xyxy xyxy"], 259)
    assert len(tokenizer.encode("abab")) == 4
    assert len(tokenizer.encode("xyxy")) == 1


def test_vocabulary_larger_than_the_text_allows() -> None:
    with pytest.raises(DataError, match=r"allows a vocabulary of 2\d\d tokens, not 32,000") as caught:
        BPETokenizer().train_from_iterator(["one two one two"], 32_000)
    possible = int(str(caught.value.hint).split("vocab_size=")[1].split(",")[0])
    assert BPETokenizer().train_from_iterator(["one two one two"], possible).vocab_size == possible
    smaller = BPETokenizer().train_from_iterator(["one two one two"], 32_000, allow_smaller=True)
    assert smaller.vocab_size == possible


@pytest.mark.parametrize(
    ("texts", "arguments", "message"),
    [
        ([], {}, "no text"),
        (["", ""], {}, "no text"),
        (["some text"], {"vocab_size": 100}, "need 257"),
        (["some text"], {"pattern": "gpt5"}, "gpt2"),
        (["some text"], {"special_tokens": ["<a>", "<a>"]}, "given twice"),
        (["some text"], {"special_tokens": [""]}, "non-empty"),
        (["some text"], {"workers": 0}, "workers is 0"),
        ([b"bytes"], {}, "text 0 of the training texts is bytes"),
    ],
)
def test_wrong_requests_are_explained(texts: list[str], arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BPETokenizer().train_from_iterator(texts, **arguments)  # type: ignore[arg-type]


def test_text_that_is_not_a_string_is_also_a_type_error() -> None:
    with pytest.raises(TextTypeError, match="must be a str, not bytes"):
        BPETokenizer().encode(b"abc")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        BPETokenizer().encode(None)  # type: ignore[arg-type]


def test_a_word_of_a_megabyte_does_not_stall_training() -> None:
    letters = "".join(random.Random(0).choices("acgt", k=1_000_000))
    start = time.perf_counter()
    BPETokenizer().train_from_iterator([letters], 400, workers=1)
    assert time.perf_counter() - start < 10


def test_progress_reaches_the_end() -> None:
    calls: list[tuple[int, int]] = []
    BPETokenizer().train_from_iterator(
        SCRIPTS.values(), 800, min_frequency=1, progress=lambda done, total: calls.append((done, total))
    )
    assert calls[-1] == (543, 543)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.slow
@pytest.mark.covers("R113")
def test_32k_on_ten_megabytes_takes_less_than_a_minute() -> None:
    texts = standard_library(10_000_000)
    start = time.perf_counter()
    tokenizer = BPETokenizer().train_from_iterator(texts, 32_000)
    seconds = time.perf_counter() - start
    assert tokenizer.vocab_size == 32_000
    assert seconds < 60


_TRAIN_ON_A_STREAM = """
import resource, sys
from llm_trainer.tokenizer import BPETokenizer
words = ["".join(chr(97 + n * 7919 // 26**place % 26) for place in range(5)) for n in range(20_000)]
def texts(total):
    turn = 0
    while total > 0:
        turn = (turn + 1) % len(words)
        text = " ".join(words[turn:] + words[:turn])
        total -= len(text)
        yield text
BPETokenizer().train_from_iterator(texts(10_000_000), 2_000, workers=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
BPETokenizer().train_from_iterator(texts(int(sys.argv[1])), 2_000, workers=int(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.covers("R125")
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_does_not_follow_the_amount_of_text(workers: int) -> None:
    size = 100_000_000
    command = [sys.executable, "-c", _TRAIN_ON_A_STREAM, str(size), str(workers)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(output) * unit < 30_000_000 < size
