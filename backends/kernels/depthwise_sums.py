"""How the depthwise kernels of bytes multiply and add: four taps at a time, or two.

Owns the layout of packed weights and the order in which sums hold channels. `depthwise` has the loops, and what becomes
of the sums.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qcompiler.backends.kernel_ir.builder import KernelBuilder
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import I8, I16, I32, Type, vector
from qcompiler.backends.target import Target

LoadTap = Callable[[int, int], Value]
"""Loads a register at (column, tap row) of the pixels that a tile reads."""


Key = tuple[int, int, tuple[int, ...]]
"""A quad of a tile: its first tap row, its tap rows and its columns."""


@dataclass(frozen=True)
class Windows:
    """The windows of a tile, which is `mr` neighbouring pixels in each of `rows` neighbouring rows of the result.

    Columns are counted from the first one that the tile reads, and so are tap rows. The window of row r has the tap
    rows r, r + 1, ..., r + taps - 1.

    Attributes:
        taps, kw: the tap rows and the columns of one window.
        stride, dilation: along the row.
    """

    taps: int
    kw: int
    stride: int
    dilation: int
    mr: int
    rows: int = 1

    @property
    def tap_rows(self) -> int:
        """The tap rows of all windows of a tile."""
        return self.taps + self.rows - 1

    def column(self, pixel: int, k: int) -> int:
        """Column k of the window of a pixel of a row."""
        return pixel * self.stride + k * self.dilation

    @property
    def last(self) -> int:
        """The last column that the tile reads."""
        return self.column(self.mr - 1, self.kw - 1)

    def key(self, quad: Quad, pixel: int) -> Key:
        """The quad of a pixel. Columns after the last one of its window have weights of zero, so any column serves for
        one past the tile."""
        columns = (self.column(pixel, quad.k + c) for c in range(quad.columns))
        return quad.first, quad.rows, tuple(min(column, self.last) for column in columns)

    def moved(self, key: Key) -> Key:
        """What the tile before calls a quad."""
        first, rows, columns = key
        return first, rows, tuple(column + self.mr * self.stride for column in columns)

    def readers(self) -> list[tuple[int, list[tuple[int, int]]]]:
        """(column, the (pixel, k) that read it), in the order of columns."""
        found: dict[int, list[tuple[int, int]]] = {}
        for pixel in range(self.mr):
            for k in range(self.kw):
                found.setdefault(self.column(pixel, k), []).append((pixel, k))
        return sorted(found.items())


@dataclass(frozen=True)
class Quad:
    """Up to four taps of a window that one dot4 multiplies: `rows` tap rows from `first` on, in `columns` columns from
    k on. In a lane they lie column by column."""

    first: int
    rows: int
    k: int
    columns: int


def quads_of(tap_rows: int, kw: int) -> list[Quad]:
    """The quads of windows, in the order of packed weights.

    Four tap rows of a column are a quad. If one or two rows are left, those of four or two columns share a quad.
    """
    left = tap_rows % 4
    whole = -(-tap_rows // 4) if left == 3 else tap_rows // 4
    quads = [Quad(4 * group, min(4, tap_rows - 4 * group), k, 1) for group in range(whole) for k in range(kw)]
    if left in (1, 2):
        quads += [Quad(4 * whole, left, k, 4 // left) for k in range(0, kw, 4 // left)]
    return quads


def sums_of(target: Target) -> type[Sums]:
    """The arithmetic of a target."""
    return Pairs if target.multiplies_words else Quads


class Sums(ABC):
    """The sums of the pixels of a tile, for one channel block.

    Attributes:
        weight_size: bytes of a packed weight.
        windows: those of the tile.
        channels: channels of a block.
        lanes: channels of a register of sums.
        element: the type of what is read of a pixel.
        registers: registers of sums.
        weight_bytes: bytes of the packed weights of a block.
    """

    weight_size: int
    weight_bytes: int

    def __init__(self, b: KernelBuilder, windows: Windows, channels: int, registers: int) -> None:
        self.b, self.windows, self.channels = b, windows, channels
        self.registers, self.lanes = registers, channels // registers
        self.element: Type = vector(I8, channels)

    @classmethod
    @abstractmethod
    def of(cls, b: KernelBuilder, windows: Windows, channels: int) -> Sums:
        """The sums of a kernel."""

    @staticmethod
    @abstractmethod
    def blocks(target: Target) -> tuple[int, ...]:
        """The channels that a block may have, the most first."""

    @staticmethod
    @abstractmethod
    def order(target: Target, channels: int) -> list[int]:
        """The channel of each lane of the registers of sums of a block."""

    def start(self, bias: Value) -> list[Value]:
        """The sums before any product. bias: a pointer to the bias of the channel block."""
        return [self.b.load(vector(I32, self.lanes), bias, disp=i * 4 * self.lanes) for i in range(self.registers)]


class Quads(Sums):
    """`dot4` of bytes, whose quads are interleaved so that each i32 lane holds those of one channel.

    Interleaving takes about as long as multiplying. So neighbouring rows of the result share quads of their tap rows,
    each with weights that are moved by as many rows; and a register of weights that was loaded serves all pixels of a
    row.
    """

    weight_size = 1

    def __init__(self, b: KernelBuilder, windows: Windows, channels: int) -> None:
        super().__init__(b, windows, channels, 4)
        self.quads = quads_of(windows.tap_rows, windows.kw)
        self.weight_bytes = len(self.quads) * windows.rows * 4 * channels

    @classmethod
    def of(cls, b: KernelBuilder, windows: Windows, channels: int) -> Quads:
        return cls(b, windows, channels)

    @staticmethod
    def blocks(target: Target) -> tuple[int, ...]:
        return target.dot4_registers

    @staticmethod
    def order(target: Target, channels: int) -> list[int]:
        return target.quad_order(channels)

    @property
    def carries(self) -> list[Key]:
        """The registers that a tile makes for the next one of the row, as that one calls them: as many as there is room
        for."""
        windows = self.windows
        keys = {key: None for quad in self.quads for pixel in range(windows.mr) for key in [windows.key(quad, pixel)]}
        shared = [key for key in keys if windows.moved(key) in keys]
        room = self.b.target.register_count - 4 * windows.rows * windows.mr - 8
        return shared if 4 * len(shared) <= room else []

    def begin(self, load: LoadTap) -> list[list[Value]]:
        """What the first tile of a row takes as carried."""
        columns = _Columns(self.b, load, {})
        return [columns.quad(key) for key in self.carries]

    def tile(
        self, load: LoadTap, bias: Value, weights: Value, apart: Value, carried: Sequence[list[Value]]
    ) -> tuple[list[list[Value]], list[list[Value]]]:
        """(the sums of a tile, those of each pixel of a row, row by row; what the next tile takes as carried)."""
        b, target, start, windows = self.b, self.b.target, self.start(bias), self.windows
        acc = [[list(start) for _ in range(windows.mr)] for _ in range(windows.rows)]
        columns = _Columns(b, load, dict(zip(self.carries, carried)))
        for number, pixels in self._products():
            loaded = [
                [target.dot4_activations(b, x) for x in columns.quad(windows.key(self.quads[number], pixel))]
                for pixel in pixels
            ]
            for row in range(windows.rows):
                for i in range(4):
                    at = ((number * windows.rows + row) * 4 + i) * self.channels
                    w = target.dot4_weights(b, b.load(self.element, weights, apart, disp=at))
                    for pixel, xs in zip(pixels, loaded):
                        acc[row][pixel][i] = target.dot4(b, acc[row][pixel][i], xs[i], w)
        sums = [pixel for row in acc for pixel in row]
        return sums, [columns.quad(windows.moved(key)) for key in self.carries]

    def _products(self) -> list[tuple[int, Sequence[int]]]:
        """(quad, the pixels of a row that it is multiplied for together), in order. With few registers it is one pixel,
        in the order of columns."""
        windows, numbers = self.windows, range(len(self.quads))
        if self.b.target.register_count >= 32:
            return [(number, range(windows.mr)) for number in numbers]
        each = [(number, pixel) for number in numbers for pixel in range(windows.mr)]
        each.sort(key=lambda one: (self.quads[one[0]].first, windows.column(one[1], self.quads[one[0]].k)))
        return [(number, [pixel]) for number, pixel in each]


class _Columns:
    """The interleaved quads of a tile, each of which is made once. made: those that there are already."""

    def __init__(self, b: KernelBuilder, load: LoadTap, made: dict[Key, list[Value]]) -> None:
        self.b, self.load, self.made = b, load, made
        self.parts: dict[tuple[object, ...], list[Value]] = {}

    def quad(self, key: Key) -> list[Value]:
        """Four registers of activations."""
        if key not in self.made:
            self.made[key] = self._interleaved(key)
        return self.made[key]

    def _interleaved(self, key: Key) -> list[Value]:
        b, (first, rows, columns) = self.b, key
        if rows == 1:
            halves = [self._pair((c, first), (d, first)) for c, d in zip(columns[::2], columns[1::2])]
        elif rows == 2:
            halves = [self._pair((c, first), (c, first + 1)) for c in columns]
        else:
            [column], last = columns, first + rows - 1  # a missing fourth row has weights of zero
            halves = [self._pair((column, row), (column, min(row + 1, last))) for row in (first, first + 2)]
        found: list[Value] = []
        for x, y in zip(*halves):
            words = vector(I16, x.type.lanes // 2)
            pairs = b.target.interleaved(b, b.bitcast(x, words), b.bitcast(y, words))
            found += [b.bitcast(pair, x.type) for pair in pairs]
        return found

    def _pair(self, x: tuple[int, int], y: tuple[int, int]) -> list[Value]:
        """Two taps, at (column, tap row), interleaved."""
        if (x, y) not in self.parts:
            self.parts[x, y] = list(self.b.target.interleaved(self.b, self._tap(x), self._tap(y)))
        return self.parts[x, y]

    def _tap(self, at: tuple[int, int]) -> Value:
        if at not in self.parts:
            self.parts[at] = [self.load(*at)]
        return self.parts[at][0]


class Pairs(Sums):
    """`dot2` of words: the channels of a block are widened to one register, and two tap rows of a column are
    interleaved.

    Each pixel of a tile reads its weights at an address that LLVM takes for another, so that they are operands in
    memory. Otherwise LLVM would read them once for all pixels, and keep them on the stack.
    """

    weight_size = 2

    def __init__(self, b: KernelBuilder, windows: Windows, channels: int) -> None:
        super().__init__(b, windows, channels, 2)
        self.column_bytes = -(-windows.taps // 2) * 2 * channels * self.weight_size
        self.weight_bytes = self.column_bytes * windows.kw

    @classmethod
    def of(cls, b: KernelBuilder, windows: Windows, channels: int) -> Pairs:
        return cls(b, windows, channels)

    @staticmethod
    def blocks(target: Target) -> tuple[int, ...]:
        return (target.vector_bytes // 2,)

    @staticmethod
    def order(target: Target, channels: int) -> list[int]:
        return target.pair_order()

    def tile(self, windows: Windows, load: LoadTap, bias: Value, weights: Value, apart: Value) -> list[list[Value]]:
        """The sums of each pixel. windows: those of `self`, or fewer pixels. bias, weights: pointers to those of the
        channel block. apart: see `depthwise.DepthwiseGeometry`."""
        b, words = self.b, vector(I16, self.channels)
        acc = [self.start(bias) for _ in range(windows.mr)]
        for column, readers in windows.readers():
            rows = [b.zext(load(column, row), I16) for row in range(windows.taps)]
            rows += [b.zero(words)] * (len(rows) % 2)
            pairs = [pair for i in range(0, len(rows), 2) for pair in b.target.interleaved(b, rows[i], rows[i + 1])]
            for pixel, k in readers:
                for number, pair in enumerate(pairs):
                    at = k * self.column_bytes + number * words.bytes
                    w = b.load(words, weights, apart * pixel, disp=at)
                    acc[pixel][number % 2] = b.target.dot2(b, acc[pixel][number % 2], pair, w)
        return acc
