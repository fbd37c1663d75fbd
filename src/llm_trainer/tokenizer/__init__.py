"""Text to token ids and back: BPE, WordPiece and SentencePiece models of our own, and any Hugging Face tokenizer."""

from __future__ import annotations

from llm_trainer.tokenizer.base import TextTypeError, Tokenizer
from llm_trainer.tokenizer.batch import BatchEncoding
from llm_trainer.tokenizer.bpe import BPETokenizer
from llm_trainer.tokenizer.chat import ChatTemplate, RenderedChat
from llm_trainer.tokenizer.dataset_hook import set_dataset_resolver
from llm_trainer.tokenizer.hf import HFTokenizerWrapper
from llm_trainer.tokenizer.json_folder import ForeignTokenizerError
from llm_trainer.tokenizer.loading import load_tokenizer
from llm_trainer.tokenizer.sentencepiece import SentencePieceTokenizer
from llm_trainer.tokenizer.streaming import StreamDecoder
from llm_trainer.tokenizer.unigram import UnigramTokenizer
from llm_trainer.tokenizer.wordpiece import WordPieceTokenizer

__all__ = [
    "BPETokenizer",
    "BatchEncoding",
    "ChatTemplate",
    "ForeignTokenizerError",
    "HFTokenizerWrapper",
    "RenderedChat",
    "SentencePieceTokenizer",
    "StreamDecoder",
    "TextTypeError",
    "Tokenizer",
    "UnigramTokenizer",
    "WordPieceTokenizer",
    "load_tokenizer",
    "set_dataset_resolver",
]
