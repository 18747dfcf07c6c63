"""The command line: `denoised-weights STAGE [key=value …]` or `python -m pipelines …`.

It finds the command and imports nothing heavy: what is only asked, or wrong, is answered at once.
Exit codes: 0 done; 1 a stage failed; 2 the command or the configuration is wrong; 128 + the signal
that ended it (130 Ctrl-C, 143 SIGTERM, 129 a closed terminal).
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import cache

from pipelines.commandline import help as help_texts
from pipelines.commandline.commands import Command
from pipelines.commandline.typed import command_of, key_words
from pipelines.config import tree as config_tree
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.runtime.environment import set_environment
from pipelines.runtime.stage_table import STAGES
from pipelines.runtime.stopping import stoppable

VERBS = ("predict", "finetune", "translate", "adapters", "sheet", "status", "errors")
"""Commands on a run (pipelines/verbs)."""
HELP = ("-h", "--help", "-?", "help")


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show: \\u2026
            stream.reconfigure(errors="backslashreplace")
    try:
        if not words or (len(words) == 1 and words[0] in HELP):
            print(help_texts.overview())
            return 0 if words else 2
        if words[0] == "help":  # as git and others have it: `help gans`
            words = [*words[1:], "--help"]
        if set(words) & set(HELP[:3]):
            print(_help([w for w in words if w not in HELP[:3]]))
            return 0
        command, rest = command_of(words)
        if command.name == "keys":
            print(help_texts.of_keys(rest))
            return 0
        set_environment(local=False)
        return _command(command.name, key_words(command, rest), program=argv is None)
    except ConfigError as error:
        print(f"denoised-weights: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `… | head` has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("denoised-weights: stopped; the same command continues", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = _for_people(error)
        if not sentence:
            raise
        print(f"denoised-weights: {sentence}", file=sys.stderr)
        return 1


def _help(words: list[str]) -> str:
    """Of a command, with the values that its other words give; wrong ones are left out of it."""
    command, rest = command_of(words)
    config = _config_for_help(command, rest)
    return help_texts.of_command(command, config.preset, config_tree.to_dict(config))


def _config_for_help(command: Command, rest: list[str]) -> Config:
    try:
        words = [w for w in key_words(command, rest) if w.partition("=")[0] not in command.words]
        return load_config([w for w in words if w not in command.flags])
    except ConfigError:
        return load_config([])


def _for_people(error: Exception) -> str:
    """The text of an error that the user can act on; "" for a bug, whose traceback is wanted."""
    module = type(error).__module__.partition(".")[0]
    if module == "ray":  # an actor's error: its type and text are lines of a traceback
        line = r"^(?:modeling|pipelines|tuning)\.[\w.]+Error: (.+)$"
        found = re.findall(line, str(error), re.MULTILINE)
        return found[-1] if found else ""
    ours = ("modeling", "pipelines", "tuning")
    return str(error) if module in ours or isinstance(error, OSError) else ""


def _command(command: str, words: list[str], program: bool) -> int:
    """program: this process is the command's own, which signals may end."""
    if command == "submit":
        from pipelines.submit import submit

        return submit(words)
    if command == "plan":
        from pipelines.plan.words import own_words

        own, rest = own_words(words)
        if own.get("command") == "tune":
            from tuning.planning import plan_study

            return plan_study(own, rest)
        config = load_config(rest)  # before what plans is imported
        if own.get("command") == "compare":
            from pipelines.comparison.planning import plan
        else:
            from pipelines.plan.command import plan

        return plan(config, own, rest)
    if command == "config":
        print(config_tree.to_yaml(load_config(words)), end="")
        return 0
    if command == "serve":
        config = load_config(words)
        from pipelines.serve.command import serve_forever

        with stoppable("stopped") if program else nullcontext():
            serve_forever(config)
        return 0
    with stoppable() if program else nullcontext():
        if command in ("export-dataset", "import-dataset"):
            from pipelines.dataset import command as dataset

            dataset(command, words)
            return 0
        if command in ("export-run", "import-run"):
            from pipelines.portable_run import command as portable

            portable(command, words)
            return 0
        if command in VERBS:
            from pipelines.verbs import verb

            return verb(command, words)
        if command == "tune":
            from tuning.study import check_words

            check_words(words)  # before what trains is imported
            from tuning.command import tune

            return tune(words)
        return _stages(command, words, load_config(words))


def _stages(command: str, words: list[str], config: Config) -> int:
    """Run one stage, or all of them."""
    from pipelines.runtime import tracking
    from pipelines.runtime.foreign_output import foreign_output_to_file
    from pipelines.runtime.log import log
    from pipelines.runtime.run_dir import RunDir
    from pipelines.runtime.run_lock import locked
    from pipelines.runtime.session import ray_session
    from pipelines.runtime.stage_graph import check_redo, finished, redo, run_stage
    from pipelines.stages.limits import check_edited, check_pictures

    run = RunDir(config.run_dir)
    names = [s.name for s in STAGES] if command == "run" else [command]
    check_redo(config.redo)
    tracking.check(config, run)
    check_pictures(config, run, names)
    # a report is written anew, whatever else goes on
    alone = nullcontext() if command == "report" else locked(run, [command, *words])
    with foreign_output_to_file(), alone:
        if config.redo:
            redo(config, run, config.redo)
        with ExitStack() as session:
            begin = cache(lambda: session.enter_context(ray_session(config, run)))
            for name in names:
                # Ray takes seconds to start: a finished stage does not need it, nor a report
                run_stage(config, run, name, before=begin if name != "report" else lambda: None)
                if name == "pairs":
                    check_edited(config, run, names)
            if command == "compare" and finished(run, "report"):  # has one section more then
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
