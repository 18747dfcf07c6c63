"""A run as it can be served: its model, and what requests to it may hold."""

from __future__ import annotations

from pipelines.config.schema import Config
from pipelines.runtime.run_dir import RunDir
from pipelines.serve.runs.limits import limits
from pipelines.serve.runs.served import Model, Served, Table, named_runs
from pipelines.use.saved_run import digests, saved_config


def describe(name: str, uri: str, given: Config) -> Served:
    """A run as it is now. StageError, ArtifactError or ConfigError if it cannot be served."""
    run = RunDir(uri)
    config = saved_config(run, given)
    return Served(name, Model(run.uri, digests(run)["model"]), limits(config))


def configured(given: Config) -> Table:
    """The runs of the command or the Serve config; raises as `describe`."""
    return Table(tuple(describe(name, uri, given) for name, uri in named_runs(given).items()))
