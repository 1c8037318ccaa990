"""How the depthwise kernels of bytes multiply and add: four tap rows of a column at a time, or two.

Owns the layout of a column's packed weights and the order in which sums hold channels. `depthwise` has the loops, and
what becomes of the sums.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from qcompiler.backends.kernel_ir.builder import KernelBuilder
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import I8, I16, I32, Type, vector
from qcompiler.backends.target import Target


def sums_of(target: Target) -> type[Sums]:
    """The arithmetic of a target."""
    return Pairs if target.multiplies_words else Quads


class Sums(ABC):
    """The sums of one pixel of a channel block.

    Attributes:
        depth: tap rows that one instruction multiplies and adds.
        channels: channels of a block.
        element: the type of what is read of a pixel.
        registers: registers of sums.
        weight_bytes: bytes of the packed weights of a column.
    """

    depth: int
    weight_size: int

    def __init__(self, b: KernelBuilder, taps: int) -> None:
        self.b, self.taps, self.lanes = b, taps, b.target.i32_lanes
        self.channels, self.registers = self.block(b.target), self.block(b.target) // b.target.i32_lanes
        self.element: Type = vector(I8, self.channels)
        self.groups = -(-taps // self.depth)
        self.weight_bytes = self.groups * self.depth * self.channels * self.weight_size

    @staticmethod
    @abstractmethod
    def block(target: Target) -> int:
        """Channels of a block."""

    @staticmethod
    @abstractmethod
    def order(target: Target) -> list[int]:
        """The channel of each lane of the registers of sums."""

    @abstractmethod
    def column(self, loaded: Sequence[Value]) -> list[Value]:
        """Make the registers that `add` takes of what was read of each tap row."""

    @abstractmethod
    def add(self, acc: Sequence[Value], column: Sequence[Value], weights: Value, apart: Value) -> list[Value]:
        """The sums plus a column's products. weights: a pointer to the column's weights. apart: 0, another value for
        each pixel of a tile."""

    def start(self, bias: Value) -> list[Value]:
        """The sums before any product. bias: a pointer to the bias of the channel block."""
        return [self.b.load(vector(I32, self.lanes), bias, disp=i * 4 * self.lanes) for i in range(self.registers)]


class Quads(Sums):
    """`dot4` of bytes: four tap rows of a column are interleaved, so that each i32 lane holds those of one channel."""

    depth, weight_size = 4, 1

    @staticmethod
    def block(target: Target) -> int:
        return target.vector_bytes

    @staticmethod
    def order(target: Target) -> list[int]:
        return target.quad_order()

    def column(self, loaded: Sequence[Value]) -> list[Value]:
        b, words = self.b, vector(I16, self.channels // 2)
        zero = b.zero(self.element)
        quads = []
        for group in range(self.groups):
            rows = [*loaded[4 * group : 4 * group + 4]]
            rows += [zero] * (4 - len(rows))
            first, second = b.target.interleaved(b, rows[0], rows[1]), b.target.interleaved(b, rows[2], rows[3])
            for low, high in zip(first, second):
                pairs = b.target.interleaved(b, b.bitcast(low, words), b.bitcast(high, words))
                quads += [b.bitcast(pair, self.element) for pair in pairs]
        return quads

    def add(self, acc: Sequence[Value], column: Sequence[Value], weights: Value, apart: Value) -> list[Value]:
        b, target, acc = self.b, self.b.target, list(acc)
        for group in range(self.groups):
            for i in range(4):
                w = target.dot4_weights(b, b.load(self.element, weights, disp=(group * 4 + i) * self.channels))
                acc[i] = target.dot4(b, acc[i], target.dot4_activations(b, column[group * 4 + i]), w)
        return acc


class Pairs(Sums):
    """`dot2` of words: the channels of a block are widened to one register, and two tap rows of a column are
    interleaved.

    Each pixel of a tile reads its weights at an address that LLVM takes for another, so that they are operands in
    memory. Otherwise LLVM would read them once for all pixels, and keep them on the stack.
    """

    depth, weight_size = 2, 2

    @staticmethod
    def block(target: Target) -> int:
        return target.vector_bytes // 2

    @staticmethod
    def order(target: Target) -> list[int]:
        return target.pair_order()

    def column(self, loaded: Sequence[Value]) -> list[Value]:
        b = self.b
        rows = [b.zext(each, I16) for each in loaded]
        rows += [b.zero(vector(I16, self.channels))] * (len(rows) % 2)
        return [pair for i in range(0, len(rows), 2) for pair in b.target.interleaved(b, rows[i], rows[i + 1])]

    def add(self, acc: Sequence[Value], column: Sequence[Value], weights: Value, apart: Value) -> list[Value]:
        b, acc, words = self.b, list(acc), vector(I16, self.channels)
        for group in range(self.groups):
            for half in range(2):
                w = b.load(words, weights, apart, disp=(2 * group + half) * words.bytes)
                acc[half] = b.target.dot2(b, acc[half], column[2 * group + half], w)
        return acc
