"""Load a tokenizer, whatever it is: a folder, a file of one of the known kinds, or the name of a published encoding."""

from __future__ import annotations

from pathlib import Path

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.tokenizer.base import Tokenizer
from llm_trainer.tokenizer.bpe import BPETokenizer
from llm_trainer.tokenizer.bpe_format import MERGES_FILE, VOCAB_FILE
from llm_trainer.tokenizer.hf import HFTokenizerWrapper
from llm_trainer.tokenizer.json_folder import CONFIG_FILE, TOKENIZER_FILE, ForeignTokenizerError, load_object
from llm_trainer.tokenizer.sentencepiece import MODEL_FILE, SentencePieceTokenizer
from llm_trainer.tokenizer.sentencepiece_export import KIND, KIND_KEY
from llm_trainer.tokenizer.tiktoken_format import load_tiktoken_encoding, read_tiktoken_file
from llm_trainer.tokenizer.unigram import UnigramTokenizer
from llm_trainer.tokenizer.wordpiece import WordPieceTokenizer
from llm_trainer.tokenizer.wordpiece_format import VOCAB_FILE as BERT_VOCAB_FILE

_TIKTOKEN, _HUB = "tiktoken:", "hf:"
_FILES = (TOKENIZER_FILE, VOCAB_FILE, MERGES_FILE, BERT_VOCAB_FILE)
_OURS: tuple[type[Tokenizer], ...] = (BPETokenizer, WordPieceTokenizer, UnigramTokenizer)


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Load a tokenizer.

    Args:
        source: one of

            - a folder that ``save_pretrained`` wrote, ours or that of transformers; a folder with GPT-2's
              ``vocab.json`` and ``merges.txt``, or with a ``tokenizer.model``;
            - a file: one of those that such a folder holds, a SentencePiece ``.model``, a ``.tiktoken`` rank file (with
              the cut of GPT-4; see :func:`~.tiktoken_format.read_tiktoken_file` for others);
            - ``"tiktoken:gpt2"``, ``"tiktoken:cl100k_base"``, ...: an encoding that tiktoken knows;
            - ``"hf:openai-community/gpt2"``, ...: a name on the Hugging Face hub, through transformers.

    Returns:
        Ours where the folder holds a kind that is ours, else one that runs through transformers.

    Raises:
        DataError: there is no tokenizer there, or it is damaged; the message names the file.
        UserError: the name is empty, or a package that is needed is not installed.
    """
    name = str(source)
    if name.startswith(_TIKTOKEN):
        return load_tiktoken_encoding(name.removeprefix(_TIKTOKEN))
    if name in ("", _HUB):
        raise UserError("the name of the tokenizer is empty", hint="name a folder or a file")
    if name.startswith(_HUB):
        return HFTokenizerWrapper(name.removeprefix(_HUB))
    path = Path(source)
    if path.is_file():
        return _load_file(path)
    return _load_folder(path)


def _load_file(path: Path) -> Tokenizer:
    if path.name in _FILES:
        return _load_folder(path.parent)
    if path.suffix == ".model":
        return SentencePieceTokenizer.from_file(path)
    if path.suffix == ".tiktoken":
        return read_tiktoken_file(path)
    raise DataError(
        f"{path} is not a tokenizer that can be recognised by its name",
        hint="name a folder, a tokenizer.json (a .json file of another name must be called that), a .model "
        "(SentencePiece) or a .tiktoken file",
    )


def _load_folder(folder: Path) -> Tokenizer:
    if (folder / MODEL_FILE).is_file() and _model_file_is_the_original(folder):
        return SentencePieceTokenizer.from_pretrained(folder)
    for kind in _OURS:
        try:
            return kind.from_pretrained(folder)
        except ForeignTokenizerError:
            continue
    return HFTokenizerWrapper(folder)


def _model_file_is_the_original(folder: Path) -> bool:
    """Folders of transformers often hold both files, and then ``tokenizer.json`` has the tokens that came later."""
    if not (folder / TOKENIZER_FILE).is_file():
        return True
    config = folder / CONFIG_FILE
    return config.is_file() and load_object(config).get(KIND_KEY) == KIND
