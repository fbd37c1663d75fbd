"""From records to loaders of examples: labels for texts, labels for words, targets for sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_trainer.common.errors import DataError
from llm_trainer.config import DataConfig, TrainingConfig
from llm_trainer.corpus.records import Record, RecordSplits, open_records
from llm_trainer.data import Batch, PackedLoader
from llm_trainer.data.collate import IGNORED
from llm_trainer.data.examples import Examples, LabelCollator, Pair, collate_pairs
from llm_trainer.data.packing import IntArray
from llm_trainer.tokenizer import Tokenizer
from llm_trainer.tokenizer.framing import document_ids, source_ids, with_end
from llm_trainer.training.preparation import PreparedData, make_loader

Notice = Callable[[str], None]
Encode = Callable[[Record], tuple[Any, bool]]
"""From a record to an example, and whether something of it was cut off."""


def open_examples(config: DataConfig, objective: str) -> RecordSplits:
    """The records of the data section.

    Raises:
        DataError: there are none.
    """
    key = config.source_column if objective == "seq2seq" else config.text_column
    assert key is not None
    return open_records(
        config.paths or [config.dataset_name],
        key=key,
        split=config.split,
        validation_split=config.validation_split,
        validation_fraction=config.validation_fraction,
        max_records=config.max_documents,
        encoding=config.encoding,
    )


def texts_of(records: Sequence[Record], config: DataConfig, objective: str) -> list[str]:
    """All text that the records hold, to train a tokenizer on."""
    if objective == "seq2seq":
        assert config.source_column is not None and config.target_column is not None
        return [record.text(column) for record in records for column in (config.source_column, config.target_column)]
    if objective == "token_classification":
        return [" ".join(words_of(record, config)[0]) for record in records]
    return [record.text(config.text_column) for record in records]


def label_names(
    records: Sequence[Record], config: DataConfig, objective: str, held_out: Sequence[Record] = ()
) -> list[str]:
    """Every label of the records once, in alphabetical order.

    Args:
        records: to learn from.
        config: names the columns.
        objective: classification or token_classification.
        held_out: records to validate on; a rare label may be among them alone.

    Raises:
        DataError: there are fewer than two to learn.
    """
    assert config.label_column is not None
    names = {label for record in records for label in labels_of(record, config, objective)}
    if not names:
        raise DataError(f"column {config.label_column!r} holds no label at all")
    if len(names) == 1:
        raise DataError(
            f"column {config.label_column!r} holds only the label {names.pop()!r}; there is nothing to tell apart"
        )
    return sorted(names.union(*(labels_of(record, config, objective) for record in held_out)))


def labels_of(record: Record, config: DataConfig, objective: str) -> list[str]:
    """The labels of a record: of each word, or the one of its text.

    Raises:
        DataError: there is none, or it is no name.
    """
    assert config.label_column is not None
    if objective == "token_classification":
        return words_of(record, config)[1]
    return [_label(record.value(config.label_column), record, config.label_column)]


def words_of(record: Record, config: DataConfig) -> tuple[list[str], list[str]]:
    """The words of a record and their labels.

    Raises:
        DataError: they are not two lists of equal length, of words and of labels.
    """
    assert config.label_column is not None
    words, labels = record.value(config.text_column), record.value(config.label_column)
    if not isinstance(words, list) or not isinstance(labels, list) or len(words) != len(labels):
        raise DataError(
            f"{record.where}: expected a list of words in {config.text_column!r} and as long a list of labels in "
            f"{config.label_column!r}"
        )
    for word in words:
        if not isinstance(word, (str, int, float)):
            raise DataError(f"{record.where}: expected words in {config.text_column!r}, found {word!r}")
    return [str(word) for word in words], [_label(label, record, config.label_column) for label in labels]


def _label(value: Any, record: Record, column: str) -> str:
    if not isinstance(value, (str, int, float)) or value == "":
        raise DataError(
            f"{record.where}: expected a label in column {column!r}, found {value!r}",
            hint="a label is a name or a number",
        )
    return str(value)


def prepare_examples(
    records: RecordSplits,
    config: DataConfig,
    objective: str,
    tokenizer: Tokenizer,
    training: TrainingConfig,
    *,
    seq_len: int,
    labels: Sequence[str] = (),
    notice: Notice,
) -> PreparedData:
    """Tokenize the records and open loaders on them.

    Args:
        records: of :func:`open_examples`.
        config: names the columns.
        objective: seq2seq, classification or token_classification.
        tokenizer: the model's.
        training: batch size, seed, workers.
        seq_len: the most tokens that the model reads; what is longer loses its end, and that is said.
        labels: names of the labels, in the order of their numbers.
        notice: called with a sentence when something was cut.

    Raises:
        DataError: a record lacks a column, or has a label that is not among ``labels``.
    """
    encode: Encode
    collator: Callable[..., Batch]
    if objective == "seq2seq":
        encode, collator = _Pairs(config, tokenizer, seq_len), collate_pairs
    else:
        per_token = objective == "token_classification"
        numbers = {name: number for number, name in enumerate(labels)}
        encode = (_Words if per_token else _Texts)(config, tokenizer, seq_len, numbers)
        collator = LabelCollator(per_token=per_token)
    identity = [records.identity, tokenizer.fingerprint(), objective, seq_len, list(labels)]

    def loader(rows: Sequence[Record], *, shuffle: bool) -> PackedLoader:
        found = [encode(record) for record in rows]
        cut = sum(was_cut for _, was_cut in found)
        if cut:
            notice(f"{cut:,} of {len(rows):,} examples were longer than {seq_len:,} tokens and lost their end")
        examples = Examples([example for example, _ in found], identity=identity, seq_len=seq_len)
        result = make_loader(examples, training, shuffle=shuffle)  # type: ignore[arg-type]  # in place of a cache
        result.collator = collator
        return result

    return PreparedData(
        train=loader(records.train, shuffle=True),
        validation=loader(records.validation, shuffle=False) if records.validation else None,
        seq_len=seq_len,
        description=records.description,
        held_out=None,
    )


@dataclass(frozen=True)
class _Pairs:
    config: DataConfig
    tokenizer: Tokenizer
    seq_len: int

    def __call__(self, record: Record) -> tuple[Pair, bool]:
        assert self.config.source_column is not None and self.config.target_column is not None
        source = source_ids(self.tokenizer, record.text(self.config.source_column))
        target = with_end(self.tokenizer, self.tokenizer.encode(record.text(self.config.target_column)))
        cut = max(len(source), len(target)) > self.seq_len
        if cut:
            source = source_ids(self.tokenizer, record.text(self.config.source_column), self.seq_len)
            target = target[: self.seq_len]
        return (_array(source), _array(target)), cut


@dataclass(frozen=True)
class _Texts:
    config: DataConfig
    tokenizer: Tokenizer
    seq_len: int
    numbers: dict[str, int]

    def __call__(self, record: Record) -> tuple[tuple[IntArray, int], bool]:
        ids = self.tokenizer.encode(record.text(self.config.text_column))
        framed = document_ids(self.tokenizer, ids, self.seq_len)
        (name,) = labels_of(record, self.config, "classification")
        return (_array(framed), _number(self.numbers, name, record)), len(framed) < len(
            document_ids(self.tokenizer, ids)
        )


@dataclass(frozen=True)
class _Words:
    config: DataConfig
    tokenizer: Tokenizer
    seq_len: int
    numbers: dict[str, int]

    def __call__(self, record: Record) -> tuple[Pair, bool]:
        words, names = words_of(record, self.config)
        tokens, labels = word_tokens(self.tokenizer, words), []
        for pieces, name in zip(tokens, names):
            # The first token of a word has its label; the others are its continuation.
            number = _number(self.numbers, name, record)
            labels.append([number, *[IGNORED] * (len(pieces) - 1)] if pieces else [])
        flat, flat_labels = [token for word in tokens for token in word], [label for word in labels for label in word]
        framed = document_ids(self.tokenizer, flat, self.seq_len)
        before = 0 if self.tokenizer.bos_token_id is None else 1
        after = 0 if self.tokenizer.eos_token_id is None else 1
        kept = flat_labels[: len(framed) - before - after]
        aligned = [*[IGNORED] * before, *kept, *[IGNORED] * after]
        return (_array(framed), _array(aligned)), len(kept) < len(flat_labels)


def word_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """The tokens of each word, as they are in a text that puts a space between words."""
    return [tokenizer.encode(f" {word}" if index else word) for index, word in enumerate(words)]


def _number(numbers: dict[str, int], name: str, record: Record) -> int:
    if name not in numbers:
        raise DataError(f"{record.where} has the label {name!r}, which the model does not know: {', '.join(numbers)}")
    return numbers[name]


def _array(ids: Sequence[int]) -> IntArray:
    return np.asarray(ids, dtype=np.int64)
