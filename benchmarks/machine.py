"""What a measurement was made on: a record that every benchmark puts beside its numbers."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from limner.lineage import code_version
from limner.precision import choose_precision

CPUINFO = Path("/proc/cpuinfo")
STATUS = Path("/proc/self/status")
"""Where Linux tells of a process's memory."""


def describe_machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The processor or GPU, the versions and the commit, ready for JSON. `git_dirty` is "true" where code was changed.

    `cores` are those that this process may use; `native_bf16` says whether `device` has instructions for bfloat16.
    """
    device = torch.device(device)
    code = code_version()
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "native_bf16": choose_precision("auto", device) is torch.bfloat16,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "git_commit": code["git_commit"],
        "git_dirty": code["git_dirty"],
    }


def resident_mib(name: str) -> float:
    """Memory of this process in MiB: `VmRSS` now, `VmHWM` at most since it began. Linux only."""
    rows = [line.split() for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines()]
    return next(int(row[1]) for row in rows if row and row[0] == f"{name}:") / 1024


def processor(cpuinfo: Path = CPUINFO) -> str:
    """The processor's model as Linux names it, elsewhere as Python does; "unknown" where neither knows."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "unknown"
