"""Every fenced block of the project's first document, run as it stands there.

The document is not part of this repository; where it is at hand, ``LLM_TRAINER_MISSION`` names its folder.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from llm_trainer.config import DataConfig, ModelConfig, TrainingConfig
from llm_trainer.models import BaseLanguageModel, TransformerLM
from llm_trainer.tokenizer import BPETokenizer, HFTokenizerWrapper
from llm_trainer.training import Trainer
from llm_trainer.training.preparation import open_training_data
from tests.e2e.test_scripts_and_examples import run_script
from tests.mission.conftest import REPOSITORY, sentences

KINDS = ["bash", "python", "bash", "python", "python", "yaml", *["python"] * 9, "bash", "bash", "python"]


def find_document() -> Path | None:
    folder = os.environ.get("LLM_TRAINER_MISSION")
    shared = os.environ.get("LLM_TRAINER_SHARED_DATA")
    if folder is None and shared is not None:
        folder = str(Path(shared).parent / "mission")
    found = sorted(Path(folder).glob("000_*.txt")) if folder else []
    return found[0] if found else None


DOCUMENT = find_document()
pytestmark = pytest.mark.skipif(DOCUMENT is None, reason="LLM_TRAINER_MISSION names no folder with the document")


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    """The code of all blocks, in their order."""
    assert DOCUMENT is not None
    found = re.findall(r"^```(\w+)\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in found] == KINDS
    return [code for _, code in found]


def run_block(code: str, names: dict[str, Any]) -> dict[str, Any]:
    """Execute a block; what it defines is added to ``names``."""
    exec(compile(code, "<block>", "exec"), names)
    return names


def values_of(code: str, name: str, names: dict[str, Any]) -> Iterator[Any]:
    """Execute a block statement by statement; every value that ``name`` takes in it."""
    for statement in ast.parse(code).body:
        run_block(ast.unparse(statement), names)
        targets = [target for target in getattr(statement, "targets", []) if isinstance(target, ast.Name)]
        if name in [target.id for target in targets]:
            yield names[name]


def shell_lines(code: str) -> list[list[str]]:
    """The commands of a block that call Python."""
    lines = [shlex.split(line, comments=True) for line in code.splitlines()]
    return [words for words in lines if words[:1] == ["python"]]


def tiny_scope() -> dict[str, Any]:
    """A model and a tokenizer, as a reader has them half way through the document."""
    tokenizer = BPETokenizer().train_from_iterator(sentences(20, 0), vocab_size=300)
    model = TransformerLM(ModelConfig(vocab_size=300, d_model=32, n_heads=2, n_layers=1, max_seq_len=64))
    return {"model": model, "tokenizer": tokenizer}


@pytest.mark.covers("R239", "R240", "R011")
def test_quick_start(blocks: list[str], workplace: Path) -> None:
    """Block 1, then block 8 with the model that it trained."""
    names = run_block(blocks[1], {})
    runs = list((workplace / "runs").glob("*/checkpoints/*/model.safetensors"))
    assert len(runs) == 1
    assert names["trainer"].state.step >= 1 and names["trainer"].loss > 0
    texts = list(values_of(blocks[8], "generated", names))
    assert texts[0].startswith("The future of AI is")


def test_installation(blocks: list[str]) -> None:
    """Block 0 installs the folder it has cloned."""
    assert "pip install -e ." in blocks[0]
    assert (REPOSITORY / "pyproject.toml").exists()


@pytest.mark.slow
@pytest.mark.covers("R425")
def test_configured_training(blocks: list[str], shorter: None, workplace: Path) -> None:
    """Block 2: two commands."""
    for words in shell_lines(blocks[2]):
        outcome = run_script(words[1], *words[2:])
        assert outcome.code == 0, outcome.err
        folder = workplace / words[words.index("--output_dir") + 1]
        assert list(folder.glob("checkpoints/*/model.safetensors"))


@pytest.mark.covers("R116")
def test_tokenizers(blocks: list[str], hub_models: Path) -> None:
    """Block 3, with the import that the quick start made."""
    names = run_block(blocks[3], {"BPETokenizer": BPETokenizer})
    for tokenizer in (names["tokenizer"], names["hf_tokenizer"]):
        text = "river house 🙂"
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_class_of_the_sketch(blocks: list[str]) -> None:
    """Block 4 is a sketch: its class has that name and that base."""
    name, base = re.findall(r"class (\w+)\((\w+)\)", blocks[4])[0]
    assert (name, base) == (TransformerLM.__name__, BaseLanguageModel.__name__)
    assert issubclass(TransformerLM, BaseLanguageModel)


@pytest.mark.covers("R062")
def test_cpu_configuration(blocks: list[str]) -> None:
    """Block 5 is a file of ours."""
    assert yaml.safe_load(blocks[5]) == yaml.safe_load((REPOSITORY / "configs" / "cpu_small_model.yaml").read_text())


def test_scaling(blocks: list[str]) -> None:
    """Block 6: three configurations, valid on a machine without a GPU."""
    names = {"TrainingConfig": TrainingConfig}
    first, second, third = values_of(blocks[6], "training_config", names)
    assert (first.device, first.sequences_per_step()) == ("cuda", 64)
    assert second.use_accelerate and second.accelerate_mixed_precision == "fp16"
    assert (third.use_peft, third.peft_r, third.peft_alpha) == (True, 8, 16)


@pytest.mark.covers("R060")
def test_techniques(blocks: list[str], workplace: Path) -> None:
    """Block 7: its values are arguments of a training that works."""
    settings = run_block(blocks[7], {})
    del settings["__builtins__"]
    config = TrainingConfig(**settings, device="cpu", batch_size=1, max_steps=1, num_threads=1)
    assert all(getattr(config, key) == value for key, value in settings.items())
    scope = tiny_scope()
    result = Trainer(scope["model"], scope["tokenizer"], config).fit(sentences(20, 1))
    assert result.step == 1 and 0 < result.loss < 10


@pytest.mark.covers("R386")
def test_generation(blocks: list[str]) -> None:
    """Block 8: each of its strategies, on its prompt."""
    names = tiny_scope()
    configs = list(values_of(blocks[8], "config", names))
    assert [config.num_beams for config in configs] == [1, 5, 1]
    for config in [*configs, names["config"]]:
        quick = config.model_copy(update={"max_new_tokens": 4})
        assert names["generator"].generate("The future of AI is", quick).startswith("The future of AI is")
    assert names["generated"].startswith("The future of AI is")


@pytest.mark.parametrize("index", [9, 10, 11])
def test_imports(blocks: list[str], index: int) -> None:
    """Blocks 9 to 11: an example that exists, and names that can be imported."""
    names = run_block(blocks[index], {})
    imported = [
        alias.name
        for node in ast.walk(ast.parse(blocks[index]))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert set(imported) <= names.keys()
    for path in re.findall(r"examples/\w+\.py", blocks[index]):
        assert (REPOSITORY / path).exists()


@pytest.mark.covers("R117")
def test_hugging_face_tokenizers(blocks: list[str], hub_models: Path) -> None:
    """Block 12: what is saved loads in transformers, with the same ids."""
    transformers = pytest.importorskip("transformers")
    names = run_block(blocks[12], {"HFTokenizerWrapper": HFTokenizerWrapper, "BPETokenizer": BPETokenizer})
    reference = transformers.AutoTokenizer.from_pretrained("./my_tokenizer")
    for text in sentences(5, 7):
        assert names["bpe_tokenizer"].encode(text) == reference.encode(text, add_special_tokens=False)
    assert names["tokenizer"].decode(names["tokenizer"].encode("river")) == "river"


@pytest.mark.covers("R241")
def test_hugging_face_model(blocks: list[str], hub_models: Path) -> None:
    """Block 13: a model of transformers is trained, and learns."""
    config = TrainingConfig(
        max_steps=8, batch_size=4, device="cpu", learning_rate=5e-3, warmup_steps=0, sequence_length=32, num_threads=1
    )
    tokenizer = HFTokenizerWrapper("microsoft/DialoGPT-medium")
    trainer = run_block(blocks[13], {"Trainer": Trainer, "tokenizer": tokenizer, "config": config})["trainer"]
    texts = sentences(20, 0)
    torch.manual_seed(0)
    trainer.fit(texts)
    after = trainer.evaluate(texts)["validation/loss"]
    before = Trainer(type(trainer.model).from_pretrained("gpt2"), tokenizer, config).evaluate(texts)["validation/loss"]
    assert after < before - 0.5


def test_data_set(blocks: list[str], workplace: Path) -> None:
    """Block 14: the name leads to documents."""
    config = run_block(blocks[14], {"DataConfig": DataConfig})["data_config"]
    assert config.max_length == 1024
    assert all("river" in document.text for document in open_training_data(config))


@pytest.mark.covers("R426", "R427", "R428")
def test_examples(blocks: list[str], shorter: None, workplace: Path) -> None:
    """Block 15: three examples, in its order."""
    outputs = []
    for words in shell_lines(blocks[15]):
        outcome = run_script(words[1], *words[2:], stdin="The future of AI is\n")
        assert outcome.code == 0, outcome.err
        outputs.append(outcome.out)
    assert len(outputs) == 3 and "The future of AI is" in outputs[2]


@pytest.mark.slow
@pytest.mark.covers("R061", "R063")
def test_configurations(blocks: list[str], shorter: None, workplace: Path) -> None:
    """Block 16: three commands without an output folder make three runs."""
    commands = shell_lines(blocks[16])
    for words in commands:
        outcome = run_script(words[1], *words[2:])
        assert outcome.code == 0, outcome.err
    assert len(list((workplace / "runs").glob("*/checkpoints"))) == len(commands) == 3


def test_customising(blocks: list[str]) -> None:
    """Block 17: another activation, post-norm, another optimizer and schedule."""
    from llm_trainer.training.optimizer import create_optimizer
    from llm_trainer.training.scheduler import create_scheduler

    names = run_block(blocks[17], {"ModelConfig": ModelConfig, "TrainingConfig": TrainingConfig})
    with torch.device("meta"):
        model = TransformerLM(names["model_config"])
    assert model.num_parameters() > 40e6
    small = TransformerLM(
        ModelConfig(
            vocab_size=60,
            d_model=32,
            n_heads=2,
            n_layers=1,
            max_seq_len=16,
            activation=names["model_config"].activation,
            pre_norm=False,
        )
    )
    optimizer = create_optimizer(small, names["training_config"])
    create_scheduler(optimizer, names["training_config"], 10_000)
    ids = torch.randint(0, 60, (2, 16))
    small(ids, labels=ids)["loss"].backward()
    optimizer.step()
