"""What figures were measured on: the machine of this process."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine() -> dict[str, str | int | float | None]:
    """Processor, cores, memory, GPU (None without one), system, Python."""
    import torch

    processor, memory = platform.processor(), None
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        names = [s.split(":", 1)[1] for s in lines if s.startswith("model name")]
        processor = names[0].strip() if names else processor
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return {
        "processor": processor or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
