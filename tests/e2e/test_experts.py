"""A mixture of experts, from the command line: train it, look at what its experts do, let it write."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from llm_trainer.models.moe_report import ExpertReport, expert_shares
from llm_trainer.workflows.experts import draw_experts
from llm_trainer.workflows.load import load_model
from tests.e2e.conftest import TINY, TrainedRun, llm_trainer
from tests.models.tiny import tiny_model, token_ids


@pytest.mark.covers("R163", "R166")
def test_a_mixture_is_trained_compared_and_asked(workplace: Path, corpus: Path) -> None:
    folder = workplace / "runs" / "moe"
    changes = ["model.use_moe=true", "model.n_experts=4", "training.router_bias_rate=0.01"]
    outcome = llm_trainer("train", f"data.dataset_name={corpus}", *TINY, *changes, "--output_dir", folder)
    assert outcome.code == 0, outcome.err
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "moe/load_ratio" in line][-1]
    assert sum(last[f"moe/blocks.0/expert_{number}"] for number in range(4)) > 0
    model = load_model(str(folder), checkpoint="3", device="cpu").model
    assert model.blocks[0].feed_forward.router.expert_bias.abs().max() > 0

    numbers = workplace / "numbers.txt"
    numbers.write_text("\n".join(str(number**5) for number in range(400)))
    domains = ("--domain", f"words={corpus}", "--domain", f"numbers={numbers}")
    outcome = llm_trainer("experts", folder, *domains, "--picture", "experts.svg", "--tokens", 2000, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    table = [line.split() for line in outcome.out.splitlines() if line.startswith("blocks.0")]
    assert [row[1] for row in table[:2]] == ["words", "numbers"]
    for row in table[:2]:
        assert sum(int(cell.rstrip("%")) for cell in row[2:]) == pytest.approx(100, abs=3)
    assert float(table[2][1]) >= 0
    texts = [element.text for element in ET.parse("experts.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert {"blocks.0", "words", "numbers"} <= set(texts) and len([text for text in texts if "%" in text]) == 8

    outcome = llm_trainer("generate", folder, "--prompt", "the house", "-n", 5, "--device", "cpu")
    assert outcome.code == 0, outcome.err


def test_wrong_questions_get_one_message(trained: TrainedRun, corpus: Path) -> None:
    domain = f"words={corpus}"
    llm_trainer("experts", trained.folder, "--domain", domain).assert_one_message("has no experts", "use_moe")
    llm_trainer("experts", trained.folder, "--domain", "words").assert_one_message("expected NAME=PATH")
    llm_trainer("experts", trained.folder).assert_one_message("no domain is given")
    picture = ("--picture", "experts.png")
    llm_trainer("experts", trained.folder, "--domain", domain, *picture).assert_one_message("end it with .svg")


@pytest.mark.covers("R166")
def test_the_report_sees_experts_that_specialise() -> None:
    model = tiny_model(n_experts=4, d_expert=16, experts_per_token=1)
    ids = token_ids(4, 16)
    shares, tokens = expert_shares(model, [ids, ids])
    assert (shares.shape, tokens) == ((2, 4), 128)
    chosen = torch.bincount(model.blocks[0].feed_forward.router(_entering(model, ids)).experts.flatten(), minlength=4)
    assert torch.allclose(shares[0], chosen / 64)
    alike = ExpertReport(("blocks.0",), {"a": shares[:1], "b": shares[:1]}, {"a": 1, "b": 1})
    assert alike.specialisation == [0.0]
    apart = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[0.0, 1.0]])}
    assert ExpertReport(("blocks.0",), apart, {"a": 1, "b": 1}).specialisation == [pytest.approx(1.0)]


def _entering(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """What the first layer's feed-forward network reads."""
    seen = []
    handle = model.blocks[0].ffn_norm.register_forward_hook(lambda module, arguments, result: seen.append(result))
    model(ids)
    handle.remove()
    return seen[0]


def test_a_long_name_leaves_room_for_the_cells() -> None:
    """Letters are at most 7.5 pixels wide at this size, and the cells begin where they end."""
    shares = torch.full((1, 2), 0.5)
    for name in ("a", "mathematics textbooks of 1900"):
        picture = draw_experts(ExpertReport(("blocks.0",), {name: shares}, {name: 3}))
        first = min(int(place) for place in re.findall(r'<rect x="(\d+)"', picture))
        assert first >= 8 + 7.5 * len(name)
