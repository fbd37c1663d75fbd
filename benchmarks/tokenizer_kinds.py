"""Which kind of tokenizer writes a text in fewest tokens, and how do our trainers compare with those that people use?

The first 95 % of the lines of a text train, the rest is encoded, line by line. Ours: BPE, WordPiece with both scores,
Unigram. Beside them the trainer of ``tokenizers`` for each, and that of ``sentencepiece`` where it is installed, with
settings that are as close as they go: the same size, bytes for unknown characters, no change to text (WordPiece: BERT's
rules on both sides). Words are cut alike except in SentencePiece, which cuts at spaces and where the script changes.
The Unigram of ``tokenizers`` has no tokens for bytes, so it has 256 more for pieces.

Seconds are those of the processor on one thread. "Overlap" is the share of our pieces that the other trainer has too.

    python benchmarks/tokenizer_kinds.py --text book.txt --vocab_size 8192

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import util
from pathlib import Path
from typing import Any

# The folder of this file must not be searched first: it would be found when `tokenizers` is imported.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

Encode = Callable[[str], Sequence[int]]


def lines_of(paths: list[str], megabytes: float) -> tuple[list[str], list[str]]:
    """Lines to train on and lines to encode, without their ends; lines of white space are left out."""
    text = "\n".join(Path(path).read_text(encoding="utf-8") for path in paths)
    text = text.encode()[: int(megabytes * 1e6)].decode(errors="ignore")
    lines = [line for line in text.split("\n") if line.strip()]
    border = len(lines) * 95 // 100
    return lines[:border], lines[border:]


def _ours(kind: str, lines: list[str], vocab_size: int, **options: Any) -> tuple[Encode, set[str]]:
    from llm_trainer.tokenizer import BPETokenizer, UnigramTokenizer
    from llm_trainer.tokenizer.kinds import train_tokenizer
    from llm_trainer.tokenizer.vocabulary import printable

    tokenizer: Any = train_tokenizer(kind, lines, vocab_size, workers=1, **options)
    vocabulary = tokenizer.vocabulary
    if isinstance(tokenizer, BPETokenizer):
        return tokenizer.encode, set(map(printable, vocabulary.tokens))
    return tokenizer.encode, set(vocabulary.scores if isinstance(tokenizer, UnigramTokenizer) else vocabulary.tokens)


def _theirs(kind: str, lines: list[str], vocab_size: int) -> tuple[Encode, set[str]]:
    """The trainer of ``tokenizers`` with the cut of ours."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    from llm_trainer.tokenizer.pretokenize import split_pattern

    split = pre_tokenizers.Split(Regex(split_pattern("gpt4")), "isolated")
    options: dict[str, Any] = {"vocab_size": vocab_size, "show_progress": False}
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        trainer: Any = trainers.BpeTrainer(
            min_frequency=2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options
        )
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(min_frequency=2, special_tokens=["[UNK]"], **options)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.Metaspace(prepend_scheme="never", split=False)]
        )
        trainer = trainers.UnigramTrainer(unk_token="<unk>", special_tokens=["<unk>"], **options)
    tokenizer.train_from_iterator(lines, trainer)
    return lambda text: tokenizer.encode(text).ids, set(tokenizer.get_vocab())


def _sentencepiece(lines: list[str], vocab_size: int) -> tuple[Encode, set[str]]:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="unigram",
        vocab_size=vocab_size,
        byte_fallback=True,
        character_coverage=0.9995,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        max_sentence_length=1_000_000,
        num_threads=1,
        minloglevel=2,
    )
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return tokenizer.encode, {tokenizer.id_to_piece(i) for i in range(vocab_size)}


def contestants(lines: list[str], size: int) -> Iterator[tuple[str, str, Callable[[], tuple[Encode, set[str]]]]]:
    """(group, name, training): the first of a group is ours, with which the others' pieces are compared."""
    yield "bpe", "bpe", lambda: _ours("bpe", lines, size)
    yield "bpe", "bpe of tokenizers", lambda: _theirs("bpe", lines, size)
    yield "wordpiece", "wordpiece", lambda: _ours("wordpiece", lines, size)
    yield "wordpiece", "wordpiece, by frequency", lambda: _ours("wordpiece", lines, size, score="frequency")
    yield "wordpiece", "wordpiece of tokenizers", lambda: _theirs("wordpiece", lines, size)
    yield "unigram", "unigram", lambda: _ours("unigram", lines, size)
    yield "unigram", "unigram of tokenizers", lambda: _theirs("unigram", lines, size)
    if util.find_spec("sentencepiece") is not None:
        yield "unigram", "unigram of sentencepiece", lambda: _sentencepiece(lines, size)


def main() -> None:
    """Train each, encode the lines that were kept back, print a table and one JSON line."""
    os.environ |= {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # before tokenizers and numpy are imported
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", required=True, metavar="FILE", help="UTF-8 text files")
    parser.add_argument("--megabytes", type=float, default=10, help="most text to use")
    parser.add_argument("--vocab_size", type=int, default=8192)
    options = parser.parse_args()
    train, test = lines_of(options.text, options.megabytes)
    size, words = sum(len(line.encode()) for line in test), sum(len(line.split()) for line in test)
    print(f"{sum(len(line.encode()) for line in train) / 1e6:.1f} MB train {options.vocab_size:,} tokens")
    print(f"{'':<26}{'CPU s':>8}{'bytes/token':>13}{'tokens/word':>13}{'overlap':>9}")
    import tokenizers  # noqa: F401 - loaded before the clock runs

    import llm_trainer.tokenizer.kinds  # noqa: F401

    results: list[dict[str, Any]] = []
    first: dict[str, set[str]] = {}
    for group, name, learn in contestants(train, options.vocab_size):
        started = time.process_time()
        encode, pieces = learn()
        seconds = time.process_time() - started
        tokens = sum(len(encode(line)) for line in test)
        overlap = len(first.setdefault(group, pieces) & pieces) / len(first[group])
        row = {"bytes_per_token": round(size / tokens, 3), "tokens_per_word": round(tokens / words, 3)}
        results.append({"name": name, "cpu_seconds": round(seconds, 2), **row, "overlap": round(overlap, 3)})
        shown = f"{overlap:>9.1%}" if first[group] is not pieces else ""
        print(f"{name:<26}{seconds:>8.1f}{row['bytes_per_token']:>13.2f}{row['tokens_per_word']:>13.3f}{shown}")
    print(json.dumps({"benchmark": "tokenizer_kinds", "vocab_size": options.vocab_size, "results": results}))


if __name__ == "__main__":
    main()
