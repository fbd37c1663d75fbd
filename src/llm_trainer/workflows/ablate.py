"""What does each part contribute? One tiny model, trained again and again with one part exchanged."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from llm_trainer.common.errors import UserError
from llm_trainer.common.files import write_json, write_text
from llm_trainer.config import DataConfig, ModelConfig, TrainingConfig
from llm_trainer.models import TransformerLM
from llm_trainer.tokenizer import BPETokenizer
from llm_trainer.training import Trainer
from llm_trainer.training.preparation import open_training_data, prepare_data
from llm_trainer.training.utils import seed_everything

BASE: dict[str, Any] = {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "activation": [{"activation": name} for name in ("swiglu", "geglu", "gelu", "relu", "relu2", "silu")],
    "norm": [{"norm": "rmsnorm"}, {"norm": "layernorm", "bias": True}, {"pre_norm": False}],
    "position": [{"position": name} for name in ("rope", "learned", "sinusoidal", "alibi", "none")],
    "heads": [{"n_kv_heads": count} for count in (4, 2, 1)],
    "qk_norm": [{"qk_norm": value} for value in (False, True)],
    "tie_embeddings": [{"tie_embeddings": value} for value in (True, False)],
}
ALIASES = {"pos": "position", "act": "activation"}
DOCUMENTS = 300


def run_ablation(
    vary: list[str], *, steps: int, seeds: int, output_dir: Path | None, echo: Callable[[str], None]
) -> str:
    """Train every variant and return a table of validation losses.

    Args:
        vary: parts to exchange, keys of :data:`VARIANTS`.
        steps: steps for each training.
        seeds: trainings of each variant; the spread between them is the noise.
        output_dir: where to keep the table (``ablation.md``) and the figures (``ablation.json``).
        echo: called as results come in.

    Raises:
        UserError: a part that is not known; the known ones are listed.
    """
    names = [ALIASES.get(name, name) for name in vary]
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise UserError(f"cannot vary {unknown[0]!r}", hint=f"parts that can be varied: {', '.join(VARIANTS)}")
    data_config = DataConfig(max_documents=DOCUMENTS, max_length=BASE["max_seq_len"])
    tokenizer = BPETokenizer()
    texts = (document.text for document in islice(open_training_data(data_config), DOCUMENTS))
    tokenizer.train_from_iterator(texts, vocab_size=1024)
    rows: list[dict[str, Any]] = []
    for name in names:
        for changes in VARIANTS[name]:
            losses = [_train(changes, tokenizer, data_config, steps, seed) for seed in range(seeds)]
            label = ", ".join(f"{key}={value}" for key, value in changes.items())
            rows.append({"part": name, "variant": label, "losses": losses})
            echo(f"{name:<15} {label:<28} {statistics.mean(losses):.4f}")
    table = _table(rows, steps)
    if output_dir is not None:
        write_text(output_dir / "ablation.md", table + "\n")
        write_json(output_dir / "ablation.json", rows)
    return table


def _train(changes: dict[str, Any], tokenizer: BPETokenizer, data_config: DataConfig, steps: int, seed: int) -> float:
    model_config = ModelConfig(vocab_size=tokenizer.vocab_size, **{**BASE, **changes})
    training = TrainingConfig(
        max_steps=steps,
        batch_size=16,
        learning_rate=3e-3,
        seed=seed,
        eval_steps=steps,
        device="cpu",
        use_packed_cache=False,
    )
    data = prepare_data(data_config, tokenizer, model_config, training)
    try:
        seed_everything(seed)
        result = Trainer(TransformerLM(model_config), tokenizer, training).fit(data.train, data.validation)
    finally:
        data.close()
    if result.outcome != "finished":
        raise KeyboardInterrupt
    return result.metrics["validation/loss"]


def _table(rows: list[dict[str, Any]], steps: int) -> str:
    lines = [
        f"Validation loss after {steps} steps (nats per token; the first row of each part is the base)",
        "",
        "| part | variant | loss | difference | spread over seeds |",
        "|---|---|---|---|---|",
    ]
    base = {row["part"]: statistics.mean(row["losses"]) for row in reversed(rows)}
    for row in rows:
        mean = statistics.mean(row["losses"])
        spread = f"{max(row['losses']) - min(row['losses']):.4f}" if len(row["losses"]) > 1 else "one seed"
        lines.append(f"| {row['part']} | {row['variant']} | {mean:.4f} | {mean - base[row['part']]:+.4f} | {spread} |")
    return "\n".join(lines)
