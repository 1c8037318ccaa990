"""The loader that runs AArch64 code in this process on a machine of another kind, by the `unicorn` package.

The emulated CPU sees this process's memory at the same addresses: pages are mapped when they are first touched, as
the operating system lists them, so that kernels, arguments, arenas and arrays need no copies. Threads run one after
another, step by step. Linux only.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qcompiler.backends.codegen.jit import load_objects
from qcompiler.backends.runtime.loader import Bases, KernelObject, LoadedKernel, StepTable
from qcompiler.backends.target import Target
from qcompiler.errors import LoweringError
from qcompiler.fork_safety import fork_safe_lock

_STACK, _STACK_BYTES = 0x10000, 1 << 20
_RETURN = _STACK + _STACK_BYTES  # kernels return here, and the run ends
_PAGE = 4096
_FPU_ENABLED = 3 << 20


class Emulator:
    """One emulated CPU with all of the ISA that the package knows. Not safe to call from several threads at once."""

    def __init__(self) -> None:
        import unicorn
        from unicorn import arm64_const as registers

        self._registers = registers
        self._error = unicorn.UcError
        self._cpu = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self._cpu.ctl_set_cpu_model(registers.UC_CPU_ARM64_MAX)
        self._cpu.reg_write(registers.UC_ARM64_REG_CPACR_EL1, _FPU_ENABLED)
        self._cpu.mem_map(_STACK, _STACK_BYTES + _PAGE)
        self._all = unicorn.UC_PROT_ALL
        self._counts: list[int] | None = None
        self._starts: list[int] = []  # where mapped ranges begin, ascending
        self._ends: list[int] = []
        self._cpu.hook_add(unicorn.UC_HOOK_MEM_UNMAPPED, self._touched)

    @contextlib.contextmanager
    def counted(self) -> Iterator[list[int]]:
        """A context in which the number of instructions of each call is appended to the list."""
        import unicorn

        counts: list[int] = []

        def block(cpu: Any, address: int, nbytes: int, data: Any) -> None:
            counts[-1] += nbytes // 4

        hook = self._cpu.hook_add(unicorn.UC_HOOK_BLOCK, block)
        self._cpu.ctl_flush_tb()  # code that was translated before has no hook
        self._counts = counts
        try:
            yield counts
        finally:
            self._counts = None
            self._cpu.hook_del(hook)

    def forget_code(self) -> None:
        """Forget translated code. Call this when code may have moved to addresses where other code was."""
        self._cpu.ctl_flush_tb()

    def call(self, address: int, *arguments: int) -> None:
        """Call a function. LoweringError if it touches memory that this process does not have, or an instruction is
        unknown."""
        cpu, registers = self._cpu, self._registers
        for number, value in enumerate(arguments):
            cpu.reg_write(registers.UC_ARM64_REG_X0 + number, value)
        cpu.reg_write(registers.UC_ARM64_REG_SP, _STACK + _STACK_BYTES - 64)
        cpu.reg_write(registers.UC_ARM64_REG_FPCR, 0)
        cpu.reg_write(registers.UC_ARM64_REG_X30, _RETURN)
        if self._counts is not None:
            self._counts.append(0)
        try:
            cpu.emu_start(address, _RETURN)
        except self._error as error:
            place = cpu.reg_read(registers.UC_ARM64_REG_PC) - address
            raise LoweringError(
                "the emulated kernel stopped", where=f"{place} bytes behind its entry", got=str(error)
            ) from None

    def _touched(self, cpu: Any, access: int, address: int, size: int, value: int, data: Any) -> bool:
        """Map the memory that this process has around an address; False if it has none there."""
        region = _region_of(address)
        if region is None:
            return False
        index = bisect.bisect_right(self._starts, address)
        low = max(region[0], self._ends[index - 1] if index else 0)
        high = min(region[1], self._starts[index] if index < len(self._starts) else region[1])
        cpu.mem_map_ptr(low, high - low, self._all, ctypes.c_void_p(low))
        self._starts.insert(index, low)
        self._ends.insert(index, high)
        return True


def _region_of(address: int) -> tuple[int, int] | None:
    """[start, end) of this process's readable memory that holds an address."""
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        bounds, rights, _ = line.split(" ", 2)
        low, high = (int(text, 16) for text in bounds.split("-"))
        if low <= address < high:
            return (low, high) if rights.startswith("r") else None
    return None


_lock = fork_safe_lock()
_emulator: Emulator | None = None
_left: list[Emulator] = []
"""Emulators of the processes that forked this one. They may be in the middle of a call, so they are never closed."""


def emulator() -> Emulator:
    """The process's emulated CPU, made when first asked for."""
    global _emulator
    if _emulator is None:
        _emulator = Emulator()
    return _emulator


def _after_fork() -> None:
    global _emulator
    if _emulator is not None:
        _left.append(_emulator)
        _emulator = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def forget_code() -> None:
    with _lock:
        if _emulator is not None:
            _emulator.forget_code()


def call(address: int, *arguments: int) -> None:
    """Call one emulated function with integer arguments."""
    with _lock:
        emulator().call(address, *arguments)


@dataclass(frozen=True)
class UnicornLoader:
    """Loads code into this process's memory, linked by LLVM, where the emulated CPU runs it."""

    target: Target

    def load(self, objects: Sequence[KernelObject]) -> list[LoadedKernel]:
        loaded = load_objects(objects, self.target)
        forget_code()
        return loaded

    def run(self, table: StepTable, first: int, count: int, bases: Bases, threads: int, times: int) -> None:
        """Run each step for all threads, one after another, then the next step."""
        spent = ctypes.cast(times, ctypes.POINTER(ctypes.c_uint64)) if times else None
        with _lock:
            cpu = emulator()
            for number, (kernel, arguments, _) in enumerate(table.rows[first : first + count].tolist()):
                began = time.perf_counter_ns()
                for thread in range(threads):
                    cpu.call(kernel, arguments, bases.address, thread, threads)
                if spent is not None:
                    spent[number] = time.perf_counter_ns() - began
