"""`denoised-weights plan command=tune study=NAME`: what a study takes, one row a variant.

A trial `run` makes the stages again that its variant changes, and all after them; a trial `overfit`
trains a weight generator on one adapter, once a concept and seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.plan.command import grounds, summed, tell
from pipelines.plan.counts import concept_counts
from pipelines.plan.estimate import row_of, with_editors
from pipelines.plan.outcome import Row
from pipelines.plan.rates import Rates, assumed, of_network
from pipelines.plan.shapes import Shapes
from pipelines.plan.work import Pool, StageWork, Work, work_of
from pipelines.runtime.stage_graph import depends_on
from pipelines.runtime.stage_table import BY_NAME
from tuning.branches import VALIDATION
from tuning.overfit import OVERFIT
from tuning.study import Study, expanded, load_study, own_words
from tuning.words import generator_words, merged


def plan_study(own: Mapping[str, str], words: Sequence[str]) -> int:
    """words: `study=NAME`, the study's and the configuration's keys; raises as the plan of a run.

    The run is taken as one of this configuration, all of whose stages have finished.
    """
    named = [w.partition("=")[2] for w in words if w.partition("=")[0] == "study"]
    if len(named) != 1:
        raise ConfigError("plan command=tune needs study=NAME (of tuning/studies, or a YAML file)")
    of_study, of_config = own_words([w for w in words if w.partition("=")[0] != "study"])
    study = load_study(named[0], of_study)
    config = load_config(of_config)
    on = grounds(config, own)
    rows = [
        _run_row(study, name, config, of_config, variant, on.rates)
        if study.trial == "run"
        else _overfit_row(study, name, config, of_config, variant)
        for name, variant in expanded(study).items()
    ]
    return tell(on, summed(config, rows, "variant"), own, ["command=tune", *words])


def _run_row(
    study: Study,
    name: str,
    run: Config,
    given: Sequence[str],
    variant: Sequence[str],
    rates: Rates,
) -> Row:
    """Measured rates hold where a variant leaves the run's networks as they are."""
    repeats = (f"repeats={study.seeds}",)
    config = load_config(merged(study.keys, given, variant, repeats, VALIDATION))
    shapes = Shapes(config)
    mine = with_editors(config, _measured_where_alike(rates, assumed(config, shapes)))
    stages = work_of(config, shapes, mine.weights, concept_counts(config))
    changed = [s.stage for s in stages if _differs(s.stage, config, run)]
    names = [s.stage for s in stages[:-1]]  # without the report
    again = stages[names.index(changed[0]) : -1] if changed else []
    rows = [row_of(config, stage, mine) for stage in again]
    made = ", ".join(stage.stage for stage in again)
    return _together(name, f"again: {made}" if made else "shares all stages", rows, run)


def _differs(stage: str, config: Config, run: Config) -> bool:
    return depends_on(BY_NAME[stage], config) != depends_on(BY_NAME[stage], run)


def _measured_where_alike(measured: Rates, own: Rates) -> Rates:
    table = {
        name: measured.table[name]
        if name in measured.table and measured.table[name].flops == rate.flops
        else rate
        for name, rate in own.table.items()
    }
    return Rates(table, own.weights)


def _overfit_row(
    study: Study, name: str, run: Config, given: Sequence[str], variant: Sequence[str]
) -> Row:
    network = generator_words(run, study.overfit.network)
    config = load_config(merged(given, network, study.keys, given, variant, OVERFIT))
    shapes = Shapes(config)
    g, e = config.generator, config.evaluate
    pool = Pool(1, study.gpus, max(1, int(study.cpus)))
    rates = _on(config, assumed(config, shapes), pool)
    trials = len(study.overfit.concepts) * study.seeds
    scored = e.images * study.overfit.points + e.fd_images
    work = StageWork(
        name,
        f"{trials} trials × {g.steps:,} steps × {g.batch}",
        (
            Work("concepts denoised", trials * g.steps * g.batch, "generator step"),
            Work("images drawn", trials * scored, "draw"),
            Work("images embedded", trials * (e.images + e.fd_images), "features"),
        ),
        0.0,
        replace(pool, devices=min(study.concurrent, trials)),
        starts=-(-trials // study.concurrent),
        notes=("without each concept's own adapter, which is made once",),
    )
    return row_of(config, work, rates)


def _on(config: Config, rates: Rates, pool: Pool) -> Rates:
    """The rates of what an overfit trial does, on what it has."""
    p, table = config.plan, dict(rates.table)
    for name, device in (
        ("generator step", pool),
        ("draw", pool),
        ("features", replace(pool, gpus=0.0)),  # the extractor stays on the cores
    ):
        table[name] = of_network(config, table[name].flops, device, p.training_utilisation)
    return Rates(table, rates.weights)


def _together(name: str, what: str, rows: Sequence[Row], run: Config) -> Row:
    """One row of several, one after another."""
    made = summed(run, list(rows)) if rows else None
    basis: dict[str, list[str]] = {}
    for row in rows:
        for source, names in row.basis.items():
            basis[source] = list(dict.fromkeys([*basis.get(source, []), *names]))
    return Row(
        name,
        what,
        {f"{row.stage}: {k}": v for row in rows for k, v in row.counts.items()},
        made.flops if made else 0.0,
        made.stored_bytes if made else 0.0,
        max((row.devices for row in rows), default=0),
        made.busy_hours if made else 0.0,
        made.wall_hours if made else 0.0,
        made.held_hours if made else 0.0,
        made.money if made else None,
        basis,
        list(dict.fromkeys(note for row in rows for note in row.notes)),
    )
