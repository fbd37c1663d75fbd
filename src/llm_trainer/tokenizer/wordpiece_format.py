"""WordPiece as files: ``tokenizer.json`` for every Hugging Face tool, and BERT's own ``vocab.txt``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.common.files import write_text
from llm_trainer.tokenizer.bert_text import BertText
from llm_trainer.tokenizer.json_folder import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    damaged,
    foreign,
    part,
    read_config,
    read_definition,
    role,
    write_definition,
)
from llm_trainer.tokenizer.wordpiece_vocabulary import BERT_SPECIAL_TOKENS, CLS, MASK, PAD, PREFIX, SEP, UNK
from llm_trainer.tokenizer.wordpiece_vocabulary import WordPieceVocabulary as Vocabulary

VOCAB_FILE = "vocab.txt"


def write_folder(vocabulary: Vocabulary, folder: str | Path) -> None:
    """Write ``vocab.txt``, ``tokenizer_config.json`` and ``tokenizer.json``.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    config = {
        **vocabulary.roles,
        "unk_token": vocabulary.unk_token,
        "cls_token": vocabulary.bos_token,
        "sep_token": vocabulary.eos_token,
        # The names by which BertTokenizer takes the rules for text.
        "do_lower_case": vocabulary.text.lowercase,
        "strip_accents": vocabulary.text.strip_accents,
        "tokenize_chinese_chars": vocabulary.text.split_cjk,
    }
    write_text(folder / VOCAB_FILE, "\n".join(vocabulary.tokens) + "\n")
    write_definition(folder, vocabulary.special_tokens, parts(vocabulary), config)


def parts(vocabulary: Vocabulary) -> dict[str, Any]:
    """What ``tokenizer.json`` says of the algorithm."""
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": vocabulary.text.split_cjk,
            "strip_accents": vocabulary.text.strip_accents,
            "lowercase": vocabulary.text.lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": PREFIX, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": vocabulary.unk_token,
            "continuing_subword_prefix": PREFIX,
            "max_input_chars_per_word": vocabulary.max_word_chars,
            "vocab": vocabulary.ids,
        },
    }


def read_folder(folder: str | Path) -> Vocabulary:
    """Read ``tokenizer.json``, or else ``vocab.txt``.

    Raises:
        DataError: there is neither.
        CorruptionError: a file is damaged.
        ForeignTokenizerError: it is a tokenizer of another kind.
    """
    folder = Path(folder)
    if (folder / TOKENIZER_FILE).is_file() or not (folder / VOCAB_FILE).is_file():
        return _read_json(folder)
    return _read_text(folder)


def _read_json(folder: Path) -> Vocabulary:
    content, special = read_definition(folder, "WordPiece")
    path, model = folder / TOKENIZER_FILE, content["model"]
    normalizer, pre_tokenizer = part(path, content, "normalizer"), part(path, content, "pre_tokenizer")
    if normalizer.get("type") != "BertNormalizer" or not normalizer.get("clean_text", True):
        foreign(path, "it does not clean text as BERT does")
    if pre_tokenizer.get("type") != "BertPreTokenizer":
        foreign(path, "it does not cut text as BERT does")
    if model.get("continuing_subword_prefix", PREFIX) != PREFIX:
        foreign(path, f"its pieces within a word do not start with {PREFIX}")
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not all(type(token_id) is int for token_id in vocab.values()):
        damaged(path, "it has no table of tokens")
    vocab, given = {**vocab, **special}, vocab
    if any(given.get(name, token_id) != token_id for name, token_id in special.items()):
        damaged(path, "a special token has two ids")
    if sorted(vocab.values()) != list(range(len(vocab))):
        damaged(path, f"the ids of its {len(vocab)} tokens are not 0 to {len(vocab) - 1}, each used once")
    text = _text_rules(path, normalizer, ("lowercase", "strip_accents", "handle_chinese_chars"))
    unk_token, limit = model.get("unk_token", UNK), model.get("max_input_chars_per_word", 100)
    if not isinstance(unk_token, str) or type(limit) is not int or limit < 1:
        damaged(path, f"its unk_token is {unk_token!r}, its max_input_chars_per_word {limit!r}")
    if unk_token in vocab:
        special.setdefault(unk_token, vocab[unk_token])
    return _vocabulary(folder, path, sorted(vocab, key=vocab.__getitem__), special, text, unk_token, limit)


def _read_text(folder: Path) -> Vocabulary:
    path = folder / VOCAB_FILE
    try:
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        damaged(path, "it is not UTF-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    config = read_config(folder)
    names_of_rules = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
    text = _text_rules(folder / CONFIG_FILE, config, names_of_rules)
    further = config.get("additional_special_tokens") or []
    if not isinstance(further, list) or not all(isinstance(name, str) for name in further):
        damaged(folder / CONFIG_FILE, f"its additional_special_tokens are {further!r}")
    names = {*BERT_SPECIAL_TOKENS, *further}
    special = {token: token_id for token_id, token in enumerate(tokens) if token in names}
    return _vocabulary(folder, path, tokens, special, text, role(config, "unk_token") or UNK, 100)


def _text_rules(path: Path, settings: Mapping[str, Any], names: tuple[str, str, str]) -> BertText:
    """The rules for text from the settings of these names: small letters, accents (unset: as those), Chinese."""
    lowercase, accents, chinese = (settings.get(name) for name in names)
    for name, value in zip(names, (lowercase, accents, chinese)):
        if value not in (None, True, False):
            damaged(path, f"its {name} is {value!r}, not true or false")
    small = lowercase is None or bool(lowercase)
    return BertText(small, small if accents is None else bool(accents), chinese is None or bool(chinese))


def _vocabulary(
    folder: Path, path: Path, tokens: list[str], special: dict[str, int], text: BertText, unk_token: str, limit: int
) -> Vocabulary:
    config = read_config(folder)
    default = {name: name if name in special else None for name in (CLS, SEP, PAD, MASK)}
    try:
        return Vocabulary(
            tokens=tokens,
            special_tokens=dict(sorted(special.items(), key=lambda item: item[1])),
            text=text,
            unk_token=unk_token,
            max_word_chars=limit,
            bos_token=role(config, "bos_token", "cls_token") or default[CLS],
            eos_token=role(config, "eos_token", "sep_token") or default[SEP],
            pad_token=role(config, "pad_token") or default[PAD],
            mask_token=role(config, "mask_token") or default[MASK],
        )
    except DataError as error:
        raise CorruptionError(f"{path} is not a sound tokenizer: {error.message}", hint=error.hint) from None
