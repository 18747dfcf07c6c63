"""`predict TEXT … run_dir=RUN out=DIR`: an adapter for each text, as a PEFT folder."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence

from modeling.targets.lora import CONFIG_FILE
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import RunDir
from pipelines.use.run import Run
from pipelines.verbs.texts import folder_names, texts_of, whole_number


def run(given: Mapping[str, str], free: Sequence[str], flags: Collection[str]) -> int:
    """The same command again writes the same bytes."""
    texts = texts_of("predict", given, free)
    seed = whole_number("predict", given, "seed", 0, 0)
    used, out = Run(given["run_dir"]), RunDir(given["out"], "out")
    told = []
    for text, name in zip(texts, folder_names(texts), strict=True):
        begun = time.perf_counter()
        adapter = used.predict(text, seed=seed)
        seconds = time.perf_counter() - begun
        out.write_files(name, adapter.files(), last=CONFIG_FILE)
        (near,) = used.nearest(text, 1)
        log(f"predict: {text} → {out.url(name)}; nearest of training: {near.text}")
        told.append(
            {
                "text": text,
                "folder": out.url(name),
                "name": adapter.name,
                "seconds": round(seconds, 4),
                "nearest": {"text": near.text, "similarity": round(near.similarity, 4)},
            }
        )
    if "--json" in flags:
        print(json.dumps(told, indent=2, ensure_ascii=False))
    return 0
