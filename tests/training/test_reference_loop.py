"""The loop on one page, and saving a model whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm_trainer.common.errors import UserError
from llm_trainer.models import TransformerLM
from llm_trainer.tokenizer import BPETokenizer, load_tokenizer
from llm_trainer.training import Trainer, create_optimizer, create_scheduler, save_checkpoint, training_loop
from tests.training.helpers import ListLoader, config, tiny_model


@pytest.mark.covers("R243", "R244", "R300", "R311")
def test_the_documented_loop_trains_logs_and_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, settings = tiny_model(), config(learning_rate=1e-2)
    optimizer = create_optimizer(model, settings)
    scheduler = create_scheduler(optimizer, settings, 12)
    logged: list[tuple[float, int]] = []
    losses = training_loop(
        model,
        ListLoader(sequences=4).batches(0, 48),
        optimizer,
        scheduler,
        log_steps=5,
        save_steps=5,
        log_metrics=lambda loss, step: logged.append((loss, step)),
        save_checkpoint=save_checkpoint,
    )
    assert len(losses) == 12 and losses[-1] < losses[0] - 0.3
    assert [step for _, step in logged] == [0, 5, 10]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000005", "step-000010"]
    assert model(**next(ListLoader().batches(0, 4)))["loss"].ndim == 0


@pytest.mark.covers("R303")
def test_a_saved_model_comes_back_with_its_tokenizer(tmp_path: Path) -> None:
    tokenizer = BPETokenizer()
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    trainer = Trainer(model, tokenizer, config(max_steps=2, use_ema=True, ema_decay=0.5))
    trainer.fit(ListLoader())
    trainer.save_model(tmp_path)
    loaded = TransformerLM.from_pretrained(tmp_path)
    assert trainer.ema is not None
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, trainer.ema.averages[name])
    assert load_tokenizer(tmp_path).encode("naïve 😀") == tokenizer.encode("naïve 😀")


def test_a_model_that_cannot_save_itself_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Linear cannot save itself"):
        Trainer(torch.nn.Linear(2, 2), config=config()).save_model(tmp_path)
