"""Kernels that change representation or place: quantize, dequantize, copies into a padded border."""

from __future__ import annotations

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.types import F32, I8, I32, vector


@kernel(pointers=("x", "y"), extents=("rows", "row_count", "row_bytes", "padded_rows", "before", "left", "right", "fill"))
def pad_rows(b: KernelBuilder) -> None:
    """Copy images of `row_count` rows of `row_bytes` into images of `padded_rows`, `before` rows down and `left` bytes in, and fill the
    border with one byte. rows: padded rows of all images; threads share them."""
    x, y, fill = b.pointer("x"), b.pointer("y"), b.trunc(b.extent("fill"), I8)
    row_count, row_bytes, padded, before, left = (b.extent(n) for n in ("row_count", "row_bytes", "padded_rows", "before", "left"))
    total = left + row_bytes + b.extent("right")
    step = 32
    block = b.splat(fill, step)

    def filled(start: object, count: object) -> None:
        whole = count // step * step
        with b.loop(0, whole, step) as loop:
            b.store(block, start, loop.index)
        with b.loop(whole, count) as tail:
            b.store(fill, start, tail.index)

    lo, hi = b.share(b.extent("rows"))
    with b.loop(lo, hi) as row:
        image, line = row.index // padded, row.index % padded - before
        out = y + row.index * total
        inside = (line >= 0) & (line < row_count)
        with b.if_(inside) as branch:
            filled(out, left)
            source = x + (image * row_count + line) * row_bytes
            target = out + left
            whole = row_bytes // step * step
            with b.loop(0, whole, step) as loop:
                b.store(b.load(vector(I8, step), source, loop.index), target, loop.index)
            with b.loop(whole, row_bytes) as tail:
                b.store(b.load(I8, source, tail.index), target, tail.index)
            filled(target + row_bytes, b.extent("right"))
            branch.yield_([])
        with branch.else_():
            filled(out, total)
            branch.yield_([])


@kernel(pointers=("x", "y"), extents=("images", "channels", "pixels", "stride", "zero"), scalars=("scale", "low", "high"))
def quantize_channels_last(b: KernelBuilder) -> None:
    """f32 [images, channels, pixels] -> u8 [images, pixels, stride], rule (2) of qmath; bytes past the channels become 0."""
    x, y, channels, pixels, stride = b.pointer("x"), b.pointer("y"), b.extent("channels"), b.extent("pixels"), b.extent("stride")
    lanes = b.target.f32_lanes
    scale, low, high = (b.splat(b.scalar(n), lanes) for n in ("scale", "low", "high"))
    zero = b.splat(b.trunc(b.extent("zero"), I32), lanes)
    lo, hi = b.share(b.extent("images") * channels)
    with b.loop(lo, hi) as plane:
        image, channel = plane.index // channels, plane.index % channels
        source = x + plane.index * pixels * 4
        out = y + (image * pixels * stride + channel)
        with b.loop(0, pixels, lanes) as loop:
            left = pixels - loop.index
            value = b.load_prefix(vector(F32, lanes), source, loop.index * 4, left)
            codes = b.target.round_to_i32(b, b.clamp(value / scale, low, high)) + zero
            bytes_ = b.trunc(codes, I8)
            for lane in range(lanes):
                with b.if_(left > lane) as branch:
                    b.store(b.extract(bytes_, lane), out, (loop.index + lane) * stride)
                    branch.yield_([])
        with b.if_(channel < 1) as first, b.loop(0, pixels) as pixel, b.loop(channels, stride) as gap:
            b.store(b.const(I8, 0), y, (image * pixels + pixel.index) * stride + gap.index)


@kernel(pointers=("x", "y"), extents=("images", "channels", "pixels", "stride", "zero"), scalars=("scale",))
def dequantize_channels_last(b: KernelBuilder) -> None:
    """u8 [images, pixels, stride] -> f32 [images, channels, pixels]: f32(q - zero_point) * scale."""
    x, y, channels, pixels, stride = b.pointer("x"), b.pointer("y"), b.extent("channels"), b.extent("pixels"), b.extent("stride")
    zero, scale = b.trunc(b.extent("zero"), I32), b.scalar("scale")
    lo, hi = b.share(b.extent("images") * channels)
    with b.loop(lo, hi) as plane:
        image, channel = plane.index // channels, plane.index % channels
        with b.loop(0, pixels) as pixel:
            code = b.zext(b.load(I8, x, (image * pixels + pixel.index) * stride + channel), I32)
            b.store(b.sitofp(code - zero) * scale, y, (plane.index * pixels + pixel.index) * 4)


@kernel(pointers=("x", "y"), extents=("images", "pixels", "stride", "in_zero", "zero"), scalars=("scale", "low", "high"))
def global_average(b: KernelBuilder) -> None:
    """u8 [images, pixels, stride] -> u8 [images, stride]: the i32 sum of q - zero point, times M, requantized."""
    x, y, pixels, stride = b.pointer("x"), b.pointer("y"), b.extent("pixels"), b.extent("stride")
    in_zero, zero = b.trunc(b.extent("in_zero"), I32), b.trunc(b.extent("zero"), I32)
    scale, low, high = b.scalar("scale"), b.scalar("low"), b.scalar("high")
    lanes = 4
    lo, hi = b.share(b.extent("images"))
    with b.loop(lo, hi) as image:
        source = x + image.index * pixels * stride
        with b.loop(0, stride, lanes) as channel:
            with b.loop(0, pixels, carried=[b.zero(vector(I32, lanes))]) as pixel:
                codes = b.load(vector(I8, lanes), source, pixel.index * stride + channel.index)
                pixel.yield_([pixel.carried[0] + (b.zext(codes, I32) - b.splat(in_zero, lanes))])
            real = b.sitofp(pixel.results[0]) * b.splat(scale, lanes)
            rounded = b.convert("lrint", b.clamp(real, b.splat(low, lanes), b.splat(high, lanes)), I32)
            b.store(b.trunc(rounded + b.splat(zero, lanes), I8), y, image.index * stride + channel.index)
