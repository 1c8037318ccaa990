"""Who runs a target's step tables: this machine's threads, or an emulator."""

from __future__ import annotations

from qcompiler.backends.runtime.threads import Runner, run_steps
from qcompiler.backends.target import Target


def runner(target: Target) -> Runner:
    """For a target that can run here."""
    if not target.emulator:
        return run_steps
    from qcompiler.backends.arm import emulate, qemu

    return qemu.run_steps if target.emulator == qemu.PROGRAM else emulate.run_steps
