"""Convolution as an implicit matrix product, for bytes and for f32; a linear layer is the case of one tap.

x is an image, channels last, which already has its padding. All kernels and rules of products use these terms:

    pixel    the channels at one position of an image; a tile has mr of them
    row      a run of output pixels at equal distances, here of `columns` pixels
    window   the pixels of x that one output pixel is computed from
    tap      a run of `kc` elements of x: the channels of one pixel of the window, or of several that lie side by side
    K        the sum's axis: all elements of all taps
    K block  the elements of one tap that one iteration of a loop over K takes
    panel    nr = nv registers of output channels, and their packed weights
    tile     mr pixels by one panel: what is kept in registers; lanes run across channels
    row block  `row_block` rows; their pixels stay in the cache while they are multiplied with one panel after the other
    unit     a row block by one panel: the piece of work that a thread takes

`lowering.tiles.choose_tile` chooses mr and nv from the tiles of the target's level. The last tile of a row overlaps the
one before it. The arithmetic (`tile_math`) and `kernel_ir.rows` see a matrix product, and call the pixels of a tile its
rows.

Pixels of i16 codes come as two planes of bytes, q + 32768 = 256 * high + low. A tile goes over the taps of the high
plane first, multiplies its sums by 256, and goes over those of the low plane with the same weights:

    sum (q + 32768) * w = 256 * sum high * w + sum low * w

The sums wrap in i32. That is exact, because the last one fits (verify-integer-safety) and all else is modulo 2^32.

Packed weights are i8 [panels][taps][kc / depth][nr][depth], where depth is the target's `dot_depth` and kc is rounded
up to a multiple of it, or f32 [panels][taps * kc][nr]. The host packs them in `lowering.packing`.

On targets that have `multiplies_words`, pixels of bytes are widened to i16 before they are multiplied, by
`convert.widen_bytes`, and packed weights are i16 with a depth of 2 (or i8: `tile_math.Words`). Only products that are
exact in pairs (`pairs`) take bytes there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, Rows, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, S, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import I64, Type
from qcompiler.backends.kernels.epilogue import RESIDUALS, Clamp, Dequantize, DynamicDequantize, Requantize
from qcompiler.backends.kernels.tile_epilogue import (
    Dequantized,
    DynamicallyDequantized,
    Requantized,
    RequantizedToWords,
)
from qcompiler.backends.kernels.tile_math import Bytes, Floats, arithmetic

MOST_PIXELS_AHEAD = 21
"""Tiles of at most this many pixels prefetch: larger tiles need all general registers for pointers to their pixels."""


class Strides(Group, Generic[E]):
    """The distances in bytes from image to image, and from pixel to pixel of a row."""

    image: E
    pixel: E


class ConvGeometry(Group, Generic[P, E]):
    """Which pixels of x, y and the residual belong together.

    Attributes:
        rows: i64 [row_count, 3]: for each row of an image the byte offsets of its first pixel in x, y and the residual.
        row_count: rows of an image.
        row_total: rows of all images.
        row_block: rows in a row block.
        columns: pixels of a row.
        taps: i64 [tap_count]: the byte offset of each tap from the pixel of x that the window belongs to. For
            i16 codes, those in the plane of low bytes follow.
        kc: elements of a tap; a multiple of 4 for bytes.
        x, y, residual: the distances between their images and between their pixels.
    """

    rows: P
    row_count: E
    row_total: E
    row_block: E
    columns: E
    taps: P
    tap_count: E
    kc: E
    x: Strides[E]
    y: Strides[E]
    residual: Strides[E]


class PackedWeights(Group, Generic[P, E]):
    """The weights and the bias of the channels of y.

    Attributes:
        data: packed as the module's docstring says.
        bias: i32 or f32 [panels * nr], in the order of the packed channels. For bytes it includes what the zero points
            of x contribute.
        panels: panels of nr channels.
        channels: channels of y.
    """

    data: P
    bias: P
    panels: E
    channels: E


class Prefetch(Group, Generic[E]):
    """How many bytes a tile prefetches in each K block: of the next panel's weights, and of the next tile's pixels."""

    weights: E
    x: E


class Product(Group, Generic[P, E]):
    """The arguments that all kernels of this file share."""

    x: P
    weights: PackedWeights[P, E]
    residual: P
    y: Written[P]
    geometry: ConvGeometry[P, E]
    prefetch: Prefetch[E]


class ConvU8(Arguments["ConvU8"], Generic[P, E, S]):
    """The arguments of `conv_u8` and `conv_u8_to_i16`."""

    product: Product[P, E]
    requantize: Requantize[P, E, S]


class ConvU8ToF32(Arguments["ConvU8ToF32"], Generic[P, E, S]):
    """The arguments of `conv_u8_to_f32`. streams: see `ConvF32`."""

    product: Product[P, E]
    dequantize: Dequantize[P, S]
    streams: E


class ConvU8Dynamic(Arguments["ConvU8Dynamic"], Generic[P, E, S]):
    """The arguments of `conv_u8_dynamic`. The residual holds a record for each pixel, see `epilogue.DynamicDequantize`.
    streams: see `ConvF32`."""

    product: Product[P, E]
    dequantize: DynamicDequantize[P, S]
    streams: E


class ConvF32(Arguments["ConvF32"], Generic[P, E, S]):
    """The arguments of `conv_f32`.

    streams: 1 to write y with non-temporal stores; then every full register of y must be aligned to its size.
    """

    product: Product[P, E]
    clamp: Clamp[S]
    streams: E


@dataclass
class _Loops:
    """The loops around tiles, which are the same for bytes and for floats.

    streams: an i64, nonzero to use non-temporal stores; None if the kernel has none, as for results of bytes.
    words: whether the pixels are two planes of bytes.
    """

    b: KernelBuilder
    a: Product
    math: Bytes | Floats
    mr: int
    nv: int
    streams: Value | None = None
    words: bool = False

    @property
    def nr(self) -> int:
        return self.nv * self.math.lanes

    @property
    def prefetches(self) -> bool:
        """Whether tiles prefetch the next panel's weights and the next tile's pixels."""
        return len(self.math.k_blocks) == 1 and self.mr <= MOST_PIXELS_AHEAD

    def emit(self) -> None:
        b, geometry, packed = self.b, self.a.geometry, self.a.weights
        blocks = (geometry.row_total + (geometry.row_block - 1)) // geometry.row_block
        lo, hi = b.share(blocks * packed.panels)
        depth = self.math.depth
        panel_bytes = (
            geometry.tap_count * ((geometry.kc + (depth - 1)) // depth) * (self.nr * depth * self.math.weight_bytes)
        )
        with b.loop(lo, hi) as unit:
            first = unit.index // packed.panels * geometry.row_block
            panel = unit.index % packed.panels
            weights = packed.data + panel * panel_bytes
            with b.loop(
                first,
                b.smin(first + geometry.row_block, geometry.row_total),
                carried=[[weights + panel_bytes] if self.prefetches else []],
            ) as row:
                [ahead] = row.carried
                row.yield_([self._row(row.index, weights, ahead, panel * self.nr)])
        if self.streams is not None:
            with b.if_(self.streams != 0) as streamed:
                b.fence()
                streamed.yield_([])

    def _row(self, row: Value, weights: Value, ahead: list[Value], channel: Value) -> list[Value]:
        """One row of one panel. ahead: the next address of weights to prefetch; returns the one after this row."""
        b, a, geometry = self.b, self.a, self.a.geometry
        image, line = row // geometry.row_count, row % geometry.row_count * 24
        x, y, residual = (
            pointer + (image * strides.image + b.load(I64, geometry.rows, line, disp=8 * i))
            for i, (pointer, strides) in enumerate(
                ((a.x, geometry.x), (a.y, geometry.y), (a.residual, geometry.residual))
            )
        )
        y, residual = y + channel * self.math.item, residual + channel * self.math.residual_item

        def tiles(count: int) -> list[Value]:
            with b.loop(0, geometry.columns, count, carried=[ahead]) as loop:
                start = loop.index if count == 1 else b.smin(loop.index, geometry.columns - count)
                x_tile, y_tile = x + start * geometry.x.pixel, y + start * geometry.y.pixel
                residual_tile = residual + start * geometry.residual.pixel
                [here] = loop.carried
                loop.yield_([self._tile(x_tile, y_tile, residual_tile, weights, here, channel, count)])
            found: list[Value] = loop.results[0]
            return found

        if self.mr == 1:
            return tiles(1)
        with b.if_(geometry.columns >= self.mr) as wide:
            wide.yield_([tiles(self.mr)])
        with wide.else_():
            wide.yield_([tiles(1)])
        found: list[Value] = wide.results[0]
        return found

    def _tile(
        self, x: Value, y: Value, residual: Value, weights: Value, ahead: list[Value], channel: Value, count: int
    ) -> list[Value]:
        """One tile of `count` pixels. Returns the next address of weights to prefetch."""
        b, math, geometry = self.b, self.math, self.a.geometry
        bias = [b.zero(math.start)] * self.nv if self.words else self._bias(channel)
        rows = b.rows(x, geometry.x.pixel, count)
        prefetched = [*ahead, x + geometry.x.pixel * count] if ahead else []
        acc, prefetched = self._sums(math.begin(bias, count), rows, geometry.taps, weights, prefetched)
        if self.words:
            start = math.begin(self._bias(channel), count)
            acc = [[b.binary("shl", total, 8) + first for total, first in zip(*pair)] for pair in zip(acc, start)]
            acc, _ = self._sums(acc, rows, geometry.taps + geometry.tap_count * 8, weights, [])
        self._store(math.sums(acc, count), y, residual, channel)
        return prefetched[:1]

    def _bias(self, channel: Value) -> list[Value]:
        """A register of bias for each register of channels."""
        type, bias = self.math.start, self.a.weights.bias
        return [self.b.load(type, bias, channel * 4, disp=j * 4 * self.math.lanes) for j in range(self.nv)]

    def _sums(
        self, start: list[list[Value]], rows: Rows, taps_at: Value, weights: Value, ahead: list[Value]
    ) -> tuple[list[list[Value]], list[Value]]:
        """(the accumulators `start` plus the products of all taps, the next addresses to prefetch). taps_at: the
        address of their offsets."""
        b, math, geometry = self.b, self.math, self.a.geometry
        advance = (self.a.prefetch.weights, self.a.prefetch.x)
        with b.loop(0, geometry.tap_count, carried=[start, weights, ahead]) as taps:
            acc, panel, prefetched = taps.carried
            pointers, done = rows.moved(b.load(I64, taps_at, taps.index * 8)), b.i64(0)
            for size in math.k_blocks:
                until = geometry.kc if size == math.k_blocks[-1] else geometry.kc // size * size
                lead = math.lead(size)
                carried = [acc, pointers, b.advance(panel, lead) if lead else panel, prefetched]
                with b.loop(done, until, size, carried=carried) as inner:
                    acc, pointers, panel, prefetched = inner.carried
                    here = rows.at(pointers)
                    for at in prefetched:
                        b.prefetch(at, cache=2)
                    further = [at + nbytes for at, nbytes in zip(prefetched, advance)]
                    inner.yield_([*math.dots(acc, here, panel, size), panel + math.block_bytes(size), further])
                (acc, pointers, panel, prefetched), done = inner.results, until
                panel = panel - lead
            taps.yield_([acc, panel, prefetched])
        acc, _, prefetched = taps.results
        return acc, prefetched

    def _store(self, acc: Sequence[Sequence[Value]], y: Value, residual: Value, channel: Value) -> None:
        b, item, residual_item = self.b, self.math.item, self.math.residual_item
        y_pixel, residual_pixel = self.a.geometry.y.pixel, self.a.geometry.residual.pixel
        left = self.a.weights.channels - channel

        def load(pixel: int, type: Type, first: int) -> Value:
            return b.load(type, residual, residual_pixel * pixel, disp=first * residual_item)

        def load_left(pixel: int, type: Type, first: int) -> Value:
            if not residual_item:  # a record of the whole pixel
                return load(pixel, type, first)
            at = residual_pixel * pixel + first * residual_item
            return b.load_prefix(type, residual, at, b.smax(left - first, 0))

        with b.if_(left >= self.nr) as whole:
            if self.streams is not None:
                self._store_or_stream(self._finished(acc, channel, load), y, self.streams)
            else:
                for pixel, first, value in self._finished(acc, channel, load):
                    b.store(value, y, y_pixel * pixel, disp=first * item)
            whole.yield_([])
        with whole.else_():
            for pixel, first, value in self._finished(acc, channel, load_left):
                b.store_prefix(value, y, y_pixel * pixel + first * item, b.smax(left - first, 0))
            whole.yield_([])

    def _finished(
        self, acc: Sequence[Sequence[Value]], channel: Value, load: Callable[[int, Type, int], Value]
    ) -> Iterator[tuple[int, int, Value]]:
        """(pixel of the tile, channel of the tile, the vector to store from that channel on), two pixels at a time.

        load: reads the residual at (pixel, type, channel of the tile).
        """
        for top in range(0, len(acc), 2):
            pixels = range(top, min(top + 2, len(acc)))
            found = self.math.finish(
                [acc[pixel] for pixel in pixels], channel * 4, [partial(load, pixel) for pixel in pixels]
            )
            yield from ((pixel, first, value) for pixel, parts in zip(pixels, found) for first, value in parts)

    def _store_or_stream(self, found: Iterable[tuple[int, int, Value]], y: Value, streams: Value) -> None:
        """Compute all registers, then write them with non-temporal or with plain stores."""
        b, item, y_pixel, registers = self.b, self.math.item, self.a.geometry.y.pixel, list(found)
        with b.if_(streams != 0) as streamed:
            for pixel, first, value in registers:
                b.stream(value, y, y_pixel * pixel, disp=first * item)
            streamed.yield_([])
        with streamed.else_():
            for pixel, first, value in registers:
                b.store(value, y, y_pixel * pixel, disp=first * item)
            streamed.yield_([])


@kernel
def conv_u8(
    b: KernelBuilder,
    a: ConvU8,
    *,
    mr: int,
    nv: int,
    residual: str | None,
    proven: bool,
    pairs: bool = False,
    saturates: bool = False,
    words: bool = False,
    narrow: bool = False,
) -> None:
    """Multiply u8 pixels with i8 weights and requantize the sums to u8.

    mr, nv: the tile. words: whether the pixels are i16, as two planes. residual: "u8", "i16" or None. The other
    keywords are those of `tile_math.Words` and `tile_epilogue.Requantized`.
    """
    epilogue = Requantized(b, a.requantize, nv, residual=RESIDUALS[residual], proven=proven, saturates=saturates)
    math = arithmetic(b.target, pairs=pairs)(b, epilogue, pairs=pairs, narrow=narrow)
    _Loops(b, a.product, math, mr, nv, words=words).emit()


@kernel
def conv_u8_to_i16(
    b: KernelBuilder,
    a: ConvU8,
    *,
    mr: int,
    nv: int,
    residual: str | None,
    pairs: bool = False,
    words: bool = False,
    narrow: bool = False,
) -> None:
    """Multiply u8 pixels with i8 weights and requantize the sums to i16. The keywords are those of `conv_u8`."""
    epilogue = RequantizedToWords(b, a.requantize, nv, residual=RESIDUALS[residual])
    math = arithmetic(b.target, pairs=pairs)(b, epilogue, pairs=pairs, narrow=narrow)
    _Loops(b, a.product, math, mr, nv, words=words).emit()


@kernel
def conv_u8_to_f32(
    b: KernelBuilder,
    a: ConvU8ToF32,
    *,
    mr: int,
    nv: int,
    residual: str | None,
    pairs: bool = False,
    words: bool = False,
    narrow: bool = False,
) -> None:
    """Multiply u8 pixels with i8 weights and write the sums as f32.

    mr, nv: the tile. residual: "u8", "i16", "f32" or None. words: see `conv_u8`. The other keywords are those of
    `tile_math.Words`.
    """
    epilogue = Dequantized(b, a.dequantize, nv, residual=RESIDUALS[residual])
    math = arithmetic(b.target, pairs=pairs)(b, epilogue, pairs=pairs, narrow=narrow)
    _Loops(b, a.product, math, mr, nv, a.streams if b.target.streams else None, words).emit()


@kernel
def conv_u8_dynamic(
    b: KernelBuilder,
    a: ConvU8Dynamic,
    *,
    mr: int,
    nv: int,
    bias: bool,
    pairs: bool = False,
    narrow: bool = False,
) -> None:
    """Multiply u8 pixels, whose scales and zero points are known at run time, with i8 weights and write f32.

    mr, nv: the tile. bias: whether there is one. The other keywords are those of `tile_math.Words`.
    """
    epilogue = DynamicallyDequantized(b, a.dequantize, nv, bias=bias)
    math = arithmetic(b.target, pairs=pairs)(b, epilogue, pairs=pairs, narrow=narrow)
    _Loops(b, a.product, math, mr, nv, a.streams if b.target.streams else None).emit()


@kernel
def conv_f32(b: KernelBuilder, a: ConvF32, *, mr: int, nv: int, residual: bool) -> None:
    """Multiply f32 pixels with f32 weights; products are added to the bias in the order of the taps. mr, nv: the
    tile."""
    math = Floats(b, a.clamp, nv, residual=residual)
    _Loops(b, a.product, math, mr, nv, a.streams if b.target.streams else None).emit()
