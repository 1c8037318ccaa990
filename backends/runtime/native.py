"""The loader of this machine's own code: LLVM's linker in this process, and the native threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcompiler.backends.codegen.jit import load_objects
from qcompiler.backends.runtime.loader import STEP_WORDS, Bases, KernelObject, LoadedKernel, StepTable
from qcompiler.backends.runtime.threads import run_steps
from qcompiler.backends.target import Target


@dataclass(frozen=True)
class NativeLoader:
    """Runs code of a target whose architecture, system and level this machine has."""

    target: Target

    def load(self, objects: Sequence[KernelObject]) -> list[LoadedKernel]:
        return load_objects(objects, self.target)

    def run(self, table: StepTable, first: int, count: int, bases: Bases, threads: int, times: int) -> None:
        run_steps(table.address + 8 * STEP_WORDS * first, count, bases.address, threads, times)
