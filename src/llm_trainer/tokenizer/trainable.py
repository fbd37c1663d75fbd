"""What all tokenizers that are trained here share: where texts come from, files, and the check of ids."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from llm_trainer.common.errors import DataError
from llm_trainer.tokenizer.base import Tokenizer
from llm_trainer.tokenizer.chat_format import read_chat_template, write_chat_template
from llm_trainer.tokenizer.dataset_hook import dataset_texts
from llm_trainer.tokenizer.text_files import read_text_blocks

if TYPE_CHECKING:
    from typing_extensions import Self

SMALLER_HINT = "pass vocab_size={}, or allow_smaller=True (on the command line --allow_smaller), or more text"


class TrainableTokenizer(Tokenizer):
    """A tokenizer whose vocabulary is learnt from texts and kept in the file format of transformers.

    A subclass gives :meth:`train_from_iterator`, a constructor that takes a vocabulary, and the module of its format.
    """

    vocabulary: Any
    _format: ClassVar[ModuleType]
    """A module with ``write_folder(vocabulary, folder)`` and ``read_folder(folder)``."""

    @abc.abstractmethod
    def __init__(self, vocabulary: Any = None) -> None: ...

    # ---- training ----

    @abc.abstractmethod
    def train_from_iterator(self, texts: Iterable[str], vocab_size: int = 32000, **options: Any) -> Self:
        """Learn a vocabulary from texts."""

    def train_from_files(
        self,
        paths: str | Path | Iterable[str | Path],
        vocab_size: int = 32000,
        *,
        errors: Literal["error", "replace"] = "error",
        **options: Any,
    ) -> Self:
        """Learn a vocabulary from UTF-8 text files.

        Args:
            paths: one file or several.
            vocab_size: as in :meth:`train_from_iterator`, like ``options``.
            errors: what to do about bytes that are not UTF-8: refuse the file, or ``"replace"`` them with U+FFFD.

        Raises:
            DataError: a file is missing or not UTF-8, and as in :meth:`train_from_iterator`.
        """
        return self.train_from_iterator(read_text_blocks(paths, errors=errors), vocab_size, **options)

    def train_from_dataset(
        self,
        dataset_name: str,
        dataset_config: str | None = None,
        vocab_size: int = 32000,
        *,
        split: str = "train",
        text_column: str = "text",
        max_documents: int | None = None,
        **options: Any,
    ) -> Self:
        """Learn a vocabulary from a data set: a local folder or registered name first, then the hub.

        Args:
            dataset_name: for example ``"wikitext"``, or a folder.
            dataset_config: the configuration (subset), for example ``"wikitext-2-raw-v1"``.
            vocab_size: as in :meth:`train_from_iterator`, like ``options``.
            split: which part to read.
            text_column: the column that holds the text.
            max_documents: read no more documents than this.

        Raises:
            DataError: nothing is known under that name, and as in :meth:`train_from_iterator`.
        """
        texts = dataset_texts(
            dataset_name, dataset_config, split=split, text_column=text_column, max_documents=max_documents
        )
        return self.train_from_iterator(texts, vocab_size, **options)

    # ---- files ----

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, which ``transformers.AutoTokenizer`` loads.

        BPE with the ``gpt2`` cut is also written as ``vocab.json`` and ``merges.txt``, WordPiece as BERT's
        ``vocab.txt``.
        """
        self._format.write_folder(self.vocabulary, folder)
        write_chat_template(folder, self.chat_template)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load a folder with ``tokenizer.json``, or with the older files that :meth:`save_pretrained` names.

        Raises:
            CorruptionError: a file is damaged; the message names it.
            ForeignTokenizerError: it is a tokenizer of another kind, which ``HFTokenizerWrapper`` can load.
            DataError: there is no tokenizer in the folder.
        """
        tokenizer = cls(cls._format.read_folder(folder))
        tokenizer.chat_template = read_chat_template(folder)
        return tokenizer

    # ---- ids ----

    @property
    def special_tokens(self) -> dict[str, int]:
        """Text of each special token -> its id."""
        special: dict[str, int] = self.vocabulary.special_tokens
        return special

    def _check_id(self, token_id: int) -> None:
        if not 0 <= token_id < self.vocab_size:
            raise DataError(
                f"{token_id} is not a token id: this tokenizer has ids 0 to {self.vocab_size - 1}",
                hint="is this the tokenizer that the model was trained with?",
            )
