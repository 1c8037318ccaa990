"""group_norm and instance_norm of codes that lie channels last.

Three kernels run one after the other: the first sums each channel over slices of the pixels, the second computes the
mean and the factor of each channel, and the third normalizes. Lanes lie across channels, `lanes` at a time; the last
block overlaps the one before, so nothing is masked. The slices do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, S, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I16, I32, I64, vector
from qcompiler.backends.kernels.code_range import CodeRange

MOST_PIXELS = 1 << 15
"""The most pixels in a slice: the sum of that many squares of bytes fits i32."""
_WORD_TERMS = 257
"""How many bytes an unsigned 16-bit sum can hold."""


class Images(Group, Generic[E]):
    """The images, cut into slices of pixels.

    channels: bytes from pixel to pixel, gaps included. What the kernels compute for gaps is never read as a value.
    """

    images: E
    slices: E
    pixels: E
    channels: E


class ChannelSums(Arguments["ChannelSums"], Generic[P, E]):
    """The arguments of `sums_of_channels`. sums, squares: i32 [images, slices, channels], the sums of the codes of x
    and of their squares, not centered."""

    x: P
    sums: Written[P]
    squares: Written[P]
    images: Images[E]


class GroupTerms(Arguments["GroupTerms"], Generic[P, E, S]):
    """The arguments of `terms_of_groups`: the mean and the factor of each channel's group, f32 [images, channels].

    Attributes:
        sums, squares: as `ChannelSums` gives them.
        factors: 1 / sqrt(variance + eps).
        groups, width: how many groups there are, and the channels of one.
        in_zero, eps: the zero point of x, and eps in squared units of its scale.
    """

    sums: P
    squares: P
    means: Written[P]
    factors: Written[P]
    images: Images[E]
    groups: E
    width: E
    in_zero: E
    eps: S


class ChannelMap(Arguments["ChannelMap"], Generic[P, E, S]):
    """The arguments of `map_of_channels`: x and its normalized result y.

    Attributes:
        means, factors: as `GroupTerms` gives them.
        gain, shift: f32 [channels], over the result's scale.
        in_zero: the zero point of x.
    """

    x: P
    means: P
    factors: P
    gain: P
    shift: P
    y: Written[P]
    images: Images[E]
    in_zero: E
    codes: CodeRange[E, S]


def _over_blocks(
    b: KernelBuilder, a: Images, lanes: int, body: Callable[[Value, Value, Value, Value, Value], None]
) -> None:
    """Emit body(image, slice, first channel, first pixel, end of pixels) for each block of this thread. Slices are
    numbered through all images."""
    channels, pixels, slices = a.channels, a.pixels, a.slices
    blocks = (channels + (lanes - 1)) // lanes
    lo, hi = b.share(a.images * slices * blocks)
    with b.loop(lo, hi) as unit:
        part, first = unit.index // blocks, b.smin(unit.index % blocks * lanes, channels - lanes)
        image, index = part // slices, part % slices
        body(image, part, first, pixels * index // slices, pixels * (index + 1) // slices)


@kernel
def sums_of_channels(b: KernelBuilder, a: ChannelSums, *, lanes: int) -> None:
    """Sum each channel's codes and their squares over the pixels of each slice."""
    channels, bytes_ = a.images.channels, vector(I8, lanes)

    def body(image: Value, part: Value, first: Value, start: Value, end: Value) -> None:
        x = a.x + (image * a.images.pixels * channels + first)
        zeros = b.zero(bytes_.of(I32))
        with b.loop(start, end, _WORD_TERMS, carried=[zeros, zeros]) as chunk:
            stop = b.smin(chunk.index + _WORD_TERMS, end)
            with b.loop(chunk.index, stop, carried=[b.zero(bytes_.of(I16)), chunk.carried[1]]) as pixel:
                words = b.zext(b.load(bytes_, x, pixel.index * channels), I16)
                total, squares = pixel.carried
                pixel.yield_([total + words, squares + b.zext(words * words, I32)])
            chunk.yield_([chunk.carried[0] + b.zext(pixel.results[0], I32), pixel.results[1]])
        for pointer, value in zip((a.sums, a.squares), chunk.results):
            b.store(value, pointer, (part * channels + first) * 4)

    _over_blocks(b, a.images, lanes, body)


@kernel
def terms_of_groups(b: KernelBuilder, a: GroupTerms) -> None:
    """The mean and factor of each channel's group. Threads share groups."""
    groups, width, channels, zero = a.groups, a.width, a.images.channels, a.in_zero
    lo, hi = b.share(a.images.images * groups)
    with b.loop(lo, hi) as unit:
        image, first = unit.index // groups, unit.index % groups * width
        with b.loop(0, a.images.slices, carried=[b.i64(0), b.i64(0)]) as part:
            row = (image * a.images.slices + part.index) * channels + first
            with b.loop(0, width, carried=part.carried) as channel:
                at = (row + channel.index) * 4
                found = [b.sext(b.load(I32, pointer, at), I64) for pointer in (a.sums, a.squares)]
                channel.yield_([total + more for total, more in zip(channel.carried, found)])
            part.yield_(channel.results)
        of_codes, of_squares = part.results
        count = width * a.images.pixels
        s1 = of_codes - count * zero
        s2 = of_squares - zero * (of_codes + s1)
        mean = b.sitofp(s1) / b.sitofp(count)
        variance = b.sitofp(count * s2 - s1 * s1) / b.sitofp(count * count)
        factor = b.const(F32, 1.0) / b.sqrt(variance + a.eps)
        with b.loop(0, width) as channel:
            at = (image * channels + first + channel.index) * 4
            b.store(mean, a.means, at)
            b.store(factor, a.factors, at)


@kernel
def map_of_channels(b: KernelBuilder, a: ChannelMap, *, lanes: int) -> None:
    """((f32(q - in_zero) - mean) * factor) * gain + shift, requantized."""
    channels, width = a.images.channels, min(lanes, b.target.i32_lanes)
    low, high = b.splat(a.codes.low, width), b.splat(a.codes.high, width)
    in_zero, zero = (b.splat(b.trunc(v, I32), width) for v in (a.in_zero, a.codes.zero))

    def body(image: Value, part: Value, first: Value, start: Value, end: Value) -> None:
        base = image * a.images.pixels * channels + first

        def terms(pointer: Value, at: Value) -> list[Value]:
            return [b.load(vector(F32, width), pointer, at * 4, disp=4 * i) for i in range(0, lanes, width)]

        of_image = [terms(pointer, image * channels + first) for pointer in (a.means, a.factors)]
        of_channel = [terms(pointer, first) for pointer in (a.gain, a.shift)]
        with b.loop(start, end) as pixel:
            at = base + pixel.index * channels
            codes = b.load(vector(I8, lanes), a.x, at)
            parts = []
            for i, (mean, factor, gain, shift) in enumerate(zip(*of_image, *of_channel)):
                centered = b.sitofp(b.zext(b.slice(codes, i * width, width), I32) - in_zero)
                real = (centered - mean) * factor * gain + shift
                parts.append(b.target.round_to_i32(b, b.clamp(real, low, high)) + zero)
            b.store(_bytes(b, parts), a.y, at)

    _over_blocks(b, a.images, lanes, body)


def _bytes(b: KernelBuilder, parts: Sequence[Value]) -> Value:
    """Convert i32 codes to bytes, in order."""
    whole = parts[0].type.lanes == b.target.i32_lanes
    return b.target.narrow(b, parts, "u8") if whole else b.trunc(parts[0], I8)
