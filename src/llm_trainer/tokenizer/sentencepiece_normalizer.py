"""How SentencePiece changes text before it cuts it, and where each changed character came from.

Three things happen (src/normalizer.cc of github.com/google/sentencepiece): characters are replaced by a table compiled
into the model (NFKC and the like; models such as Llama 2 have none), white space is collapsed if the model says so, and
a space is put in front of the text. Spaces are then written ``▁``.

The table is a double-array trie in the layout of darts-clone (github.com/s-yata/darts-clone), followed by the
replacements, each ended by a zero byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import regex

from llm_trainer.common.errors import CorruptionError
from llm_trainer.tokenizer.sentencepiece_model import SPACE, USER_DEFINED, SentencePieceModel

Place = tuple[int, int]  # (start, end) in characters of the original text


class Normalizer:
    """Text -> normalised text, with the place of each character."""

    def __init__(self, model: SentencePieceModel) -> None:
        self._model = model
        self._table = _Charsmap(model.charsmap) if model.charsmap else None
        symbols = [piece.text for piece in model.pieces if piece.kind == USER_DEFINED]
        ordered = sorted(symbols, key=lambda symbol: (-len(symbol), symbol))
        self._symbols = regex.compile("|".join(map(regex.escape, ordered))) if symbols else None

    @property
    def symbols(self) -> regex.Pattern[str] | None:
        """Finds user-defined symbols, which are never changed or cut."""
        return self._symbols

    def normalize(self, text: str) -> tuple[str, Sequence[Place]]:
        """The normalised text and, for each of its characters, where it came from."""
        model = self._model
        if not text:
            return "", []
        characters: list[str] = []
        places: list[Place] = []
        after_space = model.remove_extra_whitespaces
        for new, place in self._replaced(text):
            for character in new:
                if character == " " and after_space:
                    continue
                characters.append(SPACE if character == " " else character)
                places.append(place)
                after_space = model.remove_extra_whitespaces and character == " "
        if model.remove_extra_whitespaces:
            while characters and characters[-1] == SPACE:
                characters.pop()
                places.pop()
            if not characters:
                return "", []
        if model.add_dummy_prefix:
            if model.treat_whitespace_as_suffix:
                characters.append(SPACE)
                places.append((len(text), len(text)))
            else:
                characters.insert(0, SPACE)
                places.insert(0, places[0])  # as in `tokenizers`: what is put in front belongs to the first character
        return "".join(characters), places

    def text_only(self, text: str) -> str:
        """:meth:`normalize` without the places; a simple replacement where the model changes nothing else."""
        model = self._model
        if self._table is not None or model.remove_extra_whitespaces or model.treat_whitespace_as_suffix or not text:
            return self.normalize(text)[0]
        return (SPACE if model.add_dummy_prefix else "") + text.replace(" ", SPACE)

    def _replaced(self, text: str) -> Iterator[tuple[str, Place]]:
        """Pieces of the text after replacement, each with where it was."""
        position = 0
        protected = [match.span() for match in self._symbols.finditer(text)] if self._symbols else []
        for start, end in [*protected, (len(text), len(text))]:
            while position < start:
                new, size = self._table.longest(text, position) if self._table else (text[position], 1)
                yield new, (position, position + size)
                position += size
            for position in range(start, end):
                yield text[position], (position, position + 1)
            position = end


class _Charsmap:
    """The compiled table of replacements."""

    def __init__(self, data: bytes) -> None:
        size = struct.unpack("<I", data[:4])[0] if len(data) >= 4 else 0
        if size < 4 or size % 4 or 4 + size > len(data):
            raise CorruptionError("its table of character replacements is cut off")
        self._units = struct.unpack(f"<{size // 4}I", data[4 : 4 + size])
        self._strings = data[4 + size :]
        self._known: dict[str, tuple[str, int] | None] = {}

    def longest(self, text: str, position: int) -> tuple[str, int]:
        """The replacement for the longest known beginning of ``text[position:]``, and how many characters it takes."""
        units = self._units
        node = _offset(units[0])
        best: tuple[str, int] | None = None
        for count, character in enumerate(text[position : position + 32], 1):
            for byte in character.encode("utf-8"):
                node ^= byte
                if node >= len(units) or units[node] & 0x800000FF != byte:
                    return best or (text[position], 1)
                unit = units[node]
                node ^= _offset(unit)
                has_leaf = unit >> 8 & 1
            if has_leaf and node < len(units):
                start = units[node] & 0x7FFFFFFF
                best = self._string(start), count
        return best or (text[position], 1)

    def _string(self, start: int) -> str:
        end = self._strings.find(b"\0", start)
        return self._strings[start : end if end >= 0 else len(self._strings)].decode("utf-8", errors="replace")


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)
