"""Train a tokenizer on its own and measure it; write one in another program's format."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import explain_os_errors
from llm_trainer.config import DataConfig
from llm_trainer.config.tokenizer import TokenizerConfig
from llm_trainer.corpus import open_dataset, open_paths
from llm_trainer.tokenizer import BPETokenizer, ChatTemplate, SentencePieceTokenizer, load_tokenizer
from llm_trainer.tokenizer.kinds import train_tokenizer as train_kind
from llm_trainer.tokenizer.llama2c import write_llama2c
from llm_trainer.tokenizer.progress import TrainingEcho
from llm_trainer.tokenizer.sentencepiece_export import obstacle
from llm_trainer.tokenizer.tiktoken_format import write_tiktoken_file
from llm_trainer.tokenizer.vocabulary import END_OF_TEXT

FORMATS = ("hf", "llama2c", "tiktoken")


def train_tokenizer(
    output_dir: Path,
    *,
    paths: list[str] | None,
    dataset: str,
    vocab_size: int,
    pattern: str,
    allow_smaller: bool = False,
    kind: str = "bpe",
    digits: str | None = None,
    chat: str | None = None,
    echo: Callable[[str], None] | None = None,
) -> str:
    """Train a tokenizer, save it, and say how well it compresses the start of its text.

    Args:
        output_dir: the folder to write.
        paths: files and folders of text.
        dataset: name of a data set, where there are no paths.
        vocab_size: tokens in all.
        pattern: how text is cut before it is cut into tokens (bpe, unigram).
        kind: ``bpe``, ``wordpiece`` or ``unigram``.
        digits: at most ``"1"``, ``"2"`` or ``"3"`` digits in a token, or ``"none"`` for no limit (bpe); left out: the
            rule of the pattern.
        allow_smaller: take fewer tokens where the text has no more to give.
        chat: a chat template by name, file or text, saved with the tokenizer; its control tokens get ids.
        echo: prints a line now and then, if training takes long.

    Raises:
        UserError: a choice, the text or the folder cannot be used; the folder is tried before training.
    """
    TokenizerConfig.from_dict({"type": kind, "vocab_size": vocab_size, "pattern": pattern})
    options: dict[str, Any] = {"allow_smaller": allow_smaller}
    if kind != "wordpiece":
        options["pattern"] = pattern
    if digits is not None:
        options["digits"] = int(digits) if digits.isdecimal() else digits
    template = ChatTemplate.load(chat) if chat is not None else None
    if template is not None:
        # WordPiece and Unigram have roles of their own and take further tokens; BPE's first one has all roles.
        options["special_tokens"] = [*([END_OF_TEXT] if kind == "bpe" else []), *template.control_tokens]
    if echo is not None:
        options |= TrainingEcho(echo).options
    # The documents that `train` would hold out stay out: a tokenizer that has seen them flatters bits per byte.
    held_out = DataConfig().validation_fraction
    if paths:
        handle = open_paths(paths, validation_fraction=held_out)
    else:
        handle = open_dataset(dataset, validation_fraction=held_out)
    started = time.perf_counter()
    texts = (document.text for document in handle)
    with _folder_that_can_be_made(output_dir):
        tokenizer = train_kind(kind, texts, vocab_size, **options)
    seconds = time.perf_counter() - started
    tokenizer.chat_template = template
    tokenizer.save_pretrained(output_dir)
    probe, size = [], 0
    for document in handle:
        probe.append(document.text)
        size += len(document.text.encode("utf-8"))
        if size > 1_000_000:
            break
    tokens = sum(map(len, tokenizer.encode_batch(probe)))
    return (
        f"trained {tokenizer.vocab_size:,} tokens in {seconds:.1f} s on {handle.description}\n"
        f"{size / max(1, tokens):.2f} bytes per token; saved to {output_dir}"
    )


@contextlib.contextmanager
def _folder_that_can_be_made(folder: Path) -> Iterator[None]:
    """Make a folder before long work whose result goes there; if the work fails, a new one goes again."""
    new = not folder.exists()
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            folder.rmdir()
        raise


def convert_tokenizer(source: str, output: Path, file_format: str) -> str:
    """Write a tokenizer in another format.

    Args:
        source: as for :func:`~llm_trainer.tokenizer.load_tokenizer`.
        output: a folder for ``hf``, a file for the others.
        file_format: ``hf`` (the layout of transformers), ``llama2c`` (``tokenizer.bin``) or ``tiktoken`` (ranks).

    Raises:
        UserError: the tokenizer means something else in that format; the message says why.
    """
    if file_format not in FORMATS:
        raise UserError(f"there is no format {file_format!r}", hint=f"choose one of {', '.join(FORMATS)}")
    tokenizer = load_tokenizer(source)
    if file_format == "hf":
        reason = obstacle(tokenizer.model) if isinstance(tokenizer, SentencePieceTokenizer) else None
        if reason is not None:
            raise UserError(f"{source} has no exact form in transformers: {reason}", hint="keep its .model file")
        tokenizer.save_pretrained(output)
    elif file_format == "llama2c":
        write_llama2c(tokenizer, output)
    elif isinstance(tokenizer, BPETokenizer):
        write_tiktoken_file(tokenizer, output)
    else:
        raise UserError(f"{source} is not byte-level BPE, the only kind that tiktoken has", hint="use --format hf")
    return f"wrote {tokenizer.vocab_size:,} tokens to {output}"
