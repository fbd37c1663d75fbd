"""Files of other programs: tiktoken's ranks, whatever has been damaged on its way, and names that cannot be reached."""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_trainer.common.errors import CorruptionError, DataError, UserError
from llm_trainer.tokenizer import BPETokenizer, HFTokenizerWrapper, load_tokenizer
from llm_trainer.tokenizer.llama2c import read_llama2c, write_llama2c
from llm_trainer.tokenizer.tiktoken_format import load_tiktoken_encoding, read_tiktoken_file, write_tiktoken_file
from tests.tokenizer.samples import many_strings, trained
from tests.tokenizer.test_sentencepiece import MODELS, opened

# ---- tiktoken ----


@pytest.mark.covers("R122")
def test_ranks_written_and_read_are_the_same_tokenizer(tmp_path: Path) -> None:
    tokenizer = trained()
    write_tiktoken_file(tokenizer, tmp_path / "ours.tiktoken")
    again = read_tiktoken_file(tmp_path / "ours.tiktoken", pattern="gpt4", special_tokens=tokenizer.special_tokens)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert load_tokenizer(tmp_path / "ours.tiktoken").vocab_size == len(tokenizer.vocabulary.ids) + 1


def test_ids_are_those_of_tiktoken_itself(tmp_path: Path) -> None:
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    write_tiktoken_file(trained("gpt2"), tmp_path / "x.tiktoken")
    ranks = load_tiktoken_bpe(str(tmp_path / "x.tiktoken"))
    pattern = trained("gpt2").vocabulary.pattern
    special = {"<|endoftext|>": len(ranks) + 40}
    reference = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    tokenizer = read_tiktoken_file(tmp_path / "x.tiktoken", pattern="gpt2", special_tokens=special)
    for text in many_strings(300):
        assert tokenizer.encode(text) == reference.encode_ordinary(text)
    assert tokenizer.vocab_size == reference.n_vocab  # the ids between are reserved
    assert tokenizer.eos_token_id == len(ranks) + 40


def test_gpt2s_ranks_have_gpt2s_merges(shared_data: Path, tmp_path: Path) -> None:
    gpt2 = BPETokenizer.from_pretrained(shared_data / "gpt2_tokenizer")
    write_tiktoken_file(gpt2, tmp_path / "gpt2.tiktoken")
    again = read_tiktoken_file(tmp_path / "gpt2.tiktoken", pattern="gpt2")
    assert again.fingerprint() == gpt2.fingerprint()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"!!! 3", "line 2"),
        (b"YQ==", "line 2"),
        (b"YQ== x", "line 2"),
        (b"YQ== 1 2", "line 2"),
        (b"IQ== 5", "second time"),
        (base64.b64encode(b"abc") + b" 9", "cannot be joined"),
    ],
)
def test_a_damaged_rank_file_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "x.tiktoken").write_bytes(b"IQ== 0\n" + line + b"\n")
    with pytest.raises(CorruptionError, match=rf"x\.tiktoken is not a sound rank file.*{message}"):
        load_tokenizer(tmp_path / "x.tiktoken")


def test_names_that_cannot_be_had_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tiktoken
    import tiktoken.registry

    def offline(name: str) -> Any:
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(DataError, match="TIKTOKEN_CACHE_DIR"):
        load_tokenizer("tiktoken:cl100k_base")
    with pytest.raises(UserError, match="cl100k_base"):
        load_tiktoken_encoding("gpt9")
    with pytest.raises(DataError, match="no tokenizer of that name on the Hugging Face hub"):
        load_tokenizer("hf:somebody/something")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="recognised by its name"):
        load_tokenizer(tmp_path / "notes.txt")


def test_a_published_encoding_becomes_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken

    vocabulary = trained().vocabulary
    special = {"<|endoftext|>": len(vocabulary.ids) + 2}
    encoding = tiktoken.Encoding(
        "cl100k_base", pat_str=vocabulary.pattern, mergeable_ranks=vocabulary.ids, special_tokens=special
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: encoding)
    tokenizer = load_tokenizer("tiktoken:cl100k_base")
    assert isinstance(tokenizer, BPETokenizer)
    assert tokenizer.encode("Hello, 世界") == encoding.encode("Hello, 世界")
    assert tokenizer.vocab_size == encoding.n_vocab == len(vocabulary.ids) + 3


# ---- the wrapper saves like ours ----


@pytest.mark.covers("R116")
def test_the_wrapper_leaves_the_old_files_when_saving_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained().save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    wrapper = HFTokenizerWrapper(tmp_path)

    def breaks(folder: str) -> None:
        (Path(folder) / "tokenizer.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wrapper._tokenizer, "save_pretrained", breaks)
    with pytest.raises(UserError, match="disk is full"):
        wrapper.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---- anything may be in a file ----


@cache
def sound_files() -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained("gpt2").save_pretrained(folder / "gpt2")
        write_tiktoken_file(trained(), folder / "x.tiktoken")
        write_llama2c(opened("bpe_bytes"), folder / "x.bin")
        files = {path.name: path.read_bytes() for path in sorted((folder / "gpt2").iterdir())}
        files |= {path.name: path.read_bytes() for path in (folder / "x.tiktoken", folder / "x.bin")}
    for model in ("bpe_symbols", "unigram_folded"):
        files[f"{model}.model"] = (MODELS / f"{model}.model").read_bytes()
    return files


def _load(folder: Path, name: str) -> None:
    """Load and, if that succeeds, use; only our errors may come out."""
    try:
        if name == "x.bin":
            read_llama2c(folder / name)
            return
        tokenizer = load_tokenizer(folder if name.endswith((".json", ".txt")) else folder / name)
        tokenizer.decode(tokenizer.encode("Hello wörld 人 12 </s> <|endoftext|>"))
    except UserError as error:
        assert str(error)


def _put(folder: Path, name: str, data: bytes) -> None:
    for other, content in sound_files().items():
        if other.endswith((".json", ".txt")):
            (folder / other).write_bytes(content)
    if name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer.json").unlink()
    (folder / name).write_bytes(data)


FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "x.tiktoken", "x.bin")
FUZZ = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", [*FILES, "bpe_symbols.model", "unigram_folded.model"])
@FUZZ
@given(data=st.data())
def test_damaged_bytes_give_a_message_or_a_tokenizer(tmp_path: Path, name: str, data: st.DataObject) -> None:
    content = bytearray(sound_files()[name])
    for _ in range(data.draw(st.integers(0, 4))):
        # The beginning of a file holds more structure than its middle.
        last = data.draw(st.sampled_from([300, len(content) - 1]))
        content[data.draw(st.integers(0, min(last, len(content) - 1)))] = data.draw(st.integers(0, 255))
    length = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    _put(tmp_path, name, bytes(content[:length]))
    _load(tmp_path, name)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**12) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.json"])
@FUZZ
@given(data=st.data())
def test_any_json_in_any_place_gives_a_message_or_a_tokenizer(tmp_path: Path, name: str, data: st.DataObject) -> None:
    content = json.loads(sound_files()[name])
    place: Any = content
    for _ in range(data.draw(st.integers(0, 5))):
        keys = list(place)[:25] if isinstance(place, dict) else list(range(min(len(place), 4)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            if data.draw(st.booleans()):
                place[key] = data.draw(_JSON)
            else:
                del place[key]
            break
        place = place[key]
    else:
        content = data.draw(_JSON)
    _put(tmp_path, name, json.dumps(content).encode())
    _load(tmp_path, name)
