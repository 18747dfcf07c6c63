"""The real service under bad input: `python -m tests.bench.serve_fuzz run_dir=RUN [key=value …]`.

Requests drawn by schemathesis from the service's own OpenAPI description, over HTTP, and damaged
pictures (cut short, bytes changed, two files joined) of all formats that are taken, 10,000 in all.
Writes how each route answered, and the memory of the service's processes, to
results/serve_fuzz.json; fails if any answer was a 5xx other than 503.
"""

from __future__ import annotations

import io
import json
import random
import sys
from collections import Counter
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode

from cluster.local import free_port
from modeling.editors.avatars import portrait, render
from modeling.images import encode_png
from pipelines.config.load import load_config
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import ray_session
from pipelines.serve.command import start
from pipelines.serve.uploads import IMAGE_FORMATS
from pipelines.use.saved_run import saved_config
from tests.bench.demo_stages import RESULTS
from tests.bench.serve_load import memory

DRAWN, DAMAGED = 8_000, 2_000
Answers = Counter[str]


def drawn(url: str, answers: Answers) -> None:
    """Requests that the description allows, and some that it does not."""
    schemathesis.openapi.media_type("image/png", st.just(encode_png(render(portrait(0), 32))))
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    operations = [o for o in operations if o.body or o.query or o.path_parameters]
    modes = [(o, mode) for o in operations for mode in GenerationMode]
    for operation, mode in modes:
        label = f"{operation.label}, {mode.value}"
        ask_often(
            operation.as_strategy(generation_mode=mode), -(-DRAWN // len(modes)), label, answers
        )
        print(label, {k: v for k, v in answers.items() if k.startswith(label)}, flush=True)


def ask_often(cases: Any, count: int, label: str, answers: Answers) -> None:
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def ask(case: Any) -> None:
        answers[f"{label} {case.call(timeout=120).status_code}"] += 1

    ask()


def damaged(url: str, answers: Answers) -> None:
    draw = random.Random(0)
    whole = []
    for number, kind in enumerate(IMAGE_FORMATS * 2):
        buffer = io.BytesIO()
        Image.fromarray(render(portrait(number), 32 + 16 * number)).save(buffer, kind)
        whole.append(buffer.getvalue())
    with httpx.Client(base_url=url, timeout=120) as client:
        for _ in range(DAMAGED):
            data = bytearray(draw.choice(whole))
            how = draw.choice(("cut", "changed", "joined"))
            if how == "cut":
                del data[draw.randrange(len(data)) :]
            elif how == "changed":
                for _ in range(draw.randint(1, 20)):
                    data[draw.randrange(len(data))] = draw.randrange(256)
            else:
                data = data[: draw.randrange(len(data))] + draw.choice(whole)
            files = {"image": ("x", bytes(data))}
            reply = client.post("/v1/translate", data={"concept": "green hair"}, files=files)
            answers[f"picture {how} {reply.status_code}"] += 1


def main(words: list[str]) -> int:
    # fine-tunes that are over soon: it is not they that are tested
    short = ["serve.max_finetune_steps=5", "serve.max_pairs=4"]
    told = load_config([f"serve.port={free_port()}", *short, *words])
    run = RunDir(told.run_dir)
    config = saved_config(run, told)
    answers: Answers = Counter()
    with ray_session(config):
        url = start(config)
        points = []
        for work in (drawn, damaged):
            points.append({"requests": sum(answers.values()), "mib": memory()})
            work(url, answers)
        points.append({"requests": sum(answers.values()), "mib": memory()})
    failures = {k: v for k, v in answers.items() if k[-3] == "5" and k[-3:] != "503"}
    result = {
        "machine": machine(),
        "answers": dict(sorted(answers.items())),
        "failures": failures,
        "memory": points,
    }
    path = RESULTS / "serve_fuzz.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path}; failures: {failures}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
