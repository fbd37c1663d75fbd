"""No text is too strange: half characters, control characters, every script."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_trainer.corpus.dedup.benchmarks import Item
from llm_trainer.corpus.dedup.clusters import find_near
from llm_trainer.corpus.dedup.decontaminate import Decontamination, Decontaminator
from llm_trainer.corpus.dedup.exact import exact_keys
from llm_trainer.corpus.dedup.minhash import MinHash
from llm_trainer.corpus.dedup.shingles import plain_hashes
from llm_trainer.corpus.dedup.spans import word_places
from llm_trainer.corpus.dedup.substring import RepeatedText
from llm_trainer.corpus.dedup.suffix import remove_repeats
from tests.corpus.dedup.making import METHODS

ANY = st.text(st.characters(codec=None) | st.sampled_from(" \n\t.,'’-日本語ไทยé\u0301\u200b\ud800"), max_size=40)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=50, deadline=None)
@given(st.lists(ANY, max_size=6))
def test_every_search_takes_any_text_and_agrees_with_itself(method: str, texts: list[str]) -> None:
    twice = texts + texts
    ranks = np.arange(len(twice))
    keys = exact_keys(twice)
    assert (keys[: len(texts)] == keys[len(texts) :]).all()
    minhash = MinHash(ngram=1)
    signatures = minhash.signatures(twice)
    roots = find_near(signatures, ranks, minhash).root
    has_words = np.array([len(found) > 0 for found in minhash.shingle_sets(twice)], dtype=bool)
    assert (roots[len(texts) :][has_words[len(texts) :]] < len(texts)).all()
    cut = remove_repeats(twice, ranks, RepeatedText(min_tokens=2, method=method))  # type: ignore[arg-type]
    for before, after in zip(twice, cut.texts):
        left = iter("".join(before.split()))
        assert all(char in left for char in "".join(after.split()))  # in the same order
    for text in texts:
        words, places = word_places(text)
        assert all(text.startswith(word, place) for word, place in zip(words, places))
    items = [Item("b", str(number), text, (text,)) for number, text in enumerate(texts)]
    found = Decontaminator.from_items(items, Decontamination(ngram=3, min_words=2, mode="span", min_chars=0))
    for number, (text, hits) in enumerate(zip(texts, found.hits(texts))):
        assert (str(number) in {hit.item for hit in hits}) == (sum(map(len, found_words(text))) >= 2)
        rest = found.clean(text, hits)
        assert rest is None or len(rest) <= len(text) + len(hits)


def found_words(text: str) -> list[tuple[int, ...]]:
    return [plain_hashes(word) for word in word_places(text)[0]]
