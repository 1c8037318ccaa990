"""Who runs a target's step tables: this machine's threads, or an emulator."""

from __future__ import annotations

from qcompiler import knobs
from qcompiler.backends.runtime import Runner, run_steps
from qcompiler.backends.target import Target
from qcompiler.errors import LoweringError


def runner(target: Target) -> Runner:
    """For a target that can run here."""
    if not target.emulator:
        return run_steps
    from qcompiler.backends.arm import emulate, qemu

    return qemu.run_steps if target.emulator == qemu.PROGRAM else emulate.run_steps


def check_memory_debugging(target: Target) -> None:
    """LoweringError for pages that fault where memory is copied to another process."""
    if knobs.GUARD.get() and target.emulator == "qemu-aarch64":
        raise LoweringError("QC_GUARD needs a target that runs in this process", got=f"{target.name} by {target.emulator}", hint="unset QC_GUARD")
