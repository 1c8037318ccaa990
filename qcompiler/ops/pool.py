"""Pooling over 1, 2 or 3 spatial axes."""

from __future__ import annotations

import numpy as np

from qcompiler.dims import Dim
from qcompiler.errors import ShapeError
from qcompiler.opdef import REQUIRED, AttrSpec, OperandSpec, QuantKind, QuantRule, Sample
from qcompiler.ops.legacy import legacy_op as OpDef
from qcompiler.ops.legacy import register
from qcompiler.ops.rescale import mean_multiplier, share_or_requantize
from qcompiler.ops.windows import check_geometry, output_size, windows
from qcompiler.quantization import qmath
from qcompiler.types import TensorType, tensor

_SHARED = QuantRule(QuantKind.SHARES_INPUT)
_X = (OperandSpec("x"),)
_WINDOW = (
    AttrSpec("kernel", "ints", REQUIRED),
    AttrSpec("stride", "ints", REQUIRED),
    AttrSpec("padding", "pairs", REQUIRED),
)


def _pooled(op: str, x: TensorType, kernel, stride, padding, dilation, ceil_mode: bool) -> TensorType:
    """Result type of a pooling over windows; ShapeError where one would see nothing but padding."""
    if not 3 <= x.rank <= 5:
        raise ShapeError(f"operand of {op}", expected="[N,C,*spatial]", got=str(x))
    check_geometry(op, x.rank - 2, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    for k, d, pair in zip(kernel, dilation, padding):
        if max(pair) > d * (k - 1):
            raise ShapeError(
                f"padding of {op}: a window would see nothing else",
                got=str(pair),
                expected=f"at most {d * (k - 1)} for kernel {k}, dilation {d}",
            )
    spatial = [output_size(*axis, ceil_mode) for axis in zip(x.shape[2:], kernel, stride, padding, dilation)]
    return TensorType(x.dtype, (*x.shape[:2], *spatial))


def _outputs(shape, kernel, stride, padding, dilation, ceil_mode) -> list[int]:
    return [int(output_size(*axis, ceil_mode)) for axis in zip(shape[2:], kernel, stride, padding, dilation)]


def _over_taps(view: np.ndarray, kernel, combine: np.ufunc) -> np.ndarray:
    """`combine` over the taps of all windows, in row-major order: many times faster than a reduction of tiny axes."""
    result: np.ndarray | None = None
    for tap in np.ndindex(*kernel):
        seen = view[(..., *tap)]
        result = seen.copy() if result is None else combine(result, seen, out=result)
    return result


def _max(x, *, kernel, stride, padding, dilation, ceil_mode) -> np.ndarray:
    fill = -np.inf if np.issubdtype(x.dtype, np.floating) else np.iinfo(x.dtype).min
    outputs = _outputs(x.shape, kernel, stride, padding, dilation, ceil_mode)
    return _over_taps(windows(x, kernel, stride, padding, dilation, outputs, fill), kernel, np.maximum)


register(
    OpDef(
        name="max_pool",
        doc="Maximum of each window; padding is minus infinity. torch max_pool1d/2d/3d; ONNX MaxPool.",
        family="pool",
        operands=_X,
        attrs=(*_WINDOW, AttrSpec("dilation", "ints", REQUIRED), AttrSpec("ceil_mode", "bool", False)),
        infer=lambda x, **attrs: _pooled("max_pool", x, **attrs),
        reference=_max,
        quant=_SHARED,
        integer=lambda arrays, types, out, **attrs: share_or_requantize(_max(arrays[0], **attrs), types[0], out),
        samples=lambda: [
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
        ],
    )
)


def window_counts(
    shape, kernel, stride, padding, ceil_mode: bool, count_include_pad: bool, divisor: int | None
) -> np.ndarray:
    """What each window's sum is divided by: int64 [*outputs]. Padding counts with count_include_pad, what ceil_mode
    adds beyond it never."""
    ones = (1,) * len(kernel)
    outputs = _outputs(shape, kernel, stride, padding, ones, ceil_mode)
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


def _window_sums(x: np.ndarray, kernel, stride, padding, ceil_mode: bool) -> np.ndarray:
    ones = (1,) * len(kernel)
    outputs = _outputs(x.shape, kernel, stride, padding, ones, ceil_mode)
    return _over_taps(windows(x, kernel, stride, padding, ones, outputs, 0), kernel, np.add)


def _avg(x, *, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override) -> np.ndarray:
    counts = window_counts(x.shape, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _window_sums(x, kernel, stride, padding, ceil_mode) / counts.astype(x.dtype)


def _avg_integer(
    arrays, types, out: TensorType, *, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override
) -> np.ndarray:
    counts = window_counts(arrays[0].shape, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
    sums = _window_sums(qmath.centered(arrays[0], types[0].quant), kernel, stride, padding, ceil_mode)
    return qmath.requantize(sums.astype(np.float32) * mean_multiplier(types[0], out, counts), out)


def _infer_avg(x: TensorType, *, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override) -> TensorType:
    if divisor_override is not None and divisor_override < 1:
        raise ShapeError("divisor_override of avg_pool", expected="at least 1", got=divisor_override)
    return _pooled("avg_pool", x, kernel, stride, padding, (1,) * len(kernel), ceil_mode)


def _pool_attrs(kernel, stride, padding, **more: object) -> dict[str, object]:
    return {"kernel": kernel, "stride": stride, "padding": padding, **more}


register(
    OpDef(
        name="avg_pool",
        doc="Mean of each window. torch avg_pool1d/2d/3d; ONNX AveragePool.",
        family="pool",
        operands=_X,
        attrs=(
            *_WINDOW,
            AttrSpec("ceil_mode", "bool", False),
            AttrSpec("count_include_pad", "bool", True),
            AttrSpec("divisor_override", "int", None),
        ),
        infer=_infer_avg,
        reference=_avg,
        integer=_avg_integer,
        quant=_SHARED,
        samples=lambda: [
            Sample((tensor("f32", 1, 3, 8, 8),), _pool_attrs((3, 3), (2, 2), ((1, 1), (1, 1)))),
            Sample(
                (tensor("f32", 1, 3, 7, 8),),
                _pool_attrs((3, 3), (2, 2), ((1, 1), (1, 1)), count_include_pad=False, ceil_mode=True),
            ),
            Sample((tensor("f32", 2, 4, 9),), _pool_attrs((2,), (2,), ((0, 0),), ceil_mode=True)),
            Sample((tensor("f32", 1, 2, 4, 4, 4),), _pool_attrs((2, 2, 2), (2, 2, 2), ((0, 0),) * 3)),
            Sample((tensor("f32", 1, 33, 4, 4),), _pool_attrs((2, 2), (1, 1), ((0, 0), (0, 0)), divisor_override=3)),
        ],
    )
)


def adaptive_bounds(size: int, out: int) -> list[tuple[int, int]]:
    """[start, stop) of each adaptive window: floor(i*size/out), ceil((i+1)*size/out)."""
    return [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


def _infer_adaptive(x: TensorType, output_size) -> TensorType:
    if not 3 <= x.rank <= 5 or len(output_size) != x.rank - 2 or min(output_size) < 1:
        raise ShapeError(
            "adaptive pooling",
            expected="x [N,C,*spatial], a positive output_size for each spatial axis",
            got=f"{x}, {output_size}",
        )
    for size, out in zip(x.shape[2:], output_size):
        if isinstance(size, Dim) and out != 1:
            raise ShapeError("adaptive pooling of a symbolic size", expected="output_size 1", got=f"{size} -> {out}")
    return TensorType(x.dtype, (*x.shape[:2], *output_size))


def _adaptive(x: np.ndarray, output_size, reduce) -> tuple[np.ndarray, np.ndarray]:
    """(reduced windows, element counts [*output_size])."""
    counts = np.ones([1] * len(output_size), np.int64)
    for axis, out in enumerate(output_size):
        bounds = adaptive_bounds(x.shape[axis + 2], out)
        x = np.concatenate([reduce(np.take(x, range(a, b), axis + 2), axis + 2) for a, b in bounds], axis + 2)
        sizes = np.array([b - a for a, b in bounds])
        counts = counts * sizes.reshape([-1 if i == axis else 1 for i in range(len(output_size))])
    return x, counts


def _sum(x: np.ndarray, axis: int) -> np.ndarray:
    return x.sum(axis, keepdims=True, dtype=x.dtype)


def _largest(x: np.ndarray, axis: int) -> np.ndarray:
    return x.max(axis, keepdims=True)


def _adaptive_avg(x: np.ndarray, *, output_size) -> np.ndarray:
    sums, counts = _adaptive(x, output_size, _sum)
    return sums / counts.astype(x.dtype)


def _adaptive_avg_integer(arrays, types, out: TensorType, *, output_size) -> np.ndarray:
    sums, counts = _adaptive(qmath.centered(arrays[0], types[0].quant), output_size, _sum)
    return qmath.requantize(sums.astype(np.float32) * mean_multiplier(types[0], out, counts), out)


def _adaptive_samples() -> list[Sample]:
    cases = (
        ((1, 3, 8, 8), (1, 1)),
        ((2, 5, 7, 6), (3, 2)),
        ((1, 4, 9), (4,)),
        ((1, 2, 4, 5, 6), (2, 2, 2)),
        ((1, 33, 5, 5), (5, 5)),
    )
    return [Sample((tensor("f32", *shape),), {"output_size": out}) for shape, out in cases]


register(
    OpDef(
        name="adaptive_avg_pool",
        doc="Mean over windows that divide each axis into output_size parts; output_size 1 is global pooling.",
        family="pool",
        operands=_X,
        attrs=(AttrSpec("output_size", "ints", REQUIRED),),
        infer=_infer_adaptive,
        reference=_adaptive_avg,
        integer=_adaptive_avg_integer,
        quant=_SHARED,
        samples=_adaptive_samples,
    )
)
register(
    OpDef(
        name="adaptive_max_pool",
        doc="Maximum over windows that divide each axis into output_size parts.",
        family="pool",
        operands=_X,
        attrs=(AttrSpec("output_size", "ints", REQUIRED),),
        infer=_infer_adaptive,
        reference=lambda x, output_size: _adaptive(x, output_size, _largest)[0],
        integer=lambda arrays, types, out, output_size: share_or_requantize(
            _adaptive(arrays[0], output_size, _largest)[0], types[0], out
        ),
        quant=_SHARED,
        samples=_adaptive_samples,
    )
)
