"""Pooling over 1, 2 or 3 spatial axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.errors import ShapeError
from qcompiler.ir import AttrValue
from qcompiler.opdef import (
    FLOAT_ONLY,
    SHARES_INPUT,
    AttrSpec,
    LayoutRule,
    Op,
    Sample,
    TypedArray,
    bool_attr,
    ints_attr,
    no_accumulator,
    operand,
    optional_int_attr,
    pairs_attr,
)
from qcompiler.ops.rescale import mean_multiplier, share_or_requantize
from qcompiler.ops.windows import Pairs, check_geometry, output_size, output_sizes, windows
from qcompiler.quantization import qmath
from qcompiler.types import DType, TensorType, tensor


class Pool(Op):
    """One result for each window, channel by channel; it has the parameters of x."""

    quant = SHARES_INPUT
    layout = LayoutRule.CHANNELS_LAST
    is_homogeneous = True
    chooses_params = True
    x = operand()


class _Windowed(Pool):
    """Windows of one size at a stride."""

    kernel = ints_attr()
    stride = ints_attr()
    padding = pairs_attr()
    ceil_mode: AttrSpec[bool]

    @property
    def dilations(self) -> tuple[int, ...]:
        return (1,) * len(self.kernel)

    def infer(self, x: TensorType) -> TensorType:
        """ShapeError where a window would see nothing but padding."""
        if not 3 <= x.rank <= 5:
            raise ShapeError(f"operand of {self.name}", expected="[N,C,*spatial]", got=str(x))
        if 0 in x.shape[2:]:
            raise ShapeError(f"{self.name} of no elements", expected="sizes above 0", got=str(x))
        kernel, stride, padding, dilation = self.kernel, self.stride, self.padding, self.dilations
        check_geometry(self.name, x.rank - 2, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
        for k, d, pair in zip(kernel, dilation, padding):
            if max(pair) > d * (k - 1):
                raise ShapeError(
                    f"padding of {self.name}: a window would see nothing else",
                    got=str(pair),
                    expected=f"at most {d * (k - 1)} for kernel {k}, dilation {d}",
                )
        spatial = [output_size(*axis, self.ceil_mode) for axis in zip(x.shape[2:], kernel, stride, padding, dilation)]
        return TensorType(x.dtype, (*x.shape[:2], *spatial))

    def windows(self, x: np.ndarray, fill: float | int) -> np.ndarray:
        """x [N, C, *S] as [N, C, *outputs, *kernel]; `fill` stands in the padding."""
        outputs = output_sizes(x.shape, self.kernel, self.stride, self.padding, self.dilations, self.ceil_mode)
        return windows(x, self.kernel, self.stride, self.padding, self.dilations, outputs, fill)


def _over_taps(view: np.ndarray, kernel: Sequence[int], combine: np.ufunc) -> np.ndarray:
    """`combine` over the taps of all windows, in row-major order: many times faster than a reduction of tiny axes."""
    result: np.ndarray | None = None
    for tap in np.ndindex(*kernel):
        seen = view[(..., *tap)]
        result = seen.copy() if result is None else combine(result, seen, out=result)
    assert result is not None  # a window has at least one tap
    return result


class MaxPool(_Windowed):
    """Maximum of each window; padding is minus infinity. torch max_pool1d/2d/3d; ONNX MaxPool."""

    name = "max_pool"
    keeps_dtype = True
    commutes_with_clip = True
    element_cost = (0.05, 0.10)
    terms = no_accumulator
    dilation = ints_attr()
    ceil_mode = bool_attr(default=False)
    reads_halo = (Pool.x,)

    @property
    def dilations(self) -> tuple[int, ...]:
        return self.dilation

    def keeps_halo(self) -> bool:
        return self.x.type.quant == self.node.result.type.quant

    def reference(self, x: np.ndarray) -> np.ndarray:
        fill = -np.inf if np.issubdtype(x.dtype, np.floating) else np.iinfo(x.dtype).min
        return _over_taps(self.windows(x, fill), self.kernel, np.maximum)

    def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
        return share_or_requantize(self.reference(x.array), x.type, out)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample(
                (tensor("f32", 1, 3, 8, 8),),
                {"kernel": (3, 3), "stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)},
            ),
            Sample(
                (tensor("f32", 2, 5, 7, 6),),
                {
                    "kernel": (2, 2),
                    "stride": (2, 2),
                    "padding": ((0, 0), (0, 0)),
                    "dilation": (1, 1),
                    "ceil_mode": True,
                },
            ),
            Sample((tensor("f32", 1, 2, 9),), {"kernel": (3,), "stride": (1,), "padding": ((0, 0),), "dilation": (2,)}),
            Sample(
                (tensor("f32", 1, 2, 4, 4, 4),),
                {"kernel": (2, 2, 2), "stride": (2, 2, 2), "padding": ((0, 0),) * 3, "dilation": (1, 1, 1)},
            ),
            Sample(
                (tensor("f32", 1, 33, 5, 5),),
                {"kernel": (5, 5), "stride": (1, 1), "padding": ((2, 2), (2, 2)), "dilation": (1, 1)},
            ),
        ]


class MaxPoolIndices(_Windowed):
    """Where the maximum of each window lies, i64: its index among the elements of its channel's image, in row-major
    order. It is the first of equal ones, the last NaN if there is one, and -1 where a window sees only padding. torch
    max_pool1d/2d/3d(return_indices=True); ONNX MaxPool's second result, which counts from the first image."""

    name = "max_pool_indices"
    quant = FLOAT_ONLY
    layout = LayoutRule.ROW_MAJOR
    is_homogeneous = False
    chooses_params = False
    dilation = ints_attr()
    ceil_mode = bool_attr(default=False)

    @property
    def dilations(self) -> tuple[int, ...]:
        return self.dilation

    def infer(self, x: TensorType) -> TensorType:
        return TensorType(DType.I64, super().infer(x).shape)

    def reference(self, x: np.ndarray) -> np.ndarray:
        places = np.arange(math.prod(x.shape[2:])).reshape(1, 1, *x.shape[2:])
        seen, seen_at = self.windows(x, 0), self.windows(places, -1)
        found = np.full(seen.shape[: x.ndim], -1, np.int64)
        best = np.zeros(found.shape, x.dtype)
        for tap in np.ndindex(*self.kernel):
            value, at = seen[(..., *tap)], seen_at[(..., *tap)]
            better = (at >= 0) & ((found < 0) | (value > best) | (value != value))
            best, found = np.where(better, value, best), np.where(better, at, found)
        return found

    @staticmethod
    def samples() -> Sequence[Sample]:
        return MaxPool.samples()


def window_counts(
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> np.ndarray:
    """i64 [*outputs]: the divisor of each window's sum. Padding counts with count_include_pad; what ceil_mode adds
    beyond it never does."""
    ones = (1,) * len(kernel)
    outputs = output_sizes(shape, kernel, stride, padding, ones, ceil_mode)
    total = np.ones([1] * len(kernel), np.int64)
    for axis, out in enumerate(outputs):
        start = np.arange(out) * stride[axis] - padding[axis][0]
        size = shape[axis + 2]
        if count_include_pad:
            count = np.minimum(start + kernel[axis], size + padding[axis][1]) - start
        else:
            count = np.minimum(start + kernel[axis], size) - np.maximum(start, 0)
        total = total * count.reshape([-1 if i == axis else 1 for i in range(len(kernel))])
    return np.full_like(total, divisor) if divisor is not None else total


def _pool_attrs(
    kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[tuple[int, int], ...], **more: AttrValue
) -> dict[str, AttrValue]:
    return {"kernel": kernel, "stride": stride, "padding": padding, **more}


class AvgPool(_Windowed):
    """Mean of each window. torch avg_pool1d/2d/3d; ONNX AveragePool."""

    name = "avg_pool"
    element_cost = (0.109, 0.143)
    ceil_mode = bool_attr(default=False)
    count_include_pad = bool_attr(default=True)
    divisor_override = optional_int_attr()
    reads_halo = (Pool.x,)

    def infer(self, x: TensorType) -> TensorType:
        if self.divisor_override is not None and self.divisor_override < 1:
            raise ShapeError("divisor_override of avg_pool", expected="at least 1", got=self.divisor_override)
        return super().infer(x)

    def terms(self) -> Sequence[DimLike]:
        return self.kernel

    def counts(self, shape: Sequence[int]) -> np.ndarray:
        """The divisor of each window's sum, for an operand of this shape."""
        return window_counts(
            shape,
            self.kernel,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def reference(self, x: np.ndarray) -> np.ndarray:
        return _over_taps(self.windows(x, 0), self.kernel, np.add) / self.counts(x.shape).astype(x.dtype)

    def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
        sums = _over_taps(self.windows(x.centered(), 0), self.kernel, np.add)
        multiplier = mean_multiplier(x.type, out, self.counts(x.array.shape))
        return qmath.requantize(sums.astype(np.float32) * multiplier, out)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", 1, 3, 8, 8),), _pool_attrs((3, 3), (2, 2), ((1, 1), (1, 1)))),
            Sample(
                (tensor("f32", 1, 3, 7, 8),),
                _pool_attrs((3, 3), (2, 2), ((1, 1), (1, 1)), count_include_pad=False, ceil_mode=True),
            ),
            Sample((tensor("f32", 2, 4, 9),), _pool_attrs((2,), (2,), ((0, 0),), ceil_mode=True)),
            Sample((tensor("f32", 1, 2, 4, 4, 4),), _pool_attrs((2, 2, 2), (2, 2, 2), ((0, 0),) * 3)),
            Sample((tensor("f32", 1, 33, 4, 4),), _pool_attrs((2, 2), (1, 1), ((0, 0), (0, 0)), divisor_override=3)),
        ]


def adaptive_bounds(size: int, out: int) -> list[tuple[int, int]]:
    """[start, stop) of each adaptive window: floor(i*size/out), ceil((i+1)*size/out)."""
    return [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


class _Adaptive(Pool):
    """Windows that divide each axis into `output_size` parts."""

    element_cost = (0.0075, 0.029)
    output_size = ints_attr()

    def infer(self, x: TensorType) -> TensorType:
        output_size = self.output_size
        if not 3 <= x.rank <= 5 or len(output_size) != x.rank - 2 or min(output_size) < 1:
            raise ShapeError(
                "adaptive pooling",
                expected="x [N,C,*spatial], a positive output_size for each spatial axis",
                got=f"{x}, {output_size}",
            )
        for size, out in zip(x.shape[2:], output_size):
            if isinstance(size, Dim) and out != 1:
                raise ShapeError(
                    "adaptive pooling of a symbolic size", expected="output_size 1", got=f"{size} -> {out}"
                )
            if size == 0:
                raise ShapeError("adaptive pooling of no elements", expected="sizes above 0", got=str(x))
        return TensorType(x.dtype, (*x.shape[:2], *output_size))

    def reduced(self, x: np.ndarray, reduce: Callable[[np.ndarray, int], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(reduced windows, element counts [*output_size])."""
        counts = np.ones([1] * len(self.output_size), np.int64)
        for axis, out in enumerate(self.output_size):
            bounds = adaptive_bounds(x.shape[axis + 2], out)
            x = np.concatenate([reduce(np.take(x, range(a, b), axis + 2), axis + 2) for a, b in bounds], axis + 2)
            sizes = np.array([b - a for a, b in bounds])
            counts = counts * sizes.reshape([-1 if i == axis else 1 for i in range(len(self.output_size))])
        return x, counts

    @staticmethod
    def samples() -> Sequence[Sample]:
        cases = (
            ((1, 3, 8, 8), (1, 1)),
            ((2, 5, 7, 6), (3, 2)),
            ((1, 4, 9), (4,)),
            ((1, 2, 4, 5, 6), (2, 2, 2)),
            ((1, 33, 5, 5), (5, 5)),
        )
        return [Sample((tensor("f32", *shape),), {"output_size": out}) for shape, out in cases]


def _sum(x: np.ndarray, axis: int) -> np.ndarray:
    return x.sum(axis, keepdims=True, dtype=x.dtype)


def _largest(x: np.ndarray, axis: int) -> np.ndarray:
    return x.max(axis, keepdims=True)


class AdaptiveAvgPool(_Adaptive):
    """Mean over windows that divide each axis into output_size parts; output_size 1 is global pooling."""

    name = "adaptive_avg_pool"

    def terms(self) -> Sequence[DimLike]:
        return self.x.type.shape[2:]

    def reference(self, x: np.ndarray) -> np.ndarray:
        sums, counts = self.reduced(x, _sum)
        return sums / counts.astype(x.dtype)

    def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
        sums, counts = self.reduced(x.centered(), _sum)
        return qmath.requantize(sums.astype(np.float32) * mean_multiplier(x.type, out, counts), out)


class AdaptiveMaxPool(_Adaptive):
    """Maximum over windows that divide each axis into output_size parts."""

    name = "adaptive_max_pool"
    keeps_dtype = True
    commutes_with_clip = True
    terms = no_accumulator

    def reference(self, x: np.ndarray) -> np.ndarray:
        return self.reduced(x, _largest)[0]

    def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
        return share_or_requantize(self.reference(x.array), x.type, out)
