"""The protocol of loaders, which load and run a target's code.

A loader runs code on this machine (`native.py`), or in an emulator of the architecture's package; `Target.loader()`
gives it. This module also owns what a loader works on: a table of steps, and the blocks of memory that their pointers
are relative to.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from qcompiler.backends.runtime.dispatcher import BARRIER_AFTER

STEP_WORDS = 3
"""The words of a step in a table: the kernel's address, the address of its arguments, and flags."""


class KernelObject(NamedTuple):
    """The object code of one kernel: the kernel's name, the symbol of its entry, and the relocatable object."""

    name: str
    symbol: str
    data: bytes


@dataclass(frozen=True, eq=False)
class LoadedKernel:
    """Machine code of a kernel, ready to be called.

    Attributes:
        name: the kernel's name.
        address: the address of the entry, valid while this object lives. If an emulator runs the code in another
            process, it is an address there.
        owner: an object that keeps the code alive.
    """

    name: str
    address: int
    owner: Any = None


class StepTable:
    """Kernel steps in the form that the dispatcher reads: a row of STEP_WORDS for each step, and all argument blocks.

    Args:
        kernels: the address of each step's kernel.
        starts: the word of `arguments` at which each step's block begins.
        barriers: whether all threads meet after each step.
        arguments: the argument blocks, as i64 words.
    """

    def __init__(
        self, kernels: Sequence[int], starts: Sequence[int], barriers: Sequence[bool], arguments: np.ndarray
    ) -> None:
        self.kernels, self.starts, self.arguments = tuple(kernels), tuple(starts), arguments
        self.rows = np.zeros((len(self.kernels), STEP_WORDS), np.int64)
        self.rows[:, 0] = self.kernels
        self.rows[:, 1] = np.array(self.starts, np.int64) * 8 + arguments.ctypes.data
        self.rows[:, 2] = np.where(np.array(barriers, bool), BARRIER_AFTER, 0)
        for array in (self.rows, self.arguments):
            array.flags.writeable = False
        self.address = self.rows.ctypes.data

    def __len__(self) -> int:
        return len(self.kernels)


class MemoryBlock(NamedTuple):
    """The memory behind one base pointer: its size, and whether steps may write to it."""

    nbytes: int
    writable: bool


class Bases:
    """The array of base pointers of a call. Set an address by `words[index]`, and keep its memory alive.

    Attributes:
        words: the pointers. address: the address of `words`.
        blocks: the memory that each of them points to.
        guards: addresses of pages within the blocks that fault when touched.
    """

    def __init__(self, blocks: Sequence[MemoryBlock], guards: Sequence[int] = ()) -> None:
        self.words = (ctypes.c_int64 * len(blocks))()
        self.address = ctypes.addressof(self.words)
        self.blocks, self.guards = tuple(blocks), tuple(guards)

    @staticmethod
    def of(arrays: Sequence[np.ndarray], guards: Sequence[int] = ()) -> Bases:
        """Bases of arrays that steps may write to."""
        bases = Bases([MemoryBlock(array.nbytes, True) for array in arrays], guards)
        bases.words[:] = [array.ctypes.data for array in arrays]
        return bases


class Loader(Protocol):
    """Loads object code of a target and runs tables of its steps. Safe to call from several threads."""

    def load(self, objects: Sequence[KernelObject]) -> list[LoadedKernel]:
        """Load objects, so that `run` can call their kernels. They must be whole: LLVM ends the process on damaged
        ones."""

    def run(self, table: StepTable, first: int, count: int, bases: Bases, threads: int, times: int) -> None:
        """Run `count` steps of a table from step `first` on.

        Args:
            threads: over how many threads each step is split, 1 to 256; results do not depend on it.
            times: 0, or the address of `count` u64 words that get the nanoseconds of each step.
        """
