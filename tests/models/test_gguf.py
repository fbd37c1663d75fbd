"""GGUF: read back by ourselves, by the ``gguf`` package, by transformers and, where it is installed, by llama.cpp."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm_trainer.common.errors import ConfigError, CorruptionError, DataError, UserError
from llm_trainer.models import TransformerLM
from llm_trainer.models.interop.gguf_export import export_gguf, gguf_problems
from llm_trainer.models.interop.gguf_import import GGUFFile
from llm_trainer.models.lora import apply_lora
from llm_trainer.tokenizer import BPETokenizer, SentencePieceTokenizer, Tokenizer, UnigramTokenizer
from llm_trainer.tokenizer.chat import ChatTemplate
from llm_trainer.tokenizer.pretokenize import Digits
from tests.models.tiny import SMALL_MODEL_OPTIONS, enlivened, tiny_config, tiny_model

gguf = pytest.importorskip("gguf")

TEXTS = [
    "The quick brown fox jumps over the lazy dog in 1984.",
    "Zürich, 東京 and 🙂 are text too. I'll, we've, DON'T",
] * 20
ODD_TEXT = "I'll see 東京 12 times in 7 or 1984  🙂\n\n x\tDON'T <|endoftext|>"
GPT2 = {"position": "learned", "norm": "layernorm", "bias": True, "activation": "gelu_tanh"}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"n_kv_heads": 2, "tie_embeddings": False},
    "llama, tied": {"rope_theta": 5e5, "norm_eps": 1e-6},
    "llama, wide heads": {"d_head": 32},
    "mistral": {"sliding_window": 200},
    "qwen2": {"qkv_bias": True, "n_kv_heads": 1},
    "qwen3": {"qk_norm": True, "d_head": 32, "n_kv_heads": 2, "tie_embeddings": False},
    "gpt2": GPT2,
    "llama, linear": {"rope_scaling": "linear", "rope_factor": 4.0},
    "llama, ntk": {"rope_scaling": "ntk", "rope_factor": 4.0},
    "llama, yarn": {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_length": 8},
    "llama, llama3": {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_length": 16, "max_seq_len": 128},
}
SCALED = [name for name in SHAPES if "rope_scaling" in SHAPES[name] and name != "llama, ntk"]


def bpe(digits: Digits | None = 3, **values: Any) -> BPETokenizer:
    return BPETokenizer().train_from_iterator(TEXTS, vocab_size=300, digits=digits, **values)


def model_of(shape: str) -> TransformerLM:
    """304 rows for a tokenizer of 300; as many positions as transformers takes a GPT-2 in a GGUF file to have."""
    return enlivened(tiny_model(**{"vocab_size": 304, "d_model": 64, "max_seq_len": 1024, **SHAPES[shape]}))


def ids_of(tokenizer: Tokenizer) -> torch.Tensor:
    return torch.tensor([tokenizer.encode(TEXTS[0])[:24]])


@pytest.mark.covers("R305")
@pytest.mark.parametrize("shape", [name for name in SHAPES if name not in SCALED])
def test_what_is_written_is_read_back_exactly(tmp_path: Path, shape: str) -> None:
    model, tokenizer = model_of(shape), bpe()
    export_gguf(model, tokenizer, tmp_path / "model.gguf", dtype="f32")
    file = GGUFFile(tmp_path / "model.gguf")
    again, ids = file.model(), ids_of(tokenizer)
    torch.testing.assert_close(again(ids).logits, model(ids).logits, atol=1e-5 if shape == "llama, ntk" else 0, rtol=0)
    assert file.tokenizer().fingerprint() == tokenizer.fingerprint()
    assert again.config.tie_embeddings == model.config.tie_embeddings
    assert again.config.norm_eps == model.config.norm_eps


@pytest.mark.parametrize("shape", ["llama", "llama, tied", "mistral", "qwen2", "gpt2"])
def test_transformers_reads_the_same_model_and_tokenizer(tmp_path: Path, shape: str) -> None:
    transformers = pytest.importorskip("transformers")
    model, tokenizer = model_of(shape), bpe()
    export_gguf(model, tokenizer, tmp_path / "model.gguf", dtype="f32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    ).eval()
    ids = ids_of(tokenizer)
    torch.testing.assert_close(theirs(ids).logits, model(ids).logits, atol=2e-5, rtol=0)
    assert model(ids).logits.std() > 0.3
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    assert their_tokenizer.encode(TEXTS[-1], add_special_tokens=False) == tokenizer.encode(TEXTS[-1])
    assert their_tokenizer.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("dtype", "bits", "error"), [("f32", 32, 0.0), ("f16", 16, 5e-4), ("bf16", 16, 4e-3), ("q8_0", 8.5, 4.5e-3)]
)
def test_matrices_are_as_near_as_their_format_allows(tmp_path: Path, dtype: Any, bits: float, error: float) -> None:
    """Relative to the largest weight of a block of 32: half a step of the format."""
    model = model_of("llama")
    report = export_gguf(model, bpe(), tmp_path / "model.gguf", dtype=dtype)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(report.path).tensors}
    assert tensors["blk.1.attn_norm.weight"].tensor_type.name == "F32"
    for theirs, ours in (("blk.1.attn_v", "attention.v_proj"), ("blk.1.ffn_down", "feed_forward.down_proj")):
        tensor = tensors[f"{theirs}.weight"]
        assert tensor.tensor_type.name == dtype.upper()
        weight = model.get_parameter(f"blocks.1.{ours}.weight").detach().numpy()
        assert tensor.n_bytes == weight.size * bits / 8
        difference = np.abs(gguf.quants.dequantize(tensor.data, tensor.tensor_type) - weight).reshape(-1, 32)
        assert (difference.max(axis=1) <= error * np.abs(weight).reshape(-1, 32).max(axis=1)).all()
    assert report.formats[dtype.upper()] >= 15


def test_rows_that_do_not_divide_into_blocks_are_told(tmp_path: Path) -> None:
    model = tiny_model(vocab_size=300, d_model=48, n_heads=4, d_ff=64)
    report = export_gguf(model, bpe(), tmp_path / "model.gguf", dtype="q8_0")
    assert report.formats == {"F16": 13, "Q8_0": 2, "F32": 5}
    assert report.notes == ("13 matrices are in float16: their rows are no multiple of 32 numbers",)


def test_a_sliding_window_bounds_the_context(tmp_path: Path) -> None:
    report = export_gguf(model_of("mistral"), bpe(), tmp_path / "model.gguf")
    assert "the context is 200 tokens, not 1,024" in report.notes[0]
    assert GGUFFile(tmp_path / "model.gguf").config().max_seq_len == 200


@pytest.mark.parametrize(
    ("pattern", "digits", "cut", "note"),
    [
        ("gpt2", None, "gpt-2", None),
        ("gpt4", 3, "llama-bpe", None),
        ("gpt4", 1, "qwen2", None),
        ("gpt4", 2, "llama-bpe", "numbers of three digits or more"),
        ("gpt4", "none", "llama-bpe", "numbers of four digits or more"),
    ],
)
def test_the_cut_has_a_name_that_llama_cpp_knows_or_the_difference_is_told(
    tmp_path: Path, pattern: str, digits: Any, cut: str, note: str | None
) -> None:
    report = export_gguf(model_of("llama"), bpe(digits, pattern=pattern), tmp_path / "model.gguf")
    assert gguf.GGUFReader(report.path).get_field("tokenizer.ggml.pre").contents() == cut
    assert (note is None and not report.notes) or (note is not None and note in report.notes[0])


def test_a_tokenizer_that_cannot_go_says_where_it_can(tmp_path: Path) -> None:
    foreign = bpe()
    object.__setattr__(foreign.vocabulary, "pattern", r"\w+|\W+")
    unigram = UnigramTokenizer().train_from_iterator(TEXTS, vocab_size=330, allow_smaller=True)
    for tokenizer, why in ((foreign, "has no cut like"), (unigram, "UnigramTokenizer of this kind")):
        with pytest.raises(UserError, match=f"(?s){why}.*--to hf"):
            export_gguf(tiny_model(vocab_size=330), tokenizer, tmp_path / "model.gguf")
    with pytest.raises(UserError, match="the tokenizer has 300 tokens and the model only 61"):
        export_gguf(tiny_model(), bpe(), tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"position": "alibi"}, "position='alibi': Llama has only 'rope'"),
        ({"activation": "geglu"}, "activation='geglu': llama.cpp's llama has only 'swiglu'"),
        ({**GPT2, "activation": "gelu"}, "activation='gelu': llama.cpp's gpt2 has only 'gelu_tanh'"),
        ({"bias": True}, "bias=True: llama.cpp's biases"),
        ({"n_experts": 4}, "would be a mixtral, and only gpt2, llama, mistral, qwen2, qwen3 are written"),
        ({"rope_scaling": "dynamic", "rope_factor": 2.0}, "rope_scaling='dynamic': llama.cpp has only"),
        ({"rope_scaling": "yarn", "rope_factor": 2.0, "rope_attention_factor": 1.5}, "rope_attention_factor=1.5"),
        *((({name: value}, f"{name}=.*: Llama has")) for name, value in SMALL_MODEL_OPTIONS.items()),
    ],
)
def test_a_shape_that_llama_cpp_lacks_names_the_field(tmp_path: Path, values: dict[str, Any], why: str) -> None:
    assert gguf_problems(tiny_config(**values))
    with torch.device("meta"):
        model = TransformerLM(tiny_config(**values))
    with pytest.raises(ConfigError, match=why):
        export_gguf(model, bpe(), tmp_path / "model.gguf")


def test_numbers_that_float16_has_no_place_for_are_named_and_the_old_file_stays(tmp_path: Path) -> None:
    model, path = model_of("llama"), tmp_path / "model.gguf"
    path.write_bytes(b"old")
    with torch.no_grad():
        model.blocks[1].attention.v_proj.weight[3, 3] = 1e6
    with pytest.raises(UserError, match=r"blk\.1\.attn_v\.weight holds numbers beyond 65,504"):
        export_gguf(model, bpe(), path, dtype="f16")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]
    export_gguf(model, bpe(), path, dtype="bf16")
    apply_lora(model)
    with pytest.raises(ConfigError, match="merge them first"):
        export_gguf(model, bpe(), path)


def test_a_damaged_or_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    export_gguf(model_of("llama"), bpe(), path, dtype="q8_0")
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], whole[:100], b"GGUF", b"no model at all"):
        path.write_bytes(data)
        with pytest.raises(CorruptionError, match="is no whole GGUF file"):
            GGUFFile(path)
    with pytest.raises(DataError, match="cannot be read"):
        GGUFFile(tmp_path / "nothing.gguf")
    writer = gguf.GGUFWriter(path, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConfigError, match=r"general\.architecture='mamba' is not supported; known: llama"):
        GGUFFile(path).model()
    export_gguf(model_of("llama, linear"), bpe(), path)
    with pytest.raises(ConfigError, match=r"llama.rope.scaling.type='linear' is not supported"):
        GGUFFile(path).model()


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_a_file_with_any_bytes_changed_is_read_or_named(tmp_path: Path, shape: str) -> None:
    """No traceback, no hang, and no memory for what a damaged count asks for."""
    path = tmp_path / "model.gguf"
    model = enlivened(tiny_model(vocab_size=304, **SHAPES[shape]))
    export_gguf(model, bpe(), path, dtype="f32")
    whole = path.read_bytes()
    tensors = whole.find(b"token_embd.weight")
    places = [*range(64), *range(64, 1200, 41), *range(tensors - 8, tensors + 600, 19)]
    refused = 0
    for number, place in enumerate(places):
        harm = (b"\xff" * 8, b"\xff" * 7 + b"\x7f", bytes(8), b"\0\0\0\x7f")[number % 4]
        path.write_bytes(whole[:place] + harm + whole[place + len(harm) :])
        for read in (GGUFFile.model, GGUFFile.tokenizer):
            try:
                read(GGUFFile(path))
            except UserError:
                refused += 1
    assert refused > len(places) // 3


def test_what_a_file_says_of_its_shape_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    export_gguf(model_of("llama"), bpe(), path)
    whole = path.read_bytes()
    for key, wrong, message in (
        ("llama.attention.head_count", 0, "expected a number above 0"),
        ("llama.block_count", 2**31 - 1, "n_layers: expected less than or equal to 10000"),
        ("llama.block_count", 9000, "9,000 layers are more than the"),
        ("llama.feed_forward_length", 2**31 - 1, "its weights hold"),
    ):
        place = whole.find(key.encode()) + len(key) + 4  # behind the name, the kind of the value
        path.write_bytes(whole[:place] + wrong.to_bytes(4, "little") + whole[place + 4 :])
        with pytest.raises(UserError, match=message):
            GGUFFile(path).model()


def test_the_chat_template_goes_along(tmp_path: Path) -> None:
    tokenizer = bpe()
    tokenizer.chat_template = ChatTemplate("{{ messages[0]['content'] }}")
    export_gguf(model_of("llama"), tokenizer, tmp_path / "model.gguf")
    field = gguf.GGUFReader(tmp_path / "model.gguf").get_field("tokenizer.chat_template")
    assert field.contents() == tokenizer.chat_template.source


SENTENCEPIECE = Path(__file__).parents[1] / "tokenizer" / "sentencepiece_models"


def test_a_sentencepiece_model_goes_with_its_scores(tmp_path: Path) -> None:
    tokenizer = SentencePieceTokenizer.from_file(SENTENCEPIECE / "bpe_bytes.model")
    report = export_gguf(tiny_model(vocab_size=tokenizer.vocab_size + 3), tokenizer, tmp_path / "model.gguf")
    assert report.notes == ()
    reader = gguf.GGUFReader(report.path)
    values = {name: reader.get_field(f"tokenizer.ggml.{name}").contents() for name in ("model", "tokens", "scores")}
    assert values["model"] == "llama"
    assert values["tokens"][:-3] == [piece.text for piece in tokenizer.model.pieces]
    assert values["tokens"][-3:] == [f"[PAD{tokenizer.vocab_size + number}]" for number in range(3)]
    assert values["scores"][: tokenizer.vocab_size] == pytest.approx([piece.score for piece in tokenizer.model.pieces])
    with pytest.raises(UserError, match="is not read from GGUF files"):
        GGUFFile(report.path).tokenizer()


@pytest.mark.parametrize(
    ("name", "why"),
    [("bpe_symbols", "no tokens for single bytes"), ("unigram_bytes", "SentencePieceTokenizer of this")],
)
def test_a_sentencepiece_model_that_llama_cpp_reads_otherwise_is_refused(tmp_path: Path, name: str, why: str) -> None:
    tokenizer = SentencePieceTokenizer.from_file(SENTENCEPIECE / f"{name}.model")
    with pytest.raises(UserError, match=f"(?s){why}.*--to hf"):
        export_gguf(tiny_model(vocab_size=tokenizer.vocab_size), tokenizer, tmp_path / "model.gguf")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"old")
    written = gguf.GGUFWriter.write_tensor_data

    def run_out_of_space(writer: Any, tensor: Any) -> None:
        written(writer, tensor)
        if tensor.size > 10_000:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", run_out_of_space)
    with pytest.raises(UserError, match=r"the disk is full: could not write .*model\.gguf"):
        export_gguf(model_of("llama"), bpe(), path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_without_the_package_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"pip install 'llm-trainer\[export\]'"):
        export_gguf(model_of("llama"), bpe(), tmp_path / "model.gguf")


def llama_cpp_program(path: Path) -> Any:
    """llama.cpp, with everything in float32."""
    llama_cpp = pytest.importorskip("llama_cpp")
    whole = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    return llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, logits_all=True, verbose=False, **whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tokenizer",
    [
        *(
            (lambda name=name, digits=digits: bpe(digits, pattern=name))
            for name, digits in (("gpt2", None), ("gpt4", 1), ("gpt4", 2), ("gpt4", 3))
        ),
        lambda: SentencePieceTokenizer.from_file(SENTENCEPIECE / "bpe_bytes.model"),
    ],
    ids=["gpt2", "one digit", "two digits", "three digits", "sentencepiece"],
)
def test_llama_cpp_cuts_text_into_the_same_tokens(tmp_path: Path, tokenizer: Any) -> None:
    ours = tokenizer()
    export_gguf(tiny_model(vocab_size=ours.vocab_size), ours, tmp_path / "model.gguf", dtype="f32")
    program = llama_cpp_program(tmp_path / "model.gguf")
    for text in (ODD_TEXT.replace("1984", "84"), TEXTS[-1], "  a\n\n\n b\r\n c", "don't DON'T 'tis", "ﬁ é ½ ٣ 中文字"):
        assert program.tokenize(text.encode(), add_bos=False) == ours.encode(text), text
    program.close()


@pytest.mark.slow
@pytest.mark.covers("R305")
@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_runs_it(tmp_path: Path, shape: str) -> None:
    """The same tokens of a text, the same logits, the same greedy continuation."""
    model, tokenizer = model_of(shape), bpe()
    export_gguf(model, tokenizer, tmp_path / "model.gguf", dtype="f32")
    program = llama_cpp_program(tmp_path / "model.gguf")
    assert program.tokenize(ODD_TEXT.encode(), add_bos=False) == tokenizer.encode(ODD_TEXT)
    assert program.tokenize(b"fox", add_bos=True) == [tokenizer.bos_token_id, *tokenizer.encode("fox")]
    ids = ids_of(tokenizer)
    program.eval(ids[0].tolist())
    logits = torch.from_numpy(np.array(program.scores[: ids.shape[1]]))
    torch.testing.assert_close(logits, model(ids).logits[0], atol=2e-3, rtol=0)
    expected = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :].tolist()
    found = []
    for token in program.generate(ids[0].tolist(), temp=0.0, repeat_penalty=1.0, reset=True):
        found.append(token)
        if len(found) == len(expected):
            break
    assert found == expected
    program.close()
