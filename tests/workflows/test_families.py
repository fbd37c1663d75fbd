"""A configuration file trains each family, from text or tables to a model that answers on the command line's terms."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from llm_trainer.cli.app import app
from llm_trainer.common.errors import ConfigError, DataError, UserError
from llm_trainer.config import RunConfig, load_config
from llm_trainer.corpus.records import open_records, read_records
from llm_trainer.generation import TextGenerator, fill_mask
from llm_trainer.models import EncoderDecoderLM, EncoderLM, SequenceClassifier, TokenClassifier, build_model
from llm_trainer.workflows.answers import classify, encoder_answer, tag
from llm_trainer.workflows.evaluate import evaluate_run
from llm_trainer.workflows.load import load_model
from llm_trainer.workflows.pretrain import describe_plan, plan_run, train_run
from llm_trainer.workflows.tasks import format_task

GOOD, BAD = ["good", "great", "lovely", "fine", "superb", "happy"], ["awful", "poor", "sad", "grim", "nasty", "dull"]
OTHER = ["the", "film", "was", "and", "a", "story", "actor", "seemed", "plot", "in", "my", "view"]
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rng = random.Random(0)
    path = tmp_path / "texts.jsonl"
    lines = (" ".join(rng.choices(GOOD + BAD + OTHER, k=60)) for _ in range(60))
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    rng = random.Random(0)
    path = tmp_path / "reviews.jsonl"
    with path.open("w") as file:
        for _ in range(300):
            label = rng.choice(["positive", "negative"])
            words = rng.choices(OTHER, k=5) + rng.choices(GOOD if label == "positive" else BAD, k=2)
            rng.shuffle(words)
            tags = ["ADJ" if word in GOOD + BAD else "X" for word in words]
            row = {"text": " ".join(words), "label": label, "words": words, "tags": tags}
            file.write(json.dumps({**row, "reversed": " ".join(reversed(words))}) + "\n")
    return path


def run_config(tmp_path: Path, table: Path, /, *, steps: int = 40, **sections: dict[str, Any]) -> RunConfig:
    values: dict[str, dict[str, Any]] = {
        "model": {"d_model": 32, "n_heads": 4, "n_layers": 1, "max_seq_len": 48},
        "tokenizer": {"vocab_size": 300},
        "data": {"dataset_name": str(table), "cache_dir": str(tmp_path / "cache"), "validation_fraction": 0.1},
        "training": {
            "max_steps": steps,
            "batch_size": 16,
            "learning_rate": 5e-3,
            "warmup_steps": 2,
            "device": "cpu",
            "precision": "fp32",
            "num_threads": 1,
            "tune": False,
            "report_to": [],
            "eval_steps": 20,
        },
        "generation": {"max_new_tokens": 8},
    }
    merged = {name: {**section, **sections.get(name, {})} for name, section in values.items()}
    return RunConfig(**{name: RunConfig.model_fields[name].annotation(**value) for name, value in merged.items()})


def train(run: RunConfig, folder: Path, **options: Any) -> Any:
    run.output_dir = str(folder)
    return train_run(run, echo=lambda text: None, quiet=True, **options)


@pytest.mark.covers("R136")
def test_an_encoder_is_trained_on_text_and_fills_gaps(tmp_path: Path, texts: Path) -> None:
    prompts = {"sample_prompts": ["the [MASK] was good", "no gap here"]}
    run = run_config(tmp_path, texts, model={"family": "encoder"}, training=prompts)
    notes = {note.key: note for note in plan_run(run).derivations}
    assert notes["training.objective"].value == "mlm"
    result = train(run, tmp_path / "run")
    assert result.task["loss"] < 5.0 and 0 < result.task["accuracy"] < 1
    loaded = load_model(str(tmp_path / "run"), device="cpu")
    assert isinstance(loaded.model, EncoderLM)
    assert "[MASK]" in loaded.tokenizer.special_tokens
    (gap,) = fill_mask(loaded.model, loaded.tokenizer, "the [MASK] was", top_k=3)
    assert len(gap) == 3 and gap[0].probability >= gap[1].probability
    assert not {filling.token_id for filling in gap} & set(loaded.tokenizer.special_tokens.values())
    answer = encoder_answer(loaded.model, loaded.tokenizer, "the [MASK] was [MASK]").splitlines()
    assert "[MASK]" not in answer[0] and [line.split(":")[0] for line in answer[1:]] == ["  gap 1", "  gap 2"]
    with pytest.raises(UserError, match=r"no \[MASK\] to fill"):
        encoder_answer(loaded.model, loaded.tokenizer, "nothing to do")
    with pytest.raises(UserError, match="does not continue it"):
        loaded.generator.generate("the film")
    with pytest.raises(UserError, match="does not continue it"):
        loaded.model.generate(torch.tensor([[1, 2]]))
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert samples and all(sample["prompt"] == "the [MASK] was good" for sample in samples)
    figures = json.loads((tmp_path / "run" / "evaluation.json").read_text())["held_out"]
    assert figures["accuracy"] == result.task["accuracy"]
    assert f"accuracy        {figures['accuracy']:.4f}" in evaluate_run(str(tmp_path / "run"), device="cpu")


@pytest.mark.covers("R136")
def test_what_an_encoder_learnt_by_filling_gaps_goes_over_to_a_classifier(
    tmp_path: Path, texts: Path, reviews: Path
) -> None:
    train(run_config(tmp_path, texts, steps=4, model={"family": "encoder"}), tmp_path / "mlm")
    start = {"init_from": str(tmp_path / "mlm"), "learning_rate": 1e-9}
    encoder, labels = {"family": "encoder"}, {"label_column": "label"}
    run = run_config(tmp_path, reviews, steps=2, model=encoder, data=labels, training=start)
    run.tokenizer = type(run.tokenizer)()
    train(run, tmp_path / "labels")
    before, after = (load_model(str(tmp_path / name), device="cpu").model for name in ("mlm", "labels"))
    assert isinstance(after, SequenceClassifier)
    learnt, taken = before.state_dict(), after.state_dict()
    shared = [name for name in taken if name.startswith("encoder.")]
    assert len(shared) > 10
    assert all(torch.allclose(taken[name], learnt[name], atol=1e-6) for name in shared)


@pytest.mark.covers("R137")
def test_an_encoder_decoder_is_trained_on_text_and_resumes_exactly(tmp_path: Path, texts: Path) -> None:
    shape = {"family": "encoder_decoder", "position": "relative"}
    training = {"lr_scheduler": "constant", "dataloader_num_workers": 0}
    whole = train(run_config(tmp_path, texts, steps=6, model=shape, training=training), tmp_path / "whole")
    assert whole.task["loss"] < 7
    train(run_config(tmp_path, texts, steps=3, model=shape, training=training), tmp_path / "parts")
    train(run_config(tmp_path, texts, steps=6, model=shape, training=training), tmp_path / "parts", resume=True)
    one, two = (load_model(str(tmp_path / name), checkpoint="last", device="cpu") for name in ("whole", "parts"))
    assert isinstance(one.model, EncoderDecoderLM) and one.step == two.step == 6
    assert all(torch.equal(a, b) for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values()))
    # <extra_id_0> in a prompt is a gap, in an answer it is shown; other special tokens are not.
    ids = one.generator.prompt_ids("the <extra_id_0> was <|endoftext|>")
    assert one.tokenizer.special_tokens["<extra_id_0>"] in ids
    assert ids.count(one.tokenizer.eos_token_id or -1) == 1 and ids[-1] == one.tokenizer.eos_token_id
    text = one.generator.generate("the <extra_id_0> was", temperature=0.0, max_new_tokens=6)
    assert "the" not in text.split("<extra_id")[0] and "<|endoftext|>" not in text


def test_labels_of_texts(tmp_path: Path, reviews: Path) -> None:
    run = run_config(tmp_path, reviews, model={"family": "encoder"}, data={"label_column": "label"}, steps=80)
    result = train(run, tmp_path / "run")
    assert result.task["accuracy"] > 0.9
    loaded = load_model(str(tmp_path / "run"), device="cpu")
    assert isinstance(loaded.model, SequenceClassifier)
    assert loaded.model.label_names == ["negative", "positive"]
    best, share = classify(loaded.model, loaded.tokenizer, "the plot was superb and lovely")[0]
    assert best == "positive" and share > 0.5
    assert encoder_answer(loaded.model, loaded.tokenizer, "grim and sad story").startswith("negative  ")
    # The labels are part of the run: a table that lacks one, or has another, is noticed.
    saved = load_config(tmp_path / "run" / "config.yaml").run
    assert saved.model.labels == ["negative", "positive"] and saved.objective == "classification"


def test_labels_of_words(tmp_path: Path, reviews: Path) -> None:
    columns = {"text_column": "words", "label_column": "tags"}
    objective = {"objective": "token_classification"}
    run = run_config(tmp_path, reviews, model={"family": "encoder"}, data=columns, training=objective, steps=80)
    assert train(run, tmp_path / "run").task["accuracy"] > 0.9
    loaded = load_model(str(tmp_path / "run"), device="cpu")
    assert isinstance(loaded.model, TokenClassifier)
    found = tag(loaded.model, loaded.tokenizer, ["a", "grim", "plot"])
    assert found == [("a", "X"), ("grim", "ADJ"), ("plot", "X")]


@pytest.mark.covers("R137")
def test_sources_and_targets(tmp_path: Path, reviews: Path) -> None:
    columns = {"source_column": "text", "target_column": "reversed"}
    run = run_config(tmp_path, reviews, model={"family": "encoder_decoder"}, data=columns)
    assert run.objective == "seq2seq"
    result = train(run, tmp_path / "run")
    assert result.task["accuracy"] > 0.15
    loaded = load_model(str(tmp_path / "run"), device="cpu")
    prompts = ["the film was grim", "a story"]
    together = loaded.generator.generate(prompts, temperature=0.0, max_new_tokens=10)
    alone = [loaded.generator.generate(prompt, temperature=0.0, max_new_tokens=10) for prompt in prompts]
    assert together == alone
    streamed = "".join(
        TextGenerator(loaded.model, loaded.tokenizer).stream(prompts[0], temperature=0.0, max_new_tokens=10)
    )
    assert streamed == alone[0]
    beams = loaded.generator.generate(prompts, num_beams=2, max_new_tokens=10, temperature=0.0)
    assert len(beams) == 2


@pytest.mark.parametrize("family", ["encoder", "encoder_decoder"])
def test_a_dry_run_tells_what_a_family_costs(tmp_path: Path, texts: Path, family: str) -> None:
    plan = plan_run(run_config(tmp_path, texts, model={"family": family, "vocab_size": 300}))
    with torch.device("meta"):
        assert plan.estimate.parameters == build_model(plan.run.model).num_parameters()
    assert "activations" in describe_plan(plan) and plan.estimate.memory.activations > 0


@pytest.mark.covers("R138")
def test_a_task_becomes_a_text() -> None:
    assert format_task("translate English to German", "That is good. ") == "translate English to German: That is good."
    assert format_task("summarize:", "Long.") == "summarize: Long."
    assert format_task("stsb", sentence1="One.", sentence2="Two.") == "stsb: sentence1: One. sentence2: Two."
    with pytest.raises(UserError, match="has no text"):
        format_task("summarize")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"family": "encoder"}, "training": {"objective": "causal_lm"}}, "is for model.family decoder"),
        ({"training": {"objective": "mlm"}}, "mlm is for model.family encoder, not decoder"),
        ({"model": {"family": "encoder_decoder"}, "training": {"objective": "seq2seq"}}, "data.source_column and data"),
        ({"data": {"label_column": "label"}}, "data.label_column means nothing to training.objective causal_lm"),
        ({"model": {"family": "encoder_decoder"}, "data": {"target_column": "t"}}, "needs data.source_column"),
    ],
)
def test_objectives_that_do_not_fit_are_refused(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_config(tmp_path, tmp_path, **sections)


def test_wrong_tables_name_file_line_and_column(tmp_path: Path, reviews: Path) -> None:
    labels = {"model": {"family": "encoder"}}
    with pytest.raises(DataError, match=r"reviews.jsonl, line 1 has no column 'stars'"):
        train(run_config(tmp_path, reviews, data={"label_column": "stars"}, **labels), tmp_path / "run")
    one = tmp_path / "one.csv"
    one.write_text("text,label\nfirst,a\nsecond,a\n")
    with pytest.raises(DataError, match="holds only the label 'a'"):
        train(run_config(tmp_path, one, data={"label_column": "label"}, **labels), tmp_path / "run")
    one.write_text("text,label\nfirst,a,b\n")
    with pytest.raises(DataError, match="line 2 has more fields than the header"):
        list(read_records(one))
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "x"}\n{"text": \n')
    with pytest.raises(DataError, match="line 2 is not valid JSON"):
        list(read_records(broken))
    with pytest.raises(DataError, match="has no columns"):
        list(read_records(CONFIGS / "bert_tiny.yaml"))
    words = tmp_path / "words.jsonl"
    words.write_text('{"words": ["a", "b"], "tags": ["X"]}\n')
    columns = {"text_column": "words", "label_column": "tags"}
    with pytest.raises(DataError, match="as long a list of labels"):
        task = {"objective": "token_classification"}
        train(run_config(tmp_path, words, data=columns, training=task, **labels), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "a run that never began left a folder"


def test_tables_are_split_by_folder_or_by_hash(tmp_path: Path, reviews: Path) -> None:
    split = open_records([str(reviews)], key="text", validation_fraction=0.2)
    train_texts, held_out = ({r.text("text") for r in rows} for rows in (split.train, split.validation))
    assert not train_texts & held_out and 0.1 < len(held_out) / 300 < 0.3
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.tsv").write_text("text\tlabel\na\t1\nb\t0\n")
    (folder / "validation.json").write_text('[{"text": "c", "label": 1}]')
    split = open_records([str(folder)], key="text")
    assert [r.text("text") for r in split.train] == ["a", "b"] and [r.values["label"] for r in split.validation] == [1]
    with pytest.raises(DataError, match="has no split 'test'"):
        open_records([str(folder)], key="text", split="test")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("bert_tiny", 6.5), ("t5_tiny", 5.5)])
def test_the_shipped_configurations_learn_from_the_built_in_text(tmp_path: Path, name: str, most: float) -> None:
    small = ["training.max_steps=40", "data.max_documents=40", f"data.cache_dir={tmp_path / 'cache'}"]
    small += ["tokenizer.vocab_size=1000", "tokenizer.train_bytes=300000", "training.device=cpu"]
    run = load_config(CONFIGS / f"{name}.yaml", small).run
    assert train(run, tmp_path / "run").task["loss"] < most


def test_a_label_that_was_held_out_alone_is_a_label(tmp_path: Path, reviews: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    lines = reviews.read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(lines[:100]))
    (folder / "validation.jsonl").write_text(lines[100] + '{"text": "the film", "label": "mixed"}\n')
    run = run_config(tmp_path, folder, model={"family": "encoder"}, data={"label_column": "label"}, steps=2)
    train(run, tmp_path / "run")
    saved = load_config(tmp_path / "run" / "config.yaml").run
    assert saved.model.labels == ["mixed", "negative", "positive"]
    (folder / "train.jsonl").write_text(
        '{"text": "a film", "label": "mixed"}\n{"text": "the film", "label": "mixed"}\n'
    )
    with pytest.raises(DataError, match="holds only the label 'mixed'"):
        train(
            run_config(tmp_path, folder, model={"family": "encoder"}, data={"label_column": "label"}), tmp_path / "no"
        )


def chat(folder: Path, *lines: str) -> tuple[str, str]:
    """What ``llm-trainer chat`` prints, and what it complains about."""
    result = CliRunner().invoke(app, ["chat", str(folder), "--max_new_tokens", "4"], input="\n".join([*lines, "/quit"]))
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_chat_suits_the_family_and_outlives_a_line_that_cannot_be_answered(
    tmp_path: Path, texts: Path, reviews: Path
) -> None:
    train(run_config(tmp_path, texts, steps=2, model={"family": "encoder"}), tmp_path / "mlm")
    said, complaints = chat(tmp_path / "mlm", "no gap here", "the [MASK] was good")
    assert "fills the gaps ([MASK])" in said and "gap 1: " in said
    assert "the text has no [MASK] to fill" in complaints
    run = run_config(tmp_path, reviews, steps=2, model={"family": "encoder"}, data={"label_column": "label"})
    train(run, tmp_path / "labels")
    assert "positive  " in chat(tmp_path / "labels", "a superb film")[0]
    train(run_config(tmp_path, texts, steps=2, model={"family": "encoder_decoder"}), tmp_path / "spans")
    said, complaints = chat(tmp_path / "spans", "the film was " * 60, "the film")
    assert "Write a text; it answers." in said and "more than the model's max_seq_len" in complaints
