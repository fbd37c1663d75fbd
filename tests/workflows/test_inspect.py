"""``inspect``: the numbers add up, nothing is allocated, and the drawing has every part in its place."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from llm_trainer.common.errors import UserError
from llm_trainer.config import ModelConfig, TrainingConfig
from llm_trainer.models import PRESETS, preset
from llm_trainer.models.drawing import BOLD_LETTER, LETTER, draw_model, short_count
from llm_trainer.models.factory import build_model
from llm_trainer.models.parts import PARTS, parameters_by_part, part_of
from llm_trainer.workflows.footprint import footprint
from llm_trainer.workflows.inspect import inspect_model

SVG = "{http://www.w3.org/2000/svg}"
S2_TREE = """\
Transformer(
  (tok_embeddings): Embedding(32000, 288)
  (dropout): Dropout(p=0.0, inplace=False)
  (layers): ModuleList(
    (0-5): 6 x TransformerBlock(
      (attention): Attention(
        (wq): Linear(in_features=288, out_features=288, bias=False)
        (wk): Linear(in_features=288, out_features=288, bias=False)
        (wv): Linear(in_features=288, out_features=288, bias=False)
        (wo): Linear(in_features=288, out_features=288, bias=False)
        (attn_dropout): Dropout(p=0.0, inplace=False)
        (resid_dropout): Dropout(p=0.0, inplace=False)
      )
      (feed_forward): FeedForward(
        (w1): Linear(in_features=288, out_features=768, bias=False)
        (w2): Linear(in_features=768, out_features=288, bias=False)
        (w3): Linear(in_features=288, out_features=768, bias=False)
        (dropout): Dropout(p=0.0, inplace=False)
      )
      (attention_norm): RMSNorm()
      (ffn_norm): RMSNorm()
    )
  )
  (norm): RMSNorm()
  (output): Linear(in_features=288, out_features=32000, bias=False)
)"""


@pytest.mark.covers("R144")
def test_the_toy_model_prints_as_llama2c_prints_it() -> None:
    assert inspect_model("llama2c_15m").text("llama2c") == S2_TREE


@pytest.mark.covers("R158")
def test_the_text_has_every_parameter_the_parts_and_the_costs() -> None:
    text = inspect_model("gpt2_124m").text(batch=2, length=512)
    assert "Model parameters: 124,439,808" in text
    assert re.search(r"^blocks\.11\.attention\.q_proj\.weight +768 x 768 +589,824$", text, re.MULTILINE)
    # 12 x (4 x 768 x 768 + 4 x 768)
    assert re.search(r"^attention +28,348,416 +22\.8%$", text, re.MULTILINE)
    assert re.search(r"^embedding +39,383,808 +31\.6%$", text, re.MULTILINE)
    # 2 x 12 layers x 768 x 2 bytes
    assert "key-value cache, 16 bits: 36,864 bytes a token" in text
    memory = footprint(preset("gpt2_124m"), TrainingConfig(batch_size=2), 512, "fp32")
    assert f"Memory of a training step, 2 x 512 tokens, {TrainingConfig().optimizer}, float32" in text
    assert f"{memory.peak / 2**30:.1f} GB" in text
    assert "Memory of generation, 2 x 512 tokens" in text and "cache 36.0 MB" in text


@pytest.mark.parametrize("name", PRESETS)
def test_the_parts_add_up_to_the_model(name: str) -> None:
    with torch.device("meta"):
        model = build_model(preset(name))
    parts = parameters_by_part(model)
    assert sum(parts.values()) == model.num_parameters()
    assert set(parts) <= set(PARTS)
    for parameter, _ in model.named_parameters():
        last = parameter.split(".")[-2]
        if last in ("q_proj", "k_proj", "v_proj", "o_proj"):
            assert part_of(parameter) == "attention"
        if last in ("up_proj", "gate_proj", "down_proj"):
            assert part_of(parameter) == "feed-forward"


def drawn(config: ModelConfig) -> ElementTree.Element:
    with torch.device("meta"):
        return ElementTree.fromstring(draw_model(build_model(config), "a model"))


def boxes_of(svg: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    """Left, top, right, bottom of every component."""
    found = []
    for rect in svg.iter(f"{SVG}rect"):
        if "box" in (rect.get("class") or "").split():
            x, y, width, height = (float(rect.get(name, "0")) for name in ("x", "y", "width", "height"))
            found.append((x, y, x + width, y + height))
    return found


VARIANTS = {
    "windows, experts, odd heads": {"sliding_window": 1024, "n_experts": 64, "n_shared_experts": 2, "n_kv_heads": 1},
    "everything of the small model": {
        "bigram_embedding": 99_999,
        "value_embeddings": True,
        "embedding_norm": True,
        "residual_shortcuts": True,
        "logit_softcap": 15.0,
        "position": "alibi",
        "n_kv_heads": 4,
        "qk_norm": True,
        "vocab_size": 250_000,
    },
}


@pytest.mark.parametrize("name", [*PRESETS, *VARIANTS])
def test_nothing_in_the_drawing_overlaps_or_leaves_its_box(name: str) -> None:
    svg = drawn(preset(name) if name in PRESETS else ModelConfig(**VARIANTS[name]))
    width, height = (float(number) for number in svg.get("viewBox", "").split()[2:])
    boxes = boxes_of(svg)
    assert len(boxes) >= 8
    for one, other in itertools.combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)
    lines: dict[float, list[tuple[float, float, str]]] = {}
    for text in svg.iter(f"{SVG}text"):
        x, y, size = (float(text.get(attribute, "0")) for attribute in ("x", "y", "font-size"))
        style = (text.get("class") or "").split()
        long = (BOLD_LETTER if "title" in style else LETTER) * size * len(text.text or "")
        left = x - long if "end" in style else x
        assert left >= 0 and left + long <= width and 0 < y < height, text.text
        assert size > 7, text.text
        for box in boxes:
            if box[0] < x < box[2] and box[1] < y < box[3]:
                assert left >= box[0] and left + long <= box[2], text.text
        for start, end, words in lines.setdefault(y, []):
            assert left >= end or left + long <= start, (words, text.text)
        lines[y].append((left, left + long, text.text or ""))
    for line in svg.iter(f"{SVG}polyline"):
        for point in (line.get("points") or "").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width and 0 <= y <= height


def test_the_drawing_shows_what_the_family_is_made_of() -> None:
    for name, wanted, unwanted in (
        ("gpt2_124m", {"attention, causal", "+ learned positions", "12 blocks"}, {"cross-attention"}),
        ("bert_base", {"self-attention", "+ segment embedding", "transform"}, {"attention, causal", "cross-attention"}),
        ("t5_small", {"cross-attention", "self-attention", "self-attention, causal", "source tokens"}, {"transform"}),
        ("llama_1b", {"grouped-query attention, causal", "22 blocks"}, {"+ learned positions"}),
        ("moe_nano", {"mixture of experts"}, {"feed-forward"}),
    ):
        svg = drawn(preset(name))
        texts = {text.text for text in svg.iter(f"{SVG}text") if "title" in (text.get("class") or "")}
        assert wanted <= texts and not unwanted & texts, (name, texts)


def test_the_picture_needs_nothing_but_itself(tmp_path: Path) -> None:
    inspection = inspect_model("nano")
    inspection.picture(tmp_path / "nano.svg")
    inspection.picture(tmp_path / "nano.html")
    page = (tmp_path / "nano.html").read_text()
    assert "Model parameters: 19,926,120" in page and "<svg " in page
    for text in (page, (tmp_path / "nano.svg").read_text()):
        assert "prefers-color-scheme:dark" in text
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<script|@import|url\((?!#)", text)
    with pytest.raises(UserError, match=r"end it with \.svg or \.html"):
        inspection.picture(tmp_path / "nano.png")


def test_wrong_wishes_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose one of parameters, tree, llama2c"):
        inspect_model("nano").text("poem")
    with pytest.raises(UserError, match="logit_softcap"):
        inspect_model("nano").text("llama2c")
    with pytest.raises(UserError, match=r"or preset 'gpt7'\n.*gpt2_124m"):
        inspect_model("gpt7", runs_dir=tmp_path)


def test_counts_are_shortened() -> None:
    assert [short_count(number) for number in (7, 1536, 38_597_376, 1_100_048_384)] == [
        "7",
        "1.54 K",
        "38.6 M",
        "1.1 B",
    ]
