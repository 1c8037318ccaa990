"""Builds program images: collects steps with what they read and write, plans the arena, places barriers.

builder = ProgramBuilder([ArraySpec(np.float32, (8,))], [ArraySpec(np.float32, (8,))])
table = builder.constant(values)
hidden = builder.buffer(32, "hidden")
builder.step(key, [builder.input(0), table, hidden, 8], reads=[builder.input(0)], writes=[hidden])
...
image = builder.finish()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qcompiler.backends.kernel_ir.kernel_key import KernelKey
from qcompiler.backends.program.arena import ALIGNMENT
from qcompiler.backends.program.constants import Constants, Fill, content_key, fill_with
from qcompiler.backends.program.image import ArraySpec, ProgramImage
from qcompiler.backends.program.recorded import (
    ArenaBuffer,
    BufferHandle,
    BuilderAccess,
    BuilderArgument,
    Range,
    RecordedConstant,
    RecordedStep,
    Table,
    View,
)
from qcompiler.backends.program.template import ImageTemplate, Recorded, array_handle, check_room, where_of
from qcompiler.errors import LoweringError
from qcompiler.traced_size import Trace, concrete, is_traced, whole


class ProgramBuilder:
    """Collects the steps of one binding of sizes, in order of execution.

    Args:
        inputs, outputs: the arrays of a call.
        constants: shared with the other bindings; by default the builder's own.
        name, target, sizes: those of the image.
        trace: the trace of the sizes, if they are traced.

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
        trace: Trace | None = None,
    ) -> None:
        self.name = name
        self.own = Constants()
        self._target, self._sizes, self._trace = target, tuple((sizes or {}).items()), trace
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._constants = constants or Constants()
        self._recorded_constants: list[RecordedConstant] = []
        self._handles: dict[str, BufferHandle] = {}
        self._tables: dict[Callable[..., np.ndarray], list[tuple[tuple[int, ...], BufferHandle]]] = {}
        self._buffers: list[ArenaBuffer] = []
        self._empty: list[int] = []
        self._steps: list[RecordedStep] = []

    # -- memory ---------------------------------------------------------------------------------------------------

    def constant(self, array: np.ndarray) -> BufferHandle:
        """Add a constant. Constants with equal bytes share memory."""
        key, fill = content_key(array)
        return self.deferred(key, array.nbytes, fill)

    def deferred(self, key: str, nbytes: int, fill: Fill) -> BufferHandle:
        """Add a constant that fill(u8[nbytes] of zeros) writes when the block of constants is packed, at the first
        link. Constants with equal keys share memory."""
        if key not in self._handles:
            self._add_constant(RecordedConstant(key, nbytes, fill))
        return self._handles[key]

    def table(self, function: Callable[..., np.ndarray], *args: Any) -> BufferHandle:
        """Add a constant that a function of a module computes of ints. Tables of equal functions and ints share
        memory; in one program, those of sizes that happen to be equal are listed twice."""
        made = self._tables.setdefault(function, [])
        for known, handle in made:
            if all(
                mine is its or not is_traced(mine) and not is_traced(its) and mine == its
                for mine, its in zip(known, args)
            ):
                return handle
        table = Table(function, tuple(map(concrete, args)))
        array, of_sizes = table.array(), any(map(is_traced, args))
        handle = self._add_constant(
            RecordedConstant(table.key, array.nbytes, fill_with(array), Table(function, args) if of_sizes else None)
        )
        made.append((args, handle))
        return handle

    def _add_constant(self, constant: RecordedConstant) -> BufferHandle:
        handle = BufferHandle("constant", len(self._recorded_constants), constant.nbytes, constant.key)
        self._handles[constant.key] = handle
        self._recorded_constants.append(constant)
        return handle

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
        check_room(self.name, handle.nbytes, handle.name)
        self._buffers.append(ArenaBuffer(handle, alignment, None if alias is None else alias.index))
        if is_empty:
            self._empty.append(index)
        return handle

    def input(self, index: int) -> BufferHandle:
        """The memory of an input; never written."""
        return self._array("input", self._inputs, index)

    def output(self, index: int) -> BufferHandle:
        """The memory of an output; holds garbage until written."""
        return self._array("output", self._outputs, index)

    def _array(self, kind: str, specs: tuple[ArraySpec, ...], index: int) -> BufferHandle:
        return array_handle(self.name, kind, specs, index)

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
        step = RecordedStep(
            node,
            self._ranges(reads, label),
            self._ranges(writes, label),
            key,
            tuple(args),
            whole(macs),
            whole(bytes),
            disjoint,
        )
        self._check_args(step)
        self._append(step)

    def python_step(self, node: str, *, reads: Sequence[View] = (), writes: Sequence[View] = ()) -> None:
        """Append a step that runs in Python. `link` gets its function, of (arrays to read, arrays to fill), by the
        node's name. The function must not keep the arrays, because their memory is reused."""
        step = RecordedStep(
            node,
            self._ranges([_range_of(view) for view in reads], node),
            self._ranges([_range_of(view) for view in writes], node),
            views=(tuple(reads), tuple(writes)),
        )
        self._append(step)

    def _append(self, step: RecordedStep) -> None:
        for written in step.writes:
            if written.buffer.kind == "input":
                raise LoweringError("a step writes to an input", where=self._where(step), got=written.buffer.name)
        self._steps.append(step)

    def _where(self, step: RecordedStep) -> str:
        return where_of(self.name, step)

    def _check_own(self, handle: BufferHandle) -> None:
        if handle.kind == "arena":
            known = handle.index < len(self._buffers) and self._buffers[handle.index].handle is handle
        else:
            known = handle.kind != "constant" or (
                handle.index < len(self._recorded_constants)
                and self._recorded_constants[handle.index].key == handle.name
            )
        if not known:
            raise LoweringError("a buffer of another program", where=self.name, got=handle.name)

    def _ranges(self, accesses: Sequence[BuilderAccess], name: str) -> list[Range]:
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
            found.append(Range(handle, offset, offset + nbytes))
        return found

    def _check_args(self, step: RecordedStep) -> None:
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

    def template(self) -> ImageTemplate:
        """What gives the program's images. Nothing may be added afterwards."""
        recorded = Recorded(
            self.name,
            self._target,
            self._sizes,
            self._inputs,
            self._outputs,
            tuple(self._recorded_constants),
            tuple(self._buffers),
            tuple(self._empty),
            tuple(self._steps),
        )
        return ImageTemplate(recorded, self._constants, self._trace)

    def finish(self, *, guard: bool | None = None) -> ProgramImage:
        """Plan the arena and place barriers. Closes the shared constants. The constants that were added after they had
        been closed are in `own`.

        guard: whether every buffer of the arena lies between pages that fault, for debugging; by default as QC_GUARD
            says.
        """
        made = self.template().image(guard=guard)
        assert made is not None  # a builder's own sizes pass all guards
        image, self.own = made
        return image


def _nonnegative(value: int, what: str) -> int:
    number = whole(value)
    if number < 0:
        raise LoweringError(f"a negative {what}", got=number)
    return number


def _range_of(view: View) -> BuilderAccess:
    spec = ArraySpec(view.dtype, view.shape)
    return (view.buffer, view.offset, spec.nbytes if view.strides is None else spec.extent(view.strides))
