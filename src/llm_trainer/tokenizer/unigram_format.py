"""Unigram as files: ``tokenizer.json`` for every Hugging Face tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.tokenizer.json_folder import (
    TOKENIZER_FILE,
    damaged,
    foreign,
    read_config,
    read_definition,
    role,
    write_definition,
)
from llm_trainer.tokenizer.unigram_vocabulary import BYTE_PIECES, SPACE, UnigramVocabulary

_METASPACE = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False}
_PREFIX = {"type": "Prepend", "prepend": " "}
_SPACES = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def write_folder(vocabulary: UnigramVocabulary, folder: str | Path) -> None:
    """Write ``tokenizer_config.json`` and ``tokenizer.json``.

    Raises:
        UserError: the folder cannot be written.
    """
    config = {**vocabulary.roles, "unk_token": vocabulary.unk_token}
    write_definition(Path(folder), vocabulary.special_tokens, parts(vocabulary), config)


def parts(vocabulary: UnigramVocabulary) -> dict[str, Any]:
    """What ``tokenizer.json`` says of the algorithm."""
    split = {"type": "Split", "pattern": {"Regex": vocabulary.pattern}, "behavior": "Isolated", "invert": False}
    steps = [_SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}]
    return {
        "normalizer": _PREFIX if vocabulary.add_prefix_space else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [_METASPACE] if vocabulary.pattern is None else [split, _METASPACE],
        },
        "decoder": {"type": "Sequence", "decoders": [*steps, _STRIP] if vocabulary.add_prefix_space else steps},
        "model": model(vocabulary),
    }


def model(vocabulary: UnigramVocabulary) -> dict[str, Any]:
    """Pieces and log-probabilities, with special tokens and bytes so improbable that text never matches them.

    ``tokenizers`` lets text match every entry of the vocabulary. Spelled out, ``</s>`` costs four pieces at most; an
    entry that costs more than any spelling of as many characters is never taken.
    """
    hidden = vocabulary.unk_score * (1 + max(map(len, [*vocabulary.special_tokens, BYTE_PIECES[0]])))
    return {
        "type": "Unigram",
        "unk_id": vocabulary.unk_id,
        "vocab": [
            [text, vocabulary.scores[text][1] if text in vocabulary.scores else hidden] for text, _ in vocabulary.pieces
        ],
        "byte_fallback": vocabulary.byte_fallback,
    }


def read_folder(folder: str | Path) -> UnigramVocabulary:
    """Read ``tokenizer.json``.

    Raises:
        DataError: there is none.
        CorruptionError: a file is damaged.
        ForeignTokenizerError: it is a tokenizer of another kind.
    """
    folder = Path(folder)
    content, special = read_definition(folder, "Unigram")
    path, model_part = folder / TOKENIZER_FILE, content["model"]
    if content.get("normalizer") not in (None, _PREFIX):
        foreign(path, "it changes text before encoding (normalizer)")
    pattern = _read_pattern(path, content.get("pre_tokenizer"))
    pieces, unk_id = model_part.get("vocab"), model_part.get("unk_id")
    if not isinstance(pieces, list) or not all(_is_piece(piece) for piece in pieces):
        damaged(path, "it has no list of pieces with their log-probabilities")
    if type(unk_id) is not int or not 0 <= unk_id < len(pieces):
        foreign(path, "it has no token for unknown characters")
    ids = {text: index for index, (text, _) in enumerate(pieces)}
    if any(ids.get(name, index) != index for name, index in special.items()):
        damaged(path, "a special token has two ids")
    later = sorted((index, name) for name, index in special.items() if name not in ids)
    if [index for index, _ in later] != list(range(len(pieces), len(pieces) + len(later))):
        damaged(path, "the ids of its added tokens do not follow those of its pieces")
    special.setdefault(pieces[unk_id][0], unk_id)
    config = read_config(folder)
    try:
        return UnigramVocabulary(
            pieces=[*((text, float(score)) for text, score in pieces), *((name, 0.0) for _, name in later)],
            special_tokens=dict(sorted(special.items(), key=lambda item: item[1])),
            pattern=pattern,
            byte_fallback=bool(model_part.get("byte_fallback")),
            add_prefix_space=content.get("normalizer") == _PREFIX,
            unk_token=pieces[unk_id][0],
            bos_token=role(config, "bos_token"),
            eos_token=role(config, "eos_token"),
            pad_token=role(config, "pad_token", "eos_token"),
        )
    except DataError as error:
        raise CorruptionError(f"{path} is not a sound tokenizer: {error.message}", hint=error.hint) from None


def _is_piece(entry: Any) -> bool:
    return (
        isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], int | float)
    )


def _read_pattern(path: Path, pre_tokenizer: Any) -> str | None:
    """The cut of a pre-tokenizer as :func:`parts` writes it."""
    steps = pre_tokenizer.get("pretokenizers") if isinstance(pre_tokenizer, dict) else None
    if not isinstance(steps, list) or not steps or steps[-1] != _METASPACE or len(steps) > 2:
        foreign(path, "it does not cut text at spaces as ours do")
    if len(steps) == 1:
        return None
    split = steps[0] if isinstance(steps[0], dict) else {}
    rule = split.get("pattern")
    expression = rule.get("Regex") if split.get("type") == "Split" and isinstance(rule, dict) else None
    if split.get("behavior") != "Isolated" or split.get("invert") or not isinstance(expression, str):
        foreign(path, "it cuts text in a way that is not one expression")
    return str(expression)
