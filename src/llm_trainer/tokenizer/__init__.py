"""Text to token ids and back: a byte-level BPE of our own, and any Hugging Face tokenizer behind the same interface."""

from __future__ import annotations

from pathlib import Path

from llm_trainer.tokenizer.base import TextTypeError, Tokenizer
from llm_trainer.tokenizer.batch import BatchEncoding
from llm_trainer.tokenizer.bpe import BPETokenizer
from llm_trainer.tokenizer.dataset_hook import set_dataset_resolver
from llm_trainer.tokenizer.hf import HFTokenizerWrapper
from llm_trainer.tokenizer.hf_format import ForeignTokenizerError
from llm_trainer.tokenizer.streaming import StreamDecoder

__all__ = [
    "BPETokenizer",
    "BatchEncoding",
    "ForeignTokenizerError",
    "HFTokenizerWrapper",
    "StreamDecoder",
    "TextTypeError",
    "Tokenizer",
    "load_tokenizer",
    "set_dataset_resolver",
]


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Load whatever tokenizer is in a folder: ours where it is byte-level BPE, else through transformers.

    Raises:
        DataError: there is no tokenizer in the folder, or it is damaged; the message names the file.
    """
    try:
        return BPETokenizer.from_pretrained(folder)
    except ForeignTokenizerError:
        return HFTokenizerWrapper(folder)
