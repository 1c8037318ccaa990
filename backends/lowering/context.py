"""How rules turn nodes into steps: the registry of rules, and what a rule sees of its node.

A rule is a function of `NodeLowering`, declared with the ops that it lowers and a predicate that says why it does not fit a
node:

    @lowers("global_avg_pool", unless=not_u8)
    def global_average(s: NodeLowering) -> None:
        x, y = s.operand(0), s.result()
        s.call(average, x=x, y=y, pixels=..., writes=("y",))

Rules are tried in the order of declaration. A node that none fits runs as a Python step, the op's numpy reference, and
the report says so. Kernels must not depend on symbolic sizes: everything that varies with a binding is an extent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.artifact.mapped_file import forget_pages
from qcompiler.backends.cache.kernels import KernelKey
from qcompiler.backends.kernel_ir.definition import KernelDef
from qcompiler.backends.lowering.views import (
    SLACK,
    TensorView,
    before_halo,
    bound_shape,
    layout_strides,
    row_major_strides,
    storage_bytes,
)
from qcompiler.backends.program.builder import BufferHandle, BufferRef, ProgramBuilder, View
from qcompiler.backends.target import Target
from qcompiler.errors import LoweringError
from qcompiler.interpreter import bound_attrs, evaluate_node
from qcompiler.ir import Const, Node, Value
from qcompiler.opdef import opdef
from qcompiler.types import DType, Layout, TensorType

if TYPE_CHECKING:
    from collections.abc import Iterator

RuleFunction = Callable[["NodeLowering"], None]
Refusal = Callable[[Node, Target], "str | None"]


@dataclass(frozen=True)
class Rule:
    """One way to lower some ops.

    Attributes:
        unless: why it does not fit a node, or None.
        strided: whether it writes the result of a node that it fits at whatever strides, and nothing between its
            elements, so that the result may lie within a larger buffer.
    """

    name: str
    function: RuleFunction
    unless: Refusal
    strided: Callable[[Node], bool]


_RULES: dict[str, list[Rule]] = {}
_LARGE = 1 << 16
"""Bytes from which a constant is copied when memory is planned, and not compared with others."""


def lowers(
    *ops: str, unless: Refusal = lambda node, target: None, strided: Callable[[Node], bool] = lambda node: False
) -> Callable[[RuleFunction], RuleFunction]:
    """Declare a rule for ops; see `Rule` and the module's docstring."""

    def declare(function: RuleFunction) -> RuleFunction:
        for op in ops:
            opdef(op)
            _RULES.setdefault(op, []).append(Rule(function.__name__, function, unless, strided))
        return function

    return declare


def find_rule(node: Node, target: Target) -> Rule | str:
    """The first rule that fits, or why none does."""
    from qcompiler.backends import rules

    rules.load()
    reasons = []
    for rule in _RULES.get(node.op, ()):
        reason = rule.unless(node, target)
        if reason is None:
            return rule
        reasons.append(f"{rule.name}: {reason}")
    return "; ".join(reasons) or f"no kernel for {node.op}"


def lowered_ops() -> frozenset[str]:
    """Ops that some rule lowers."""
    from qcompiler.backends import rules

    rules.load()
    return frozenset(_RULES)


# -- reasons that several rules share


def not_float(node: Node, target: Target) -> str | None:
    """Fits nodes whose operands and results are all plain f32 (index and optional operands aside)."""
    types = [v.type for v in (*node.operands, *node.results) if v is not None]
    wrong = [t for t in types if t.is_quantized or t.dtype is not DType.F32]
    return f"{wrong[0]} is not f32" if wrong else None


def not_u8(node: Node, target: Target) -> str | None:
    """Fits nodes whose first operand and results are u8 with per-tensor parameters."""
    for type in (node.operands[0].type, *(value.type for value in node.results)):
        if type.dtype is not DType.U8 or type.quant is None or type.quant.axis is not None:
            return f"{type} is not u8 with per-tensor parameters"
    return None


# -- what a rule sees


@dataclass
class Call:
    """A kernel call that waits for its kernel."""

    key: KernelKey
    args: list[Any]
    reads: list[Any]
    writes: list[Any]
    node: str
    macs: int
    bytes: int
    disjoint: bool


@dataclass
class PythonCall:
    """A node that runs as its numpy reference."""

    node: Node
    function: Callable[..., None]
    reads: list[View]
    writes: list[View]


@dataclass
class Lowering:
    """One binding being lowered: places of values, and calls in order. packed: arrays made from constants, shared by
    bindings."""

    builder: ProgramBuilder
    target: Target
    sizes: dict[str, int]
    packed: dict[tuple[str, str], np.ndarray]
    places: dict[Value, TensorView] = field(default_factory=dict)
    row_major: dict[Value, TensorView] = field(default_factory=dict)
    calls: list[Call | PythonCall] = field(default_factory=list)

    def shape(self, type: TensorType) -> tuple[int, ...]:
        return bound_shape(type, self.sizes)

    def place(self, value: Value) -> TensorView:
        """Where a value lies; constants are placed when first asked for."""
        if value not in self.places and isinstance(value, Const):
            ref = self._stored(value)
            self.places[value] = TensorView(
                ref, value.data.dtype, value.data.shape, row_major_strides(value.data.shape, value.data.itemsize)
            )
        return self.places[value]

    def _stored(self, value: Const) -> BufferRef:
        if value.data.nbytes < _LARGE:
            return self.builder.constant(value.data)

        def fill(block: np.ndarray) -> None:
            block.view(value.data.dtype).reshape(value.data.shape)[...] = value.data
            forget_pages(value.data)

        return self.builder.deferred(f"@{value.name}", value.data.nbytes, fill)

    def new(self, type: TensorType, name: str, layout: Layout | None) -> TensorView:
        """A buffer of the arena for a value of this type."""
        shape, dtype = self.shape(type), type.dtype.numpy
        handle = self.builder.buffer(storage_bytes(shape, dtype.itemsize, layout) + SLACK, name)
        strides = layout_strides(shape, dtype.itemsize, layout)
        return TensorView(handle, dtype, shape, strides, before_halo(strides, layout))


class NodeLowering:
    """One node, as its rule sees it: where its operands lie, its attrs and types with sizes bound, and calls of
    kernels.

    Attributes:
        node: the node. attrs: its attrs, symbolic sizes evaluated. target: what to emit for.
    """

    def __init__(self, lowering: Lowering, node: Node) -> None:
        self.lowering = lowering
        self.node = node
        self.target = lowering.target
        self.attrs: Mapping[str, Any] = bound_attrs(opdef(node.op), node.attrs, lowering.sizes)

    # -- operands and results

    def has(self, index: int) -> bool:
        """Whether operand `index` is given."""
        return index < len(self.node.operands) and self.node.operands[index] is not None

    def type(self, index: int) -> TensorType:
        """An operand's type, as in the graph (its shape may be symbolic)."""
        return self.node.operands[index].type

    @property
    def out(self) -> TensorType:
        """The first result's type."""
        return self.node.results[0].type

    def operand(self, index: int) -> TensorView:
        """An operand where it lies, in the layout of its type."""
        return self.lowering.place(self.node.operands[index])

    def row_major(self, index: int) -> TensorView:
        """An operand without gaps in the order of its shape; copied if it lies otherwise, once for all users."""
        value = self.node.operands[index]
        placed = self.lowering.place(value)
        if placed.is_row_major:
            return placed
        if value not in self.lowering.row_major:
            copy = self.lowering.new(value.type, f"{value.name}.row_major", None)
            self.copy(placed, copy)
            self.lowering.row_major[value] = copy
        return self.lowering.row_major[value]

    def channels_last(self, index: int, channel_stride: int) -> TensorView:
        """An operand of rank 3 or more with axis 1 innermost and pixels without gaps, but for the halo of its type;
        copied if it lies otherwise."""
        value = self.node.operands[index]
        placed = self.lowering.place(value)
        layout = Layout("channels_last", channel_stride)
        as_typed = layout if value.type.layout is None else replace(layout, halo=value.type.layout.halo)
        if placed.strides == layout_strides(placed.shape, placed.dtype.itemsize, as_typed):
            return placed
        copy = self.lowering.new(value.type, f"{value.name}.channels_last", layout)
        self.copy(placed, copy)
        return copy

    def channels_last_in_arena(self, index: int, channel_stride: int) -> TensorView:
        """The same, in memory of ours: a register may be read past its end."""
        placed = self.channels_last(index, channel_stride)
        if getattr(placed.buffer, "kind", "") == "arena":
            return placed
        value = self.node.operands[index]
        copy = self.lowering.new(value.type, f"{value.name}.copy", Layout("channels_last", channel_stride))
        self.copy(placed, copy)
        return copy

    def is_constant(self, index: int) -> bool:
        return isinstance(self.node.operands[index], Const)

    def constant(self, index: int) -> np.ndarray:
        """The data of a constant operand."""
        value = self.node.operands[index]
        if not isinstance(value, Const):
            raise LoweringError("an operand is not constant", where=self.node.describe(), got=str(value))
        return value.data

    def result(self, index: int = 0) -> TensorView:
        """Where to write a result, in the layout of its type, or within a larger value (only if the node's rule is
        `strided`); the border is written already. The same place at every call."""
        value = self.node.results[index]
        if value not in self.lowering.places:
            placed = self.lowering.places[value] = self.lowering.new(value.type, value.name, value.type.layout)
            if value.type.layout is not None and value.type.layout.halo:
                from qcompiler.backends.rules.copy import fill_border

                fill_border(self, placed, value.type)
        return self.lowering.places[value]

    def share(self, placed: TensorView, index: int = 0) -> None:
        """A result is a view of memory that is written already. Its strides must be those of its type's layout."""
        value = self.node.results[index]
        strides = layout_strides(placed.shape, placed.dtype.itemsize, value.type.layout)
        if any(size != 1 and have != want for size, have, want in zip(placed.shape, placed.strides, strides)):
            raise LoweringError(
                "a view in another layout", where=self.node.describe(), expected=strides, got=placed.strides
            )
        self.lowering.places[value] = placed

    # -- memory

    def scratch(self, nbytes: int, name: str = "scratch") -> BufferHandle:
        """Memory of the arena for this node."""
        return self.lowering.builder.buffer(nbytes, f"{self.node.name}.{name}")

    def table(self, array: np.ndarray) -> BufferRef:
        """A constant made for this binding."""
        return self.lowering.builder.constant(np.ascontiguousarray(array))

    def once(self, role: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """An array made from constants once for all bindings. role: unique within the node."""
        key = (self.node.name, role)
        if key not in self.lowering.packed:
            self.lowering.packed[key] = np.ascontiguousarray(make())
        return self.lowering.packed[key]

    def packed(self, role: str, make: Callable[[], np.ndarray]) -> BufferRef:
        """A constant made once for all bindings (packed weights). role: unique within the node."""
        return self.lowering.builder.constant(self.once(role, make))

    def filled(self, role: str, shape: tuple[int, ...], dtype: Any, fill: Callable[[np.ndarray], None]) -> BufferRef:
        """A large constant, written by fill(zeros of this shape) when the program is finished. role: all of what
        determines it but the op, its attrs and the operands' constants: nodes that share their weights share what is
        packed."""
        made = np.dtype(dtype)
        return self.lowering.builder.deferred(
            self.shared_key(role), math.prod(shape) * made.itemsize, lambda block: fill(block.view(made).reshape(shape))
        )

    def shared_key(self, role: str) -> str:
        """A key of what the node's op, attrs, weight and `role` determine, the same in every process."""
        return f"{self.node.op}({dict(self.attrs)}) of {self.node.operands[1]!r}: {role}"

    # -- steps

    def call(
        self,
        kernel: KernelDef,
        static: Mapping[str, Any] | None = None,
        *,
        writes: Sequence[str],
        macs: int = 0,
        bytes: int = 0,
        disjoint: bool = False,
        **arguments: Any,
    ) -> None:
        """Append a call of a kernel.

        Args:
            static: its static arguments; must not depend on symbolic sizes.
            writes: the pointers that it writes; the others are read.
            disjoint: what it writes no other such call writes in the same buffer: they need not wait for each other.
            arguments: every parameter by name: TensorView, BufferRef, BufferHandle or (buffer, byte offset) for a pointer;
                None for a pointer that this call does not use; ints for extents, floats for scalars.
        """
        names = [parameter.name for parameter in kernel.parameters]
        if set(names) != set(arguments) or not set(writes) <= set(names):
            raise LoweringError(
                f"arguments do not fit kernel {kernel.name}",
                where=self.node.describe(),
                expected=", ".join(names),
                got=", ".join(arguments),
            )
        args, reads, written = [], [], []
        for parameter in kernel.parameters:
            argument = arguments[parameter.name]
            if parameter.kind == "pointer":
                argument = _pointer(argument)
                if not isinstance(argument, int):
                    (written if parameter.name in writes else reads).append(argument[0])
                else:
                    args.append(0)
            elif parameter.kind == "scalar":
                argument = float(np.float32(argument))
            else:
                argument = int(argument)
            args.append(argument)
        self.lowering.calls.append(
            Call(KernelKey.of(kernel, static or {}), args, reads, written, self.node.name, macs, bytes, disjoint)
        )

    def copy(self, x: TensorView, y: TensorView) -> None:
        """Copy elements between two places of one shape, whatever their strides."""
        from qcompiler.backends.rules.copy import copy_strided

        copy_strided(self, x, y)

    def python(self) -> None:
        """Run the node as its numpy reference."""
        node, sizes = self.node, dict(self.lowering.sizes)
        given = [None if value is None else self.row_major(i) for i, value in enumerate(node.operands)]
        results = []
        for index, value in enumerate(node.results):
            place = self.result(index)
            results.append(
                place if place.is_row_major else self.lowering.new(value.type, f"{value.name}.row_major", None)
            )

        def run(reads: Sequence[np.ndarray], writes: Sequence[np.ndarray]) -> None:
            arrays: Iterator[np.ndarray] = iter(reads)
            operands = [None if place is None else next(arrays) for place in given]
            for array, found in zip(writes, evaluate_node(node, operands, sizes)):
                array[...] = found

        views = [
            [View(p.buffer, p.dtype, p.shape, p.offset) for p in places if p is not None] for places in (given, results)
        ]
        self.lowering.calls.append(PythonCall(node, run, *views))
        for index, place in enumerate(results):
            if place is not self.result(index):
                self.copy(place, self.result(index))


def _pointer(argument: Any) -> Any:
    if argument is None:
        return 0
    if isinstance(argument, TensorView):
        return argument.pointer
    if isinstance(argument, BufferRef | BufferHandle):
        return argument, 0
    buffer, offset = argument
    return buffer, int(offset)


def like(placed: TensorView, **changes: Any) -> TensorView:
    """A place with some fields changed."""
    return replace(placed, **changes)


def pixels(placed: TensorView) -> int:
    """Elements of the spatial axes (2 and on)."""
    return math.prod(placed.shape[2:])
