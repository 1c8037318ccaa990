"""Every ISA level, and how this process executes kernels of it: natively, emulated, or by the kernel IR's interpreter.

A level that this machine can't run is still lowered, built and emitted as LLVM text; `lower_for` and `load` then
execute its kernels by the interpreter (`qcompiler.backends.kernel_ir.interpreter`). That is slow: `is_executed` says for
which programs tests do it.
"""

from __future__ import annotations

import ctypes
import threading
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import llvmlite.binding as llvm
import numpy as np

from qcompiler.backends.codegen.emit_llvm import emit_module
from qcompiler.backends.codegen.jit import CompiledKernel, compile_kernels
from qcompiler.backends.kernel_ir.definition import KernelKey
from qcompiler.backends.kernel_ir.interpreter import interpret
from qcompiler.backends.kernel_ir.ir import KernelFunction
from qcompiler.backends.lower import LoweredModel, add_steps, lower_graph
from qcompiler.backends.lowering.context import Call, Lowering
from qcompiler.backends.program.builder import BoundProgram
from qcompiler.backends.runtime.execution import runner
from qcompiler.backends.runtime.threads import HEAD_WORDS, STEP_BYTES, make_bases
from qcompiler.backends.target import Target, known_targets, parse_target
from qcompiler.ir import Graph
from qcompiler.passes.pipelines import lower_pipeline
from qcompiler.passmanager import PassManager

LEVELS: tuple[str, ...] = tuple(known_targets())
"""Names of all targets, lowest level of each architecture first."""

SMALL_WORK = 4_000
"""Programs of at most this much `BoundProgram.work` are always interpreted: most take a hundredth of a second."""

MOST_WORK = 100_000
"""Programs of more work than this are never interpreted."""

SAMPLE = 8
"""One in this many programs between the two is interpreted."""

interpreted_kernels: Counter[str] = Counter()
"""Kernels that this process has interpreted, by level."""


def can_run(level: str) -> bool:
    """Whether machine code of the level runs here, natively or emulated."""
    return parse_target(level).can_run()


def execution(target: Target) -> Literal["native", "emulated", "interpreted"]:
    """How `lower_for` and `load` execute kernels of a target."""
    found = target.execution()
    return "interpreted" if found == "none" else found


# -- whole programs


def lower_for(graph: Graph, target: Target) -> LoweredModel:
    """`lower_graph`, whose program runs on every machine: by the interpreter where this CPU lacks the level."""
    if target.can_run():
        return lower_graph(graph, target)
    return LoweredModel(PassManager(lower_pipeline()).run(graph), target, link_interpreted)


def link_interpreted(lowering: Lowering) -> BoundProgram:
    """A program of kernels that are interpreted. Their LLVM text is emitted too."""
    keys = dict.fromkeys(call.key for call in lowering.calls if isinstance(call, Call))
    add_steps(lowering, {key: _built(key, lowering.target) for key in keys})
    return replace(lowering.builder.finish(), runner=_interpret_steps)


def is_executed(graph: Graph, bound: BoundProgram, target: Target) -> bool:
    """Whether tests execute this program: always as machine code, interpreted if it is small or in the sample."""
    if target.can_run() or bound.work <= SMALL_WORK:
        return True
    return bound.work <= MOST_WORK and zlib.crc32(f"{target.name} {graph}".encode()) % SAMPLE == 0


def programs(graph: Graph, sizes: Mapping[str, int] | None = None) -> Iterator[tuple[str, BoundProgram]]:
    """Lower a graph for every level; give the name and program of those that tests execute. No node may be left to
    Python."""
    for name in LEVELS:
        target = parse_target(name)
        lowered = lower_for(graph, target)
        assert not lowered.python_nodes, f"{name}: Python steps {lowered.python_nodes}"
        bound = lowered.program.bind(sizes or {})
        if is_executed(graph, bound, target):
            yield name, bound


# -- single kernels


@dataclass(frozen=True)
class InterpretedKernel:
    """A kernel without machine code. address: its number, in the place of an address in step tables."""

    function: KernelFunction
    address: int

    @property
    def name(self) -> str:
        return self.function.name


_kernels: list[InterpretedKernel] = []
_interpreted: set[int] = set()
_lock = threading.Lock()


def load(functions: Sequence[KernelFunction]) -> list[CompiledKernel] | list[InterpretedKernel]:
    """Kernels of one target that `call` can call."""
    functions = list(functions)
    if functions and functions[0].target.can_run():
        return compile_kernels(functions)
    return [_registered(function) for function in functions]


def call(
    kernel: CompiledKernel | InterpretedKernel,
    buffers: Sequence[np.ndarray],
    *,
    threads: int = 1,
    places: Mapping[str, tuple[int, int]] | None = None,
    **values: object,
) -> None:
    """Run all threads' parts one after the other. buffers: of the pointer parameters, in order; or places: pointer ->
    (which buffer, byte offset)."""
    names = [parameter.name for parameter in kernel.function.parameters if parameter.kind == "pointer"]
    args = kernel.function.pack_args(**(places or {name: (i, 0) for i, name in enumerate(names)}), **values)
    bases = make_bases([(buffer.ctypes.data, buffer.nbytes, True) for buffer in buffers], args)
    target = kernel.function.target
    if execution(target) != "native":
        table = np.array([kernel.address, args.ctypes.data, 0], np.int64)
        run = _interpret_steps if isinstance(kernel, InterpretedKernel) else runner(target)
        run(table.ctypes.data, 1, ctypes.addressof(bases), threads, 0)
        return
    entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(kernel.address)
    for thread in range(threads):
        entry(args.ctypes.data, bases, thread, threads)


@cache
def _built(key: KernelKey, target: Target) -> InterpretedKernel:
    return _registered(key.definition.build(target, **dict(key.static)))


def _registered(function: KernelFunction) -> InterpretedKernel:
    """A new number for a kernel. LLVM must accept its text."""
    with _lock:
        llvm.parse_assembly(emit_module([function], [function.name])).verify()
        kernel = InterpretedKernel(function, len(_kernels) + 1)
        _kernels.append(kernel)
        return kernel


def _interpret_steps(steps: int, count: int, bases: int, threads: int = 1, times: int = 0) -> int:
    """Like `threads.run_steps`, for step tables whose addresses are numbers of interpreted kernels."""
    table = _memory(steps, count * STEP_BYTES).view(np.int64).reshape(count, -1)
    base_count, extents = _memory(bases - 8 * HEAD_WORDS, 16).view(np.int64).tolist()
    starts = _memory(bases, 8 * base_count).view(np.int64).tolist()
    sizes = _memory(extents, 16 * base_count).view(np.int64)[::2].tolist()
    blocks = [_memory(start, size) for start, size in zip(starts, sizes)]
    for number, args, _ in table.tolist():
        function = _kernels[number - 1].function
        if number not in _interpreted:
            _interpreted.add(number)
            interpreted_kernels[function.target.level] += 1
        buffers, values = _arguments(function, args, blocks)
        for thread in range(threads):
            interpret(function, buffers, thread=thread, threads=threads, **values)
    return threads


def _arguments(
    function: KernelFunction, address: int, blocks: list[np.ndarray]
) -> tuple[dict[str, tuple[np.ndarray, int]], dict[str, float]]:
    """Pointers, then extents and scalars, as `pack_args` wrote them at an address."""
    buffers, values = {}, {}
    for parameter in function.parameters:
        word = _memory(address, 8)
        address += 8
        if parameter.kind == "pointer":
            buffers[parameter.name] = blocks[word.view(np.int64)[0]], int(_memory(address, 8).view(np.int64)[0])
            address += 8
        elif parameter.kind == "extent":
            values[parameter.name] = int(word.view(np.int64)[0])
        else:
            values[parameter.name] = float(word[:4].view(np.float32)[0])
    return buffers, values


def _memory(address: int, nbytes: int) -> np.ndarray:
    """Bytes of this process."""
    if not nbytes:
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
