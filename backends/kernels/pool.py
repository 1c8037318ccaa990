"""Pooling over up to three spatial axes, channels last; lanes lie across channels, windows are clipped to the input.

For each axis an array holds a pair (byte offset of the first tap, number of taps) for every position of the result, so
strides, borders, dilation, ceil_mode and adaptive windows are all data. Taps are taken in row-major order. Threads
share rows of the result and channel blocks.

A channel block is `vectors` vectors of `lanes` channels. lanes is at most the number of channels: the last vectors of
the last block overlap those before, so nothing is masked, and the overlapping channels are written twice with the same
values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, S, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I16, I32, I64, Type, vector
from qcompiler.backends.kernels.code_range import CodeRange

MOST_VECTORS = 4
WORD_TAPS = 257
"""How many bytes an unsigned 16-bit sum can hold."""


class Windows(Group, Generic[P, E]):
    """The taps of every position of the result.

    Attributes:
        depths, heights, widths: for each position along an axis a pair of i64: the byte offset of the first tap in x,
            and the number of taps.
        tap_depth, tap_height, tap_width: bytes from tap to tap along each axis.
        divisors: f32 [depth, height, width]: what a sum is divided by, or multiplied with if it is quantized.
    """

    depths: P
    heights: P
    widths: P
    tap_depth: E
    tap_height: E
    tap_width: E
    divisors: P


class Pixels(Group, Generic[E]):
    """The result's extents, and its strides in bytes."""

    images: E
    depth: E
    height: E
    width: E
    channels: E
    image_stride: E
    depth_stride: E
    row_stride: E
    pixel_stride: E


class Pool(Arguments["Pool"], Generic[P, E]):
    """The arguments of the pooling kernels. x_image: bytes from image to image of x."""

    x: P
    x_image: E
    windows: Windows[P, E]
    y: Written[P]
    result: Pixels[E]


class AveragePoolU8(Arguments["AveragePoolU8"], Generic[P, E, S]):
    """The arguments of `avg_pool_u8`. in_zero: the zero point of x; codes: the codes of the result."""

    pool: Pool[P, E]
    in_zero: E
    codes: CodeRange[E, S]


class _Pooling(ABC):
    """How the taps of one vector of channels are reduced. A state is a list of values.

    chunk: the most taps of a row that `add` sums in 16-bit words before they are added to i32 sums. None: there are no
        i32 sums.
    """

    chunk: int | None = None

    def __init__(self, b: KernelBuilder, element: Type, lanes: int) -> None:
        self.b, self.lanes, self.type = b, lanes, vector(element, lanes)

    @abstractmethod
    def start(self) -> list[Value]:
        """The state of an empty window."""

    @abstractmethod
    def add(self, state: list[Value], taps: Sequence[Value]) -> list[Value]:
        """The state after some more taps, in order."""

    @abstractmethod
    def finish(self, state: list[Value], count: Value, divisor: Value) -> Value:
        """The vector to store. count: the number of taps; divisor: the position's entry of `divisors`."""


class _MaxBytes(_Pooling):
    def start(self) -> list[Value]:
        return [self.b.zero(self.type)]

    def add(self, state: list[Value], taps: Sequence[Value]) -> list[Value]:
        found = state[0]
        for tap in taps:
            found = self.b.umax(found, tap)
        return [found]

    def finish(self, state: list[Value], count: Value, divisor: Value) -> Value:
        return state[0]


class _MaxReal(_Pooling):
    """The maximum of the elements that are not NaN, and a lane that is NaN once an element was."""

    def start(self) -> list[Value]:
        return [self.b.const(self.type, float("-inf")), self.b.zero(self.type)]

    def add(self, state: list[Value], taps: Sequence[Value]) -> list[Value]:
        b, (found, bad) = self.b, state
        for tap in taps:
            found = b.fmax(tap, found)
        for first, second in zip(taps[::2], [*taps[1::2], taps[-1]]):
            bad = b.select(b.fcmp("uno", first, second), b.const(self.type, float("nan")), bad)
        return [found, bad]

    def finish(self, state: list[Value], count: Value, divisor: Value) -> Value:
        return self.b.select(state[1] != state[1], state[1], state[0])


class _MeanReal(_Pooling):
    def start(self) -> list[Value]:
        return [self.b.zero(self.type)]

    def add(self, state: list[Value], taps: Sequence[Value]) -> list[Value]:
        found = state[0]
        for tap in taps:
            found = found + tap
        return [found]

    def finish(self, state: list[Value], count: Value, divisor: Value) -> Value:
        return state[0] / self.b.splat(divisor, self.lanes)


class _MeanBytes(_Pooling):
    """Exact sums: in 16-bit words while these can hold them, then in i32."""

    def __init__(self, b: KernelBuilder, in_zero: Value, codes: CodeRange, lanes: int, small: bool) -> None:
        super().__init__(b, I8, lanes)
        self.chunk = None if small else WORD_TAPS
        width = min(lanes, b.target.i32_lanes)
        self.low, self.high = b.splat(codes.low, width), b.splat(codes.high, width)
        self.zero, self.in_zero = b.splat(b.trunc(codes.zero, I32), width), in_zero

    def start(self) -> list[Value]:
        return [self.b.zero(self.type.of(I16 if self.chunk is None else I32))]

    def add(self, state: list[Value], taps: Sequence[Value]) -> list[Value]:
        found = state[0]
        for tap in taps:
            found = found + self.b.zext(tap, I16)
        return [found]

    def finish(self, state: list[Value], count: Value, divisor: Value) -> Value:
        b, width = self.b, min(self.lanes, self.b.target.i32_lanes)
        offset, scale = b.splat(b.trunc(count * self.in_zero, I32), width), b.splat(divisor, width)
        parts = []
        for first in range(0, self.lanes, width):
            total = b.zext(b.slice(state[0], first, width), I32)
            real = b.clamp(b.sitofp(total - offset) * scale, self.low, self.high)
            parts.append(b.target.round_to_i32(b, real) + self.zero)
        return b.target.narrow(b, parts, "u8") if width == b.target.i32_lanes else b.trunc(parts[0], I8)


def _over_windows(b: KernelBuilder, a: Pool, pooling: _Pooling, vectors: int, window: tuple[int, int]) -> None:
    """Emit the loops over windows. window: (rows, columns) of the windows whose taps are unrolled where all lie in the
    input; (0, 0) for none."""
    lanes, size = pooling.lanes, pooling.type.element.bytes
    windows, y = a.windows, a.result
    blocks = (y.channels + (lanes * vectors - 1)) // (lanes * vectors)
    lo, hi = b.share(y.images * y.depth * y.height * blocks)

    def bounds(axis: Value, place: Value) -> tuple[Value, Value]:
        return b.load(I64, axis, place * 16), b.load(I64, axis, place * 16, disp=8)

    with b.loop(lo, hi) as unit:
        block, row = unit.index % blocks * (lanes * vectors), unit.index // blocks
        offsets = [b.smin(block + lanes * i, y.channels - lanes) * size for i in range(vectors)]
        plane, h = row // y.height, row % y.height
        image, d = plane // y.depth, plane % y.depth
        d_first, d_count = bounds(windows.depths, d)
        h_first, h_count = bounds(windows.heights, h)
        x_row = a.x + (image * a.x_image + d_first + h_first)
        y_row = a.y + (image * y.image_stride + d * y.depth_stride + h * y.row_stride)
        divisors = windows.divisors + row % (y.depth * y.height) * y.width * 4
        with b.loop(0, y.width) as column:
            w_first, w_count = bounds(windows.widths, column.index)
            x = x_row + w_first
            taps = _Taps(b, pooling, windows, [x + offset for offset in offsets], (d_count, h_count, w_count))
            if window != (0, 0):
                inside = (d_count == 1) & (h_count == window[0]) & (w_count == window[1])
                with b.if_(inside) as whole:
                    whole.yield_(taps.written_out(window))
                with whole.else_():
                    whole.yield_(taps.counted())
                states = whole.results
            else:
                states = taps.counted()
            divisor = b.load(F32, divisors, column.index * 4)
            pixel = y_row + column.index * y.pixel_stride
            for state, offset in zip(states, offsets):
                b.store(pooling.finish(state, d_count * h_count * w_count, divisor), pixel, offset)


class _Taps:
    """The states of a channel block after all taps of one window.

    x: pointers to the first tap of each vector of channels. counts: the number of taps along each axis.
    """

    def __init__(
        self, b: KernelBuilder, pooling: _Pooling, windows: Windows, x: Sequence[Value], counts: Sequence[Value]
    ) -> None:
        self.b, self.pooling, self.windows, self.x, self.counts = b, pooling, windows, x, counts

    def written_out(self, window: tuple[int, int]) -> Any:
        b = self.b
        columns = [self.windows.tap_width * j for j in range(window[1])]
        states = []
        for x in self.x:
            rows = [x + self.windows.tap_height * i for i in range(window[0])]
            states.append(
                self.pooling.add(
                    self.pooling.start(), [b.load(self.pooling.type, row, c) for row in rows for c in columns]
                )
            )
        return states

    def counted(self) -> Any:
        b, (d_count, h_count, w_count) = self.b, self.counts
        with b.loop(0, d_count, carried=[self.pooling.start() for _ in self.x]) as depth:
            plane = depth.index * self.windows.tap_depth
            with b.loop(0, h_count, carried=depth.carried) as height:
                row = plane + height.index * self.windows.tap_height
                height.yield_(self._row([x + row for x in self.x], w_count, height.carried))
            depth.yield_(height.results)
        return depth.results

    def _row(self, x: Sequence[Value], count: Value, states: Any) -> Any:
        b, chunk = self.b, self.pooling.chunk
        if chunk is None:
            return self._run(x, b.i64(0), count, states)
        with b.loop(0, count, chunk, carried=states) as chunks:
            words = [[b.zero(self.pooling.type.of(I16))] for _ in x]
            sums = self._run(x, chunks.index, b.smin(chunks.index + chunk, count), words)
            chunks.yield_([[total + b.zext(part, I32)] for (total,), (part,) in zip(chunks.carried, sums)])
        return chunks.results

    def _run(self, x: Sequence[Value], lo: Value, hi: Value, states: Any) -> Any:
        b = self.b
        with b.loop(lo, hi, carried=states) as taps:
            offset = taps.index * self.windows.tap_width
            taps.yield_(
                [
                    self.pooling.add(state, [b.load(self.pooling.type, pointer, offset)])
                    for pointer, state in zip(x, taps.carried)
                ]
            )
        return taps.results


@kernel
def max_pool_u8(b: KernelBuilder, a: Pool, *, lanes: int, vectors: int, window: tuple[int, int]) -> None:
    """The largest code of each window. divisors have no meaning here."""
    _over_windows(b, a, _MaxBytes(b, I8, lanes), vectors, window)


@kernel
def max_pool_f32(b: KernelBuilder, a: Pool, *, lanes: int, vectors: int, window: tuple[int, int]) -> None:
    """The largest value of each window; NaN if there is one."""
    _over_windows(b, a, _MaxReal(b, F32, lanes), vectors, window)


@kernel
def avg_pool_f32(b: KernelBuilder, a: Pool, *, lanes: int, vectors: int, window: tuple[int, int]) -> None:
    """The sum of each window over its divisor."""
    _over_windows(b, a, _MeanReal(b, F32, lanes), vectors, window)


@kernel
def avg_pool_u8(
    b: KernelBuilder, a: AveragePoolU8, *, lanes: int, vectors: int, window: tuple[int, int], small: bool
) -> None:
    """The i32 sum of q - in_zero over each window, times its multiplier (in `divisors`), requantized. small: whether
    all windows have at most WORD_TAPS taps."""
    _over_windows(b, a.pool, _MeanBytes(b, a.in_zero, a.codes, lanes, small), vectors, window)
