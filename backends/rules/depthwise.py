"""Lowers depthwise convolution, where every filter sees one channel. `_Filtering.mr` chooses the tile of its
kernels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from qcompiler.backends.kernel_ir.definition import Arguments, Memory
from qcompiler.backends.kernel_ir.kernel_key import A, KernelKey
from qcompiler.backends.kernels import depthwise as kernels
from qcompiler.backends.kernels.conv import PackedWeights, Strides
from qcompiler.backends.kernels.depthwise_sums import Windows, quads_of, sums_of
from qcompiler.backends.lowering.geometry import Geometry
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.packing import pack_channels, pack_depthwise, pack_quads
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import SLACK, TensorView, layout_strides, storage_bytes
from qcompiler.backends.program.recorded import BufferHandle
from qcompiler.backends.rules.conv import (
    check_rows,
    list_bytes,
    residual_of,
    stored_channels,
    unrolls_as_depthwise,
    why_not_weighted,
)
from qcompiler.backends.rules.convert import zero_point
from qcompiler.backends.rules.gemm import activation_clamp, is_of_codes, residual_name
from qcompiler.backends.rules.requantize import RequantizeTerms, requantize_terms, sum_terms
from qcompiler.backends.rules.weights import Weight, byte_parts
from qcompiler.backends.target import Target
from qcompiler.dims import DimLike
from qcompiler.ir import Node
from qcompiler.ops.conv import Conv, ConvTranspose
from qcompiler.types import DType, Layout

_ROW_GAIN = 1.2
"""Two rows are computed together if that takes at most so many times as many dot products. Their quads are interleaved
once."""
_BLOCK_COST = 14
"""The channels whose products would take as long as what a block takes in any case: see `channel_parts`."""
_CALL_COST = 8
"""The same for a call."""


@dataclass(frozen=True)
class ChannelPart:
    """The channels from `first` to `last`, in blocks of `block` channels."""

    first: int
    last: int
    block: int

    def of(self, array: np.ndarray) -> np.ndarray:
        """Those of an array [channels, ...]."""
        return array[self.first : self.last]

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return -(-(self.last - self.first) // self.block)

    @property
    def cost(self) -> int:
        """The time, as that of so many channels."""
        return self.blocks * (self.block + _BLOCK_COST) + _CALL_COST


def channel_parts(blocks: Sequence[int], channels: int) -> list[ChannelPart]:
    """The parts of the channels that have calls of their own: one, or whole blocks of the largest size and the rest in
    blocks of another size. blocks: the channels that a block may have, the most first."""
    found = [[ChannelPart(0, channels, block)] for block in blocks]
    whole = channels // blocks[0] * blocks[0]
    if 0 < whole < channels:
        found += [[ChannelPart(0, whole, blocks[0]), ChannelPart(whole, channels, block)] for block in blocks[1:]]
    return min(found, key=lambda parts: sum(part.cost for part in parts))


def _why_not_depthwise(node: Node, target: Target) -> str | None:
    """Why a conv is not a depthwise one of f32 or u8, or None."""
    return why_not_weighted(node, target) if unrolls_as_depthwise(Conv(node)) else "not one channel per filter"


def _fills_pixels(node: Node) -> bool:
    """Whether the result's pixels have no gap after their channels. Kernels of bytes would write the gap too."""
    type = node.result.type
    return type.layout is not None and type.layout.channel_stride == type.shape[1]


@dataclass(frozen=True)
class Lines:
    """Rows of pixels of the result, and where the windows of their first pixels lie.

    Attributes:
        rows: for each row of an image the byte offset of its first pixel in y and in the residual, then the byte offset
            in x of each tap row, which is -1 outside of the image.
        columns: pixels of a row.
        static_columns: `columns`, or the symbolic size that decides it.
        stride, dilation: the window's stride and dilation along the row.
        before: how many pixels of the first window lie before the row of x.
        spread: the distance of neighbouring pixels of the row in y, in pixels.
    """

    rows: Sequence[Sequence[int]]
    columns: int
    static_columns: DimLike
    stride: int
    dilation: int
    before: int
    spread: int = 1


def repeated_channels(s: NodeLowering, op: Conv | ConvTranspose, times: int) -> TensorView:
    """x with each channel repeated `times` times, channels last with the channel stride of its type, in memory where a
    register may be read past the end."""
    x = s.view(op.x)
    shape = (x.shape[0], x.shape[1] * times, *x.shape[2:])
    layout = Layout("channels_last", stored_channels(shape[1], op.x.type.dtype))
    if times == 1:
        return s.channels_last_in_arena(op.x, layout.channel_stride)
    size = x.dtype.itemsize
    y = TensorView(
        s.scratch(storage_bytes(shape, size, layout) + SLACK, "repeated"),
        x.dtype,
        shape,
        layout_strides(shape, size, layout),
    )
    target = Geometry.of(y).split(1, x.shape[1], times)
    s.copy(Geometry.of(x).expanded(2).broadcast(target.shape).part_of(x), target.part_of(y))
    return y


def filter_channels(
    s: NodeLowering,
    op: Conv | ConvTranspose,
    x: TensorView,
    residual: TensorView | None,
    weight: Weight,
    lines: Lines,
) -> None:
    """Append the calls that compute some rows of pixels of the result. weight: [C, *tap rows, columns of taps]."""
    is_u8, channels = is_of_codes(s), weight.shape[0]
    border = _border(s, x, zero_point(op.x.type) if is_u8 else 0)
    blocks = sums_of(s.target).blocks(s.target) if is_u8 else (s.target.f32_lanes,)
    parts = channel_parts(blocks, channels)
    for part in parts:
        chosen = weight if len(parts) == 1 else weight.taken(part.first, part.of)
        filtering = _Filtering(s, op, x, residual, chosen, lines, border, part)
        (filtering.append_u8 if is_u8 else filtering.append_f32)()


def _border(s: NodeLowering, x: TensorView, fill: int) -> BufferHandle:
    """A row of x that holds real zero."""
    count = x.shape[-1] * x.strides[-1] // x.dtype.itemsize + SLACK
    s.check_table(count, 2 * x.dtype.itemsize)
    return s.stored(np.full(count, fill, x.dtype))


@dataclass(frozen=True)
class _Filtering:
    """One call of a depthwise kernel; see `filter_channels`. weight: of the channels of the part."""

    s: NodeLowering
    op: Conv | ConvTranspose
    x: TensorView
    residual: TensorView | None
    weight: Weight
    lines: Lines
    border: Memory
    part: ChannelPart

    @property
    def taps(self) -> int:
        """The number of tap rows."""
        return math.prod(self.weight.shape[1:-1])

    @property
    def mr(self) -> int:
        """The pixels of a row in a tile: as many as the registers allow, and no more than a row has."""
        target = self.s.target
        most = 4 if target.multiplies_words or not is_of_codes(self.s) else 2
        columns = self.lines.static_columns
        return max(1, min(most, columns)) if isinstance(columns, int) else most

    def pairs(self, parts: int) -> list[list[int]] | None:
        """The table of tiles of two rows, whose windows share all tap rows but one; None where single rows are better.
        parts: see `_rows`."""
        target, rows, taps = self.s.target, self.lines.rows, self.taps
        kw = self.weight.shape[-1]
        if target.multiplies_words or target.register_count < 32 or parts > 1:
            return None
        if len(quads_of(taps + 1, kw)) > _ROW_GAIN * len(quads_of(taps, kw)):
            return None
        found, index = [], 0
        while index < len(rows):
            place, here = list(rows[index][:2]), list(rows[index][2:])
            below = rows[index + 1] if index + 1 < len(rows) else None
            if below is not None and list(below[2:-1]) == here[1:]:
                found.append([*place, *below[:2], *here, below[-1]])
                index += 2
            else:
                found.append([*place, *place, *here, -1])
                index += 1
        return found if 4 * len(found) < 3 * len(rows) else None

    def append_f32(self) -> None:
        s, lines, lanes = self.s, self.lines, self.part.block
        bias = Weight(np.zeros(self.weight.shape[0], np.float32), None, "no bias")
        if self.op.bias is not None:
            bias = Weight.of(s, self.op.bias)
        weights = PackedWeights(
            data=self.weight.taken("columns", lambda array: np.moveaxis(array, -1, 1)).packed(s, lanes),
            bias=bias.packed(s, lanes),
            panels=self.part.blocks,
            channels=self.weight.shape[0],
        )
        kernel = kernels.depthwise_f32(
            taps=self.taps,
            kw=self.weight.shape[-1],
            stride=lines.stride,
            dilation=lines.dilation,
            mr=self.mr,
            residual=self.residual is not None,
        )
        shared = self._arguments(weights, self._table(1))
        self._call(kernel, kernels.DepthwiseF32(filter=shared, clamp=activation_clamp(self.op)))

    def append_u8(self) -> None:
        s, lines, part, sums = self.s, self.lines, self.part, sums_of(self.s.target)
        channels, role = self.weight.shape[0], self.weight.role
        matrix = self.weight.array.reshape(channels, self.taps, self.weight.shape[-1])
        parts = 1  # words hold weights of nine bits
        if sums.weight_size == 1:
            parts = s.memo(f"{role}.parts", lambda: np.array([len(byte_parts(matrix))])).item()
        pairs = self.pairs(parts)
        tile_rows = 2 if pairs else 1
        order = np.array(sums.order(s.target, part.block))
        chosen = slice(part.first, part.last)
        bias = None if self.op.bias is None else part.of(Weight.of(s, self.op.bias).array)
        is_of_bytes = s.out.dtype is DType.U8 and (self.op.added is None or self.op.added.type.dtype is DType.U8)
        terms = (
            requantize_terms(s, self.op, matrix, bias, chosen, role)
            if s.out.is_quantized
            else sum_terms(s, self.op, matrix, bias, chosen)
        )

        def packed() -> np.ndarray:
            if sums.weight_size == 1:
                return pack_quads(np.concatenate(byte_parts(matrix), axis=1), order, tile_rows)
            return pack_depthwise(matrix.astype(np.int16), order)

        weights = PackedWeights(
            data=s.packed(f"{role}.weight of {tile_rows} rows", packed),
            bias=s.packed(f"{role}.start", lambda: pack_channels(terms.start, order)),
            panels=part.blocks,
            channels=s.channel_stride - part.first if is_of_bytes and part.last == s.result().shape[1] else channels,
        )
        scale = s.packed(f"{role}.scale", lambda: pack_channels(terms.multiplier, order))
        shared = self._arguments(weights, pairs or self._table(parts))
        residual = residual_name(self.residual, self.op)
        tile = Windows(self.taps * parts, self.weight.shape[-1], lines.stride, lines.dilation, self.mr, tile_rows)
        if isinstance(terms, RequantizeTerms):
            if is_of_bytes:
                kernel = kernels.depthwise_u8(
                    **asdict(tile),
                    block=part.block,
                    residual=residual is not None,
                    proven=terms.proven,
                    saturates=s.target.pack_saturates and terms.is_plain,
                )
            else:
                kernel = kernels.depthwise_u8_to_codes(
                    **asdict(tile),
                    block=part.block,
                    residual=residual,
                    to=str(s.out.dtype),
                )
            self._call(kernel, kernels.DepthwiseU8(filter=shared, requantize=terms.requantize(scale)))
            return
        to_f32 = kernels.depthwise_u8_to_f32(**asdict(tile), block=part.block, residual=residual)
        dequantize = terms.dequantize(scale, activation_clamp(self.op))
        self._call(to_f32, kernels.DepthwiseU8ToF32(filter=shared, dequantize=dequantize))

    def _table(self, parts: int) -> list[list[int]]:
        """The array `DepthwiseGeometry.rows` of single rows. parts: the number of i8 summands of each weight; the tap
        rows are repeated for each."""
        return [[*row[:2], *list(row[2:]) * parts] for row in self.lines.rows]

    def _arguments(
        self, weights: PackedWeights[Memory, int], table: Sequence[Sequence[int]]
    ) -> kernels.Filter[Memory | None, int]:
        x, y, residual, lines, first = self.x, self.s.result(), self.residual, self.lines, self.part.first
        return kernels.Filter(
            x=x.shifted(first * x.dtype.itemsize),
            weights=weights,
            border=self.border,
            residual=residual.shifted(first * residual.dtype.itemsize) if residual else None,
            y=y.shifted(first * y.dtype.itemsize),
            geometry=kernels.DepthwiseGeometry(
                rows=self.s.stored(np.array(table, np.int64)),
                row_count=len(table),
                row_total=y.shape[0] * len(table),
                columns=lines.columns,
                width=x.shape[-1],
                before=lines.before,
                apart=0,
                x=Strides(image=x.strides[0], pixel=x.strides[-1]),
                y=Strides(image=y.strides[0], pixel=y.strides[-1] * lines.spread),
                residual=Strides(
                    image=residual.strides[0] if residual else 0, pixel=residual.strides[-1] if residual else 0
                ),
            ),
        )

    def _call(self, kernel: KernelKey[A], arguments: Arguments[A]) -> None:
        y, lines, channels = self.s.result(), self.lines, self.weight.shape[0]
        self.s.call(
            kernel,
            arguments,
            macs=y.shape[0] * len(lines.rows) * lines.columns * math.prod(self.weight.shape),
            bytes=(self.x.elements * self.x.dtype.itemsize + y.elements * y.dtype.itemsize) * channels // y.shape[1],
            disjoint=True,
        )


@lowers("conv", unless=_why_not_depthwise, strided=_fills_pixels)
def depthwise(s: NodeLowering) -> None:
    conv = Conv(s.node)
    weight, y = Weight.of(s, conv.weight), s.result()
    x = repeated_channels(s, conv, weight.shape[0] // conv.groups)
    residual = residual_of(s, conv)
    stride, dilation, before = conv.stride, conv.dilation, [first for first, _ in conv.padding]
    check_rows(s, y.shape, list_bytes(2 + math.prod(weight.shape[2:-1])))
    rows = []
    for place in itertools.product(*(range(n) for n in y.shape[2:-1])):
        row = [sum(p * distance for p, distance in zip(place, view.strides[2:])) for view in (y, residual or y)]
        for tap in itertools.product(*(range(k) for k in weight.shape[2:-1])):
            axes = zip(place, stride, tap, dilation, before)
            row.append(row_offset(x, [p * step + k * spread - first for p, step, k, spread, first in axes]))
        rows.append(row)
    lines = Lines(rows, y.shape[-1], s.out.shape[-1], stride[-1], dilation[-1], before[-1])
    filter_channels(s, conv, x, residual, weight.taken("channels", lambda array: array[:, 0]), lines)


def row_offset(x: TensorView, at: Sequence[int]) -> int:
    """The byte offset of a row of pixels in an image, or -1 outside of it. at: the row's position along all spatial
    axes but the last."""
    inside = all(0 <= a < n for a, n in zip(at, x.shape[2:-1]))
    return sum(a * stride for a, stride in zip(at, x.strides[2:])) if inside else -1
