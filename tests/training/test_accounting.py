"""Counted arithmetic, and what a run says of its speed and memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llm_trainer.models import TransformerLM
from llm_trainer.monitoring.accounting import human_flops, peak_memory, resource_summary
from llm_trainer.monitoring.metrics_file import MetricsLog, read_metrics_log
from llm_trainer.training import CausalLM, Trainer, reporting
from llm_trainer.training.reporting import RunReporter
from tests.training.helpers import ListLoader, config, tiny_model

GPT2 = {"activation": "gelu_tanh", "norm": "layernorm", "position": "learned", "bias": True}
LLAMA = {"activation": "swiglu", "norm": "rmsnorm", "position": "rope", "n_kv_heads": 2, "tie_embeddings": False}
SHAPE = {"vocab_size": 300, "d_model": 64, "n_heads": 4, "n_layers": 3, "max_seq_len": 48}


def counted(model: TransformerLM, batch: int, seq: int, *, fused: bool) -> float:
    """What PyTorch's counter sees of a forward and a backward pass, per token."""
    ids = torch.randint(0, model.config.vocab_size, (batch, seq))
    with FlopCounterMode(display=False) as counter:
        if fused:
            CausalLM().loss(model, {"input_ids": ids, "labels": ids}).total.backward()
        else:
            model(ids, labels=ids).loss.backward()
    return counter.get_total_flops() / (batch * seq)


@pytest.mark.covers("R277")
@pytest.mark.parametrize("layout", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("seq", [16, 48])
def test_the_formula_is_what_pytorch_counts(layout: dict[str, object], seq: int) -> None:
    """Matrix products are all the counter knows; norms, softmax, activations, lookups and the optimizer it leaves out,
    and so does the formula. Attention is written out here: of the fused CPU kernel the counter sees nothing."""
    model = tiny_model(**SHAPE, **layout, attention_backend="explicit")
    assert counted(model, 2, seq, fused=False) == model.flops_per_token(seq)
    # The loss that training uses may leave out the last position of a row, which has no target, and nothing else.
    head = 6 * model.lm_head.weight.numel()
    most = model.flops_per_token(seq)
    assert most - head / seq <= counted(model, 2, seq, fused=True) <= most


@pytest.mark.covers("R277")
def test_speed_arithmetic_and_memory_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "matmul_peak", lambda device, dtype: 1e9)
    settings = config(max_steps=6, logging_steps=2, report_to=[])
    model = tiny_model()
    Trainer(model, config=settings, callbacks=[RunReporter(tmp_path, settings, quiet=True)]).fit(ListLoader())
    log = read_metrics_log(tmp_path)
    assert len(log.records) == 3
    for record in log.records:
        rate = record["train/tokens_per_second"] * model.flops_per_token(16)
        assert record["train/flops_per_second"] == pytest.approx(rate, rel=1e-6)
        assert record["train/mfu"] == pytest.approx(rate / 1e9, rel=1e-6)
        assert record["system/memory_peak"] >= 0.9 * record["system/memory_rss"] > 10 << 20
    text = resource_summary(log)
    assert text is not None
    assert "tokens/s" in text and "FLOP/s" in text and "% of the peak here" in text and text.endswith("of memory")


def test_the_summary_of_what_there_is() -> None:
    def log(**values: float) -> MetricsLog:
        names = {"speed": "train/tokens_per_second", "rate": "train/flops_per_second", "mfu": "train/mfu"}
        names |= {"peak": "system/memory_peak", "device": "system/memory_device"}
        records = [{"step": step, **{names[key]: value * step for key, value in values.items()}} for step in (1, 2, 3)]
        return MetricsLog(records)

    assert resource_summary(MetricsLog([])) is None
    assert resource_summary(log(speed=100.0)) == "200 tokens/s"
    assert resource_summary(log(rate=1e9, mfu=0.1, peak=1 << 30)) == (
        "2.0 GFLOP/s (20 % of the peak here), 3.0 GB of memory"
    )
    # On a GPU its own memory is the one that runs out.
    assert peak_memory(log(peak=1 << 30, device=1 << 20)) == (3 << 20, "GPU memory")
    assert [human_flops(rate) for rate in (5e2, 5e6, 5e9, 5e12, 5e15)] == [
        "500 FLOP/s",
        "5.0 MFLOP/s",
        "5.0 GFLOP/s",
        "5.0 TFLOP/s",
        "5.0 PFLOP/s",
    ]
