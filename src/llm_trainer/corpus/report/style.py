"""The looks of the report: one style sheet, light or dark as the reader has set it, for screen, phone and paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --page: #f5f6f8; --panel: #fff; --text: #1b2330; --muted: #5b6472; --line: #dfe3e9;
  --soft: #eef1f5; --c1: #2563c9; --c2: #c2570c; --c3: #0f7a55; --good: #0f7a55; --bad: #b3261e; --warn: #9a5b00; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1319; --panel: #171c24; --text: #e7ebf1; --muted: #9aa5b4;
  --line: #2c3440; --soft: #1f2630; --c1: #7fb0ff; --c2: #ffa45c; --c3: #5fd0a2; --good: #5fd0a2; --bad: #ff8f86;
  --warn: #f0b860; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
header { margin-bottom: 20px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 6px; overflow-wrap: anywhere; letter-spacing: -.01em; }
h2 { font-size: 18px; margin: 36px 0 12px; }
h3 { font-size: 14px; margin: 0 0 8px; overflow-wrap: anywhere; }
p { margin: 0 0 10px; max-width: 75ch; }
.muted { color: var(--muted); }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: 16px; min-width: 0; }
.panel + .panel { margin-top: 12px; }
.grid > .panel + .panel, .tiles > .panel + .panel { margin-top: 0; }
.notice { border-left: 4px solid currentColor; margin: 0 0 20px; }
.notice > * { color: var(--text); margin: 0 0 6px; } .notice > :last-child { margin: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(47%, 200px), 1fr)); gap: 12px; }
.tile { padding: 12px 14px; }
.tile .name { color: var(--muted); font-size: 13px; }
.tile .value { font-size: 24px; font-weight: 650; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile .note { color: var(--muted); font-size: 12.5px; line-height: 1.35; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 12px; }
.grid.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); }
.grid .whole { grid-column: 1 / -1; }
.columns { columns: 2 420px; column-gap: 12px; }
.columns > * { break-inside: avoid; margin: 0 0 12px !important; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--muted); font-variant-numeric: tabular-nums; }
svg .name { fill: var(--text); font-size: 13px; }
svg .strong { fill: var(--text); font-weight: 600; font-size: 13px; }
svg .axis { stroke: var(--line); stroke-width: 1; }
svg .kept { fill: var(--c1); } svg .gone { fill: var(--c2); } svg .lost { fill: var(--bad); }
svg .soft { opacity: .55; } svg .band { opacity: .85; }
svg .curve { fill: none; stroke: var(--c1); stroke-width: 2; stroke-linejoin: round; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin: 0 6px 0 0; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 13px; margin: 0 0 10px; }
.narrow { display: none; }
.bars { display: grid; grid-template-columns: minmax(0, max-content) minmax(60px, 1fr) max-content; gap: 6px 12px;
  align-items: center; font-size: 14px; }
.bars .what { overflow-wrap: anywhere; }
.bars .track { position: relative; display: block; }
.bars i { display: block; height: 13px; min-width: 1px; border-radius: 3px; background: var(--c1); }
.bars u { position: absolute; top: -3px; height: 19px; width: 3px; margin-left: -1px; background: var(--text); }
.bars b { font-variant-numeric: tabular-nums; font-weight: 500; text-align: right; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 5px 16px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
th { color: var(--muted); font-weight: 500; }
tbody tr:last-child > * { border-bottom: 0; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font: 13px/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
details { margin: 0 0 8px; }
summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
summary span { font-weight: 400; color: var(--muted); }
details[open] > summary { margin-bottom: 10px; }
details .where { font-size: 12.5px; color: var(--muted); overflow-wrap: anywhere; margin: 0 0 2px; max-width: none; }
details pre { margin: 0 0 12px; padding: 8px 10px; background: var(--soft); border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  max-height: 16em; overflow: auto; unicode-bidi: plaintext; }
footer { margin-top: 40px; color: var(--muted); font-size: 13px; }
@media (max-width: 720px) { main { padding: 20px 12px 40px; } h1 { font-size: 21px; }
  .wide { display: none; } .narrow { display: block; }
  .panel { padding: 12px; } .tile .value { font-size: 20px; } svg text { font-size: 14px; }
  .grid.small { grid-template-columns: 1fr 1fr; } }
@media print { body { background: none; } .panel { break-inside: avoid; } }
""".strip()
