"""Head, middle and tail by how well a language model predicts a text, as CCNet sorts its pages.

Wenzek et al. 2020, https://arxiv.org/abs/1911.00359, section 3.4: the head is what reads most like the text that the
model learned from, the tail what reads least like it. A very low figure is suspicious too (one line a thousand times).
The measure is bits per byte, which does not depend on a tokenizer.

Two kinds of model can score: ``ngram:FILE`` learns a small byte n-gram model from a reference text in a second or two,
and anything else is handed to a *scorer factory*, because this layer knows no neural networks.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from pydantic import Field

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import fingerprint, hash_file
from llm_trainer.config.base import Int
from llm_trainer.corpus.filters.base import Batch, Filter, Tags
from llm_trainer.corpus.filters.ngram_model import load_ngram_model

Scorer: TypeAlias = Callable[[Sequence[str]], Sequence[float]]
"""Texts -> bits per byte of each."""

ScorerFactory: TypeAlias = Callable[[str], Scorer]
"""Path of a model -> its scorer."""

NGRAM = "ngram:"
Bucket: TypeAlias = Literal["head", "middle", "tail"]

_factory: ScorerFactory | None = None


def set_scorer_factory(factory: ScorerFactory | None) -> None:
    """Say how models other than ``ngram:`` ones are opened, in this process.

    Worker processes do not see it; they are told by the setting ``scorer``, which travels with the filter.
    """
    global _factory
    _factory = factory
    _scorer.cache_clear()


def cut_points(scores: Sequence[float], shares: tuple[float, float] = (1 / 3, 2 / 3)) -> tuple[float, float]:
    """``head_max`` and ``middle_max`` that put those shares of a sample below them (CCNet: thirds).

    Raises:
        DataError: there are no scores.
    """
    if not scores:
        raise DataError("no scores to take cut points from", hint="score a sample of a few hundred texts first")
    head, middle = np.quantile(np.array(scores), shares)
    return float(head), float(middle)


class Perplexity(Filter):
    """Keep the buckets that one wants of ``head``, ``middle`` and ``tail``.

    Tag: ``bits_per_byte``.
    """

    name: ClassVar[str] = "perplexity"
    TAG_SETTINGS: ClassVar[frozenset[str]] = frozenset({"model", "scorer", "max_chars"})

    model: str
    """``ngram:FILE`` (a reference text), or the folder of a trained model."""
    head_max: float = Field(gt=0)
    """Most bits per byte of the head."""
    middle_max: float = Field(gt=0)
    """Most bits per byte of the middle; everything above is the tail."""
    keep: list[Bucket] = Field(default=["head", "middle"], min_length=1)
    """The buckets to keep."""
    max_chars: Int = Field(default=10_000, ge=100)
    """Only the start of longer texts is scored."""
    scorer: str | None = None
    """``package.module:function`` that opens a model: path -> (texts -> bits per byte). Not needed for ``ngram:``."""

    def contradictions(self) -> Iterable[str]:
        """Cut points in the wrong order."""
        if self.head_max > self.middle_max:
            yield f"head_max ({self.head_max}) is above middle_max ({self.middle_max})"

    def tag_identity(self) -> dict[str, Any]:
        """Settings and content of the model: of a folder, names, sizes and times of its files."""
        path = Path(self.model.removeprefix(NGRAM))
        if not path.exists():
            raise DataError(f"there is no model at {path}", hint="check the filter's `model`")
        if path.is_file():
            return {**super().tag_identity(), "content": hash_file(path)}
        files = [(file, file.stat()) for file in sorted(path.rglob("*")) if file.is_file()]
        content = [[file.relative_to(path).as_posix(), at.st_size, at.st_mtime_ns] for file, at in files]
        return {**super().tag_identity(), "content": fingerprint(content)}

    def tag(self, batch: Batch, tags: Sequence[Tags]) -> None:
        """Score every document of the batch in one call."""
        scores = _scorer(self.model, self.scorer)([text[: self.max_chars] for text in batch.texts])
        for tagged, score in zip(tags, scores, strict=True):
            tagged["bits_per_byte"] = round(float(score), 4)

    def bucket(self, tags: Mapping[str, Any]) -> Bucket:
        """The bucket of a tagged document."""
        bits = tags["bits_per_byte"]
        return "head" if bits <= self.head_max else "middle" if bits <= self.middle_max else "tail"

    def reasons(self, tags: Mapping[str, Any]) -> Iterator[str]:
        """``perplexity.<bucket>`` for a bucket that is not kept."""
        bucket = self.bucket(tags)
        if bucket not in self.keep:
            yield f"perplexity.{bucket}"


@lru_cache(maxsize=2)
def _scorer(model: str, scorer: str | None) -> Scorer:
    if model.startswith(NGRAM):
        return load_ngram_model(model.removeprefix(NGRAM)).bits_per_byte
    factory = _import_factory(scorer) if scorer is not None else _factory
    if factory is None:
        raise DataError(
            f"nothing is known that could score texts with the model {model}",
            hint="use `model: ngram:FILE` with a reference text, or name a `scorer`",
        )
    return factory(model)


def _import_factory(where: str) -> ScorerFactory:
    module, _, name = where.partition(":")
    try:
        factory: ScorerFactory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"scorer: {where!r} cannot be imported ({error})", hint="write it as package.module:function"
        ) from None
    return factory
