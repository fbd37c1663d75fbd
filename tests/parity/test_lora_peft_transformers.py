"""Our adapters against the peft package, through its own files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm_trainer.models.lora import apply_lora, load_lora, lora_layers, save_lora

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


def tiny_llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.15,
    )
    return transformers.LlamaForCausalLM(config).eval()


def test_adapters_go_to_peft_and_come_back(tmp_path: Path) -> None:
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    model = tiny_llama()
    apply_lora(model, r=4, alpha=12, targets=("q_proj", "down_proj"))
    for _, layer in lora_layers(model):
        torch.nn.init.normal_(layer.lora_B)
    expected = model(ids).logits
    save_lora(model, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(tiny_llama(), tmp_path / "ours").eval()
    assert (expected - tiny_llama()(ids).logits).abs().max() > 0.1
    torch.testing.assert_close(theirs(ids).logits, expected, atol=1e-5, rtol=0)
    theirs.save_pretrained(tmp_path / "theirs")
    again = tiny_llama()
    load_lora(again, tmp_path / "theirs")
    torch.testing.assert_close(again(ids).logits, expected, atol=1e-5, rtol=0)
