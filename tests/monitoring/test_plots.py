"""Charts: true to the numbers, small whatever their number, with and without matplotlib."""

from __future__ import annotations

import random
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from llm_trainer.common.errors import UserError
from llm_trainer.monitoring.charts import Chart, Line, format_value, log_ticks, smooth, thin, ticks
from llm_trainer.monitoring.plots import svg_chart, write_plots
from tests.monitoring.folders import training_records, write_metrics

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.covers("R005", "R314", "R317")
def test_svg_needs_no_matplotlib_and_shows_every_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("matplotlib", "matplotlib.figure"):  # another test may have imported it
        monkeypatch.setitem(sys.modules, module, None)
    write_metrics(tmp_path, training_records(50))
    paths = write_plots(tmp_path)
    assert {path.name for path in paths} == {
        "loss.svg",
        "learning_rate.svg",
        "throughput.svg",
        "grad_norm.svg",
        "memory.svg",
    }
    for path in paths:
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        lines = list(root.iter(f"{SVG}polyline"))
        assert lines and all(len(line.attrib["points"].split()) > 1 for line in lines)
    loss = next(path for path in paths if path.name == "loss.svg").read_text()
    assert "validation: " in loss and "nats per token" in loss and "training, smoothed" in loss
    with pytest.raises(UserError, match=r"llm-trainer\[plots\]"):
        write_plots(tmp_path, image_format="png")


@pytest.mark.covers("R317")
def test_png_through_matplotlib(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_metrics(tmp_path, training_records(20))
    paths = write_plots(tmp_path, tmp_path / "elsewhere", "png")
    assert all(path.parent == tmp_path / "elsewhere" and path.read_bytes()[:4] == b"\x89PNG" for path in paths)


def test_what_cannot_be_plotted_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no metrics to plot"):
        write_plots(tmp_path)
    with pytest.raises(UserError, match="choose svg or png"):
        write_plots(tmp_path, image_format="jpeg")


def test_higher_values_are_drawn_higher_and_inside_the_frame() -> None:
    chart = Chart("x", "A <title>", "", [Line("a", [(0, 1.0), (10, 3.0), (20, 2.0)])])
    root = ElementTree.fromstring(svg_chart(chart, width=500, height=300, standalone=True))
    line = next(root.iter(f"{SVG}polyline"))
    points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x0 < x1 < x2 and x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 < y2 < y0 and y0 - y2 == pytest.approx(y2 - y1, abs=0.2)
    assert all(0 < x < 500 and 0 < y < 300 for x, y in points)
    assert root.attrib["aria-label"] == "A <title>"


@pytest.mark.parametrize("values", [[2.0], [0.0, 0.0], [5.0, 5.0, 5.0], [-1e-12, 1e12]])
def test_degenerate_series_are_drawn(values: list[float]) -> None:
    chart = Chart("x", "x", "", [Line("a", list(enumerate(values)))])
    assert "nan" not in svg_chart(chart) and "inf" not in svg_chart(chart)


def test_thinning_keeps_spikes_and_ends() -> None:
    random.seed(0)
    points = [(step, random.random()) for step in range(100_000)]
    points[54_321] = (54_321, 99.0)
    points[54_322] = (54_322, -99.0)
    kept = thin(points)
    assert len(kept) <= 700
    assert (54_321, 99.0) in kept and (54_322, -99.0) in kept
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert kept == sorted(kept)
    assert thin(points[:10]) == points[:10]


def test_smoothing_keeps_a_constant_and_does_not_lag() -> None:
    assert [value for _, value in smooth([(step, 3.0) for step in range(200)])] == pytest.approx([3.0] * 200)
    falling = smooth([(step, 1000.0 - step) for step in range(1000)])
    assert falling[500] == (500, pytest.approx(500.0))
    assert smooth([]) == [] and smooth([(1, 2.0)]) == [(1, 2.0)]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2.31, 8.97), (-3, 7e6), (1e-6, 6e-4), (0.99, 1.01)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 11
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)
    assert all(len(format_value(value)) <= 8 for value in found)
    assert log_ticks(0.05, 300) == [0.1, 1.0, 10.0, 100.0]
    assert log_ticks(0.9, 6) == [1.0, 2.0, 5.0]
