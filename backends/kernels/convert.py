"""Kernels that convert between real and quantized tensors, and look bytes up in a table.

The flat kernels treat the storage of their operand and of their result as one row, including the gaps of a layout.
Codes are u8 or i16, as the static arguments say. Both are converted by the same f32 operations, which are exact where
they should be: q - zero_point has at most 17 bits.
"""

from __future__ import annotations

from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, P, S, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I16, I32, I64, vector
from qcompiler.backends.kernels.code_range import CODES, CodeRange, as_i32


class Quantize(Arguments["Quantize"], Generic[P, E, S]):
    """The arguments of `quantize_flat`: f32 [count] to codes [count]. scale: the scale of the codes."""

    x: P
    y: Written[P]
    count: E
    scale: S
    codes: CodeRange[E, S]


class QuantizeImages(Arguments["QuantizeImages"], Generic[P, E, S]):
    """The arguments of `quantize_channels_last`: f32 [images, channels, pixels] to codes
    [images, pixels, channel_stride].

    channel_stride: a multiple of 4; the bytes after the channels become 0.
    """

    x: P
    y: Written[P]
    images: E
    channels: E
    pixels: E
    channel_stride: E
    scale: S
    codes: CodeRange[E, S]


class Dequantize(Arguments["Dequantize"], Generic[P, E, S]):
    """The arguments of `dequantize_flat`: codes [count] to f32 [count]. scale, zero: the codes' parameters."""

    x: P
    y: Written[P]
    count: E
    scale: S
    zero: E


class Requantize(Arguments["Requantize"], Generic[P, E, S]):
    """The arguments of `requantize_flat`: codes [count] to codes [count] with other parameters.

    scale: the scale of x over that of y. in_zero: the zero point of x.
    """

    x: P
    y: Written[P]
    count: E
    scale: S
    in_zero: E
    codes: CodeRange[E, S]


class Lookup(Arguments["Lookup"], Generic[P, E]):
    """The arguments of `lookup_flat` and `lookup_words_flat`: bytes [count] to bytes or words [count].

    table: a byte for each of the 256 unsigned codes; or the low bytes of a word for each, then the high bytes.
    """

    x: P
    table: P
    y: Written[P]
    count: E


class Interpolate(Arguments["Interpolate"], Generic[P, E]):
    """The arguments of `interpolate_flat`: words [count] to codes [count]. knots: i32; low, high: the bounds of the
    result's codes."""

    x: P
    knots: P
    y: Written[P]
    count: E
    low: E
    high: E


class WidenBytes(Arguments["WidenBytes"], Generic[P, E]):
    """The arguments of `widen_bytes`: x is u8 [count], y is i16 [count]."""

    x: P
    y: Written[P]
    count: E


class SplitWords(Arguments["SplitWords"], Generic[P, E]):
    """The arguments of `split_words`: words [count], and the bytes [count] of each plane."""

    x: P
    high: Written[P]
    low: Written[P]
    count: E


_WIDENED = 4
"""Registers that `widen_bytes` writes in one iteration."""


class _Quantizer:
    """Rule (2) of qmath on one register."""

    def __init__(self, b: KernelBuilder, scale: Value, codes: CodeRange) -> None:
        self.b, lanes = b, b.target.f32_lanes
        self.scale, self.low, self.high = (b.splat(v, lanes) for v in (scale, codes.low, codes.high))
        self.zero = b.splat(b.trunc(codes.zero, I32), lanes)

    def codes(self, x: Value) -> Value:
        """The codes of <lanes x f32>, as <lanes x i32>."""
        b = self.b
        return b.target.round_to_i32(b, b.clamp(x / self.scale, self.low, self.high)) + self.zero


@kernel
def quantize_flat(b: KernelBuilder, a: Quantize, *, to: str = "u8") -> None:
    """Quantize a row by rule (2)."""
    quantizer, lanes, element = _Quantizer(b, a.scale, a.codes), b.target.f32_lanes, CODES[to]
    lo, hi = b.share(a.count, lanes)
    with b.loop(lo, hi, lanes) as loop:
        left = a.count - loop.index
        x = b.load_prefix(vector(F32, lanes), a.x, loop.index * 4, left)
        b.store_prefix(b.trunc(quantizer.codes(x), element), a.y, loop.index * element.bytes, left)


@kernel
def quantize_channels_last(b: KernelBuilder, a: QuantizeImages, *, packed: bool) -> None:
    """Quantize images by rule (2) and put their channels last.

    A register holds pixels of one channel; four of them are joined to i32 lanes of four channels. packed: the channel
    stride is 4, so these lanes are adjacent in y.
    """
    quantizer, lanes = _Quantizer(b, a.scale, a.codes), b.target.f32_lanes
    groups = a.channel_stride // 4
    blocks = (a.pixels + (lanes - 1)) // lanes
    lo, hi = b.share(a.images * groups * blocks)
    with b.loop(lo, hi) as loop:
        start, plane = loop.index % blocks * lanes, loop.index // blocks
        image, channel = plane // groups, plane % groups * 4
        left = a.pixels - start
        x = a.x + ((image * a.channels + channel) * a.pixels + start) * 4
        quad = b.zero(vector(I32, lanes))
        for j in range(4):
            with b.if_(channel + j < a.channels) as there:
                codes = quantizer.codes(b.load_prefix(vector(F32, lanes), x, a.pixels * (4 * j), left))
                there.yield_(codes << (8 * j) if j else codes)
            with there.else_():
                there.yield_(b.zero(vector(I32, lanes)))
            quad = quad | there.results
        y = a.y + ((image * a.pixels + start) * a.channel_stride + channel)
        if packed:
            b.store_prefix(quad, y, 0, left)
        else:
            for lane in range(lanes):
                with b.if_(left > lane) as there:
                    b.store(b.extract(quad, lane), y, a.channel_stride * lane)
                    there.yield_([])


@kernel
def dequantize_flat(b: KernelBuilder, a: Dequantize, *, source: str = "u8") -> None:
    """Dequantize a row by rule (1)."""
    lanes, element = b.target.f32_lanes, CODES[source]
    scale, zero = b.splat(a.scale, lanes), b.splat(b.trunc(a.zero, I32), lanes)
    lo, hi = b.share(a.count, lanes)
    with b.loop(lo, hi, lanes) as loop:
        left = a.count - loop.index
        codes = as_i32(b, b.load_prefix(vector(element, lanes), a.x, loop.index * element.bytes, left))
        b.store_prefix(b.sitofp(codes - zero) * scale, a.y, loop.index * 4, left)


@kernel
def requantize_flat(b: KernelBuilder, a: Requantize, *, source: str = "u8", to: str = "u8") -> None:
    """Requantize a row."""
    lanes, read, written = b.target.f32_lanes, CODES[source], CODES[to]
    scale, low, high = (b.splat(v, lanes) for v in (a.scale, a.codes.low, a.codes.high))
    in_zero, zero = (b.splat(b.trunc(v, I32), lanes) for v in (a.in_zero, a.codes.zero))
    lo, hi = b.share(a.count, lanes)
    with b.loop(lo, hi, lanes) as loop:
        left = a.count - loop.index
        codes = as_i32(b, b.load_prefix(vector(read, lanes), a.x, loop.index * read.bytes, left))
        real = b.sitofp(codes - in_zero) * scale
        rounded = b.target.round_to_i32(b, b.clamp(real, low, high))
        b.store_prefix(b.trunc(rounded + zero, written), a.y, loop.index * written.bytes, left)


@kernel
def lookup_flat(b: KernelBuilder, a: Lookup) -> None:
    """y = table[x]."""
    size = b.target.vector_bytes
    table = b.target.load_table(b, a.table)
    lo, hi = b.share(a.count, size)
    with b.loop(lo, hi, size) as loop:
        left = a.count - loop.index
        codes = b.load_prefix(vector(I8, size), a.x, loop.index, left)
        b.store_prefix(b.target.lookup(b, table, codes), a.y, loop.index, left)


@kernel
def lookup_words_flat(b: KernelBuilder, a: Lookup) -> None:
    """y = table[x], for words."""
    size = b.target.vector_bytes
    low, high = (b.target.load_table(b, a.table, 256 * part) for part in range(2))
    lo, hi = b.share(a.count, size)
    with b.loop(lo, hi, size) as loop:
        left = a.count - loop.index
        codes = b.load_prefix(vector(I8, size), a.x, loop.index, left)
        lows, highs = (b.target.lookup(b, table, codes) for table in (low, high))
        for first in (0, size // 2):
            pairs = [lane + part * size for lane in range(first, first + size // 2) for part in range(2)]
            words = b.bitcast(b.shuffle(lows, highs, pairs), vector(I16, size // 2))
            b.store_prefix(words, a.y, (loop.index + first) * 2, b.smax(left - first, 0))


@kernel
def widen_bytes(b: KernelBuilder, a: WidenBytes) -> None:
    """y = x, as i16."""
    lanes = b.target.vector_bytes // 2
    lo, hi = b.share(a.count, _WIDENED * lanes)
    whole = lo + (hi - lo) // (_WIDENED * lanes) * (_WIDENED * lanes)
    with b.loop(lo, whole, _WIDENED * lanes) as loop:
        for part in range(_WIDENED):
            codes = b.load(vector(I8, lanes), a.x, loop.index, disp=part * lanes)
            b.store(b.zext(codes, I16), a.y, loop.index * 2, disp=2 * part * lanes)
    with b.loop(whole, hi, lanes) as loop:
        left = a.count - loop.index
        codes = b.load_prefix(vector(I8, lanes), a.x, loop.index, left)
        b.store_prefix(b.zext(codes, I16), a.y, loop.index * 2, left)


@kernel
def split_words(b: KernelBuilder, a: SplitWords) -> None:
    """x + 32768 = 256 * high + low, in unsigned bytes."""
    words = vector(I16, b.target.vector_bytes // 2)
    lo, hi = b.share(a.count, words.lanes)
    with b.loop(lo, hi, words.lanes) as loop:
        left = a.count - loop.index
        unsigned = b.load_prefix(words, a.x, loop.index * 2, left) ^ b.const(words, -32768)
        b.store_prefix(b.trunc(b.lshr(unsigned, 8), I8), a.high, loop.index, left)
        b.store_prefix(b.trunc(unsigned, I8), a.low, loop.index, left)


@kernel
def interpolate_flat(b: KernelBuilder, a: Interpolate, *, shift: int, bits: int, to: str) -> None:
    """`quantization.tables.interpolate`, code by code: no level but avx2 and above could gather the knots.

    shift: the logarithm of the distance between two knots. bits: of a sum below one code. to: the element type of y.
    """
    element = CODES[to]
    low, high = b.trunc(a.low, I32), b.trunc(a.high, I32)
    lo, hi = b.share(a.count)
    with b.loop(lo, hi) as loop:
        place = b.sext(b.load(I16, a.x, loop.index * 2), I64) + 2**15
        at, fraction = b.lshr(place, shift) * 4, b.trunc(place & (2**shift - 1), I32)
        first, second = b.load(I32, a.knots, at), b.load(I32, a.knots, at, disp=4)
        total = b.binary("shl", first, shift) + (second - first) * fraction + 2 ** (bits - 1)
        code = b.smax(b.smin(b.binary("ashr", total, bits), high), low)
        b.store(b.trunc(code, element), a.y, loop.index * element.bytes)
