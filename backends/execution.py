"""Who runs a target's step tables: this machine's threads, or an emulator."""

from __future__ import annotations

from qcompiler.backends.runtime import Runner, run_steps
from qcompiler.backends.target import Target


def runner(target: Target) -> Runner:
    """For a target that can run here."""
    if target.execution() != "emulated":
        return run_steps
    from qcompiler.backends.arm.emulate import run_steps as emulated

    return emulated
