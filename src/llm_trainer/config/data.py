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
    cache: str | None = None
    """Folder of a packed cache to train on instead of text. It may still be growing: new chunks are taken in as they
    come (llm-trainer data pack)."""
    mixture: dict[str, float] | None = None
    """Several data sets instead of one: names, paths or folders of packed caches, each with its share of the tokens.
    Shares are relative: {books: 60, web: 30, code: 10}."""
    mixture_temperature: float | None = Field(None, gt=0)
    """Shares of a mixture by size instead, as tokens ** (1 / temperature): 1 keeps the natural shares, more evens them
    out; the given shares then count as factors."""
    mixture_max_epochs: float | None = Field(None, gt=0)
    """No data set of a mixture is read more often than this; one that is used up leaves its share to the others."""
    split: str = "train"
    """Split to train on; slices such as ``train[:1%]`` are allowed."""
    validation_split: str | None = None
    """Split to validate on. Unset: ``validation`` if there is one, else documents held out by their hash."""
    validation_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of documents held out where there is no validation split."""
    text_column: str = "text"
    """Column with the text in tabular formats."""
    label_column: str | None = None
    """Column with the label of each text, or the list of labels of its words, for (token_)classification."""
    source_column: str | None = None
    """Column with what an encoder-decoder reads, for seq2seq."""
    target_column: str | None = None
    """Column with what it is to write."""
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
    compression: Literal["lz4", "zstd", "none"] = "lz4"
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
        **dict.fromkeys(("input_column", "source_field"), "source_column"),
        **dict.fromkeys(("output_column", "target_field"), "target_column"),
        "label_field": "label_column",
        "max_samples": "max_documents",
    }

    def contradictions(self) -> Iterable[str]:
        """Two sources at once."""
        if self.paths is not None and self.dataset_name != "builtin":
            yield "give either dataset_name or paths, not both"
        if self.cache is not None and (self.paths is not None or self.dataset_name != "builtin"):
            yield "give either a packed cache or the text itself (dataset_name, paths), not both"
        if self.mixture is not None and (self.cache or self.paths or self.dataset_name != "builtin"):
            yield "a mixture names all its data sets itself; leave dataset_name, paths and cache out"
        if self.mixture is not None and not self.mixture:
            yield "mixture: expected at least one data set with its share"
        for name, share in (self.mixture or {}).items():
            if not share > 0:
                yield f"mixture: the share of {name} must be above 0, not {share}"
        if self.mixture is None and (self.mixture_temperature or self.mixture_max_epochs):
            yield "mixture_temperature and mixture_max_epochs are for a mixture; give one, or leave them out"
        if self.paths is not None and not self.paths:
            yield "paths: expected at least one file or folder"
