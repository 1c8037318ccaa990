"""Every ISA level, and how this process executes kernels of it: natively, emulated, or by the kernel IR's interpreter.

A level that this machine can't run is still lowered, built and emitted as LLVM text; `lower_for` and `load` then
execute its kernels by the interpreter (`qcompiler.backends.kernel_ir.interpreter`). That is slow: `is_executed` says
for which programs tests do it.
"""

from __future__ import annotations

import ctypes
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qcompiler.backends.codegen.jit import compile_kernels
from qcompiler.backends.kernel_ir.ir import KernelFunction
from qcompiler.backends.lower import Program, lower_graph
from qcompiler.backends.runtime.executable import Executable
from qcompiler.backends.runtime.interpreting import InterpretedProgram, InterpretingLoader, register
from qcompiler.backends.runtime.loader import Bases, LoadedKernel, StepTable
from qcompiler.backends.target import Target, known_targets, parse_target
from qcompiler.ir import Graph
from qcompiler.passes.pipelines import lower_pipeline
from qcompiler.passmanager import PassManager

LEVELS: tuple[str, ...] = tuple(known_targets())
"""The names of all targets, with the lowest level of each architecture first."""

SMALL_WORK = 4_000
"""Programs of at most this much `ProgramImage.work` are always interpreted. Most of them take a hundredth of a
second."""

MOST_WORK = 100_000
"""Programs of more work than this are never interpreted."""

SAMPLE = 8
"""One in this many programs between the two limits is interpreted."""

interpreted_kernels: Counter[str] = Counter()
"""How many kernels this process has interpreted for each level."""


def can_run(level: str) -> bool:
    """Whether machine code of the level runs here, natively or emulated."""
    return parse_target(level).can_run()


def execution(target: Target) -> Literal["native", "emulated", "interpreted"]:
    """How `lower_for` and `load` execute kernels of a target."""
    found = target.execution()
    return "interpreted" if found == "none" else found


# -- whole programs


def lower_for(graph: Graph, target: Target) -> Program:
    """Lower a graph as `lower_graph` does, to a program that runs on every machine: by the interpreter where this CPU
    lacks the level."""
    if target.can_run():
        return lower_graph(graph, target)
    return InterpretedProgram(PassManager(lower_pipeline()).run(graph), target)


def is_executed(graph: Graph, bound: Executable, target: Target) -> bool:
    """Whether tests execute this program: always as machine code; in the interpreter if it is small or belongs to the
    sample."""
    if target.can_run() or bound.image.work <= SMALL_WORK:
        return True
    return bound.image.work <= MOST_WORK and zlib.crc32(f"{target.name} {graph}".encode()) % SAMPLE == 0


def programs(graph: Graph, sizes: Mapping[str, int] | None = None) -> Iterator[tuple[str, Executable]]:
    """Lower a graph for every level; give the name and program of those that tests execute. No node may be left to
    Python."""
    for name in LEVELS:
        target = parse_target(name)
        lowered = lower_for(graph, target)
        assert not lowered.python_nodes, f"{name}: Python steps {lowered.python_nodes}"
        bound = lowered.bind(sizes)
        if is_executed(graph, bound, target):
            yield name, bound


# -- single kernels


@dataclass(frozen=True)
class CallableKernel:
    """A kernel that `call` can call."""

    function: KernelFunction
    loaded: LoadedKernel

    @property
    def name(self) -> str:
        return self.function.name

    @property
    def address(self) -> int:
        return self.loaded.address


def load(functions: Sequence[KernelFunction]) -> list[CallableKernel]:
    """Load kernels of one target, so that `call` can call them."""
    functions = list(functions)
    can_run = bool(functions) and functions[0].target.can_run()
    loaded = compile_kernels(functions) if can_run else [register(function) for function in functions]
    return [CallableKernel(*each) for each in zip(functions, loaded)]


def call(
    kernel: CallableKernel,
    buffers: Sequence[np.ndarray],
    *,
    threads: int = 1,
    places: Mapping[str, tuple[int, int]] | None = None,
    **values: object,
) -> None:
    """Run the parts of all threads one after the other. buffers: the arrays of the pointer parameters, in order; or
    places: pointer -> (which buffer, byte offset)."""
    names = [parameter.name for parameter in kernel.function.parameters if parameter.kind == "pointer"]
    args = kernel.function.pack_args(**(places or {name: (i, 0) for i, name in enumerate(names)}), **values)
    bases, target = Bases.of(buffers), kernel.function.target
    if execution(target) != "native":
        loader = target.loader() if target.can_run() else InterpretingLoader()
        loader.run(StepTable([kernel.address], [0], [False], args), 0, 1, bases, threads, 0)
        return
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(kernel.address)
    for thread in range(threads):
        entry(args.ctypes.data, bases.words, thread, threads)


# -- interpreted kernels

_interpreted: set[int] = set()


def _count(number: int, function: KernelFunction) -> None:
    """Count each interpreted kernel once."""
    if number not in _interpreted:
        _interpreted.add(number)
        interpreted_kernels[function.target.level] += 1


InterpretingLoader.seen = staticmethod(_count)
