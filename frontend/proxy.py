"""Proxy, which stands for an array while a model is traced.

It has operators, numpy's protocols, and the methods of numpy arrays and torch tensors. A Proxy knows its shape and
element type but not its data: an operation that needs data raises a TraceError with the user's source line. What the
operations mean is in `array_ops.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from qcompiler.errors import TraceError, nearest
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import indexing
from qcompiler.frontend.recorder import Traced, is_traced
from qcompiler.frontend.sizes import CallableInt, CallableSize, sized
from qcompiler.frontend.source import user_expression, user_place
from qcompiler.types import DType


class NoAttribute(TraceError, AttributeError):
    """An unknown attribute of a traced value. It is an AttributeError too, so that hasattr() works."""


class Proxy(Traced):
    """A traced array."""

    __slots__ = ()
    __array_priority__ = 1000.0

    # -- what is known

    @property
    def shape(self) -> tuple[Any, ...]:
        """The sizes: ints, and Sizes where an axis is dynamic."""
        return tuple(sized(size, self.trace) for size in ops.dims(self))

    @property
    def ndim(self) -> int:
        return ops.rank(self)

    def dim(self) -> int:
        return ops.rank(self)

    @property
    def dtype(self) -> np.dtype:
        return ops.kind_of(self).numpy

    @property
    def size(self) -> Any:
        """The number of elements, as in numpy. Called, as in torch: the shape, or the size of one axis."""
        total = sized(ops.type_of(self).elements, self.trace)
        if isinstance(total, int):
            result: Any = CallableInt(total)
        else:
            result = CallableSize(total.dim, self.trace)
        result.shape = self.shape
        return result

    def numel(self) -> Any:
        return sized(ops.type_of(self).elements, self.trace)

    def __len__(self) -> int:
        if not self.ndim:
            raise TraceError("len() of an array without axes", where=user_place())
        return ops.static_size(self, 0, "len")

    def __repr__(self) -> str:
        return f"Proxy(%{self.value.name}: {_type_text(self)})"

    __hash__ = object.__hash__

    def __qc_inline__(self, callee: Any, args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> Any:
        """Record a call of a compiled model whose arguments are proxies; see Trace.inline."""
        return self.trace.inline(callee, args, kwargs)

    # -- what needs data

    def _refuse(self, what: str, hint: str) -> NoReturn:
        raise TraceError(
            f"{what} depends on data, which a trace does not have", where=user_place(), got=user_expression(), hint=hint
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)  # numpy and copy ask for protocols
        raise NoAttribute(
            f"a traced value has no attribute {name!r}", where=user_place(), hint=nearest(name, dir(Proxy))
        )

    def __bool__(self) -> bool:
        self._refuse("a condition", "np.where(condition, x, y) computes both branches and chooses by element")

    def __float__(self) -> float:
        self._refuse("float()", "keep the value an array")

    def __int__(self) -> int:
        self._refuse("int()", "keep the value an array")

    __index__ = __int__

    def __complex__(self) -> complex:
        self._refuse("complex()", "keep the value an array")

    def __iter__(self) -> NoReturn:
        self._refuse("iteration over an array", "index it: [x[i] for i in range(x.shape[0])], or np.split")

    def __contains__(self, item: Any) -> bool:
        self._refuse("`in`", "compare with ==")

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        hint = (
            "keep the value as it is; numpy functions accept it directly. Write what np.vectorize computes by element "
            "with np.where, np.select, np.piecewise or np.interp"
        )
        self._refuse("conversion to a numpy array", hint)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._refuse("assignment to elements", "build a new array: np.where or np.concatenate")

    def item(self, *args: Any) -> NoReturn:
        self._refuse("item()", "keep the value an array")

    def tolist(self) -> NoReturn:
        self._refuse("tolist()", "keep the value an array")

    def numpy(self) -> NoReturn:
        self._refuse("numpy()", "keep the value as it is; numpy functions accept it directly")

    def nonzero(self) -> NoReturn:
        self._refuse("the shape of nonzero()", "np.where(condition, x, y) keeps the shape")

    # -- numpy's protocols

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from qcompiler.frontend.numpy_api import apply_ufunc

        return apply_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        from qcompiler.frontend.numpy_api import apply_function

        return apply_function(function, args, kwargs)

    # -- indexing and shape

    def __getitem__(self, index: Any) -> Proxy:
        return indexing.getitem(self, index)

    def reshape(self, *shape: Any, order: str = "C") -> Proxy:
        if order != "C":
            raise TraceError("reshape in Fortran order is not supported", where=user_place())
        return ops.reshape(self, _unpacked(shape))

    view = reshape

    def transpose(self, *axes: Any) -> Proxy:
        """numpy's transpose(axes), or torch's transpose(first, second) if the rank is not two."""
        axes = _unpacked(axes)
        if not axes or axes == (None,):
            return ops.transpose(self)
        if len(axes) == 2 and self.ndim != 2:
            return ops.swapaxes(self, *axes)
        return ops.transpose(self, axes)

    def permute(self, *axes: Any) -> Proxy:
        return ops.transpose(self, _unpacked(axes))

    def swapaxes(self, first: int, second: int) -> Proxy:
        return ops.swapaxes(self, first, second)

    @property
    def T(self) -> Proxy:
        return ops.transpose(self)

    @property
    def mT(self) -> Proxy:
        return ops.swapaxes(self, -1, -2)

    def flatten(self, start_dim: Any = 0, end_dim: int = -1) -> Proxy:
        return ops.flatten(self, 0 if isinstance(start_dim, str) else start_dim, end_dim)

    def ravel(self) -> Proxy:
        return ops.flatten(self)

    def squeeze(self, axis: Any = None, *, dim: Any = None) -> Proxy:
        return ops.squeeze(self, dim if axis is None else axis)

    def unsqueeze(self, dim: int) -> Proxy:
        return ops.expand_dims(self, dim)

    def expand(self, *shape: Any) -> Proxy:
        return ops.expand(self, _unpacked(shape))

    def expand_as(self, other: Proxy) -> Proxy:
        return ops.expand(self, ops.dims(other))

    def repeat(self, *repeats: Any) -> Proxy:
        """torch's repeat (numpy's tile)."""
        return ops.tile(self, _unpacked(repeats))

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Proxy, ...]:
        size = ops.static_size(self, ops.check_axis(dim, self.ndim, "chunk"), "chunk")
        each = -(-size // chunks)
        return tuple(indexing.split_at(self, range(each, size, each), dim))

    def split(self, sizes: Any, dim: int = 0) -> tuple[Proxy, ...]:
        """torch's split: one piece size, or a list of sizes."""
        if isinstance(sizes, int):
            size = ops.static_size(self, ops.check_axis(dim, self.ndim, "split"), "split")
            return tuple(indexing.split_at(self, range(sizes, size, sizes), dim))
        return tuple(indexing.split_at(self, list(np.cumsum(sizes)[:-1]), dim))

    # -- reductions

    def mean(self, axis: Any = None, keepdims: bool = False, *, dim: Any = None, keepdim: bool = False) -> Proxy:
        return ops.reduce("mean", self, dim if axis is None else axis, keepdims or keepdim)

    def sum(self, axis: Any = None, keepdims: bool = False, *, dim: Any = None, keepdim: bool = False) -> Proxy:
        return ops.total("sum", summable(self), dim if axis is None else axis, keepdims or keepdim)

    def prod(self, axis: Any = None, keepdims: bool = False, *, dim: Any = None, keepdim: bool = False) -> Proxy:
        return ops.total("prod", summable(self), dim if axis is None else axis, keepdims or keepdim)

    def max(self, axis: Any = None, keepdims: bool = False) -> Proxy:
        """The maximum without its index, as in numpy."""
        return ops.reduce("max", self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Proxy:
        return ops.reduce("min", self, axis, keepdims)

    def amax(self, dim: Any = None, keepdim: bool = False) -> Proxy:
        return ops.reduce("max", self, dim, keepdim)

    def amin(self, dim: Any = None, keepdim: bool = False) -> Proxy:
        return ops.reduce("min", self, dim, keepdim)

    def var(self, axis: Any = None, ddof: float = 0, keepdims: bool = False) -> Proxy:
        """numpy's variance: ddof is 0 by default."""
        return ops.variance(self, axis, keepdims, ddof)

    def std(self, axis: Any = None, ddof: float = 0, keepdims: bool = False) -> Proxy:
        return ops.unary("sqrt", ops.variance(self, axis, keepdims, ddof))

    def argmax(self, axis: int | None = None, keepdims: bool = False, *, dim: int | None = None) -> Proxy:
        return ops.argmax(self, dim if axis is None else axis, keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False, *, dim: int | None = None) -> Proxy:
        return ops.argmin(self, dim if axis is None else axis, keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> Proxy:
        return ops.any_of(self, axis, keepdims)

    def all(self, axis: Any = None, keepdims: bool = False) -> Proxy:
        return ops.all_of(self, axis, keepdims)

    def softmax(self, dim: int) -> Proxy:
        return ops.softmax(self, dim)

    def log_softmax(self, dim: int) -> Proxy:
        return ops.softmax(self, dim, "log_softmax")

    # -- elementwise

    def clip(self, min: Any = None, max: Any = None) -> Proxy:
        return ops.clip(self, min, max)

    clamp = clip

    def round(self, decimals: int = 0) -> Proxy:
        if decimals:
            raise TraceError("rounding to decimals is not supported", where=user_place())
        return ops.unary("round", self)

    def astype(self, dtype: Any, **kwargs: Any) -> Proxy:
        return ops.cast(self, DType.from_numpy(np.dtype(dtype)))

    def to(self, *args: Any, **kwargs: Any) -> Proxy:
        """torch's `to`: a dtype casts, and a device is ignored."""
        for item in (*args, kwargs.get("dtype")):
            if isinstance(item, (np.dtype, type)):
                return ops.cast(self, DType.from_numpy(np.dtype(item)))
        return self

    def float(self) -> Proxy:
        return ops.cast(self, DType.F32)

    def matmul(self, other: Any) -> Proxy:
        return ops.matmul(self, other)

    dot = matmul
    bmm = matmul

    def masked_fill(self, mask: Any, value: Any) -> Proxy:
        return ops.where(mask, value, self)

    def same(self, *args: Any, **kwargs: Any) -> Proxy:
        return self

    detach = contiguous = clone = cpu = copy = same

    # -- operators

    def __matmul__(self, other: Any) -> Proxy:
        return ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Proxy:
        return ops.matmul(other, self)

    def __pow__(self, other: Any) -> Proxy:
        return power(self, other)

    def __rpow__(self, other: Any) -> Proxy:
        return ops.binary("pow", other, self)

    def __pos__(self) -> Proxy:
        return self

    def __neg__(self) -> Proxy:
        return ops.unary("neg", self)

    def __abs__(self) -> Proxy:
        return ops.unary("abs", self)

    def __invert__(self) -> Proxy:
        return ops.bitwise_not(self)


def power(x: Any, exponent: Any) -> Proxy:
    """x ** exponent; squares, roots and reciprocals are ops of their own. Integers to a negative number are refused, as
    numpy and torch do."""
    if ops.is_number(exponent) and is_traced(x):
        integers = not ops.common_dtype(x, exponent).is_float
        if integers and exponent < 0:
            raise TraceError(
                "integers to a negative integer power", where=user_place(), got=exponent, hint="cast to float32 first"
            )
        known = {2: "square", 0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}.get(float(exponent))
        if float(exponent) == 1 and ops.kind_of(x) is ops.common_dtype(x, exponent):
            return x
        if known is not None and ops.kind_of(x) is not DType.BOOL:
            return ops.unary(known, ops.cast(x, ops.common_dtype(x, exponent)))
    return ops.binary("pow", x, exponent)


def summable(x: Proxy) -> Proxy:
    """`x`, unless numpy sums it as uint64, which the graph does not have."""
    if ops.kind_of(x) is DType.U8:
        raise TraceError(
            "numpy sums and multiplies uint8 as uint64, which is not supported",
            where=user_place(),
            hint="x.astype(np.int64) first",
        )
    return x


def _type_text(x: Traced) -> str:
    dtype, shape = x.value.type.dtype, x.value.type.shape
    return f"{dtype}[{','.join(map(str, shape))}]"


def _unpacked(items: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(items[0]) if len(items) == 1 and isinstance(items[0], (tuple, list)) else items


def _operator(op: str, *, reflected: bool = False) -> Callable[[Proxy, Any], Proxy]:
    def method(self: Proxy, other: Any) -> Proxy:
        if other is None or isinstance(other, (str, dict, set)):
            return NotImplemented
        return ops.binary(op, other, self) if reflected else ops.binary(op, self, other)

    return method


def _unary_method(op: str) -> Callable[[Proxy], Proxy]:
    return lambda self: ops.unary(op, self)


for _symbol, _op in (
    ("add", "add"),
    ("sub", "sub"),
    ("mul", "mul"),
    ("truediv", "div"),
    ("floordiv", "floor_divide"),
    ("mod", "remainder"),
    ("and", "bitwise_and"),
    ("or", "bitwise_or"),
    ("xor", "bitwise_xor"),
    ("lshift", "shift_left"),
    ("rshift", "shift_right"),
):
    setattr(Proxy, f"__{_symbol}__", _operator(_op))
    setattr(Proxy, f"__r{_symbol}__", _operator(_op, reflected=True))
for _symbol, _op in (
    ("eq", "equal"),
    ("ne", "not_equal"),
    ("lt", "less"),
    ("le", "less_equal"),
    ("gt", "greater"),
    ("ge", "greater_equal"),
):
    setattr(Proxy, f"__{_symbol}__", _operator(_op))
for _op in (
    "abs",
    "neg",
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "sin",
    "cos",
    "atan",
    "erf",
    "floor",
    "ceil",
    "sign",
    "square",
    "relu",
    "sigmoid",
    "tanh",
):
    setattr(Proxy, _op, _unary_method(_op))
for _method, _op in (("add", "add"), ("sub", "sub"), ("mul", "mul"), ("div", "div")):
    setattr(Proxy, _method, _operator(_op))
