"""What a parameter is for, and what an optimizer makes of it."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.config import TrainingConfig
from llm_trainer.models.lora import apply_lora
from llm_trainer.models.roles import roles_of
from llm_trainer.training import Trainer, load_checkpoint
from llm_trainer.training.optimizer import create_optimizer, optimizers_of
from tests.training.helpers import ListLoader, config, tiny_model

OPTIMIZERS = ["adamw", "adafactor", "lion", "muon", "sgd"]


def names_by_decay(model: nn.Module, settings: TrainingConfig) -> dict[bool, set[str]]:
    """Names of the parameters that decay, and of those that do not."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for group in create_optimizer(model, settings).param_groups:
        found[group["weight_decay"] > 0] |= {names[id(parameter)] for parameter in group["params"]}
    return found


@pytest.mark.covers("R259", "R263")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_biases_and_embeddings_do_not_decay(name: str) -> None:
    model = tiny_model(norm="layernorm", bias=True, position="learned", tie_embeddings=False)
    found = names_by_decay(model, config(optimizer=name))
    assert all(name.endswith("proj.weight") or name == "lm_head.weight" for name in found[True])
    assert found[True] | found[False] == {name for name, _ in model.named_parameters()}
    assert any("embed" in name for name in found[False])
    assert all(model.get_parameter(name).ndim == 1 or "embed" in name for name in found[False])


def test_roles_of_our_model() -> None:
    roles = roles_of(tiny_model(norm="layernorm", bias=True, position="learned", tie_embeddings=False))
    assert roles["embed_tokens.weight"] == roles["position_embedding.embedding.weight"] == "embedding"
    assert roles["lm_head.weight"] == "head"
    assert roles["blocks.0.attention.q_proj.weight"] == "matrix"
    assert roles["blocks.0.attention.q_proj.bias"] == roles["final_norm.weight"] == "vector"
    tied = tiny_model(tie_embeddings=True)
    assert list(roles_of(tied)) == [name for name, _ in tied.named_parameters()]
    assert roles_of(tied)["embed_tokens.weight"] == "embedding"
    assert roles_of(tied) == tied.parameter_roles()


def test_an_output_layer_that_shares_the_table_is_an_embedding_wherever_it_stands() -> None:
    class HeadFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lm_head = nn.Linear(4, 7, bias=False)
            self.table = nn.Embedding(7, 4)
            self.table.weight = self.lm_head.weight

    assert roles_of(HeadFirst()) == {"lm_head.weight": "embedding"}


def test_roles_of_models_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**small, intermediate_size=32, tie_word_embeddings=False)
    )
    roles = roles_of(llama)
    assert (roles["model.embed_tokens.weight"], roles["lm_head.weight"]) == ("embedding", "head")
    assert roles["model.layers.0.mlp.up_proj.weight"] == "matrix"
    assert roles["model.norm.weight"] == "vector"
    gpt2 = roles_of(
        transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2))
    )
    assert gpt2["transformer.wte.weight"] == gpt2["transformer.wpe.weight"] == "embedding"
    assert gpt2["transformer.h.0.attn.c_attn.weight"] == "matrix"
    judge = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**small, intermediate_size=32))
    assert roles_of(judge)["score.weight"] == "head"


@pytest.mark.covers("R268")
def test_the_guide_to_optimizers_shows_what_works() -> None:
    """Its configuration is valid, its component runs, and it has a table for each of its subjects."""
    page = (Path(__file__).parents[2] / "docs" / "concepts" / "optimizers.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    TrainingConfig.from_dict(yaml.safe_load(shown["yaml"])["training"]).validate()
    exec(shown["python"], {})  # ends with an assertion
    for heading in ("## Learning rate", "## Batch size", "## What a step costs"):
        assert heading in page
    named = set(re.findall(r"^\| `(\w+)` \| .* \| ", page.partition("## What each")[0], re.MULTILINE))
    assert named == {"optimizer", *OPTIMIZERS}


def test_an_output_layer_is_what_the_model_calls_so() -> None:
    class OtherName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.to_words = nn.Linear(4, 4), nn.Linear(4, 9)

        def get_output_embeddings(self) -> nn.Module:
            return self.to_words

    expected = {"inner.weight": "matrix", "inner.bias": "vector", "to_words.weight": "head", "to_words.bias": "vector"}
    assert roles_of(OtherName()) == expected


class Mixer(nn.Module):
    """A component with parameters whose place does not say what they are."""

    def __init__(self, role: str = "vector", name: str = "gates") -> None:
        super().__init__()
        self.gates = nn.Parameter(torch.zeros(4, 4))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 5, 4))
        self.class_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.patches = nn.Conv2d(3, 4, 2)
        self.experts = nn.Parameter(torch.zeros(3, 4, 4))
        self.role, self.name = role, name

    def parameter_roles(self) -> dict[str, str]:
        return {self.name: self.role}


def test_components_say_what_their_parameters_are() -> None:
    model = nn.ModuleDict({"mixer": Mixer()})
    assert roles_of(model) == {
        "mixer.gates": "vector",
        "mixer.position_embeddings": "embedding",
        "mixer.class_token": "vector",
        "mixer.experts": "matrix",
        "mixer.patches.weight": "embedding",
        "mixer.patches.bias": "vector",
    }
    assert roles_of(Mixer())["gates"] == "vector"


def test_a_role_or_a_name_that_does_not_exist_is_named() -> None:
    with pytest.raises(UserError, match=r"Mixer.parameter_roles\(\) gives 'gates' the role 'matrices'"):
        roles_of(Mixer(role="matrices"))
    with pytest.raises(UserError, match=r"names 'gate', which is no parameter of it"):
        roles_of(nn.ModuleDict({"mixer": Mixer(name="gate")}))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_role_learns_at_its_own_rate(name: str) -> None:
    model = tiny_model(tie_embeddings=False)
    settings = config(
        optimizer=name,
        learning_rate=1e-3,
        muon_learning_rate=2e-2,
        embedding_learning_rate=3e-1,
        head_learning_rate=4e-3,
        vector_learning_rate=5e-4,
    )
    expected = {
        "matrix": 2e-2 if name == "muon" else 1e-3,
        "embedding": 3e-1,
        "head": 4e-3,
        "vector": 5e-4,
    }
    rates = {
        id(parameter): group["initial_lr"]
        for group in create_optimizer(model, settings).param_groups
        for parameter in group["params"]
    }
    for parameter_name, role in roles_of(model).items():
        assert rates[id(model.get_parameter(parameter_name))] == expected[role], parameter_name


def test_roles_that_are_treated_alike_share_a_group() -> None:
    assert len(create_optimizer(tiny_model(tie_embeddings=False), config()).param_groups) == 2


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest() -> None:
    model = tiny_model(tie_embeddings=False)
    muon, adamw = optimizers_of(create_optimizer(model, config(optimizer="muon")))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    hidden = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    others = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert hidden == {name for name in names.values() if name.startswith("blocks.") and name.endswith("proj.weight")}
    assert hidden | others == set(names.values())
    assert not hidden & others


def test_frozen_parameters_are_left_out() -> None:
    model = tiny_model()
    apply_lora(model, r=2)
    for name in OPTIMIZERS:
        trained = [p for group in create_optimizer(model, config(optimizer=name)).param_groups for p in group["params"]]
        assert {id(p) for p in trained} == {id(p) for n, p in model.named_parameters() if "lora" in n}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        create_optimizer(model, config())


def test_cautious_decay_is_refused_where_there_is_none() -> None:
    for name in ("adafactor", "sgd"):
        with pytest.raises(ConfigError, match=f"cautious_weight_decay is for adamw, lion and muon; {name}"):
            config(optimizer=name, cautious_weight_decay=True).validate()


@pytest.mark.covers("R048")
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("cautious", [None, True])
def test_every_optimizer_learns_and_resumes_bit_for_bit(name: str, cautious: bool | None, tmp_path: Path) -> None:
    if cautious and name in ("adafactor", "sgd"):
        return
    settings = {
        "optimizer": name,
        "cautious_weight_decay": cautious,
        "momentum_warmup_steps": 4,
        "learning_rate": 1e-3 if name == "lion" else 1e-2,
        "max_steps": 8,
        "save_steps": 3,
        "keep_last": 3,
    }
    whole, first = tiny_model(), tiny_model()
    result = Trainer(whole, config=config(**settings)).fit(ListLoader(sequences=4))
    trainer = Trainer(first, config=config(**settings), run_dir=tmp_path)
    trainer.fit(ListLoader(sequences=4))
    before = Trainer(tiny_model(), config=config(**{**settings, "max_steps": 1})).fit(ListLoader(sequences=4))
    assert result.loss < before.loss - 0.02
    # From the third step on, with fresh optimizers.
    resumed = tiny_model(seed=5)
    optimizer = create_optimizer(resumed, config(**settings))
    load_checkpoint(tmp_path / "checkpoints" / "step-000003", resumed, optimizer)
    for part, reference in zip(optimizers_of(optimizer), optimizers_of(trainer.optimizer)):
        assert type(part) is type(reference)
        assert len(part.state) == len(reference.state)
    for checkpoint in (tmp_path / "checkpoints").glob("step-00000[68]"):
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    again = tiny_model(seed=7)
    Trainer(again, config=config(**settings), run_dir=tmp_path).fit(ListLoader(sequences=4), resume=True)
    for (parameter_name, a), b in zip(whole.named_parameters(), again.parameters()):
        assert torch.equal(a, b), parameter_name


def test_a_combined_optimizer_keeps_its_state_and_calls_a_closure_once() -> None:
    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = tiny_model()
        return model, create_optimizer(model, config(optimizer="muon"))

    model, optimizer = fresh()
    batch = next(ListLoader().batches(0, 4))
    calls = []

    def closure() -> torch.Tensor:
        calls.append(1)
        optimizer.zero_grad()
        loss: torch.Tensor = model(**batch).loss
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    loss: object = optimizer.step(closure)  # type: ignore[arg-type]
    assert isinstance(loss, torch.Tensor) and loss.isfinite()
    assert len(calls) == 1
    other, second = fresh()
    other.load_state_dict(model.state_dict())
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for a, b in zip(model.parameters(), other.parameters()):
        b.grad = a.grad.clone() if a.grad is not None else None
    for one in (optimizer, second):
        for group in one.param_groups:
            group["lr"] = 0.01
        one.step()
    for a, b in zip(model.parameters(), other.parameters()):
        assert torch.equal(a, b)
