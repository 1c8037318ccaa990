"""What calibration collects of a value; `expose-statistics` puts these ops into a calibration graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.errors import ShapeError
from qcompiler.opdef import LayoutRule, Op, Sample, int_attr, operand
from qcompiler.quantization import value_counts
from qcompiler.types import TensorType, tensor

_SHAPES = ((7,), (2, 33), (1, 5, 9, 11), (3, 64, 5), (1,), (0, 3), (2, 1, 3, 1500))


def _check_f32(x: TensorType) -> None:
    if x != tensor("f32", *x.shape):
        raise ShapeError("operand of a statistic", expected="f32[...]", got=str(x))


class ValueRange(Op):
    """f32[2]: the smallest and the largest element; (inf, -inf) of no elements, and (NaN, NaN) if one is not finite.
    A zero is 0, never -0."""

    name = "value_range"
    layout = LayoutRule.ROW_MAJOR
    x = operand()
    reads_halo = (x,)

    def infer(self, x: TensorType) -> TensorType:
        _check_f32(x.with_layout(None))
        return tensor("f32", 2)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return value_counts.value_range(x)

    @staticmethod
    def samples() -> Sequence[Sample]:
        drawn = [Sample((tensor("f32", *shape),)) for shape in _SHAPES]
        return [*drawn, Sample((np.array([0.0, -0.0, 1e-40, -1e-42], np.float32),)), Sample((_extremes(np.inf),))]


class ChannelRange(Op):
    """f32[2, channels]: the smallest and the largest element of each channel, as value_range gives them."""

    name = "channel_range"
    layout = LayoutRule.ROW_MAJOR
    x = operand()
    axis = int_attr(doc="of the channels")
    reads_halo = (x,)

    def infer(self, x: TensorType) -> TensorType:
        _check_f32(x.with_layout(None))
        if not 0 <= self.axis < x.rank or not isinstance(x.shape[self.axis], int):
            raise ShapeError("axis of channel_range", expected=f"an axis of known size of {x}", got=self.axis)
        return tensor("f32", 2, x.shape[self.axis])

    def reference(self, x: np.ndarray) -> np.ndarray:
        return value_counts.channel_range(x, self.axis)

    @staticmethod
    def samples() -> Sequence[Sample]:
        cases = [((2, 33), 1), ((33, 7), 0), ((1, 5, 9, 11), 1), ((3, 64, 5), 2), ((0, 3), 1), ((2, 1, 3, 1500), 1)]
        drawn = [Sample((tensor("f32", *shape),), {"axis": axis}) for shape, axis in cases]
        return [*drawn, Sample((_extremes(np.inf).reshape(12, 3),), {"axis": 0})]


class ValueCounts(Op):
    """i32[4096]: how many elements of x lie in each bin [i * w, (i + 1) * w), i from -2048 on. With 2^k the least power
    of two above both magnitudes of `bounds`, w = 2^(k - 10), but at least 2^-126. What lies beyond counts in the
    outermost bins, and NaN in the first. Of an axis only every step-th index counts, from step // 2 on."""

    name = "value_counts"
    layout = LayoutRule.ROW_MAJOR
    x = operand()
    bounds = operand()
    axis = int_attr(default=0)
    step = int_attr(default=1)
    reads_halo = (x,)

    def infer(self, x: TensorType, bounds: TensorType) -> TensorType:
        _check_f32(x.with_layout(None))
        if self.step < 1 or not 0 <= self.axis < max(x.rank, 1 if self.step == 1 else 0):
            got = f"axis {self.axis}, step {self.step}"
            raise ShapeError("attrs of value_counts", expected=f"an axis of {x}, a step of 1 or more", got=got)
        if bounds != tensor("f32", 2):
            raise ShapeError("bounds of value_counts", expected="f32[2]", got=str(bounds))
        return tensor("i32", 2 * value_counts.BINS)

    def reference(self, x: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        index = (slice(None),) * self.axis + (slice(self.step // 2, None, self.step),)
        return value_counts.value_counts(x if self.step == 1 else x[index], bounds)

    @staticmethod
    def samples() -> Sequence[Sample]:
        given = [(0, 1), (-2, 2), (0, 0), (-0.1, 1e-3), (1, 1e30), (np.inf, -np.inf), (0, 1e-40)]
        drawn = [Sample((tensor("f32", *shape), np.array(pair, np.float32))) for shape, pair in zip(_SHAPES, given)]
        far = np.array([-1e30, 1e30], np.float32)
        some = [
            Sample((tensor("f32", *shape), far), {"axis": axis, "step": step})
            for shape, axis, step in (((2, 7, 9), 1, 3), ((1, 5, 9, 11), 3, 4), ((4, 33), 0, 5))
        ]
        extremes = [Sample((_extremes(np.nan), far)), Sample((_extremes(1.0), np.array([0, 2], np.float32)))]
        return [*drawn, *some, *extremes]


def _extremes(last: float) -> np.ndarray:
    values = [0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 3e38, -3e38, 1.0, -1.0, 0.5, last]
    return np.array(values * 3, np.float32)
