"""The first and second moments of what products read, which rounding by calibration data needs (`round_weights.py`).

Rows are those of `Weighted.rows`. They are taken from the float graph on whole calibration items, and quantized as the
product will read them: as codes minus their zero point. So second moments are sums of integers, which f64 holds
exactly, in whatever order a BLAS adds them up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qcompiler.ir import Graph
from qcompiler.ops.interfaces import Weighted
from qcompiler.quantization import qmath
from qcompiler.quantization.collect import Taken, collector
from qcompiler.quantization.kept_items import Item
from qcompiler.quantization.product_inputs import spread_positions
from qcompiler.types import DType, QuantParams, TensorType

MOST_ROWS = 16384
"""Rows taken of the input of one product at most, of all items together."""

ROWS_PER_TERM = 4
"""So many rows for each term of a row suffice, and LEAST_ROWS."""

LEAST_ROWS = 4096

MAX_BYTES = 1 << 28
"""Bytes of the second moments that one run over the items collects, unless that is less than one product's."""

MAX_BYTES_OF_ONE = 1 << 30
"""Products with second moments of more bytes, which have rows of more than about 11,000 terms, have none."""

_BLOCK_BYTES = 1 << 24
"""Bytes of the rows that are multiplied at once."""

_FRACTION_BITS = 16
"""Means of real numbers are summed in units of 2^-16 of a code."""


@dataclass
class InputMoments:
    """Sums over the rows of a product's input, in units of the scale of its codes.

    Attributes:
        params, dtype: of the codes.
        count: how many rows.
        seconds: f64 [groups, k, k]: sum of q q^T, with q = codes minus zero point.
        codes, reals: f64 [groups, k]: the sums of the q, and of real numbers divided by the scale.
        is_finite: False if a number was NaN or Inf; then the sums mean nothing.
    """

    params: QuantParams
    dtype: DType
    count: int = 0
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(0))
    codes: np.ndarray = field(default_factory=lambda: np.zeros(0))
    reals: np.ndarray = field(default_factory=lambda: np.zeros(0))
    is_finite: bool = True

    def take(self, rows: np.ndarray) -> None:
        """Add f32 rows [n, groups, inputs of a group, taps]."""
        n, groups = rows.shape[:2]
        real = np.ascontiguousarray(rows.reshape(n, groups, -1).swapaxes(0, 1))
        if not np.isfinite(real).all():
            self.is_finite = False
            return
        scale, zero_point = self.params.scale[0], self.params.zero_point[0]
        q = qmath.quantize(real, self.params, self.dtype).astype(np.float64) - zero_point
        units = np.rint(real.astype(np.float64) * (2.0**_FRACTION_BITS / scale))
        units = np.clip(units, -(2.0**36), 2.0**36)
        if not self.count:
            size = q.shape[2]
            self.seconds, self.codes, self.reals = np.zeros((groups, size, size)), *np.zeros((2, groups, size))
        self.count += n
        self.seconds += np.matmul(q.swapaxes(1, 2), q)
        self.codes += q.sum(axis=1)
        self.reals += units.sum(axis=1) * 2.0**-_FRACTION_BITS


@dataclass(frozen=True)
class _Rows(Taken):
    """Takes rows of the inputs of some products, and nothing else. moments: by key; items: how many are run."""

    moments: Mapping[str, InputMoments] = field(default_factory=dict)
    items: int = 1

    def observe(self, group: str, value: str, observe: Callable[[Any], object]) -> None:
        pass

    def take_channels(self, layers: Sequence[tuple[str, Weighted]], ranges: Mapping[int, np.ndarray]) -> None:
        pass

    def take_rows(self, layers: Sequence[tuple[str, Weighted]], array: np.ndarray, seeds: np.ndarray) -> None:
        for key, layer in layers:
            if key in self.moments:
                terms = math.prod(layer.row_shape[1:])
                most = min(MOST_ROWS, max(LEAST_ROWS, ROWS_PER_TERM * terms))
                positions = spread_positions(math.prod(layer.row_counts(array.shape)), -(-most // self.items))
                block = max(1, _BLOCK_BYTES // (8 * math.prod(layer.row_shape)))
                for start in range(0, len(positions), block):
                    self.moments[key].take(layer.rows(array, positions[start : start + block]))


def collect_moments(
    observed: Graph,
    products: Mapping[str, Weighted],
    codes: Mapping[str, TensorType],
    items: Sequence[Item],
    threads: int,
) -> Iterator[dict[str, InputMoments]]:
    """The moments of the inputs of some products, as many at a time as fit in MAX_BYTES.

    Args:
        observed: the graph at stage observed, as it will be quantized.
        products: key (`input_key`) -> a product of the graph that reads an input in this form.
        codes: key -> the type of the codes of this input.
        items: the inputs of some calls, which fit the graph.
    """
    runner = collector(observed, products)
    for keys in _batches(products):
        moments = {key: InputMoments(codes[key].params, codes[key].dtype) for key in keys}
        taken = _Rows({}, moments=moments, items=len(items))
        for item in items:
            runner.observe(item, taken, threads)
        yield moments


def moments_bytes(layer: Weighted) -> int:
    """Bytes of the second moments of a product's input."""
    groups, inputs, taps = layer.row_shape
    return 8 * groups * (inputs * taps) ** 2


def _batches(products: Mapping[str, Weighted]) -> Iterator[list[str]]:
    batch: list[str] = []
    left = MAX_BYTES
    for key, layer in products.items():
        size = moments_bytes(layer)
        if batch and size > left:
            yield batch
            batch, left = [], MAX_BYTES
        batch.append(key)
        left -= size
    if batch:
        yield batch
