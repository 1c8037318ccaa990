"""Packs weights and per-channel values in the order in which the kernels of products read them.

The formats are described in `kernels.conv` and `kernels.depthwise`. Channels and elements that pad a panel are zero.
"""

from __future__ import annotations

import math
import threading

import numpy as np

from qcompiler.backends.kernels.depthwise_sums import quads_of
from qcompiler.backends.target import Target

_LEAST_SCRATCH = 1 << 18
"""Bytes of the smallest scratch block."""


def channel_order(target: Target, nv: int) -> np.ndarray:
    """The channel at each position in the packed order of a panel of nv registers.

    Pairs of registers are in the target's `pair_order`. If nv is odd, the last register is in ascending order.
    """
    lanes = target.i32_lanes
    order = [2 * pair * lanes + channel for pair in range(nv // 2) for channel in target.pair_order()]
    return np.array(order + list(range(nv // 2 * 2 * lanes, nv * lanes)))


def pack_codes(into: np.ndarray, w: np.ndarray, order: np.ndarray) -> None:
    """Pack i8 or i16 [O, K] to [ceil(O / nr)][ceil(K / depth)][nr][depth], where nr = len(order).

    The `depth` elements of a channel, which have 2, 4 or 8 bytes, are moved as one word.
    """
    (panels, groups, nr, depth), (outputs, elements) = into.shape, w.shape
    if (outputs, elements) != (panels * nr, groups * depth):
        w = np.pad(w, ((0, panels * nr - outputs), (0, groups * depth - elements)))
    word = f"u{depth * w.itemsize}"
    words, rows = np.ascontiguousarray(w).view(word), (np.arange(panels)[:, None] * nr + order).reshape(-1)
    ordered = np.take(words, rows, axis=0, out=_scratch(words.shape, words.dtype), mode="clip")
    into.view(word)[..., 0] = ordered.reshape(panels, nr, groups).transpose(0, 2, 1)


_memory = threading.local()


def _scratch(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array with undefined contents, in the same memory for each call of a thread.

    Touching fresh pages takes longer than packing.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    if getattr(_memory, "block", None) is None or _memory.block.nbytes < nbytes:
        _memory.block = np.empty(max(nbytes, _LEAST_SCRATCH), np.uint8)
    block: np.ndarray = _memory.block[:nbytes]
    return block.view(dtype).reshape(shape)


def pack_floats(into: np.ndarray, w: np.ndarray) -> None:
    """Pack f32 [O, K] to [ceil(O / nr)][K][nr]. into: an array of zeros."""
    nr = into.shape[2]
    for panel, part in enumerate(into):
        rows = w[panel * nr : (panel + 1) * nr]
        part[:, : len(rows)] = rows.T


def pack_channels(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Pack one value for each channel, [O] to [ceil(O / nr) * nr], in the order of the packed channels."""
    padded = np.concatenate([values, np.zeros(-len(values) % len(order), values.dtype)])
    ordered: np.ndarray = padded.reshape(-1, len(order))[:, order].reshape(-1)
    return ordered


def pack_depthwise(w: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Pack i16 [C, tap rows, kw] to [channel blocks][kw][pairs of tap rows][channels of a block][2]. order: the channel
    of a block at each position."""
    channels, taps, kw = w.shape
    block, pairs = len(order), -(-taps // 2)
    blocks = -(-channels // block)
    padded = np.zeros((blocks * block, pairs * 2, kw), w.dtype)
    padded[:channels, :taps] = w
    return np.ascontiguousarray(padded.reshape(blocks, block, pairs, 2, kw)[:, order].transpose(0, 4, 2, 1, 3))


def pack_quads(w: np.ndarray, order: np.ndarray, rows: int) -> np.ndarray:
    """Pack i8 [C, tap rows, kw] to [channel blocks][quads][rows][channels of a block][4].

    The quads are those of `depthwise_sums.quads_of` for tiles of `rows` rows; those of row r have the window's weights
    moved by r tap rows. order: the channel of a block at each position.
    """
    channels, taps, kw = w.shape
    quads, blocks = quads_of(taps + rows - 1, kw), -(-channels // len(order))
    padded = np.zeros((rows, blocks * len(order), taps + rows + 3, kw + 3), w.dtype)
    for row in range(rows):
        padded[row, :channels, row : row + taps, :kw] = w
    packed = np.zeros((blocks, len(quads), rows, len(order), 4), w.dtype)
    for number, quad in enumerate(quads):
        taken = padded[:, :, quad.first : quad.first + quad.rows, quad.k : quad.k + quad.columns]
        lanes = taken.swapaxes(2, 3).reshape(rows, blocks, len(order), quad.rows * quad.columns)
        packed[:, number, ..., : lanes.shape[-1]] = lanes[:, :, order].swapaxes(0, 1)
    return packed
