"""Where the text comes from and how it becomes sequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

from pydantic import Field

from llm_trainer.config.base import Int, Settings


class DataConfig(Settings):
    """A data set, by name or by path. Names are looked up on this machine first and on the hub last.

    Example:
        >>> DataConfig(dataset_name="wikitext", dataset_config="wikitext-2-raw-v1", max_length=512).max_length
        512
    """

    dataset_name: str = "builtin"
    """A file, a folder, a registered name, a folder in $LLM_TRAINER_DATA, or a data set on the hub. ``builtin`` is
    the text that every machine with Python has: the standard library's sources and documentation."""
    dataset_config: str | None = None
    """Configuration (subset) of the data set."""
    paths: list[str] | None = None
    """Files or folders to read instead of dataset_name."""
    split: str = "train"
    """Split to train on; slices such as ``train[:1%]`` are allowed."""
    validation_split: str | None = None
    """Split to validate on. Unset: ``validation`` if there is one, else documents held out by their hash."""
    validation_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of documents held out where there is no validation split."""
    text_column: str = "text"
    """Column with the text in tabular formats."""
    encoding: str = "utf-8"
    """Encoding of text files."""
    documents: Literal["auto", "file", "line"] = "auto"
    """One document a file, or one a line; auto: one a file."""
    max_length: Int | None = Field(None, gt=1)
    """Tokens per packed sequence. Unset: the model's max_seq_len."""
    max_documents: Int | None = Field(None, gt=0)
    """Use only the first documents."""
    packing: Literal["bfd", "concat"] = "bfd"
    """bfd: whole documents fitted together (best-fit decreasing), cut only where too many positions would be wasted;
    concat: end to end, cut at the sequence length. Neither loses a token."""
    compression: Literal["lz4", "none"] = "lz4"
    """Codec of the cache."""
    cache_dir: str | None = None
    """Where the packed cache lives. Unset: ``cache/`` in the current folder, one subfolder per data set."""
    validation_tokens: Int = Field(65_536, gt=0)
    """Validation during training looks at no more tokens than this; the final evaluation reads all."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("dataset", "path"), "dataset_name"),
        **dict.fromkeys(("dataset_config_name", "subset"), "dataset_config"),
        **dict.fromkeys(("sequence_length", "seq_len", "seq_length", "block_size"), "max_length"),
        **dict.fromkeys(("text_field", "text_key"), "text_column"),
        "files": "paths",
        "max_samples": "max_documents",
    }

    def contradictions(self) -> Iterable[str]:
        """Two sources at once."""
        if self.paths is not None and self.dataset_name != "builtin":
            yield "give either dataset_name or paths, not both"
        if self.paths is not None and not self.paths:
            yield "paths: expected at least one file or folder"
