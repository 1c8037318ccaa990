"""What a program's builder collects before it is finished: buffers, and steps with what they read and write.

Sizes and arguments may be traced (`qcompiler.traced_size`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.kernel_ir.kernel_key import KernelKey
from qcompiler.backends.program.constants import Fill


@dataclass(frozen=True)
class BufferHandle(Memory):
    """A buffer of a program that is being built. kind: "input", "output", "constant" or "arena"; index: its number
    among those of its kind."""

    kind: str
    index: int
    nbytes: int = field(compare=False)
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
class Range:
    """The bytes begin to end of a buffer."""

    buffer: BufferHandle
    begin: int
    end: int


@dataclass
class RecordedStep:
    """A step: the call of the kernel `key`, or a node that runs in Python on `views`, those to read and to fill."""

    node: str
    reads: list[Range]
    writes: list[Range]
    key: KernelKey[Any] | None = None
    args: tuple[BuilderArgument, ...] = ()
    macs: int = 0
    bytes: int = 0
    disjoint: bool = False
    views: tuple[tuple[View, ...], tuple[View, ...]] = ((), ())


@dataclass(frozen=True)
class ArenaBuffer:
    """A buffer of the arena. alias: index of the buffer whose memory it shares."""

    handle: BufferHandle
    alignment: int
    alias: int | None


@dataclass(frozen=True)
class Table:
    """A constant array that a function of ints computes of sizes."""

    function: Callable[..., np.ndarray]
    args: tuple[int, ...]

    @property
    def key(self) -> str:
        """The key of the constant: equal for equal arrays."""
        return f"{self.function.__module__}.{self.function.__qualname__}{self.args}"

    def array(self) -> np.ndarray:
        """The array, in C order."""
        return np.ascontiguousarray(self.function(*self.args))


@dataclass(frozen=True)
class RecordedConstant:
    """A constant: its key, its bytes, what fills them; or the table with traced sizes that it is."""

    key: str
    nbytes: int
    fill: Fill
    table: Table | None = None
