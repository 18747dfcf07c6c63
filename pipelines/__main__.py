"""The command line: `denoised-weights STAGE [key=value …]` or `python -m pipelines …`.

Exit codes: 0 done; 1 a stage failed; 2 the command or the configuration is wrong.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from pipelines.config import tree as config_tree
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config, preset_names
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import set_environment

DATASET = ("export-dataset", "import-dataset")


def help_text() -> str:
    from pipelines.runtime.stage_graph import SIDE_STAGES, STAGES

    lines = [
        "usage: denoised-weights COMMAND [key=value …]",
        "",
        "Learns to generate LoRA weights for an image-to-image GAN from a text concept.",
        "",
        "stages, in order (each reads and writes run_dir, and is skipped when its work is done):",
        *[f"  {s.name:<10} {s.summary}" for s in STAGES],
        "",
        "other commands:",
        "  run        all stages, in order",
        *[f"  {s.name:<10} {s.summary}" for s in SIDE_STAGES],
        "  serve      answer text → adapter and text + image → image over HTTP (Ray Serve)",
        "  submit     run as a Ray job: address=http://HEAD:8265 [command=STAGE] key=value …;",
        "             address=… job=ID follows one again",
        "  plan       what a run takes, before it is started: work, hours, bytes, cost; [price=P]",
        "             [--calibrate] measures on this machine, [--json | json=FILE]",
        "  tune       a study over a finished run (Ray Tune): study=block_size run_dir=…",
        "  config     print the resolved configuration",
        "  export-dataset  publish the collected adapters: run_dir=… target=… licence=…",
        "  import-dataset  read such a dataset into a fresh run directory: source=… run_dir=…",
        "",
        f"presets:   {', '.join(preset_names())} (preset=demo is the default)",
        "keys:      preset run_dir seed editor text_encoder images.source images.path",
        "           weights.block_size weights.grouping … (`denoised-weights config` lists all)",
        "",
        "examples:",
        "  denoised-weights run preset=demo",
        "  denoised-weights run preset=demo images.source=folder images.path=photos",
        "  denoised-weights serve run_dir=runs/demo",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help") or "--help" in words:
        print(help_text())
        return 0 if words else 2
    set_environment(local=False)
    try:
        return _command(words[0], words[1:])
    except ConfigError as error:
        print(f"denoised-weights: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("denoised-weights: stopped; the same command continues", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = _for_people(error)
        if not sentence:
            raise
        print(f"denoised-weights: {sentence}", file=sys.stderr)
        return 1


def _for_people(error: Exception) -> str:
    """The text of an error that the user can act on; "" for a bug, whose traceback is wanted."""
    module = type(error).__module__.partition(".")[0]
    if module == "ray":  # an actor's error: its type and text are lines of a traceback
        line = r"^(?:modeling|pipelines|tuning)\.[\w.]+Error: (.+)$"
        found = re.findall(line, str(error), re.MULTILINE)
        return found[-1] if found else ""
    ours = ("modeling", "pipelines", "tuning")
    return str(error) if module in ours or isinstance(error, OSError) else ""


def _command(command: str, words: list[str]) -> int:
    from pipelines.runtime.stage_graph import BY_NAME, STAGES, finished, redo, run_stage

    if command not in (*BY_NAME, "run", "serve", "submit", "plan", "tune", "config", *DATASET):
        raise ConfigError(f"unknown command {command!r}; see denoised-weights --help")
    if command in DATASET:
        from pipelines.dataset import command as dataset

        dataset(command, words)
        return 0
    if command == "submit":
        from pipelines.submit import submit

        return submit(words)
    if command == "plan":
        from pipelines.plan.command import plan

        return plan(words)
    if command == "tune":
        from tuning.command import tune

        return tune(words)
    config = load_config(words)
    if command == "config":
        print(config_tree.to_yaml(config), end="")
        return 0
    run = RunDir(config.run_dir)
    if command == "serve":
        from pipelines.serve.command import serve_forever

        serve_forever(config, run)
        return 0
    from pipelines.runtime.foreign_output import foreign_output_to_file
    from pipelines.runtime.log import log
    from pipelines.runtime.session import ray_session

    if config.redo:
        redo(config, run, config.redo)
    with foreign_output_to_file(), ray_session(config, run):
        for name in [s.name for s in STAGES] if command == "run" else [command]:
            run_stage(config, run, name)
        if command == "compare" and finished(run, "report"):  # which then has one section more
            redo(config, run, ["report"])
            run_stage(config, run, "report")
    if command == "ranks":
        from pipelines.stages.ranks import to_yaml

        print(to_yaml(run), end="")
    if command == "compare":
        log(f"comparison: {run.url('comparison/index.html')}")
    if command in ("run", "report"):
        log(f"report: {run.url('report/index.html')}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
