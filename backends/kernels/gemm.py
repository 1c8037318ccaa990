"""u8 x i8 convolution as an implicit matrix product, requantized in the epilogue; linear is the case of one tap.

x: pixels of `kc` bytes (channels, a multiple of 4), padded beforehand; taps: byte offsets of the kernel window from its first pixel.
w: packed [panels][taps * kc / 4][nr][4], nr = nv registers of i32 lanes. bias (zero points folded in) and scale: [panels * nr].
y: u8 pixels of `channels` bytes. Tiles are mr output pixels of one row by nr channels; lanes lie across channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.backends.kernel_ir.builder import KernelBuilder, Rows, kernel
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import F32, I8, I32, I64, vector


class _Epilogue:
    """Accumulators to bytes: rules (3) and (5) of qmath."""

    def __init__(self, b: KernelBuilder, residual: bool) -> None:
        lanes = b.target.i32_lanes
        self.b, self.lanes, self.residual = b, lanes, residual
        self.low, self.high = b.splat(b.scalar("low"), lanes), b.splat(b.scalar("high"), lanes)
        self.zero = b.splat(b.trunc(b.extent("zero"), I32), lanes)
        if residual:
            self.other_zero = b.splat(b.trunc(b.extent("other_zero"), I32), lanes)
            self.other_scale = b.splat(b.scalar("other_scale"), lanes)

    def codes(self, acc: Value, scale: Value, other: Value | None) -> Value:
        """<lanes x i8> of one accumulator."""
        b = self.b
        real = b.sitofp(acc) * scale
        if other is not None:
            real = real + b.sitofp(b.zext(other, I32) - self.other_zero) * self.other_scale
        return b.target.narrow(b, [b.target.round_to_i32(b, b.clamp(real, self.low, self.high)) + self.zero], "u8")

    def store(self, acc: Sequence[Sequence[Value]], scales: Sequence[Value], y: Value, other: Value | None, stride: Value,
              left: Value) -> None:
        """All rows of a tile; `left` channels remain from the tile's first one on."""
        b, lanes = self.b, self.lanes
        with b.if_(left >= lanes * len(scales)) as whole:
            for r, row in enumerate(acc):
                for j, value in enumerate(row):
                    loaded = b.load(vector(I8, lanes), other, stride * r, disp=j * lanes) if self.residual else None
                    b.store(self.codes(value, scales[j], loaded), y, stride * r, disp=j * lanes)
            whole.yield_([])
        with whole.else_():
            for r, row in enumerate(acc):
                for j, value in enumerate(row):
                    with b.if_(left > j * lanes) as some:
                        offset, count = stride * r + j * lanes, left - j * lanes
                        loaded = b.load_prefix(vector(I8, lanes), other, offset, count) if self.residual else None
                        b.store_prefix(self.codes(value, scales[j], loaded), y, offset, count)
                        some.yield_([])
            whole.yield_([])


@kernel(
    pointers=("x", "w", "taps", "bias", "scale", "other", "y"),
    extents=("rows", "row_count", "columns", "image_stride", "row_stride", "pixel_stride", "tap_count", "kc", "panels", "channels", "zero",
             "other_zero"),
    scalars=("low", "high", "other_scale"),
)
def conv_u8(b: KernelBuilder, *, mr: int, nv: int, residual: bool) -> None:
    """rows: output rows of all images, row_count of each image, `columns` pixels each. Threads share the rows."""
    target, lanes, size = b.target, b.target.i32_lanes, b.target.vector_bytes
    x, w, taps, bias, scale, other, y = (b.pointer(n) for n in ("x", "w", "taps", "bias", "scale", "other", "y"))
    row_count, columns, pixel_stride, kc, channels = (b.extent(n) for n in ("row_count", "columns", "pixel_stride", "kc", "channels"))
    epilogue = _Epilogue(b, residual)
    tap_count = b.extent("tap_count")
    panel_bytes = tap_count * kc * (nv * lanes)

    def dots(rows: Rows, panel: Value, start: list[Value], count: int) -> list[list[Value]]:
        acc = [list(start) for _ in range(count)]
        with b.loop(0, tap_count, carried=[acc, panel]) as outer:
            acc, panel = outer.carried
            offset = b.load(I64, taps, outer.index * 8)
            with b.loop(0, kc, 4, carried=[acc, rows.moved(offset), panel]) as inner:
                acc, pointers, weights = inner.carried
                here = rows.at(pointers)
                ws = [target.dot4_weights(b, b.load(vector(I8, size), weights, disp=j * size)) for j in range(nv)]
                for r in range(count):
                    xs = target.dot4_activations(b, target.broadcast4(b, *here[r]))
                    acc[r] = [target.dot4(b, acc[r][j], xs, ws[j]) for j in range(nv)]
                inner.yield_([acc, here.moved(4), weights + nv * size])
            outer.yield_([inner.results[0], inner.results[2]])
        return outer.results[0]

    lo, hi = b.share(b.extent("rows"))
    whole = columns // mr * mr
    with b.loop(0, b.extent("panels")) as panels:
        first = panels.index * (nv * lanes)
        panel = w + panels.index * panel_bytes
        start = [b.load(vector(I32, lanes), bias, first * 4, disp=j * 4 * lanes) for j in range(nv)]
        scales = [b.load(vector(F32, lanes), scale, first * 4, disp=j * 4 * lanes) for j in range(nv)]
        with b.loop(lo, hi) as row:
            image, line = row.index // row_count, row.index % row_count
            source = x + (image * b.extent("image_stride") + line * b.extent("row_stride"))
            result = row.index * columns * channels + first
            for begin, end, count in ((0, whole, mr), (whole, columns, 1)):
                with b.loop(begin, end, count) as tile:
                    acc = dots(b.rows(source + tile.index * pixel_stride, pixel_stride, count), panel, start, count)
                    at = result + tile.index * channels
                    epilogue.store(acc, scales, y + at, other + at if residual else None, channels, channels - first)


def pack_weights(w: np.ndarray, nr: int) -> np.ndarray:
    """i8 [O, taps, kc] -> [ceil(O / nr)][taps * kc / 4][nr][4], missing channels zero."""
    outputs, taps, kc = w.shape
    panels = -(-outputs // nr)
    padded = np.zeros((panels * nr, taps * kc), np.int8)
    padded[:outputs] = w.reshape(outputs, -1)
    return np.ascontiguousarray(padded.reshape(panels, nr, taps * kc // 4, 4).transpose(0, 2, 1, 3))
