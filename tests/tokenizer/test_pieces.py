"""What WordPiece and Unigram share: requests that are refused, sizes, files, and encoding without a compiler."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.tokenizer import ForeignTokenizerError, UnigramTokenizer, WordPieceTokenizer, load_tokenizer
from llm_trainer.tokenizer import unigram as unigram_module
from llm_trainer.tokenizer import wordpiece as wordpiece_module
from llm_trainer.tokenizer.kinds import tokenizer_class, train_tokenizer
from tests.tokenizer.samples import SCRIPTS, many_strings

TEXTS = [text * 3 for text in SCRIPTS.values()]
PIECES = ("wordpiece", "unigram")
# Smallest sizes that hold the characters of SCRIPTS, and what each kind can be told.
VARIANTS: list[tuple[str, int, dict[str, Any]]] = [
    ("wordpiece", 900, {}),
    ("wordpiece", 900, {"lowercase": False}),
    ("unigram", 700, {}),
    ("unigram", 700, {"add_prefix_space": True}),
    ("unigram", 460, {"byte_fallback": False}),
]


@cache
def trained(kind: str, vocab_size: int | None = None, **options: Any) -> Any:
    """A small tokenizer that has seen every script. Shared: do not train it again."""
    size = vocab_size or {"wordpiece": 900, "unigram": 700}[kind]
    return train_tokenizer(kind, TEXTS, size, special_tokens=["<|im_start|>"], workers=1, **options)


# ---- training ----


@pytest.mark.parametrize(
    ("kind", "texts", "arguments", "message"),
    [
        *(
            (kind, texts, arguments, message)
            for kind in PIECES
            for texts, arguments, message in (
                ([], {}, "no text"),
                (["some text"], {"vocab_size": 5000}, "allows a vocabulary of"),
                (["some text"], {"special_tokens": ["<a>", "<a>"]}, "given twice"),
                ([b"bytes"], {}, "text 0 of the training texts is bytes"),
            )
        ),
        ("wordpiece", [" \n"], {}, "no text"),
        ("wordpiece", ["\x01\x02"], {}, "no word"),
        ("wordpiece", ["some text"], {"vocab_size": 10}, "vocab_size is 10; the characters"),
        ("wordpiece", ["some text"], {"score": "best"}, "likelihood, frequency"),
        ("wordpiece", ["some text"], {"max_alphabet": 0}, "max_alphabet is 0"),
        ("wordpiece", ["some text"], {"special_tokens": ["sep"]}, "can be spelled by ordinary text"),
        ("unigram", ["some text"], {"vocab_size": 100}, "vocab_size is 100; .* characters, special tokens and bytes"),
        ("unigram", ["some text"], {"pattern": "gpt5"}, "gpt2"),
        ("unigram", ["some text"], {"character_coverage": 0}, "character_coverage is 0"),
        ("unigram", ["some text"], {"seed_size": 0}, "seed_size is 0"),
        ("unigram", ["some text"], {"special_tokens": ["<0x41>"]}, "piece of a byte"),
        ("unigram", [b"bytes"], {"add_prefix_space": True}, "text 0 of the training texts is bytes"),
    ],
)
def test_wrong_requests_are_explained(kind: str, texts: Any, arguments: dict[str, Any], message: str) -> None:
    size = {"wordpiece": 25, "unigram": 320}[kind]
    with pytest.raises(UserError, match=message):
        tokenizer_class(kind)().train_from_iterator(texts, **{"vocab_size": size, **arguments})


@pytest.mark.parametrize("kind", PIECES)
def test_a_size_that_cannot_be_had_names_those_that_can(kind: str) -> None:
    texts = ["one two one two three threes"] * 20

    def size_of(vocab_size: int, **options: Any) -> int:
        return tokenizer_class(kind)().train_from_iterator(texts, vocab_size, **options).vocab_size

    def named_by(vocab_size: int) -> int:
        with pytest.raises(DataError) as caught:
            size_of(vocab_size)
        return int(str(caught.value.hint).split("vocab_size=")[1].split()[0].rstrip(","))

    least, most = named_by(1), named_by(9000)
    assert least < most == size_of(9000, allow_smaller=True)
    assert [size_of(size) for size in range(least, most + 1)] == list(range(least, most + 1))


# ---- encoding ----


@pytest.mark.parametrize("kind", PIECES)
def test_without_the_compiled_library_ids_are_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (unigram_module, wordpiece_module):
        monkeypatch.setattr(module, "compiled_chunk_encoder", lambda definition: None)
    readable = tokenizer_class(kind)(trained(kind).vocabulary)
    assert readable.encode_batch(many_strings(300)) == trained(kind).encode_batch(many_strings(300))


# ---- files ----


@pytest.mark.covers("R118")
@pytest.mark.parametrize(("kind", "vocab_size", "options"), VARIANTS)
def test_saved_and_loaded_again(tmp_path: Path, kind: str, vocab_size: int, options: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    tokenizer = trained(kind, vocab_size, **options)
    tokenizer.save_pretrained(tmp_path / "one")
    AutoTokenizer.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    load_tokenizer(tmp_path / "one").save_pretrained(tmp_path / "three")
    for folder in ("one", "two", "three"):
        again = load_tokenizer(tmp_path / folder)
        assert type(again) is type(tokenizer)
        assert again.fingerprint() == tokenizer.fingerprint()
        assert [again.bos_token, again.eos_token, again.pad_token, again.unk_token] == [
            tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token,
        ]  # fmt: skip
        assert again.encode_batch(many_strings(100)) == tokenizer.encode_batch(many_strings(100))
    for path in sorted((tmp_path / "one").iterdir()):
        assert (tmp_path / "three" / path.name).read_bytes() == path.read_bytes()


def edited(file: Path, path: list[Any], value: Any) -> None:
    """Put a value at a place of a JSON file."""
    content = json.loads(file.read_text("utf-8"))
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "path", "value", "error"),
    [
        *(
            (kind, path, value, error)
            for kind in PIECES
            for path, value, error in (
                (["model"], [], CorruptionError),
                (["added_tokens"], [7], CorruptionError),
                (["added_tokens"], 7, CorruptionError),
                (["added_tokens", 0, "id"], 77, CorruptionError),
                (["post_processor"], 7, CorruptionError),
                (["normalizer"], {"type": "NFC"}, ForeignTokenizerError),
                (["pre_tokenizer"], {"type": "Whitespace"}, ForeignTokenizerError),
                (["pre_tokenizer"], None, ForeignTokenizerError),
                (["model", "type"], "WordLevel", ForeignTokenizerError),
            )
        ),
        ("wordpiece", ["model", "vocab"], {"a": "b"}, CorruptionError),
        ("wordpiece", ["model", "vocab"], {"[UNK]": 70}, CorruptionError),
        ("wordpiece", ["model", "unk_token"], "[NONE]", CorruptionError),
        ("wordpiece", ["normalizer"], 7, CorruptionError),
        ("wordpiece", ["model", "continuing_subword_prefix"], "@@", ForeignTokenizerError),
        ("unigram", ["model", "vocab"], {"a": 1}, CorruptionError),
        ("unigram", ["model", "vocab"], [["a"]], CorruptionError),
        ("unigram", ["model", "vocab", 300], ["a b", -1.0], CorruptionError),
        ("unigram", ["model", "vocab", 300], ["<s>", -1.0], CorruptionError),
        ("unigram", ["model", "vocab", 50], ["zzz", -1.0], CorruptionError),
        ("unigram", ["model", "unk_id"], None, ForeignTokenizerError),
        ("unigram", ["pre_tokenizer", "pretokenizers", 0, "behavior"], "Removed", ForeignTokenizerError),
        ("unigram", ["pre_tokenizer", "pretokenizers", 0, "pattern"], "x", ForeignTokenizerError),
    ],
)
def test_damaged_and_foreign_files_are_named(
    tmp_path: Path, kind: str, path: list[Any], value: Any, error: type[DataError]
) -> None:
    trained(kind).save_pretrained(tmp_path)
    edited(tmp_path / "tokenizer.json", path, value)
    with pytest.raises(error, match=r"tokenizer\.json"):
        {"wordpiece": WordPieceTokenizer, "unigram": UnigramTokenizer}[kind].from_pretrained(tmp_path)
