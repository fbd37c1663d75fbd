"""Parts of a person's own from a file: what runs, what does not, and the two examples."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from llm_trainer.common.errors import ConfigError, UserError
from llm_trainer.config import RunConfig
from llm_trainer.models import TransformerLM, extensions, registry
from llm_trainer.models.extensions import import_extensions, trust
from llm_trainer.models.factory import load_pretrained
from llm_trainer.models.kv_cache import KVCache
from llm_trainer.models.roles import roles_of
from llm_trainer.workflows.inspect import inspect_model
from llm_trainer.workflows.pretrain import plan_run
from llm_trainer.workflows.start_from import adopt_start
from tests.models.tiny import VOCAB, tiny_config, tiny_model, token_ids

EXAMPLES = Path(__file__).parents[2] / "examples"
CHOICES: dict[str, dict[str, Any]] = {
    "mamba_block": {"block": "mamba", "position": "none"},
    "retnet_block": {"attention": "retention"},
}
SCALED = """
from torch import nn
from llm_trainer.models import register

@register("feed_forward", "scaled")
class Scaled(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.linear = nn.Linear(config.d_model, config.d_model)
    def forward(self, x):
        return FACTOR * self.linear(x)

FACTOR = 2.0
"""


def example(name: str) -> ModuleType:
    """An example's module, as a test file imports one."""
    spec = importlib.util.spec_from_file_location(extensions.MODULE.format(name), EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is registered or trusted beyond a test."""
    before = {kind: dict(known) for kind, known in registry._COMPONENTS.items()}
    monkeypatch.setattr(extensions, "_trusted_here", set())
    monkeypatch.setattr(extensions, "_contents", {})
    yield
    for kind, known in before.items():
        registry._COMPONENTS[kind].clear()
        registry._COMPONENTS[kind].update(known)
    for name in [name for name in sys.modules if name.startswith("llm_trainer_extension_")]:
        del sys.modules[name]


def forget() -> None:
    """What another process would know: nothing."""
    extensions._trusted_here.clear()
    registry._COMPONENTS["feed_forward"].pop("scaled", None)
    sys.modules.pop("llm_trainer_extension_scaled", None)


@pytest.fixture
def scaled(tmp_path: Path) -> Path:
    file = tmp_path / "scaled.py"
    file.write_text(SCALED)
    return file


def saved(file: Path, folder: Path) -> TransformerLM:
    import_extensions([str(file)], named_by_person=True)
    model = TransformerLM(tiny_config(feed_forward="scaled", extensions=[str(file)]))
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.covers("R008", "R161")
def test_a_model_carries_the_code_it_needs(scaled: Path, tmp_path: Path) -> None:
    model = saved(scaled, tmp_path / "model")
    scaled.unlink()
    moved = tmp_path / "elsewhere"
    (tmp_path / "model").rename(moved)
    registry._COMPONENTS["feed_forward"].pop("scaled")
    sys.modules.pop("llm_trainer_extension_scaled")
    again = TransformerLM.from_pretrained(moved)
    assert torch.equal(again(token_ids()).logits, model(token_ids()).logits)
    again.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "scaled.py").read_text() == SCALED


def test_code_of_a_folder_runs_only_if_it_is_trusted(
    scaled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(scaled, tmp_path / "model")
    forget()
    with pytest.raises(UserError, match=r"scaled\.py is code that came with a model(?s:.)*llm-trainer trust"):
        TransformerLM.from_pretrained(tmp_path / "model")
    assert "llm_trainer_extension_scaled" not in sys.modules
    monkeypatch.setenv(extensions.TRUST_VARIABLE, "1")
    TransformerLM.from_pretrained(tmp_path / "model")
    forget()
    monkeypatch.delenv(extensions.TRUST_VARIABLE)
    assert trust(tmp_path / "model") == [tmp_path / "model" / "scaled.py"]
    TransformerLM.from_pretrained(tmp_path / "model")


def test_trust_is_kept_for_other_processes_and_ends_with_a_change(
    scaled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_TRAINER_CACHE", str(tmp_path / "cache"))
    saved(scaled, tmp_path / "model")
    forget()
    TransformerLM.from_pretrained(tmp_path / "model")
    forget()
    copy = tmp_path / "model" / "scaled.py"
    copy.write_text(copy.read_text().replace("2.0", "3.0"))
    with pytest.raises(UserError, match="has not been run here before"):
        TransformerLM.from_pretrained(tmp_path / "model")


def test_a_folder_cannot_name_files_outside_itself(scaled: Path, tmp_path: Path) -> None:
    saved(scaled, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"scaled.py"', '"../outside.py"'))
    (tmp_path / "outside.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UserError, match=r"model/outside\.py is not a Python file"):
        TransformerLM.from_pretrained(tmp_path / "model")


def test_a_new_version_replaces_the_old_one(scaled: Path) -> None:
    import_extensions([str(scaled)], named_by_person=True)
    first = registry.lookup("feed_forward", "scaled")
    import_extensions([str(scaled)], named_by_person=True)
    assert registry.lookup("feed_forward", "scaled") is first
    scaled.write_text(SCALED.replace("2.0", "3.0"))
    import_extensions([str(scaled)], named_by_person=True)
    assert registry.lookup("feed_forward", "scaled") is not first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\ny = z\n", r"broken\.py failed in line 2: NameError"),
        ("def f(:\n", r"broken\.py failed in line 1: SyntaxError"),
        ("from llm_trainer.models import register\nregister('attention', 'mha')(int)\n", "already registered"),
    ],
)
def test_a_file_that_fails_says_where(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        import_extensions([str(file)], named_by_person=True)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"nowhere\.py .looked for in .* is not a Python file"):
        import_extensions(["nowhere.py"], named_by_person=True)
    with pytest.raises(UserError, match=r"nowhere\.py .* is not a Python file"):
        TransformerLM(tiny_config(extensions=["nowhere.py"]))
    with pytest.raises(ConfigError, match=r"a file of your own must be named in model\.extensions"):
        TransformerLM(tiny_config(block="mamba"))


# ---------------------------------------------------------------------- the examples


def built(name: str, **values: Any) -> TransformerLM:
    example(name)
    torch.manual_seed(0)
    return TransformerLM(tiny_config(**CHOICES[name], **values)).eval()


@pytest.mark.covers("R162")
@pytest.mark.parametrize("name", CHOICES)
def test_the_future_is_not_seen(name: str) -> None:
    model, ids = built(name), token_ids(1, 12)
    changed = ids.clone()
    changed[0, 8] = (ids[0, 8] + 1) % VOCAB
    before, after = model(ids).logits, model(changed).logits
    assert torch.allclose(before[:, :8], after[:, :8], atol=1e-5)
    assert not torch.allclose(before[:, 9:], after[:, 9:], atol=1e-3)


@pytest.mark.covers("R162")
@pytest.mark.parametrize("name", CHOICES)
def test_texts_in_one_row_do_not_see_each_other(name: str) -> None:
    model, ids = built(name), token_ids(1, 14)
    documents = torch.tensor([[1] * 5 + [2] * 9])
    positions = torch.cat([torch.arange(5), torch.arange(9)]).unsqueeze(0)
    packed = model(ids, document_ids=documents, position_ids=positions).logits
    assert torch.allclose(packed[:, :5], model(ids[:, :5]).logits, atol=1e-5)
    assert torch.allclose(packed[:, 5:], model(ids[:, 5:]).logits, atol=1e-5)
    padded = model(ids, attention_mask=torch.tensor([[0] * 3 + [1] * 11])).logits
    assert torch.allclose(padded[:, 3:], model(ids[:, 3:]).logits, atol=1e-5)


@pytest.mark.covers("R162")
@pytest.mark.parametrize("name", CHOICES)
def test_an_example_learns_and_generates(name: str) -> None:
    model = built(name).train()
    ids = torch.arange(24).repeat(4, 1) % 5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    model.eval()
    assert model.generate(torch.tensor([[0, 1, 2]]), max_new_tokens=6, do_sample=False)[0].tolist() == [
        0, 1, 2, 3, 4, 0, 1, 2, 3,
    ]  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
def test_a_block_without_a_cache_refuses_one(name: str) -> None:
    model = built(name)
    with pytest.raises(UserError, match="keeps nothing in a cache"):
        model(token_ids(1, 4), cache=KVCache(model.config, 1))


@pytest.mark.parametrize("name", CHOICES)
def test_a_gradient_reaches_every_parameter_of_an_example(name: str) -> None:
    model, ids = built(name), token_ids(2, 20)
    model(ids, labels=ids).loss.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, parameter_name


def test_the_state_space_is_no_matrix_to_an_optimizer() -> None:
    roles = roles_of(built("mamba_block"))
    assert roles["blocks.0.log_rate"] == roles["blocks.0.taps"] == "vector"
    assert roles["blocks.0.in_proj.weight"] == "matrix"


@pytest.mark.covers("R162")
@pytest.mark.parametrize("seq", [1, 31, 32, 75])
def test_the_fast_scan_is_the_readable_one(seq: int) -> None:
    mamba = example("mamba_block")
    generator = torch.Generator().manual_seed(0)
    decay = torch.rand(2, seq, 3, 4, generator=generator, dtype=torch.float64)
    decay[:, ::7] = 0.0
    update = torch.randn(2, seq, 3, 4, generator=generator, dtype=torch.float64)
    results = []
    for scan in (mamba.selective_scan, mamba.chunked_scan):
        inputs = [decay.clone().requires_grad_(), update.clone().requires_grad_()]
        states = scan(*inputs)
        states.square().sum().backward()
        results.append([states.detach(), *(x.grad for x in inputs)])
    for plain, fast in zip(*results, strict=True):
        assert torch.allclose(plain, fast, atol=1e-10)


@pytest.mark.covers("R162")
@pytest.mark.parametrize("documents", [False, True])
def test_three_ways_to_retain_are_one(documents: bool) -> None:
    retnet = example("retnet_block")
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(2, 3, 21, 4, generator=generator, dtype=torch.float64)

    query, key, value = draw(), draw(), draw()
    decay = torch.tensor([0.9, 0.5, 0.99], dtype=torch.float64)
    starts = None
    if documents:
        starts = torch.tensor([[0] * 4 + [4] * 8 + [12] * 9, [0] * 11 + [11] * 10])
    expected = retnet.parallel_retention(query, key, value, decay, starts)
    assert torch.allclose(retnet.recurrent_retention(query, key, value, decay, starts), expected, atol=1e-10)
    for chunk in (1, 4, 5, 21, 64):
        found = retnet.chunked_retention(query, key, value, decay, starts, chunk)
        assert torch.allclose(found, expected, atol=1e-10), chunk


@pytest.mark.covers("R161")
@pytest.mark.parametrize("name", ["stranger/own.py", "own.py"])
def test_weights_to_start_from_bring_no_code_that_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained("stranger")
    Path("stranger/own.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    config = json.loads(Path("stranger/config.json").read_text())
    Path("stranger/config.json").write_text(json.dumps({**config, "extensions": [name]}))
    Path("text.txt").write_text("some text. " * 500)
    run = RunConfig.from_dict({"training": {"init_from": "stranger"}, "data": {"dataset_name": "text.txt"}})
    for attempt in (lambda: plan_run(run), lambda: inspect_model("stranger"), lambda: load_pretrained("stranger")):
        with pytest.raises(UserError, match=r"llm-trainer trust stranger/own\.py"):
            attempt()
    assert not Path("ran").exists()
    trust("stranger")
    inspect_model("stranger")
    assert Path("ran").exists()


@pytest.mark.parametrize("content", ["raise SystemExit(0)", "import sys\nsys.exit()"])
def test_a_file_that_ends_the_program_does_not(tmp_path: Path, content: str) -> None:
    file = tmp_path / "leaving.py"
    file.write_text(content)
    for _ in range(2):  # the second time it has not been run either
        with pytest.raises(UserError, match=r"leaving\.py failed in line \d: SystemExit"):
            import_extensions([str(file)], named_by_person=True)


def test_a_name_that_is_taken_is_said_with_the_file_and_the_line(tmp_path: Path) -> None:
    file = tmp_path / "taken.py"
    file.write_text(SCALED.replace('"scaled"', '"mlp"'))
    with pytest.raises(UserError, match=r"taken\.py failed in line 5(?s:.*)'mlp' is already registered"):
        import_extensions([str(file)], named_by_person=True)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    files = [tmp_path / folder / "block.py" for folder in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_text("x = 1\n")
    paths = [str(file) for file in files]
    with pytest.raises(UserError, match="have the same name"):
        import_extensions(paths, named_by_person=True)
    with pytest.raises(UserError, match="have the same name"):
        TransformerLM(tiny_config(extensions=paths))


def test_a_resumed_run_finds_its_files_where_it_was_moved_to(tmp_path: Path) -> None:
    """Also one that began with weights that exist: its configuration names the folder it was in."""
    run = RunConfig.from_dict(
        {"training": {"init_from": "gone"}, "model": {"extensions": ["old_place/extensions/own.py"]}}
    )
    (tmp_path / "extensions").mkdir()
    (tmp_path / "extensions" / "own.py").write_text("x = 1\n")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(run.to_dict()))
    adopt_start(run, run_dir=tmp_path)
    assert run.model.extensions == [str(tmp_path / "extensions" / "own.py")]
