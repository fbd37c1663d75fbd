"""llama2.c's ``.bin``: an independent program in C reads it and says the same, and we read it back."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_trainer.common.errors import ConfigError, CorruptionError, DataError
from llm_trainer.models import TransformerLM, preset
from llm_trainer.models.interop.llama2c import (
    HEADER,
    export_llama2c,
    llama2c_problems,
    load_llama2c,
    to_halves,
    to_pairs,
)
from llm_trainer.models.lora import apply_lora
from tests.models.tiny import SMALL_MODEL_OPTIONS, enlivened, tiny_config, tiny_model, token_ids

SHAPES: list[dict[str, Any]] = [{}, {"n_kv_heads": 2, "tie_embeddings": False}, {"n_kv_heads": 1, "d_ff": 40}]
PROMPT = [3, 17, 8, 42, 5]
NEW = 12


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    program = tmp_path_factory.mktemp("runner") / "runner"
    source = Path(__file__).with_name("llama2c_runner.c")
    subprocess.run([compiler, "-O2", "-Wall", "-Werror", "-o", program, source, "-lm"], check=True)
    return program


@pytest.mark.covers("R306", "R145")
@pytest.mark.parametrize("values", SHAPES, ids=str)
def test_a_program_in_c_gives_the_same_logits_and_the_same_greedy_tokens(
    runner: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    model = enlivened(tiny_model(**values))
    export_llama2c(model, tmp_path / "model.bin")
    command = [runner, tmp_path / "model.bin", str(NEW), *map(str, PROMPT)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    theirs = [int(line.split()[0]) for line in lines]
    ours = model.generate(torch.tensor([PROMPT]), max_new_tokens=NEW + 1, do_sample=False)[0].tolist()
    assert ours == [PROMPT[0], *theirs]
    logits = torch.tensor([[float(word) for word in line.split()[1:]] for line in lines])
    with torch.no_grad():
        expected = model(torch.tensor([ours[:-1]])).logits[0]
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("values", SHAPES, ids=str)
def test_what_is_written_is_read_back(tmp_path: Path, values: dict[str, Any]) -> None:
    model = enlivened(tiny_model(**values))
    export_llama2c(model, tmp_path / "model.bin")
    again = load_llama2c(tmp_path / "model.bin")
    assert torch.equal(again(token_ids()).logits, model(token_ids()).logits)
    assert again.config.tie_embeddings == model.config.tie_embeddings


def test_rows_beyond_the_tokens_can_stay_behind(tmp_path: Path) -> None:
    """run.c looks for the name of every row in ``tokenizer.bin``."""
    for tied in (True, False):
        model = enlivened(tiny_model(tie_embeddings=tied))
        export_llama2c(model, tmp_path / "model.bin", tokens=55)
        again, ids = load_llama2c(tmp_path / "model.bin"), token_ids().clamp(max=54)
        assert again.config.vocab_size == 55
        torch.testing.assert_close(again(ids).logits, model(ids).logits[..., :55], atol=1e-6, rtol=0)


def test_the_header_is_that_of_the_format(tmp_path: Path) -> None:
    export_llama2c(tiny_model(n_kv_heads=2, tie_embeddings=False), tmp_path / "model.bin")
    header = struct.unpack("<7i", (tmp_path / "model.bin").read_bytes()[:28])
    # width, feed-forward width, layers, heads, key heads, vocabulary (negative: its own output layer), length
    assert header == (32, 96, 2, 4, 2, -61, 32)


def test_the_rows_of_a_head_move_to_neighbours_and_back() -> None:
    weight = torch.arange(16.0)[:, None]  # two heads of eight
    assert to_pairs(weight, 8).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert torch.equal(to_halves(to_pairs(weight, 8), 8), weight)


@pytest.mark.covers("R145")
def test_the_published_shape_can_go() -> None:
    assert llama2c_problems(preset("llama2c_15m")) == []


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"position": "alibi"}, "position='alibi': llama2.c has only 'rope'"),
        ({"rope_theta": 5e5}, "rope_theta=500000.0: llama2.c has only 10000.0"),
        ({"norm_eps": 1e-6}, "norm_eps=1e-06: llama2.c has only 1e-05"),
        ({"qk_norm": True}, "qk_norm=True: llama2.c has only False"),
        ({"bias": True}, "bias=True: llama2.c has only False"),
        ({"qkv_bias": True}, "qkv_bias=True: llama2.c has only None or False"),
        ({"activation": "geglu"}, "activation='geglu': llama2.c has only 'swiglu'"),
        ({"d_head": 16}, "d_head=16: llama2.c has only d_model / n_heads"),
        *((({name: value}, f"{name}=.*: llama2.c has")) for name, value in SMALL_MODEL_OPTIONS.items()),
    ],
)
def test_a_shape_that_it_lacks_names_the_field_and_writes_nothing(tmp_path: Path, values: dict, why: str) -> None:
    with torch.device("meta"):
        model = TransformerLM(tiny_config(**values))
    with pytest.raises(ConfigError, match=why):
        export_llama2c(model, tmp_path / "model.bin")
    assert not list(tmp_path.iterdir())


def test_adapters_must_be_merged_first(tmp_path: Path) -> None:
    model = tiny_model()
    apply_lora(model)
    with pytest.raises(ConfigError, match="merge them first"):
        export_llama2c(model, tmp_path / "model.bin")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    export_llama2c(tiny_model(), path)
    whole = path.read_bytes()
    for data, why in (
        (whole[:-4], "its header asks for .* bytes, and it has"),
        (whole + b"\0\0\0\0", "its header asks for"),
        (whole[:20], "its header makes no sense"),
        (struct.pack("<7i", 7, 96, 2, 4, 4, 61, 32) + whole[28:], "its header makes no sense"),
        (b"not a model at all, only some words", "no model of llama2.c"),
    ):
        path.write_bytes(data)
        with pytest.raises(CorruptionError, match=why):
            load_llama2c(path)
    path.write_bytes(struct.pack("<2i", 0x616B3432, 2) + whole)
    with pytest.raises(DataError, match=r"version 2 .* only version 0 is read"):
        load_llama2c(path)
    with pytest.raises(DataError, match="cannot be read"):
        load_llama2c(tmp_path / "nothing.bin")


@pytest.mark.parametrize(
    "header",
    [
        (2**31 - 2, 8, 1, 1, 1, 5, 5),
        (64, 64, 9999, 2, 2, 100, 64),
        (64, 2**31 - 1, 2, 2, 2, 100, 64),
        (64, 64, 2, 2, 2, -(2**31), 64),
        (2**31 - 2, 2**31 - 2, 9999, 2, 2, 2**31 - 1, 2**31 - 1),
    ],
    ids=str,
)
def test_a_header_that_asks_for_more_than_there_is_costs_nothing(tmp_path: Path, header: tuple[int, ...]) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(HEADER.pack(*header) + bytes(1000))
    began = time.monotonic()
    with pytest.raises(CorruptionError, match=r"asks for|makes no sense"):
        load_llama2c(path)
    assert time.monotonic() - began < 5
