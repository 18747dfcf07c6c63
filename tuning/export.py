"""What a study shows, small enough to commit: `python -m tuning.export RUN_DIR NAME STUDY…`.

Copies RUN_DIR/tuning/STUDY to tuning/results/NAME/STUDY.json and docs/NAME-STUDY.png, and prints
the table.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.report.studies import FOLDER
from pipelines.runtime.run_dir import ArtifactError, RunDir

ROOT = Path(__file__).parents[1]


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def export(run_dir: RunDir, name: str, study: str, root: Path = ROOT) -> str:
    """Copy one study; returns its table. ArtifactError if it has not been run."""
    home = f"{FOLDER}/{study}"
    summary = run_dir.read_json(f"{home}/summary.json")
    summary.pop("config")  # the run's: it is long, and names folders of this machine
    out = RunDir(str(root))
    out.write_json(f"tuning/results/{name}/{study}.json", summary)
    out.write(f"docs/{name}-{study}.png", run_dir.read(f"{home}/figure.png"))
    return markdown(summary["table"]["heads"], summary["table"]["rows"])


def main(words: Sequence[str]) -> int:
    if len(words) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        for study in words[2:]:
            print(export(RunDir(words[0]), words[1], study))
    except ArtifactError as error:
        print(f"tuning.export: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
