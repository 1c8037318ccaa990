"""Array operations on traced values, with numpy's meaning: promotion, broadcasting, shapes, joining, reducing.

Slices and indices are in `indexing.py`. Every frontend records through these functions: Proxy's methods, the numpy and
torch function tables, and the importers. An argument may be a traced value, an array or a Python number. At least one
is traced, or a trace is being recorded.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.arguments import described
from qcompiler.dims import Dim, DimLike
from qcompiler.errors import TraceError
from qcompiler.frontend.argument_kinds import is_int
from qcompiler.frontend.recorder import Trace, Traced, is_traced, required_trace, shape_entry
from qcompiler.frontend.sizes import Size, as_dim
from qcompiler.frontend.source import user_place
from qcompiler.ir import Const
from qcompiler.notes import Guard
from qcompiler.opdef import opdef
from qcompiler.ops.linear import broadcast_shapes
from qcompiler.types import DType, TensorType

if TYPE_CHECKING:
    from qcompiler.frontend.proxy import Proxy

_ORDER = (DType.BOOL, DType.U8, DType.I8, DType.I16, DType.I32, DType.I64, DType.F16, DType.F32, DType.F64)
COMPARISONS = frozenset({"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"})
_ON_BOOLS = {
    "add": "logical_or",
    "mul": "logical_and",
    "maximum": "logical_or",
    "minimum": "logical_and",
    "bitwise_and": "logical_and",
    "bitwise_or": "logical_or",
    "bitwise_xor": "not_equal",
    "logical_and": "logical_and",
    "logical_or": "logical_or",
    **{op: op for op in COMPARISONS},
}
"""What an op means on two bools. numpy and torch have no others on them."""
_LOGICAL = frozenset({"logical_and", "logical_or"})
_ON_INTEGERS = frozenset({"neg", "abs", "sign", "square", "relu", "relu6", "bitwise_not"})
"""Ops of one operand that give integers for integers."""
_WHOLE = frozenset({"floor", "ceil", "round"})


# -- operands


def trace_of(*items: Any) -> Trace:
    """The trace of the first traced argument, or else the active trace."""
    for item in items:
        if isinstance(item, Traced):
            return item.trace
        if isinstance(item, (list, tuple)):
            for part in item:
                if isinstance(part, Traced):
                    return part.trace
    return required_trace("this function")


def is_number(item: Any) -> bool:
    return isinstance(item, (bool, int, float, np.generic, Size))


def lift(item: Any, trace: Trace | None = None, *, dtype: DType | None = None) -> Proxy:
    """`item` as a traced value. Arrays and numbers become constants; float64 becomes f32. Sizes stay symbolic."""
    if is_traced(item):
        return item if dtype is None else cast(item, dtype)
    trace = trace or required_trace("a constant")
    if isinstance(item, Size):
        from qcompiler.frontend.ranges import size_value

        return lift(size_value(item, trace), trace, dtype=dtype)
    if is_number(item):
        if dtype is None:
            kind = np.asarray(item).dtype.kind
            dtype = DType.BOOL if kind == "b" else DType.F32 if kind == "f" else DType.I64
        return trace.scalar(item, dtype)
    return trace.constant(item, dtype=dtype)


def type_of(x: Proxy) -> TensorType:
    return x.value.type


def dims(x: Proxy) -> tuple[DimLike, ...]:
    """The shape in Dims, as the IR holds it."""
    return lift(x).value.type.shape


def rank(x: Proxy) -> int:
    return lift(x).value.type.rank


def kind_of(item: Any) -> DType:
    """The element type that an operand counts as in promotion."""
    if isinstance(item, Traced):
        return DType.F32 if item.value.type.is_quantized else item.value.type.dtype
    if isinstance(item, Size):
        return DType.I64
    kind = np.asarray(item).dtype.kind if not hasattr(item, "detach") else np.asarray(item.detach()).dtype.kind
    return DType.BOOL if kind == "b" else DType.F32 if kind == "f" else DType.I64


def common_dtype(*items: Any) -> DType:
    """The element type that arrays and numbers are promoted to: bool < integers < f16 < f32 < f64.

    A Python number never widens an array of its kind. In a trace whose scalars yield, as torch's do, nor does an array
    without axes.
    """
    arrays: list[DType] = []
    scalars: list[DType] = []
    for item in items:
        yields = isinstance(item, Traced) and item.trace.scalars_yield and not item.value.type.rank
        if not is_number(item):
            (scalars if yields else arrays).append(kind_of(item))
    numbers = [kind_of(item) for item in items if is_number(item)]
    found: DType | None = None
    for group in (arrays, scalars, numbers):
        if group:
            best = functools.reduce(_promoted, group)
            found = best if found is None or _category(best) > _category(found) else found
    assert found is not None
    return found


def _category(dtype: DType) -> int:
    return 0 if dtype is DType.BOOL else 1 if dtype.is_integer else 2


def _promoted(x: DType, y: DType) -> DType:
    """The smallest element type that holds two."""
    return DType.I16 if {x, y} == {DType.U8, DType.I8} else max(x, y, key=_ORDER.index)


def single(x: Any, what: str, trace: Trace | None = None) -> Proxy:
    """`x` as f32, for an op that computes in no other float type. TraceError if that would lose digits without a
    word."""
    x = lift(x, trace)
    if kind_of(x) in (DType.F16, DType.F64):
        raise TraceError(
            f"{what} of {kind_of(x)} is not supported",
            where=x.trace.place(),
            expected="f32",
            got=str(type_of(x)),
            hint="cast to float32 first: x.float() in torch, x.astype(np.float32) in numpy",
        )
    return cast(x, DType.F32)


def check_axis(axis: Any, count: int, what: str) -> int:
    """`axis` made non-negative; TraceError if there is no such axis."""
    if not is_int(axis):
        raise TraceError(f"{what}: no axis", where=user_place(), expected="an int", got=described(axis))
    number = int(axis)
    if not -count <= number < count:
        raise TraceError(f"{what}: no axis {number}", where=user_place(), expected=f"{-count} to {count - 1}")
    return number % count if count else 0


def check_axes(axis: Any, count: int, what: str) -> tuple[int, ...]:
    """`axis`, which may be None (all axes), an int or several, as sorted non-negative ints."""
    if axis is None:
        return tuple(range(count))
    listed = axis if isinstance(axis, (tuple, list)) else (axis,)
    found = [check_axis(item, count, what) for item in listed]
    if len(set(found)) != len(found):
        raise TraceError(f"{what}: an axis is named twice", where=user_place(), got=axis)
    return tuple(sorted(found))


# -- elementwise


def binary(op: str, x: Any, y: Any, **attrs: Any) -> Proxy:
    """An elementwise op of two operands after promotion."""
    trace = trace_of(x, y)
    dtype = DType.BOOL if op in _LOGICAL else common_dtype(x, y)
    if op == "div" and not dtype.is_float:
        dtype = DType.F32
    elif dtype is DType.BOOL:
        if op not in _ON_BOOLS:
            raise TraceError(
                f"{op} of bools is not supported", where=trace.place(), hint="cast them to a number type first"
            )
        op = _ON_BOOLS[op]
    return trace.emit(op, (lift(x, trace, dtype=dtype), lift(y, trace, dtype=dtype)), attrs)


def unary(op: str, x: Any, **attrs: Any) -> Proxy:
    """An elementwise op of one operand. Ints become f32 unless the op is defined on them."""
    trace = trace_of(x)
    x = lift(x, trace)
    kind = kind_of(x)
    if kind is DType.BOOL and op in _ON_INTEGERS:
        raise TraceError(
            f"{op} of bools is not supported", where=trace.place(), hint="cast them to a number type first"
        )
    if not kind.is_float and not (kind.is_integer and op in _ON_INTEGERS):
        if op in _WHOLE:
            return x
        x = cast(x, DType.F32)
    return trace.emit(op, (x,), attrs)


def logical_not(x: Any) -> Proxy:
    trace = trace_of(x)
    return trace.emit("logical_not", (lift(x, trace, dtype=DType.BOOL),))


def bitwise_not(x: Any) -> Proxy:
    """Every bit of integers flipped; not of bools."""
    return logical_not(x) if kind_of(x) is DType.BOOL else trace_of(x).emit("bitwise_not", (lift(x, trace_of(x)),))


def truncated(x: Any) -> Proxy:
    """Floats without their fraction; integers as they are."""
    return binary("mul", unary("sign", x), unary("floor", unary("abs", x))) if kind_of(x).is_float else lift(x)


def cast(x: Proxy, dtype: DType) -> Proxy:
    """x with another element type. Constants are converted at once; the same type records no op."""
    if kind_of(x) is dtype:
        return x
    if isinstance(x.value, Const):
        data = opdef("cast").run_reference([x.value.data], {"dtype": dtype})[0]
        return x.trace.derived(x.value, f"cast:{dtype}", data, x.value.name)
    if dtype is DType.BOOL:
        return binary("not_equal", x, 0)
    return x.trace.emit("cast", (x,), {"dtype": dtype})


def where(condition: Any, x: Any, y: Any) -> Proxy:
    trace = trace_of(condition, x, y)
    dtype = common_dtype(x, y)
    return trace.emit(
        "where", (lift(condition, trace, dtype=DType.BOOL), lift(x, trace, dtype=dtype), lift(y, trace, dtype=dtype))
    )


def clip(x: Any, low: Any, high: Any) -> Proxy:
    """Bounds may be None, numbers or arrays; two numbers on f32 give one hardtanh. Where low > high, the result is
    high."""
    if kind_of(x) is DType.F32 and is_number(low) and is_number(high) and low <= high:
        return unary("hardtanh", x, min_value=float(low), max_value=float(high))
    if low is not None:
        x = binary("maximum", x, low)
    return x if high is None else binary("minimum", x, high)


# -- products


def matmul(x: Any, y: Any) -> Proxy:
    """numpy's matmul.

    A constant matrix on the right gives `linear` with the transposed weight, so that it is quantized per channel like
    any layer.
    """
    trace = trace_of(x, y)
    if not common_dtype(x, y).is_float:
        raise TraceError(
            "matmul of integers is not supported",
            where=trace.place(),
            expected="f32",
            hint="cast them to float32 first",
        )
    x, y = single(x, "matmul", trace), single(y, "matmul", trace)
    if rank(x) == 0 or rank(y) == 0:
        raise TraceError("matmul needs axes", where=trace.place(), got=f"{type_of(x)}, {type_of(y)}")
    if isinstance(y.value, Const) and rank(y) == 2:
        weight = trace.derived(y.value, "transposed", y.value.data.T, f"{y.value.name}.T")
        return trace.emit("linear", (x, weight))
    left, right = rank(x) == 1, rank(y) == 1
    x = expand_dims(x, 0) if left else x
    y = expand_dims(y, 1) if right else y
    product = trace.emit("matmul", (x, y))
    dropped = ([-2] if left else []) + ([-1] if right else [])
    return squeeze(product, tuple(dropped)) if dropped else product


# -- shape


def reshape(x: Any, shape: Any) -> Proxy:
    """numpy's reshape in C order. Sizes may be symbolic, and one may be -1."""
    trace = trace_of(x)
    x = lift(x, trace)
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    target = tuple(as_dim(size) for size in sizes)
    if target == dims(x):
        return x
    return trace.emit("reshape", (x,), {"shape": tuple(shape_entry(size) for size in target)})


def transpose(x: Any, axes: Sequence[int] | None = None) -> Proxy:
    trace = trace_of(x)
    x = lift(x, trace)
    perm = tuple(reversed(range(rank(x)))) if axes is None else tuple(check_axis(a, rank(x), "transpose") for a in axes)
    if sorted(perm) != list(range(rank(x))):
        raise TraceError("transpose: every axis once", where=trace.place(), expected=f"{rank(x)} axes", got=axes)
    return x if perm == tuple(range(rank(x))) else trace.emit("transpose", (x,), {"perm": perm})


def swapaxes(x: Proxy, first: int, second: int) -> Proxy:
    perm = list(range(rank(x)))
    a, b = check_axis(first, rank(x), "swapaxes"), check_axis(second, rank(x), "swapaxes")
    perm[a], perm[b] = perm[b], perm[a]
    return transpose(x, perm)


def moveaxis(x: Proxy, source: Any, destination: Any) -> Proxy:
    sources = [check_axis(a, rank(x), "moveaxis") for a in (source if isinstance(source, (tuple, list)) else [source])]
    targets = [
        check_axis(a, rank(x), "moveaxis")
        for a in (destination if isinstance(destination, (tuple, list)) else [destination])
    ]
    perm = [axis for axis in range(rank(x)) if axis not in sources]
    for target, axis in sorted(zip(targets, sources)):
        perm.insert(target, axis)
    return transpose(x, perm)


def expand_dims(x: Any, axis: Any) -> Proxy:
    x = lift(x, trace_of(x))
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    total = rank(x) + len(axes)
    new = {check_axis(a, total, "expand_dims") for a in axes}
    if len(new) < len(axes):
        raise TraceError("expand_dims: an axis is given twice", where=trace_of(x).place(), got=axes)
    rest = iter(dims(x))
    return reshape(x, tuple(1 if i in new else next(rest) for i in range(total)))


def squeeze(x: Proxy, axis: Any = None) -> Proxy:
    """Drop all axes of size 1, or only those in `axis`, where another size is an error.

    An open axis stays, and a guard says that its size is not 1.
    """
    shape = dims(x)
    axes = singles(x, range(rank(x))) if axis is None else check_axes(axis, rank(x), "squeeze")
    for i in axes:
        if shape[i] != 1:
            raise TraceError(f"squeeze: axis {i} is not of size 1", where=x.trace.place(), got=str(type_of(x)))
    return reshape(x, tuple(size for i, size in enumerate(shape) if i not in axes))


def singles(x: Proxy, axes: Sequence[int]) -> list[int]:
    """Those of the axes that have size 1. An open axis is not one of them, which a guard says."""
    for axis in axes:
        size = dims(x)[axis]
        if isinstance(size, Dim):
            x.trace.guard(Guard(size, "!=", 1))
    return [axis for axis in axes if dims(x)[axis] == 1]


def flatten(x: Any, start: int = 0, end: int = -1) -> Proxy:
    """torch's flatten: the axes from start to end become one."""
    x = lift(x, trace_of(x))
    if rank(x) == 0:
        return reshape(x, (1,))
    first, last = check_axis(start, rank(x), "flatten"), check_axis(end, rank(x), "flatten")
    joined: DimLike = 1
    for size in dims(x)[first : last + 1]:
        joined = joined * size
    return reshape(x, (*dims(x)[:first], joined, *dims(x)[last + 1 :]))


def expand(x: Any, shape: Sequence[Any]) -> Proxy:
    """Broadcast x to a shape, in which -1 means the axis' own size, as in torch."""
    trace = trace_of(x)
    x = lift(x, trace)
    target = [as_dim(size) for size in shape]
    own: tuple[DimLike | None, ...] = (None,) * (len(target) - rank(x)) + dims(x)
    target = [have if size == -1 and have is not None else size for size, have in zip(target, own)]
    if tuple(target) == dims(x):
        return x
    return trace.emit("expand", (x,), {"shape": tuple(shape_entry(size) for size in target)})


def broadcast_dims(*shapes: Sequence[DimLike]) -> tuple[DimLike, ...]:
    """The shape that shapes broadcast to, by numpy's rules."""
    found: tuple[DimLike, ...] = ()
    for shape in shapes:
        found = broadcast_shapes(found, shape, "arrays")
    return found


def flip(x: Any, axis: Any = None) -> Proxy:
    trace = trace_of(x)
    x = lift(x, trace)
    axes = check_axes(axis, rank(x), "flip")
    return trace.emit("flip", (x,), {"axes": axes}) if axes else x


# -- joining


def concat(xs: Sequence[Any], axis: int = 0) -> Proxy:
    trace = trace_of(list(xs))
    if not xs:
        raise TraceError("nothing to concatenate", where=trace.place())
    dtype = common_dtype(*xs)
    parts = [lift(x, trace, dtype=dtype) for x in xs]
    if len(parts) == 1:
        return parts[0]
    return trace.emit("concat", parts, {"axis": check_axis(axis, rank(parts[0]), "concat")})


def stack(xs: Sequence[Any], axis: int = 0) -> Proxy:
    trace = trace_of(list(xs))
    parts = [lift(x, trace) for x in xs]
    axis = check_axis(axis, rank(parts[0]) + 1, "stack")
    return concat([expand_dims(x, axis) for x in parts], axis)


def static_size(x: Proxy, axis: int, what: str) -> int:
    """The size of an axis as an int. A symbolic size takes the example's number, and the trace notes a guard."""
    size = dims(x)[axis]
    return Size(size, x.trace).bake() if isinstance(size, Dim) else size


def pad(x: Any, padding: Sequence[tuple[Any, Any]], mode: str = "constant", value: float = 0.0) -> Proxy:
    """Pad x; `padding` has a pair (before, after) for every axis. A symbolic amount of a constant is joined to x."""
    trace = trace_of(x)
    x = lift(x, trace)
    is_open = [mode == "constant" and any(isinstance(amount, Size) for amount in pair) for pair in padding]
    pairs = tuple((0, 0) if later else (int(pair[0]), int(pair[1])) for pair, later in zip(padding, is_open))
    if any(pair != (0, 0) for pair in pairs):
        x = trace.emit("pad", (x,), {"padding": pairs, "mode": mode, "value": float(value)})
    for axis, (pair, later) in enumerate(zip(padding, is_open)):
        if later:
            before, after = (_border(x, axis, amount, value) for amount in pair)
            x = concat([*before, x, *after], axis)
    return x


def _border(x: Proxy, axis: int, amount: Any, value: float) -> list[Proxy]:
    """What a pad joins to one end of an axis."""
    size = as_dim(amount)
    if size == 0:
        return []
    fill = lift(value if kind_of(x).is_float else int(value), x.trace, dtype=kind_of(x))
    return [expand(fill, tuple(size if i == axis else own for i, own in enumerate(dims(x))))]


def trilu(x: Any, upper: bool, diagonal: int = 0) -> Proxy:
    """The lower or upper triangle of the last two axes."""
    trace = trace_of(x)
    return trace.emit("trilu", (lift(x, trace),), {"upper": upper, "diagonal": int(diagonal)})


def tile(x: Any, repeats: Sequence[int]) -> Proxy:
    trace = trace_of(x)
    x = lift(x, trace)
    repeats = tuple(int(r) for r in repeats)
    total = max(len(repeats), rank(x))
    repeats = (1,) * (total - len(repeats)) + repeats
    if total > rank(x):
        x = reshape(x, (1,) * (total - rank(x)) + dims(x))
    return x if set(repeats) <= {1} else trace.emit("tile", (x,), {"repeats": repeats})


# -- reducing


def reduce(op: str, x: Any, axis: Any = None, keepdims: bool = False) -> Proxy:
    """mean, sum, max, min or prod over axes. Integers keep their type, but their mean is f32. Sums and products of
    bools are i64; their maximum is whether any is true."""
    trace = trace_of(x)
    x = lift(x, trace)
    if kind_of(x) is DType.BOOL and op in ("max", "min"):
        return (any_of if op == "max" else all_of)(x, axis, keepdims)
    if op == "mean" and not kind_of(x).is_float:
        x = cast(x, DType.F32)
    elif kind_of(x) is DType.BOOL:
        x = cast(x, DType.I64)
    axes = check_axes(axis, rank(x), op)
    return trace.emit(op, (x,), {"axes": axes, "keepdims": bool(keepdims)}) if axes else x


def total(op: str, x: Any, axis: Any = None, keepdims: bool = False, dtype: DType | None = None) -> Proxy:
    """sum or prod in `dtype`; without it, bools and integers are combined as i64, as in torch."""
    x = lift(x, trace_of(x))
    kind = kind_of(x) if kind_of(x).is_float else DType.I64
    return reduce(op, cast(x, dtype or kind), axis, keepdims)


def cumsum(x: Any, axis: int, dtype: DType | None = None) -> Proxy:
    """Cumulative sums along an axis, in `dtype`. Without it bools and integers are summed as i64, like in torch."""
    trace = trace_of(x)
    x = lift(x, trace)
    x = cast(x, dtype if dtype is not None else kind_of(x) if kind_of(x).is_float else DType.I64)
    return trace.emit("cumsum", (x,), {"axis": check_axis(axis, rank(x), "cumsum")})


def any_of(x: Any, axis: Any = None, keepdims: bool = False) -> Proxy:
    """Whether any element is not 0."""
    mask = cast(lift(x, trace_of(x), dtype=DType.BOOL), DType.F32)
    return binary("greater", reduce("max", mask, axis, keepdims), 0.0)


def all_of(x: Any, axis: Any = None, keepdims: bool = False) -> Proxy:
    """Whether no element is 0."""
    mask = cast(lift(x, trace_of(x), dtype=DType.BOOL), DType.F32)
    return binary("greater", reduce("min", mask, axis, keepdims), 0.0)


def variance(x: Any, axis: Any = None, keepdims: bool = False, correction: float = 0) -> Proxy:
    """The mean of squared distances from the mean; `correction` is numpy's ddof."""
    centered = binary("sub", x, reduce("mean", x, axis, True))
    squared = unary("square", centered)
    if not correction:
        return reduce("mean", squared, axis, keepdims)
    count = 1
    for a in check_axes(axis, rank(squared), "var"):
        count *= static_size(squared, a, "var")
    return binary("div", reduce("sum", squared, axis, keepdims), max(count - correction, 0))


def argmax(x: Any, axis: int | None = None, keepdims: bool = False) -> Proxy:
    """The index of the first maximum along an axis, or in the flattened array."""
    return _search("argmax", x, axis, keepdims)


def argmin(x: Any, axis: int | None = None, keepdims: bool = False) -> Proxy:
    """The index of the first minimum along an axis, or in the flattened array."""
    return _search("argmin", x, axis, keepdims)


def _search(op: str, x: Any, axis: int | None, keepdims: bool) -> Proxy:
    trace = trace_of(x)
    x = lift(x, trace)
    if axis is None:
        flat = trace.emit(op, (reshape(x, (-1,)),), {"axis": 0, "keepdims": False})
        return reshape(flat, (1,) * rank(x)) if keepdims else flat
    if not rank(x):
        check_axis(axis, 1, op)
        return trace.emit(op, (reshape(x, (1,)),), {"axis": 0, "keepdims": False})
    return trace.emit(op, (x,), {"axis": check_axis(axis, rank(x), op), "keepdims": bool(keepdims)})


def softmax(x: Any, axis: int, op: str = "softmax", **attrs: bool) -> Proxy:
    trace = trace_of(x)
    x = single(x, op, trace)
    return trace.emit(op, (x,), {"axis": check_axis(axis, rank(x), op), **attrs})
