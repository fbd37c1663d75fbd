"""The documents that ``data_pipeline.py`` measures on: real ones, damaged ones, and edited copies."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from llm_trainer.corpus import open_paths
from llm_trainer.corpus.builtin import builtin_documents

PIECE = 8_000
"""Characters: books are cut into pieces of about this size, at line ends."""
SEED = 1
LOREM = "Lorem ipsum dolor sit amet, consectetur adipiscing elit."


def documents(paths: Sequence[str], megabytes: float) -> list[tuple[str, str]]:
    """``(id, text)`` of real documents.

    Args:
        paths: files and folders; what comes with Python if there are none.
        megabytes: at most; taken evenly from all.
    """
    if paths:
        found = [
            (piece_id, piece)
            for document in open_paths(list(paths), documents="file", validation_fraction=0)
            for piece_id, piece in _pieces(document.id, document.text)
        ]
    else:
        found = [pair for document in builtin_documents("all") for pair in _pieces(document.id, document.text)]
    every = max(1, -(-sum(len(text) for _, text in found) // int(megabytes * 1e6)))
    unique = {f"{number}:{Path(name).name}": text for number, (name, text) in enumerate(found[::every])}
    return list(unique.items())


def _pieces(name: str, text: str) -> Iterator[tuple[str, str]]:
    if len(text) < 2 * PIECE:
        yield name, text
        return
    lines, size, start = text.splitlines(keepends=True), 0, 0
    for end, line in enumerate(lines, 1):
        size += len(line)
        if size >= PIECE or end == len(lines):
            yield f"{name}+{start}", "".join(lines[start:end])
            start, size = end, 0


def damaged(texts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same documents, each with one kind of damage of random strength: every rule is met from both sides."""
    chooser = random.Random(SEED)
    return [(f"{name}!", _damage(text, chooser)) for name, text in texts]


def _damage(text: str, chooser: random.Random) -> str:
    share = chooser.random()
    lines = text.split("\n")[: chooser.randrange(10, 200)]
    words = text.split()[: chooser.randrange(40, 1500)] or ["nothing"]
    sentence = words[: chooser.randrange(3, 25)]

    def sometimes(new: str, old: str) -> str:
        return new if chooser.random() < share else old

    return chooser.choice(
        [
            lambda: "\n".join(sometimes(lines[0] or "Home", line) for line in lines),
            lambda: "\n\n".join(sometimes(lines[-1] or "End", line) for line in lines),
            lambda: " ".join(words + sentence * chooser.randrange(1, 12)),
            lambda: " ".join(sometimes(words[0], word) for word in words),
            lambda: " ".join(sometimes(chooser.choice(["#", "...", "…", "--", "1", "|"]), word) for word in words),
            lambda: " ".join(words[: chooser.randrange(20, 80)]),
            lambda: "\n".join(sometimes("- ", "") + line for line in lines),
            lambda: "\n".join(line + sometimes("...", "") for line in lines),
            lambda: " ".join(word + sometimes(word[::-1] * 2, "") for word in words),
            lambda: " ".join(sometimes(word[:1], word) for word in words),
            lambda: " ".join(word for word in words if len(word) > 4 or chooser.random() > share),
            lambda: "\n".join(sometimes("", "\n") + line for line in lines),
            lambda: "\n".join(line[:30] if chooser.random() < share else line for line in lines),
            lambda: re.sub("[.!?]", lambda end: sometimes("", end[0]), text[:4000]),
            lambda: "\n".join([*lines, LOREM if share < 0.5 else "Here is a { bracket."]),
        ]
    )()


def with_copies(
    texts: Sequence[tuple[str, str]], similarities: Sequence[float], *, words: tuple[int, int] = (250, 600)
) -> list[tuple[str, str]]:
    """Excerpts of documents, and behind them an edited copy of each.

    Args:
        texts: where the excerpts come from.
        similarities: the Jaccard similarity over runs of five words that copies are to have, in turns.
        words: smallest and largest number of words of an excerpt.
    """
    chooser = random.Random(SEED)
    excerpts = []
    for name, text in texts:
        rest = iter(text.split())
        for number in range(1000):
            excerpt = list(islice(rest, chooser.randrange(*words)))
            if len(excerpt) < words[0]:
                break
            excerpts.append((f"{name}/{number}", excerpt))
    originals = [(name, " ".join(excerpt)) for name, excerpt in excerpts]
    copies = []
    for number, (name, excerpt) in enumerate(excerpts):
        wanted = similarities[number % len(similarities)]
        runs = len(excerpt) - 4
        # A word that is replaced far from others changes five runs in each of the two sets; rounded so that the
        # similarity is at least the wanted one.
        edits = int(runs * (1 - wanted) / (1 + wanted) / 5)
        copy = list(excerpt)
        for place in _spread(len(excerpt), edits, chooser):
            copy[place] = f"edited{chooser.randrange(10**6)}x".translate(str.maketrans("0123456789", "abcdefghij"))
        copies.append((f"{name}~{wanted}", " ".join(copy)))
    return originals + copies


def _spread(length: int, count: int, chooser: random.Random) -> list[int]:
    """Places that are at least five apart, as far as there is room."""
    slots = list(range(2, length - 2, 5))
    return sorted(chooser.sample(slots, min(count, len(slots))))


def write(texts: Iterable[tuple[str, str]], path: Path) -> Path:
    """One JSON object with ``id`` and ``text`` on a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts)
    return path
