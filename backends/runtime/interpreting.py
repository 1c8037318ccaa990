"""Runs the kernels of a program by the interpreter of kernel IR, with the bounds of every buffer checked.

It needs no CPU that has the level, and is slow. LLVM's text of the kernels is made and verified too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from qcompiler.backends.kernel_ir.interpreter import interpret
from qcompiler.backends.kernel_ir.ir import KernelFunction
from qcompiler.backends.kernel_ir.kernel_key import KernelKey
from qcompiler.backends.lower import Program
from qcompiler.backends.program.image import ProgramImage
from qcompiler.backends.runtime.loader import Bases, KernelObject, LoadedKernel, Loader, StepTable
from qcompiler.backends.target import Target
from qcompiler.fork_safety import fork_safe_lock

_functions: list[KernelFunction] = []
_lock = fork_safe_lock()


class InterpretedProgram(Program):
    """A program whose kernels are interpreted."""

    def _load(self, image: ProgramImage) -> tuple[Mapping[KernelKey[Any], LoadedKernel], Loader]:
        return {key: _built(key, self.target) for key in image.kernels}, InterpretingLoader()


class InterpretingLoader:
    """Runs step tables in which the address of a kernel is its number among the registered ones, from 1.

    seen: called with the number and the kernel of each step.
    """

    seen: Callable[[int, KernelFunction], None] = staticmethod(lambda number, function: None)

    def load(self, objects: Sequence[KernelObject]) -> list[LoadedKernel]:
        raise NotImplementedError("machine code is not interpreted")

    def run(self, table: StepTable, first: int, count: int, bases: Bases, threads: int, times: int) -> None:
        blocks = [_memory(start, block.nbytes) for start, block in zip(bases.words, bases.blocks)]
        for step in range(first, first + count):
            number = table.kernels[step]
            function = _functions[number - 1]
            self.seen(number, function)
            buffers, values = _arguments(function, table.arguments[table.starts[step] :], blocks)
            for thread in range(threads):
                interpret(function, buffers, thread=thread, threads=threads, **values)


@cache
def _built(key: KernelKey[Any], target: Target) -> LoadedKernel:
    return register(key.build(target))


def register(function: KernelFunction) -> LoadedKernel:
    """Give a kernel a new number. LLVM must accept its text."""
    import llvmlite.binding as llvm

    from qcompiler.backends.codegen.emit_llvm import emit_module

    with _lock:
        llvm.parse_assembly(emit_module([function], [function.name])).verify()
        _functions.append(function)
        return LoadedKernel(function.name, len(_functions))


def _arguments(
    function: KernelFunction, words: np.ndarray, blocks: list[np.ndarray]
) -> tuple[dict[str, tuple[np.ndarray, int]], dict[str, Any]]:
    """The pointers, then the extents and scalars, that the words of an argument block hold."""
    buffers, values, rest = {}, dict[str, Any](), iter(words)
    for parameter in function.parameters:
        word = next(rest)
        if parameter.kind == "pointer":
            buffers[parameter.name] = blocks[word], int(next(rest))
        elif parameter.kind == "extent":
            values[parameter.name] = int(word)
        else:
            values[parameter.name] = float(word.astype(np.uint32).view(np.float32))
    return buffers, values


def _memory(address: int, nbytes: int) -> np.ndarray:
    """The bytes of this process from an address on."""
    if not nbytes:
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
