"""One JSON value in a file: a list of records, one record, or an object of columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_trainer.common.files import human_bytes
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.files_columns import document_of, files_options, parse_json, stream_limits
from llm_trainer.corpus.sources.files_stream import as_utf8, read_blocks
from llm_trainer.corpus.sources.kinds import ReadRequest

_SPACE = " \t\r\n"


def read_json(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """The records of a ``.json`` file; ids are their numbers from 1. JSON Lines under that name are read too."""
    if request.part and request.part.start:
        return
    for number, record in json_values(path, request, losses, columns=request.text_column):
        where = f"{path}:item {number}" if number else str(path)
        document = document_of(record, str(number) if number else "", where, request, losses)
        if document:
            yield document


def json_values(
    path: Path, request: ReadRequest, losses: Losses, *, columns: str | None = None
) -> Iterator[tuple[int, Any]]:
    """The items of the list in a ``.json`` file, numbered from 1; anything but a list is item 0.

    What stands before the first mistake of a damaged file is given.

    Args:
        path: the file.
        request: its options bound the size.
        losses: gets ``too_large``, ``invalid_encoding`` or ``invalid_json``.
        columns: an object whose value under this key is a list is taken for columns, and that list is given.
    """
    data = _content(path, request, losses)
    if data is None or not data.strip():
        return
    try:
        value = parse_json(data)
    except ValueError as error:
        yield from _salvage(data, path, losses, error)
        return
    if columns and isinstance(value, dict) and isinstance(value.get(columns), list):
        value = value[columns]
    if isinstance(value, list):
        yield from enumerate(value, start=1)
    else:
        yield 0, value


def _content(path: Path, request: ReadRequest, losses: Losses) -> bytes | None:
    limit = files_options(request).max_json_bytes
    held = bytearray()
    blocks = read_blocks(path, losses, stream_limits(request))
    for block in as_utf8(blocks, request.encoding, path, losses):
        held += block
        if len(held) > limit:
            losses.add("too_large", str(path), f"one JSON value over {human_bytes(limit)}; use JSON Lines")
            return None
    return bytes(held.removeprefix(b"\xef\xbb\xbf"))


def _salvage(data: bytes, path: Path, losses: Losses, error: ValueError) -> Iterator[tuple[int, Any]]:
    """Items of a list that breaks off, or values that follow each other, up to the first mistake of each line."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as wrong:
        losses.add("invalid_encoding", f"{path}:byte {wrong.start}", f"not UTF-8: {wrong.reason}")
        text = data[: wrong.start].decode("utf-8")
    decoder = json.JSONDecoder()
    position = _skip(text, 0, _SPACE)
    in_list = text[position : position + 1] == "["
    position += in_list
    number = 0
    while position < len(text):
        position = _skip(text, position, _SPACE + ("," if in_list else ""))
        if position >= len(text) or (in_list and text[position] == "]"):
            break
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as problem:
            losses.add("invalid_json", f"{path}:character {position}", str(problem))
            line_end = text.find("\n", position)
            if in_list or line_end < 0:
                return
            position = line_end + 1
            continue
        position = end
        number += 1
        yield number, value
    if in_list:
        losses.add("invalid_json", str(path), f"the list does not end as it should ({error})")


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position
