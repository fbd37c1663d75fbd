"""Our side of ``data_pipeline.py``: one JSON object in and one out, in a fresh process, like datatrove's side."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import now, peak_memory

from llm_trainer.corpus.dedup.clusters import find_near
from llm_trainer.corpus.dedup.exact import exact_keys, find_exact
from llm_trainer.corpus.dedup.minhash import MinHash, jaccard
from llm_trainer.corpus.document import Document
from llm_trainer.corpus.filters.base import Batch, Filter, Tags
from llm_trainer.corpus.filters.c4 import C4
from llm_trainer.corpus.filters.fineweb import FineWeb
from llm_trainer.corpus.filters.gopher_quality import GopherQuality
from llm_trainer.corpus.filters.gopher_repetition import GopherRepetition

BATCH_CHARACTERS = 1_000_000
VALUE_OF_RULE = {
    "gopher_quality.few_words": "gopher_words",
    "gopher_quality.short_words": "gopher_mean_word_length",
    "gopher_quality.hashes": "gopher_hashes_per_word",
    "gopher_quality.ellipses": "gopher_ellipses_per_word",
    "gopher_quality.bullet_lines": "gopher_bullet_lines",
    "gopher_quality.ellipsis_lines": "gopher_ellipsis_lines",
    "gopher_quality.few_letters": "gopher_alphabetic_words",
    "gopher_quality.few_stop_words": "gopher_stop_words",
    "gopher_repetition.duplicate_lines": "repeated_lines",
    "gopher_repetition.duplicate_paragraphs": "repeated_paragraphs",
    "gopher_repetition.duplicate_line_characters": "repeated_line_characters",
    "gopher_repetition.duplicate_paragraph_characters": "repeated_paragraph_characters",
    **{f"gopher_repetition.top_{size}_gram": f"top_{size}_gram" for size in (2, 3, 4)},
    **{f"gopher_repetition.duplicate_{size}_grams": f"repeated_{size}_grams" for size in range(5, 11)},
    "fineweb.few_punctuated_lines": "punctuated_lines",
    "fineweb.short_lines": "short_lines",
    "fineweb.duplicate_lines": "duplicate_line_characters",
    "fineweb.line_breaks": "line_breaks_per_word",
    "c4.few_sentences": "c4_sentences",
}


def read(path: str) -> list[Document]:
    """The documents: one JSON object with ``id`` and ``text`` on a line."""
    with Path(path).open(encoding="utf-8") as lines:
        records = map(json.loads, lines)
        return [Document(record["text"], record["id"]) for record in records]


def batches(documents: Sequence[Document]) -> Iterator[Sequence[Document]]:
    """Documents of about a megabyte together."""
    start = size = 0
    for end, document in enumerate(documents, 1):
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield documents[start:end]
            start, size = end, 0
    if start < len(documents):
        yield documents[start:]


def judge(documents: Sequence[Document]) -> Iterator[tuple[Document, Tags, list[str]]]:
    """Every document with its tags and with the rules that it breaks."""
    families: tuple[Filter, ...] = (GopherRepetition(), GopherQuality(), C4(), FineWeb())
    for batch in batches(documents):
        tags: list[Tags] = [{} for _ in batch]
        together = Batch(batch)
        for family in families:
            family.tag(together, tags)
        for document, tag in zip(batch, tags, strict=True):
            yield document, tag, [reason for family in families for reason in family.reasons(tag)]


def decisions(path: str) -> dict[str, Any]:
    """For every rule the documents that it drops, and for every document the values."""
    dropped: dict[str, list[str]] = {}
    values = {}
    for document, tags, broken in judge(read(path)):
        values[document.id] = {rule: tags[name] for rule, name in VALUE_OF_RULE.items()}
        for rule in broken:
            dropped.setdefault(rule, []).append(document.id)
    return {"dropped": dropped, "values": values}


def filters(path: str) -> dict[str, Any]:
    """Seconds of all four filters over every document, from a cold start."""
    documents = read(path)
    start = now()
    kept = [document.id for document, _, broken in judge(documents) if not broken]
    end = now()
    return {"wall": end.wall - start.wall, "cpu": end.cpu - start.cpu, "kept": kept, "memory": peak_memory()}


def near_duplicates(path: str) -> dict[str, Any]:
    """Seconds of exact and near deduplication, from a file of documents to a file of those that are kept."""
    start = now()
    documents = read(path)
    settings = MinHash()
    texts = [document.text for document in documents]
    ranks = np.arange(len(texts), dtype=np.int64)
    alone = find_exact(exact_keys(texts), ranks) == ranks
    signatures = [settings.signatures(Batch(batch).words) for batch in batches(documents)]
    clusters = find_near(signatures, ranks, settings, alive=alone)
    kept = [document for document, keep in zip(documents, alone & clusters.kept, strict=True) if keep]
    Path(path).with_suffix(".kept").write_text(
        "".join(json.dumps({"id": document.id, "text": document.text}) + "\n" for document in kept), encoding="utf-8"
    )
    end = now()
    roots = {documents[row].id: documents[root].id for row, root in enumerate(clusters.root.tolist()) if row != root}
    return {
        "wall": end.wall - start.wall,
        "cpu": end.cpu - start.cpu,
        "kept": [document.id for document in kept],
        "roots": roots,
        "memory": peak_memory(),
    }


def true_similarity(path: str) -> dict[str, float]:
    """The Jaccard similarity of each edited copy (``NAME~...``) to its original, over the same sets of five words."""
    documents = {document.id: document.text for document in read(path)}
    settings = MinHash()
    pairs = [(name, name.partition("~")[0]) for name in documents if "~" in name]
    found = {}
    for name, original in pairs:
        left, right = settings.shingle_sets([documents[name], documents[original]])
        found[name] = jaccard(left, right)
    return found


def main() -> None:
    """Do what the one argument asks for."""
    spec = json.loads(sys.argv[1])
    tasks = {
        "decisions": decisions,
        "filters": filters,
        "near_duplicates": near_duplicates,
        "true_similarity": true_similarity,
    }
    answer = tasks[spec["task"]](spec["documents"])
    Path(spec["answer"]).write_text(json.dumps(answer), encoding="utf-8")
    print(json.dumps({"ok": True}))


if __name__ == "__main__":
    main()
