"""Any Hugging Face tokenizer behind our interface: a local folder, or a name on the hub where it can be reached."""

from __future__ import annotations

import json
import os
import tempfile
import urllib.error
import urllib.request
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_trainer.common.errors import DataError, UserError
from llm_trainer.common.files import explain_os_errors, write_bytes
from llm_trainer.common.hashing import fingerprint
from llm_trainer.common.optional import require
from llm_trainer.tokenizer.base import Tokenizer, as_id_list
from llm_trainer.tokenizer.chat_format import named_template, write_chat_template
from llm_trainer.tokenizer.json_folder import CONFIG_FILE, TOKENIZER_FILE
from llm_trainer.tokenizer.pretokenize import replace_surrogates
from llm_trainer.tokenizer.streaming import StreamDecoder, WindowStreamDecoder
from llm_trainer.tokenizer.vocabulary import unprintable

if TYPE_CHECKING:
    from typing_extensions import Self

_PURPOSE = "loading a Hugging Face tokenizer"
_HUB_SECONDS = 4.0


class HFTokenizerWrapper(Tokenizer):
    """A tokenizer of transformers, used as any other of ours.

    The rules are ours: text that spells a special token is plain text unless it is allowed, and
    ``add_special_tokens`` puts the start token first and nothing last. A tokenizer without a padding token pads with
    its end token; attention masks tell the two apart.

    Args:
        name_or_dir: a folder with ``tokenizer.json``, or a name on the hub such as ``"openai-community/gpt2"``.

    Raises:
        DataError: nothing can be loaded from there; the message says how to do without a network.
        UserError: transformers is not installed.
    """

    def __init__(self, name_or_dir: str | Path) -> None:
        self.name_or_dir = str(name_or_dir)
        self._tokenizer: Any = _load(self.name_or_dir)
        self._backend: Any = self._tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        self.bos_token = self._tokenizer.bos_token
        self.eos_token = self._tokenizer.eos_token
        self.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        added = sorted(self._backend.get_added_tokens_decoder().items())
        self._special = {token.content: token_id for token_id, token in added if token.special}
        self._added: dict[int, str] = {token_id: token.content for token_id, token in added if not token.special}
        self._special_ids = frozenset(self._special.values())
        self._vocab_size: int = 1 + max(self._backend.get_vocab(with_added_tokens=True).values())
        self._decoder_kinds = _decoder_kinds(self._backend)
        self.exact_pieces = _is_exact(self._backend)
        source = self._tokenizer.chat_template
        self.chat_template = named_template(source, self.name_or_dir) if isinstance(source, str) else None

    @property
    def vocab_size(self) -> int:
        """Highest id + 1, tokens that were added later included (``transformers`` leaves those out)."""
        return self._vocab_size

    @property
    def special_tokens(self) -> dict[str, int]:
        """Text of each special token -> its id."""
        return self._special

    def _encode_plain(self, text: str) -> list[int]:
        ids: list[int] = self._encoding(self._backend, text).ids
        return ids

    def _encode_allowing(self, text: str, allowed: frozenset[str]) -> list[int]:
        ids: list[int] = self._encoding(self._finding_specials, text).ids
        return super()._encode_allowing(text, allowed) if self._spells_others(text, ids, allowed) else ids

    def _spells_others(self, text: str, ids: list[int], allowed: frozenset[str]) -> bool:
        """Whether special tokens that are not allowed were found in a text: `tokenizers` finds all of them or none."""
        others = self._special.keys() - allowed
        unknown = self._tokenizer.unk_token  # stands for what cannot be spelled, too
        found = {self._special[token] for token in others if token != unknown}.intersection(ids)
        return bool(found) or any(token in text for token in others)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_finding_specials"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._backend.encode_special_tokens = True  # what tokenizers forgets in a copy

    @cached_property
    def _finding_specials(self) -> Any:
        """A copy that finds special tokens in text: switching one back and forth would let them through in threads."""
        backend = type(self._backend).from_str(self._backend.to_str())
        backend.encode_special_tokens = False
        return backend

    def _encoding(self, backend: Any, text: str) -> Any:
        return backend.encode(replace_surrogates(text), add_special_tokens=False)

    def _encode_with_offsets(self, text: str, allowed: frozenset[str]) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self._encoding(self._finding_specials if allowed else self._backend, text)
        if allowed and self._spells_others(text, encoding.ids, allowed):
            raise UserError(
                "where the tokens of this text come from is not known: it spells special tokens that are not allowed",
                hint='pass allowed_special="all", or leave it out',
            )
        return encoding.ids, encoding.offsets

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of ids.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        wanted = as_id_list(ids)
        for token_id in wanted:
            self._check_id(token_id)
        text: str = self._backend.decode(wanted, skip_special_tokens=skip_special_tokens)
        return text

    def stream_decoder(self, *, skip_special_tokens: bool = False) -> StreamDecoder:
        """Decode while tokens arrive; see :class:`~llm_trainer.tokenizer.streaming.WindowStreamDecoder`."""
        return WindowStreamDecoder(lambda ids: self.decode(ids, skip_special_tokens=skip_special_tokens))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token in running text, for byte-level, SentencePiece and WordPiece vocabularies.

        Raises:
            DataError: the id is not in the vocabulary.
        """
        self._check_id(token_id)
        piece: str | None = self._backend.id_to_token(token_id)
        if piece is None or token_id in self._special_ids:  # None: a hole between the ids
            return b""
        if token_id in self._added:
            return self._added[token_id].encode("utf-8")
        if "ByteLevel" in self._decoder_kinds:
            return unprintable(piece)
        if "ByteFallback" in self._decoder_kinds and len(piece) == 6 and piece.startswith("<0x"):
            return bytes([int(piece[3:5], 16)])
        if "WordPiece" in self._decoder_kinds:
            return piece[2:].encode("utf-8") if piece.startswith("##") else b" " + piece.encode("utf-8")
        return piece.replace("▁", " ").encode("utf-8")

    def _check_id(self, token_id: int) -> None:
        if not 0 <= token_id < self._vocab_size:
            raise DataError(
                f"{token_id} is not a token id: {self.name_or_dir} has ids 0 to {self._vocab_size - 1}",
                hint="is this the tokenizer that the model was trained with?",
            )

    def fingerprint(self) -> str:
        """16 hexadecimal digits over the whole definition of the tokenizer and the roles of its special tokens."""
        roles = [self.bos_token, self.eos_token, self.pad_token]
        return fingerprint({"kind": "Hugging Face", "tokenizer": json.loads(self._backend.to_str()), "roles": roles})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files that transformers writes, each whole or not at all, and ``tokenizer.json`` last."""
        folder = Path(folder)
        with explain_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".tokenizer.", dir=folder) as temporary:
                self._tokenizer.save_pretrained(temporary)
                written = sorted(Path(temporary).iterdir(), key=lambda path: (path.name == TOKENIZER_FILE, path.name))
                for path in written:
                    write_bytes(folder / path.name, path.read_bytes())
        write_chat_template(folder, self.chat_template)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The same as the constructor."""
        return cls(folder)


def _load(name_or_dir: str) -> Any:
    """A fast tokenizer of transformers. Code that comes with a tokenizer is never run."""
    folder = Path(name_or_dir)
    if folder.is_dir():
        return _load_folder(folder)
    if folder.is_absolute() or name_or_dir.startswith(".") or name_or_dir.count("/") > 1:
        raise DataError(f"the folder {folder} does not exist", hint="check the path")
    return _load_from_hub(name_or_dir)


def _load_folder(folder: Path) -> Any:
    if not (folder / TOKENIZER_FILE).is_file():
        raise DataError(f"there is no {TOKENIZER_FILE} in {folder}", hint="name the folder that save_pretrained wrote")
    transformers = require("transformers", extra="hf", purpose=_PURPOSE)
    try:
        if not (folder / CONFIG_FILE).is_file():
            return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / TOKENIZER_FILE))
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # noqa: BLE001 - the Rust library raises bare Exception for a file it cannot parse
        raise DataError(f"the tokenizer in {folder} cannot be loaded: {_first_line(error)}") from None


def _load_from_hub(name: str) -> Any:
    transformers = require("transformers", extra="hf", purpose=_PURPOSE)
    reachable = _hub_answers()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, local_files_only=not reachable)
    except Exception as error:  # noqa: BLE001 - network, cache and parser each raise errors of their own
        reason = _first_line(error) if reachable else "it is not in the cache and the hub does not answer"
        raise DataError(
            f"there is no folder {name!r}, and no tokenizer of that name on the Hugging Face hub: {reason}",
            hint=f"where there is a network, run: hf download {name} --include 'tokenizer*' --local-dir FOLDER; "
            "then pass the folder here, or train your own with BPETokenizer",
        ) from None
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer {name} has no fast version ({TOKENIZER_FILE})", hint="choose another one")
    return tokenizer


def _hub_answers() -> bool:
    """Ask once: the hub's own library retries for about a minute before it gives up."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    request = urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_HUB_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _decoder_kinds(backend: Any) -> frozenset[str]:
    """The steps by which a tokenizer turns pieces into text."""
    decoder = json.loads(backend.to_str()).get("decoder") or {}
    return frozenset(step.get("type", "") for step in decoder.get("decoders", [decoder]))


def _is_exact(backend: Any) -> bool:
    """Byte-level without a prefix space and without a change to the text: pieces encoded apart make up the whole."""
    definition = json.loads(backend.to_str())
    cut = definition.get("pre_tokenizer") or {}
    steps = cut.get("pretokenizers", [cut])
    byte_level = [step for step in steps if step.get("type") == "ByteLevel"]
    prefixed = any(step.get("add_prefix_space") for step in steps)
    return bool(byte_level) and not prefixed and definition.get("normalizer") is None
