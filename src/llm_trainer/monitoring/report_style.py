"""The looks of the report: one style sheet, light or dark as the reader has set it, for screen, phone and paper."""

from __future__ import annotations

from llm_trainer.monitoring.plots import CHART_CSS

STYLE = f"""
{CHART_CSS}
:root {{ color-scheme: light dark; --page: #f5f6f8; --panel: #fff; --text: #1b2330; --muted: #5b6472; --line: #dfe3e9;
  --soft: #eef1f5; --c1: #2563c9; --c2: #c2570c; --c3: #0f7a55; --good: #0f7a55; --bad: #b3261e; --warn: #9a5b00; }}
@media (prefers-color-scheme: dark) {{ :root {{ --page: #0f1319; --panel: #171c24; --text: #e7ebf1; --muted: #9aa5b4;
  --line: #2c3440; --soft: #1f2630; --c1: #7fb0ff; --c2: #ffa45c; --c3: #5fd0a2; --good: #5fd0a2; --bad: #ff8f86;
  --warn: #f0b860; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }}
main {{ max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }}
header {{ margin-bottom: 20px; }}
h1 {{ font-size: 26px; line-height: 1.25; margin: 0 0 6px; overflow-wrap: anywhere; letter-spacing: -.01em; }}
h2 {{ font-size: 18px; margin: 36px 0 12px; }}
h3 {{ font-size: 14px; margin: 0 0 8px; }}
p {{ margin: 0 0 10px; max-width: 75ch; }}
.muted {{ color: var(--muted); }}
.state {{ display: inline-block; padding: 1px 10px; border-radius: 99px; border: 1px solid currentColor;
  font-size: 13px; font-weight: 600; vertical-align: 4px; margin-left: 8px; white-space: nowrap; }}
.good {{ color: var(--good); }} .bad {{ color: var(--bad); }} .warn {{ color: var(--warn); }}
.info {{ color: var(--c1); }}
.panel {{ background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: 16px; min-width: 0; }}
.notice {{ border-left: 4px solid currentColor; margin: 0 0 20px; }}
.notice > * {{ color: var(--text); margin: 0 0 6px; white-space: pre-line; }} .notice > :last-child {{ margin: 0; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(47%, 210px), 1fr)); gap: 12px; }}
.tile {{ padding: 12px 14px; }}
.tile .name {{ color: var(--muted); font-size: 13px; }}
.tile .value {{ font-size: 24px; font-weight: 650; line-height: 1.3; font-variant-numeric: tabular-nums; }}
.tile .note {{ color: var(--muted); font-size: 12.5px; line-height: 1.35; }}
.tile.main .value {{ color: var(--c1); }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 12px; }}
.charts .whole {{ grid-column: 1 / -1; }}
.chart {{ display: block; width: 100%; height: auto; }}
.narrow {{ display: none; }}
.legend {{ display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 12.5px; margin-bottom: 4px; }}
.legend .swatch {{ display: inline-block; width: 18px; margin-right: 6px; vertical-align: 4px; }}
.bars {{ display: grid; grid-template-columns: max-content 1fr max-content; gap: 8px 12px; align-items: center; }}
.bars i {{ display: block; height: 14px; border-radius: 3px; background: var(--muted); opacity: .55; }}
.bars i.own {{ background: var(--c1); opacity: 1; }}
.bars b {{ font-variant-numeric: tabular-nums; }}
.samples {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 12px; }}
.sample pre {{ margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, Menlo, Consolas,
  "DejaVu Sans Mono", monospace; max-height: 22em; overflow: auto; }}
.sample .prompt {{ color: var(--c1); font-weight: 600; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: 14px; }}
th, td {{ text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }}
th {{ color: var(--muted); font-weight: 500; }}
tr:last-child > * {{ border-bottom: 0; }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
td code {{ overflow-wrap: anywhere; }}
code, .command {{ font: 13px/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }}
.command {{ display: block; background: var(--soft); border-radius: 6px; padding: 7px 10px; margin: 4px 0 12px;
  overflow-wrap: anywhere; }}
details {{ margin-bottom: 10px; }}
summary {{ cursor: pointer; font-weight: 600; }}
details[open] > summary {{ margin-bottom: 10px; }}
footer {{ margin-top: 40px; color: var(--muted); font-size: 13px; }}
@media (max-width: 640px) {{ main {{ padding: 20px 12px 40px; }}
  .wide {{ display: none; }} .narrow {{ display: block; }}
  .panel {{ padding: 12px; }} .tile .value {{ font-size: 20px; }}
  h1 {{ font-size: 21px; }} .chart text {{ font-size: 15px; }} }}
@media print {{ body {{ background: none; }} details > * {{ display: block; }} .panel {{ break-inside: avoid; }} }}
""".strip()
