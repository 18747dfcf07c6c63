"""The report's page: HTML and CSS around the numbers, pictures and curves it is given.

One file with nothing outside it: pictures as data URIs, the system's fonts, no scripts. Every
text that comes from an artifact is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from pipelines.presentation.cells import ABOUT, _png_width, image_tags, picture_cell
from pipelines.presentation.curves import variable
from pipelines.presentation.numbers import FEW, HELD_OUT, WHENS, Numbers, count, duration, plural
from pipelines.presentation.pictures import SOURCE, TRUTH
from pipelines.presentation.style import style_sheet
from pipelines.stages.contenders import CEILING, IDENTITY, PREDICTION, REFERENCES

LISTED = 12  # rows shown before a list is folded


def render(
    summary: Numbers,
    grid: Sequence[Numbers],
    curves: Mapping[str, str],
    config_yaml: str,
    further: str = "",
) -> str:
    """The whole page.

    summary: as written to summary.json. grid: from `report_pictures.grids`. curves: an SVG element
    per held-out set. config_yaml: the resolved configuration. further: sections of HTML.
    """
    sets = summary["sets"]
    parts = [
        _hero(summary, grid),
        "<h2>Pictures</h2>",
        _pictures_note(grid),
        *(_picture_table(held, [g for g in grid if g["concept"].heldout == held]) for held in sets),
        "<h2>Along the fine-tune, against every control</h2>",
        _numbers_note(summary),
        *(_set(held, numbers, curves[held], summary) for held, numbers in sets.items()),
        _reach(summary),
        further,
        _memory(summary),
        _times(summary),
        _honesty(summary),
        _provenance(summary, config_yaml),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>LoRA weights from text: {escape(summary['preset'])}</title>"
        f"<style>{style_sheet()}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def _hero(summary: Numbers, grid: Sequence[Numbers]) -> str:
    lines = next(iter(summary["sets"].values()))["sentences"]
    rest = " ".join(lines[2:])
    return (
        f'<p class="kicker">denoised weights · preset {escape(summary["preset"])}'
        f" · seed {summary['seed']}</p>"
        "<header><div><h1>A text goes in. Out come the LoRA weights that teach a small"
        " image-to-image GAN to draw it.</h1>"
        f'<p class="lead">{escape(" ".join(lines[:2]))}</p><p>{escape(rest)}</p></div>'
        f"{_strip(grid)}</header>{_scoreboard(summary)}"
    )


def _strip(grid: Sequence[Numbers]) -> str:
    """Source, prediction before any fine-tuning, true edit of the first shown concepts."""
    rows = []
    size = max((_png_width(d) for g in grid for d in g[SOURCE].values()), default=0)
    room = 96 if size <= 48 else 128
    for g in grid[:3]:
        cell = g["cells"][PREDICTION]["before"]
        three = (g[SOURCE], cell["images"] if cell else {}, g[TRUTH])
        names = (SOURCE, f"{PREDICTION}, step 0", TRUTH)
        shots = "".join(
            f"<td>{image_tags(dict(list(images.items())[:1]), name, g['concept'].text, room)}</td>"
            for images, name in zip(three, names, strict=True)
        )
        rows.append(f"<tr>{shots}<th>“{escape(g['concept'].text)}”</th></tr>")
    if not rows:
        return ""
    return (
        '<table class="strip"><thead><tr><th>source</th>'
        '<th class="ours">predicted<small>step 0</small></th>'
        f"<th>true edit</th><th></th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _scoreboard(summary: Numbers) -> str:
    controls = [m for m in summary["methods"] if m not in (PREDICTION, *REFERENCES)]
    heads = "".join(
        f"<th>{escape(m)}<small>{escape(ABOUT.get(m, ''))}</small></th>" for m in controls
    )
    rows = []
    for held, numbers in summary["sets"].items():
        last = numbers["last_step"]
        whens = WHENS if last else WHENS[:1]
        for when in whens:
            ours = numbers["methods"][PREDICTION][when]
            cells = [
                f"<th rowspan={len(whens)}>{escape(count(numbers['concepts'], held))}</th>"
                if when == "before"
                else "",
                f"<th>step {last if when == 'after' else 0}</th>",
                f'<td class="ours"><b>{ours["l1"]:.3f}</b></td>' if ours else _absent(),
            ]
            for method in controls:
                c = numbers["against"][method][when]
                cells.append(
                    f'<td class="{c["verdict"]}"><b>{c["wins"]}/{c["total"]}</b>'
                    f"<small>{_signed(c['mean'], 3)}</small></td>"
                    if c
                    else _absent()
                )
            rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        '<div class="scroll"><table class="score"><thead><tr><th></th><th></th>'
        f"<th>prediction<small>mean L1</small></th>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="note">Concepts on which the prediction has the lower L1 than the control above,'
        " and the mean difference (negative: the prediction is closer to the true edit)."
        ' <b class="better">Green</b>: the 95 % interval of the difference lies below zero;'
        ' <b class="worse">red</b>: above;'
        f" grey: it holds zero, or there are fewer than {FEW} concepts.</p>"
    )


def _absent(text: str = "no rows") -> str:
    return f'<td class="none">{text}</td>'


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def _pictures_note(grid: Sequence[Numbers]) -> str:
    if not grid:
        return '<p class="none">No pictures were kept.</p>'
    n = sorted({n for g in grid for n in g["images"]})
    shown = max(len(g[TRUTH]) for g in grid)
    return (
        '<p class="note">Rows are held-out concepts, picked evenly in the order of the plan and not'
        f" by how they came out. Under each cell: L1 (mean |difference|, images in [−1, 1]) over"
        f" the concept’s {_span(n)} scored images, of which the first {shown} "
        f"{'is' if shown == 1 else 'are'} shown; no training saw them."
        " A green frame marks the lowest L1 of the row among prediction, controls and identity.</p>"
    )


def _span(values: Sequence[int]) -> str:
    if not values:
        return "0"
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _picture_table(held: str, grid: Sequence[Numbers]) -> str:
    if not grid:
        return (
            f"<h3>{escape(_title(held))}</h3><p class='none'>No pictures of this set were kept.</p>"
        )
    methods = [m for m in grid[0]["cells"] if m not in (IDENTITY, CEILING)]
    ceiling = CEILING in grid[0]["cells"]
    heads = [
        "<th></th>",
        f"<th>source<small>{IDENTITY}: unchanged</small></th>",
        "<th>ground truth<small>the true edit</small></th>",
    ]
    for m in [*methods, *([CEILING] if ceiling else [])]:
        ours = ' class="ours"' if m == PREDICTION else ""
        heads.append(f"<th{ours}>{escape(m)}<small>{escape(ABOUT.get(m, ''))}</small></th>")
    width = len(heads)
    body = []
    for g in grid:
        text, last = g["concept"].text, g["last_step"]
        whens = WHENS if last else WHENS[:1]
        span = f" rowspan={len(whens)}"
        body.append(
            f'<tr class="concept"><th colspan={width}><span>“{escape(text)}”</span></th></tr>'
        )
        for when in whens:
            step = last if when == "after" else 0
            first = when == "before"
            row = [f'<th class="step">step {step}</th>']
            if first:
                row.append(_identity_cell(g, text, span, whens))
                row.append(
                    f"<td{span}>{picture_cell(g[TRUTH], TRUTH, text, '&nbsp;', stacked=True)}</td>"
                )
            for m in methods:
                ours = ' class="ours"' if m == PREDICTION else ""
                row.append(f"<td{ours}>{_scored(g['cells'][m][when], m, text)}</td>")
            if ceiling and first:
                cell = g["cells"][CEILING]["after"]
                row.append(f"<td{span}>{_scored(cell, CEILING, text, steps=True)}</td>")
            body.append(f"<tr>{''.join(row)}</tr>")
    meaning = HELD_OUT.get(held, ("", ""))[1]
    return (
        f"<h3>{escape(_title(held))}<small>{escape(meaning)}</small></h3>"
        '<div class="card scroll"><table class="grid"><thead><tr>'
        f"{''.join(heads)}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _title(held: str) -> str:
    name = plural(held)
    return name[0].upper() + name[1:]


def _identity_cell(g: Numbers, text: str, span: str, whens: Sequence[str]) -> str:
    cells = g["cells"].get(IDENTITY, {})
    best = [
        f"step {g['last_step'] if w == 'after' else 0}"
        for w in whens
        if (cells.get(w) or {}).get("best")
    ]
    cell = cells.get("before")
    label = f"{cell['l1']:.3f}" if cell else "not scored"
    if best:
        label += f"<br>best at {' and '.join(best)}"
    return f"<td{span}>{picture_cell(g[SOURCE], SOURCE, text, label, bool(best), True)}</td>"


def _scored(cell: Numbers | None, method: str, text: str, steps: bool = False) -> str:
    if cell is None:
        return '<span class="none">not scored</span>'
    label = f"{cell['l1']:.3f}" + (f" · {cell['step']} steps" if steps else "")
    return picture_cell(
        cell["images"], f"{method}, step {cell['step']}", text, label, cell["best"], steps
    )


def _numbers_note(summary: Numbers) -> str:
    kid = f" KID over {escape(summary['features'])}." if summary["features"] else ""
    frechet = (
        f" {escape(summary['frechet'])} at n = {summary['fd_images']} fresh images."
        if summary["fd_images"]
        else ""
    )
    return (
        '<p class="note">Every method takes the same steps on the same images from the same'
        " discriminator; only the start differs. Means over concepts. Difference: prediction minus"
        " method over the same concepts, with its 95 % interval (paired bootstrap over concepts);"
        f" negative is good for the prediction.{kid}{frechet}</p>"
    )


def _set(held: str, numbers: Numbers, curve: str, summary: Numbers) -> str:
    return (
        f'<section class="card set"><h3>{escape(count(numbers["concepts"], held))}</h3>'
        f"<div>{curve}</div><p>{escape(' '.join(numbers['sentences']))}</p>"
        f'<div class="scroll wide">{_numbers_table(numbers, summary["frechet"])}</div></section>'
    )


def _numbers_table(numbers: Numbers, frechet: str) -> str:
    last, methods = numbers["last_step"], numbers["methods"]
    whens = WHENS if last else WHENS[:1]
    at = {"before": "step 0", "after": f"step {last}"}
    names = {"l1": "L1", "kid": "KID", "fd": frechet}
    there = ["l1"]
    there += [
        v
        for v in ("kid", "fd")
        if any(m[w] and m[w][v] is not None for m in methods.values() for w in whens)
    ]
    top = "".join(f"<th colspan={len(whens)}>{escape(names[v])}</th>" for v in there)
    top += "".join(f"<th colspan=2>the prediction against it, {at[w]}</th>" for w in whens)
    heads = "".join(f"<th>{at[w]}</th>" for _ in there for w in whens)
    heads += "<th>wins</th><th>difference in L1</th>" * len(whens)
    body = []
    for name, m in methods.items():
        cells = [_end_cell(name, m, v, w, numbers) for v in there for w in whens]
        if name == PREDICTION:
            cells.append(f"<td colspan={2 * len(whens)}></td>")
        else:
            cells += [_against_cells(numbers["against"][name][w]) for w in whens]
        dot = f'<span class="dot" style="background: var({variable(name)}, var(--faint))"></span>'
        known = name in REFERENCES and m["after"]
        steps = f"<small>{m['after']['step']} steps</small>" if known else ""
        ours = ' class="ours"' if name == PREDICTION else ""
        body.append(f"<tr{ours}><th>{dot}{escape(name)}{steps}</th>{''.join(cells)}</tr>")
    return (
        f'<table class="nums"><thead><tr><th></th>{top}</tr><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def _end_cell(name: str, method: Numbers, value: str, when: str, numbers: Numbers) -> str:
    """A method's mean at one end; the lowest L1 bold, fewer concepts than the set's in brackets."""
    end = method[when]
    # what was trained at length has one state: it stands in the last column
    elsewhere = name in REFERENCES and when == "before" and numbers["last_step"] > 0
    if not end or end[value] is None or elsewhere:
        return "<td>–</td>" if method["curve"] else _absent()
    rivals = [
        m[when]["l1"] for k, m in numbers["methods"].items() if k not in REFERENCES and m[when]
    ]
    best = value == "l1" and name not in REFERENCES and end["l1"] == min(rivals)
    short = f" <small>({end['concepts']})</small>" if end["concepts"] < numbers["concepts"] else ""
    digits = 4 if value == "kid" else 3
    return f"<td{' class=lowest' if best else ''}>{end[value]:.{digits}f}{short}</td>"


def _against_cells(c: Numbers | None) -> str:
    if c is None:
        return "<td>–</td><td>–</td>"
    interval = "" if c["lo"] is None else f" [{_signed(c['lo'], 3)}, {_signed(c['hi'], 3)}]"
    return (
        f'<td>{c["wins"]} of {c["total"]}</td><td class="{c["verdict"]}">'
        f"{_signed(c['mean'], 4)}<small>{interval}</small></td>"
    )


def _reach(summary: Numbers) -> str:
    """How much sooner a fine-tune gets where a long training ends."""
    rows = []
    for held, numbers in summary["sets"].items():
        for reference, methods in numbers["reach"].items():
            for method, found in methods.items():
                if found is None or method == IDENTITY:
                    continue
                times = "never" if found["mean_ratio"] is None else f"{found['mean_ratio']:.1f}×"
                median = f"{found['ratio']:.1f}×" if found["ratio"] else "never"
                rows.append(
                    [
                        _text(plural(held)),
                        _text(f"{reference}: {found['l1']:.3f} in {duration(found['seconds'])}"),
                        _text(method),
                        f"<td>{times}</td>",
                        f"<td>{median}</td>",
                        f"<td>{found['reached']} of {found['total']}</td>",
                    ]
                )
    if not rows:
        return ""
    heads = ["held out", "what is to be reached", "by", "mean curve", "median", "get there"]
    return (
        "<h2>Time to reach what a long training reaches</h2>"
        "<p class='note'>How many times shorter the fine-tune from a start is, prediction"
        " included, than the training whose last L1 it equals. The ground-truth adapter is zero"
        " LoRA at its full budget. Mean curve: of the mean L1, interpolated between scored steps;"
        " median and count: of single concepts and seeds, at scored steps, where not getting there"
        " within the short fine-tune counts as never.</p>" + _folded(heads, rows)
    )


def _memory(summary: Numbers) -> str:
    """Are the predictions copies of training adapters?"""
    rows = []
    for held, methods in summary["memory"]["sets"].items():
        scored = summary["sets"].get(held, {}).get("methods", {})
        for method, m in methods.items():
            start = (scored.get(method) or {}).get("before")
            rows.append(
                [
                    _text(plural(held)),
                    _text(method),
                    *(_number(m[key]) for key in ("distance", "pictures", "nearest_l1")),
                    _number(start["l1"]) if start else _absent("not scored"),
                ]
            )
    if not rows:
        return ""
    gap = summary["memory"]["training_gap"]
    heads = [
        "held out",
        "weight generator",
        "distance to the nearest training adapter",
        "L1 between their pictures",
        "L1 of that adapter’s pictures",
        "L1 of the prediction’s",
    ]
    return (
        "<h2>Copies of training adapters?</h2><p class='note'>Distance: root mean square of"
        " normalised weights"
        + (f"; between a training adapter and its nearest other it is {gap:.3f}." if gap else ".")
        + " A generator that repeats its training set would score as that adapter does, and its"
        " pictures would not differ.</p>" + _folded(heads, rows)
    )


def _times(summary: Numbers) -> str:
    times, stages = summary["times"], summary["stages"]
    about = {
        "predict": "text embedding → adapter",
        "load": "into the translator",
        "coreset": "pick the training images",
        "finetune": "the short training",
    }
    tiles = "".join(
        f'<div class="card">{escape(name.replace("finetune", "fine-tune"))}'
        f"<b>{duration(s) if s is not None else 'not measured'}</b>"
        f"<small>{about[name]}</small></div>"
        for name, s in times["seconds"].items()
    )
    longest = max((s["seconds"] for s in stages.values()), default=1.0) or 1.0
    bars = "".join(
        f'<span>{escape(name)}</span><i style="width: {100 * s["seconds"] / longest:.1f}%"></i>'
        f"<span>{duration(s['seconds'])}</span>"
        for name, s in stages.items()
    )
    total = sum(s["seconds"] for s in stages.values())
    machine = summary["machine"]
    devices = ", ".join(times["devices"]) or "unknown device"
    threads = ", ".join(map(str, times["threads"])) or "?"
    return (
        f"<h2>Times</h2><p class='note'>Per concept, mean of {times['concepts']}. Measured on"
        f" {escape(devices)} with {threads} thread{'' if threads == '1' else 's'}, while"
        f" {times['actors']} actor{'s' if times['actors'] > 1 else ''} shared the machine."
        " Seconds elsewhere on this page are predict + fine-tune; embedding the text is not in"
        " them. The controls are trained in one fused batch, so their seconds are the"
        " prediction’s.</p>"
        f'<div class="tiles">{tiles}</div>'
        f"<h3>Stages: {duration(total)} in all</h3>"
        f'<div class="bars">{bars}</div>'
        "<p class='note'>Wall clock of the call that finished each stage; a stage that was stopped"
        " and continued counts from its continuation. This page is written on"
        f" {escape(machine['processor'])}, {machine['cores']} cores, {escape(machine['system'])},"
        f" Python {escape(machine['python'])}.</p>"
    )


def _honesty(summary: Numbers) -> str:
    adapters, lost = summary["adapters"], summary["losses"]["lost"]
    failing = adapters["not_better_than_identity"]
    out = ["<h2>What does not work, and what the numbers stand on</h2>"]
    out.append(
        f"<h3>{len(failing)} of {adapters['total']} training adapters do not beat identity</h3>"
    )
    if failing:
        out.append(
            "<p class='note'>Their L1 on validation images is no lower than that of the unchanged"
            " source. None is dropped from the collection.</p>"
        )
        rows = [
            [_text(f["text"]), _number(f["l1"]), _number(f["identity"]), _number(f["zero"])]
            for f in failing
        ]
        out.append(_folded(["concept", "adapter L1", "identity L1", "zero LoRA L1"], rows))
    elif adapters["total"]:
        out.append(
            f"<p class='note'>Mean validation L1 {adapters['mean_l1']:.3f}; identity"
            f" {adapters['mean_identity']:.3f}.</p>"
        )
    compared = summary["losses"]["compared"]
    out.append(f"<h3>The prediction loses {len(lost)} of {compared} single comparisons</h3>")
    out.append(
        "<p class='note'>One comparison: one concept, one control, before or after the fine-tune."
        " Largest losses first.</p>"
    )
    if lost:
        rows = [
            [
                _text(r["text"]),
                _text(r["method"]),
                f"<td>{r['step']}</td>",
                _number(r["prediction"]),
                _number(r["control"]),
                f"<td>{_signed(r['difference'], 4)}</td>",
            ]
            for r in lost
        ]
        out.append(
            _folded(
                ["concept", "control", "step", "prediction L1", "control L1", "difference"], rows
            )
        )
    out.append(_errors(summary))
    out.append(
        f"<h3>How many of what</h3><ul>{''.join(f'<li>{t}</li>' for t in _counts(summary))}</ul>"
    )
    return "\n".join(out)


def _errors(summary: Numbers) -> str:
    if not summary["errors"]:
        return "<h3>No stage recorded an error</h3>"
    total = sum(sum(r.values()) for r in summary["errors"].values())
    rows = [
        [_text(stage), f"<td>{n}</td>", _text(reason)]
        for stage, reasons in summary["errors"].items()
        for reason, n in reasons.items()
    ]
    return f"<h3>{total} rows with errors, left out</h3>" + _folded(
        ["stage", "rows", "reason"], rows
    )


def _counts(summary: Numbers) -> Iterable[str]:
    for held, numbers in summary["sets"].items():
        planned = summary["heldout"].get(held, numbers["concepts"])
        meaning = HELD_OUT.get(held, ("", ""))[1]
        seeds = numbers["seeds"]
        yield (
            f"{escape(held)}: {numbers['concepts']} of {planned} held-out concepts scored, on"
            f" {_span(numbers['images'])} unseen images each,"
            f" {seeds} seed{'s' if seeds > 1 else ''};"
            f" {escape(meaning)}."
        )
        absent = [m for m, v in numbers["methods"].items() if not v["curve"]]
        if absent:
            yield f"{escape(held)}: <b class='none'>no rows</b> for {escape(', '.join(absent))}."
    for held in summary["heldout"].keys() - summary["sets"].keys():
        planned = summary["heldout"][held]
        yield f"<b class='none'>{escape(held)}: none of {planned} concepts was scored.</b>"
    if summary["not_finite"]:
        yield f"Rows without a finite L1, left out of every mean: {summary['not_finite']}."
    yield (
        "Intervals resample concepts (10,000 times), not images or seeds; with one seed they say"
        " nothing about how much another training run would differ."
    )
    if any(
        (m[w] or {}).get("kid") is not None
        for s in summary["sets"].values()
        for m in s["methods"].values()
        for w in WHENS
    ):
        yield (
            "KID is taken on the same images as L1. It is unbiased but noisy at this number of"
            " images, and may fall below zero; no claim on this page rests on it."
        )


def _text(value: str) -> str:
    return f'<td class="text">{escape(value)}</td>'


def _number(value: float) -> str:
    return f"<td>{value:.4f}</td>"


def _folded(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; rows beyond the first dozen behind a fold."""
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)

    def table(part: Sequence[Sequence[str]]) -> str:
        body = "".join(f"<tr>{''.join(r)}</tr>" for r in part)
        return (
            f'<div class="scroll"><table class="nums"><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    more = rows[LISTED:]
    rest = f"<details><summary>{len(more)} more</summary>{table(more)}</details>" if more else ""
    return table(rows[:LISTED]) + rest


def _provenance(summary: Numbers, config_yaml: str) -> str:
    stages = summary["stages"]
    commits = sorted({s["commit"] or "" for s in stages.values()})
    named: dict[str, set[str]] = {}
    for stage in stages.values():
        for package, version in stage["versions"].items():
            named.setdefault(package, set()).add(version)
    versions = ", ".join(f"{p} {' / '.join(sorted(v))}" for p, v in sorted(named.items()))
    made_by = ", ".join(c or "unknown (no git repository)" for c in commits)
    mixed = len(commits) > 1 or any(len(v) > 1 for v in named.values())
    warning = " <b class='none'>The stages were not all made by the same code and packages.</b>"
    return (
        "<h2>Made with</h2>"
        f"<p>Commit {escape(made_by or 'unknown')} · seed {summary['seed']}."
        f"{warning if mixed else ''}</p>"
        f"<p>{escape(versions)}</p>"
        "<details><summary>Resolved configuration</summary>"
        f"<pre>{escape(config_yaml)}</pre></details>"
    )
