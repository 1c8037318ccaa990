"""A program whose sizes are all known: its step tables, its memory, and the calls that run it.

Owns execution. Is made by `ProgramBuilder.finish` (`qcompiler.backends.program.builder`); threads are in
`qcompiler.backends.runtime.threads`.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from qcompiler import knobs
from qcompiler.backends.program.memory import POISON, Block, aligned_block
from qcompiler.backends.runtime.dispatcher import BARRIER_AFTER
from qcompiler.backends.runtime.threads import STEP_BYTES, Runner, make_bases, run_steps
from qcompiler.errors import InputError, LoweringError

CONSTANTS, ARENA, FIRST_INPUT = 0, 1, 2
"""Base indices; outputs follow the inputs, then comes one block of constants that belong to this binding alone."""

_KEPT_STATES = 4

PythonFunction = Callable[[list[np.ndarray], list[np.ndarray]], None]


@dataclass(frozen=True)
class ArraySpec:
    """dtype and shape of an input or output, C-contiguous."""

    dtype: np.dtype
    shape: tuple[int, ...]
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def nbytes(self) -> int:
        size = self.dtype.itemsize
        for extent in self.shape:
            size *= extent
        return size

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class StepInfo:
    """What is known about a step. kernel: "python" for a Python step; macs, bytes: work as the builder was told."""

    name: str
    kernel: str
    node: str = ""
    macs: int = 0
    bytes: int = 0
    barrier: bool = False


@dataclass(frozen=True)
class ArrayView:
    """An array of a Python step: where it lies (base index and byte offset), and what it is."""

    base: int
    offset: int
    spec: ArraySpec


@dataclass(frozen=True)
class NativeSegment:
    """Steps first .. first+count-1 of the native table; `step` is the number of the first among all steps."""

    step: int
    first: int
    count: int


@dataclass(frozen=True)
class PythonSegment:
    """One Python step: function(read arrays, arrays to write)."""

    step: int
    function: PythonFunction
    reads: tuple[ArrayView, ...]
    writes: tuple[ArrayView, ...]


Segment = NativeSegment | PythonSegment


@dataclass(frozen=True)
class ArenaLayout:
    """The arena's size, the smallest that any plan could have, and, for debugging, the guard pages and the name, offset
    and size of each buffer. poison: fill the arena (and fresh outputs) with 0xA5 before each run."""

    total: int
    lower_bound: int
    buffers: tuple[tuple[str, int, int], ...] = ()
    guards: tuple[int, ...] = ()
    poison: bool = False


@dataclass(eq=False)
class _State:
    """What one call needs for itself; kept for the next one."""

    arena: Block
    bases: Any
    bases_address: int


def debug_memory() -> tuple[bool, bool]:
    """(poison, guard) as QC_POISON and QC_GUARD say."""
    return knobs.POISON.get(), knobs.GUARD.get()


def address_of(array: np.ndarray) -> int:
    """The address of an array's first byte; several times faster than `array.ctypes.data` where it is writable."""
    if array.flags.writeable and array.nbytes:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
    return array.__array_interface__["data"][0]


@dataclass(eq=False)
class BoundProgram:
    """Runs a program for one binding of its sizes. Safe to call from many threads at once.

    Attributes:
        inputs, outputs: specs of the arrays of a call.
        steps: one StepInfo a step, in order of execution.
        layout: the arena.
        constants: the shared block (base 0); extra: this binding's own block, or None.
        runner: what runs a step table: this machine, or an emulator.
    """

    name: str
    inputs: tuple[ArraySpec, ...]
    outputs: tuple[ArraySpec, ...]
    steps: tuple[StepInfo, ...]
    segments: tuple[Segment, ...]
    layout: ArenaLayout
    constants: Block
    extra: Block | None
    table: np.ndarray
    args: np.ndarray
    keep: tuple[Any, ...] = ()
    runner: Runner = run_steps
    _free: list[_State] = field(default_factory=list)

    def __post_init__(self) -> None:
        for array in (self.table, self.args):
            array.flags.writeable = False
        self._table_address = self.table.ctypes.data
        self._checks = [(spec.dtype, spec.shape) for spec in self.inputs]
        only = self.segments[0] if len(self.segments) == 1 else None
        self._only_native = only if isinstance(only, NativeSegment) else None

    @property
    def arena_bytes(self) -> int:
        """Bytes of intermediate memory that one call needs."""
        return self.layout.total

    @cached_property
    def work(self) -> int:
        """Multiply-adds of a call; a byte moved counts as 16."""
        return sum(step.macs + 16 * step.bytes for step in self.steps)

    def run(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray] | None = None, threads: int = 1
    ) -> list[np.ndarray]:
        """Run once.

        Args:
            inputs: C-contiguous arrays of exactly the specs' dtypes and shapes.
            outputs: arrays to fill, like `inputs` and writable, sharing no byte with each other or with an input; None
                makes fresh ones.
            threads: over how many threads to split native steps; the result does not depend on it.

        Returns the outputs, which own their memory. InputError for arrays that don't fit. An exception of a Python step
        passes through, and so does KeyboardInterrupt, between steps.
        """
        return self._run(inputs, outputs, threads, None)

    def profile(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray] | None = None, threads: int = 1
    ) -> list[int]:
        """Run once and give the nanoseconds of each step on the calling thread, in the order of `steps`.

        A step that ends in a barrier includes the wait for the other threads.
        """
        times = np.zeros(len(self.steps), np.uint64)
        self._run(inputs, outputs, threads, times)
        return times.tolist()

    def describe(self) -> str:
        """A table of the steps as text, and the memory that a call takes."""
        rows = [("step", "name", "kernel", "node", "macs", "bytes", "")]
        for number, step in enumerate(self.steps):
            barrier = "barrier" if step.barrier else ""
            rows.append((str(number), step.name, step.kernel, step.node, str(step.macs), str(step.bytes), barrier))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        right = (0, 4, 5)
        lines = [
            f"program {self.name}: {', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}",
            f"constants {self._constant_bytes():,} bytes, arena {self.layout.total:,} bytes"
            f" (lower bound {self.layout.lower_bound:,})",
        ]
        for row in rows:
            cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths))]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines) + "\n"

    def _constant_bytes(self) -> int:
        return self.constants.data.nbytes + (self.extra.data.nbytes if self.extra else 0)

    # -- one call -------------------------------------------------------------------------------------------------

    def _run(
        self,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray] | None,
        threads: int,
        times: np.ndarray | None,
    ) -> list[np.ndarray]:
        if len(inputs) != len(self._checks):
            raise InputError("wrong number of inputs", where=self.name, expected=len(self._checks), got=len(inputs))
        for index, (array, (dtype, shape)) in enumerate(zip(inputs, self._checks)):
            if type(array) is not np.ndarray or array.dtype != dtype or array.shape != shape:
                raise self._misfit("input", index, array)
            if not array.flags.c_contiguous or not array.flags.aligned:
                raise self._misfit("input", index, array)
        if outputs is None:
            results = [np.empty(spec.shape, spec.dtype) for spec in self.outputs]
            if self.layout.poison:
                for array in results:
                    array.reshape(-1).view(np.uint8).fill(POISON)
        else:
            results = list(outputs)
            self._check_outputs(inputs, results)
        try:
            state = self._free.pop()
        except IndexError:
            state = self._new_state()
        try:
            bases, index = state.bases, FIRST_INPUT
            for array in inputs:
                bases[index] = address_of(array)
                index += 1
            for array in results:
                bases[index] = address_of(array)
                index += 1
            if self.layout.poison:
                self._poison(state)
            self._execute(state, inputs, results, threads, times)
            if self.layout.guards:
                self._check_slack(state)
        finally:
            if len(self._free) < _KEPT_STATES:
                self._free.append(state)
        return results

    def _execute(
        self,
        state: _State,
        inputs: Sequence[np.ndarray],
        outputs: list[np.ndarray],
        threads: int,
        times: np.ndarray | None,
    ) -> None:
        only = self._only_native
        if only is not None and times is None:
            self.runner(self._table_address, only.count, state.bases_address, threads)
            return
        times_address = 0 if times is None else times.ctypes.data
        for segment in self.segments:
            if isinstance(segment, NativeSegment):
                self.runner(
                    self._table_address + STEP_BYTES * segment.first,
                    segment.count,
                    state.bases_address,
                    threads,
                    times_address and times_address + 8 * segment.step,
                )
                continue
            began = time.perf_counter_ns()
            reads = [self._array(view, state, inputs, outputs, writable=False) for view in segment.reads]
            writes = [self._array(view, state, inputs, outputs, writable=True) for view in segment.writes]
            segment.function(reads, writes)
            if times is not None:
                times[segment.step] = time.perf_counter_ns() - began

    def _array(
        self, view: ArrayView, state: _State, inputs: Sequence[np.ndarray], outputs: list[np.ndarray], writable: bool
    ) -> np.ndarray:
        last = FIRST_INPUT + len(inputs) + len(outputs)
        if view.base == CONSTANTS:
            whole = self.constants.data
        elif view.base == ARENA:
            whole = state.arena.data
        elif view.base == last:
            assert self.extra is not None
            whole = self.extra.data
        else:
            array = [*inputs, *outputs][view.base - FIRST_INPUT]
            whole = array.reshape(-1).view(np.uint8)
        part = whole[view.offset : view.offset + view.spec.nbytes]
        shaped = part.view(view.spec.dtype).reshape(view.spec.shape)
        if not writable:
            shaped.flags.writeable = False
        return shaped

    def _new_state(self) -> _State:
        arena = aligned_block(self.layout.total)
        for guard in self.layout.guards:
            arena.protect(guard)
        blocks = [(self.constants.address, self.constants.data.nbytes, False), (arena.address, arena.data.nbytes, True)]
        blocks += [
            *((0, spec.nbytes, False) for spec in self.inputs),
            *((0, spec.nbytes, True) for spec in self.outputs),
        ]
        blocks += [(self.extra.address, self.extra.data.nbytes, False) if self.extra else (0, 0, False)]
        bases = make_bases(blocks, self.args, [arena.address + guard for guard in self.layout.guards])
        return _State(arena, bases, ctypes.addressof(bases))

    # -- checks ---------------------------------------------------------------------------------------------------

    def _misfit(self, kind: str, index: int, array: Any) -> InputError:
        spec = (self.inputs if kind == "input" else self.outputs)[index]
        got: object = type(array).__name__
        if isinstance(array, np.ndarray):
            got = ArraySpec(array.dtype, array.shape)
            if not (array.flags.c_contiguous and array.flags.aligned):
                got = f"{got}, strides {array.strides}, aligned {array.flags.aligned}"
            elif not array.flags.writeable:
                got = f"{got}, read only"
        place = f"{self.name}, {kind} {index}" + (f" ({spec.name})" if spec.name else "")
        return InputError(
            f"an {kind} does not fit", where=place, expected=f"{spec}, C-contiguous and aligned", got=got,
            hint="np.ascontiguousarray(array, dtype)",
        )  # fmt: skip

    def _check_outputs(self, inputs: Sequence[np.ndarray], outputs: list[np.ndarray]) -> None:
        if len(outputs) != len(self.outputs):
            raise InputError("wrong number of outputs", where=self.name, expected=len(self.outputs), got=len(outputs))
        for index, (array, spec) in enumerate(zip(outputs, self.outputs)):
            if type(array) is not np.ndarray or array.dtype != spec.dtype or array.shape != spec.shape:
                raise self._misfit("output", index, array)
            if not array.flags.carray:
                raise self._misfit("output", index, array)
            begin = address_of(array)
            for other in (*inputs, *outputs[:index]):
                start = address_of(other)
                if begin < start + other.nbytes and start < begin + array.nbytes:
                    raise InputError("an output shares memory with another array", where=f"{self.name}, output {index}")

    # -- debugging ------------------------------------------------------------------------------------------------

    def _poison(self, state: _State) -> None:
        if not self.layout.guards:
            state.arena.data.fill(POISON)
            return
        for begin, end in zip(self.layout.guards, self.layout.guards[1:]):
            state.arena.data[_after_page(begin) : end].fill(POISON)

    def _check_slack(self, state: _State) -> None:
        """After a run with guard pages: the bytes between a buffer and its guards must hold the poison still."""
        data = state.arena.data
        for begin, end in zip(self.layout.guards, self.layout.guards[1:]):
            start = _after_page(begin)
            here = [(name, at, size) for name, at, size in self.layout.buffers if start <= at < end]
            if not here:
                continue
            low = min(at for _, at, _ in here)
            high = max(at + size for _, at, size in here)
            for part in (data[start:low], data[high:end]):
                if (part != POISON).any():
                    names = ", ".join(name for name, _, _ in here)
                    raise LoweringError("a kernel wrote outside a buffer", where=f"{self.name}, next to {names}")


def _after_page(offset: int) -> int:
    import mmap

    return offset + mmap.PAGESIZE


def flags_of(barrier: bool) -> int:
    """A step's flags in the native table."""
    return BARRIER_AFTER if barrier else 0
