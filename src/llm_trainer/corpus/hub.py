"""Data sets on the Hugging Face hub, the last place to look: only if it answers within seconds, read as a stream."""

from __future__ import annotations

import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from llm_trainer.common.errors import DataError
from llm_trainer.common.hashing import fingerprint
from llm_trainer.common.optional import require
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.source import SPLIT_ALIASES, RecordsSource, Source, as_document

REACH_SECONDS = 4.0
"""How long to wait for the hub's first answer. The libraries themselves retry for minutes before they give up."""

LOCAL_FILES_HINT = (
    "use files on this machine instead: --text FILE_OR_FOLDER, or data.dataset_name=PATH, or put them in "
    "$LLM_TRAINER_DATA/NAME or ./data/NAME (with internet access: check the connection and try again)"
)


class HubUnreachableError(DataError):
    """The hub does not answer, or the environment forbids asking it."""


def open_hub_dataset(name: str, config: str | None, *, text_column: str, streaming: bool) -> Source:
    """Find a data set on the hub, or in the hub's cache on this machine when ``HF_HUB_OFFLINE=1``.

    Args:
        name: for example ``"wikitext"`` or ``"HuggingFaceTB/cosmopedia-20k"``.
        config: its configuration (subset), where it has several.
        text_column: the column with the text.
        streaming: read over the network as needed, instead of downloading everything first.

    Raises:
        DataError: unreachable, unknown, needs a configuration name, or the extra ``hf`` is not installed.
    """
    offline = _offline()
    if not offline:
        _require_answer(name)
    datasets = require("datasets", extra="hf", purpose=f"loading {name!r} from the Hugging Face hub")
    try:
        if offline:
            cached = datasets.load_dataset(name, config)
            described = f"{name} (the hub's cache on this machine)"
            return RecordsSource(cached, name=name, text_column=text_column, description=described)
        builder = datasets.load_dataset_builder(name, config)
        splits = datasets.get_dataset_split_names(name, config)
    except ConnectionError as error:
        reason = "HF_HUB_OFFLINE is set and it is not in the hub's cache" if offline else str(error)
        raise _unreachable(name, reason) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"the hub cannot give {name!r}: {error}", hint=LOCAL_FILES_HINT) from None
    return HubSource(datasets, builder.info, name, config, splits, text_column, streaming)


class HubSource(Source):
    """A data set on the hub, through the ``datasets`` library."""

    def __init__(
        self,
        datasets: Any,
        info: Any,
        name: str,
        config: str | None,
        splits: list[str],
        text_column: str,
        streaming: bool,
    ) -> None:
        super().__init__()
        self.name = name
        self.description = f"{name}{f' ({config})' if config else ''} from the Hugging Face hub"
        self._datasets = datasets
        self._info = info
        self._config = config
        self._text_column = text_column
        self._streaming = streaming
        self._names = {SPLIT_ALIASES.get(split, split): split for split in splits}
        self.splits = tuple(self._names)

    def documents(self, split: str) -> Iterator[Document]:
        """The non-blank rows of one split."""
        rows = self._datasets.load_dataset(self.name, self._config, split=self._names[split], streaming=self._streaming)
        for number, row in enumerate(rows, start=1):
            document = as_document(row, number, self._text_column, self.name)
            if document.text.strip():
                self.report.documents += 1
                yield document
            else:
                self.report.empty_records += 1

    def fingerprint(self, split: str) -> str:
        """Name, configuration, version and published sizes: what the hub says without a download."""
        published = self._published(split)
        size = [published.num_examples, published.num_bytes] if published else None
        return fingerprint([self.name, self._config, split, str(self._info.version), size, self._text_column])

    def total_bytes(self, split: str) -> int | None:
        """Bytes of all columns, as published."""
        published = self._published(split)
        return int(published.num_bytes) if published and published.num_bytes else None

    def known_count(self, split: str) -> int | None:
        """Number of rows, as published."""
        published = self._published(split)
        return int(published.num_examples) if published and published.num_examples else None

    def _published(self, split: str) -> Any:
        return (self._info.splits or {}).get(self._names.get(split, split))


def _offline() -> bool:
    return any(os.environ.get(name, "").upper() in {"1", "TRUE", "YES", "ON"} for name in _OFFLINE_VARIABLES)


_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def _require_answer(name: str) -> None:
    """Ask the hub about the data set once, with a short time limit."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{endpoint}/api/datasets/{urllib.parse.quote(name)}"
    try:
        with urllib.request.urlopen(url, timeout=REACH_SECONDS):
            return
    except urllib.error.HTTPError as error:
        # The hub answered. It may still want a token, which the datasets library knows how to send.
        if error.code == 404:
            raise DataError(f"the hub at {endpoint} has no data set called {name!r}", hint=LOCAL_FILES_HINT) from None
    except (OSError, ValueError) as error:
        raise _unreachable(name, f"{endpoint} does not answer: {getattr(error, 'reason', error)}") from None


def _unreachable(name: str, reason: str) -> HubUnreachableError:
    return HubUnreachableError(
        f"there is no data set {name!r} on this machine, and the Hugging Face hub cannot be asked ({reason})",
        hint=LOCAL_FILES_HINT,
    )
