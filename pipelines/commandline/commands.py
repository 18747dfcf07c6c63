"""The commands: what each does, and the words that it takes beside the configuration's keys."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.runtime.stage_table import BY_NAME, SIDE_STAGES, STAGES


@dataclass(frozen=True)
class Command:
    """words: its own, with what they mean. flags: those of them that take no value.

    required: words that it cannot do without. keys: whether it takes the configuration's keys, too.
    free: what words without a key are; "" if it takes none.
    """

    name: str
    summary: str
    words: dict[str, str] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    keys: bool = True
    example: str = ""
    free: str = ""


JSON = {"--json": "JSON on standard output, for other programs"}
OTHERS = (
    Command("run", "all stages, in order", example="denoised-weights run preset=demo"),
    Command(
        "serve",
        "answer text → adapter and text + image → image over HTTP (Ray Serve)",
        example="denoised-weights serve run_dir=runs/demo serve.port=8000",
    ),
    Command(
        "predict",
        "text → adapter, a PEFT folder each",
        {
            "run_dir": "the finished run",
            "out": "the folder, or URI, that gets a folder for each text",
            "texts": "a file of more texts, one a line",
            "seed": "of the noise that is denoised; 0 if it is not given",
        },
        JSON,
        required=("run_dir", "out"),
        keys=False,
        example='denoised-weights predict "indigo hair" run_dir=runs/demo out=adapters',
        free="TEXT",
    ),
    Command(
        "finetune",
        "text + example pairs → fine-tuned adapter, with a page each",
        {
            "run_dir": "the finished run",
            "out": "the folder, or URI, that gets a folder for each text",
            "texts": "a file of more texts, one a line",
            "editor": "makes the pairs; the run's own if nothing else is given",
            "count": "pairs that the editor makes to train on; as many as the run has if not given",
            "sources": "instead: a folder of pictures, and with edits= …",
            "edits": "… a folder of their edits, of the same names",
            "pairs": "instead: a Parquet file of pairs, as stage pairs writes them",
            "steps": "of training, learned ones included; the run's own if not given",
            "seed": "of prediction and training; 0 if it is not given",
            "keep": "true: also into the run, under a name that its service knows",
        },
        JSON,
        required=("run_dir", "out"),
        example='denoised-weights finetune "indigo hair" run_dir=runs/demo out=tuned',
        free="TEXT",
    ),
    Command(
        "translate",
        "edit any number of pictures, which keep their names, sizes and formats (Ray Data)",
        {
            "run_dir": "the finished run",
            "images": "a picture, a folder with all below it, or a URI (s3://…)",
            "out": "the folder, or URI, that gets them",
            "concept": "the text of the edit",
            "adapter": "instead: a PEFT folder, or a name that the service gave out",
            "concepts": 'instead: several with strengths: [["indigo hair", 1.0], ["sepia", 0.5]]',
            "strength": "of the change, from 0 to 1.5; 1 if it is not given",
        },
        JSON,
        required=("run_dir", "images", "out"),
        example='denoised-weights translate run_dir=RUN images=DIR out=DIR concept="indigo hair"',
    ),
    Command(
        "adapters",
        "what adapters a run has: collected, of held-out concepts, fine-tuned by its service",
        {"run_dir": "the run", "of": "collected, held-out or service alone"},
        JSON,
        required=("run_dir",),
        keys=False,
        example="denoised-weights adapters run_dir=runs/demo",
    ),
    Command(
        "sheet",
        "one PNG: what each text makes of each picture",
        {
            "run_dir": "the finished run",
            "images": "a picture, or a folder of them",
            "out": "the PNG",
            "texts": "a file of more texts, one a line",
            "most": "pictures taken of a folder; 6 if it is not given",
        },
        JSON,
        required=("run_dir", "images", "out"),
        keys=False,
        example='denoised-weights sheet "indigo hair" sepia run_dir=RUN images=DIR out=sheet.png',
        free="TEXT",
    ),
    Command(
        "status",
        "how far a run is, from its directory alone, wherever it is being made",
        {
            "run_dir": "the run; a folder or a URI",
            "price": "money for an hour of one GPU or actor: spent so far, and planned",
        },
        {
            **JSON,
            "--watch": "again every five seconds, until it has ended",
            "--plan": "beside what `plan` says of it",
        },
        required=("run_dir",),
        keys=False,
        example="denoised-weights status run_dir=s3://bucket/runs/one --watch",
    ),
    Command(
        "errors",
        "why rows of a run are bad: each reason with how often, and for what",
        {"run_dir": "the run; a folder or a URI", "stage": "of this stage alone"},
        JSON,
        required=("run_dir",),
        keys=False,
        example="denoised-weights errors run_dir=runs/demo",
    ),
    Command(
        "submit",
        "run a command as a Ray job, and follow it",
        {
            "address": "the cluster's dashboard, http://HEAD:8265; else $RAY_ADDRESS",
            "command": "what the job runs; run if it is not given",
            "job": "follow this job again, with no other words",
        },
        example="denoised-weights submit address=http://127.0.0.1:8265 preset=paper run_dir=s3://…",
    ),
    Command(
        "plan",
        "what a run takes, before it is started: work, hours, bytes, cost",
        {
            "command": "what is planned: run (if it is not given), compare or tune",
            "study": "with command=tune: one of tuning/studies, or a YAML file",
            "price": "money for an hour of one GPU, or of one actor where there is none",
            "json": "a file to write the plan to, beside the table",
        },
        {"--calibrate": "measure on this machine first", "--json": "JSON in place of the table"},
        example="denoised-weights plan preset=paper cluster.nodes=8 price=2.5",
    ),
    Command(
        "tune",
        "a study over a finished run (Ray Tune)",
        {
            "study": "one of tuning/studies, or a YAML file; its keys are words, too (seeds=1)",
            "run_dir": "the finished run",
        },
        required=("study", "run_dir"),
        example="denoised-weights tune study=block_size run_dir=runs/small",
    ),
    Command("config", "print the resolved configuration", example="denoised-weights config"),
    Command(
        "keys",
        "explain all keys, or those of one section",
        keys=False,
        example="denoised-weights keys generator",
    ),
    Command(
        "export-run",
        "a finished run in one small file, for others to use",
        {
            "run_dir": "the finished run",
            "file": "a new file, NAME.tar.xz",
            "adapters": "collected adapters in it; 8 if it is not given",
            "refiner": "true: with that of learned steps, which makes up half of the file",
        },
        required=("run_dir", "file"),
        keys=False,
        example="denoised-weights export-run run_dir=runs/demo file=demo.tar.xz",
    ),
    Command(
        "import-run",
        "read such a file into a fresh run directory, to be served and used",
        {"file": "the file", "run_dir": "a new run"},
        required=("file", "run_dir"),
        keys=False,
        example="denoised-weights import-run file=demo.tar.xz run_dir=runs/theirs",
    ),
    Command(
        "export-dataset",
        "publish the collected adapters",
        {
            "run_dir": "the run",
            "target": "where to; a folder or a URI",
            "licence": "the hub's identifier, such as cc-by-4.0",
        },
        required=("run_dir", "target", "licence"),
        keys=False,
        example="denoised-weights export-dataset run_dir=runs/demo target=DIR licence=cc0-1.0",
    ),
    Command(
        "import-dataset",
        "read such a dataset into a fresh run directory",
        {"source": "the dataset; a folder or a URI", "run_dir": "a new run"},
        required=("source", "run_dir"),
        keys=False,
        example="denoised-weights import-dataset source=DIR run_dir=runs/mine",
    ),
)
COMMANDS = {
    **{s.name: Command(s.name, s.summary) for s in STAGES},
    **{c.name: c for c in OTHERS[:1]},
    **{s.name: Command(s.name, s.summary) for s in SIDE_STAGES},
    **{c.name: c for c in OTHERS[1:]},
}
"""By name: stages in order, `run`, what stands beside the stages, the rest."""


def is_stage(name: str) -> bool:
    return name in BY_NAME
