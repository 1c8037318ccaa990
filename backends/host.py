"""The machine that this process runs on: its architecture, its operating system, and what QC_ISA pretends of it.

Which instructions its CPU has is in backends/<arch>/target.py (`cpu_features`).
"""

from __future__ import annotations

import platform
import sys

from qcompiler import knobs
from qcompiler.errors import LoweringError

_ARCHITECTURES = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "aarch64", "arm64": "aarch64"}
_SYSTEMS = {"linux": "linux", "darwin": "macos", "win32": "windows"}


def arch() -> str:
    """The architecture part of the host's target name; LoweringError on a machine without a backend."""
    machine = platform.machine().lower()
    if machine not in _ARCHITECTURES:
        raise LoweringError(f"no backend for {machine}", hint='target="reference" runs the interpreter')
    return _ARCHITECTURES[machine]


def is_arch(name: str) -> bool:
    """Whether the host is of this architecture; False on a machine without a backend."""
    return _ARCHITECTURES.get(platform.machine().lower()) == name


def system() -> str:
    """The os part of the host's target name."""
    return _SYSTEMS.get(sys.platform, sys.platform)


def pretended_level() -> str | None:
    """The level that QC_ISA names (`avx2` or `x86-64+avx2`), read at each call; None if it is not set."""
    return (knobs.ISA.get() or "").rpartition("+")[2] or None
