"""ImageTemplate: what a builder has collected, ready to become program images.

The structure of a program is found out once: lifetimes, numbers of buffers, which arguments depend on sizes. An image
of it needs sizes and offsets only. If the builder's sizes were traced, the template gives the images of all sizes for
which the guards of the trace hold, the same as lowering again would.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from qcompiler import knobs
from qcompiler.backends.program.arena import Buffer, Lifetimes
from qcompiler.backends.program.barriers import Access, Accesses, place_barriers
from qcompiler.backends.program.constants import Constants, fill_with
from qcompiler.backends.program.image import (
    ARENA,
    ARGUMENT_WORDS,
    CONSTANTS,
    FIRST_INPUT,
    NULL,
    Arena,
    ArraySpec,
    ArrayView,
    KernelStep,
    PlacedBuffer,
    Pointer,
    ProgramImage,
    PythonStep,
    Step,
)
from qcompiler.backends.program.recorded import (
    ArenaBuffer,
    BufferHandle,
    BuilderArgument,
    Range,
    RecordedConstant,
    RecordedStep,
    Table,
    View,
)
from qcompiler.errors import LoweringError
from qcompiler.traced_size import Trace, TracedSize, concrete

MOST_BYTES = 2**46
"""The most bytes of all buffers of a program together: no process can address more than 2^47."""
_LEAST_WORD, _MOST_WORD = -(2**63), 2**63 - 1

_Values = Sequence[int]
"""The values of traced sizes by their slot."""


@dataclass(frozen=True)
class Recorded:
    """What a builder has collected; see `ProgramBuilder`. empty: indices of the buffers of arrays without elements."""

    name: str
    target: str
    sizes: tuple[tuple[str, int], ...]
    inputs: tuple[ArraySpec, ...]
    outputs: tuple[ArraySpec, ...]
    constants: Sequence[RecordedConstant]
    buffers: Sequence[ArenaBuffer]
    empty: Sequence[int]
    steps: Sequence[RecordedStep]


_Access = tuple[int, int, Any, Any, BufferHandle | None]
"""A part of a buffer that a step touches: base, index in the arena or -1, begin, end, `Access.disjoint_in`."""


class _StepTemplate:
    """A kernel step without its barrier.

    Attributes:
        args: the arguments; those that depend on sizes are replaced.
        holes: (position, slot) of the arguments that are traced ints.
        pointers: (position, buffer, slot) of those whose offset is traced.
    """

    def __init__(self, step: RecordedStep, numbers: Mapping[BufferHandle, int], where: str) -> None:
        assert step.key is not None
        self.key, self.node, self.macs, self.bytes = step.key, step.node, step.macs, step.bytes
        self.writes = tuple(dict.fromkeys(numbers[each.buffer] for each in step.writes))
        self.args: list[Any] = []
        self.holes: list[tuple[int, int]] = []
        self.pointers: list[tuple[int, int, int]] = []
        for position, argument in enumerate(step.args):
            found = _argument(argument, numbers, f"{where}, argument {position}")
            if type(found) is TracedSize:
                self.holes.append((position, found.slot))
            elif isinstance(found, Pointer) and (slot := _slot(found.offset)) is not None:
                self.pointers.append((position, found.buffer, slot))
            self.args.append(found)

    def step(self, barrier: bool, values: _Values) -> KernelStep:
        args = self.args
        if self.holes or self.pointers:
            args = args.copy()
            for position, slot in self.holes:
                args[position] = values[slot]
            for position, buffer, slot in self.pointers:
                args[position] = Pointer(buffer, values[slot])
        macs, nbytes = _value(self.macs, values), _value(self.bytes, values)
        return KernelStep(self.key, self.node, tuple(args), self.writes, macs, nbytes, barrier)


class _WordsTemplate:
    """The argument words of all steps of an image; see `ProgramImage.argument_words`."""

    def __init__(self, steps: Sequence[_StepTemplate]) -> None:
        words: list[int] = []
        self.starts: list[int] = []
        self._holes: list[int] = []
        self._slots: list[int] = []
        self._pointers: list[int] = []
        self._buffers: list[int] = []
        self._offsets: list[int] = []
        for step in steps:
            self.starts.append(len(words))
            for argument in step.args:
                if type(argument) is TracedSize:
                    self._holes.append(len(words))
                    self._slots.append(argument.slot)
                    words.append(0)
                elif isinstance(argument, int):
                    words.append(argument)
                elif isinstance(argument, float):
                    words.append(struct.unpack("<I", struct.pack("<f", argument))[0])
                else:
                    if argument != NULL:
                        self._pointers.append(len(words))
                        self._buffers.append(argument.buffer)
                        self._offsets.append(argument.offset)
                    words += (0, 0)
            words.extend([0] * (-len(words) % ARGUMENT_WORDS))
        self._words = np.array(words, np.int64)

    def words(self, buffers: Sequence[PlacedBuffer], values: _Values) -> tuple[np.ndarray, list[int]]:
        """The words, and that at which each step's begin. OverflowError for an argument that is no i64."""
        words = self._words.copy()
        words[self._holes] = np.array([values[slot] for slot in self._slots], np.int64)
        bases = [buffers[number].base for number in self._buffers]
        offsets = [
            buffers[number].offset + _value(offset, values) for number, offset in zip(self._buffers, self._offsets)
        ]
        at = np.array(self._pointers, np.int64)
        words[at], words[at + 1] = np.array(bases, np.int64), np.array(offsets, np.int64)
        return words, self.starts


class ImageTemplate:
    """Makes program images of what a builder has recorded.

    Args:
        shared: the constants that images share.
        trace: the trace of the builder's sizes, if they were traced.

    Raises:
        LoweringError: a step reads what was never written, or no step writes an output.
    """

    def __init__(self, recorded: Recorded, shared: Constants, trace: Trace | None = None) -> None:
        self._recorded, self._shared, self._trace = recorded, shared, trace
        self._own_base = FIRST_INPUT + len(recorded.inputs) + len(recorded.outputs)
        self._placed: tuple[list[PlacedBuffer], Constants] | None = None
        self._root = _roots(recorded.buffers)
        self._check_order()
        self._sizes = [each.handle.nbytes for each in recorded.buffers]
        self._check_room([concrete(each) for each in self._sizes])
        touched = dict.fromkeys(each.buffer for step in recorded.steps for each in (*step.reads, *step.writes))
        self._touched = [each.handle for each in recorded.buffers if each.handle in touched]
        self._lifetimes = self._find_lifetimes()
        self._arrays = [
            array_handle(recorded.name, kind, specs, index)
            for kind, specs in (("input", recorded.inputs), ("output", recorded.outputs))
            for index in range(len(specs))
        ]
        constants = [
            BufferHandle("constant", number, each.nbytes, each.key) for number, each in enumerate(recorded.constants)
        ]
        numbers = {handle: number for number, handle in enumerate((*self._arrays, *constants, *self._touched))}
        self._accesses = [
            (self._ranges(step.reads), self._ranges(step.writes, step.disjoint), step.key is None)
            for step in recorded.steps
        ]
        self._steps: list[_StepTemplate | Callable[[_Values], PythonStep]] = [
            _StepTemplate(step, numbers, self._where(step)) if step.key is not None else _python_step(step, numbers)
            for step in recorded.steps
        ]
        self._words = _WordsTemplate([each for each in self._steps if isinstance(each, _StepTemplate)])

    # -- images

    def image(
        self, sizes: Mapping[str, int] | None = None, *, guard: bool | None = None
    ) -> tuple[ProgramImage, Constants] | None:
        """The image for these sizes, by default those of the builder, with the constants that it alone has.

        None if lowering for these sizes may take another way than for those of the builder.

        guard: whether every buffer of the arena lies between pages that fault, for debugging; by default as QC_GUARD
            says.
        """
        recorded, values = self._recorded, cast("_Values", ())
        bound = recorded.sizes if sizes is None else tuple(sizes.items())
        if self._trace is not None:
            found = self._trace.evaluate(dict(bound))
            if found is None:
                return None
            values = found
        elif bound != recorded.sizes:
            return None
        arena_sizes = [_value(size, values) for size in self._sizes]
        self._check_room(arena_sizes)
        guarded = knobs.GUARD.get() if guard is None else guard
        in_use = [size if is_used else 0 for size, is_used in zip(arena_sizes, self._is_used)]
        plan, guards = self._lifetimes.plan_guarded(in_use) if guarded else (self._lifetimes.plan(in_use), ())
        inputs, outputs = (
            tuple(_spec(spec, values) for spec in specs) for specs in (recorded.inputs, recorded.outputs)
        )
        constants, own = self._constants(values)
        buffers = [
            *(
                PlacedBuffer(handle.name, FIRST_INPUT + number, 0, spec.nbytes)
                for number, (handle, spec) in enumerate(zip(self._arrays, (*inputs, *outputs)))
            ),
            *constants,
            *(
                PlacedBuffer(handle.name, ARENA, plan.offsets[handle.index], arena_sizes[handle.index])
                for handle in self._touched
            ),
        ]
        barriers = place_barriers(
            [
                Accesses(_physical(reads, plan.offsets, values), _physical(writes, plan.offsets, values), alone)
                for reads, writes, alone in self._accesses
            ]
        )
        self._shared.close()
        own.close()
        steps: list[Step] = [
            each.step(barrier, values) if isinstance(each, _StepTemplate) else each(values)
            for each, barrier in zip(self._steps, barriers)
        ]
        try:
            words = self._words.words(buffers, values)
        except OverflowError:
            raise LoweringError("an argument of a kernel is no i64", where=recorded.name) from None
        image = ProgramImage(
            name=recorded.name,
            target=recorded.target,
            sizes=bound,
            inputs=inputs,
            outputs=outputs,
            buffers=tuple(buffers),
            steps=tuple(steps),
            arena=Arena(plan.total, plan.lower_bound, guards),
            constant_bytes=self._shared.nbytes,
            own_constant_bytes=own.nbytes,
            known_words=words,
        )
        return image, own

    def _constants(self, values: _Values) -> tuple[list[PlacedBuffer], Constants]:
        """Where the constants lie, and those that only the image has."""
        if self._placed is not None:
            return self._placed
        shared, own, found = self._shared, Constants(), []
        for each in self._recorded.constants:
            key, nbytes, fill = each.key, each.nbytes, each.fill
            if each.table is not None:
                table = Table(each.table.function, tuple([_value(arg, values) for arg in each.table.args]))
                array = table.array()
                key, nbytes, fill = table.key, array.nbytes, fill_with(array)
            base, offset = CONSTANTS, shared.add(key, nbytes, fill)
            if offset is None:
                base, offset = self._own_base, own.add(key, nbytes, fill)
            assert offset is not None  # the block of the image alone is open
            found.append(PlacedBuffer(key, base, offset, nbytes))
        if all(each.table is None for each in self._recorded.constants):
            self._placed = found, own
        return found, own

    # -- structure

    def _check_order(self) -> None:
        """Check that nothing is read before it is written, and that every output is written."""
        recorded = self._recorded
        written = {("input", index) for index in range(len(recorded.inputs))}
        written |= {self._memory_of(recorded.buffers[index].handle) for index in recorded.empty}
        for step in recorded.steps:
            written |= {self._memory_of(each.buffer) for each in step.writes}
            for each in step.reads:
                if self._memory_of(each.buffer) not in written:
                    raise LoweringError(
                        "a step reads what was never written", where=self._where(step), got=each.buffer.name
                    )
        for index, spec in enumerate(recorded.outputs):
            if ("output", index) not in written and spec.nbytes:
                raise LoweringError("no step writes an output", where=recorded.name, got=spec.name or f"output{index}")

    def _memory_of(self, handle: BufferHandle) -> tuple[str, int]:
        """A name for the memory of a handle, which aliases share."""
        return (handle.kind, self._root[handle.index] if handle.kind == "arena" else handle.index)

    def _find_lifetimes(self) -> Lifetimes:
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for number, step in enumerate(self._recorded.steps):
            for each in (*step.reads, *step.writes):
                if each.buffer.kind == "arena":
                    first.setdefault(each.buffer.index, number)
                    last[each.buffer.index] = number
        by_root: dict[int, int] = {}
        for index, step_number in first.items():
            by_root.setdefault(self._root[index], step_number)
        # One that no step touches lives no longer than its alias group.
        idle = [by_root.get(root, 0) for root in self._root]
        self._is_used = [index in first for index in range(len(self._root))]
        return Lifetimes(
            [
                Buffer(0, first.get(index, idle[index]), last.get(index, idle[index]), each.alignment, each.alias)
                for index, each in enumerate(self._recorded.buffers)
            ]
        )

    def _ranges(self, ranges: Sequence[Range], disjoint: bool = False) -> list[_Access]:
        inputs = len(self._recorded.inputs)
        found = []
        for each in ranges:
            handle = each.buffer
            if handle.kind == "arena":
                base, index = ARENA, handle.index
            else:
                base, index = FIRST_INPUT + handle.index + (inputs if handle.kind == "output" else 0), -1
            if handle.kind != "input":  # nothing writes to an input
                found.append((base, index, each.begin, each.end, handle if disjoint else None))
        return found

    def _where(self, step: RecordedStep) -> str:
        return where_of(self._recorded.name, step)

    def _check_room(self, sizes: Sequence[int]) -> None:
        check_room(self._recorded.name, sum(sizes), "all buffers together")


def array_handle(name: str, kind: str, specs: Sequence[ArraySpec], index: int) -> BufferHandle:
    """The handle of an input or output."""
    if not 0 <= index < len(specs):
        raise LoweringError(f"no such {kind}", where=name, expected=f"0..{len(specs) - 1}", got=index)
    return BufferHandle(kind, index, specs[index].nbytes, specs[index].name or f"{kind}{index}")


def where_of(name: str, step: RecordedStep) -> str:
    """A step of a program, for messages."""
    node = f" (node {step.node})" if step.node else ""
    return f"{name}, step {step.node if step.key is None else step.key.name}{node}"


def check_room(name: str, nbytes: int, what: str) -> None:
    """LoweringError if a program's buffers take more bytes than a process can address."""
    if nbytes > MOST_BYTES:
        raise LoweringError(
            "a program needs more memory than a process can address",
            where=f"{name}, {what}",
            expected=f"at most {MOST_BYTES:,} bytes",
            got=f"{nbytes:,} bytes",
            hint="smaller sizes, such as that of a padding",
        )


def _roots(buffers: Sequence[ArenaBuffer]) -> list[int]:
    """For each buffer the one whose memory it shares."""
    roots: list[int] = []
    for index, each in enumerate(buffers):
        roots.append(index if each.alias is None else roots[each.alias])
    return roots


def _value(size: Any, values: _Values) -> int:
    return values[size.slot] if type(size) is TracedSize else size


def _slot(size: Any) -> int | None:
    return size.slot if type(size) is TracedSize else None


def _spec(spec: ArraySpec, values: _Values) -> ArraySpec:
    return ArraySpec(spec.dtype, tuple([_value(size, values) for size in spec.shape]), spec.name)


def _argument(argument: BuilderArgument, numbers: Mapping[BufferHandle, int], where: str) -> Any:
    """An argument as the image holds it; its number or offset may be traced."""
    target, offset = argument if isinstance(argument, tuple) else (argument, 0)
    if type(target) is TracedSize:
        return target
    if target is None:
        return NULL
    if isinstance(target, BufferHandle):
        return Pointer(numbers[target], offset)
    if isinstance(target, float | np.floating):
        return float(target)
    try:
        word = operator.index(target)
    except TypeError:
        word = None
    if word is None or not _LEAST_WORD <= word <= _MOST_WORD:
        raise LoweringError(
            "a bad argument of a kernel",
            where=where,
            expected="an i64, an f32, a buffer or (buffer, byte offset)",
            got=repr(argument),
        )
    return int(word)


def _physical(accesses: Sequence[_Access], offsets: Sequence[int], values: _Values) -> list[Access]:
    """The physical bytes of accesses, without empty ones."""
    found: list[Access] = []
    for base, index, begin, end, disjoint_in in accesses:
        first = values[begin.slot] if type(begin) is TracedSize else begin
        last = values[end.slot] if type(end) is TracedSize else end
        if first < last:
            shift = offsets[index] if index >= 0 else 0
            found.append((base, first + shift, last + shift, disjoint_in))
    return found


def _python_step(step: RecordedStep, numbers: Mapping[BufferHandle, int]) -> Callable[[_Values], PythonStep]:
    def made(values: _Values) -> PythonStep:
        def arrays(views: Sequence[View]) -> tuple[ArrayView, ...]:
            return tuple(
                ArrayView(
                    numbers[view.buffer],
                    _value(view.offset, values),
                    _spec(ArraySpec(view.dtype, view.shape), values),
                    None if view.strides is None else tuple(_value(stride, values) for stride in view.strides),
                )
                for view in views
            )

        return PythonStep(step.node, arrays(step.views[0]), arrays(step.views[1]))

    return made
