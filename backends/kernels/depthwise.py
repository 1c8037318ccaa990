"""Depthwise convolution, channels last. Lanes lie across channels; a tile is mr neighbouring pixels of one channel
block, which is one register of channels (of words, on targets that have `multiplies_words`).

The window is a list of *tap rows* (all of its axes but the last), each with an address of its own: those outside of the
image come from `border`, a row that holds the zero point, so nothing is copied. The pixels of a tile share columns.

For bytes, four tap rows of a column are interleaved into quads, one i32 lane per channel, so that a dot4 adds four
products; missing tap rows have zero weights. Interleaving bytes, then words, within 128 bits leaves channel 16k + 4i +
j in lane 4k + j of register i; packing back to bytes undoes it. Packed weights are i8 [channel blocks][kw][groups of 4
tap rows][channels of a block][4], see `packing.pack_depthwise`, or f32 [channel blocks][kw][tap rows][channels of a
block]. Products of words add two tap rows at a time (`depthwise_sums.Pairs`), with weights of i16.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, S, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I16, I64, Type, vector
from qcompiler.backends.kernels.code_range import CODES
from qcompiler.backends.kernels.conv import PackedWeights, Strides
from qcompiler.backends.kernels.depthwise_sums import sums_of
from qcompiler.backends.kernels.epilogue import RESIDUALS, Clamp, Dequantize, Requantize
from qcompiler.backends.kernels.lane_order import in_order
from qcompiler.backends.kernels.tile_epilogue import Finished, Load, activated, added, rounded_code


class DepthwiseGeometry(Group, Generic[P, E]):
    """Which pixels of x, y and the residual belong together.

    Attributes:
        rows: i64 [row_count, 2 + tap rows]: for each row of an image the byte offsets of its first pixel in y and the
            residual, then that of each tap row in x, which is -1 outside of the image.
        row_count: rows of an image.
        row_total: rows of all images.
        columns: pixels of a row of y.
        width: pixels of a row of x.
        before: pixels of the first window that lie before the row of x.
        apart: 0, which LLVM does not know: see `depthwise_sums.Pairs`.
        x, y, residual: the distances between their images and between their pixels.
    """

    rows: P
    row_count: E
    row_total: E
    columns: E
    width: E
    before: E
    apart: E
    x: Strides[E]
    y: Strides[E]
    residual: Strides[E]


class Filter(Group, Generic[P, E]):
    """The arguments that all kernels of this file share.

    Attributes:
        weights: the packed weights; a panel is one channel block.
        border: a row as long as those of x, of the zero point's code or of 0.0.
    """

    x: P
    weights: PackedWeights[P, E]
    border: P
    residual: P
    y: Written[P]
    geometry: DepthwiseGeometry[P, E]


class DepthwiseU8(Arguments["DepthwiseU8"], Generic[P, E, S]):
    """The arguments of `depthwise_u8` and `depthwise_u8_to_codes`."""

    filter: Filter[P, E]
    requantize: Requantize[P, E, S]


class DepthwiseU8ToF32(Arguments["DepthwiseU8ToF32"], Generic[P, E, S]):
    """The arguments of `depthwise_u8_to_f32`."""

    filter: Filter[P, E]
    dequantize: Dequantize[P, S]


class DepthwiseF32(Arguments["DepthwiseF32"], Generic[P, E, S]):
    """The arguments of `depthwise_f32`."""

    filter: Filter[P, E]
    clamp: Clamp[S]


class _Arithmetic(ABC):
    """The arithmetic of one tile, for bytes or for floats.

    Attributes:
        item, y_item, residual_item: bytes of a channel of x, of y and of the residual.
        register_channels: channels in a register of x.
        element: the type of a register of x.
        weight_bytes: bytes of a column's packed weights.
    """

    item: int
    y_item: int
    residual_item: int
    register_channels: int
    element: Type
    weight_bytes: int
    taps: int

    @abstractmethod
    def column(self, loaded: Sequence[Value]) -> list[Value]:
        """Make the registers that `add` takes of a register of each tap row."""

    @abstractmethod
    def start(self, bias: Value) -> list[Value]:
        """The accumulators of a pixel before any product. bias: a pointer to the bias of the channel block."""

    @abstractmethod
    def add(self, acc: Sequence[Value], column: Sequence[Value], weights: Value, apart: Value) -> list[Value]:
        """The accumulators plus a column's products. weights: a pointer to the column's weights. apart: see
        `Sums.add`."""

    @abstractmethod
    def multipliers(self, block: Value) -> Value | None:
        """A pointer to the multipliers of a channel block; None if the arithmetic has none."""

    @abstractmethod
    def finish(self, acc: Sequence[Value], multipliers: Value | None, load: Load) -> list[Finished]:
        """The results of one pixel. load: reads a vector of the residual."""


class _Bytes(_Arithmetic):
    """u8 x i8 products. multiplier: a pointer to one number for each packed channel."""

    item = 1

    def __init__(self, b: KernelBuilder, multiplier: Value, taps: int) -> None:
        self.b, self.multiplier, self.taps, self.lanes = b, multiplier, taps, b.target.i32_lanes
        self.products = sums_of(b.target)(b, taps)
        self.register_channels, self.element = self.products.channels, self.products.element
        self.weight_bytes = self.products.weight_bytes

    def column(self, loaded: Sequence[Value]) -> list[Value]:
        return self.products.column(loaded)

    def start(self, bias: Value) -> list[Value]:
        return self.products.start(bias)

    def add(self, acc: Sequence[Value], column: Sequence[Value], weights: Value, apart: Value) -> list[Value]:
        return self.products.add(acc, column, weights, apart)

    def multipliers(self, block: Value) -> Value:
        return self.multiplier + block * (self.register_channels * 4)

    def reals(self, acc: Sequence[Value], multipliers: Value | None) -> list[Value]:
        """The sums times their multipliers."""
        b, type = self.b, vector(F32, self.lanes)
        assert multipliers is not None
        return [b.sitofp(a) * b.load(type, multipliers, disp=i * 4 * self.lanes) for i, a in enumerate(acc)]


class _Requantized(_Bytes):
    """Products of bytes whose sums are requantized to u8. residual: whether there is one of u8; proven, saturates: see
    `tile_epilogue.Requantized`."""

    y_item, residual_item = 1, 1

    def __init__(
        self,
        b: KernelBuilder,
        requantize: Requantize,
        taps: int,
        *,
        residual: bool,
        proven: bool,
        saturates: bool,
    ) -> None:
        super().__init__(b, requantize.multiplier, taps)
        self.requantize, self.residual = requantize, residual
        self.proven, self.saturates = proven, saturates

    def finish(self, acc: Sequence[Value], multipliers: Value | None, load: Load) -> list[Finished]:
        b, lanes, target, requantize = self.b, self.lanes, self.b.target, self.requantize
        reals = self.reals(acc, multipliers)
        if self.residual:
            zero = b.splat(requantize.residual_zero + 2.0**23, lanes)
            scale = b.splat(requantize.residual_scale, lanes)
            others = [v for words in self._residual(load) for v in target.words_above_2_23(b, words)]
            reals = [real + (other - zero) * scale for real, other in zip(reals, others)]
        codes = requantize.codes
        if not self.proven:
            low, high = b.splat(codes.low, lanes), b.splat(codes.high, lanes)
            reals = [b.clamp(real, low, high) for real in reals]
        rounded = [target.round_to_i32(b, real) for real in reals]
        low, high, zero = (
            b.splat(b.trunc(value, I16), 2 * lanes) for value in (requantize.low_code, requantize.high_code, codes.zero)
        )
        packed = [target.pack_words(b, *rounded[i : i + 2]) for i in range(0, len(rounded), 2)]
        if not self.saturates:
            packed = [b.clamp(words, low, high) + zero for words in packed]
        return [(0, self._bytes(packed))]

    def _residual(self, load: Load) -> list[Value]:
        """The residual's codes as words, in registers whose lanes lie like those of packed sums."""
        b, codes = self.b, load(self.element, 0)
        if len(self.products.order(b.target)) == 2 * self.lanes:
            return [b.zext(codes, I16)]
        words = vector(I16, self.register_channels // 2)
        return [b.bitcast(half, words) for half in b.target.interleaved(b, codes, b.zero(self.element))]

    def _bytes(self, packed: Sequence[Value]) -> Value:
        """One or two registers of words as bytes, of which one register gives half of one."""
        b, size = self.b, self.b.target.vector_bytes
        found = b.target.pack_bytes(b, packed[0], packed[-1])
        if len(packed) == 2:
            return found
        eights = b.bitcast(found, vector(I64, size // 8))  # each 128-bit block holds the same words twice
        even = b.shuffle(eights, None, [*range(0, size // 8, 2), *range(1, size // 8, 2)])
        return b.slice(b.bitcast(even, vector(I8, size)), 0, size // 2)


class _InOrder(_Bytes):
    """The base of products of bytes whose sums are sorted by channel before they become results.

    Attributes:
        terms: how sums become results.
        residual: the element type of the residual, or None.
    """

    def __init__(
        self, b: KernelBuilder, terms: Dequantize | Requantize, taps: int, y_item: int, *, residual: Type | None
    ) -> None:
        super().__init__(b, terms.multiplier, taps)
        self.terms, self.residual, self.y_item = terms, residual, y_item
        self.residual_item = 4 if residual is None else residual.bytes

    def finish(self, acc: Sequence[Value], multipliers: Value | None, load: Load) -> list[Finished]:
        b, found = self.b, []
        for i, real in enumerate(in_order(b, self.reals(acc, multipliers), self.products.order(b.target))):
            first = i * self.lanes
            if self.residual is not None:
                real = added(b, real, load(vector(self.residual, self.lanes), first), self.terms)
            found.append((first, self.result(real)))
        return found

    @abstractmethod
    def result(self, real: Value) -> Value:
        """The results of sums that are multiplied, and to which the residual is added, already."""


class _Dequantized(_InOrder):
    """Products of bytes whose sums are written as f32."""

    terms: Dequantize

    def result(self, real: Value) -> Value:
        return activated(self.b, real, self.terms.clamp)


class _Codes(_InOrder):
    """Products of bytes whose sums are requantized to u8 or i16. element: of the result."""

    terms: Requantize

    def __init__(self, b: KernelBuilder, terms: Requantize, taps: int, element: Type, *, residual: Type | None) -> None:
        super().__init__(b, terms, taps, element.bytes, residual=residual)
        self.code = element

    def result(self, real: Value) -> Value:
        return rounded_code(self.b, real, self.terms.codes, self.code)


class _Floats(_Arithmetic):
    """f32 products, which are added to the bias by fma, column by column. NaN passes the activation, as in torch."""

    item, y_item, residual_item = 4, 4, 4

    def __init__(self, b: KernelBuilder, clamp: Clamp, taps: int, *, residual: bool) -> None:
        self.b, self.clamp, self.taps, self.residual = b, clamp, taps, residual
        self.register_channels = b.target.f32_lanes
        self.element = b.target.f32_vector()
        self.weight_bytes = taps * 4 * self.register_channels

    def column(self, loaded: Sequence[Value]) -> list[Value]:
        return list(loaded)

    def start(self, bias: Value) -> list[Value]:
        return [self.b.load(self.element, bias)]

    def add(self, acc: Sequence[Value], column: Sequence[Value], weights: Value, apart: Value) -> list[Value]:
        [total] = acc
        for r, x in enumerate(column):
            total = self.b.fma(x, self.b.load(self.element, weights, disp=r * 4 * self.register_channels), total)
        return [total]

    def multipliers(self, block: Value) -> None:
        return None

    def finish(self, acc: Sequence[Value], multipliers: Value | None, load: Load) -> list[Finished]:
        b, [real] = self.b, acc
        if self.residual:
            real = real + load(self.element, 0)
        return [(0, activated(b, real, self.clamp))]


@dataclass(frozen=True)
class _Unit:
    """One row of output pixels by one channel block, which is what a thread takes.

    Attributes:
        taps: pointers to the tap rows.
        border: a pointer to the border's row.
        y, residual: pointers to the first pixel.
        weights: a pointer to the block's weights.
        block: the index of the channel block.
        left: how many channels there are from the block's first one on.
    """

    taps: Sequence[Value]
    border: Value
    y: Value
    residual: Value
    weights: Value
    block: Value
    left: Value


@dataclass
class _Loops:
    """The loops over rows, channel blocks and tiles, which are the same for bytes and for floats."""

    b: KernelBuilder
    a: Filter
    math: _Arithmetic
    kw: int
    stride: int
    dilation: int
    mr: int

    def emit(self) -> None:
        b, a, geometry, math = self.b, self.a, self.a.geometry, self.math
        blocks = a.weights.panels
        lo, hi = b.share(geometry.row_total * blocks)
        with b.loop(lo, hi) as unit:
            row, block = unit.index // blocks, unit.index % blocks
            image, line = row // geometry.row_count, row % geometry.row_count * (8 * (math.taps + 2))
            items = (math.item, math.y_item, math.residual_item)
            offsets = {item: block * (math.register_channels * item) for item in sorted(set(items))}
            at, y_at, residual_at = (offsets[item] for item in items)
            y = a.y + (image * geometry.y.image + b.load(I64, geometry.rows, line) + y_at)
            residual_image = image * geometry.residual.image
            residual = a.residual + (residual_image + b.load(I64, geometry.rows, line, disp=8) + residual_at)
            border, x = a.border + at, a.x + (image * geometry.x.image + at)
            taps = []
            for r in range(math.taps):
                offset = b.load(I64, geometry.rows, line, disp=8 * (r + 2))
                taps.append(b.select(offset < 0, border, x + offset))
            weights = a.weights.data + block * (math.weight_bytes * self.kw)
            left = a.weights.channels - block * math.register_channels
            self._columns(_Unit(taps, border, y, residual, weights, block, left))

    def _columns(self, unit: _Unit) -> None:
        b, geometry, mr = self.b, self.a.geometry, self.mr
        with b.if_(geometry.columns >= mr) as wide:
            with b.loop(0, geometry.columns, mr) as tiles:
                start = b.smin(tiles.index, geometry.columns - mr)
                first = start * self.stride - geometry.before
                last = first + ((mr - 1) * self.stride + (self.kw - 1) * self.dilation)
                with b.if_((first >= 0) & (last < geometry.width)) as inside:
                    self._tile(unit, start, mr, is_inside=True)
                    inside.yield_([])
                with inside.else_():
                    self._tile(unit, start, mr, is_inside=False)
                    inside.yield_([])
            wide.yield_([])
        with wide.else_():
            with b.loop(0, geometry.columns) as tiles:
                self._tile(unit, tiles.index, 1, is_inside=False)
            wide.yield_([])

    def _tile(self, unit: _Unit, start: Value, count: int, is_inside: bool) -> None:
        """Compute `count` pixels from `start` on. is_inside: whether all columns of their windows lie within the row of
        x."""
        b, math, geometry = self.b, self.math, self.a.geometry
        first = start * self.stride - geometry.before
        bias = self.a.weights.bias + unit.block * (math.register_channels * 4)
        acc = [math.start(bias) for _ in range(count)]
        users: dict[int, list[tuple[int, int]]] = {}
        for o in range(count):
            for k in range(self.kw):
                users.setdefault(o * self.stride + k * self.dilation, []).append((o, k))
        for place in sorted(users):
            column = first + place
            offset = column * geometry.x.pixel
            if is_inside:
                loaded = [b.load(math.element, tap, offset) for tap in unit.taps]
            else:
                there = (column >= 0) & (column < geometry.width)
                loaded = [b.load(math.element, b.select(there, tap + offset, unit.border)) for tap in unit.taps]
            prepared = math.column(loaded)
            for o, k in users[place]:
                acc[o] = math.add(acc[o], prepared, unit.weights + k * math.weight_bytes, geometry.apart * o)
        self._store(acc, unit, start)

    def _store(self, acc: Sequence[Sequence[Value]], unit: _Unit, start: Value) -> None:
        b, math, left = self.b, self.math, unit.left
        y_pixel, residual_pixel = self.a.geometry.y.pixel, self.a.geometry.residual.pixel
        y, residual = unit.y + start * y_pixel, unit.residual + start * residual_pixel
        multipliers = math.multipliers(unit.block)

        item, residual_item = math.y_item, math.residual_item

        def load(pixel: int, type: Type, first: int) -> Value:
            return b.load(type, residual, residual_pixel * pixel, disp=first * residual_item)

        def load_left(pixel: int, type: Type, first: int) -> Value:
            at = residual_pixel * pixel + first * residual_item if first else residual_pixel * pixel
            return b.load_prefix(type, residual, at, left_from(first))

        def left_from(first: int) -> Value:
            return b.smax(left - first, 0) if first else left

        with b.if_(left >= math.register_channels) as whole:
            for o, values in enumerate(acc):
                for first, found in math.finish(values, multipliers, partial(load, o)):
                    b.store(found, y, y_pixel * o, disp=first * item)
            whole.yield_([])
        with whole.else_():
            for o, values in enumerate(acc):
                for first, found in math.finish(values, multipliers, partial(load_left, o)):
                    b.store_prefix(found, y, y_pixel * o + first * item if first else y_pixel * o, left_from(first))
            whole.yield_([])


@kernel
def depthwise_u8(
    b: KernelBuilder,
    a: DepthwiseU8,
    *,
    taps: int,
    kw: int,
    stride: int,
    dilation: int,
    mr: int,
    residual: bool,
    proven: bool,
    saturates: bool = False,
) -> None:
    """Convolve u8 pixels and requantize the sums to u8. residual: whether there is one of u8. proven, saturates: see
    `tile_epilogue.Requantized`.

    A whole register is read at the last channels of a pixel, which may reach 63 bytes past x.
    """
    math = _Requantized(b, a.requantize, taps, residual=residual, proven=proven, saturates=saturates)
    _Loops(b, a.filter, math, kw, stride, dilation, mr).emit()


@kernel
def depthwise_u8_to_codes(
    b: KernelBuilder,
    a: DepthwiseU8,
    *,
    taps: int,
    kw: int,
    stride: int,
    dilation: int,
    mr: int,
    residual: str | None,
    to: str,
) -> None:
    """Convolve u8 pixels and requantize the sums to codes, of which some are i16: those of the residual ("u8", "i16" or
    None), or those of the result (`to`). x is read as by `depthwise_u8`."""
    math = _Codes(b, a.requantize, taps, CODES[to], residual=RESIDUALS[residual])
    _Loops(b, a.filter, math, kw, stride, dilation, mr).emit()


@kernel
def depthwise_u8_to_f32(
    b: KernelBuilder,
    a: DepthwiseU8ToF32,
    *,
    taps: int,
    kw: int,
    stride: int,
    dilation: int,
    mr: int,
    residual: str | None,
) -> None:
    """Convolve u8 pixels and write the sums as f32. x is read as by `depthwise_u8`. residual: "u8", "i16", "f32" or
    None."""
    math = _Dequantized(b, a.dequantize, taps, 4, residual=RESIDUALS[residual])
    _Loops(b, a.filter, math, kw, stride, dilation, mr).emit()


@kernel
def depthwise_f32(
    b: KernelBuilder, a: DepthwiseF32, *, taps: int, kw: int, stride: int, dilation: int, mr: int, residual: bool
) -> None:
    """Convolve f32 pixels. A whole register is read at the last channels of a pixel, which may reach 60 bytes past
    x."""
    math = _Floats(b, a.clamp, taps, residual=residual)
    _Loops(b, a.filter, math, kw, stride, dilation, mr).emit()
