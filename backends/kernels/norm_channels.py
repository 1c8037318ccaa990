"""group_norm and instance_norm of codes that lie channels last, in three steps: sums of each channel over slices of the
pixels, a mean and a factor for each channel, and the map.

Lanes lie across channels, in blocks of `lanes` of them; the last block overlaps the one before, so that nothing is
masked. `channels` counts the bytes of a pixel, gaps included; what the steps make of gaps is never read as a value. The
slices do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I16, I32, I64, vector

MOST_PIXELS = 1 << 15
"""Pixels of a slice: so many squares of bytes fit i32."""
_WORD_TERMS = 257


def _over_blocks(b: KernelBuilder, lanes: int, body: Callable[[Value, Value, Value, Value, Value], None]) -> None:
    """body(image, slice among all images', first channel, first pixel, end of pixels) for this thread's blocks."""
    channels, pixels, slices = b.extent("channels"), b.extent("pixels"), b.extent("slices")
    blocks = (channels + (lanes - 1)) // lanes
    lo, hi = b.share(b.extent("images") * slices * blocks)
    with b.loop(lo, hi) as unit:
        part, first = unit.index // blocks, b.smin(unit.index % blocks * lanes, channels - lanes)
        image, index = part // slices, part % slices
        body(image, part, first, pixels * index // slices, pixels * (index + 1) // slices)


@kernel(pointers=("x", "sums", "squares"), extents=("images", "slices", "pixels", "channels"))
def sums_of_channels(b: KernelBuilder, *, lanes: int) -> None:
    """i32 sums and sums of squares of codes [images, slices, channels], not centered."""
    channels, bytes_ = b.extent("channels"), vector(I8, lanes)

    def body(image: Value, part: Value, first: Value, start: Value, end: Value) -> None:
        x = b.pointer("x") + (image * b.extent("pixels") * channels + first)
        zeros = b.zero(bytes_.of(I32))
        with b.loop(start, end, _WORD_TERMS, carried=[zeros, zeros]) as chunk:
            stop = b.smin(chunk.index + _WORD_TERMS, end)
            with b.loop(chunk.index, stop, carried=[b.zero(bytes_.of(I16)), chunk.carried[1]]) as pixel:
                words = b.zext(b.load(bytes_, x, pixel.index * channels), I16)
                total, squares = pixel.carried
                pixel.yield_([total + words, squares + b.zext(words * words, I32)])
            chunk.yield_([chunk.carried[0] + b.zext(pixel.results[0], I32), pixel.results[1]])
        for name, value in zip(("sums", "squares"), chunk.results):
            b.store(value, b.pointer(name), (part * channels + first) * 4)

    _over_blocks(b, lanes, body)


@kernel(
    pointers=("sums", "squares", "means", "factors"),
    extents=("images", "slices", "pixels", "channels", "groups", "width", "in_zero"),
    scalars=("eps",),
)
def terms_of_groups(b: KernelBuilder) -> None:
    """f32 mean and 1 / sqrt(variance + eps) of each channel's group, [images, channels]; width: channels of a group."""
    groups, width, channels, zero = b.extent("groups"), b.extent("width"), b.extent("channels"), b.extent("in_zero")
    lo, hi = b.share(b.extent("images") * groups)
    with b.loop(lo, hi) as unit:
        image, first = unit.index // groups, unit.index % groups * width
        with b.loop(0, b.extent("slices"), carried=[b.i64(0), b.i64(0)]) as part:
            row = (image * b.extent("slices") + part.index) * channels + first
            with b.loop(0, width, carried=part.carried) as channel:
                at = (row + channel.index) * 4
                found = [b.sext(b.load(I32, b.pointer(name), at), I64) for name in ("sums", "squares")]
                channel.yield_([total + more for total, more in zip(channel.carried, found)])
            part.yield_(channel.results)
        of_codes, of_squares = part.results
        count = width * b.extent("pixels")
        s1 = of_codes - count * zero
        s2 = of_squares - zero * (of_codes + s1)
        mean = b.sitofp(s1) / b.sitofp(count)
        variance = b.sitofp(count * s2 - s1 * s1) / b.sitofp(count * count)
        factor = b.const(F32, 1.0) / b.sqrt(variance + b.scalar("eps"))
        with b.loop(0, width) as channel:
            at = (image * channels + first + channel.index) * 4
            b.store(mean, b.pointer("means"), at)
            b.store(factor, b.pointer("factors"), at)


@kernel(
    pointers=("x", "means", "factors", "gain", "shift", "y"),
    extents=("images", "slices", "pixels", "channels", "in_zero", "zero"),
    scalars=("low", "high"),
)
def map_of_channels(b: KernelBuilder, *, lanes: int) -> None:
    """((f32(q - in_zero) - mean) * factor) * gain + shift, requantized. gain and shift: over the result's scale."""
    channels, width = b.extent("channels"), min(lanes, b.target.i32_lanes)
    low, high = b.splat(b.scalar("low"), width), b.splat(b.scalar("high"), width)
    in_zero, zero = (b.splat(b.trunc(b.extent(name), I32), width) for name in ("in_zero", "zero"))

    def body(image: Value, part: Value, first: Value, start: Value, end: Value) -> None:
        base = image * b.extent("pixels") * channels + first

        def terms(name: str, at: Value) -> list[Value]:
            return [b.load(vector(F32, width), b.pointer(name), at * 4, disp=4 * i) for i in range(0, lanes, width)]

        of_image = [terms(name, image * channels + first) for name in ("means", "factors")]
        of_channel = [terms(name, first) for name in ("gain", "shift")]
        with b.loop(start, end) as pixel:
            at = base + pixel.index * channels
            codes = b.load(vector(I8, lanes), b.pointer("x"), at)
            parts = []
            for i, (mean, factor, gain, shift) in enumerate(zip(*of_image, *of_channel)):
                centered = b.sitofp(b.zext(b.slice(codes, i * width, width), I32) - in_zero)
                real = (centered - mean) * factor * gain + shift
                parts.append(b.target.round_to_i32(b, b.clamp(real, low, high)) + zero)
            b.store(_bytes(b, parts), b.pointer("y"), at)

    _over_blocks(b, lanes, body)


def _bytes(b: KernelBuilder, parts: Sequence[Value]) -> Value:
    whole = parts[0].type.lanes == b.target.i32_lanes
    return b.target.narrow(b, parts, "u8") if whole else b.trunc(parts[0], I8)
