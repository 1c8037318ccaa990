"""ProgramImage: a program as plain data. It holds steps, buffers and sizes, prints, compares, and can be stored.

`qcompiler.backends.lower.lower` makes an image of a graph, and `qcompiler.backends.runtime.link` an executable of it.
Images of several sizes of one graph share the block of constants.

A step names its kernel by a `KernelKey`, and memory by the index of a `PlacedBuffer`. A buffer lies at an offset from a
base: the block of constants, the arena, an input, an output, or the constants of this image alone. An image does not
hold the bytes of constants (`qcompiler.backends.program.constants` does); it names each by a key that determines them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from qcompiler.backends.kernel_ir.kernel_key import KernelKey
from qcompiler.fork_safety import cached_property
from qcompiler.traced_size import whole

CONSTANTS, ARENA, FIRST_INPUT = 0, 1, 2
"""Indices of bases; outputs follow the inputs, then come the constants of the image alone."""

CHECK_WORDS = 3
"""What a step that checks indices writes: how many are outside, the last of them, the size of its axis."""

_CHECK = "qcompiler.backends.kernels.gather:check_indices"

ARGUMENT_WORDS = 8
"""Argument blocks begin at multiples of this many words: 64 bytes, a cache line."""


@dataclass(frozen=True)
class ArraySpec:
    """The dtype and shape of a C-contiguous array."""

    dtype: np.dtype
    shape: tuple[int, ...]
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        object.__setattr__(self, "shape", tuple(whole(n) for n in self.shape))

    @property
    def nbytes(self) -> int:
        size = self.dtype.itemsize
        for extent in self.shape:
            size *= extent
        return size

    def extent(self, strides: Sequence[int]) -> int:
        """The bytes from the first element to the end of the last one, with these strides."""
        if 0 in self.shape:
            return 0
        return self.dtype.itemsize + sum((size - 1) * stride for size, stride in zip(self.shape, strides))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class PlacedBuffer(NamedTuple):
    """A buffer that steps refer to. name: of a constant the key of its bytes; base: the index of its base."""

    name: str
    base: int
    offset: int
    nbytes: int


class Pointer(NamedTuple):
    """An argument that points into a buffer. buffer: its index; offset: in bytes from the buffer's first byte."""

    buffer: int
    offset: int = 0


NULL = Pointer(-1)
"""The argument for a pointer that a call does not use."""

Argument = Pointer | int | float
"""An argument of a kernel: two words for a pointer; one for an int (an extent) and for a float (a scalar: f32)."""


class KernelStep(NamedTuple):
    """A call of a kernel.

    Attributes:
        key: the kernel. node: the name of the graph's node that the step belongs to.
        args: the arguments in the order of the kernel's parameters.
        writes: indices of the buffers that it writes.
        macs, bytes: multiply-accumulates and bytes moved, for reports and for the number of threads
            (`ProgramImage.work`).
        barrier: whether all threads meet after the step.
    """

    key: KernelKey[Any]
    node: str
    args: tuple[Argument, ...]
    writes: tuple[int, ...] = ()
    macs: int = 0
    bytes: int = 0
    barrier: bool = False

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return self.key.name


@dataclass(frozen=True)
class ArrayView:
    """An array of a Python step: a buffer, seen with a dtype, a shape and strides from a byte offset on. strides: bytes
    along each axis; None if the array is row major."""

    buffer: int
    offset: int
    spec: ArraySpec
    strides: tuple[int, ...] | None = None


@dataclass(frozen=True)
class PythonStep:
    """A node that runs as its numpy reference, on one thread."""

    node: str
    reads: tuple[ArrayView, ...]
    writes: tuple[ArrayView, ...]
    kernel = "python"
    macs = bytes = 0
    barrier = False


Step = KernelStep | PythonStep


@dataclass(frozen=True)
class Arena:
    """The memory of intermediate values. lower_bound: the smallest size that any plan could have; guards: byte offsets
    of pages that fault when touched, for debugging."""

    nbytes: int
    lower_bound: int
    guards: tuple[int, ...] = ()


@dataclass(frozen=True)
class ProgramImage:
    """A program for one target and one binding of the graph's symbolic sizes.

    Attributes:
        name: the graph's name. target: `Target.key`. sizes: (name, value) of each symbolic size.
        inputs, outputs: the arrays of a call.
        buffers: inputs, outputs, then constants and buffers of the arena in the order in which they were asked for.
        steps: the steps in order of execution.
        constant_bytes: the size of the block of constants, which other images of the graph share.
        own_constant_bytes: the size of the constants of this image alone.
        known_words: what `argument_words` gives, if it is known already.
    """

    name: str
    target: str
    sizes: tuple[tuple[str, int], ...]
    inputs: tuple[ArraySpec, ...]
    outputs: tuple[ArraySpec, ...]
    buffers: tuple[PlacedBuffer, ...]
    steps: tuple[Step, ...]
    arena: Arena
    constant_bytes: int
    own_constant_bytes: int = 0
    known_words: tuple[np.ndarray, list[int]] | None = field(default=None, compare=False, repr=False)

    @property
    def own_constants(self) -> int:
        """The index of the base that holds the constants of this image alone."""
        return FIRST_INPUT + len(self.inputs) + len(self.outputs)

    @property
    def kernel_steps(self) -> tuple[KernelStep, ...]:
        """The steps that call kernels, in order."""
        return tuple(step for step in self.steps if isinstance(step, KernelStep))

    @property
    def python_steps(self) -> tuple[PythonStep, ...]:
        """The steps that run in Python, in order."""
        return tuple(step for step in self.steps if isinstance(step, PythonStep))

    @property
    def kernels(self) -> tuple[KernelKey[Any], ...]:
        """The kernels that it needs, in the order of their first steps."""
        return tuple(dict.fromkeys(step.key for step in self.kernel_steps))

    @property
    def has_index_checks(self) -> bool:
        """Whether the last output is what checks of indices find (`backends/lowering/index_checks.py`). It has no name;
        the values of a graph have."""
        return bool(self.outputs) and not self.outputs[-1].name

    @cached_property
    def index_checks(self) -> tuple[str, ...]:
        """The nodes of the steps that check indices, in order."""
        return tuple(step.node for step in self.kernel_steps if step.key.place == _CHECK)

    @cached_property
    def work(self) -> int:
        """The multiply-adds of all steps, where a byte moved counts as 16."""
        return sum(step.macs + 16 * step.bytes for step in self.steps)

    def argument_words(self) -> tuple[np.ndarray, list[int]]:
        """The argument blocks of all kernel steps in one i64 array, and the word at which each begins."""
        if self.known_words is not None:
            return self.known_words
        words: list[int] = []
        starts = []
        for step in self.kernel_steps:
            starts.append(len(words))
            for argument in step.args:
                if isinstance(argument, int):
                    words.append(argument)
                elif isinstance(argument, float):
                    words.append(struct.unpack("<I", struct.pack("<f", argument))[0])
                elif argument == NULL:
                    words += (0, 0)
                else:
                    buffer = self.buffers[argument.buffer]
                    words += (buffer.base, buffer.offset + argument.offset)
            words.extend([0] * (-len(words) % ARGUMENT_WORDS))
        return np.array(words, np.int64), starts

    def __str__(self) -> str:
        from qcompiler.backends.program.text import image_text

        return image_text(self)
