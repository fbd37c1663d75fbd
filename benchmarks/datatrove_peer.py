"""datatrove's side of ``data_pipeline.py``: run by the Python in which it is installed, one JSON object in and one out.

Nothing of this project is imported here. Each rule is asked alone, with datatrove's own filter and all its other rules
switched off, because a filter stops at the first rule that a document breaks.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# This folder is searched last: a script in it may have the name of a package, as tokenizers.py does.
HERE = str(Path(__file__).parent)
sys.path[:] = [*(entry for entry in sys.path if entry != HERE), HERE]

from datatrove.data import Document  # noqa: E402
from datatrove.pipeline.filters import (  # noqa: E402
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters import gopher_repetition_filter as repetition  # noqa: E402
from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION, split_into_sentences, split_into_words  # noqa: E402

QUALITY_OFF: dict[str, Any] = dict.fromkeys(
    (
        "min_doc_words",
        "max_doc_words",
        "min_avg_word_length",
        "max_avg_word_length",
        "max_symbol_word_ratio",
        "max_bullet_lines_ratio",
        "max_ellipsis_lines_ratio",
        "max_non_alpha_words_ratio",
        "min_stop_words",
    )
)
REPETITION_OFF: dict[str, Any] = {
    **dict.fromkeys(("dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac")),
    "top_n_grams": (),
    "dup_n_grams": (),
}
FINEWEB_OFF: dict[str, Any] = {
    "line_punct_thr": -1.0,
    "short_line_thr": 2.0,
    "char_duplicates_ratio": 2.0,
    "new_line_ratio": 1e9,
}
C4_OFF: dict[str, Any] = {"min_num_sentences": -1, "filter_lorem_ipsum": False, "filter_curly_bracket": False}


def rules() -> dict[str, Callable[[str], bool]]:
    """Our reason code -> whether datatrove's rule drops a text."""
    quality = {
        "few_words": {"min_doc_words": 50},
        "many_words": {"max_doc_words": 100_000},
        "short_words": {"min_avg_word_length": 3},
        "long_words": {"max_avg_word_length": 10},
        "bullet_lines": {"max_bullet_lines_ratio": 0.9},
        "ellipsis_lines": {"max_ellipsis_lines_ratio": 0.3},
        "few_letters": {"max_non_alpha_words_ratio": 0.8},
        "few_stop_words": {"min_stop_words": 2},
    }
    repeated = {
        "duplicate_lines": {"dup_line_frac": 0.3},
        "duplicate_paragraphs": {"dup_para_frac": 0.3},
        "duplicate_line_characters": {"dup_line_char_frac": 0.2},
        "duplicate_paragraph_characters": {"dup_para_char_frac": 0.2},
        **{f"top_{n}_gram": {"top_n_grams": ((n, f),)} for n, f in ((2, 0.2), (3, 0.18), (4, 0.16))},
        **{f"duplicate_{n}_grams": {"dup_n_grams": ((n, round(0.2 - n / 100, 2)),)} for n in range(5, 11)},
    }
    fineweb = {
        "few_punctuated_lines": {"line_punct_thr": 0.12},
        "short_lines": {"short_line_thr": 0.67},
        "duplicate_lines": {"char_duplicates_ratio": 0.01},
        "line_breaks": {"new_line_ratio": 0.3},
    }
    c4 = {
        "few_sentences": {"min_num_sentences": 5},
        "lorem_ipsum": {"filter_lorem_ipsum": True},
        "curly_bracket": {"filter_curly_bracket": True},
    }
    symbols = GopherQualityFilter(**{**QUALITY_OFF, "max_symbol_word_ratio": 0.1})
    return {
        "gopher_quality.hashes": lambda text: _verdict(symbols, text) == "gopher_too_many_hashes",
        # The filter reports the hashes first; without them it can only be the ellipses.
        "gopher_quality.ellipses": lambda text: values(text)["gopher_quality.ellipses"] > 0.1,
        **_alone("gopher_quality", GopherQualityFilter, QUALITY_OFF, quality),
        **_alone("gopher_repetition", GopherRepetitionFilter, REPETITION_OFF, repeated),
        **_alone("fineweb", FineWebQualityFilter, FINEWEB_OFF, fineweb),
        **_alone("c4", C4QualityFilter, C4_OFF, c4),
    }


def _alone(
    family: str, kind: type, off: dict[str, Any], rules: dict[str, dict[str, Any]]
) -> dict[str, Callable[[str], bool]]:
    filters = {name: kind(**{**off, **settings}) for name, settings in rules.items()}
    return {f"{family}.{name}": lambda text, f=found: _verdict(f, text) is not None for name, found in filters.items()}


def _verdict(found: Any, text: str) -> str | None:
    """The filter's reason to drop a text, or None."""
    answer = found.filter(Document(text=text, id="0"))
    return answer[1] if isinstance(answer, tuple) and not answer[0] else None


def values(text: str) -> dict[str, float]:
    """What the rules compare, by datatrove's own functions."""
    words = split_into_words(text)
    real = [word for word in words if any(c not in PUNCTUATION_SET for c in word)]
    lines = text.splitlines()
    shown = [line for line in text.split("\n") if line.strip()]
    kept = C4QualityFilter(**C4_OFF)
    document = Document(text=text, id="0")
    kept.filter(document)
    paragraphs = repetition.re.split(r"\n{2,}", text.strip())
    pieces = repetition.re.split("\n+", text)
    found = {
        "gopher_quality.few_words": len(real),
        "gopher_quality.short_words": sum(map(len, real)) / max(len(real), 1),
        "gopher_quality.hashes": text.count("#") / max(len(words), 1),
        "gopher_quality.ellipses": (text.count("...") + text.count("…")) / max(len(words), 1),
        "gopher_quality.bullet_lines": sum(s.lstrip().startswith(("•", "-")) for s in lines) / max(len(lines), 1),
        "gopher_quality.ellipsis_lines": sum(s.rstrip().endswith(("...", "…")) for s in lines) / max(len(lines), 1),
        "gopher_quality.few_letters": sum(any(c.isalpha() for c in w) for w in words) / max(len(words), 1),
        "gopher_quality.few_stop_words": len({"the", "be", "to", "of", "and", "that", "have", "with"} & set(words)),
        "gopher_repetition.duplicate_lines": repetition.find_duplicates(pieces)[0] / max(len(pieces), 1),
        "gopher_repetition.duplicate_paragraphs": repetition.find_duplicates(paragraphs)[0] / max(len(paragraphs), 1),
        "gopher_repetition.duplicate_line_characters": repetition.find_duplicates(pieces)[1] / max(len(text), 1),
        "gopher_repetition.duplicate_paragraph_characters": repetition.find_duplicates(paragraphs)[1]
        / max(len(text), 1),
        "fineweb.few_punctuated_lines": sum(s.endswith(tuple(TERMINAL_PUNCTUATION)) for s in shown)
        / max(len(shown), 1),
        "fineweb.short_lines": sum(len(s) <= 30 for s in shown) / max(len(shown), 1),
        "fineweb.duplicate_lines": repetition.find_duplicates(shown)[1] / max(len(text.replace("\n", "")), 1),
        "fineweb.line_breaks": text.count("\n") / max(len(words), 1),
        "c4.few_sentences": sum(len(split_into_sentences(line)) for line in document.text.split("\n") if line),
    }
    for n in (2, 3, 4):
        grams = repetition.get_n_grams(words, n)
        found[f"gopher_repetition.top_{n}_gram"] = (repetition.find_top_duplicate(grams) if grams else 0) / len(text)
    for n in range(5, 11):
        found[f"gopher_repetition.duplicate_{n}_grams"] = repetition.find_all_duplicate(words, n) / len(text)
    return found


def read(path: str) -> list[dict[str, str]]:
    """The documents: one JSON object with ``id`` and ``text`` on a line."""
    with Path(path).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def decisions(documents: list[dict[str, str]]) -> dict[str, Any]:
    """For every rule the documents that it drops, and for every document the values."""
    asked = rules()
    dropped: dict[str, list[str]] = {name: [] for name in asked}
    measured, failed = {}, []
    for document in documents:
        try:
            measured[document["id"]] = values(document["text"])
            broken = [name for name, drops in asked.items() if drops(document["text"])]
        except ZeroDivisionError:  # a text without words or without lines
            failed.append(document["id"])
            continue
        for name in broken:
            dropped[name].append(document["id"])
    return {"dropped": dropped, "values": measured, "failed": failed}


def filters(documents: list[dict[str, str]]) -> dict[str, Any]:
    """Seconds of all four filters at their defaults over every document."""
    chain = [GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(), FineWebQualityFilter()]
    _verdict(chain[1], "The first call loads the tokenizer, which is not timed.")
    wall, cpu = time.perf_counter(), time.process_time()
    survivors = []
    # Document by document, so that the filters share the words, which datatrove keeps for the last few texts.
    for document in documents:
        verdicts = [_verdict(step, document["text"]) for step in chain]
        if not any(verdicts):
            survivors.append(document["id"])
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "kept": survivors}


def near_duplicates(path: str) -> dict[str, Any]:
    """Seconds of datatrove's four MinHash stages at 14 x 8, one task each, and what they keep."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "texts").mkdir()
        shutil.copy(path, Path(folder, "texts", "all.jsonl"))

        def reader() -> Any:
            return JsonlReader(f"{folder}/texts")

        places = {name: f"{folder}/{name}" for name in ("signatures", "buckets", "remove", "kept")}
        stages = [
            [reader(), MinhashDedupSignature(output_folder=places["signatures"], config=config)],
            [MinhashDedupBuckets(places["signatures"], places["buckets"], config=config)],
            [MinhashDedupCluster(places["buckets"], places["remove"], config=config)],
            [reader(), MinhashDedupFilter(places["remove"]), JsonlWriter(places["kept"], compression=None)],
        ]
        wall, cpu = time.perf_counter(), time.process_time()
        for number, stage in enumerate(stages):
            # The buckets' stage takes one task for each band; all others one task.
            LocalPipelineExecutor(
                pipeline=stage, tasks=14 if number == 1 else 1, workers=1, logging_dir=f"{folder}/log{number}"
            ).run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        kept = [line["id"] for file in sorted(Path(places["kept"]).glob("*.jsonl")) for line in read(str(file))]
    return {"wall": wall, "cpu": cpu, "kept": kept}


def main() -> None:
    """Do what the one argument asks for."""
    spec = json.loads(sys.argv[1])
    if spec["task"] == "near_duplicates":
        answer = near_duplicates(spec["documents"])
    else:
        answer = {"decisions": decisions, "filters": filters}[spec["task"]](read(spec["documents"]))
    Path(spec["answer"]).write_text(json.dumps(answer), encoding="utf-8")
    print(json.dumps({"ok": True}))


if __name__ == "__main__":
    main()
