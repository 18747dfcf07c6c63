"""Whether workers of this Ray abort at their end: `python -m tests.bench.ray_worker_abort [MS]`.

docs/known-ray-faults.md says why they do: a thread locks a mutex that the thread that started it
has yet to make. A busy machine brings that about now and then; here every thread of a worker that
has started another one waits for MS milliseconds (250; 0: not at all), and new memory is filled
with the letter a. Prints how many of about 8 workers ended by a signal. Needs a C compiler (`cc`)
and glibc.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DELAY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*run)(void *), void *of) {
  static int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  static int milliseconds = -1;
  if (!next) next = dlsym(RTLD_NEXT, "pthread_create");
  if (milliseconds < 0) {
    char words[4096] = "";
    FILE *file = fopen("/proc/self/cmdline", "r");
    size_t n = file ? fread(words, 1, sizeof words - 1, file) : 0;
    if (file) fclose(file);
    milliseconds = memmem(words, n, "default_worker.py", 17) ? atoi(getenv("DELAY_MS")) : 0;
  }
  int status = next(t, a, run, of);
  if (milliseconds) usleep(1000 * milliseconds);
  return status;
}
"""
WORKERS, ROUNDS = 4, 2
SETTINGS = {
    "MALLOC_PERTURB_": "158",  # 0xff ^ 'a'
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",  # memory of that cache would not be filled
    "RAY_idle_worker_killing_time_threshold_ms": "100",
    "RAY_kill_idle_workers_interval_ms": "100",
    "RAY_num_workers_soft_limit": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def main(words: list[str]) -> int:
    if "DELAY_MS" in os.environ:
        return _count()
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "delay.c"), Path(folder, "delay.so")
        source.write_text(DELAY)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        delay = {"LD_PRELOAD": str(library), "DELAY_MS": words[0] if words else "250"}
        return subprocess.run(
            [sys.executable, "-m", "tests.bench.ray_worker_abort"],
            env={**os.environ, **SETTINGS, **delay},
        ).returncode


def _count() -> int:
    import ray

    context = ray.init(
        address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False
    )
    logs = Path(context.address_info["session_dir"], "logs")

    @ray.remote(num_cpus=1)
    def work() -> int:
        time.sleep(0.5)
        return os.getpid()

    for _ in range(ROUNDS):
        for pid in set(ray.get([work.remote() for _ in range(WORKERS)])):
            while Path(f"/proc/{pid}").exists():
                time.sleep(0.1)
    texts = [path.read_text(errors="replace") for path in logs.glob("worker-*.err")]
    ray.shutdown()
    ended = [text for text in texts if re.search(r"\*\*\* SIG(ABRT|SEGV|BUS)", text)]
    for text in ended:
        print(next((line for line in text.splitlines() if "mutex.cc" in line), "no message"))
    print(f"{len(ended)} of {len(texts)} workers ended by a signal")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
