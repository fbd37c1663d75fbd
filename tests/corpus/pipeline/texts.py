"""Texts made of a small vocabulary: alike to filters, different to duplicate search, the same in every run."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

WORDS = re.findall(
    r"\w+",
    "river stone bread window garden letter morning winter paper market bridge mountain story teacher engine harbour "
    "forest kitchen candle village summer question answer number colour music travel island doctor student farmer "
    "soldier painter captain ocean valley desert castle temple library museum station factory hospital lantern",
)
LITTLE = re.findall(r"\w+", "the of and to that with have be in is it was for on as by at from this which")


def sentence(random_: random.Random) -> str:
    words = [random_.choice(LITTLE if random_.random() < 0.45 else WORDS) for _ in range(random_.randint(8, 18))]
    return f"{' '.join(words).capitalize()}."


def prose(seed: int, sentences: int = 14) -> str:
    """Paragraphs of sentences; about a thousand characters."""
    random_ = random.Random(seed)
    paragraphs = [" ".join(sentence(random_) for _ in range(4)) for _ in range(max(1, sentences // 4))]
    return "\n\n".join(paragraphs)


def write_jsonl(path: Path, texts: Sequence[str], **columns: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text, **columns}) + "\n" for text in texts), encoding="utf-8")
    return path


def near_copy(text: str, seed: int = 0, changes: int = 3) -> str:
    """The text with a few words replaced."""
    random_ = random.Random(seed)
    words = text.split(" ")
    for _ in range(changes):
        words[random_.randrange(len(words))] = "elsewhere"
    return " ".join(words)


def read_corpus(folder: Path) -> Iterator[dict[str, object]]:
    """The records that a build wrote, validation included."""
    import zstandard

    for path in sorted((folder / "documents").iterdir()):
        with path.open("rb") as file:
            data = zstandard.ZstdDecompressor().stream_reader(file).read()
        for line in data.decode("utf-8").splitlines():
            yield {**json.loads(line), "split": path.name.partition("-")[0]}


def corpus_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of the result: what must not depend on the number of workers or on interruptions."""
    return {path.name: path.read_bytes() for path in sorted((folder / "documents").iterdir())}
