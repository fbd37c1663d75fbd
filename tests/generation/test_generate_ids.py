"""Token ids in, token ids out: the cache, batches, windows and seeds change nothing that they should not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.generation import generate_ids
from llm_trainer.models import BaseLanguageModel, TransformerLM

Make = Callable[..., TransformerLM]

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "grouped queries, qk norm": {"n_kv_heads": 2, "qk_norm": True, "tie_embeddings": True},
    "gpt2": {"position": "learned", "norm": "layernorm", "activation": "gelu_tanh", "bias": True},
    "2017": {"position": "sinusoidal", "norm": "layernorm", "pre_norm": False, "activation": "relu"},
    "alibi": {"position": "alibi", "attention_backend": "explicit"},
    "no positions": {"position": "none"},
}
DECODING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampling": {"temperature": 1.3, "seed": 5},
    "filters": {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.01, "seed": 5},
    "repetition penalty": {"temperature": 0, "repetition_penalty": 1.5},
    "several": {"num_return_sequences": 2, "seed": 5},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "eos_token_id": 7},
}


def prompts(*lengths: int) -> tuple[Tensor, Tensor]:
    """Random prompts, padded on the right, and their mask."""
    ids = torch.randint(0, 256, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids * mask, mask.long()


def naive_greedy(model: TransformerLM, row: Tensor, count: int) -> Tensor:
    """The documented rules, written as plainly as possible: full logits of a window, one row, no cache."""
    context = model.config.max_seq_len
    tokens, start = row.tolist(), 0
    for _ in range(count):
        if len(tokens) - start > context:
            start = len(tokens) - max(1, context // 2)
        with torch.no_grad():
            logits = model(torch.tensor([tokens[start:]])).logits
        tokens.append(int(logits[0, -1].argmax()))
    return torch.tensor(tokens)


@pytest.mark.covers("R380")
@pytest.mark.parametrize("decoding", DECODING.values(), ids=DECODING.keys())
@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_cache_equals_no_cache(make_model: Make, architecture: dict[str, Any], decoding: dict[str, Any]) -> None:
    # float64: in float32, two tokens that are equally likely to six digits change places once in a thousand texts.
    model = make_model(max_seq_len=24, **architecture).double()
    ids, mask = prompts(3, 11, 7)
    # 30 new tokens: every row outgrows the context of 24 at least once, at different steps.
    options = {"attention_mask": mask, "max_new_tokens": 30, **decoding}
    cached = generate_ids(model, ids, **options)
    assert torch.equal(cached, generate_ids(model, ids, use_cache=False, **options))


def test_a_model_of_ones_own_without_a_cache_is_read_whole(make_model: Make) -> None:
    inner = make_model(max_seq_len=24).double()

    class Cacheless(BaseLanguageModel):
        def __init__(self) -> None:
            super().__init__(inner.config)
            self.inner, self.lm_head = inner, inner.lm_head

        def hidden_states(self, input_ids: Tensor) -> Tensor:
            return self.inner.hidden_states(input_ids)

        def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Any:
            return self.inner(input_ids, labels)

    ids, mask = prompts(3, 11)
    options = {"attention_mask": mask, "max_new_tokens": 30, "temperature": 0}
    assert torch.equal(Cacheless().generate(ids, **options), inner.generate(ids, **options))


@pytest.mark.covers("R382")
def test_greedy_equals_a_naive_loop_far_past_the_context(make_model: Make) -> None:
    model = make_model(max_seq_len=16)
    ids, _ = prompts(5, 5)
    out = generate_ids(model, ids, max_new_tokens=60, temperature=0)
    assert torch.equal(out, torch.stack([naive_greedy(model, row, 60) for row in ids]))
    assert len(set(out[0, 5:].tolist())) > 20  # a text that repeats one token could hide an error


@pytest.mark.covers("R382")
@pytest.mark.parametrize("max_seq_len", [1, 2, 8])
@pytest.mark.parametrize("beams", [1, 2])
def test_prompts_longer_than_the_context_are_continued(make_model: Make, max_seq_len: int, beams: int) -> None:
    model = make_model(max_seq_len=max_seq_len)
    ids, _ = prompts(30)
    out = generate_ids(model, ids, max_new_tokens=20, do_sample=False, num_beams=beams)
    assert out.shape == (1, 50)
    if beams == 1:
        assert torch.equal(out[0], naive_greedy(model, ids[0], 20))


@pytest.mark.parametrize("decoding", DECODING.values(), ids=DECODING.keys())
def test_each_row_of_a_batch_equals_its_prompt_alone(make_model: Make, decoding: dict[str, Any]) -> None:
    model = make_model(max_seq_len=24).double()
    lengths, copies = (3, 11, 7), decoding.get("num_return_sequences", 1)
    ids, mask = prompts(*lengths)
    together = generate_ids(model, ids, attention_mask=mask, max_new_tokens=30, **decoding)
    for row, length in enumerate(lengths):
        own = dict(decoding)
        if "seed" in own:
            own["seed"] += row * copies
        alone = generate_ids(model, ids[row : row + 1, :length], max_new_tokens=30, **own)[:, length:]
        rows = together[row * copies : (row + 1) * copies, ids.shape[1] :]
        assert torch.equal(rows[:, : alone.shape[1]], alone)


def test_padding_on_either_side_and_lengths_give_the_same_tokens(make_model: Make) -> None:
    model = make_model()
    ids, mask = prompts(4, 9)
    left = torch.stack([row.roll(9 - length) for row, length in zip(ids, (4, 9))])
    options = {"max_new_tokens": 12, "temperature": 0}
    right_result = generate_ids(model, ids, attention_mask=mask, **options)
    left_result = generate_ids(model, left, attention_mask=mask.flip(1).sort(dim=1).values, **options)
    by_length = generate_ids(model, ids, prompt_lengths=[4, 9], **options)
    assert torch.equal(right_result[:, 9:], left_result[:, 9:])
    assert torch.equal(right_result, by_length)
    assert torch.equal(left_result[:, :9], left)  # the prompt columns come back as they went in


def test_eos_ends_a_row_and_the_rest_is_padding(make_model: Make) -> None:
    model = make_model()
    ids, _ = prompts(4, 4, 4)
    free = generate_ids(model, ids, max_new_tokens=10, temperature=0)
    eos = int(free[1, 4 + 3])
    ended = generate_ids(model, ids, max_new_tokens=10, temperature=0, eos_token_id=eos, pad_token_id=256)
    for before, after in zip(free[:, 4:].tolist(), ended[:, 4:].tolist()):
        stop = before.index(eos) + 1 if eos in before else 10
        assert after == (before[:stop] + [256] * (10 - stop))[: len(after)]
    assert ended[1, 4:].tolist().index(eos) <= 3


def test_seeds_repeat_differ_and_leave_the_global_random_state_alone(make_model: Make) -> None:
    model = make_model(sharpness=1.0)
    ids, _ = prompts(4)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = generate_ids(model, ids, max_new_tokens=20, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(generate_ids(model, ids, max_new_tokens=20, seed=3), first)
    assert not torch.equal(generate_ids(model, ids, max_new_tokens=20, seed=4), first)
    assert not torch.equal(generate_ids(model, ids, max_new_tokens=20), generate_ids(model, ids, max_new_tokens=20))


@pytest.mark.covers("R377")
def test_top_k_alone_samples_and_several_sequences_differ(make_model: Make) -> None:
    model = make_model(sharpness=1.0)
    ids, _ = prompts(4)
    out = generate_ids(model, ids, max_new_tokens=20, top_k=50, temperature=0.7, num_return_sequences=4, seed=0)
    assert len({tuple(row) for row in out.tolist()}) == 4


def test_generating_in_the_middle_of_training_changes_nothing(make_model: Make) -> None:
    model = make_model(dropout=0.5)
    ids, _ = prompts(4)
    expected = generate_ids(model, ids, max_new_tokens=12, temperature=0)
    model.train()
    frozen = next(module for module in model.modules() if not list(module.children()) and module is not model)
    frozen.eval()
    assert torch.equal(generate_ids(model, ids, max_new_tokens=12, temperature=0), expected)
    assert model.training and not frozen.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    model(ids, labels=ids).loss.backward()  # nothing cached during generation may stand in the way of gradients


def test_max_length_counts_the_prompt(make_model: Make) -> None:
    model = make_model()
    ids, mask = prompts(4, 9)
    assert generate_ids(model, ids, max_length=20).shape == (2, 20)
    ragged = generate_ids(
        model, ids, attention_mask=mask, max_length=12, pad_token_id=256, eos_token_id=255, temperature=0
    )
    assert ragged.shape == (2, 9 + 8)  # the short row gets 8 tokens, the long one 3
    assert ragged[1, 12:].tolist() == [256] * 5
    with pytest.raises(UserError, match=r"9 tokens, and max_length=9 .*\n.*max_new_tokens"):
        generate_ids(model, ids, max_length=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_token": 5}, "max_new_token: unknown key; did you mean 'max_new_tokens'"),
        ({"temperature": -1}, "temperature"),
        ({"num_beams": 2, "num_return_sequences": 3}, "must not exceed num_beams"),
        ({"do_sample": False, "num_return_sequences": 2}, "only one result"),
        ({"stop": ["x"]}, "need a tokenizer"),
        ({"prompt_lengths": [9]}, "prompt_lengths"),
        ({"prompt_lengths": [0]}, "no tokens"),
        ({"attention_mask": torch.ones(1, 3)}, "shape"),
    ],
)
def test_wrong_options_are_clear_errors(make_model: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate_ids(make_model(), prompts(4)[0], **options)


def test_wrong_prompts_are_clear_errors(make_model: Make) -> None:
    model = make_model()
    with pytest.raises(UserError, match=r"token id 257, but the model's ids go from 0 to 256"):
        generate_ids(model, torch.tensor([[1, 257]]))
    for shape in ((0, 3), (2, 0), (3,)):
        with pytest.raises(UserError, match=r"\(batch, seq\)"):
            generate_ids(model, torch.zeros(shape, dtype=torch.int64))


def test_damaged_weights_are_a_clear_error_and_the_mode_is_restored(make_model: Make) -> None:
    model = make_model().train()
    with torch.no_grad():
        model.lm_head.weight[5, 0] = float("nan")
    for options in ({"temperature": 0}, {}, {"num_beams": 2}):
        with pytest.raises(UserError, match="not finite"):
            generate_ids(model, prompts(4)[0], **options)
    assert model.training


def test_a_transformers_model_works_and_greedy_equals_its_own(make_model: Make) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.3, bos_token_id=None, eos_token_id=5, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(6, 97, (3, 6))
    reference = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=30)
    assert torch.equal(generate_ids(model, ids, do_sample=False, max_new_tokens=30, pad_token_id=0), reference)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    padded = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=10)
    ours = generate_ids(model, ids, attention_mask=mask, do_sample=False, max_new_tokens=10, pad_token_id=0)
    assert torch.equal(ours, padded)
    with pytest.raises(ConfigError):
        generate_ids(model, ids, logits_processor=[])


@pytest.mark.slow
@pytest.mark.covers("R380")
def test_cache_is_ten_times_faster_at_512_tokens(make_model: Make) -> None:
    model = make_model(vocab_size=8000, d_model=288, n_heads=6, n_layers=6, max_seq_len=640, sharpness=1.0)
    ids = torch.randint(0, 8000, (1, 512))

    def seconds_per_token(use_cache: bool, few: int, many: int) -> float:
        """The prompt is read once in both measurements, so the difference is the cost of the tokens alone."""
        took = []
        for count in (few, many):
            start = time.perf_counter()
            generate_ids(model, ids, max_new_tokens=count, temperature=0, use_cache=use_cache)
            took.append(time.perf_counter() - start)
        return (took[1] - took[0]) / (many - few)

    seconds_per_token(True, 1, 3)
    assert seconds_per_token(False, 1, 5) >= 10 * seconds_per_token(True, 1, 51)
