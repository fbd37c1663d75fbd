"""Every family is trained by the one loop: exact losses, toy tasks that only a right model solves, exact resumes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llm_trainer.common.errors import UserError
from llm_trainer.data import PackedLoader, PackedSequence
from llm_trainer.data.examples import Examples, LabelCollator, collate_pairs
from llm_trainer.data.masking import MaskedCollator
from llm_trainer.models import EncoderDecoderLM, build_model
from llm_trainer.training import Trainer
from llm_trainer.training.classification import Classification
from llm_trainer.training.masked_lm import MaskedLM
from llm_trainer.training.objectives import Objective
from llm_trainer.training.seq2seq import SequenceToSequence
from tests.models.test_families import MODELS, make
from tests.models.tiny import tiny_config
from tests.training.helpers import config

END, MASK = 1, 2


def sequences(count: int, length: int = 24, seed: int = 0) -> list[PackedSequence]:
    """Rows that repeat their first four tokens, so that whoever looks around can fill any gap."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        tokens = np.resize(rng.integers(3, 23, 4), length)
        rows.append(PackedSequence(tokens.astype(np.uint16), np.array([length], dtype=np.uint32)))
    return rows


def masked_loader(count: int, *, seed: int = 0, batch_size: int = 32, shuffle: bool = True) -> PackedLoader:
    collator = MaskedCollator(24, 23, MASK, [0, END, MASK], seed=seed)
    cache: Any = Examples(sequences(count, seed=seed), identity=["repeats", count, seed], seq_len=24)
    return PackedLoader(cache, batch_size, collator=collator, shuffle=shuffle)


def reversals(count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    rows = [rng.integers(3, 20, rng.integers(3, 8)) for _ in range(count)]
    return [(np.append(row, END), np.append(row[::-1], END)) for row in rows]


def pair_loader(count: int, *, seed: int = 0, batch_size: int = 64, shuffle: bool = True) -> PackedLoader:
    cache: Any = Examples(reversals(count, seed), identity=["reverse", count, seed], seq_len=8)
    return PackedLoader(cache, batch_size, collator=collate_pairs, shuffle=shuffle)


def label_loader(count: int, *, per_token: bool, seed: int = 0, shuffle: bool = True) -> PackedLoader:
    """A text is 1 if it has more tokens above 12 than below; a token is 1 if it is larger than the one before it."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(3, 23, 9) for _ in range(count)]
    if per_token:
        labels: list[Any] = [np.concatenate(([-100], (row[1:] > row[:-1]).astype(np.int64))) for row in rows]
    else:
        labels = [int((row > 12).sum() > 4) for row in rows]
    cache: Any = Examples(list(zip(rows, labels)), identity=["labels", per_token, count, seed], seq_len=9)
    return PackedLoader(cache, 32, collator=LabelCollator(per_token=per_token), shuffle=shuffle)


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("name", ["BERT", "encoder"])
def test_the_masked_loss_is_the_cross_entropy_at_the_gaps(name: str) -> None:
    model = make(name).train()
    batch = next(masked_loader(8, batch_size=8).batches(0, 8))
    terms = MaskedLM().loss(model, batch)
    logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    expected = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100, reduction="sum")
    torch.testing.assert_close(terms.total, expected, atol=1e-4, rtol=1e-5)
    assert int(terms.count) == int((batch["labels"] != -100).sum())
    parameters = list(model.parameters())
    ours = torch.autograd.grad(terms.total, parameters, allow_unused=True, retain_graph=True)
    for one, two in zip(ours, torch.autograd.grad(expected, parameters, allow_unused=True), strict=True):
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-3)
    with torch.no_grad():
        hits = MaskedLM().loss(model.eval(), batch).correct
    assert int(hits) == int((logits.argmax(dim=-1) == batch["labels"]).sum())


@pytest.mark.parametrize("name", ["T5", "2017"])
def test_the_loss_of_an_answer_is_the_cross_entropy_of_its_tokens(name: str) -> None:
    model = make(name).train()
    batch = next(pair_loader(8, batch_size=8).batches(0, 8))
    terms = SequenceToSequence().loss(model, batch)
    output = model(batch["input_ids"], labels=batch["labels"], attention_mask=batch["attention_mask"])
    torch.testing.assert_close(terms.total / terms.count, output.loss, atol=1e-4, rtol=1e-5)
    with torch.no_grad():
        hits = SequenceToSequence().loss(model.eval(), batch).correct
    assert int(hits) == int((output.logits.argmax(dim=-1) == batch["labels"]).sum())


@pytest.mark.parametrize(
    ("name", "objective"), [("BERT", MaskedLM()), ("T5", SequenceToSequence()), ("classifier", Classification())]
)
def test_a_batch_without_targets_costs_nothing_and_breaks_nothing(name: str, objective: Objective) -> None:
    # What a rank gets that has run out of data.
    collators: dict[str, Any] = {"BERT": MaskedCollator(24, 23, MASK, [0]), "T5": collate_pairs}
    batch = collators.get(name, LabelCollator(per_token=False))([], np.arange(0))
    model = make(name).train()
    terms = objective.loss(model, batch)
    terms.total.backward()
    assert float(terms.total.detach()) == 0 and int(terms.count) == 0
    assert all(p.grad is None or (not p.grad.isnan().any() and not p.grad.any()) for p in model.parameters())


def test_the_gradient_does_not_depend_on_how_a_batch_is_cut() -> None:
    rows = next(pair_loader(16, batch_size=16).batches(0, 16))
    models = make("T5").train(), make("T5").train()
    SequenceToSequence().loss(models[0], rows).total.backward()
    for part in (slice(0, 3), slice(3, 16)):
        SequenceToSequence().loss(models[1], {key: value[part] for key, value in rows.items()}).total.backward()
    for one, two in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-3, rtol=1e-3)


def test_the_same_objectives_train_models_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = {"vocab_size": 23, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = transformers.BertForMaskedLM(transformers.BertConfig(**size, intermediate_size=64))
    options = config(max_steps=3, batch_size=8)
    result = Trainer(bert, None, options, objective=MaskedLM()).fit(masked_loader(64, batch_size=8))
    assert math.isfinite(result.loss)
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=23, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
    )
    result = Trainer(t5, None, options, objective=SequenceToSequence()).fit(pair_loader(64, batch_size=8))
    assert math.isfinite(result.loss)


@pytest.mark.parametrize("name", ["BERT", "T5", "classifier"])
def test_what_sees_the_next_token_is_not_trained_to_predict_it(name: str) -> None:
    with pytest.raises(UserError, match="does not learn to predict the next token"):
        Trainer(make(name), None, config())
    with pytest.raises(UserError, match="pass a loader that makes its gaps"):
        Trainer(make(name), None, config(), objective=MaskedLM()).fit(["a text", "another"])


# ---------------------------------------------------------------- resumes

RUNS: dict[str, tuple[dict[str, Any], Objective, Any]] = {
    "masked words": (MODELS["BERT"], MaskedLM(), lambda: masked_loader(64, batch_size=4)),
    "T5": (MODELS["T5"], SequenceToSequence(), lambda: pair_loader(64, batch_size=4)),
    "2017": (MODELS["2017"], SequenceToSequence(), lambda: pair_loader(64, batch_size=4)),
    "labels": (
        {"family": "encoder", "head": "sequence", "labels": ["a", "b"]},
        Classification(),
        lambda: label_loader(64, per_token=False),
    ),
}


@pytest.mark.covers("R136", "R137")
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_interrupted_ends_with_the_same_weights(name: str, tmp_path: Path) -> None:
    shape, objective, make_loader = RUNS[name]

    def train(folder: str, steps: int, *, resume: bool = False) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = build_model(tiny_config(**{**shape, "dropout": 0.1}))
        options = config(max_steps=steps, lr_scheduler="constant", save_steps=3)
        Trainer(model, None, options, objective=objective, run_dir=tmp_path / folder).fit(make_loader(), resume=resume)
        return model.state_dict()

    whole = train("whole", 6)
    train("parts", 3)
    parts = train("parts", 6, resume=True)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


# ---------------------------------------------------------------- toy tasks


@pytest.mark.slow
@pytest.mark.covers("R136")
@pytest.mark.parametrize("name", ["BERT", "encoder"])
def test_an_encoder_learns_to_fill_gaps(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(tiny_config(**{**MODELS[name], "d_model": 64, "init_std": 0.02}))
    options = config(max_steps=400, batch_size=32, learning_rate=2e-3, warmup_steps=100)
    trainer = Trainer(model, None, options, objective=MaskedLM())
    result = trainer.fit(masked_loader(4000), masked_loader(200, seed=9, shuffle=False))
    assert result.metrics["validation/loss"] < 0.5 * math.log(20)
    assert result.metrics["validation/accuracy"] > 0.6  # chance is 0.05
    assert "validation/bits_per_byte" not in result.metrics


@pytest.mark.slow
@pytest.mark.covers("R137")
@pytest.mark.parametrize("name", ["T5", "2017"])
def test_an_encoder_decoder_learns_to_reverse(name: str) -> None:
    torch.manual_seed(0)
    # Beside an embedding of size 1, T5's matrices start larger than elsewhere.
    shape = {**MODELS[name], "d_model": 64, "init_std": 0.1 if name == "T5" else 0.02, "n_encoder_layers": 2}
    model = build_model(tiny_config(**shape))
    assert isinstance(model, EncoderDecoderLM)
    options = config(max_steps=700, batch_size=64, learning_rate=3e-3 if name == "T5" else 1e-3, warmup_steps=60)
    Trainer(model, None, options, objective=SequenceToSequence()).fit(pair_loader(20_000))
    unseen = reversals(200, seed=9)
    batch = collate_pairs(unseen)
    answers = model.generate(
        batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=9, do_sample=False, eos_token_id=END
    )
    right = [row[1 : 1 + len(target)] == target.tolist() for row, (_, target) in zip(answers.tolist(), unseen)]
    assert np.mean(right) > 0.95


@pytest.mark.slow
@pytest.mark.covers("R136")
@pytest.mark.parametrize("per_token", [False, True])
def test_an_encoder_learns_labels(per_token: bool) -> None:
    torch.manual_seed(0)
    head = {"head": "tokens" if per_token else "sequence", "labels": ["no", "yes"]}
    model = build_model(tiny_config(family="encoder", init_std=0.02, **head))
    options = config(max_steps=400, batch_size=32, learning_rate=3e-3, warmup_steps=20)
    trainer = Trainer(model, None, options, objective=Classification())
    result = trainer.fit(
        label_loader(8000, per_token=per_token), label_loader(300, per_token=per_token, seed=9, shuffle=False)
    )
    assert result.metrics["validation/accuracy"] > 0.9
