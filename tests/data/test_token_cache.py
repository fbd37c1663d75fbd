"""From texts to a cache and back: nothing lost, nothing done twice, nothing mistaken for something else."""

from __future__ import annotations

import json
import os
import random
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llm_trainer.common.errors import CorruptionError, DataError
from llm_trainer.data import TokenCache, build_cache, rebuild_manifest
from llm_trainer.data.manifest import Manifest, chunk_files
from tests.byte_tokenizer import ByteTokenizer
from tests.data.test_packing import chat_like, web_like


class NumberTokenizer(ByteTokenizer):
    """The text ``"7"`` is seven tokens: documents of any length without any text."""

    vocab_size = 100
    eos_token_id = bos_token_id = 0

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[7] * int(text) for text in texts]


def some_texts(count: int = 200, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    words = ["token", "Wörter", "字", "<|endoftext|>", "a", "\n", "1234567890"]
    return [f"{number}:" + " ".join(generator.choices(words, k=generator.randint(1, 30))) for number in range(count)]


def build(folder: Path, texts=None, **options) -> TokenCache:
    options = {"seq_len": 64, "unit_bytes": 3000, "source_fingerprint": "texts", **options}
    return build_cache(some_texts() if texts is None else texts, ByteTokenizer(), folder, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def documents_of(cache: TokenCache) -> list[list[int]]:
    """All pieces in the cache, those of long documents joined (in these tests they are never shorter than a row)."""
    pieces = []
    for tokens, lengths in cache.read(range(len(cache))):
        pieces += [piece.tolist() for piece in np.split(tokens, np.cumsum(lengths)[:-1])]
    return pieces


@pytest.mark.covers("R211")
@pytest.mark.parametrize("codec", ["lz4", "none"])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_document_comes_back_whole(tmp_path, codec, workers):
    texts = some_texts()
    cache = build(tmp_path, seq_len=400, codec=codec, workers=workers)
    expected = [[256, *text.encode(), 256] for text in texts]
    assert len(cache.manifest.chunks) > 5
    assert sorted(documents_of(cache)) == sorted(expected)
    totals = cache.manifest.totals()
    assert totals["documents"] == len(texts)
    assert totals["text_bytes"] == sum(len(text.encode()) for text in texts)
    assert totals["tokens"] == totals["tokens_in"] == sum(map(len, expected))


def test_documents_longer_than_a_sequence_go_on_in_further_ones(tmp_path):
    text = "".join(map(chr, range(32, 127))) * 2
    cache = build(tmp_path, [text])
    pieces = documents_of(cache)
    assert [len(piece) for piece in sorted(pieces, key=len, reverse=True)] == [64, 64, 64]
    tokens = [256, *text.encode(), 256]
    assert sorted(pieces) == sorted([tokens[:64], tokens[64:128], tokens[128:]])


@pytest.mark.covers("R211")
@pytest.mark.parametrize("seq_len", [256, 512])
@pytest.mark.parametrize("lengths", [web_like(4000), chat_like(10_000)], ids=["web", "chat"])
def test_all_tokens_are_kept_and_98_percent_of_positions_used(tmp_path, lengths, seq_len):
    texts = [str(length) for length in lengths]
    totals = build_cache(texts, NumberTokenizer(), tmp_path, seq_len=seq_len).manifest.totals()
    assert totals["tokens"] == lengths.sum() + 2 * len(lengths)
    assert totals["tokens_kept"] == 1
    assert totals["utilisation"] >= 0.98


def test_workers_and_repetition_change_no_byte(tmp_path):
    build(tmp_path / "a")
    build(tmp_path / "b", workers=4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_objects_with_a_text_are_documents_and_empty_texts_are_not(tmp_path):
    cache = build(tmp_path, [SimpleNamespace(text="one"), "", "two"])
    assert cache.manifest.totals()["documents"] == 2
    with pytest.raises(DataError, match=r"document 2 is dict, not text.*\n.*text_column"):
        build(tmp_path / "b", ["one", {"text": "two"}])


def test_no_text_is_one_clear_message(tmp_path):
    with pytest.raises(DataError, match="no text to pack"):
        build(tmp_path, ["", ""])
    assert contents(tmp_path) == {}


def test_the_first_part_of_a_cache_is_a_fair_sample_of_it(tmp_path):
    """Best-fit rows come longest document first; validation on the first rows must not be on long documents only."""
    lengths = np.repeat([62, 6], [200, 2000])
    cache = build_cache([str(length) for length in lengths], NumberTokenizer(), tmp_path, seq_len=64)
    pieces = [len(sequence.piece_lengths) for sequence in cache.read(range(len(cache)))]
    assert np.mean(pieces[: len(pieces) // 4]) == pytest.approx(np.mean(pieces), rel=0.25)


class TestReuse:
    def no_documents(self) -> Iterator[str]:
        raise AssertionError("the documents were read again")
        yield ""

    def test_a_complete_cache_is_opened_without_reading_the_documents(self, tmp_path):
        before = build(tmp_path)
        assert build(tmp_path, self.no_documents()).fingerprint == before.fingerprint

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("seq_len", 32, r"seq_len 64 \(not 32\)"),
            ("packer", "concat", r"packer 'bfd' \(not 'concat'\)"),
            ("codec", "none", r"codec 'lz4' \(not 'none'\)"),
            ("source_fingerprint", "others", r"source 'texts' \(not 'others'\)"),
            ("source_fingerprint", "", r"source 'texts' \(not ''\)"),
        ],
    )
    def test_another_cache_in_the_folder_is_never_replaced_unasked(self, tmp_path, option, value, message):
        build(tmp_path)
        before = contents(tmp_path)
        with pytest.raises(DataError, match=message + r"\n.*--force-rebuild"):
            build(tmp_path, **{option: value})
        assert contents(tmp_path) == before

    def test_a_cache_of_a_later_version_is_never_replaced_unasked(self, tmp_path, monkeypatch):
        monkeypatch.setattr("llm_trainer.data.manifest.VERSION", 3)
        build(tmp_path)
        monkeypatch.undo()
        before = contents(tmp_path)
        for refused in (lambda: TokenCache.open(tmp_path), lambda: build(tmp_path)):
            with pytest.raises(DataError, match=r"version 3, this program reads version 2\n.*--force-rebuild"):
                refused()
        assert contents(tmp_path) == before

    def test_force_rebuild_replaces_it_and_leaves_the_files_of_others_alone(self, tmp_path):
        build(tmp_path, some_texts(400))
        (tmp_path / "notes.txt").write_text("mine")
        build(tmp_path, seq_len=32, force_rebuild=True)
        build(tmp_path / "new", seq_len=32)
        assert {**contents(tmp_path / "new"), "notes.txt": b"mine"} == {
            path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()
        }

    def test_texts_without_identity_cannot_be_mistaken_for_those_in_the_folder(self, tmp_path):
        build(tmp_path, source_fingerprint="")
        with pytest.raises(DataError, match="cannot be told apart"):
            build(tmp_path, some_texts(seed=1), source_fingerprint="")

    def test_an_interrupted_pack_goes_on_after_the_last_whole_chunk(self, tmp_path):
        class Counting(ByteTokenizer):
            texts = 0

            def encode_batch(self, texts: list[str]) -> list[list[int]]:
                Counting.texts += len(texts)
                return super().encode_batch(texts)

        complete = build(tmp_path / "a")
        build(tmp_path / "b")
        (tmp_path / "b" / "manifest.json").unlink()
        for chunk in complete.manifest.chunks[2:]:
            (tmp_path / "b" / chunk.file).unlink()
        options = {"seq_len": 64, "unit_bytes": 3000, "source_fingerprint": "texts"}
        build_cache(some_texts(), Counting(), tmp_path / "b", **options)
        assert contents(tmp_path / "a") == contents(tmp_path / "b")
        assert Counting.texts == sum(chunk.documents for chunk in complete.manifest.chunks[2:])

    def test_a_source_that_shrank_under_the_same_name_is_noticed(self, tmp_path):
        cache = build(tmp_path)
        (tmp_path / "manifest.json").unlink()
        (tmp_path / cache.manifest.chunks[-1].file).unlink()
        there = sum(chunk.documents for chunk in cache.manifest.chunks[:-1])
        for fewer in (there, there - 1):
            with pytest.raises(DataError, match=r"not the one that was planned.*\n.*--force-rebuild"):
                build(tmp_path, some_texts()[:fewer])

    def test_a_lost_manifest_is_derived_again_from_the_chunks(self, tmp_path):
        build(tmp_path)
        before = contents(tmp_path)
        (tmp_path / "manifest.json").unlink()
        with pytest.raises(DataError, match=r"no manifest\.json.*\n.*data pack"):
            TokenCache.open(tmp_path)
        rebuild_manifest(tmp_path)
        assert contents(tmp_path) == before
        (tmp_path / "manifest.json").unlink()
        build(tmp_path, self.no_documents())
        assert contents(tmp_path) == before

    def test_no_manifest_is_made_for_an_unfinished_or_mixed_cache(self, tmp_path):
        last = build(tmp_path).manifest.chunks[-1].file
        (tmp_path / "manifest.json").unlink()
        (tmp_path / last).unlink()
        with pytest.raises(DataError, match="unfinished: packing stopped after"):
            rebuild_manifest(tmp_path)
        build(tmp_path / "other", source_fingerprint="others")
        (tmp_path / "other" / last).rename(tmp_path / last)
        with pytest.raises(DataError, match="belongs to another cache: source 'others'"):
            rebuild_manifest(tmp_path)
        assert not (tmp_path / "manifest.json").exists()


class TestOpening:
    @pytest.mark.covers("R225")
    def test_another_tokenizer_or_sequence_length_is_refused(self, tmp_path):
        build(tmp_path)
        assert len(TokenCache.open(tmp_path, expect_tokenizer="bytes", expect_seq_len=64)) > 0
        with pytest.raises(DataError, match="packed with tokenizer bytes, not with others"):
            TokenCache.open(tmp_path, expect_tokenizer="others")
        with pytest.raises(DataError, match="sequences of 64 tokens, 128 are asked for"):
            TokenCache.open(tmp_path, expect_seq_len=128)

    @pytest.mark.covers("R225")
    def test_the_fingerprint_names_the_tokens(self, tmp_path):
        first = build(tmp_path / "a").fingerprint
        assert build(tmp_path / "b").fingerprint == first
        assert build(tmp_path / "c", some_texts(seed=1)).fingerprint != first

    def test_no_cache_at_all(self, tmp_path):
        with pytest.raises(DataError, match="there is no cache at"):
            TokenCache.open(tmp_path / "nowhere")

    def test_indices_outside_the_cache_are_refused(self, tmp_path):
        cache = build(tmp_path)
        for index in (-1, len(cache)):
            with pytest.raises(IndexError):
                cache.read([index])

    def test_sequences_are_read_in_the_order_asked_for_with_little_memory(self, tmp_path, monkeypatch):
        monkeypatch.setattr("llm_trainer.data.cache.OPEN_CHUNKS", 2)
        monkeypatch.setattr("llm_trainer.data.cache.BLOCK_MEMORY", 5000)
        cache = build(tmp_path)
        plain = [sequence.tokens.tolist() for sequence in cache.read(range(len(cache)))]
        mixed = np.random.default_rng(0).permutation(len(cache))
        assert [sequence.tokens.tolist() for sequence in cache.read(mixed)] == [plain[index] for index in mixed]
        assert len(cache._readers) <= 2
        assert sum(block.nbytes for block in cache._blocks.values()) <= 5000


@pytest.mark.covers("R213")
def test_compression_is_reported_against_named_baselines_and_beats_the_smallest_plain_type(tmp_path):
    source = [Path(module.__file__).read_text(encoding="utf-8") for module in (random, tracemalloc, json)]
    cache = build_cache(source, ByteTokenizer(), tmp_path, seq_len=512)
    totals = cache.manifest.totals()
    size = sum(path.stat().st_size for path in tmp_path.glob("*.tok"))
    assert totals["bytes"] == size
    assert totals["size_reduction"]["uint16"] == pytest.approx(1 - size / (2 * totals["tokens"]))
    assert totals["size_reduction"]["int64"] == pytest.approx(1 - size / (8 * totals["tokens"]))
    assert totals["size_reduction"]["uint16"] > 0.2
    assert totals["size_reduction"]["int64"] > 0.7


def test_vocabularies_above_65536_are_stored_in_four_bytes_and_wrong_ids_never(tmp_path):
    class Large(ByteTokenizer):
        vocab_size = 70_000

        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            return [[69_999, int(text)] for text in texts]

    cache = build_cache(["65536"], Large(), tmp_path / "a", seq_len=8)
    assert cache.read([0])[0].tokens.tolist() == [256, 69_999, 65_536, 256]
    for wrong in ("70000", "-1"):
        with pytest.raises(DataError, match="outside its vocabulary of 70,000"):
            build_cache([wrong], Large(), tmp_path / "b", seq_len=8)


@pytest.mark.parametrize(("option", "value"), [("codec", "zip"), ("packer", "best"), ("seq_len", 1)])
def test_impossible_settings_are_refused_before_any_text_is_read(tmp_path, option, value):
    with pytest.raises(DataError, match=str(value)):
        build(tmp_path / "cache", TestReuse().no_documents(), **{option: value})
    assert not (tmp_path / "cache").exists()


@pytest.mark.covers("R210")
def test_memory_does_not_grow_with_the_input(tmp_path):
    def peak(documents: int) -> int:
        texts = (f"{number:08d}" * 60 for number in range(documents))
        tracemalloc.start()
        build_cache(texts, ByteTokenizer(), tmp_path / str(documents), seq_len=128, unit_bytes=50_000)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(4000) < 1.2 * peak(1000)


@pytest.mark.slow
@pytest.mark.covers("R210")
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs wait4")
def test_a_large_input_takes_less_than_1_gb_of_memory(tmp_path):
    """300 MB of text as one list of tokens would take 2.4 GB."""
    child = os.fork()
    if child == 0:
        try:
            build_cache(("0123456789" * 300 for _ in range(100_000)), ByteTokenizer(), tmp_path, seq_len=512)
        finally:
            os._exit(0)
    _, _, usage = os.wait4(child, 0)
    assert TokenCache.open(tmp_path).manifest.totals()["text_bytes"] == 300_000_000
    assert usage.ru_maxrss < 1 << 20  # KiB


@pytest.mark.slow
def test_eight_times_the_text_takes_at_most_ten_times_as_long(tmp_path):
    def seconds(documents: int) -> float:
        """The best of three: on a busy machine, one may take half as long again."""
        times = []
        for attempt in range(3):
            texts = (f"{number:08d}" * 60 for number in range(documents))
            start = time.process_time()
            build_cache(texts, ByteTokenizer(), tmp_path / f"{documents}-{attempt}", seq_len=512, unit_bytes=200_000)
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(24_000) < 10 * seconds(3000)


@pytest.mark.covers("R229")
@pytest.mark.slow
def test_shuffled_reading_is_above_5_million_tokens_a_second(tmp_path):
    generator = np.random.default_rng(0)
    texts = (bytes(generator.integers(97, 123, 2000, dtype=np.uint8)).decode() for _ in range(3000))
    build_cache(texts, ByteTokenizer(), tmp_path, seq_len=512)
    cache = TokenCache.open(tmp_path)
    order = np.random.default_rng(0).permutation(len(cache))
    start = time.perf_counter()
    tokens = sum(
        len(sequence.tokens) for at in range(0, len(order), 64) for sequence in cache.read(order[at : at + 64])
    )
    assert tokens / (time.perf_counter() - start) > 5e6


def test_the_manifest_says_what_is_in_the_cache(tmp_path):
    cache = build(tmp_path, source_description="200 test texts")
    stored = json.loads((tmp_path / "manifest.json").read_text())
    assert stored["source"] == "200 test texts"
    assert stored["config"]["seq_len"] == 64
    assert [chunk["file"] for chunk in stored["chunks"]][:2] == [
        f"chunk-0000{unit}-{cache.manifest.origin.config.hash[:8]}.tok" for unit in range(2)
    ]
    assert stored["totals"]["positions"] == 64 * len(cache)
    assert Manifest.read(tmp_path) == cache.manifest


def test_a_chunk_of_another_cache_under_the_right_name_is_noticed(tmp_path):
    build(tmp_path / "a")
    build(tmp_path / "b", some_texts(seed=1))
    first, second = (chunk_files(tmp_path / name)[1] for name in "ab")
    second.replace(first)
    with pytest.raises(CorruptionError, match=r"chunk-00001-[0-9a-f]{8}\.tok is not the chunk that the manifest names"):
        TokenCache.open(tmp_path / "a")
