"""Builds program images: collects steps with what they read and write, plans the arena, places barriers.

builder = ProgramBuilder([ArraySpec(np.float32, (8,))], [ArraySpec(np.float32, (8,))])
table = builder.constant(values)
hidden = builder.buffer(32, "hidden")
builder.step(key, [builder.input(0), table, hidden, 8], reads=[builder.input(0)], writes=[hidden])
...
image = builder.finish()
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qcompiler import knobs
from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.kernel_ir.kernel_key import KernelKey
from qcompiler.backends.program.arena import ALIGNMENT, Buffer, Plan, plan_arena, plan_guarded
from qcompiler.backends.program.barriers import Access, Accesses, place_barriers
from qcompiler.backends.program.constants import Constants, Fill, content_key
from qcompiler.backends.program.image import (
    ARENA,
    CONSTANTS,
    FIRST_INPUT,
    NULL,
    Arena,
    Argument,
    ArraySpec,
    ArrayView,
    KernelStep,
    PlacedBuffer,
    Pointer,
    ProgramImage,
    PythonStep,
    Step,
)
from qcompiler.errors import LoweringError

MOST_BYTES = 2**46
"""The most bytes of all buffers of a program together: no process can address more than 2^47."""


@dataclass(frozen=True)
class BufferHandle(Memory):
    """A buffer of a program that is being built. kind: "input", "output", "constant" or "arena"; index: its number
    among those of its kind."""

    kind: str
    index: int
    nbytes: int
    name: str

    @property
    def pointer(self) -> tuple[BufferHandle, int]:
        """Its first byte, as an argument of a kernel."""
        return self, 0


BuilderArgument = Any
"""int (one word), float (f32 bits, one word), None (a null pointer), BufferHandle or (BufferHandle, byte offset)."""

BuilderAccess = BufferHandle | tuple[BufferHandle, int, int]
"""All of a buffer, or (buffer, byte offset, bytes) for a part."""


@dataclass(frozen=True)
class View:
    """An array of a Python step: a buffer, seen with a dtype, a shape and strides from a byte offset on. strides: bytes
    along each axis; None if the array is row major."""

    buffer: BufferHandle
    dtype: Any
    shape: tuple[int, ...]
    offset: int = 0
    strides: tuple[int, ...] | None = None


@dataclass(frozen=True)
class _Range:
    """The bytes begin to end of a buffer."""

    buffer: BufferHandle
    begin: int
    end: int


@dataclass
class _Step:
    node: str
    reads: list[_Range]
    writes: list[_Range]
    key: KernelKey[Any] | None = None
    args: tuple[BuilderArgument, ...] = ()
    macs: int = 0
    bytes: int = 0
    disjoint: bool = False
    views: tuple[tuple[View, ...], tuple[View, ...]] = ((), ())


@dataclass(frozen=True)
class _ArenaBuffer:
    """A buffer of the arena. alias: index of the buffer whose memory it shares."""

    handle: BufferHandle
    alignment: int
    alias: int | None


@dataclass
class _Plan:
    """The arena's plan, and the index of each handle in the image's buffers."""

    arena: Plan
    guards: tuple[int, ...]
    numbers: dict[BufferHandle, int] = field(default_factory=dict)


class ProgramBuilder:
    """Collects the steps of one binding of sizes, in order of execution.

    Args:
        inputs, outputs: the arrays of a call.
        constants: shared with the other bindings; by default the builder's own.
        name, target, sizes: those of the image.

    Attributes:
        own: the constants of this binding that were added after the shared block was closed.
    """

    def __init__(
        self,
        inputs: Sequence[ArraySpec],
        outputs: Sequence[ArraySpec],
        constants: Constants | None = None,
        name: str = "program",
        target: str = "",
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.name = name
        self.own = Constants()
        self._target, self._sizes = target, tuple((sizes or {}).items())
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._constants = constants or Constants()
        self._placed: list[PlacedBuffer] = []
        self._handles: dict[str, BufferHandle] = {}
        self._buffers: list[_ArenaBuffer] = []
        self._empty: set[tuple[str, int]] = set()
        self._steps: list[_Step] = []

    # -- memory ---------------------------------------------------------------------------------------------------

    def constant(self, array: np.ndarray) -> BufferHandle:
        """Add a constant. Constants with equal bytes share memory."""
        key, fill = content_key(array)
        return self.deferred(key, array.nbytes, fill)

    def deferred(self, key: str, nbytes: int, fill: Fill) -> BufferHandle:
        """Add a constant that fill(u8[nbytes] of zeros) writes when the block of constants is packed, at the first
        link. Constants with equal keys share memory."""
        if key not in self._handles:
            base, offset = CONSTANTS, self._constants.add(key, nbytes, fill)
            if offset is None:
                base = FIRST_INPUT + len(self._inputs) + len(self._outputs)
                offset = self.own.add(key, nbytes, fill)
            assert offset is not None  # the builder's own block is open
            self._handles[key] = BufferHandle("constant", len(self._placed), nbytes, key)
            self._placed.append(PlacedBuffer(key, base, offset, nbytes))
        return self._handles[key]

    def buffer(
        self,
        nbytes: int,
        name: str = "",
        *,
        alignment: int = ALIGNMENT,
        alias: BufferHandle | None = None,
        is_empty: bool = False,
    ) -> BufferHandle:
        """Add a buffer of the arena, alive from the first step that touches it to the last.

        Args:
            alias: a buffer whose memory this one shares, from its first byte on (an in-place result).
            is_empty: the buffer is for an array without elements. Its bytes only serve reads past the end, so it may be
                read without being written.
        """
        if alias is not None:
            self._check_own(alias)
            if alias.kind != "arena":
                raise LoweringError("only a buffer of the arena can be aliased", where=self.name, got=alias.name)
        index = len(self._buffers)
        handle = BufferHandle("arena", index, _nonnegative(nbytes, "buffer size"), name or f"buffer{index}")
        self._check_room(handle.nbytes, handle.name)
        self._buffers.append(_ArenaBuffer(handle, alignment, None if alias is None else alias.index))
        if is_empty:
            self._empty.add(self._memory_of(handle))
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
        key: KernelKey[Any],
        args: Sequence[BuilderArgument],
        *,
        reads: Sequence[BuilderAccess] = (),
        writes: Sequence[BuilderAccess] = (),
        node: str = "",
        macs: int = 0,
        bytes: int = 0,
        disjoint: bool = False,
    ) -> None:
        """Append a call of a kernel.

        Args:
            args: in the order of the kernel's parameters, see `BuilderArgument`.
            reads, writes: every buffer, input or output that the step touches; scratch memory is in both.
            node: the name of the graph's node.
            macs, bytes: multiply-accumulates and bytes moved, for reports and for the number of threads
                (`ProgramImage.work`).
            disjoint: its writes share no byte with those of other disjoint steps in the same buffer, even if the ranges
                that they give overlap.
        """
        label = node or key.name
        step = _Step(
            node,
            self._ranges(reads, label),
            self._ranges(writes, label),
            key,
            tuple(args),
            int(macs),
            int(bytes),
            disjoint,
        )
        self._check_args(step)
        self._append(step)

    def python_step(self, node: str, *, reads: Sequence[View] = (), writes: Sequence[View] = ()) -> None:
        """Append a step that runs in Python. `link` gets its function, of (arrays to read, arrays to fill), by the
        node's name. The function must not keep the arrays, because their memory is reused."""
        step = _Step(
            node,
            self._ranges([_range_of(view) for view in reads], node),
            self._ranges([_range_of(view) for view in writes], node),
            views=(tuple(reads), tuple(writes)),
        )
        self._append(step)

    def _append(self, step: _Step) -> None:
        for written in step.writes:
            if written.buffer.kind == "input":
                raise LoweringError("a step writes to an input", where=self._where(step), got=written.buffer.name)
        self._steps.append(step)

    def _where(self, step: _Step) -> str:
        node = f" (node {step.node})" if step.node else ""
        return f"{self.name}, step {step.node if step.key is None else step.key.name}{node}"

    def _check_own(self, handle: BufferHandle) -> None:
        if handle.kind == "arena":
            known = handle.index < len(self._buffers) and self._buffers[handle.index].handle == handle
        else:
            known = handle.kind != "constant" or self._handles.get(handle.name) == handle
        if not known:
            raise LoweringError("a buffer of another program", where=self.name, got=handle.name)

    def _ranges(self, accesses: Sequence[BuilderAccess], name: str) -> list[_Range]:
        """Accesses as ranges of bytes; constants are left out."""
        found = []
        for access in accesses:
            handle, offset, nbytes = access if isinstance(access, tuple) else (access, 0, access.nbytes)
            self._check_own(handle)
            if handle.kind == "constant":
                continue
            if offset < 0 or nbytes < 0 or offset + nbytes > handle.nbytes:
                raise LoweringError(
                    "an access outside a buffer",
                    where=f"{self.name}, step {name}, {handle.name}",
                    expected=f"within {handle.nbytes} bytes",
                    got=f"bytes {offset} to {offset + nbytes}",
                )
            found.append(_Range(handle, offset, offset + nbytes))
        return found

    def _check_args(self, step: _Step) -> None:
        touched = {each.buffer for each in (*step.reads, *step.writes)}
        for position, argument in enumerate(step.args):
            target, offset = argument if isinstance(argument, tuple) else (argument, 0)
            if not isinstance(target, BufferHandle):
                continue
            if target.kind != "constant" and target not in touched:
                raise LoweringError(
                    "an argument points to a buffer that the step says it neither reads nor writes",
                    where=f"{self._where(step)}, argument {position}",
                    got=target.name,
                )
            if not 0 <= offset <= target.nbytes:
                raise LoweringError(
                    "an argument points outside its buffer",
                    where=f"{self._where(step)}, argument {position}",
                    expected=f"0..{target.nbytes}",
                    got=offset,
                )

    # -- finish ---------------------------------------------------------------------------------------------------

    def finish(self, *, guard: bool | None = None) -> ProgramImage:
        """Plan the arena and place barriers. Closes the shared constants.

        guard: whether every buffer of the arena lies between pages that fault, for debugging; by default as QC_GUARD
            says.
        """
        self._check_order()
        self._check_room(sum(each.handle.nbytes for each in self._buffers), "all buffers together")
        arena, guards = self._plan(knobs.GUARD.get() if guard is None else guard)
        plan = _Plan(arena, guards)
        buffers = self._placed_buffers(plan)
        barriers = place_barriers([self._accesses(step, arena) for step in self._steps])
        self._constants.close()
        self.own.close()
        return ProgramImage(
            name=self.name,
            target=self._target,
            sizes=self._sizes,
            inputs=self._inputs,
            outputs=self._outputs,
            buffers=tuple(buffers),
            steps=tuple(self._finished(step, flag, plan) for step, flag in zip(self._steps, barriers)),
            arena=Arena(arena.total, arena.lower_bound, guards),
            constant_bytes=self._constants.nbytes,
            own_constant_bytes=self.own.nbytes,
        )

    def _check_room(self, nbytes: int, what: str) -> None:
        if nbytes > MOST_BYTES:
            raise LoweringError(
                "a program needs more memory than a process can address",
                where=f"{self.name}, {what}",
                expected=f"at most {MOST_BYTES:,} bytes",
                got=f"{nbytes:,} bytes",
                hint="smaller sizes, such as that of a padding",
            )

    def _root(self, index: int) -> int:
        alias = self._buffers[index].alias
        return index if alias is None else self._root(alias)

    def _memory_of(self, handle: BufferHandle) -> tuple[str, int]:
        """A name for the memory of a handle, which aliases share."""
        return (handle.kind, self._root(handle.index) if handle.kind == "arena" else handle.index)

    def _check_order(self) -> None:
        """Check that nothing is read before it is written, and that every output is written."""
        written = {("input", index) for index in range(len(self._inputs))} | self._empty
        for step in self._steps:
            written |= {self._memory_of(each.buffer) for each in step.writes}
            for each in step.reads:
                if self._memory_of(each.buffer) not in written:
                    raise LoweringError(
                        "a step reads what was never written", where=self._where(step), got=each.buffer.name
                    )
        for index, spec in enumerate(self._outputs):
            if spec.nbytes and ("output", index) not in written:
                raise LoweringError("no step writes an output", where=self.name, got=self.output(index).name)

    def _plan(self, guard: bool) -> tuple[Plan, tuple[int, ...]]:
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for number, step in enumerate(self._steps):
            for each in (*step.reads, *step.writes):
                if each.buffer.kind == "arena":
                    first.setdefault(each.buffer.index, number)
                    last[each.buffer.index] = number
        buffers = [
            Buffer(each.handle.nbytes, first[index], last[index], each.alignment, each.alias)
            if index in first
            else Buffer(0, *self._idle(index, first), each.alignment, each.alias)
            for index, each in enumerate(self._buffers)
        ]
        return plan_guarded(buffers) if guard else (plan_arena(buffers), ())

    def _idle(self, index: int, first: dict[int, int]) -> tuple[int, int]:
        """The first and last step of a buffer that no step touches, chosen so that its alias group lives no longer."""
        group = [i for i in first if self._root(i) == self._root(index)]
        return (first[group[0]], first[group[0]]) if group else (0, 0)

    def _base(self, handle: BufferHandle) -> int:
        if handle.kind == "arena":
            return ARENA
        return FIRST_INPUT + handle.index + (len(self._inputs) if handle.kind == "output" else 0)

    def _placed_buffers(self, plan: _Plan) -> list[PlacedBuffer]:
        """Inputs, outputs, constants, and the buffers of the arena that steps touch."""
        arrays = [self.input(index) for index in range(len(self._inputs))]
        arrays += [self.output(index) for index in range(len(self._outputs))]
        touched = {each.buffer for step in self._steps for each in (*step.reads, *step.writes)}
        placed = [
            *((handle, PlacedBuffer(handle.name, self._base(handle), 0, handle.nbytes)) for handle in arrays),
            *((self._handles[constant.name], constant) for constant in self._placed),
            *(
                (each.handle, PlacedBuffer(each.handle.name, ARENA, offset, each.handle.nbytes))
                for each, offset in zip(self._buffers, plan.arena.offsets)
                if each.handle in touched
            ),
        ]
        plan.numbers.update((handle, number) for number, (handle, _) in enumerate(placed))
        return [buffer for _, buffer in placed]

    def _accesses(self, step: _Step, plan: Plan) -> Accesses:
        """The physical bytes that a step touches, without empty accesses."""

        def physical(ranges: list[_Range], disjoint: bool = False) -> list[Access]:
            found = []
            for each in ranges:
                shift = plan.offsets[each.buffer.index] if each.buffer.kind == "arena" else 0
                if each.begin < each.end:
                    base = self._base(each.buffer)
                    found.append(Access(base, each.begin + shift, each.end + shift, each.buffer if disjoint else None))
            return found

        return Accesses(physical(step.reads), physical(step.writes, step.disjoint), alone=step.key is None)

    def _finished(self, step: _Step, barrier: bool, plan: _Plan) -> Step:
        if step.key is None:
            reads, writes = (
                tuple(
                    ArrayView(plan.numbers[view.buffer], view.offset, ArraySpec(view.dtype, view.shape), view.strides)
                    for view in views
                )
                for views in step.views
            )
            return PythonStep(step.node, reads, writes)
        return KernelStep(
            step.key,
            step.node,
            tuple(self._argument(argument, plan, step, position) for position, argument in enumerate(step.args)),
            tuple(dict.fromkeys(plan.numbers[each.buffer] for each in step.writes)),
            step.macs,
            step.bytes,
            barrier,
        )

    def _argument(self, argument: BuilderArgument, plan: _Plan, step: _Step, position: int) -> Argument:
        target, offset = argument if isinstance(argument, tuple) else (argument, 0)
        if target is None:
            return NULL
        if isinstance(target, BufferHandle):
            return Pointer(plan.numbers[target], offset)
        if isinstance(target, float | np.floating):
            return float(target)
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
        return word


def _nonnegative(value: int, what: str) -> int:
    number = operator.index(value)
    if number < 0:
        raise LoweringError(f"a negative {what}", got=number)
    return number


def _range_of(view: View) -> BuilderAccess:
    spec = ArraySpec(view.dtype, view.shape)
    return (view.buffer, view.offset, spec.nbytes if view.strides is None else spec.extent(view.strides))
