"""The Pile's form: compressed JSON Lines with ``meta.pile_set_name``, and the five kinds of text that it is made of.

The components and their names are those of Gao et al. 2020 (https://arxiv.org/abs/2101.00027), table 1. The five
categories are the paper's; where its figure 1 leaves a small part without a label, the choice is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_trainer.corpus.document import Document
from llm_trainer.corpus.losses import Losses
from llm_trainer.corpus.sources.files import json_records
from llm_trainer.corpus.sources.files_columns import document_of
from llm_trainer.corpus.sources.files_stream import StreamLimits
from llm_trainer.corpus.sources.kinds import Kind, ReadRequest

PILE_CATEGORIES = {
    "Pile-CC": "online",
    "PubMed Central": "academic",
    "Books3": "prose",
    "OpenWebText2": "online",
    "ArXiv": "academic",
    "Github": "misc",
    "FreeLaw": "academic",
    "StackExchange": "online",
    "USPTO Backgrounds": "academic",
    "PubMed Abstracts": "academic",
    "Gutenberg (PG-19)": "prose",
    "OpenSubtitles": "dialog",
    "Wikipedia (en)": "online",
    "DM Mathematics": "misc",
    "Ubuntu IRC": "dialog",
    "BookCorpus2": "prose",
    "EuroParl": "dialog",
    "HackerNews": "dialog",
    "YoutubeSubtitles": "dialog",
    "PhilPapers": "academic",
    "NIH ExPorter": "academic",
    "Enron Emails": "dialog",
}
"""Component, as ``meta.pile_set_name`` writes it -> ``academic``, ``online``, ``prose``, ``dialog`` or ``misc``."""


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


_PLAIN_NAMES = {_plain(name): category for name, category in PILE_CATEGORIES.items()} | {
    "gutenberg": "prose",
    "pg19": "prose",
    "wikipedia": "online",
    "bookcorpus": "prose",
}


def pile_category(component: str) -> str | None:
    """The category of a component, however its name is written; None for a name that is none of the Pile's."""
    return _PLAIN_NAMES.get(_plain(component))


class PileOptions(StreamLimits):
    """Options of the Pile."""

    components: list[str] | None = None
    """Components to take, as ``meta.pile_set_name`` writes them; None: all."""


def read_pile(path: Path, request: ReadRequest, losses: Losses) -> Iterator[Document]:
    """One document a record, with ``component`` and ``category`` in its metadata; the id is the record's offset."""
    options = request.options if isinstance(request.options, PileOptions) else PileOptions()
    wanted = None if options.components is None else set(map(_plain, options.components))
    for offset, record in json_records(path, request, losses):
        where = f"{path}:byte {offset}"
        component = _component(record)
        if wanted is not None and _plain(component or "") not in wanted:
            losses.add("other_component", where, component or "without a name")
            continue
        document = document_of(record, str(offset), where, request, losses)
        if document is None:
            continue
        metadata: dict[str, Any] = dict(document.metadata)
        if component:
            metadata["component"] = component
            category = pile_category(component)
            if category:
                metadata["category"] = category
        yield Document(document.text, document.id, "", metadata)


def _component(record: object) -> str | None:
    meta = record.get("meta") if isinstance(record, dict) else None
    name = meta.get("pile_set_name") if isinstance(meta, dict) else None
    return name if isinstance(name, str) else None


KIND_PILE = Kind(
    name="pile",
    description="The Pile's .jsonl.zst with the component of every document",
    read=read_pile,
    suffixes=(".pile.jsonl.zst",),
    options=PileOptions,
)
