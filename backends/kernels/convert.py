"""Kernels between real and quantized tensors, and byte tables. Flat ones run over storage, gaps included."""

from __future__ import annotations

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I32, vector


class _Quantizer:
    """Rule (2) of qmath on one register."""

    def __init__(self, b: KernelBuilder) -> None:
        self.b, self.lanes = b, b.target.f32_lanes
        self.scale, self.low, self.high = (b.splat(b.scalar(n), self.lanes) for n in ("scale", "low", "high"))
        self.zero = b.splat(b.trunc(b.extent("zero"), I32), self.lanes)

    def codes(self, x: Value) -> Value:
        """<lanes x i32>."""
        b = self.b
        return b.target.round_to_i32(b, b.clamp(x / self.scale, self.low, self.high)) + self.zero


@kernel(pointers=("x", "y"), extents=("count", "zero"), scalars=("scale", "low", "high"))
def quantize_flat(b: KernelBuilder) -> None:
    """f32 [count] -> bytes [count]."""
    quantizer, lanes = _Quantizer(b), b.target.f32_lanes
    lo, hi = b.share(b.extent("count"), lanes)
    with b.loop(lo, hi, lanes) as loop:
        left = b.extent("count") - loop.index
        x = b.load_prefix(vector(F32, lanes), b.pointer("x"), loop.index * 4, left)
        b.store_prefix(b.trunc(quantizer.codes(x), I8), b.pointer("y"), loop.index, left)


@kernel(
    pointers=("x", "y"), extents=("images", "channels", "pixels", "stride", "zero"), scalars=("scale", "low", "high")
)
def quantize_channels_last(b: KernelBuilder, *, packed: bool) -> None:
    """f32 [images, channels, pixels] -> bytes [images, pixels, stride], stride a multiple of 4; bytes past the channels
    become 0. Four channels of a register of pixels make i32 lanes. packed: stride is 4, so these lie side by side."""
    quantizer, lanes = _Quantizer(b), b.target.f32_lanes
    channels, pixels, stride = b.extent("channels"), b.extent("pixels"), b.extent("stride")
    groups = stride // 4
    blocks = (pixels + (lanes - 1)) // lanes
    lo, hi = b.share(b.extent("images") * groups * blocks)
    with b.loop(lo, hi) as loop:
        start, plane = loop.index % blocks * lanes, loop.index // blocks
        image, channel = plane // groups, plane % groups * 4
        left = pixels - start
        x = b.pointer("x") + ((image * channels + channel) * pixels + start) * 4
        quad = b.zero(vector(I32, lanes))
        for j in range(4):
            with b.if_(channel + j < channels) as there:
                codes = quantizer.codes(b.load_prefix(vector(F32, lanes), x, pixels * (4 * j), left))
                there.yield_(codes << (8 * j) if j else codes)
            with there.else_():
                there.yield_(b.zero(vector(I32, lanes)))
            quad = quad | there.results
        y = b.pointer("y") + ((image * pixels + start) * stride + channel)
        if packed:
            b.store_prefix(quad, y, 0, left)
        else:
            for lane in range(lanes):
                with b.if_(left > lane) as there:
                    b.store(b.extract(quad, lane), y, stride * lane)
                    there.yield_([])


@kernel(pointers=("x", "y"), extents=("count", "zero"), scalars=("scale",))
def dequantize_flat(b: KernelBuilder) -> None:
    """bytes [count] -> f32 [count], rule (1)."""
    lanes = b.target.f32_lanes
    scale, zero = b.splat(b.scalar("scale"), lanes), b.splat(b.trunc(b.extent("zero"), I32), lanes)
    lo, hi = b.share(b.extent("count"), lanes)
    with b.loop(lo, hi, lanes) as loop:
        left = b.extent("count") - loop.index
        codes = b.zext(b.load_prefix(vector(I8, lanes), b.pointer("x"), loop.index, left), I32)
        b.store_prefix(b.sitofp(codes - zero) * scale, b.pointer("y"), loop.index * 4, left)


@kernel(pointers=("x", "y"), extents=("count", "in_zero", "zero"), scalars=("scale", "low", "high"))
def requantize_flat(b: KernelBuilder) -> None:
    """bytes [count] -> bytes [count] with other parameters."""
    lanes = b.target.f32_lanes
    scale, low, high = (b.splat(b.scalar(n), lanes) for n in ("scale", "low", "high"))
    in_zero, zero = (b.splat(b.trunc(b.extent(n), I32), lanes) for n in ("in_zero", "zero"))
    lo, hi = b.share(b.extent("count"), lanes)
    with b.loop(lo, hi, lanes) as loop:
        left = b.extent("count") - loop.index
        codes = b.zext(b.load_prefix(vector(I8, lanes), b.pointer("x"), loop.index, left), I32)
        real = b.sitofp(codes - in_zero) * scale
        b.store_prefix(
            b.trunc(b.target.round_to_i32(b, b.clamp(real, low, high)) + zero, I8), b.pointer("y"), loop.index, left
        )


@kernel(pointers=("x", "table", "y"), extents=("count",))
def lookup_flat(b: KernelBuilder) -> None:
    """y = table[x], bytes; table: 256 bytes by unsigned code."""
    size = b.target.vector_bytes
    table = b.target.load_table(b, b.pointer("table"))
    lo, hi = b.share(b.extent("count"), size)
    with b.loop(lo, hi, size) as loop:
        left = b.extent("count") - loop.index
        codes = b.load_prefix(vector(I8, size), b.pointer("x"), loop.index, left)
        b.store_prefix(b.target.lookup(b, table, codes), b.pointer("y"), loop.index, left)
