"""Where a target's code runs, in words: on this CPU, on an emulator, or not here and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from qcompiler.backends import host
from qcompiler.backends.target import Execution, Target


@dataclass(frozen=True)
class Availability:
    """emulator: its name where execution is "emulated"; hint: why the target can't run here and what helps, where it is
    "none"."""

    execution: Execution
    emulator: str = ""
    hint: str = ""

    def __str__(self) -> str:
        return {"native": "native", "emulated": f"emulated by {self.emulator}", "none": f"not here: {self.hint}"}[
            self.execution
        ]


def availability(target: Target) -> Availability:
    """Where this process runs code for a target."""
    execution = target.execution()
    return Availability(execution, target.emulator, _hint(target) if execution == "none" else "")


def _hint(target: Target) -> str:
    found = target.why_not()
    if found:
        return found
    if not host.is_arch(target.arch):
        return "a machine of another architecture; export an object"
    return "QC_ISA pretends a CPU without it" if host.pretended_level() else "this CPU lacks it; export an object"
