"""A program that can be called: an image, its kernels in memory, and the calls that run it.

Owns execution. `qcompiler.backends.runtime.link` makes it; a `Loader` runs its tables of kernel steps.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from qcompiler.backends.program.image import (
    ARENA,
    CONSTANTS,
    FIRST_INPUT,
    ArraySpec,
    ArrayView,
    KernelStep,
    ProgramImage,
    PythonStep,
)
from qcompiler.backends.runtime.loader import Bases, LoadedKernel, Loader, MemoryBlock, StepTable
from qcompiler.backends.runtime.pages import POISON, Block, aligned_block
from qcompiler.errors import InputError, LoweringError

_MOST_STATES = 4
"""The most states that are kept for the next calls."""

PythonFunction = Callable[[list[np.ndarray], list[np.ndarray]], None]
"""Runs a Python step: (arrays to read, arrays to fill). It must not keep the arrays, because their memory is reused."""


class _NativeSegment(NamedTuple):
    """A run of kernel steps: `length` rows of the table from row `first` on. step: the index of the first among all
    steps."""

    step: int
    first: int
    length: int


class _PythonSegment(NamedTuple):
    step: int
    function: PythonFunction
    reads: tuple[ArrayView, ...]
    writes: tuple[ArrayView, ...]


@dataclass(eq=False)
class _State:
    """The memory that one call needs: concurrent calls must not share it."""

    arena: Block
    bases: Bases


def address_of(array: np.ndarray) -> int:
    """The address of an array's first byte. For writable arrays it is several times as fast as `array.ctypes.data`."""
    if array.flags.writeable and array.nbytes:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    address: int = array.__array_interface__["data"][0]
    return address


class Executable:
    """Runs a program image. Safe to call from many threads at once.

    Args:
        kernels: the kernels of the image's kernel steps, in order.
        loader: the loader that loaded the kernels; it runs them.
        constants: the shared block of constants. own: the constants of this image alone, or None.
        functions: the functions of the image's Python steps, in order.
        poison: whether to fill the arena and fresh outputs with 0xA5 before each run, for debugging.
    """

    def __init__(
        self,
        image: ProgramImage,
        kernels: Sequence[LoadedKernel],
        loader: Loader,
        constants: Block,
        own: Block | None = None,
        functions: Sequence[PythonFunction] = (),
        poison: bool = False,
    ) -> None:
        self.image, self.constants, self.own = image, constants, own
        self.poison = poison
        self._kernels = tuple(kernels)
        self._loader_run = loader.run
        words, starts = image.argument_words()
        self._table = StepTable(
            [kernel.address for kernel in kernels], starts, [step.barrier for step in image.kernel_steps], words
        )
        self._segments = _segments(image, functions)
        self._checks = [(spec.dtype, spec.shape) for spec in image.inputs]
        self._free: list[_State] = []

    def run(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray] | None = None, threads: int = 1
    ) -> list[np.ndarray]:
        """Run once.

        Args:
            inputs: C-contiguous arrays of exactly the dtypes and shapes of the image's inputs.
            outputs: arrays to fill, like `inputs` and writable, sharing no byte with each other or with an input; None
                makes fresh ones.
            threads: over how many threads to split kernel steps; the result does not depend on it.

        Returns the outputs, which own their memory. InputError for arrays that don't fit. An exception of a Python step
        passes through, and so does KeyboardInterrupt, between steps.
        """
        return self._run(inputs, outputs, threads, None)

    def profile(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray] | None = None, threads: int = 1
    ) -> list[int]:
        """Run once and give the nanoseconds of each step on the calling thread, in the order of the image's steps.

        A step that ends in a barrier includes the wait for the other threads.
        """
        times = np.zeros(len(self.image.steps), np.uint64)
        self._run(inputs, outputs, threads, times)
        return [int(time) for time in times]

    # -- one call -------------------------------------------------------------------------------------------------

    def _run(
        self,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray] | None,
        threads: int,
        times: np.ndarray | None,
    ) -> list[np.ndarray]:
        image = self.image
        if len(inputs) != len(self._checks):
            raise InputError("wrong number of inputs", where=image.name, expected=len(self._checks), got=len(inputs))
        for index, (array, (dtype, shape)) in enumerate(zip(inputs, self._checks)):
            if type(array) is not np.ndarray or array.dtype != dtype or array.shape != shape:
                raise self._misfit("input", index, array)
            if not array.flags.c_contiguous or not array.flags.aligned:
                raise self._misfit("input", index, array)
        if outputs is None:
            results = [np.empty(spec.shape, spec.dtype) for spec in image.outputs]
            if self.poison:
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
            bases, index = state.bases.words, FIRST_INPUT
            for array in inputs:
                bases[index] = address_of(array)
                index += 1
            for array in results:
                bases[index] = address_of(array)
                index += 1
            if self.poison:
                self._poison(state)
            self._execute(state, inputs, results, threads, times)
            if image.arena.guards:
                self._check_slack(state)
        finally:
            if len(self._free) < _MOST_STATES:
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
        run, table, bases = self._loader_run, self._table, state.bases
        times_address = 0 if times is None else times.ctypes.data
        for segment in self._segments:
            if isinstance(segment, _NativeSegment):
                segment_times = times_address and times_address + 8 * segment.step
                run(table, segment.first, segment.length, bases, threads, segment_times)
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
        buffer = self.image.buffers[view.buffer]
        if buffer.base == CONSTANTS:
            whole = self.constants.data
        elif buffer.base == ARENA:
            whole = state.arena.data
        elif buffer.base == self.image.own_constants:
            assert self.own is not None
            whole = self.own.data
        else:
            array = [*inputs, *outputs][buffer.base - FIRST_INPUT]
            whole = array.reshape(-1).view(np.uint8)
        begin = buffer.offset + view.offset
        spec = view.spec
        if view.strides is None:
            shaped = whole[begin : begin + spec.nbytes].view(spec.dtype).reshape(spec.shape)
        else:
            shaped = np.ndarray(spec.shape, spec.dtype, whole, begin, view.strides)
        if not writable:
            shaped.flags.writeable = False
        return shaped

    def _new_state(self) -> _State:
        image = self.image
        arena = aligned_block(image.arena.nbytes)
        for guard in image.arena.guards:
            arena.protect(guard)
        blocks = [MemoryBlock(self.constants.data.nbytes, False), MemoryBlock(arena.data.nbytes, True)]
        blocks += [MemoryBlock(spec.nbytes, False) for spec in image.inputs]
        blocks += [MemoryBlock(spec.nbytes, True) for spec in image.outputs]
        blocks.append(MemoryBlock(0 if self.own is None else self.own.data.nbytes, False))
        bases = Bases(blocks, [arena.address + guard for guard in image.arena.guards])
        bases.words[CONSTANTS], bases.words[ARENA] = self.constants.address, arena.address
        bases.words[image.own_constants] = 0 if self.own is None else self.own.address
        return _State(arena, bases)

    # -- checks ---------------------------------------------------------------------------------------------------

    def _misfit(self, kind: str, index: int, array: Any) -> InputError:
        spec = (self.image.inputs if kind == "input" else self.image.outputs)[index]
        got: object = type(array).__name__
        if isinstance(array, np.ndarray):
            got = ArraySpec(array.dtype, array.shape)
            if not (array.flags.c_contiguous and array.flags.aligned):
                got = f"{got}, strides {array.strides}, aligned {array.flags.aligned}"
            elif not array.flags.writeable:
                got = f"{got}, read only"
        place = f"{self.image.name}, {kind} {index}" + (f" ({spec.name})" if spec.name else "")
        return InputError(
            f"an {kind} does not fit", where=place, expected=f"{spec}, C-contiguous and aligned", got=got,
            hint="np.ascontiguousarray(array, dtype)",
        )  # fmt: skip

    def _check_outputs(self, inputs: Sequence[np.ndarray], outputs: list[np.ndarray]) -> None:
        image = self.image
        if len(outputs) != len(image.outputs):
            raise InputError("wrong number of outputs", where=image.name, expected=len(image.outputs), got=len(outputs))
        for index, (array, spec) in enumerate(zip(outputs, image.outputs)):
            if type(array) is not np.ndarray or array.dtype != spec.dtype or array.shape != spec.shape:
                raise self._misfit("output", index, array)
            if not array.flags.carray:
                raise self._misfit("output", index, array)
            begin = address_of(array)
            for other in (*inputs, *outputs[:index]):
                start = address_of(other)
                if begin < start + other.nbytes and start < begin + array.nbytes:
                    raise InputError(
                        "an output shares memory with another array", where=f"{image.name}, output {index}"
                    )

    # -- debugging ------------------------------------------------------------------------------------------------

    def _poison(self, state: _State) -> None:
        if not self.image.arena.guards:
            state.arena.data.fill(POISON)
            return
        for begin, end in zip(self.image.arena.guards, self.image.arena.guards[1:]):
            state.arena.data[_after_page(begin) : end].fill(POISON)

    def _check_slack(self, state: _State) -> None:
        """After a run with guard pages, check that the bytes between a buffer and its guards still hold the poison."""
        data = state.arena.data
        buffers = [buffer for buffer in self.image.buffers if buffer.base == ARENA]
        for begin, end in zip(self.image.arena.guards, self.image.arena.guards[1:]):
            start = _after_page(begin)
            here = [buffer for buffer in buffers if start <= buffer.offset < end]
            if not here:
                continue
            low = min(buffer.offset for buffer in here)
            high = max(buffer.offset + buffer.nbytes for buffer in here)
            for part in (data[start:low], data[high:end]):
                if (part != POISON).any():
                    names = ", ".join(buffer.name for buffer in here)
                    raise LoweringError("a kernel wrote outside a buffer", where=f"{self.image.name}, next to {names}")


def _after_page(offset: int) -> int:
    return offset + mmap.PAGESIZE


def _segments(image: ProgramImage, functions: Sequence[PythonFunction]) -> tuple[_NativeSegment | _PythonSegment, ...]:
    """The steps in order, with consecutive kernel steps in one segment."""
    found: list[_NativeSegment | _PythonSegment] = []
    rest, row = iter(functions), 0
    for number, step in enumerate(image.steps):
        if isinstance(step, PythonStep):
            found.append(_PythonSegment(number, next(rest), step.reads, step.writes))
            continue
        assert isinstance(step, KernelStep)
        last = found[-1] if found else None
        if isinstance(last, _NativeSegment):
            found[-1] = last._replace(length=last.length + 1)
        else:
            found.append(_NativeSegment(number, row, 1))
        row += 1
    return tuple(found)
