"""How many threads a model runs on: never more than the CPUs that this process may use.

Every step is cut into equal shares, with a barrier after it, so a thread that waits for a CPU delays all others.
"""

from __future__ import annotations

import logging
import math
import os
import pathlib

from qcompiler import knobs

_CGROUP = pathlib.Path("/sys/fs/cgroup")
_log = logging.getLogger("qcompiler")


def quota(folder: pathlib.Path = _CGROUP) -> int | None:
    """The CPUs that Linux lets the process's control group use, rounded up, from cgroup v2 `cpu.max` or v1
    `cpu.cfs_*`; None without a limit."""
    try:
        if (folder / "cpu.max").exists():
            allowed, period = (folder / "cpu.max").read_text().split()
        else:
            allowed, period = ((folder / f"cpu/cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if allowed in ("max", "-1") else max(1, math.ceil(int(allowed) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return None


def usable_cpus() -> int:
    """The number of CPUs that this process may use, by its affinity and its group's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(cpus, quota() or cpus)


def thread_count(threads: int | None) -> int:
    """`threads` if given, else QC_THREADS, else all CPUs; never more than `usable_cpus()`."""
    cpus = usable_cpus()
    wanted = threads or knobs.THREADS.get() or cpus
    if wanted > cpus:
        _log.info("%d threads asked for, %d used: this process may use %d CPUs", wanted, cpus, cpus)
    return min(wanted, cpus)
