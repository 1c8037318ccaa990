"""Appends the call of a matrix product, for the rules of conv, conv_transpose and linear.

The kernels are in `kernels.conv`, whose docstring explains the terms of this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qcompiler.artifact.mapped_file import forget_pages
from qcompiler.backends.kernel_ir.definition import Arguments, Memory
from qcompiler.backends.kernel_ir.kernel_key import A, KernelKey
from qcompiler.backends.kernels import conv as kernels
from qcompiler.backends.kernels.epilogue import Clamp
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.packing import pack_channels
from qcompiler.backends.lowering.tiles import LINE, Tile, row_block, run_count, run_rows
from qcompiler.backends.lowering.views import TensorView
from qcompiler.backends.program.recorded import BufferHandle
from qcompiler.backends.rules.requantize import RequantizeTerms, SumTerms, requantize_terms, sum_terms
from qcompiler.backends.rules.weights import BytePacking, Weight
from qcompiler.backends.rules.widening import widened
from qcompiler.opdef import op_of
from qcompiler.ops.interfaces import Weighted
from qcompiler.traced_size import computed
from qcompiler.types import DType

_STREAMED_BYTES = 12 << 20
"""Float results of at least this many bytes use non-temporal stores: the caches would evict the result before it
is read, and a plain store first fetches the line that it overwrites."""

_FEW_PIXELS = 4
"""Products of at most this many pixels read each weight once or twice, so they are bound by the bytes of weights."""


@dataclass(frozen=True)
class Distances:
    """The distances in bytes between two images, or between two pixels, of x, y and the residual."""

    x: int
    y: int
    residual: int = 0


@dataclass(frozen=True)
class FixedRows:
    """The rows of pixels of an image. table: i64 [rows, 3], the byte offsets of each row's first pixel in x, y and the
    residual."""

    table: np.ndarray

    @property
    def count(self) -> int:
        return len(self.table)

    def stored(self, s: NodeLowering) -> BufferHandle:
        """The table as a constant."""
        return s.stored(self.table)

    def widened(self) -> FixedRows:
        """The rows where the elements of x take twice the bytes."""
        return FixedRows(self.table * np.array([2, 1, 1]))

    def are_aligned(self, nbytes: int) -> bool:
        """Whether all rows of y begin at a multiple of so many bytes from the first one."""
        return not (self.table[:, 1] % nbytes).any()


@dataclass(frozen=True)
class RunRows:
    """Rows that `total` pixels at equal distances are cut into."""

    total: int
    columns: int
    pixel: Distances

    @property
    def count(self) -> int:
        return computed(run_count, self.total, self.columns)

    def stored(self, s: NodeLowering) -> BufferHandle:
        """The table as a constant."""
        return s.table(run_rows, self.total, self.columns, self.pixel.x, self.pixel.y, self.pixel.residual)

    def widened(self) -> RunRows:
        """The rows where the elements of x take twice the bytes."""
        return replace(self, pixel=replace(self.pixel, x=2 * self.pixel.x))

    def are_aligned(self, nbytes: int) -> bool:
        """Whether all rows of y begin at a multiple of so many bytes from the first one, if the pixels do."""
        return True


@dataclass(frozen=True)
class Window:
    """The pixels and taps of a product.

    Attributes:
        rows: the rows of an image.
        columns: pixels of a row.
        taps: the byte offset of each tap from the pixel of x that the window belongs to.
        kc: elements of a tap.
        images: how many images there are.
        image, pixel: the distances from image to image, and from pixel to pixel of a row.
        x_row_bytes: how many bytes of x the windows of a row read.
        products: multiply-adds of one channel of the result, without those of padding and overlap.
    """

    rows: FixedRows | RunRows
    columns: int
    taps: Sequence[int]
    kc: int
    images: int
    image: Distances
    pixel: Distances
    x_row_bytes: int
    products: int


@dataclass(frozen=True)
class ProductCall:
    """One product, which computes some channels of a node's result.

    Attributes:
        window: the pixels and taps.
        tile: the kernel's tile.
        x: what is read.
        x_start: the byte offset in x of the first of the channels.
        residual, y: where to read and write, at the first of the channels.
        weight: [channels, *rest]. The rest has the taps in order and, innermost, their kc elements. Bytes may have
            fewer elements, which are padded with zeros.
        bias: [channels].
        channels: which channels of the result.
        low_plane: bytes from the high to the low bytes of x, if they are two planes of words; otherwise 0.
    """

    window: Window
    tile: Tile
    x: TensorView
    residual: Memory | None
    y: Memory
    weight: Weight
    bias: Weight | None
    channels: slice
    low_plane: int = 0
    x_start: int = 0

    @property
    def outputs(self) -> int:
        """How many channels the product computes."""
        return self.weight.shape[0]

    def arguments(
        self,
        s: NodeLowering,
        rows: Memory,
        weights: Memory,
        bias: Memory,
        taps: Sequence[int],
        k_block: int,
        weight_bytes: int,
    ) -> kernels.Product[Memory | None, int]:
        """The arguments that the kernels of bytes and of floats share.

        rows, weights, bias: as the kernel reads them. taps: the window's taps, repeated for each i8 summand of the
        weights; for words, those of the high bytes. k_block: elements of K that the kernel prefetches for at a time.
        weight_bytes: bytes of a packed weight.
        """
        window, tile = self.window, self.tile
        low_taps = [tap + self.low_plane for tap in taps] if self.low_plane else []
        panels = -(-self.outputs // tile.nr)
        row_total = window.images * window.rows.count
        block = computed(row_block, row_total, panels, window.x_row_bytes)
        x_ahead = 0
        if len(window.taps) == 1:
            x_ahead = min(LINE, tile.mr * window.pixel.x * k_block // max(1, window.kc))
        return kernels.Product(
            x=self.x.shifted(self.x_start),
            weights=kernels.PackedWeights(data=weights, bias=bias, panels=panels, channels=self.outputs),
            residual=self.residual,
            y=self.y,
            geometry=kernels.ConvGeometry(
                rows=rows,
                row_count=window.rows.count,
                row_total=row_total,
                row_block=block,
                columns=window.columns,
                taps=s.stored(np.array([*taps, *low_taps], np.int64)),
                tap_count=len(taps),
                kc=window.kc,
                x=kernels.Strides(image=window.image.x, pixel=window.pixel.x),
                y=kernels.Strides(image=window.image.y, pixel=window.pixel.y),
                residual=kernels.Strides(image=window.image.residual, pixel=window.pixel.residual),
            ),
            prefetch=kernels.Prefetch(
                weights=computed(_ahead, block, window.columns, tile.mr, tile.nr * k_block * weight_bytes), x=x_ahead
            ),
        )

    @property
    def reads_weights_once(self) -> bool:
        """Whether so few pixels are multiplied that each weight is read from memory once, and not from a cache."""
        window = self.window
        return window.images * window.rows.count * window.columns <= _FEW_PIXELS

    def widened(self, s: NodeLowering) -> ProductCall:
        """The same product of pixels that are widened to i16, which lie twice as far apart."""
        window = self.window
        wide = replace(
            window,
            rows=window.rows.widened(),
            taps=[2 * tap for tap in window.taps],
            image=replace(window.image, x=2 * window.image.x),
            pixel=replace(window.pixel, x=2 * window.pixel.x),
            x_row_bytes=2 * window.x_row_bytes,
        )
        return replace(
            self,
            window=wide,
            x=widened(s, self.x, self.low_plane),
            x_start=2 * self.x_start,
            low_plane=2 * self.low_plane,
        )


def _ahead(block: int, columns: int, mr: int, nbytes: int) -> int:
    """How much of the next panel's weights each tile of a row block prefetches, of `nbytes` bytes per K step."""
    tiles = block * -(-columns // (mr if columns >= mr else 1))
    return -(-nbytes // max(1, tiles))


def is_of_codes(s: NodeLowering) -> bool:
    """Whether a product multiplies codes. Its result may still be real."""
    return not op_of(s.node).first.type.dtype.is_float


def residual_name(residual: Memory | None, op: Weighted) -> str | None:
    """The name of a residual's element type in static arguments of kernels."""
    return None if residual is None or op.added is None else str(op.added.type.dtype)


def append_product(s: NodeLowering, op: Weighted, product: ProductCall) -> None:
    """Append the call that computes a product. The multipliers come from the node's types."""
    (_append_u8 if is_of_codes(s) else _append_f32)(s, op, product)


def _append_f32(s: NodeLowering, op: Weighted, product: ProductCall) -> None:
    window, tile = product.window, product.tile
    rows = window.rows.stored(s)
    s.check_table(product.outputs, 8)
    bias = product.bias or Weight(np.zeros(product.outputs, np.float32), None, f"no bias of {product.outputs}")
    weights, start = product.weight.packed(s, tile.nr), bias.packed(s, tile.nr)
    arguments = kernels.ConvF32(
        product=product.arguments(s, rows, weights, start, window.taps, 1, 4),
        clamp=activation_clamp(op),
        streams=is_streamed(s, product),
    )
    call_product(
        s, op, product, kernels.conv_f32(mr=tile.mr, nv=tile.nv, residual=product.residual is not None), arguments
    )


def packed_product(s: NodeLowering, op: Weighted, product: ProductCall) -> tuple[ProductCall, BytePacking]:
    """(a product of bytes, whose pixels are widened if it is one of words; how its weights are packed)."""
    is_static = all(isinstance(size, int) for size in s.out.shape)  # all bindings share packed weights
    narrow = is_static and product.reads_weights_once
    window = product.window
    packing = BytePacking.of(s, op, product.weight, product.tile.nv, len(window.taps), window.kc, narrow)
    return product.widened(s) if packing.is_wide else product, packing


def _append_u8(s: NodeLowering, op: Weighted, product: ProductCall) -> None:
    tile, weight = product.tile, product.weight
    product, packing = packed_product(s, op, product)
    window = product.window
    rows = window.rows.stored(s)
    weights = packing.constant(s)
    bias = None if product.bias is None else product.bias.array
    terms, start, scale = sum_constants(s, op, weight, bias, product.channels, packing.order, tile)
    taps = list(window.taps) * packing.parts
    words = product.low_plane > 0
    shared = product.arguments(s, rows, weights, start, taps, s.target.k_blocks[-1], packing.weight_bytes)
    residual = residual_name(product.residual, op)
    pairs, narrow = packing.pairs, packing.is_narrow
    if not isinstance(terms, RequantizeTerms):
        to_f32 = kernels.conv_u8_to_f32(
            mr=tile.mr, nv=tile.nv, residual=residual, pairs=pairs, words=words, narrow=narrow
        )
        dequantize = terms.dequantize(scale, activation_clamp(op))
        streams = is_streamed(s, product)
        call_product(
            s, op, product, to_f32, kernels.ConvU8ToF32(product=shared, dequantize=dequantize, streams=streams)
        )
        return
    if s.out.dtype is DType.U8:
        kernel = kernels.conv_u8(
            mr=tile.mr,
            nv=tile.nv,
            residual=residual,
            proven=terms.proven,
            pairs=pairs,
            saturates=s.target.pack_saturates and terms.is_plain,
            words=words,
            narrow=narrow,
        )
    else:
        kernel = kernels.conv_u8_to_i16(
            mr=tile.mr, nv=tile.nv, residual=residual, pairs=pairs, words=words, narrow=narrow
        )
    call_product(s, op, product, kernel, kernels.ConvU8(product=shared, requantize=terms.requantize(scale)))


def sum_constants(
    s: NodeLowering,
    op: Weighted,
    weight: Weight,
    bias: np.ndarray | None,
    channels: slice,
    order: np.ndarray,
    tile: Tile,
) -> tuple[RequantizeTerms | SumTerms, Memory, Memory]:
    """(how sums of codes become results; the packed first term of each sum, and its multiplier). order: of the channels
    of a panel. channels: which of the result."""
    terms = (
        requantize_terms(s, op, weight.array, bias, channels, weight.role)
        if s.out.is_quantized
        else sum_terms(s, op, weight.array, bias, channels)
    )

    def pack_start(into: np.ndarray) -> None:
        into[:] = pack_channels(terms.start, order)
        forget_pages(s.constant(op.weight))

    packed = -(-len(weight.array) // len(order)) * len(order)
    start = s.filled(f"{s.node.name}, {weight.role}.start {tile}", (packed,), np.int32, pack_start)
    return terms, start, s.packed(f"{weight.role}.scale {tile}", lambda: pack_channels(terms.multiplier, order))


def call_product(
    s: NodeLowering, op: Weighted, product: ProductCall, kernel: KernelKey[A], arguments: Arguments[A]
) -> None:
    """Append the call of a product's kernel, with what it reads and computes."""
    window, y = product.window, s.result()
    weights, x = product.outputs * len(window.taps) * window.kc, s.view(op.x)
    s.call(
        kernel,
        arguments,
        macs=window.products * product.outputs,
        bytes=(weights + x.elements) * x.dtype.itemsize + y.elements * y.dtype.itemsize,
        disjoint=True,
    )


def is_streamed(s: NodeLowering, product: ProductCall) -> int:
    """1 if a float result is written with non-temporal stores, otherwise 0. It is if it is large, lies in the arena,
    and all of its registers are aligned to their size."""
    (buffer, offset), window, nbytes = product.y.pointer, product.window, s.target.vector_bytes
    if (
        not s.target.streams
        or not isinstance(buffer, BufferHandle)
        or buffer.kind != "arena"
        or not window.rows.are_aligned(nbytes)
    ):
        return 0
    return computed(_is_large_and_aligned, s.result().elements, nbytes, offset, window.pixel.y, window.image.y)


def _is_large_and_aligned(elements: int, alignment: int, *distances: int) -> int:
    return int(elements * 4 >= _STREAMED_BYTES and not any(distance % alignment for distance in distances))


def activation_clamp(op: Weighted) -> Clamp[float]:
    """The bounds of a float result's fused activation."""
    low, high = op.bounds
    return Clamp(low=low, high=high)
