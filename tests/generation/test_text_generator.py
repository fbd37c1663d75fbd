"""Text in, text out: the documented snippets, prompts as in training, stop strings, streams, batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.generation.text import StopBuffer
from llm_trainer.models import TransformerLM
from llm_trainer.tokenizer.base import Tokenizer
from llm_trainer.tokenizer.streaming import WindowStreamDecoder
from llm_trainer.utils.generation import GenerationConfig, TextGenerator

Make = Callable[..., TransformerLM]
Scripted = Callable[..., torch.nn.Module]
PROMPT = "The future of AI is"


@pytest.mark.covers("R373", "R374", "R375", "R376", "R377", "R386")
def test_documented_strategies_verbatim(make_model: Make, tokenizer: Tokenizer) -> None:
    model = make_model()
    generator = TextGenerator(model, tokenizer)

    # Nucleus sampling
    nucleus = GenerationConfig(temperature=0.8, top_p=0.9, do_sample=True)

    # Beam search
    beams = GenerationConfig(num_beams=5, temperature=1.0)

    # Top-k sampling
    top_k = GenerationConfig(top_k=50, temperature=0.7)

    for config in (nucleus, beams, top_k):
        generated = generator.generate("The future of AI is", config)
        assert generated.startswith(PROMPT) and len(generated) > len(PROMPT)
    assert generator.generate(PROMPT, beams) == generator.generate(PROMPT, beams)
    assert len({generator.generate(PROMPT, top_k) for _ in range(4)}) > 1


@pytest.mark.covers("R379", "R386")
def test_documented_generate_text_verbatim(make_model: Make, tokenizer: Tokenizer) -> None:
    model = make_model(max_seq_len=128)
    device = "cpu"

    # Cell 2: Text generation
    def generate_text(model, tokenizer, prompt, max_length=100):  # type: ignore[no-untyped-def]
        model.eval()
        input_ids = tokenizer.encode(prompt, return_tensors="pt").to(device)

        with torch.no_grad():
            output = model.generate(
                input_ids,
                max_length=max_length,
                num_return_sequences=1,
                temperature=0.8,
                do_sample=True,
                pad_token_id=tokenizer.eos_token_id
            )  # fmt: skip

        generated_text = tokenizer.decode(output[0], skip_special_tokens=True)
        return generated_text  # noqa: RET504

    # Cell 3: Interactive generation
    prompt = "The future of artificial intelligence is"
    generated = generate_text(model, tokenizer, prompt)
    assert generated.startswith(prompt) and len(generated) > len(prompt)
    assert len(tokenizer.encode(generated, allowed_special="all")) >= len(prompt)


@pytest.mark.covers("R381")
def test_a_prompt_begins_like_a_document_and_never_ends_like_one(
    make_model: Make, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    read: list[list[int]] = []
    original = model.hidden_states

    def spy(input_ids: Tensor, *, position_ids: Tensor, cache: Any) -> Tensor:
        read.extend(input_ids.tolist())
        return original(input_ids, position_ids=position_ids, cache=cache)

    monkeypatch.setattr(model, "hidden_states", spy)
    generator = TextGenerator(model, tokenizer)
    for prompt in ("Hello", "", "a<|endoftext|>"):
        read.clear()
        generator.generate(prompt, max_new_tokens=1)
        assert read == [[256, *prompt.encode()]]


@pytest.mark.parametrize("stop", ["###", "d #", "é", "🙂", "\n\n"])
def test_a_stop_string_across_tokens_ends_the_text_before_it(
    scripted: Scripted, tokenizer: Tokenizer, stop: str
) -> None:
    before = "one ## twé"[:-1]
    generator = TextGenerator(scripted("p", f"{before}{stop}never seen"), tokenizer)
    pieces = list(generator.stream("p", stop=[stop, "zzz"], temperature=0))
    assert "".join(pieces) == "p" + before == generator.generate("p", stop=[stop, "zzz"], temperature=0)


def test_a_stream_is_whole_characters_and_equals_generate(scripted: Scripted, tokenizer: Tokenizer) -> None:
    answer = " héllo 🙂🙃 日本 #"
    generator = TextGenerator(scripted("say:", answer), tokenizer)
    pieces = list(generator.stream("say:", temperature=0, return_full_text=False, stop=["##"]))
    assert "".join(pieces) == answer and "🙂" in pieces and "" not in pieces
    assert not any("\ufffd" in piece for piece in pieces)
    assert generator.generate("say:", temperature=0, return_full_text=False) == answer
    assert "".join(generator.stream("say:", temperature=0)) == "say:" + answer


def test_bytes_that_are_no_character_and_special_tokens(scripted: Scripted, tokenizer: Tokenizer) -> None:
    broken = TextGenerator(scripted("p", b"ok \xf0\x9f"), tokenizer)
    expected = "pok \ufffd"
    assert broken.generate("p", temperature=0) == "".join(broken.stream("p", temperature=0)) == expected
    # An eos of one's own: the tokenizer's end token is then passed over, and has no text.
    other = TextGenerator(scripted("p", bytes([65, 66, 33, 67])), tokenizer)
    assert other.generate("p", temperature=0, eos_token_id=33) == "pAB!"


@pytest.mark.parametrize(
    "config",
    [
        GenerationConfig(temperature=0, max_new_tokens=40),
        GenerationConfig(temperature=1.2, top_p=0.95, seed=11, max_new_tokens=40),
        GenerationConfig(num_beams=3, max_new_tokens=10),
        GenerationConfig(temperature=0.8, seed=2, repetition_penalty=1.2, stop=["e", "\x00"], max_new_tokens=40),
    ],
)
def test_batch_of_different_lengths_stream_and_single_are_equal(
    make_model: Make, tokenizer: Tokenizer, config: GenerationConfig
) -> None:
    generator = TextGenerator(make_model(max_seq_len=32).double(), tokenizer)
    prompts = ["", "Hello, I am a language model,", PROMPT, "a"]
    batch = generator.generate_batch(prompts, config)
    assert batch == generator.generate(prompts, config)
    for row, prompt in enumerate(prompts):
        own = {} if config.seed is None else {"seed": config.seed + row}
        assert generator.generate(prompt, config, **own) == batch[row]
        assert "".join(generator.stream(prompt, config, **own)) == batch[row]


def test_tokenizers_that_drop_a_leading_space_keep_it_after_the_prompt(
    scripted: Scripted, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True).removeprefix(" ")

    monkeypatch.setattr(tokenizer, "stream_decoder", lambda **_: WindowStreamDecoder(decode))
    generator = TextGenerator(scripted("Hello", " big world"), tokenizer)
    assert generator.generate("Hello", temperature=0) == "Hello big world"
    assert "".join(generator.stream("Hello", temperature=0, return_full_text=False)) == " big world"


def test_every_piece_can_be_printed_whatever_the_prompt(make_model: Make, tokenizer: Tokenizer) -> None:
    prompt = b"caf\xe9".decode("utf-8", "surrogateescape")  # what a shell gives for a word that is not UTF-8
    pieces = list(TextGenerator(make_model(), tokenizer).stream(prompt, max_new_tokens=3, seed=0))
    assert "".join(pieces).encode().decode().startswith("caf\ufffd")


def test_several_texts_per_prompt(make_model: Make, tokenizer: Tokenizer) -> None:
    generator = TextGenerator(make_model(sharpness=1.0), tokenizer)
    texts = generator.generate(["a", "b"], num_return_sequences=3, max_new_tokens=8, seed=0)
    assert [text[0] for text in texts] == list("aaabbb") and len(set(texts)) == 6
    assert generator.generate([]) == []
    with pytest.raises(UserError, match="list"):
        generator.generate("a", num_return_sequences=3)
    with pytest.raises(UserError, match="one text"):
        generator.stream("a", num_return_sequences=3)


def test_length_limits_and_overrides(scripted: Scripted, tokenizer: Tokenizer) -> None:
    generator = TextGenerator(scripted("p", "abcdefgh"), tokenizer)
    short = GenerationConfig(temperature=0, max_length=4)  # bos, p, and two more
    assert generator.generate("p", short) == "pab"
    assert generator.generate("p", short, max_new_tokens=5) == "pabcde"
    assert generator.generate("p", short, max_length=6) == "pabcd"
    with pytest.raises(ConfigError, match="did you mean 'top_p'"):
        generator.stream("p", topp=0.5)
    with pytest.raises(UserError, match="stop string must not be empty"):
        generator.generate("p", stop=[""])


def test_padded_vocabulary_is_never_predicted_and_a_small_one_is_refused(
    make_model: Make, tokenizer: Tokenizer
) -> None:
    padded = make_model(vocab_size=4096, sharpness=1.0)
    text = TextGenerator(padded, tokenizer).generate("", max_new_tokens=50, seed=0)
    assert text  # an id beyond the tokenizer's would have no text and raise
    assert TextGenerator(padded, tokenizer).generate("", max_new_tokens=5, num_beams=3)
    with pytest.raises(UserError, match="257 tokens, but the model knows only 100"):
        TextGenerator(make_model(vocab_size=100), tokenizer)


@given(pieces=st.lists(st.text(alphabet="ab#", max_size=4), max_size=12), stop=st.text(alphabet="ab#", min_size=1))
def test_one_stop_string_cuts_exactly_before_it_however_the_text_is_cut(pieces: list[str], stop: str) -> None:
    buffer = StopBuffer([stop])
    out = "".join([*map(buffer.push, pieces), buffer.close()])
    whole = "".join(pieces)
    assert out == whole.partition(stop)[0]
    assert buffer.stopped == (stop in whole)


@given(pieces=st.lists(st.text(alphabet="ab#", max_size=4), max_size=12), stop=st.lists(st.text("ab#", min_size=1)))
def test_no_stop_string_ever_comes_out(pieces: list[str], stop: list[str]) -> None:
    buffer = StopBuffer(stop)
    out = "".join([*map(buffer.push, pieces), buffer.close()])
    whole = "".join(pieces)
    assert whole.startswith(out) and not any(text in out for text in stop)
    assert buffer.stopped == any(text in whole for text in stop)
    assert buffer.stopped or out == whole
