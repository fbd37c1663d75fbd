"""Learning merges: the fast trainer equals the readable one and the definition; bad requests are explained."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.config.tokenizer import TokenizerConfig
from llm_trainer.tokenizer import BPETokenizer, TextTypeError, bpe_fast, bpe_merging, bpe_plain
from llm_trainer.tokenizer import counting as counting_module
from llm_trainer.tokenizer.counting import count_pretokens
from llm_trainer.tokenizer.kinds import KINDS, tokenizer_class, train_configured
from llm_trainer.tokenizer.pretokenize import SPLIT_PATTERNS, Digits, split_pattern
from llm_trainer.tokenizer.progress import TrainingEcho
from llm_trainer.tokenizer.vocabulary import printable
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


@pytest.mark.parametrize("sweep", [1, 2, 64])
@pytest.mark.parametrize("letters", ["ab", "abcd", "abcdefgh"])
def test_twins_agree_where_pairs_overlap(letters: str, sweep: int) -> None:
    # Two letters make runs such as aaaa and abab; eight make many pairs of equal counts, merged in one sweep.
    word = st.text(letters, min_size=1, max_size=14).map(str.encode)

    @settings(max_examples=100, deadline=None)
    @given(st.dictionaries(word, st.integers(1, 5), max_size=12))
    def check(word_counts: dict[bytes, int]) -> None:
        fast = bpe_fast.train_merges(word_counts, 40, min_frequency=1)
        assert fast == bpe_plain.train_merges(word_counts, 40, min_frequency=1)
        made = [left + right for left, right in fast]
        assert len(set(made)) == len(made)

    with sweeps_of(sweep):
        check()


@contextmanager
def sweeps_of(pairs: int) -> Iterator[None]:
    """Let the first sweep take as many pairs as otherwise only later ones do."""
    with (
        mock.patch.object(bpe_merging, "_LARGEST_SWEEP", pairs),
        mock.patch.object(bpe_merging, "_FIRST_SWEEP", pairs),
    ):
        yield


@pytest.mark.parametrize("sweep", [3, 64, 1000])
def test_the_size_of_sweeps_changes_nothing(sweep: int) -> None:
    counts = count_pretokens([*standard_library(200_000), *many_strings()], split_pattern("gpt4"))
    usual = bpe_fast.train_merges(counts, 3_000)
    assert len(usual) == 3_000
    with sweeps_of(sweep):
        assert bpe_fast.train_merges(counts, 3_000) == usual


def test_ninety_languages_give_the_merges_of_the_readable_twin(shared_data: Path) -> None:
    with zipfile.ZipFile(shared_data / "nltk_corpora" / "udhr.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith("-UTF8"))
        texts = [archive.read(name).decode("utf-8", errors="replace")[:400] for name in names]
    assert len(texts) > 90
    counts = count_pretokens(texts, split_pattern("gpt4"))
    merges = bpe_fast.train_merges(counts, 60)
    assert merges == bpe_plain.train_merges(counts, 60)
    tokenizer = BPETokenizer().train_from_iterator(texts, 1_500)
    for text in texts:
        assert tokenizer.encode(text) == bpe_plain.encode(text, tokenizer.vocabulary)
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("digits", [1, 2, 3, "none"])
@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_a_token_has_no_more_digits_than_the_rule_allows(pattern: str, digits: Digits) -> None:
    texts = ["year 2024 2024 2025 12345 12345 ٢٠٢٤ ٢٠٢٤ ½½½½½ a1b22c333d4444 " * 20]
    tokenizer = BPETokenizer().train_from_iterator(texts, 330, pattern=pattern, digits=digits, allow_smaller=True)
    merges = bpe_plain.train_merges(count_pretokens(texts, split_pattern(pattern, digits)), 330)
    assert list(tokenizer.vocabulary.merges) == merges[: len(tokenizer.vocabulary.merges)]
    for text in [*texts, "2024", " 12345", "٢٠٢٤"]:
        assert tokenizer.encode(text) == bpe_plain.encode(text, tokenizer.vocabulary)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    longest = max(
        sum(character.isnumeric() for character in token.decode("utf-8", errors="ignore"))
        for token in tokenizer.vocabulary.tokens
    )
    assert longest == (5 if digits == "none" else digits)


def test_a_run_can_choose_the_digits() -> None:
    texts = ["2024 2024 2025 12345 12345 " * 20]
    settings = TokenizerConfig.from_dict({"vocab_size": 300, "digits": 1})
    tokenizer = train_configured(settings, texts, allow_smaller=True)
    assert tokenizer.encode("2024") == [tokenizer.encode(digit)[0] for digit in "2024"]
    with pytest.raises(UserError, match="digits"):
        TokenizerConfig.from_dict({"vocab_size": 300, "digits": 4})


def test_without_a_rule_for_digits_the_pattern_has_its_own() -> None:
    assert split_pattern("gpt4") == split_pattern("gpt4", 2)
    assert split_pattern("gpt4-digits3") == split_pattern("gpt4", 3)
    assert split_pattern("gpt2") == split_pattern("gpt2", "none")
    with pytest.raises(UserError, match="digits is 4"):
        split_pattern("gpt4", 4)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=10), min_size=1, max_size=5))
def test_pairs_are_counted_by_the_definition(words: list[str]) -> None:
    text_counts = Counter(tuple(letter.encode() for letter in word) for word in words)
    expected: Counter[tuple[bytes, bytes]] = Counter()
    for word in words:
        for position in range(len(word) - 1):
            expected[word[position].encode(), word[position + 1].encode()] += 1
    assert bpe_plain.count_pairs(text_counts) == expected


@pytest.mark.parametrize("train", [bpe_fast.train_merges, bpe_plain.train_merges])
def test_the_most_frequent_pair_comes_first_and_ties_go_by_id(train: Any) -> None:
    # "ab" 3 times; "cd" and "ef" twice: the smaller ids first; "gh" once is below min_frequency.
    merges = train({b"ef": 2, b"cd": 2, b"ab": 3, b"gh": 1}, 10, min_frequency=2)
    assert merges == [(b"a", b"b"), (b"c", b"d"), (b"e", b"f")]
    # Ids, not bytes: a space has id 220, behind the letters; and "xy" is younger than all bytes, so it comes last.
    merges = train({b" c": 2, b"~c": 2, b"xy": 9, b"xyz": 2, b"wz": 2}, 10, min_frequency=2)
    assert merges == [(b"x", b"y"), (b"w", b"z"), (b"~", b"c"), (b" ", b"c"), (b"xy", b"z")]


def test_merges_equal_the_tokenizers_library() -> None:
    """One by one and in order: counts, overlaps, ties and the words that are counted are all the same."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    texts = [*standard_library(300_000), *SCRIPTS.values(), "=" * 3_000 + "\n", "\n" * 5_000]
    ours = BPETokenizer().train_from_iterator(texts, 4000, workers=1)
    theirs = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(split_pattern("gpt4")), "isolated")
    theirs.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=3999, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    theirs.train_from_iterator(texts, trainer)
    merges = json.loads(theirs.to_str())["model"]["merges"]
    assert [[printable(left), printable(right)] for left, right in ours.vocabulary.merges] == merges
    assert all(ours.encode(text) == theirs.encode(text).ids for text in texts)


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
    with pytest.raises(DataError, match=r"allows a vocabulary of 2\d\d tokens \(\d merges\), not 32,000") as caught:
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


@pytest.mark.parametrize("workers", [1, 2])
def test_reading_reports_how_far_it_is(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(counting_module, "_PARALLEL_FROM", 3_000)
    monkeypatch.setattr(counting_module, "_BATCH_CHARACTERS", 1_000)
    calls: list[int] = []
    BPETokenizer().train_from_iterator(many_strings(), 300, workers=workers, text_progress=calls.append)
    assert len(calls) > 5
    assert calls == sorted(calls)
    assert calls[-1] == sum(map(len, many_strings()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_person_is_told_how_far_training_is(kind: str) -> None:
    lines: list[str] = []
    options = TrainingEcho(lines.append, every=0).options
    tokenizer_class(kind)().train_from_iterator(standard_library(100_000), 600, workers=1, **options)
    assert lines[0].startswith("counted the words of 0 million")
    assert re.fullmatch(r"learned 100% of the vocabulary \((\d[\d,]*) of \1 steps\)", lines[-1])
    silent: list[str] = []
    TrainingEcho(silent.append).steps(1, 2)
    assert not silent


def test_the_rarest_words_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting_module, "_BATCH_CHARACTERS", 1_000)
    letters = random.Random(0)
    rare = ["".join(letters.choices("abcdefghij", k=9)) for _ in range(5_000)]
    texts = [f" often{' seldom' * (number % 10 == 0)} {word}" for number, word in enumerate(rare)]
    exact = count_pretokens(texts, split_pattern("gpt4"), workers=1)
    assert len(exact) > 5_000
    monkeypatch.setattr(counting_module, "MOST_CHARACTERS", 20_000)
    bounded = count_pretokens(texts, split_pattern("gpt4"), workers=1)
    assert sum(map(len, bounded)) <= 20_000
    assert bounded[b" often"] == exact[b" often"] == 5_000
    assert bounded[b" seldom"] == exact[b" seldom"] == 500
    assert all(count <= exact[word] for word, count in bounded.items())
    monkeypatch.setattr(counting_module, "MOST_CHARACTERS", sum(map(len, exact)))
    assert count_pretokens(texts, split_pattern("gpt4"), workers=1) == exact


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
import random, resource, sys
from llm_trainer.tokenizer import BPETokenizer, counting
counting.MOST_CHARACTERS = 2_000_000
letters = random.Random(0)
words = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(20_000)]
def texts(total):
    turn = 0
    while total > 0:
        turn = (turn + 1) % len(words)
        new = "".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=10_000))
        new_words = [new[start:start + 10] for start in range(0, len(new), 10)]
        text = " ".join(words[turn:] + new_words + words[:turn])
        total -= len(text)
        yield text
def peaks():
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
workers = int(sys.argv[2])
BPETokenizer().train_from_iterator(texts(50_000_000), 2_000, workers=workers)
before = peaks()
BPETokenizer().train_from_iterator(texts(int(sys.argv[1])), 2_000, workers=workers)
print(peaks() - before)
"""


@pytest.mark.slow
@pytest.mark.covers("R125")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("workers", "size"), [(1, 150_000_000), (2, 500_000_000)])
def test_memory_does_not_follow_the_amount_of_text(workers: int, size: int) -> None:
    # Each 130 kB bring a thousand words that nobody has seen: a twelfth of the text, which only forgetting can bound.
    command = [sys.executable, "-c", _TRAIN_ON_A_STREAM, str(size), str(workers)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(output) * unit < 100_000_000
