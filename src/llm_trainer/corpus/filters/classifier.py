"""Does a text look like the good examples or like the bad ones? A linear classifier over hashed words and word pairs.

The idea of GPT-3's and CCNet's quality classifiers with the least that works (fastText's bag of tricks, Joulin et al.
2016, https://arxiv.org/abs/1607.01759): every word and every pair of neighbours is hashed to one of 2^18 weights, a
text is scored by the sum of its weights over the square root of their number, and logistic regression learns the
weights from two piles of text that a person chose. Training is full-batch L-BFGS, a convex problem with one answer, so
the same piles always give the same classifier.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import xxhash
from pydantic import Field

from llm_trainer.common.errors import DataError
from llm_trainer.common.files import atomic_write
from llm_trainer.common.hashing import hash_file
from llm_trainer.corpus.filters.base import Batch, Filter, Tags
from llm_trainer.corpus.filters.logistic import fit_logistic
from llm_trainer.corpus.readers import read_path
from llm_trainer.corpus.words import WordTable, tabulate

FORMAT = 1
_PAIR = np.uint64(0x9E3779B97F4A7C15)  # odd, from the golden ratio: neighbours in either order get other buckets
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_DAMAGE = (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, RuntimeError, BadZipFile, zlib.error)


@dataclass(frozen=True)
class Features:
    """Hashed words and pairs of a batch of texts.

    Attributes:
        buckets: (features,) int32: the bucket of every feature, text after text.
        starts: (texts + 1,) int64: where each text's features begin; the last is the total.
    """

    buckets: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]

    @property
    def scale(self) -> npt.NDArray[np.float64]:
        """(texts,): 1 / sqrt(number of features); 0 for a text without words."""
        counts = np.diff(self.starts)
        return np.where(counts > 0, 1 / np.sqrt(np.maximum(counts, 1)), 0.0)

    def dot(self, weights: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """(texts,): scaled sum of the weights of every text."""
        sums = np.zeros(len(self.starts) - 1)
        filled = np.flatnonzero(np.diff(self.starts))
        if len(filled):
            sums[filled] = np.add.reduceat(weights[self.buckets], self.starts[filled])
        return sums * self.scale

    def transposed_dot(self, values: npt.NDArray[np.float64], buckets: int) -> npt.NDArray[np.float64]:
        """(buckets,): the gradient of ``(values * dot(weights)).sum()``."""
        weights = np.repeat(values * self.scale, np.diff(self.starts))
        return np.bincount(self.buckets, weights, minlength=buckets).astype(np.float64, copy=False)


def hash_features(table: WordTable, bits: int) -> Features:
    """Words without regard to case, all numbers as one, and pairs of neighbours.

    Args:
        table: the words of the texts.
        bits: log2 of the number of buckets.
    """
    hashes = np.fromiter(map(_hash_word, table.vocabulary), dtype=np.uint64, count=len(table.vocabulary))
    words = hashes[table.ids]
    shift = np.uint64(64 - bits)
    single = ((words * _MIX) >> shift).astype(np.int32)
    pairs = (((words[:-1] * _PAIR + words[1:]) * _MIX) >> shift).astype(np.int32)
    # Words and pairs take turns: word 0, pair (0, 1), word 1, ... so that one cut of the array separates texts.
    buckets = np.empty(max(0, 2 * len(words)), dtype=np.int32)
    buckets[0::2] = single
    if len(words):
        buckets[1:-1:2] = pairs
        buckets[-1] = 0
    # The last word of a text has no right neighbour in it; the pair that was made there is taken out.
    keep = np.ones(len(buckets), dtype=bool)
    ends = table.starts[1:][np.diff(table.starts) > 0]
    keep[2 * ends - 1] = False
    counts = np.maximum(2 * table.counts - 1, 0)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Features(buckets[keep], starts)


@lru_cache(maxsize=1 << 17)
def _hash_word(word: str) -> int:
    folded = "0" if word.isdecimal() else word.casefold()
    return xxhash.xxh3_64_intdigest(folded.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class QualityClassifier:
    """A trained classifier.

    Attributes:
        weights: (2^bits,) float32.
        bias: added to every sum.
        bits: log2 of the number of weights.
        report: how it was trained and how it did on texts that it was not trained on: ``train_good``, ``train_bad``,
            ``held_out``, ``accuracy``, ``auc``.
    """

    weights: npt.NDArray[np.float32]
    bias: float
    bits: int
    report: Mapping[str, Any] = field(default_factory=dict)

    def score(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """(texts,): probability of being good, from 0 to 1."""
        return self.score_words(tabulate(texts))

    def score_words(self, table: WordTable) -> npt.NDArray[np.float64]:
        """As :meth:`score`, of texts that are split already."""
        return _sigmoid(hash_features(table, self.bits).dot(self.weights) + self.bias)

    def save(self, path: str | Path) -> None:
        """Write one ``.npz`` file: the weights that are not zero, and the rest as JSON. Nothing in it is pickled."""
        index = np.flatnonzero(self.weights).astype(np.uint32)
        about = {"format": FORMAT, "bias": self.bias, "bits": self.bits, "report": dict(self.report)}
        with atomic_write(path) as file:
            np.savez_compressed(
                file,
                about=np.frombuffer(json.dumps(about).encode("utf-8"), dtype=np.uint8),
                index=index,
                weights=self.weights[index],
            )

    @classmethod
    def load(cls, path: str | Path) -> QualityClassifier:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: the file is missing, or is not a classifier.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(file["about"].tobytes())
                if about["format"] != FORMAT:
                    raise DataError(f"{path} is a classifier of format {about['format']}; this version reads {FORMAT}")
                if not 1 <= int(about["bits"]) <= 28:
                    raise ValueError(f"2^{about['bits']} weights")
                weights = np.zeros(1 << int(about["bits"]), dtype=np.float32)
                weights[file["index"]] = file["weights"]
        except FileNotFoundError:
            raise DataError(
                f"there is no classifier at {path}", hint="train one from two folders of texts first"
            ) from None
        except _DAMAGE as error:
            raise DataError(f"{path} is not a quality classifier: {error}", hint="train it again") from None
        return cls(weights, float(about["bias"]), int(about["bits"]), about["report"])


def train_quality_classifier(
    good: str | Path | Iterable[str],
    bad: str | Path | Iterable[str],
    *,
    bits: int = 18,
    regularisation: float = 0.01,
    iterations: int = 60,
    held_out: float = 0.1,
    max_chars: int = 20_000,
    max_texts: int = 100_000,
) -> QualityClassifier:
    """Learn to tell good texts from bad ones.

    Args:
        good: a folder or file of good texts, or the texts themselves. A few hundred are enough to begin with.
        bad: the same for bad ones. It should be what the classifier will meet: take a random sample of the source.
        bits: log2 of the number of weights; 18 is 1 MB.
        regularisation: L2 penalty on the weights, in units of one text of each pile of a thousand.
        iterations: most steps of the optimizer.
        held_out: share of the texts (chosen by the hash of their content, so copies stay together) to test with.
        max_chars: only the start of longer texts is used.
        max_texts: only so many texts of each pile are used.

    Returns:
        The classifier; its ``report`` says how well it does on the held-out texts. Both piles weigh the same, however
        many texts they hold.

    Raises:
        DataError: a pile holds fewer than two texts.
    """
    piles = [list(_texts(pile, max_chars, max_texts)) for pile in (good, bad)]
    for name, pile in zip(("good", "bad"), piles):
        if len(pile) < 2:
            raise DataError(
                f"the {name} examples hold {len(pile)} texts", hint="give at least a few dozen of each kind"
            )
    texts = piles[0] + piles[1]
    labels = np.repeat([1.0, 0.0], [len(piles[0]), len(piles[1])])
    test = np.fromiter((_is_held_out(text, held_out) for text in texts), dtype=bool, count=len(texts))
    # So few texts that one pile would lose everything: train on all, and say so by a held-out count of 0.
    if any(not (~test & (labels == label)).any() for label in (0.0, 1.0)):
        test[:] = False
    train = np.flatnonzero(~test)
    features = hash_features(tabulate([texts[index] for index in train]), bits)
    targets = labels[train]
    importance = np.where(targets == 1, 0.5 / targets.sum(), 0.5 / (len(targets) - targets.sum()))
    weights, bias = fit_logistic(
        features.dot,
        lambda values: features.transposed_dot(values, 1 << bits),
        targets,
        importance,
        size=1 << bits,
        penalty=regularisation / 1000,
        iterations=iterations,
    )
    counts = {"train_good": int(targets.sum()), "train_bad": int(len(targets) - targets.sum())}
    model = QualityClassifier(weights.astype(np.float32), bias, bits, counts)
    scores, truth = model.score([texts[index] for index in np.flatnonzero(test)]), labels[test]
    both = 0 < truth.sum() < len(truth)
    report = counts | {
        "held_out": int(test.sum()),
        "accuracy": round(float(((scores >= 0.5) == (truth == 1)).mean()), 4) if len(truth) else None,
        "auc": round(area_under_curve(scores, truth), 4) if both else None,
    }
    return QualityClassifier(model.weights, model.bias, bits, report)


def area_under_curve(scores: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> float:
    """Probability that a good text (``truth`` 1) scores above a bad one (0); ties count half."""
    _, rank = np.unique(scores, return_inverse=True)
    total = np.bincount(rank)
    # Mean rank of every value, from 1, ties sharing theirs.
    mean_rank = (np.cumsum(total) - (total - 1) / 2)[rank]
    good = int(truth.sum())
    return float((mean_rank[truth == 1].sum() - good * (good + 1) / 2) / (good * (len(truth) - good)))


def _texts(pile: str | Path | Iterable[str], max_chars: int, max_texts: int) -> Iterator[str]:
    if isinstance(pile, (str, Path)):
        pile = (document.text for document in read_path(Path(pile)))
    for text in itertools.islice(pile, max_texts):
        if text.strip():
            yield text[:max_chars]


def _is_held_out(text: str, share: float) -> bool:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) < share * 2.0**64


def _sigmoid(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(values, -40, 40)))


class Classifier(Filter):
    """Keep the texts that a trained :class:`QualityClassifier` finds good.

    Tag: ``classifier_score``, from 0 to 1.
    """

    name: ClassVar[str] = "classifier"
    TAG_SETTINGS: ClassVar[frozenset[str]] = frozenset({"model"})

    model: str
    """The file that the training wrote."""
    min_score: float = Field(default=0.5, ge=0, le=1)
    """Lowest probability of being good."""

    def tag_identity(self) -> dict[str, Any]:
        """Settings and the content of the model."""
        if not Path(self.model).is_file():
            raise DataError(f"there is no classifier at {self.model}", hint="train one from two folders of texts first")
        return {**super().tag_identity(), "content": hash_file(self.model)}

    def tag(self, batch: Batch, tags: Sequence[Tags]) -> None:
        """Score every document of the batch at once."""
        for tagged, score in zip(tags, _load(self.model).score_words(batch.words)):
            # Four digits: more would differ between machines, and a threshold has fewer.
            tagged["classifier_score"] = math.floor(float(score) * 1e4 + 0.5) / 1e4

    def reasons(self, tags: Mapping[str, Any]) -> Iterator[str]:
        """``low_score``."""
        if tags["classifier_score"] < self.min_score:
            yield "classifier.low_score"


@lru_cache(maxsize=4)
def _load(path: str) -> QualityClassifier:
    return QualityClassifier.load(path)
