"""The Pile's form, and the registry of public data sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard

from llm_trainer.common.errors import DataError
from llm_trainer.corpus.sources.pile import PILE_CATEGORIES, pile_category
from llm_trainer.corpus.sources.registry import find, licences, registered
from tests.corpus.sources.reading import read


@pytest.mark.covers("R174", "R175")
def test_the_pile_gives_component_and_category(tmp_path: Path) -> None:
    path = tmp_path / "00.jsonl.zst"
    records = [{"text": f"text of {name}", "meta": {"pile_set_name": name}} for name in PILE_CATEGORIES]
    records += [{"text": "no meta"}, {"text": "new", "meta": {"pile_set_name": "Something Else"}}]
    data = "".join(json.dumps(record) + "\n" for record in records).encode() + b"{bad\n"
    path.write_bytes(zstandard.ZstdCompressor().compress(data))
    documents, losses = read("pile", path)
    assert [document.metadata.get("category") for document in documents] == [*PILE_CATEGORIES.values(), None, None]
    assert documents[0].metadata == {"component": "Pile-CC", "category": "online"}
    assert losses.counts == {"invalid_json": 1}
    documents, losses = read("pile", path, components=["ArXiv", "github"])
    assert [document.metadata["component"] for document in documents] == ["ArXiv", "Github"]
    assert losses.counts["other_component"] == len(records) - 2


def test_the_bomb_limits_of_a_kind_are_obeyed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(b'{"text": "x"}\n' * 1000))
    assert read("pile", path, max_decompressed_bytes=5000)[1].counts == {"decompression_bomb": 1}


@pytest.mark.covers("R175")
def test_all_22_components_are_in_one_of_five_categories() -> None:
    assert len(PILE_CATEGORIES) == 22
    assert set(PILE_CATEGORIES.values()) == {"academic", "online", "prose", "dialog", "misc"}
    assert pile_category("pubmed_central") == "academic"
    assert pile_category("unheard of") is None


@pytest.mark.covers("R176", "R177")
def test_every_entry_says_size_licence_and_quality() -> None:
    entries = registered()
    assert len({entry.name for entry in entries}) == len(entries) > 50
    for entry in entries:
        values = entry.to_dict()
        assert all(values[key] for key in values if key not in ("hub", "aliases")), entry.name
        assert entry.home.startswith("https://")
        assert any(character.isdigit() for character in entry.size), entry.name
    assert sum(entry.name.startswith("The Pile: ") for entry in entries) == 22


@pytest.mark.covers("R176", "R181")
@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("c4", "C4"), ("RefinedWeb", "RefinedWeb"), ("starcoder", "StarCoder data"), ("wikitext", "WikiText"),
        ("HuggingFaceTB/cosmopedia-20k", "Cosmopedia"), ("openwebtext", "OpenWebText"), ("fineweb_edu", "FineWeb-Edu"),
        ("common crawl", "Common Crawl"), ("gutenberg", "Project Gutenberg"),
    ],
)  # fmt: skip
def test_data_sets_are_found_by_the_names_people_use(asked: str, name: str) -> None:
    assert find(asked).name == name


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(DataError, match="FineWeb"):
        find("finewebb")


@pytest.mark.covers("R177")
def test_licences_of_a_pipeline() -> None:
    rows = licences(
        [
            ("fineweb-edu", "files", None, "web"),
            ("our notes", "files", None, None),
            ("dump", "wikipedia", "CC-BY-SA-4.0", "encyclopedia"),
            ("instructions", "chat", "CC-BY-NC-4.0", "conversation"),
            ("code", "git", "MIT OR Apache-2.0", "code"),
            ("bookcorpus", "files", None, None),
            ("terms", "files", "ask the publisher", None),
        ]
    )
    assert [row.commercial for row in rows] == ["yes", "unclear", "yes", "no", "yes", "no", "unclear"]
    assert rows[0].licence.startswith("ODC-By-1.0") and rows[0].attribution
    assert rows[1].licence == "unknown" and "no licence is given" in rows[1].notes
    assert [row.share_alike for row in rows] == [False, False, True, False, False, False, False]
    assert rows[5].category == "books"
    assert rows[2].to_dict()["source"] == "dump"
