"""How a tokenizer finds a data set by name, although finding data sets is the business of a higher layer.

``train_from_dataset("wikitext")`` is what people expect to write, and names are resolved in ``llm_trainer.corpus``,
which stands above this package and must not be imported by it. The resolver is therefore handed in
(:func:`set_dataset_resolver`) or, when nobody has, looked up by name at the moment of the call. The dependency exists
only for that one call: a tokenizer is trained, saved, loaded and used without ``llm_trainer.corpus``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

# (name, config, split, text_column) -> documents, each with a ``text``
DatasetResolver = Callable[..., Iterable[Any]]

_resolver: DatasetResolver | None = None


def set_dataset_resolver(resolver: DatasetResolver | None) -> None:
    """Choose who turns a data set's name into documents; ``None`` restores ``llm_trainer.corpus.open_dataset``.

    Args:
        resolver: called as ``resolver(name, config=..., split=..., text_column=...)``; yields objects with ``.text``.
    """
    global _resolver
    _resolver = resolver


def dataset_texts(
    name: str, config: str | None, *, split: str, text_column: str, max_documents: int | None
) -> Iterator[str]:
    """The texts of a data set, at most ``max_documents`` of them.

    Raises:
        DataError: nothing is known under that name.
    """
    resolve = _resolver or importlib.import_module("llm_trainer.corpus").open_dataset
    documents = resolve(name, config=config, split=split, text_column=text_column)
    return (document.text for document in islice(documents, max_documents))
