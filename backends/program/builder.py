"""Builds programs: collects steps with what they read and write, plans memory, places barriers, writes the tables.

Owns the way from lowered steps to tables; `qcompiler.backends.runtime.executable` runs them. A `Program` is all bindings of
a graph's symbolic sizes: they share one block of constants, and each has its own steps and arena.

    builder = ProgramBuilder([ArraySpec(np.float32, (8,))], [ArraySpec(np.float32, (8,))])
    table = builder.constant(values)
    hidden = builder.buffer(32, "hidden")
    builder.step(kernel, [builder.input(0), table, hidden, 8], reads=[builder.input(0)], writes=[hidden])
    ...
    bound = builder.finish()
    [y] = bound.run([x], threads=2)
"""

from __future__ import annotations

import operator
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.program.constants import Constants, Fill
from qcompiler.backends.program.memory import ALIGNMENT, Buffer, Plan, plan_arena, plan_guarded
from qcompiler.backends.runtime.executable import (
    ARENA,
    CONSTANTS,
    FIRST_INPUT,
    ArenaLayout,
    ArraySpec,
    ArrayView,
    BoundProgram,
    NativeSegment,
    PythonFunction,
    PythonSegment,
    Segment,
    StepInfo,
    debug_memory,
    flags_of,
)
from qcompiler.backends.runtime.threads import Runner, run_steps
from qcompiler.errors import LoweringError

__all__ = ["ArraySpec", "BoundProgram", "BufferHandle", "BufferRef", "Constants", "Program", "ProgramBuilder", "View"]


@dataclass(frozen=True)
class BufferRef(Memory):
    """Bytes of a block of constants: (base index, byte offset), and how many."""

    base: int
    offset: int
    nbytes: int

    @property
    def pointer(self) -> tuple[BufferRef, int]:
        return self, 0


@dataclass(frozen=True)
class BufferHandle(Memory):
    """A buffer of the arena, an input or an output. kind: "arena", "input" or "output"."""

    kind: str
    index: int
    nbytes: int
    name: str

    @property
    def pointer(self) -> tuple[BufferHandle, int]:
        return self, 0


Argument = Any
"""int (one word), float (f32 bits, one word), BufferRef, BufferHandle or (BufferHandle | BufferRef, byte offset)."""

Access = Any
"""BufferHandle (all of it), (BufferHandle, byte offset, bytes) for a part, or BufferRef (reads only)."""


@dataclass(frozen=True)
class View:
    """An array of a Python step: a buffer, seen with a dtype and a shape from a byte offset on."""

    buffer: BufferHandle | BufferRef
    dtype: Any
    shape: tuple[int, ...]
    offset: int = 0


@dataclass
class _Step:
    info: StepInfo
    address: int
    args: tuple[Argument, ...]
    reads: list[tuple[BufferHandle, int, int]]
    writes: list[tuple[BufferHandle, int, int]]
    disjoint: bool = False
    function: PythonFunction | None = None
    views: tuple[tuple[View, ...], tuple[View, ...]] = ((), ())


class _Bytes(NamedTuple):
    """What a step accesses: bytes begin to end of a base. disjoint_in: the buffer in which it writes only what no other
    disjoint step does."""

    base: int
    begin: int
    end: int
    disjoint_in: BufferHandle | None = None


class ProgramBuilder:
    """Collects the steps of one binding, in order of execution.

    Args:
        inputs, outputs: the arrays of a call.
        constants: shared by the bindings of a program; by default the builder's own.
        name: for error messages and `describe`.
    """

    def __init__(
        self,
        inputs: Sequence[ArraySpec],
        outputs: Sequence[ArraySpec],
        constants: Constants | None = None,
        name: str = "program",
        runner: Runner = run_steps,
    ) -> None:
        self.name, self._runner = name, runner
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._constants = constants or Constants()
        self._own = Constants()
        self._buffers: list[BufferHandle] = []
        self._placement: list[tuple[int, int | None]] = []
        self._steps: list[_Step] = []
        self._keep: list[Any] = []

    # -- memory ---------------------------------------------------------------------------------------------------

    def constant(self, array: np.ndarray, alignment: int = ALIGNMENT) -> BufferRef:
        """Bytes that never change. Equal bytes share one place."""
        offset = self._constants.add(array, alignment)
        if offset is not None:
            return BufferRef(CONSTANTS, offset, array.nbytes)
        offset = self._own.add(array, alignment)
        assert offset is not None
        return BufferRef(FIRST_INPUT + len(self._inputs) + len(self._outputs), offset, array.nbytes)

    def deferred(self, key: str, nbytes: int, fill: Fill) -> BufferRef:
        """Bytes that never change, written by fill(u8[nbytes], zeros so far) when the program is finished. Equal keys
        share one place."""
        offset = self._constants.defer(key, nbytes, fill)
        if offset is not None:
            return BufferRef(CONSTANTS, offset, nbytes)
        offset = self._own.defer(key, nbytes, fill)
        assert offset is not None
        return BufferRef(FIRST_INPUT + len(self._inputs) + len(self._outputs), offset, nbytes)

    def buffer(
        self, nbytes: int, name: str = "", *, alignment: int = ALIGNMENT, alias: BufferHandle | None = None
    ) -> BufferHandle:
        """Bytes of the arena, alive from the first step that touches them to the last. alias: a buffer whose memory
        this one takes over, from its first byte on (an in-place result)."""
        if alias is not None:
            self._own_handle(alias)
            if alias.kind != "arena":
                raise LoweringError("only a buffer of the arena can be aliased", where=self.name, got=alias.name)
        index = len(self._buffers)
        handle = BufferHandle("arena", index, _nonnegative(nbytes, "buffer size"), name or f"buffer{index}")
        self._buffers.append(handle)
        self._placement.append((alignment, None if alias is None else alias.index))
        return handle

    def input(self, index: int) -> BufferHandle:
        """The memory of an input; never written."""
        return self._array("input", self._inputs, index)

    def output(self, index: int) -> BufferHandle:
        """The memory of an output; holds garbage until written."""
        return self._array("output", self._outputs, index)

    def _array(self, kind: str, specs: tuple[ArraySpec, ...], index: int) -> BufferHandle:
        if not 0 <= index < len(specs):
            raise LoweringError(f"no such {kind}", where=self.name, expected=f"0..{len(specs) - 1}", got=index)
        return BufferHandle(kind, index, specs[index].nbytes, specs[index].name or f"{kind}{index}")

    # -- steps ----------------------------------------------------------------------------------------------------

    def step(
        self,
        kernel_address: Any,
        args: Sequence[Argument],
        *,
        reads: Sequence[Access] = (),
        writes: Sequence[Access] = (),
        name: str = "",
        node: str = "",
        kernel: str = "",
        macs: int = 0,
        bytes: int = 0,
        disjoint: bool = False,
    ) -> None:
        """Append a call of a kernel.

        Args:
            kernel_address: an address, or an object with `.address` and `.name` (a CompiledKernel): it is kept alive.
            args: the words of its argument block, see `Argument`.
            reads, writes: every buffer, input or output that it touches; scratch memory is in both.
            name, node, kernel: what `describe` prints: the step, the graph's node, the kernel.
            macs, bytes: multiply-accumulates and bytes moved, for reports.
            disjoint: its writes share no byte with those of other disjoint steps in the same buffer, whatever ranges
                they give.
        """
        address = kernel_address
        if not isinstance(kernel_address, int):
            address = kernel_address.address
            kernel = kernel or kernel_address.name
            self._keep.append(kernel_address)
        step = _Step(
            StepInfo(name or node or kernel or f"step{len(self._steps)}", kernel, node, int(macs), int(bytes)),
            int(address),
            tuple(args),
            self._ranges(reads, name),
            self._ranges(writes, name),
            disjoint,
        )
        if not address:
            raise LoweringError("a kernel has no address", where=self._where(step))
        self._check_args(step)
        self._append(step)

    def python_step(
        self,
        function: PythonFunction,
        *,
        reads: Sequence[View] = (),
        writes: Sequence[View] = (),
        name: str = "",
        node: str = "",
    ) -> None:
        """Append a call of function(read arrays, arrays to fill). It must not keep the arrays: the memory is reused."""
        label = name or node or getattr(function, "__name__", "python")
        step = _Step(
            StepInfo(label, "python", node),
            0,
            (),
            self._ranges([_range_of(view) for view in reads], label),
            self._ranges([_range_of(view) for view in writes], label),
            False,
            function,
            (tuple(reads), tuple(writes)),
        )
        self._append(step)

    def _append(self, step: _Step) -> None:
        for handle, _, _ in step.writes:
            if handle.kind == "input":
                raise LoweringError("a step writes to an input", where=self._where(step), got=handle.name)
        self._steps.append(step)

    def _where(self, step: _Step) -> str:
        return f"{self.name}, step {step.info.name}" + (f" (node {step.info.node})" if step.info.node else "")

    def _own_handle(self, handle: BufferHandle) -> None:
        if handle.kind == "arena" and (handle.index >= len(self._buffers) or self._buffers[handle.index] != handle):
            raise LoweringError("a buffer of another program", where=self.name, got=handle.name)

    def _ranges(self, accesses: Sequence[Access], name: str) -> list[tuple[BufferHandle, int, int]]:
        """Accesses as (handle, begin, end); constants drop out."""
        found = []
        for access in accesses:
            handle, offset, nbytes = access if isinstance(access, tuple) else (access, 0, access.nbytes)
            if isinstance(handle, BufferRef):
                continue
            self._own_handle(handle)
            if offset < 0 or nbytes < 0 or offset + nbytes > handle.nbytes:
                raise LoweringError(
                    "an access outside a buffer",
                    where=f"{self.name}, step {name}, {handle.name}",
                    expected=f"within {handle.nbytes} bytes",
                    got=f"bytes {offset} to {offset + nbytes}",
                )
            found.append((handle, offset, offset + nbytes))
        return found

    def _check_args(self, step: _Step) -> None:
        touched = {handle for handle, _, _ in (*step.reads, *step.writes)}
        for position, argument in enumerate(step.args):
            target, offset = argument if isinstance(argument, tuple) else (argument, 0)
            if isinstance(target, BufferHandle) and target not in touched:
                raise LoweringError(
                    "an argument points to a buffer that the step says it neither reads nor writes",
                    where=f"{self._where(step)}, argument {position}",
                    got=target.name,
                )
            if isinstance(target, BufferHandle | BufferRef) and not 0 <= offset <= target.nbytes:
                raise LoweringError(
                    "an argument points outside its buffer",
                    where=f"{self._where(step)}, argument {position}",
                    expected=f"0..{target.nbytes}",
                    got=offset,
                )

    # -- finish ---------------------------------------------------------------------------------------------------

    def finish(self, *, poison: bool | None = None, guard: bool | None = None) -> BoundProgram:
        """Plan memory, place barriers and write the tables.

        poison, guard: debugging of memory, by default as QC_POISON and QC_GUARD say. poison fills the arena with 0xA5
        before each run; guard also puts every buffer between pages that fault, and checks the bytes up to them.
        """
        knobs = debug_memory()
        guard = knobs[1] if guard is None else guard
        poison = guard or (knobs[0] if poison is None else poison)
        self._check_order()
        plan, guards = self._plan(guard)
        barriers = self._barriers(plan)
        args, starts = self._arguments(plan)
        table, segments = self._tables(plan, barriers, args, starts)
        named = tuple((h.name, o, h.nbytes) for h, o in zip(self._buffers, plan.offsets)) if guard else ()
        own = self._own.seal()
        return BoundProgram(
            name=self.name,
            inputs=self._inputs,
            outputs=self._outputs,
            steps=tuple(replace(step.info, barrier=flag) for step, flag in zip(self._steps, barriers)),
            segments=segments,
            layout=ArenaLayout(plan.total, plan.lower_bound, named, guards, poison),
            constants=self._constants.seal(),
            extra=own if own.data.nbytes else None,
            table=table,
            args=args,
            keep=tuple(self._keep),
            runner=self._runner,
        )

    def _root(self, index: int) -> int:
        alias = self._placement[index][1]
        return index if alias is None else self._root(alias)

    def _place(self, handle: BufferHandle) -> tuple[str, int]:
        """What a handle names, aliases taken as one."""
        return (handle.kind, self._root(handle.index) if handle.kind == "arena" else handle.index)

    def _check_order(self) -> None:
        """Nothing is read before it is written, and every output is written."""
        written = {("input", index) for index in range(len(self._inputs))}
        for step in self._steps:
            written |= {self._place(handle) for handle, _, _ in step.writes}
            for handle, _, _ in step.reads:
                if self._place(handle) not in written:
                    raise LoweringError("a step reads what was never written", where=self._where(step), got=handle.name)
        for index, spec in enumerate(self._outputs):
            if spec.nbytes and ("output", index) not in written:
                raise LoweringError("no step writes an output", where=self.name, got=self.output(index).name)

    def _plan(self, guard: bool) -> tuple[Plan, tuple[int, ...]]:
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for number, step in enumerate(self._steps):
            for handle, _, _ in (*step.reads, *step.writes):
                if handle.kind == "arena":
                    first.setdefault(handle.index, number)
                    last[handle.index] = number
        buffers = [
            Buffer(handle.nbytes, first[index], last[index], *self._placement[index])
            if index in first
            else Buffer(0, *self._idle(index, first, last), *self._placement[index])
            for index, handle in enumerate(self._buffers)
        ]
        return plan_guarded(buffers) if guard else (plan_arena(buffers), ())

    def _idle(self, index: int, first: dict[int, int], last: dict[int, int]) -> tuple[int, int]:
        """Steps for a buffer that none touches: such that its alias group lives no longer."""
        group = [i for i in first if self._root(i) == self._root(index)]
        return (first[group[0]], first[group[0]]) if group else (0, 0)

    def _base(self, handle: BufferHandle) -> int:
        if handle.kind == "arena":
            return ARENA
        return FIRST_INPUT + handle.index + (len(self._inputs) if handle.kind == "output" else 0)

    def _physical(
        self, ranges: list[tuple[BufferHandle, int, int]], plan: Plan, disjoint: bool = False
    ) -> list[_Bytes]:
        """Accesses in the memory that they really touch, empty ones dropped. disjoint: they are a disjoint step's
        writes."""
        found = []
        for handle, begin, end in ranges:
            shift = plan.offsets[handle.index] if handle.kind == "arena" else 0
            if begin < end:
                found.append(_Bytes(self._base(handle), begin + shift, end + shift, handle if disjoint else None))
        return found

    def _barriers(self, plan: Plan) -> list[bool]:
        """Whether a barrier follows each step: as late as possible before a step that depends on one since the last
        barrier. Memory that the plan uses again counts, because ranges are compared where they lie."""
        flags = [False] * len(self._steps)
        read: list[_Bytes] = []
        written: list[_Bytes] = []
        for number, step in enumerate(self._steps):
            if step.function is not None:
                read, written = [], []
                continue
            reads, writes = self._physical(step.reads, plan), self._physical(step.writes, plan, step.disjoint)
            if _touch(reads, written) or _touch(writes, written) or _touch(writes, read):
                flags[number - 1] = True
                read, written = [], []
            read += reads
            written += writes
        return flags

    def _arguments(self, plan: Plan) -> tuple[np.ndarray, list[int]]:
        """All argument blocks in one array, padded to 64 bytes each, and where each begins (in words)."""
        words: list[int] = []
        starts = []
        for step in self._steps:
            starts.append(len(words))
            for position, argument in enumerate(step.args):
                words += self._words(argument, plan, step, position)
            words += [0] * (-len(words) % 8)
        return np.array(words, np.int64), starts

    def _words(self, argument: Argument, plan: Plan, step: _Step, position: int) -> list[int]:
        target, extra = argument if isinstance(argument, tuple) else (argument, 0)
        if isinstance(target, BufferRef):
            return [target.base, target.offset + extra]
        if isinstance(target, BufferHandle):
            shift = plan.offsets[target.index] if target.kind == "arena" else 0
            return [self._base(target), shift + extra]
        if isinstance(target, float | np.floating):
            return [struct.unpack("<I", struct.pack("<f", target))[0]]
        try:
            word = operator.index(target)
            struct.pack("<q", word)
        except (TypeError, struct.error):
            raise LoweringError(
                "a bad argument of a kernel",
                where=f"{self._where(step)}, argument {position}",
                expected="an i64, an f32, a buffer or (buffer, byte offset)",
                got=repr(argument),
            ) from None
        return [word]

    def _tables(
        self, plan: Plan, barriers: list[bool], args: np.ndarray, starts: list[int]
    ) -> tuple[np.ndarray, tuple[Segment, ...]]:
        rows: list[tuple[int, int, int]] = []
        segments: list[Segment] = []
        for number, step in enumerate(self._steps):
            if step.function is not None:
                reads, writes = (tuple(self._view(view, plan) for view in views) for views in step.views)
                segments.append(PythonSegment(number, step.function, reads, writes))
                continue
            last = segments[-1] if segments else None
            if isinstance(last, NativeSegment):
                segments[-1] = NativeSegment(last.step, last.first, last.count + 1)
            else:
                segments.append(NativeSegment(number, len(rows), 1))
            rows.append((step.address, args.ctypes.data + 8 * starts[number], flags_of(barriers[number])))
        return np.array(rows, np.int64).reshape(-1, 3), tuple(segments)

    def _view(self, view: View, plan: Plan) -> ArrayView:
        spec = ArraySpec(view.dtype, view.shape)
        if isinstance(view.buffer, BufferRef):
            return ArrayView(view.buffer.base, view.buffer.offset + view.offset, spec)
        shift = plan.offsets[view.buffer.index] if view.buffer.kind == "arena" else 0
        return ArrayView(self._base(view.buffer), shift + view.offset, spec)


def _nonnegative(value: int, what: str) -> int:
    number = operator.index(value)
    if number < 0:
        raise LoweringError(f"a negative {what}", got=number)
    return number


def _range_of(view: View) -> Access:
    return (view.buffer, view.offset, ArraySpec(view.dtype, view.shape).nbytes)


def _touch(accesses: list[_Bytes], others: list[_Bytes]) -> bool:
    """Whether some share bytes, those aside that are disjoint in one buffer."""
    return any(
        one.base == other.base
        and one.begin < other.end
        and other.begin < one.end
        and (one.disjoint_in is None or one.disjoint_in != other.disjoint_in)
        for one in accesses
        for other in others
    )


@dataclass(eq=False)
class Program:
    """All bindings of a graph's symbolic sizes.

    lower(constants, sizes) gives the BoundProgram of one binding: it builds with ProgramBuilder(..., constants). The
    first binding seals the shared constants; what a later one adds is its own. The last `kept` bindings are cached.
    """

    lower: Callable[[Constants, Mapping[str, int]], BoundProgram]
    kept: int = 8
    constants: Constants = field(default_factory=Constants)
    _bound: OrderedDict[tuple[tuple[str, int], ...], BoundProgram] = field(default_factory=OrderedDict)
    _lock: Any = field(default_factory=threading.RLock)

    def adopt(self, sizes: Mapping[str, int], bound: BoundProgram, constants: Constants) -> None:
        """Take over a binding that was lowered elsewhere, and its constants, before any other."""
        self.constants = constants
        self._bound[tuple(sorted(sizes.items()))] = bound

    def bind(self, sizes: Mapping[str, int] | None = None) -> BoundProgram:
        """The program for these sizes, lowered when first asked for. Thread-safe."""
        key = tuple(sorted((sizes or {}).items()))
        with self._lock:
            if key in self._bound:
                self._bound.move_to_end(key)
                return self._bound[key]
            bound = self.lower(self.constants, dict(key))
            self._bound[key] = bound
            while len(self._bound) > self.kept:
                self._bound.popitem(last=False)
            return bound
