"""The report's style sheet: light and dark, the system's fonts, nothing loaded from elsewhere."""

from __future__ import annotations

from pipelines.presentation.curves import COLOURS, variable

_CSS = """
:root { color-scheme: light dark; --font: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  --page: #fbfaf7; --card: #fff; --ink: #1b1f2a; --faint: #667085; --line: #e5e2da;
  --accent: #4338ca; --tint: #eef0fe; --good: #15803d; --good-bg: #dcf3e3; --bad: #b42318;
  --bad-bg: #fde4e0; --even-bg: #efede7; LIGHT }
@media (prefers-color-scheme: dark) { :root {
  --page: #11131a; --card: #191c25; --ink: #e8ebf2; --faint: #98a1b3; --line: #2c303c;
  --accent: #a5b4fc; --tint: #22263d; --good: #6ddb94; --good-bg: #163524; --bad: #ff9c8f;
  --bad-bg: #45201c; --even-bg: #262a35; DARK } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 var(--font);
  font-variant-numeric: tabular-nums }
main { max-width: 1320px; margin: 0 auto; padding: 40px 28px 80px }
h1 { font-size: clamp(26px, 3.6vw, 40px); line-height: 1.12; letter-spacing: -.022em;
  font-weight: 680; margin: 6px 0 18px; max-width: 24em; text-wrap: balance }
h2 { font-size: 24px; letter-spacing: -.015em; margin: 60px 0 6px }
h3 { font-size: 17px; margin: 30px 0 8px }
p { max-width: 78ch; margin: 6px 0 }
.kicker, .note, small { color: var(--faint) }
.kicker { font-size: 13px; letter-spacing: .03em; margin: 0 }
.note { font-size: 13.5px }
.lead { font-size: clamp(17px, 1.75vw, 21px); line-height: 1.45; max-width: 66ch }
.lead + p { margin-top: 12px }
.scroll { overflow-x: auto; margin: 14px -4px; padding: 0 4px }
table { border-collapse: separate; border-spacing: 0; font-size: 14px }
th { font-weight: 600; text-align: left }
small { display: block; font-size: 12px; font-weight: 400; line-height: 1.25 }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 18px 20px }

.score tbody th { white-space: nowrap }
.score td, .score th { padding: 5px 9px; vertical-align: middle }
.score { border-spacing: 3px }
.score td { text-align: center; border-radius: 8px; min-width: 88px; background: var(--even-bg) }
.score td b { font-size: 17px; display: block; line-height: 1.2 }
.score td small { color: inherit; opacity: .85 }
.score thead th { text-align: center; vertical-align: bottom; font-size: 13px }
.score td.ours { background: none; color: var(--accent) }
.better { background: var(--good-bg) !important; color: var(--good) }
.worse { background: var(--bad-bg) !important; color: var(--bad) }

.grid td, .grid th { padding: 3px 2px; vertical-align: top; text-align: center }
.grid thead th { vertical-align: bottom; padding-bottom: 8px; font-size: 13px; max-width: 112px }
.grid thead small { min-height: 2.5em }
.grid .concept th { text-align: left; padding: 16px 0 6px; font-size: 16px;
  border-top: 1px solid var(--line) }
.grid .concept span { position: sticky; left: 0 }
.grid tbody th.step { text-align: right; white-space: nowrap; position: sticky; left: 0; z-index: 2;
  background: var(--card); font-size: 13px; padding-right: 10px; vertical-align: middle }
.grid .ours { background: var(--tint) }
.grid thead .ours { color: var(--accent); border-radius: 10px 10px 0 0 }
.grid td[rowspan] { vertical-align: middle }
.shots { display: flex; gap: 2px; justify-content: center }
.stacked .shots { flex-direction: column; align-items: center }
img { display: block; border-radius: 3px; image-rendering: pixelated;
  width: calc(var(--px) * var(--times)) }
img.large { image-rendering: auto }
header { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 20px 48px;
  align-items: start }
.strip { justify-self: start }
.strip th { font-size: 13px; color: var(--faint); text-align: center; padding: 0 2px 4px }
.strip thead th { vertical-align: top }
.strip tbody th { text-align: left; max-width: 11em; padding: 0 0 0 12px; color: var(--ink);
  font-size: 14px }
.strip td { padding: 2px } .strip .ours { color: var(--accent) }
.cell { display: inline-block; padding: 3px; border-radius: 6px; border: 2px solid transparent }
.cell.best { border-color: var(--good) }
.l1 { font-size: 13px; line-height: 1.35; color: var(--faint); margin-top: 2px;
  white-space: nowrap }
.best .l1 { color: var(--good); font-weight: 700 }
.none { color: var(--bad); font-size: 12.5px }

.set { display: grid; grid-template-columns: minmax(320px, 1fr) 1fr; gap: 12px 28px;
  align-items: center; margin: 16px 0 }
.set h3, .set .wide { grid-column: 1 / -1; margin: 0 }
.set svg { width: 100%; height: auto; max-width: 560px; overflow: visible }
.set > * { min-width: 0 } .set p { font-size: 16px; line-height: 1.6 }
.set table { width: 100% }
.nums td, .nums th { padding: 5px 10px; border-top: 1px solid var(--line); white-space: nowrap }
.nums td { text-align: right }
.nums td.text { text-align: left; white-space: normal }
.nums thead th { border: 0; text-align: right; font-size: 12.5px; color: var(--faint);
  vertical-align: bottom }
.nums.wrap thead th { white-space: normal; max-width: 9em }
.nums thead th:first-child { text-align: left }
.nums thead tr:first-child th[colspan] { text-align: center }
.nums tr.ours { background: var(--tint) }
.nums tr.ours th { color: var(--accent) }
.nums .better, .nums .worse { background: none !important }
.nums td small { display: inline }
.nums td.lowest { font-weight: 700 }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 8px }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 14px;
  margin: 16px 0 }
.tiles b { display: block; font-size: 27px; letter-spacing: -.02em; font-weight: 650 }
.bars { display: grid; grid-template-columns: max-content minmax(60px, 520px) max-content;
  gap: 5px 12px; align-items: center; font-size: 14px; margin: 12px 0 }
.bars i { display: block; height: 12px; background: var(--accent); border-radius: 3px;
  min-width: 2px }
.bars span:nth-child(3n) { text-align: right }
details { margin: 12px 0 } summary { cursor: pointer; font-weight: 600 }
pre { overflow-x: auto; font: 12.5px/1.5 ui-monospace, monospace; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px }
li { max-width: 90ch; margin: 5px 0 } ul { padding-left: 20px }
@media (max-width: 980px) { .set { grid-template-columns: minmax(0, 1fr) }
  header { grid-template-columns: minmax(0, 1fr) }
  .score td { min-width: 62px } .score thead small { display: none }
  .score tbody th { white-space: normal } .score td, .score th { padding: 5px }
  main { padding: 24px 16px 60px } h2 { margin-top: 44px } }
@media (min-width: 1800px) { main { max-width: 1740px }
  .grid img { width: calc(var(--px) * (var(--times) + 1)) }
  .grid thead th { max-width: 200px } }
@media print { .scroll { overflow: visible } .grid tbody th.step { position: static } }
"""


def style_sheet() -> str:
    """The style sheet, with the methods' colours as variables."""
    style = _CSS
    for name, index in (("LIGHT", 0), ("DARK", 1)):
        values = "; ".join(f"{variable(m)}: {c[index]}" for m, c in COLOURS.items())
        style = style.replace(name, values)
    return style
