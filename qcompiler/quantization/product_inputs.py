"""What calibration keeps of the inputs of products beyond their ranges: the range of each channel, and sampled rows.

A *row* is what one position of a product's result sums: for linear the last axis of x, for conv the window of x, zeros
outside included (`Weighted.rows`). Rows show what a choice of scales does to a product's own output. Products that read
one value in the same form share what is kept, under a key that says both (`input_key`).

Which rows are kept depends on the data alone, not on the order of items, their batches or who ran them. A sample (index
along the first axis of the call's inputs) has a seed, a hash of some of its elements. It offers some positions, and
each of these rows has a key, a hash of the seed, the product's input and the number of the offer. The rows with the
least keys stay; of two rows with one key, that of the lesser bytes. So merging gives the same bits in any order, and
only rows that stay are ever gathered. Where the first axis of a value is no multiple of the call's samples, all of the
call counts as one sample.

Does not own what is made of the rows (`equalization.py`).
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qcompiler.errors import QuantizationError
from qcompiler.ir import Graph, Value
from qcompiler.ops.interfaces import Weighted
from qcompiler.ops.quantized import Observe
from qcompiler.quantization.value_counts import channel_range

MAX_ROWS = 64
"""Rows kept of one input at most. A sample offers as many positions at most."""

MAX_BYTES = 1 << 18
"""Bytes of rows kept of one input, unless that is less than ENOUGH_ROWS rows."""

MAX_TOTAL_BYTES = 1 << 24
"""Bytes of rows kept of all inputs of a graph, unless that is less than ENOUGH_ROWS rows each."""

ENOUGH_ROWS = 16
"""So many rows, which choices need, are kept even of long ones, such as those of wide depthwise layers."""

MAX_BYTES_OF_LONG = 1 << 22
"""Bytes of rows kept of one input in any case, unless that is less than one row."""

_FINGERPRINT = 64
"""About how many elements of a sample are hashed."""


class ProductInput:
    """The range of each channel of a product's input, and at most `limit` of its rows, in the order of their keys.

    Attributes:
        low, high: f32 [channels].
        keys: i64 [n], ascending.
        rows: f32 [n, groups, inputs of a group, taps].
    """

    fields = ("limit", "low", "high", "keys", "rows")

    def __init__(self, limit: int, row_shape: tuple[int, int, int], salt: int = 0) -> None:
        channels = row_shape[0] * row_shape[1]
        self.limit, self.salt = limit, np.uint64(salt)
        self.low = np.full(channels, np.inf, np.float32)
        self.high = np.full(channels, -np.inf, np.float32)
        self.keys = np.empty(0, np.int64)
        self.rows = np.empty((0, *row_shape), np.float32)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting_rows = 0

    @property
    def is_empty(self) -> bool:
        return not self.keys.size

    def observe(self, layer: Weighted, x: np.ndarray) -> None:
        """Take in the input x of a product, whose samples are those of a call. Elements that are not finite are for the
        observers to refuse."""
        self.observe_channels(channel_range(x, layer.input_axis))
        self.observe_rows(layer, x, sample_seeds([x]))
        self.settle()

    def observe_channels(self, bounds: np.ndarray) -> None:
        """Take in the ranges of the channels, f32 [2, channels], which a kernel may have computed."""
        self.low, self.high = np.minimum(self.low, bounds[0]), np.maximum(self.high, bounds[1])

    def observe_rows(self, layer: Weighted, x: np.ndarray, seeds: np.ndarray) -> None:
        """Take rows of the input x of a product, in any memory order. They wait until `settle` sorts them in.

        seeds: of the samples of the call (`sample_seeds`).
        """
        if not x.size:
            return
        keys, positions = _offered(seeds, self.salt, layer.row_counts(x.shape))
        most = self.keys[-1] if len(self.keys) == self.limit else _LAST
        chosen = np.flatnonzero(keys <= most)
        if chosen.size > self.limit:
            chosen = np.flatnonzero(keys <= np.unique(keys)[: self.limit][-1])
        if chosen.size:
            self._waiting.append((keys[chosen], layer.rows(x, positions[chosen])))
            self._waiting_rows += len(chosen)
            if self._waiting_rows >= self.limit:
                self.settle()

    def settle(self) -> None:
        """Sort in the rows that wait."""
        if self._waiting:
            keys, rows = zip(*self._waiting)
            self._waiting, self._waiting_rows = [], 0
            self._keep(np.concatenate(keys), np.concatenate(rows))

    def merge(self, other: ProductInput) -> None:
        """Take over what another run saw.

        Raises:
            QuantizationError: the rows have other shapes.
        """
        if self.limit != other.limit or self.rows.shape[1:] != other.rows.shape[1:]:
            raise QuantizationError(
                "the calibrations kept other rows",
                expected=f"{self.limit} of {self.rows.shape[1:]}",
                got=f"{other.limit} of {other.rows.shape[1:]}",
            )
        self.settle()
        other.settle()
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self._keep(other.keys, other.rows)

    def _keep(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Keep the rows with the least keys, of those kept and those given."""
        keys, rows = np.concatenate([self.keys, keys]), np.concatenate([self.rows, rows])
        order = np.argsort(keys, kind="stable")
        kept: list[int] | np.ndarray = order[: self.limit]
        if (keys[order[1:]] == keys[order[:-1]]).any():
            kept = self._lesser_of_equal(keys, rows, order)
        self.keys, self.rows = keys[kept], rows[kept]

    def _lesser_of_equal(self, keys: np.ndarray, rows: np.ndarray, order: np.ndarray) -> list[int]:
        """The indices of the rows with the least keys; of two with one key, that of the lesser bytes."""
        kept: list[int] = []
        for index in order:
            if kept and keys[kept[-1]] == keys[index]:
                if rows[index].tobytes() < rows[kept[-1]].tobytes():
                    kept[-1] = index
            elif len(kept) < self.limit:
                kept.append(index)
            else:
                break
        return kept

    def state(self) -> dict[str, np.ndarray]:
        """The fields, by name."""
        self.settle()
        return {name: np.asarray(getattr(self, name)) for name in self.fields}

    @staticmethod
    def restored(state: Mapping[str, np.ndarray]) -> ProductInput:
        """What `state()` was taken of.

        Raises:
            KeyError, ValueError: arrays that no state has.
        """
        limit, low, high, keys, rows = (np.asarray(state[name]) for name in ProductInput.fields)
        kinds: list[Any] = [limit.shape, keys.dtype, *(array.dtype for array in (low, high, rows)), rows.ndim]
        if kinds != [(), np.int64, np.float32, np.float32, np.float32, 4] or not 1 <= limit <= MAX_ROWS:
            raise ValueError("fields of other types or shapes")
        if not (low.shape == high.shape == (rows.shape[1] * rows.shape[2],) and len(keys) == len(rows) <= limit):
            raise ValueError("the sizes of the fields do not fit each other")
        if (keys[1:] <= keys[:-1]).any() or not np.isfinite(rows).all() or np.isnan(low).any() or np.isnan(high).any():
            raise ValueError("keys out of order, or elements that are not finite")
        found = ProductInput(int(limit), rows.shape[1:])
        found.low, found.high, found.keys, found.rows = low, high, keys, rows
        return found


def input_key(layer: Weighted) -> str:
    """What the input of a product is kept under: the value it reads, and the form of its rows."""
    return f"{value_of(layer).name}: {layer.row_form}"


def value_of(layer: Weighted) -> Value:
    """The value that a product reads, behind its observer."""
    observe = Observe.of(layer.x.producer)
    return layer.x if observe is None else observe.x


def sampled_products(graph: Graph) -> dict[str, Weighted]:
    """Key -> the first product of an observed graph that reads an input in this form. Products that stay float, or
    whose weight is not constant, are none."""
    found: dict[str, Weighted] = {}
    for node in graph.nodes:
        layer = Weighted.of(node)
        if layer is not None and layer.weight.is_const and Observe.of(layer.x.producer) is not None:
            found.setdefault(input_key(layer), layer)
    return found


def make_inputs(layers: Mapping[str, Weighted]) -> dict[str, ProductInput]:
    """A fresh ProductInput for each key."""
    most = min(MAX_BYTES, MAX_TOTAL_BYTES // max(1, len(layers)))
    made = {}
    for key, layer in layers.items():
        shape = layer.row_shape
        row = 4 * max(1, math.prod(shape))
        limit = max(1, min(MAX_ROWS, max(most // row, min(ENOUGH_ROWS, MAX_BYTES_OF_LONG // row))))
        made[key] = ProductInput(limit, shape, zlib.crc32(key.encode()))
    return made


def sample_seeds(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """u64 [samples]: a hash of some of the elements of each sample of a call's inputs. Samples lie along the first
    axis, if all inputs have as many; otherwise all of a call is one sample."""
    sizes = {array.shape[0] if array.ndim else 0 for array in arrays}
    samples = sizes.pop() if len(sizes) == 1 else 0
    seeds = np.full(max(samples, 1), _ODD)
    for array in arrays:
        whole = array if samples else array[None]
        if whole.ndim == 1:  # a sample is one number
            whole = whole[:, None]
        index: tuple[slice | np.ndarray, ...] = (slice(None), *_fingerprint(whole.shape[1:]))
        seeds = _mixed(seeds ^ _hashes(whole[index]))
    return seeds


def _offered(seeds: np.ndarray, salt: np.uint64, counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(keys, positions) that samples with these seeds offer; positions as flat indices into `counts`.

    counts: as `Weighted.row_counts` gives them; positions of one sample follow each other.
    """
    total = math.prod(counts)
    if counts[0] % len(seeds):
        seeds = _mixed(seeds).sum(keepdims=True)
    places = total // len(seeds)
    seeds = seeds[:, None] ^ salt
    numbers = seeds + _DRAWS[: min(places, MAX_ROWS)]
    # From the seed's place on, in steps of a number without a common divisor: no place twice.
    drawn = (seeds + _DRAWS[: numbers.shape[1]] * np.uint64(_coprime(places))) % np.uint64(places)
    positions = drawn.view(np.int64) + np.arange(0, total, places)[:, None]
    keys = (_mixed(numbers) >> np.uint64(1)).view(np.int64)
    return keys.reshape(-1), positions.reshape(-1)


def spread_positions(total: int, most: int) -> np.ndarray:
    """At most `most` different positions below `total`, spread evenly, ascending."""
    if total <= most:
        return np.arange(total)
    return np.sort(np.arange(most) * _coprime(total) % total)


@functools.lru_cache(maxsize=1024)
def _coprime(places: int) -> int:
    """A number without a common divisor with `places`, near to the golden section of it, so that its multiples lie
    evenly."""
    return next(number for number in range(round(places * 0.618) or 1, places + 2) if math.gcd(number, places) == 1)


@functools.lru_cache(maxsize=1024)
def _fingerprint(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The indices of the elements of a sample that are hashed."""
    size = math.prod(shape)
    return np.unravel_index(np.arange(0, size, -(-size // _FINGERPRINT) or 1), shape)


def _hashes(rows: np.ndarray) -> np.ndarray:
    """u64 [n]: a hash of the bits of each row of [n, k]: a sum of products with fixed odd numbers, mod 2^64."""
    rows = np.ascontiguousarray(rows)
    words = rows.view(f"u{rows.itemsize}") if rows.itemsize <= 8 else rows.view(np.uint64)
    return _mixed((words * _FACTORS[: words.shape[1]]).sum(axis=1, dtype=np.uint64))


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """splitmix64 (Steele, Lea, Flood 2014), elementwise on u64."""
    mixed = numbers + _ODD
    for shift, factor in _MIXERS:
        mixed ^= mixed >> shift
        mixed *= factor
    mixed ^= mixed >> _LAST_SHIFT
    return mixed


_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIXERS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST_SHIFT = np.uint64(31)
_LAST = np.iinfo(np.int64).max
_DRAWS = np.arange(MAX_ROWS, dtype=np.uint64)
_FACTORS = _mixed(np.arange(2 * _FINGERPRINT, dtype=np.uint64)) | np.uint64(1)
