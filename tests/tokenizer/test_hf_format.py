"""Saved tokenizers load in transformers with identical ids; damaged and foreign files are named."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.tokenizer import BPETokenizer, ForeignTokenizerError, HFTokenizerWrapper, bpe_plain, load_tokenizer
from tests.tokenizer.samples import many_strings, standard_library, trained


@pytest.mark.covers("R117", "R126")
@pytest.mark.parametrize("pattern", ["gpt4", "gpt2", "gpt4-digits3"])
def test_transformers_gives_identical_ids_on_many_scripts(tmp_path: Path, pattern: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = trained(pattern)
    tokenizer.save_pretrained(tmp_path / "one")
    reference = AutoTokenizer.from_pretrained(tmp_path / "one")
    reference.save_pretrained(tmp_path / "two")  # and what transformers saves again
    again = AutoTokenizer.from_pretrained(tmp_path / "two")
    strings = many_strings()
    assert len(strings) >= 1000
    assert any("<|endoftext|>" in text for text in strings)
    for text in strings:
        ids = tokenizer.encode(text)
        assert reference(text)["input_ids"] == ids, text
        assert again(text)["input_ids"] == ids, text
        assert reference.decode(ids) == text
    assert len(reference) == tokenizer.vocab_size
    for role in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(reference, role) == getattr(tokenizer, role)
    assert BPETokenizer.from_pretrained(tmp_path / "two").fingerprint() == tokenizer.fingerprint()


@pytest.mark.slow
def test_ids_agree_on_every_code_point(tmp_path: Path) -> None:
    """Letters, digits and white space mean the same to our encoder and to the exported one."""
    from tokenizers import Tokenizer

    tokenizer = trained()
    tokenizer.save_pretrained(tmp_path)
    reference = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    points = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    for start in range(0, len(points), 2000):
        text = "".join(f"a{char}b {char}" for char in points[start : start + 2000])
        assert tokenizer.encode(text) == reference.encode(text).ids, hex(ord(points[start]))


@pytest.mark.covers("R117")
def test_transformers_gives_identical_ids_on_real_languages(shared_data: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    with zipfile.ZipFile(shared_data / "nltk_corpora" / "udhr.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith("-UTF8")]
        texts = [archive.read(name).decode("utf-8-sig", "replace") for name in names]
    assert len(texts) > 50
    tokenizer = BPETokenizer().train_from_iterator(texts, 2000, workers=1)
    tokenizer.save_pretrained(tmp_path)
    reference = AutoTokenizer.from_pretrained(tmp_path)
    for text in texts:
        ids = tokenizer.encode(text)
        assert reference(text)["input_ids"] == ids
        assert tokenizer.decode(ids) == text


@pytest.mark.covers("R118")
def test_a_saved_tokenizer_comes_back_equal(tmp_path: Path) -> None:
    tokenizer = trained()
    tokenizer.save_pretrained(tmp_path)
    for again in (BPETokenizer.from_pretrained(tmp_path), load_tokenizer(str(tmp_path))):
        assert isinstance(again, BPETokenizer)
        assert again.fingerprint() == tokenizer.fingerprint()
        assert again.special_tokens == tokenizer.special_tokens
        assert again.encode_batch(many_strings(200)) == tokenizer.encode_batch(many_strings(200))


@pytest.mark.covers("R120")
def test_gpt2_tokenizer_of_transformers_loads_it(tmp_path: Path) -> None:
    from transformers import GPT2Tokenizer

    tokenizer = trained("gpt2")
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()  # vocab.json and merges.txt alone
    reference = GPT2Tokenizer.from_pretrained(tmp_path)
    assert len(reference) == tokenizer.vocab_size
    for text in many_strings(300):
        assert reference.encode(text) == tokenizer.encode(text)
    assert BPETokenizer.from_pretrained(tmp_path).fingerprint() == tokenizer.fingerprint()


@pytest.mark.covers("R120")
def test_gpt2s_own_files_load_with_its_ids(shared_data: Path) -> None:
    tokenizer = BPETokenizer.from_pretrained(shared_data / "gpt2_tokenizer")
    assert tokenizer.vocab_size == 50257
    assert tokenizer.eos_token_id == 50256
    assert tokenizer.encode("Hello world, how's it going?") == [15496, 995, 11, 703, 338, 340, 1016, 30]
    for text in many_strings(200):
        assert tokenizer.encode(text) == bpe_plain.encode(text, tokenizer.vocabulary)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_saving_over_another_tokenizer_leaves_nothing_of_it(tmp_path: Path) -> None:
    trained("gpt2").save_pretrained(tmp_path)
    trained("gpt4").save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_the_fingerprint_tells_tokenizers_apart() -> None:
    prints = {trained(pattern, size).fingerprint() for pattern in ("gpt2", "gpt4") for size in (600, 700)}
    assert len(prints) == 4
    assert BPETokenizer().fingerprint() == BPETokenizer().fingerprint()


def _edit(folder: Path, change: Any) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def _move_id(content: dict[str, Any]) -> None:
    content["model"]["vocab"]["!"] = 5


def _drop_byte(content: dict[str, Any]) -> None:
    del content["model"]["vocab"]["!"]


def _break_merge(content: dict[str, Any]) -> None:
    content["model"]["merges"][3] = ["onlyone"]


def _drop_merge(content: dict[str, Any]) -> None:
    del content["model"]["merges"][3]


def _swap_merges(content: dict[str, Any]) -> None:
    merges = content["model"]["merges"]
    merges[0], merges[-1] = merges[-1], merges[0]


def _swap_ids(content: dict[str, Any]) -> None:
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    first, last = "".join(merges[0]), "".join(merges[-1])
    vocab[first], vocab[last] = vocab[last], vocab[first]


def _double_merge(content: dict[str, Any]) -> None:
    content["model"]["merges"].append(content["model"]["merges"][0])


def _word_as_id(content: dict[str, Any]) -> None:
    content["model"]["vocab"]["!"] = "five"


def _no_model(content: dict[str, Any]) -> None:
    del content["model"]


@pytest.mark.parametrize(
    "change",
    [_move_id, _drop_byte, _break_merge, _drop_merge, _swap_merges, _swap_ids, _double_merge, _word_as_id, _no_model],
)
def test_a_damaged_file_is_named(tmp_path: Path, change: Any) -> None:
    trained().save_pretrained(tmp_path)
    _edit(tmp_path, change)
    with pytest.raises(CorruptionError, match=r"tokenizer\.json is not a sound tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b"null"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_is_not_json_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    trained().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorruptionError, match=name):
        load_tokenizer(tmp_path)


def test_a_truncated_merges_file_is_named(tmp_path: Path) -> None:
    trained("gpt2").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    merges = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "merges.txt").write_text("\n".join(merges[:100]), encoding="utf-8")
    with pytest.raises(CorruptionError, match=r"vocab\.json"):
        BPETokenizer.from_pretrained(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nonlyone\n", encoding="utf-8")
    with pytest.raises(CorruptionError, match=r"merges\.txt .* line 2"):
        BPETokenizer.from_pretrained(tmp_path)


def test_folders_without_a_tokenizer_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokenizer in"):
        load_tokenizer(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load_tokenizer(tmp_path / "nowhere")


def test_saving_where_nothing_can_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        trained().save_pretrained(tmp_path / "file")


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe with a prefix space"])
def test_other_kinds_of_tokenizer_load_through_the_wrapper(tmp_path: Path, kind: str) -> None:
    reference = _foreign_tokenizer(kind)
    reference.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ForeignTokenizerError, match="HFTokenizerWrapper"):
        BPETokenizer.from_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, HFTokenizerWrapper)
    assert tokenizer.vocab_size == reference.get_vocab_size()
    text = "def main(argument): return argument"
    ids = tokenizer.encode(text)
    assert ids == reference.encode(text, add_special_tokens=False).ids
    stream = tokenizer.stream_decoder()
    assert "".join(stream.push(token_id) for token_id in ids) + stream.flush() == tokenizer.decode(ids)
    assert b"".join(map(tokenizer.token_bytes, ids)).decode().strip() == text
    tokenizer.save_pretrained(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").encode(text) == ids


def _foreign_tokenizer(kind: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = standard_library(40_000)
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.decoder = decoders.WordPiece(cleanup=False)
        trainer: Any = trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]"], show_progress=False)
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=400, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
