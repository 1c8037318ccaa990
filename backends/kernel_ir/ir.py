"""Values, operations, blocks and functions of the kernel IR.

Owns the data, and the operators on values, which only call their builder. `builder.KernelBuilder` makes all of them;
nothing changes them later. A constant is a value without an op.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from qcompiler.backends.kernel_ir.types import Type
from qcompiler.errors import LoweringError

if TYPE_CHECKING:
    from qcompiler.backends.kernel_ir.builder import KernelBuilder
    from qcompiler.backends.target import Instruction, Target

Number: TypeAlias = int | float | bool
Operand: TypeAlias = "Value | int | float | bool"


class Value:
    """An SSA value. `const` is None, a number (in every lane of a vector), or a tuple with a number for each lane.

    Operators take a value of the same type or a Python number: + - * (integer or float), / (float), // % (unsigned:
    extents are never negative), & | ^ << >> (arithmetic) ~ and unary -; < <= > >= == != give i1 or a mask, signed for
    integers and ordered for floats (!= is `une`). `pointer + bytes` moves a pointer.
    """

    __slots__ = ("type", "const", "builder", "hint")

    def __init__(self, type: Type, builder: KernelBuilder, const: Any = None, hint: str | None = None) -> None:
        self.type = type
        self.builder = builder
        self.const = const
        self.hint = hint

    def __add__(self, other: Operand) -> Value:
        return self.builder.arithmetic("+", self, other)

    def __radd__(self, other: Operand) -> Value:
        return self.builder.arithmetic("+", self, other)

    def __sub__(self, other: Operand) -> Value:
        return self.builder.arithmetic("-", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.builder.arithmetic("-", self.builder.like(other, self), self)

    def __mul__(self, other: Operand) -> Value:
        return self.builder.arithmetic("*", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return self.builder.arithmetic("*", self, other)

    def __truediv__(self, other: Operand) -> Value:
        return self.builder.arithmetic("/", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self.builder.arithmetic("/", self.builder.like(other, self), self)

    def __floordiv__(self, other: Operand) -> Value:
        return self.builder.arithmetic("//", self, other)

    def __mod__(self, other: Operand) -> Value:
        return self.builder.arithmetic("%", self, other)

    def __and__(self, other: Operand) -> Value:
        return self.builder.arithmetic("&", self, other)

    def __or__(self, other: Operand) -> Value:
        return self.builder.arithmetic("|", self, other)

    def __xor__(self, other: Operand) -> Value:
        return self.builder.arithmetic("^", self, other)

    def __lshift__(self, other: Operand) -> Value:
        return self.builder.arithmetic("<<", self, other)

    def __rshift__(self, other: Operand) -> Value:
        return self.builder.arithmetic(">>", self, other)

    def __neg__(self) -> Value:
        return self.builder.negate(self)

    def __invert__(self) -> Value:
        return self.builder.arithmetic("^", self, True if self.type.bits == 1 else -1)

    def __lt__(self, other: Operand) -> Value:
        return self.builder.compare("<", self, other)

    def __le__(self, other: Operand) -> Value:
        return self.builder.compare("<=", self, other)

    def __gt__(self, other: Operand) -> Value:
        return self.builder.compare(">", self, other)

    def __ge__(self, other: Operand) -> Value:
        return self.builder.compare(">=", self, other)

    def __eq__(self, other: object) -> Value:  # type: ignore[override]
        return self.builder.compare("==", self, other)  # type: ignore[arg-type]

    def __ne__(self, other: object) -> Value:  # type: ignore[override]
        return self.builder.compare("!=", self, other)  # type: ignore[arg-type]

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise LoweringError(
            "a kernel value has no truth while the kernel is built",
            got=repr(self),
            hint="use b.if_(condition) or b.select(condition, x, y)",
        )

    def __repr__(self) -> str:
        return f"Value({self.type}, const={self.const})" if self.const is not None else f"Value({self.type})"


@dataclass(eq=False)
class Op:
    """One operation. attrs: `disp`, `align`, `lanes` and others that the op's family needs. blocks: of loop and if."""

    name: str
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()
    instruction: Instruction | None = None


@dataclass(eq=False)
class Block:
    """A list of ops that run in order. args: a loop's index and carried values. The last op of an inner block is
    `yield`."""

    args: tuple[Value, ...] = ()
    ops: list[Op] = field(default_factory=list)


@dataclass(frozen=True)
class Parameter:
    """A kernel parameter. kind: "pointer" (two words: base index, byte offset), "extent" (i64) or "scalar" (f32 bits).

    Attributes:
        name: the path of its field in the signature, as in `geometry.columns`.
        written: whether the kernel writes through the pointer.
        aliased: whether the pointer may overlap others.
    """

    name: str
    kind: str
    written: bool = False
    aliased: bool = False

    @property
    def words(self) -> int:
        return 2 if self.kind == "pointer" else 1


@dataclass(eq=False)
class KernelFunction:
    """A built kernel: parameters in order, then `thread` and `threads`; `body.args` are their values."""

    name: str
    parameters: tuple[Parameter, ...]
    body: Block
    target: Target
    aliased: frozenset[str] = frozenset()

    def pack_args(self, **values: Any) -> np.ndarray:
        """The argument block of a call: i64 words, in the order of the parameters (see `pack_args`)."""
        return pack_args(self.name, self.parameters, values)

    def walk(self) -> Iterator[Op]:
        """All ops in order, each before the ops of its blocks."""
        stack = [iter(self.body.ops)]
        while stack:
            op = next(stack[-1], None)
            if op is None:
                stack.pop()
                continue
            yield op
            for block in reversed(op.blocks):
                stack.append(iter(block.ops))

    def __str__(self) -> str:
        from qcompiler.backends.kernel_ir.printer import print_kernel

        return print_kernel(self)


def pack_args(name: str, parameters: tuple[Parameter, ...], values: dict[str, Any]) -> np.ndarray:
    """An np.int64 array from {pointer: (base, offset), extent: int, scalar: float}; each parameter exactly once."""
    expected = [parameter.name for parameter in parameters]
    if set(values) != set(expected):
        raise LoweringError(f"arguments do not fit kernel {name}", expected=", ".join(expected), got=", ".join(values))
    words: list[int] = []
    for parameter in parameters:
        value = values[parameter.name]
        if parameter.kind == "pointer":
            base, offset = value
            words += [int(base), int(offset)]
        elif parameter.kind == "extent":
            words.append(int(value))
        else:
            words.append(int(np.float32(value).view(np.uint32)))
    return np.array(words, np.int64)
