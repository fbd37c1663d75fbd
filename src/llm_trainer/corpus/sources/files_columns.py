"""One record of a table or of JSON to one document, or to a reason why not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from llm_trainer.common.errors import DataError
from llm_trainer.common.optional import require
from llm_trainer.config.base import Int
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.files_stream import StreamLimits
from llm_trainer.corpus.sources.kinds import ReadRequest

_LONGEST_VALUE = 1000
_LONGEST_NAMED_VALUE = 10_000


class FilesOptions(StreamLimits):
    """Options of local files."""

    metadata_columns: Literal["all", "none"] | list[str] = "all"
    """Which other columns become metadata. ``all`` leaves out nested values and texts over 1000 characters; a list of
    names takes them too, up to 10,000 characters as JSON."""
    max_json_bytes: Int = 256 << 20
    """A ``.json`` file is one value and has to be in memory whole; a larger one is not read. JSON Lines may be
    of any size."""


def files_options(request: ReadRequest) -> FilesOptions:
    """The options of a request, or the defaults when another kind calls."""
    return request.options if isinstance(request.options, FilesOptions) else FilesOptions()


def stream_limits(request: ReadRequest) -> StreamLimits:
    """How far the file may grow when it is decompressed; every kind of compressed file has these options."""
    return request.options if isinstance(request.options, StreamLimits) else StreamLimits()


def parse_json(data: bytes) -> Any:
    """One JSON value, as fast as it goes.

    orjson reads 562 MB/s where the standard library reads 352, but refuses NaN, numbers beyond 64 bits and lone
    surrogates; those records get a second try.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    orjson = require("orjson", extra="data", purpose="reading JSON")
    try:
        return orjson.loads(data)
    except ValueError:
        try:
            return json.loads(data)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def document_of(record: Any, name: str, where: str, request: ReadRequest, losses: Losses) -> Document | None:
    """The document of a record, or None and one count.

    Args:
        record: an object with the text column, or a bare string.
        name: the document's id inside its file.
        where: file and place, for the count.
        request: which column, how long.
        losses: gets ``no_text_column``, ``not_text``, ``empty``, ``too_large`` or ``invalid_unicode``.
    """
    text = record
    metadata: dict[str, Any] = {}
    if isinstance(record, Mapping):
        if request.text_column not in record:
            columns = ", ".join(map(repr, list(record)[:8])) or "none"
            losses.add("no_text_column", where, f"no column {request.text_column!r}; there are {columns}")
            return None
        text = record[request.text_column]
        metadata = metadata_of(record, files_options(request), request.text_column)
    reason = why_not_text(text, request.max_document_chars)
    if reason:
        losses.add(reason, where, f"{len(text):,} characters" if reason == "too_large" else type(text).__name__)
        return None
    return Document(normalise_lines(text), name, "", metadata)


def why_not_text(text: Any, max_chars: int) -> str | None:
    """The reason why a value cannot be a document's text; None if it can."""
    if text is None:
        return "empty"
    if not isinstance(text, str):
        return "not_text"
    if not text.strip():
        return "empty"
    if len(text) > max_chars:
        return "too_large"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, written as an escape
        return "invalid_unicode"
    return None


def normalise_lines(text: str) -> str:
    """``\\n`` line ends, no byte order mark."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.lstrip("\ufeff")


def metadata_of(record: Mapping[Any, Any], options: FilesOptions, text_column: str) -> dict[str, Any]:
    """The other columns of a record, as far as the options take them and JSON can hold them."""
    if options.metadata_columns == "none":
        return {}
    if options.metadata_columns == "all":
        return {
            str(key): value
            for key, value in record.items()
            if key != text_column and _is_scalar(value) and _is_clean(str(value), _LONGEST_VALUE)
        }
    kept = {}
    for key in options.metadata_columns:
        value = record.get(key)
        if value is None or key == text_column:
            continue
        try:
            written = json.dumps(value, allow_nan=False, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):
            written = str(value)
            value = written
        if _is_clean(written, _LONGEST_NAMED_VALUE):
            kept[key] = value
    return kept


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value))


def _is_clean(text: str, limit: int) -> bool:
    if len(text) > limit:
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_encoding(encoding: str, path: Path) -> None:
    """Refuse a name that is no encoding before a million files are read with it.

    Raises:
        DataError: Python knows no encoding of that name.
    """
    try:
        "".encode(encoding)
    except LookupError:
        raise DataError(
            f"there is no text encoding called {encoding!r} (asked for {path})",
            hint="for example: utf-8, latin-1, utf-16, shift_jis",
        ) from None
