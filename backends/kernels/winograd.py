"""Convolution with windows of 3x3 by exact integer Winograd F(2x2, 3x3), for pixels of bytes.

A *patch* is 4x4 pixels of x, from which 2x2 pixels of the result are computed (Lavin and Gray, arXiv 1509.09308):

    Y = A^T [ (G g G^T) * (B^T d B) ] A          d: a patch, g: the window's weights, *: element by element     (1)

    B^T = 1  0 -1  0      G = 1   0   0          A^T = 1  1  1  0
          0  1  1  0          1/2 1/2 1/2              0  1 -1 -1
          0 -1  1  0          1/2 -1/2 1/2
          0  1  0 -1          0   0   1

Each of the 16 products is summed over the channels, so 16 multiply-adds take the place of 36. With 2 G, all is in
integers, and the sums are 4 Y. They are exact:

    |B^T d B| <= 4 * 255 = 1020 and |2G g (2G)^T| <= 9 max |g| <= 9 * 255 fit i16                                (2)
    a pair of products is at most 2 * 1020 * 9 * 255 < 2^31, and sums are exact modulo 2^32                      (3)
    4 Y fits i32 if 4 * 255 * sum |g| < 2^31, which `rules.winograd` proves from the weights                     (4)

so Y = 4 Y >> 2 has the bits of the direct sum. `winograd_pixels` computes B^T d B of all patches. The products then go
over tiles of mr patches by one panel (see `kernels.conv`). They add each of the 16 products to the results that A
gives it to, in scratch memory that stays in L1.

Transformed pixels are i16 [16][patches][channels]; packed weights are i16 [panels][16][channels / 2][nr][2].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, S, Written
from qcompiler.backends.kernel_ir.ir import Value
from qcompiler.backends.kernel_ir.types import I8, I16, I64, Type, vector
from qcompiler.backends.kernels.conv import PackedWeights
from qcompiler.backends.kernels.epilogue import RESIDUALS, Dequantize, Requantize
from qcompiler.backends.kernels.tile_epilogue import Dequantized, Requantized, RequantizedToWords
from qcompiler.backends.kernels.tile_math import Words

PRODUCTS = 16
"""Products of each channel of a patch."""
OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))
"""A^T."""
PATCH_WORDS, TILE_WORDS = 3, 6
"""i64 of one patch in the tables `WinogradPixels.patches` and `WinogradGeometry.patches`."""


class WinogradPixels(Arguments["WinogradPixels"], Generic[P, E]):
    """The arguments of `winograd_pixels`.

    Attributes:
        x: u8, channels last, which has its padding.
        patches: i64 [patch_count, 3]: for each patch of an image the byte offset of its first pixel, and the distances
            from there to its last row and its last column. Those that lie outside of x are replaced by others, since no
            result depends on them.
        y: i16 [16][patch_total][channels].
        patch_count, patch_total: patches of an image, and of all images.
        channels: a multiple of the words in a register.
        image, row, pixel: the distances in bytes from image to image, row to row and pixel to pixel of x.
        plane: the bytes of y for one of the 16 products.
    """

    x: P
    patches: P
    y: Written[P]
    patch_count: E
    patch_total: E
    channels: E
    image: E
    row: E
    pixel: E
    plane: E


class WinogradGeometry(Group, Generic[P, E]):
    """Which patches and pixels belong together.

    Attributes:
        patches: i64 [patch_count, 6]: for each patch of an image the byte offset in y of its first pixel, and the
            distances to the pixel below and to the next one, or 0 where y has none; then the same for the residual.
        patch_count, patch_total: patches of an image, and of all images.
        patch_block: patches of a unit of work; those of one panel.
        channels: of x.
        plane: the bytes of x for one of the 16 products.
        y_image, residual_image: the distances in bytes from image to image.
        ahead: how many bytes of the next panel's weights a tile prefetches in each K block.
    """

    patches: P
    patch_count: E
    patch_total: E
    patch_block: E
    channels: E
    plane: E
    y_image: E
    residual_image: E
    ahead: E


class WinogradProduct(Group, Generic[P, E]):
    """The arguments that the products share. x: transformed pixels, after which mr - 1 patches of any bytes may be
    read; sums: i32 [units][mr][4][nr], scratch."""

    x: P
    weights: PackedWeights[P, E]
    residual: P
    y: Written[P]
    sums: Written[P]
    geometry: WinogradGeometry[P, E]


class WinogradU8(Arguments["WinogradU8"], Generic[P, E, S]):
    """The arguments of `winograd_u8` and `winograd_u8_to_i16`."""

    product: WinogradProduct[P, E]
    requantize: Requantize[P, E, S]


class WinogradU8ToF32(Arguments["WinogradU8ToF32"], Generic[P, E, S]):
    """The arguments of `winograd_u8_to_f32`."""

    product: WinogradProduct[P, E]
    dequantize: Dequantize[P, S]


@kernel
def winograd_pixels(b: KernelBuilder, a: WinogradPixels) -> None:
    """Compute B^T d B of all patches. Threads share them."""
    lanes = b.target.vector_bytes // 2
    lo, hi = b.share(a.patch_total)
    with b.loop(lo, hi) as patch:
        entry = patch.index % a.patch_count * (8 * PATCH_WORDS)
        first, last_row, last_column = (b.load(I64, a.patches, entry, disp=8 * i) for i in range(PATCH_WORDS))
        x = a.x + (patch.index // a.patch_count * a.image + first)
        y = a.y + patch.index * (a.channels * 2)
        rows = [x, x + a.row, x + a.row * 2, x + last_row]
        columns = [b.i64(0), a.pixel, a.pixel * 2, last_column]
        with b.loop(0, a.channels, lanes) as channel:
            pixels = [
                [b.zext(b.load(vector(I8, lanes), row + channel.index, column), I16) for column in columns]
                for row in rows
            ]
            halves = [_differences(row) for row in pixels]
            for j in range(4):
                for i, value in enumerate(_differences([half[j] for half in halves])):
                    b.store(value, y + a.plane * (4 * i + j), channel.index * 2)


def _differences(d: Sequence[Value]) -> list[Value]:
    """B^T d of four values."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


@dataclass
class _Loops:
    """The loops of the products. The attributes are as in `conv`."""

    b: KernelBuilder
    a: WinogradProduct
    math: Words
    mr: int
    nv: int

    @property
    def nr(self) -> int:
        return self.nv * self.math.lanes

    def emit(self) -> None:
        b, geometry, packed, mr = self.b, self.a.geometry, self.a.weights, self.mr
        blocks = (geometry.patch_total + (geometry.patch_block - 1)) // geometry.patch_block
        lo, hi = b.share(blocks * packed.panels)
        panel_bytes = geometry.channels * (PRODUCTS * self.nr * 2)
        with b.loop(lo, hi) as unit:
            first = unit.index // packed.panels * geometry.patch_block
            until = b.smin(first + geometry.patch_block, geometry.patch_total)
            panel = unit.index % packed.panels
            weights = packed.data + panel * panel_bytes
            sums = self.a.sums + unit.index * (mr * 4 * self.nr * 4)
            with b.loop(first, until, mr, carried=[[weights + panel_bytes]]) as tiles:
                [[ahead]] = tiles.carried
                here = self._tile(tiles.index, weights, ahead, sums)
                with b.loop(tiles.index, b.smin(tiles.index + mr, until), carried=[[sums]]) as patches:
                    [[of_patch]] = patches.carried
                    self._finish(patches.index, of_patch, panel * self.nr)
                    patches.yield_([[of_patch + self._place(1, 0, 0)]])
                tiles.yield_([[here]])

    def _tile(self, start: Value, weights: Value, ahead: Value, sums: Value) -> Value:
        """Compute the sums of a tile of mr patches from `start` on. Returns the next address of weights to prefetch.

        The last tile reads memory after the last patch, and what it computes of that is not read.
        """
        geometry, step = self.a.geometry, self.a.geometry.channels * (self.nr * 2)
        x, seen = self.a.x + start * (geometry.channels * 2), set()
        for product in range(PRODUCTS):
            acc, ahead = self._product(x + geometry.plane * product, weights + step * product, ahead)
            for at, (below, right) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
                sign = OUTPUT[below][product // 4] * OUTPUT[right][product % 4]
                if sign:
                    self._add(acc, sums, at, sign, is_first=at not in seen)
                    seen.add(at)
        return ahead

    def _product(self, x: Value, weights: Value, ahead: Value) -> tuple[list[list[Value]], Value]:
        """(the sums over all channels of one of the 16 products, the next address of weights to prefetch)."""
        b, math, geometry = self.b, self.math, self.a.geometry
        rows, size = b.rows(x, geometry.channels * 2, self.mr), math.k_blocks[-1]
        start = math.begin([b.zero(math.start)] * self.nv, self.mr)
        with b.loop(0, geometry.channels, size, carried=[start, rows.pointers, weights, [ahead]]) as loop:
            acc, pointers, panel, [prefetched] = loop.carried
            b.prefetch(prefetched, cache=2)
            added, moved = math.dots(acc, rows.at(pointers), panel, size)
            loop.yield_([added, moved, panel + math.block_bytes(size), [prefetched + geometry.ahead]])
        acc, _, _, [ahead] = loop.results
        return acc, ahead

    def _place(self, patch: int, at: int, register: int) -> int:
        """The offset of a register of the tile's sums: of a pixel of a patch's results."""
        return ((patch * 4 + at) * self.nv + register) * self.b.target.vector_bytes

    def _add(self, acc: Sequence[Sequence[Value]], sums: Value, at: int, sign: int, *, is_first: bool) -> None:
        b = self.b
        for patch, row in enumerate(acc):
            for register, value in enumerate(row):
                place = self._place(patch, at, register)
                if not is_first:
                    before = b.load(self.math.start, sums, disp=place)
                    value = before + value if sign > 0 else before - value
                b.store(value, sums, disp=place)

    def _finish(self, patch: Value, sums: Value, channel: Value) -> None:
        """Write the results of one patch. sums: those of the patch.

        A pixel that y does not have is written in the place of its neighbour, which is written after it.
        """
        b, a, geometry, math = self.b, self.a, self.a.geometry, self.math
        image, entry = patch // geometry.patch_count, patch % geometry.patch_count * (8 * TILE_WORDS)
        words = [b.load(I64, geometry.patches, entry, disp=8 * i) for i in range(TILE_WORDS)]
        y, down, right = a.y + (image * geometry.y_image + words[0] + channel * math.item), words[1], words[2]
        residual = a.residual + (image * geometry.residual_image + words[3] + channel * math.residual_item)
        residual_down, residual_right = words[4], words[5]
        left = a.weights.channels - channel

        def results(below: int, load: Callable[[Value, Type, int], Value]) -> list[list[tuple[int, Value]]]:
            bias = [b.load(math.start, a.weights.bias, channel * 4, disp=j * 4 * math.lanes) for j in range(self.nv)]
            pixels = []
            for at in (2 * below, 2 * below + 1):
                loaded = [b.load(math.start, sums, disp=self._place(0, at, j)) for j in range(self.nv)]
                pixels.append([b.binary("ashr", value, 2) + first for value, first in zip(loaded, bias)])
            base = residual + residual_down if below else residual
            loads = [partial(load, pointer) for pointer in (base, base + residual_right)]
            return math.finish(pixels, channel * 4, loads)

        def load(pointer: Value, type: Type, first: int) -> Value:
            return b.load(type, pointer, disp=first * math.residual_item)

        def load_left(pointer: Value, type: Type, first: int) -> Value:
            return b.load_prefix(type, pointer, first * math.residual_item, b.smax(left - first, 0))

        with b.if_(left >= self.nr) as whole:
            for below in (1, 0):
                found = results(below, load)
                base = y + down if below else y
                for pointer, parts in ((base + right, found[1]), (base, found[0])):
                    for first, value in parts:
                        b.store(value, pointer, disp=first * math.item)
            whole.yield_([])
        with whole.else_():
            for below in (1, 0):
                found = results(below, load_left)
                base = y + down if below else y
                for pointer, parts in ((base + right, found[1]), (base, found[0])):
                    for first, value in parts:
                        b.store_prefix(value, pointer, first * math.item, b.smax(left - first, 0))
            whole.yield_([])


@kernel
def winograd_u8(
    b: KernelBuilder, a: WinogradU8, *, mr: int, nv: int, residual: str | None, proven: bool, saturates: bool = False
) -> None:
    """Multiply transformed pixels and requantize the sums to u8. mr, nv: the tile. residual: "u8", "i16" or None. The
    other keywords are those of `tile_epilogue.Requantized`."""
    epilogue = Requantized(b, a.requantize, nv, residual=RESIDUALS[residual], proven=proven, saturates=saturates)
    _Loops(b, a.product, Words(b, epilogue, pairs=False), mr, nv).emit()


@kernel
def winograd_u8_to_i16(b: KernelBuilder, a: WinogradU8, *, mr: int, nv: int, residual: str | None) -> None:
    """Multiply transformed pixels and requantize the sums to i16. The keywords are those of `winograd_u8`."""
    epilogue = RequantizedToWords(b, a.requantize, nv, residual=RESIDUALS[residual])
    _Loops(b, a.product, Words(b, epilogue, pairs=False), mr, nv).emit()


@kernel
def winograd_u8_to_f32(b: KernelBuilder, a: WinogradU8ToF32, *, mr: int, nv: int, residual: str | None) -> None:
    """Multiply transformed pixels and write the sums as f32. mr, nv: the tile. residual: "u8", "i16", "f32" or None."""
    epilogue = Dequantized(b, a.dequantize, nv, residual=RESIDUALS[residual])
    _Loops(b, a.product, Words(b, epilogue, pairs=False), mr, nv).emit()
