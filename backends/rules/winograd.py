"""Lowers convolutions of 3x3 by Winograd F(2x2, 3x3), where that is cheaper and its sums provably fit.

`kernels.winograd` has the algorithm and its bounds. The result has the same bits as the direct sum, so which one is
taken is no property of the graph. It serves levels that multiply words: with a dot product of bytes there is nothing to
gain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.kernels import winograd as kernels
from qcompiler.backends.kernels.conv import PackedWeights
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.packing import channel_order, pack_codes
from qcompiler.backends.lowering.tiles import WORDS_TILE, Tile, product_tile, row_block, words_issued
from qcompiler.backends.lowering.views import SLACK, TensorView
from qcompiler.backends.rules.gemm import activation_clamp, residual_name, sum_constants
from qcompiler.backends.rules.requantize import RequantizeTerms
from qcompiler.backends.rules.weights import BytePacking, Weight
from qcompiler.fork_safety import cached_property
from qcompiler.ops.conv import Conv
from qcompiler.types import DType

_BYTE = 0.4
"""How many products of words could be issued while a byte of weights comes from memory."""
_INSTRUCTION = 0.27
"""The same for the time of an instruction."""
_TRANSFORM = 70
"""Instructions that transform a register of channels of a patch."""
_ADD = 72
"""Instructions that add a register of the 16 products of a patch to its results."""
_GAIN = 0.95
"""Winograd is taken if its estimated time is below this share of that of the direct sum."""
_PACK_BYTES = 128 << 10
"""Bytes of packed weights that are computed at a time."""


def why_not_winograd(s: NodeLowering, op: Conv, weight: Weight) -> str | None:
    """Why a convolution is not lowered by Winograd, or None."""
    channels, sizes = weight.shape[1], s.out.shape[2:]
    if not s.target.multiplies_words or op.x.type.dtype is not DType.U8:
        return "its products are not of words"
    if weight.shape[2:] != (3, 3) or op.stride != (1, 1) or op.dilation != (1, 1) or op.groups != 1:
        return "its windows are not dense 3x3 ones at every pixel"
    if not all(isinstance(size, int) for size in sizes) or channels % (s.target.vector_bytes // 2):
        return "its sizes are symbolic, or its channels do not fill registers"
    if not _is_cheaper(s, weight):
        return "the direct sum is not slower"

    def fits() -> np.ndarray:
        magnitudes = np.abs(weight.array.astype(np.int64)).sum(axis=(1, 2, 3))
        return np.array(4 * 255 * int(magnitudes.max(initial=0)) < 2**31)

    if not s.memo(f"{weight.role}.winograd", fits).item():
        return "four times a sum may not fit i32"
    by_taps = weight.taken(0, lambda array: np.moveaxis(array, 1, -1))
    if BytePacking.of(s, op, by_taps, 2, 9, channels, narrow=False).pairs:
        return "products that are added in pairs of i16 are faster"
    return None


def _patches(sizes: tuple[int, ...]) -> int:
    """The number of patches of an image of this size."""
    return math.prod(-(-size // 2) for size in sizes)


def _tile(s: NodeLowering, channels: int) -> Tile:
    images, *sizes = s.out.shape
    patches = _patches(tuple(sizes[1:])) * images  # type: ignore[arg-type]
    tile = product_tile(s.target, True, patches, s.out.shape[1], 0, channels)
    return tile


def _is_cheaper(s: NodeLowering, weight: Weight) -> bool:
    """Whether the estimated time is clearly below that of the direct sum. If the number of images is symbolic, it is
    taken for 1, because all bindings share packed weights."""
    outputs, channels = weight.shape[:2]
    images, _, height, width = s.out.shape
    assert isinstance(height, int) and isinstance(width, int)
    count = images if isinstance(images, int) else 1
    patches = count * _patches((height, width))

    def cost(pixels: int, lines: int, products: int, more: float) -> float:
        tile = product_tile(s.target, True, pixels, outputs, 0, products * channels)
        tiles, panels = lines * -(-pixels // tile.mr), -(-outputs // tile.nr)
        pairs = products * channels / 2
        return tiles * panels * (pairs * words_issued(tile.mr, tile.nv) + WORDS_TILE + more * tile.mr * tile.nv)

    transforms = patches * channels / (s.target.vector_bytes // 2) * _TRANSFORM
    ours = cost(patches, 1, kernels.PRODUCTS, _INSTRUCTION * _ADD) + _INSTRUCTION * transforms
    direct = cost(width, count * height, 9, 0.0)
    narrow = 1 if count * height * width <= 4 else 2
    stream = _BYTE * outputs * channels
    return ours + stream * kernels.PRODUCTS * 2 < _GAIN * (direct + stream * 9 * narrow)


@dataclass(frozen=True)
class Winograd:
    """One convolution. x: channels last, with its padding. weight: [O, C, 3, 3]."""

    s: NodeLowering
    op: Conv
    x: TensorView
    residual: TensorView | None
    weight: Weight

    @property
    def channels(self) -> int:
        return self.weight.shape[1]

    @cached_property
    def tile(self) -> Tile:
        return _tile(self.s, self.channels)

    @cached_property
    def order(self) -> np.ndarray:
        """The index within its panel of each packed channel."""
        if self.s.out.dtype is DType.U8:
            return channel_order(self.s.target, self.tile.nv)
        return np.arange(self.tile.nr)

    @property
    def panels(self) -> int:
        return -(-self.weight.shape[0] // self.tile.nr)

    @property
    def images(self) -> int:
        return self.x.shape[0]

    @property
    def patch_count(self) -> int:
        """Patches of an image."""
        return _patches(self.s.result().shape[2:])

    @property
    def plane(self) -> int:
        """Bytes of the transformed pixels of one of the 16 products."""
        return self.images * self.patch_count * self.channels * 2

    def append(self) -> None:
        """Append the calls that compute the result."""
        s, y = self.s, self.s.result()
        s.check_table(self.patch_count, 8 * (kernels.PATCH_WORDS + kernels.TILE_WORDS) * 6)
        pixels = self._transformed()
        bias = None if self.op.bias is None else Weight.of(s, self.op.bias).array
        every = slice(0, self.weight.shape[0])
        terms, start, scale = sum_constants(s, self.op, self.weight, bias, every, self.order, self.tile)
        shared = self._product(pixels, start)
        name = residual_name(self.residual, self.op)
        mr, nv = self.tile.mr, self.tile.nv
        work = {
            "macs": math.prod(y.shape) * self.channels * 9,
            "bytes": kernels.PRODUCTS * (self.plane + self.weight.array.size * 2 // 9) + y.elements * y.dtype.itemsize,
        }
        if not isinstance(terms, RequantizeTerms):
            dequantize = terms.dequantize(scale, activation_clamp(self.op))
            to_f32 = kernels.winograd_u8_to_f32(mr=mr, nv=nv, residual=name)
            s.call(to_f32, kernels.WinogradU8ToF32(product=shared, dequantize=dequantize), **work, disjoint=True)
            return
        kernel = kernels.winograd_u8_to_i16(mr=mr, nv=nv, residual=name)
        if s.out.dtype is DType.U8:
            saturates = s.target.pack_saturates and terms.is_plain
            kernel = kernels.winograd_u8(mr=mr, nv=nv, residual=name, proven=terms.proven, saturates=saturates)
        arguments = kernels.WinogradU8(product=shared, requantize=terms.requantize(scale))
        s.call(kernel, arguments, **work, disjoint=True)

    def _grid(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows and the columns of the first pixels of an image's patches."""
        height, width = self.s.result().shape[2:]
        rows, columns = np.meshgrid(np.arange(0, height, 2), np.arange(0, width, 2), indexing="ij")
        return rows.reshape(-1).astype(np.int64), columns.reshape(-1).astype(np.int64)

    def _transformed(self) -> Memory:
        s, x = self.s, self.x
        image, _, row, pixel = x.strides
        (rows, columns), (height, width) = self._grid(), x.shape[2:]
        last = [
            np.where(at + 3 < size, 3, 2) * stride
            for at, size, stride in ((rows, height, row), (columns, width, pixel))
        ]
        patches = np.stack([rows * row + columns * pixel, *last], axis=1)
        slack = (self.tile.mr - 1) * self.channels * 2 + SLACK
        y = s.scratch(kernels.PRODUCTS * self.plane + slack, "transformed")
        arguments = kernels.WinogradPixels(
            x=x,
            patches=s.stored(patches),
            y=y,
            patch_count=self.patch_count,
            patch_total=self.images * self.patch_count,
            channels=self.channels,
            image=image,
            row=row,
            pixel=pixel,
            plane=self.plane,
        )
        s.call(kernels.winograd_pixels(), arguments, bytes=x.elements + kernels.PRODUCTS * self.plane)
        return y

    def _product(self, pixels: Memory, start: Memory) -> kernels.WinogradProduct[Memory | None, int]:
        s, y, residual, tile = self.s, self.s.result(), self.residual, self.tile
        rows, columns = self._grid()
        height, width = y.shape[2:]

        def places(view: TensorView | None) -> list[np.ndarray]:
            if view is None:
                return [np.zeros_like(rows)] * 3
            _, _, row, pixel = view.strides
            return [rows * row + columns * pixel, (rows + 1 < height) * row, (columns + 1 < width) * pixel]

        total = self.images * self.patch_count
        tiles = row_block(-(-total // tile.mr), self.panels, tile.mr * kernels.PRODUCTS * self.channels * 2)
        units = -(-total // (tiles * tile.mr)) * self.panels
        sums = s.scratch(units * tile.mr * 4 * tile.nr * 4, "sums")
        weights = PackedWeights(data=self._weights(), bias=start, panels=self.panels, channels=self.weight.shape[0])
        geometry = kernels.WinogradGeometry(
            patches=s.stored(np.stack([*places(y), *places(residual)], axis=1).astype(np.int64)),
            patch_count=self.patch_count,
            patch_total=total,
            patch_block=tiles * tile.mr,
            channels=self.channels,
            plane=self.plane,
            y_image=y.strides[0],
            residual_image=0 if residual is None else residual.strides[0],
            ahead=-(-tile.nr * s.target.k_blocks[-1] * 2 // tiles),
        )
        return kernels.WinogradProduct(x=pixels, weights=weights, residual=residual, y=y, sums=sums, geometry=geometry)

    def _weights(self) -> Memory:
        """2G g (2G)^T of all weights, packed."""
        panels, nr = self.panels, self.tile.nr
        shape = (panels, kernels.PRODUCTS * self.channels // 2, nr, 2)
        order = "" if self.s.out.dtype is DType.U8 else " in order"
        return self.s.filled(f"{self.weight.role} winograd {self.tile.nv}{order}", shape, np.int16, self._fill)

    def _fill(self, into: np.ndarray) -> None:
        panels, _, nr, _ = into.shape
        at_once = max(1, _PACK_BYTES // (nr * kernels.PRODUCTS * self.channels * 2))
        for panel in range(0, panels, at_once):
            rows = self.weight.array[panel * nr : (panel + at_once) * nr]
            pack_codes(into[panel : panel + at_once], transformed_weights(rows), self.order)


def transformed_weights(weights: np.ndarray) -> np.ndarray:
    """2G g (2G)^T: [O, C, 3, 3] of at most nine bits -> i16 [O, 16 * C]. f32 holds all of it exactly."""
    twice = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.float32)
    outer = np.einsum("ia,jb->ijab", twice, twice).reshape(kernels.PRODUCTS, 9)
    flat = weights.astype(np.float32).reshape(-1, 9) @ outer.T
    by_product = flat.reshape(len(weights), -1, kernels.PRODUCTS).transpose(0, 2, 1)
    return np.ascontiguousarray(by_product).reshape(len(weights), -1).astype(np.int16)
