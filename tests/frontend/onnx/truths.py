"""What ops mean where ONNX Runtime disagrees with the ONNX specification, or ends the process."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Truth = Callable[[Any], "list[np.ndarray] | None"]
TRUTHS: dict[str, Truth] = {}


def truth(*ops: str) -> Callable[[Truth], Truth]:
    """Register a function of a `Case`. It returns None if the other oracles are right about the case."""

    def add(function: Truth) -> Truth:
        TRUTHS.update(dict.fromkeys(ops, function))
        return function

    return add


def _whole(x: np.ndarray, y: np.ndarray, of: Callable[[int, int], int]) -> list[np.ndarray]:
    """Compute with Python's integers, and wrap the result to the type of x."""
    x, y = np.broadcast_arrays(x, y)
    bits = 8 * x.dtype.itemsize
    values = [of(int(a), int(b)) % (1 << bits) for a, b in zip(x.flat, y.flat)]
    return [np.array(values, f"u{x.dtype.itemsize}").view(x.dtype).reshape(x.shape)]


def _toward_zero(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@truth("Div")
def _div(case: Any) -> list[np.ndarray] | None:
    """Integer quotients truncate. ONNX Runtime ends the process on the least integer over -1; here the quotient
    wraps."""
    x, y = case.operands
    return _whole(x, y, _toward_zero) if x.dtype.kind in "iu" else None


@truth("Mod")
def _mod(case: Any) -> list[np.ndarray] | None:
    """Integer remainders have the sign of the divisor; with fmod, that of the dividend."""
    x, y = case.operands
    if x.dtype.kind not in "iu":
        return None
    return _whole(x, y, (lambda a, b: a - b * _toward_zero(a, b)) if case.attrs.get("fmod") else (lambda a, b: a % b))


@truth("Pow")
def _pow(case: Any) -> list[np.ndarray] | None:
    """Integer powers are exact. ONNX Runtime computes them in double."""
    x, y = case.operands
    return _whole(x, y, pow) if x.dtype.kind in "iu" and y.dtype.kind in "iu" else None


_INTEGER_REDUCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "ReduceSum": np.sum,
    "ReduceProd": np.prod,
    "ReduceSumSquare": lambda x, **how: np.sum(x * x, **how),
    "ReduceL1": lambda x, **how: np.sum(np.abs(x), **how),
}


@truth(*_INTEGER_REDUCTIONS)
def _reduce(case: Any) -> list[np.ndarray] | None:
    """Integers stay in their type and wrap. ONNX Runtime adds some of them up in double."""
    x, *rest = case.operands
    if x.dtype.kind not in "iu":
        return None
    axes = tuple(rest[0].tolist()) if rest and rest[0] is not None else tuple(case.attrs.get("axes", ()))
    if not axes:
        axes = () if case.attrs.get("noop_with_empty_axes") else tuple(range(x.ndim))
    how = {"axis": axes, "keepdims": bool(case.attrs.get("keepdims", 1)), "dtype": x.dtype}
    return [np.asarray(_INTEGER_REDUCTIONS[case.op](x, **how))]


@truth("Where")
def _where(case: Any) -> list[np.ndarray]:
    """The result is one of the two. ONNX Runtime adds two selections, and -0 + 0 is 0."""
    return [np.where(*case.operands)]


@truth("PRelu")
def _prelu(case: Any) -> list[np.ndarray] | None:
    """The result is x itself where x >= 0, which -0 is. The oracles multiply -0 by the slope, which gives NaN if that
    is infinite."""
    x, slope = case.operands
    if x.dtype.kind != "f":
        return None
    with np.errstate(all="ignore"):
        wide = np.where(x < 0, slope.astype(np.float64) * x, x)
    return [wide if x.dtype == np.float16 else wide.astype(x.dtype)]


@truth("Slice")
def _slice(case: Any) -> list[np.ndarray]:
    """The clamping that the specification of Slice describes. ONNX Runtime takes an end of INT_MAX with a negative step
    for the end before element 0."""
    x, starts, ends, axes, steps = (*case.operands, None, None, None, None)[:5]
    if starts is None:
        starts, ends = np.array(case.attrs["starts"]), np.array(case.attrs["ends"])
        axes = case.attrs.get("axes")
    index = [slice(None)] * x.ndim
    for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist())):
        axis, step = i if axes is None else int(axes[i]), 1 if steps is None else int(steps[i])
        size = x.shape[axis]
        start, end = (bound + size if bound < 0 else bound for bound in (start, end))
        first, last = (0, size) if step > 0 else (-1, size - 1)
        start, end = min(max(start, 0), last), min(max(end, first), last)
        index[axis] = np.array(range(start, end, step), np.int64)
        x = x[tuple(index)]
        index[axis] = slice(None)
    return [x]


def _of_each(x: np.ndarray, function: Callable[[float], float]) -> list[np.ndarray]:
    return [np.array([function(v) for v in x.astype(np.float64).flat], np.float64).reshape(x.shape)]


@truth("Gelu")
def _gelu(case: Any) -> list[np.ndarray]:
    """The result is x * Phi(x). The oracles lose Phi(x) = (1 + erf(...)) / 2 to cancellation where x is negative."""
    x = case.operands[0].astype(np.float64)
    x = np.where(x == -math.inf, math.nan, x)  # -inf * 0, as the formula has it
    if case.attrs.get("approximate", "none") == "tanh":

        def tanh(v: float) -> float:
            u = math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)
            return v / (1 + math.exp(-2 * max(u, -300)))

        return _of_each(x, tanh)
    return _of_each(x, lambda v: 0.5 * v * math.erfc(-v / math.sqrt(2)))


@truth("HardSwish")
def _hard_swish(case: Any) -> list[np.ndarray]:
    """alpha is 1/6, not the nearest f32, which the body of the function holds."""
    x = case.operands[0].astype(np.float64)
    with np.errstate(all="ignore"):
        return [x * np.clip(x / 6 + 0.5, 0, 1)]


@truth("Range")
def _range(case: Any) -> list[np.ndarray] | None:
    """Element i is start + i * delta. ONNX Runtime adds delta up, rounding each time."""
    start, limit, delta = case.operands
    if start.dtype.kind != "f":
        return None
    start, limit, delta = (x.astype(np.float32) for x in (start, limit, delta))
    count = max(math.ceil((float(limit) - float(start)) / float(delta)), 0)
    return [start + np.arange(count).astype(np.float32) * delta]


@truth("Mish")
def _mish(case: Any) -> list[np.ndarray]:
    """The result is x * tanh(log(1 + e^x)). The oracles lose e^x beside the 1."""
    x = case.operands[0].astype(np.float64)
    with np.errstate(all="ignore"):
        return [x * np.tanh(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))]


def _bound_of(case: Any) -> Callable[[str], Any]:
    """A bound that is an attribute, as a number of the type of x; None if it is absent."""
    return lambda name: case.operands[0].dtype.type(case.attrs[name]) if name in case.attrs else None


@truth("Clip")
def _clip(case: Any) -> list[np.ndarray]:
    """An absent bound does not bound. Opset 11 says that it is the largest finite number, and ONNX Runtime does so."""
    x, low, high = case.operands if len(case.operands) == 3 else (*case.operands, *map(_bound_of(case), ("min", "max")))
    found = x if low is None else np.maximum(x, low)
    return [found if high is None else np.minimum(found, high)]


@truth("GlobalMaxPool")
def _global_max_pool(case: Any) -> list[np.ndarray]:
    """The result is the largest element. ONNX Runtime starts from the lowest finite number, not from -inf."""
    x = case.operands[0]
    return [np.max(x, axis=tuple(range(2, x.ndim)), keepdims=True)]


@truth("OneHot")
def _one_hot(case: Any) -> list[np.ndarray]:
    """The oracles lack element types, and ranks."""
    indices, depth, values = case.operands
    count, axis = int(depth.ravel()[0]), case.attrs.get("axis", -1)
    axis = axis % (indices.ndim + 1)
    wrapped = np.expand_dims(np.where(indices < 0, indices + count, indices), axis)
    along = np.arange(count).reshape((count,) + (1,) * (indices.ndim - axis))
    return [np.where(wrapped == along, values[1], values[0])]
