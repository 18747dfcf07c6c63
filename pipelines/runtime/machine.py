"""The machine of this process: what figures were measured on, and what there is to work with."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""Where a container finds its limits, in the files of either version of Linux control groups."""


def machine() -> dict[str, str | int | float | None]:
    """Processor, cores, memory, GPU (None without one), system, Python."""
    import torch

    processor = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        names = [s.split(":", 1)[1] for s in lines if s.startswith("model name")]
        processor = names[0].strip() if names else processor
    memory = _physical_memory()
    return {
        "processor": processor or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": memory and round(memory / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def cores() -> int:
    """Cores that this process may use: the machine's, or its container's where those are fewer."""
    there = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        there = min(there, len(os.sched_getaffinity(0)))
    second = _numbers("cpu.max")
    first = _numbers("cpu/cpu.cfs_quota_us") + _numbers("cpu/cpu.cfs_period_us")
    for limit in (first, second):
        if len(limit) == 2 and limit[0] > 0:  # -1 is no limit
            there = min(there, max(1, limit[0] // limit[1]))
    return there


def memory_bytes() -> int | None:
    """Memory of the machine, or of its container where that is less; None if it cannot be found."""
    found = _numbers("memory.max") + _numbers("memory/memory.limit_in_bytes")
    return min((n for n in (*found, _physical_memory()) if n), default=None)


def gpus() -> int:
    import torch

    return torch.cuda.device_count()


def share_gpu(share: float) -> None:
    """This process takes no more of its GPU's memory than its share: a neighbour has the rest.

    So what does not fit ends in the process that asked for it, and with fewer concepts at once.
    """
    import torch

    if 0 < share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


def _physical_memory() -> int | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _numbers(name: str) -> list[int]:
    """Of a file of a control group; none where there is no such file or no limit ("max")."""
    try:
        words = (CGROUP / name).read_text().split()
    except OSError:
        return []
    return [int(word) for word in words] if words and words[0] != "max" else []
