"""Depthwise convolution, channels last. Lanes lie across channels; a tile is mr neighbouring pixels in each of one or
two rows of one channel block, which is one register of channels (of words, on targets that have `multiplies_words`).

The window is a list of *tap rows* (all of its axes but the last), each with an address of its own: those outside of the
image come from `border`, a row that holds the zero point, so nothing is copied. The pixels of a tile share columns.

For bytes, four taps are interleaved into quads, one i32 lane per channel, so that a dot4 adds four products. Two rows
of a tile share the quads of their tap rows, and a tile takes over the quads that it shares with the one before
(`depthwise_sums.Quads`). Interleaving bytes, then words, within 128 bits leaves channel 16k + 4i + j in lane 4k + j of
register i; packing back to bytes undoes it. Packed weights are i8 [blocks][quads][rows][channels of a block][4], see
`packing.pack_quads`, or f32 [blocks][kw][tap rows][channels of a block]. Products of words add two tap rows at a time
(`depthwise_sums.Pairs`), with weights of i16 [blocks][kw][pairs of tap rows][channels of a block][2].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, S, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I16, I64, Type, vector
from qcompiler.backends.kernels.code_range import CODES
from qcompiler.backends.kernels.conv import PackedWeights, Strides
from qcompiler.backends.kernels.depthwise_sums import LoadTap, Pairs, Quads, Sums, Windows, sums_of
from qcompiler.backends.kernels.epilogue import RESIDUALS, Clamp, Dequantize, Requantize
from qcompiler.backends.kernels.lane_order import in_order
from qcompiler.backends.kernels.tile_epilogue import Finished, Load, activated, added, rounded_code


class DepthwiseGeometry(Group, Generic[P, E]):
    """Which pixels of x, y and the residual belong together.

    Attributes:
        rows: i64 [row_count, 2 * rows + tap rows]: for each tile of rows of an image the byte offsets of each row's
            first pixel in y and the residual, then that of each tap row in x, which is -1 outside of the image.
        row_count: tiles of rows of an image.
        row_total: those of all images.
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
        weight_bytes: bytes of a block's packed weights.
    """

    item: int
    y_item: int
    residual_item: int
    register_channels: int
    element: Type
    weight_bytes: int

    @abstractmethod
    def tile(self, windows: Windows, load: LoadTap, bias: Value, weights: Value, apart: Value) -> list[list[Value]]:
        """The accumulators of a tile; see `Pairs.tile`. For products that do not carry quads from tile to tile."""

    @abstractmethod
    def multipliers(self, block: Value) -> Value | None:
        """A pointer to the multipliers of a channel block; None if the arithmetic has none."""

    @abstractmethod
    def finish(self, acc: Sequence[Value], multipliers: Value | None, load: Load) -> list[Finished]:
        """The results of one pixel. load: reads a vector of the residual."""


class _Bytes(_Arithmetic):
    """u8 x i8 products. multiplier: a pointer to one number for each packed channel."""

    item = 1

    def __init__(self, b: KernelBuilder, multiplier: Value, products: Sums) -> None:
        self.b, self.multiplier, self.products, self.lanes = b, multiplier, products, products.lanes
        self.register_channels, self.element = products.channels, products.element
        self.weight_bytes = products.weight_bytes
        self.order = products.order(b.target, products.channels)

    def tile(self, windows: Windows, load: LoadTap, bias: Value, weights: Value, apart: Value) -> list[list[Value]]:
        assert isinstance(self.products, Pairs)
        return self.products.tile(windows, load, bias, weights, apart)

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
        products: Sums,
        *,
        residual: bool,
        proven: bool,
        saturates: bool,
    ) -> None:
        super().__init__(b, requantize.multiplier, products)
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
        if len(self.order) == 2 * self.lanes:
            return [b.zext(codes, I16)]
        words = vector(I16, self.register_channels // 2)
        return [b.bitcast(half, words) for half in b.target.interleaved(b, codes, b.zero(self.element))]

    def _bytes(self, packed: Sequence[Value]) -> Value:
        """One or two registers of words as bytes, of which one register gives half of one."""
        b, size = self.b, packed[0].type.bytes
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
        self, b: KernelBuilder, terms: Dequantize | Requantize, products: Sums, y_item: int, *, residual: Type | None
    ) -> None:
        super().__init__(b, terms.multiplier, products)
        self.terms, self.residual, self.y_item = terms, residual, y_item
        self.residual_item = 4 if residual is None else residual.bytes

    def finish(self, acc: Sequence[Value], multipliers: Value | None, load: Load) -> list[Finished]:
        b, found = self.b, []
        for i, real in enumerate(in_order(b, self.reals(acc, multipliers), self.order)):
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

    def __init__(
        self, b: KernelBuilder, terms: Requantize, products: Sums, element: Type, *, residual: Type | None
    ) -> None:
        super().__init__(b, terms, products, element.bytes, residual=residual)
        self.code = element

    def result(self, real: Value) -> Value:
        return rounded_code(self.b, real, self.terms.codes, self.code)


class _Floats(_Arithmetic):
    """f32 products, which are added to the bias by fma, column by column. NaN passes the activation, as in torch."""

    item, y_item, residual_item = 4, 4, 4

    def __init__(self, b: KernelBuilder, clamp: Clamp, windows: Windows, *, residual: bool) -> None:
        self.b, self.clamp, self.residual = b, clamp, residual
        self.register_channels = b.target.f32_lanes
        self.element = b.target.f32_vector()
        self.weight_bytes = windows.kw * windows.taps * self.element.bytes

    def tile(self, windows: Windows, load: LoadTap, bias: Value, weights: Value, apart: Value) -> list[list[Value]]:
        b, nbytes = self.b, self.element.bytes
        acc = [b.load(self.element, bias)] * windows.mr
        for column, readers in windows.readers():
            xs = [load(column, row) for row in range(windows.taps)]
            for pixel, k in readers:
                for row, x in enumerate(xs):
                    w = b.load(self.element, weights, disp=(k * windows.taps + row) * nbytes)
                    acc[pixel] = b.fma(x, w, acc[pixel])
        return [[total] for total in acc]

    def multipliers(self, block: Value) -> None:
        return None

    def finish(self, acc: Sequence[Value], multipliers: Value | None, load: Load) -> list[Finished]:
        b, [real] = self.b, acc
        if self.residual:
            real = real + load(self.element, 0)
        return [(0, activated(b, real, self.clamp))]


@dataclass(frozen=True)
class _Unit:
    """Neighbouring rows of output pixels by one channel block, which is what a thread takes.

    Attributes:
        taps: pointers to the tap rows.
        border: a pointer to the border's row.
        y, residual: pointers to the first pixel of each row.
        weights: a pointer to the block's weights.
        block: the index of the channel block.
        left: how many channels there are from the block's first one on.
    """

    taps: Sequence[Value]
    border: Value
    y: Sequence[Value]
    residual: Sequence[Value]
    weights: Value
    block: Value
    left: Value


@dataclass
class _Loops:
    """The loops over rows, channel blocks and tiles, which are the same for bytes and for floats."""

    b: KernelBuilder
    a: Filter
    math: _Arithmetic
    windows: Windows

    def emit(self) -> None:
        b, a, geometry, math, windows = self.b, self.a, self.a.geometry, self.math, self.windows
        blocks = a.weights.panels
        lo, hi = b.share(geometry.row_total * blocks)
        with b.loop(lo, hi) as unit:
            row, block = unit.index // blocks, unit.index % blocks
            image = row // geometry.row_count
            line = row % geometry.row_count * (8 * (windows.tap_rows + 2 * windows.rows))
            items = (math.item, math.y_item, math.residual_item)
            offsets = {item: block * (math.register_channels * item) for item in sorted(set(items))}
            at, y_at, residual_at = (offsets[item] for item in items)
            y_start = a.y + (image * geometry.y.image + y_at)
            residual_start = a.residual + (image * geometry.residual.image + residual_at)
            places = [b.load(I64, geometry.rows, line, disp=8 * i) for i in range(2 * windows.rows)]
            y, residual = [y_start + to for to in places[::2]], [residual_start + to for to in places[1::2]]
            border, x = a.border + at, a.x + (image * geometry.x.image + at)
            taps = []
            for r in range(windows.tap_rows):
                offset = b.load(I64, geometry.rows, line, disp=8 * (r + 2 * windows.rows))
                taps.append(b.select(offset < 0, border, x + offset))
            weights = a.weights.data + block * math.weight_bytes
            left = a.weights.channels - block * math.register_channels
            found = _Unit(taps, border, y, residual, weights, block, left)
            if isinstance(math, _Bytes) and isinstance(math.products, Quads):
                self._carrying(found, math.products)
            else:
                self._columns(found)

    def _carrying(self, unit: _Unit, products: Quads) -> None:
        """The tiles of products that carry quads from tile to tile.

        Rows and pixels that the image lacks are stored where the last ones are, which are stored after them.
        """
        b, geometry, windows = self.b, self.a.geometry, self.windows
        carried = products.begin(self._loads(unit, b.i64(0), is_inside=False))
        with b.loop(0, geometry.columns, windows.mr, carried=[carried]) as tiles:
            start, [carried] = tiles.index, tiles.carried
            first = start * windows.stride - geometry.before
            whole = (first >= 0) & (first + windows.last < geometry.width) & (start + windows.mr <= geometry.columns)
            with b.if_(whole) as inside:
                inside.yield_([self._carrying_tile(unit, products, start, carried, is_inside=True)])
            with inside.else_():
                inside.yield_([self._carrying_tile(unit, products, start, carried, is_inside=False)])
            tiles.yield_(inside.results)

    def _carrying_tile(
        self, unit: _Unit, products: Quads, start: Value, carried: Sequence[list[Value]], *, is_inside: bool
    ) -> list[list[Value]]:
        """Compute the pixels from `start` on of each row. Gives what the next tile takes as carried. is_inside: whether
        all pixels are there, and all columns of their windows lie within the row of x."""
        b, geometry, windows = self.b, self.a.geometry, self.windows
        bias = self.a.weights.bias + unit.block * (self.math.register_channels * 4)
        load = self._loads(unit, start, is_inside=is_inside)
        acc, carried = products.tile(load, bias, unit.weights, geometry.apart * start, carried)
        if is_inside:
            self._store(acc, unit, start, range(windows.mr))
        else:
            self._store(acc, unit, b.i64(0), [b.smin(start + o, geometry.columns - 1) for o in range(windows.mr)])
        return carried

    def _loads(self, unit: _Unit, start: Value, *, is_inside: bool) -> LoadTap:
        """Loads registers of the tap rows of a tile. is_inside: whether all columns lie within the row of x. Otherwise
        those outside come from the border."""
        b, geometry, element = self.b, self.a.geometry, self.math.element
        first = start * self.windows.stride - geometry.before

        def load(column: int, row: int) -> Value:
            at, tap = first + column, unit.taps[row]
            offset = at * geometry.x.pixel
            if is_inside:
                return b.load(element, tap, offset)
            there = (at >= 0) & (at < geometry.width)
            return b.load(element, b.select(there, tap + offset, unit.border))

        return load

    def _columns(self, unit: _Unit) -> None:
        b, geometry, windows = self.b, self.a.geometry, self.windows
        with b.if_(geometry.columns >= windows.mr) as wide:
            with b.loop(0, geometry.columns, windows.mr) as tiles:
                start = b.smin(tiles.index, geometry.columns - windows.mr)
                first = start * windows.stride - geometry.before
                with b.if_((first >= 0) & (first + windows.last < geometry.width)) as inside:
                    self._tile(unit, start, windows, is_inside=True)
                    inside.yield_([])
                with inside.else_():
                    self._tile(unit, start, windows, is_inside=False)
                    inside.yield_([])
            wide.yield_([])
        with wide.else_():
            with b.loop(0, geometry.columns) as tiles:
                self._tile(unit, tiles.index, replace(windows, mr=1), is_inside=False)
            wide.yield_([])

    def _tile(self, unit: _Unit, start: Value, windows: Windows, is_inside: bool) -> None:
        """Compute the pixels from `start` on of each row. is_inside: whether all columns of their windows lie within
        the row of x."""
        math = self.math
        bias = self.a.weights.bias + unit.block * (math.register_channels * 4)
        load = self._loads(unit, start, is_inside=is_inside)
        acc = math.tile(windows, load, bias, unit.weights, self.a.geometry.apart)
        self._store(acc, unit, start, range(windows.mr))

    def _store(self, acc: Sequence[Sequence[Value]], unit: _Unit, start: Value, pixels: Sequence[int | Value]) -> None:
        """Store a tile, the last pixel first. pixels: the indices of those of a row, counted from `start`."""
        b, math, geometry, left = self.b, self.math, self.a.geometry, unit.left
        y_places, residual_places = (
            [(row + start * distance, distance * pixel) for row in rows for pixel in pixels]
            for rows, distance in ((unit.y, geometry.y.pixel), (unit.residual, geometry.residual.pixel))
        )
        multipliers = math.multipliers(unit.block)

        item, residual_item = math.y_item, math.residual_item

        def load(pixel: int, type: Type, first: int) -> Value:
            return b.load(type, *residual_places[pixel], disp=first * residual_item)

        def load_left(pixel: int, type: Type, first: int) -> Value:
            residual, at = residual_places[pixel]
            return b.load_prefix(type, residual, at + first * residual_item, left_from(first))

        def left_from(first: int) -> Value:
            return b.smax(left - first, 0) if first else left

        with b.if_(left >= math.register_channels) as whole:
            for o, values in reversed(list(enumerate(acc))):
                for first, found in math.finish(values, multipliers, partial(load, o)):
                    b.store(found, *y_places[o], disp=first * item)
            whole.yield_([])
        with whole.else_():
            for o, values in reversed(list(enumerate(acc))):
                y, at = y_places[o]
                for first, found in math.finish(values, multipliers, partial(load_left, o)):
                    b.store_prefix(found, y, at + first * item, left_from(first))
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
    rows: int,
    block: int,
    residual: bool,
    proven: bool,
    saturates: bool = False,
) -> None:
    """Convolve u8 pixels and requantize the sums to u8. residual: whether there is one of u8. proven, saturates: see
    `tile_epilogue.Requantized`.

    A whole register is read at the last channels of a pixel, which may reach 63 bytes past x.
    """
    windows = Windows(taps, kw, stride, dilation, mr, rows)
    products = sums_of(b.target).of(b, windows, block)
    math = _Requantized(b, a.requantize, products, residual=residual, proven=proven, saturates=saturates)
    _Loops(b, a.filter, math, windows).emit()


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
    rows: int,
    block: int,
    residual: str | None,
    to: str,
) -> None:
    """Convolve u8 pixels and requantize the sums to codes, of which some are i16: those of the residual ("u8", "i16" or
    None), or those of the result (`to`). x is read as by `depthwise_u8`."""
    windows = Windows(taps, kw, stride, dilation, mr, rows)
    products = sums_of(b.target).of(b, windows, block)
    math = _Codes(b, a.requantize, products, CODES[to], residual=RESIDUALS[residual])
    _Loops(b, a.filter, math, windows).emit()


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
    rows: int,
    block: int,
    residual: str | None,
) -> None:
    """Convolve u8 pixels and write the sums as f32. x is read as by `depthwise_u8`. residual: "u8", "i16", "f32" or
    None."""
    windows = Windows(taps, kw, stride, dilation, mr, rows)
    products = sums_of(b.target).of(b, windows, block)
    math = _Dequantized(b, a.dequantize, products, 4, residual=RESIDUALS[residual])
    _Loops(b, a.filter, math, windows).emit()


@kernel
def depthwise_f32(
    b: KernelBuilder, a: DepthwiseF32, *, taps: int, kw: int, stride: int, dilation: int, mr: int, residual: bool
) -> None:
    """Convolve f32 pixels. A whole register is read at the last channels of a pixel, which may reach 60 bytes past
    x."""
    windows = Windows(taps, kw, stride, dilation, mr)
    math = _Floats(b, a.clamp, windows, residual=residual)
    _Loops(b, a.filter, math, windows).emit()
