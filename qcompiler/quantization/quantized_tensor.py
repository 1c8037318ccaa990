"""QuantizedTensor: codes with their quantization parameters, to quantize and compute by hand.

Owns the methods that torch's quantized tensors have. Does not own any rounding of real numbers (`qmath.py`); graphs and
passes don't use this class. `docs/quantized-tensor.md` compares each method with torch.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from qcompiler.arguments import check_type, described
from qcompiler.errors import ArgumentError, QuantizationError, ShapeError, nearest
from qcompiler.quantization import qmath
from qcompiler.quantization.channel_index import indexed, moved
from qcompiler.types import DType, QuantParams

_DTYPES = {str(dtype): dtype for dtype in (DType.U8, DType.I8, DType.I16, DType.U4, DType.I4)}
_COMPARISONS: tuple[Any, ...] = (np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal)
_INTEGER = (int, np.integer)
_NUMBER = (int, float, np.integer, np.floating)


class QuantizedTensor:
    """An array of codes: real = scale * (code - zero_point), one scale for all or one for each channel of an axis.

    Slices and `view` share their codes with the tensor that they come from. `copy_`, `resize_` and assignment to a
    slice change a tensor in place; every other method gives a new one.

    Args:
        codes: an integer array of the numpy type of `dtype`; it is not copied.
        params: the scales, the zero points, the axis and the legal range.
        dtype: "u8", "i8", "i16", "u4" or "i4", or a DType of these.

    Raises:
        ArgumentError: an argument of another type.
        QuantizationError: a code outside the legal range, or another number of scales than channels.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, codes: np.ndarray, params: QuantParams, dtype: DType | str) -> None:
        check_type("codes", codes, np.ndarray, "an integer array")
        check_type("params", params, QuantParams, "QuantParams")
        self._dtype = _dtype(dtype)
        if codes.dtype != self._dtype.numpy:
            raise ArgumentError("argument 'codes'", expected=f"codes of {self._dtype.numpy}", got=described(codes))
        _check_channels(codes.shape, params)
        if codes.size and not params.qmin <= int(codes.min()) <= int(codes.max()) <= params.qmax:
            raise QuantizationError(
                "codes outside the legal range",
                expected=f"[{params.qmin}, {params.qmax}]",
                got=f"[{codes.min()}, {codes.max()}]",
            )
        self._codes, self._params = codes, params

    # The codes and their parameters

    @property
    def shape(self) -> tuple[int, ...]:
        return self._codes.shape

    @property
    def ndim(self) -> int:
        return self._codes.ndim

    @property
    def size(self) -> int:
        """The number of codes."""
        return self._codes.size

    @property
    def dtype(self) -> DType:
        return self._dtype

    @property
    def params(self) -> QuantParams:
        return self._params

    def int_repr(self) -> np.ndarray:
        """A copy of the codes."""
        return self._codes.copy()

    def dequantize(self) -> np.ndarray:
        """f32, the real numbers: rule (1) of `qmath`."""
        return np.asarray(qmath.dequantize(self._codes, self._params))

    def qscheme(self) -> str:
        """ "per_tensor" or "per_channel"."""
        return "per_channel" if self._params.is_per_channel else "per_tensor"

    def q_scale(self) -> float:
        """The scale, a float32 number. QuantizationError if there is one for each channel."""
        return self._only("q_scale", "q_per_channel_scales").scale[0]

    def q_zero_point(self) -> int:
        """The zero point. QuantizationError if there is one for each channel."""
        return self._only("q_zero_point", "q_per_channel_zero_points").zero_point[0]

    def q_per_channel_scales(self) -> np.ndarray:
        """f32 [channels]. QuantizationError if there is one scale for all."""
        return self._channels("q_per_channel_scales", "q_scale").scales.copy()

    def q_per_channel_zero_points(self) -> np.ndarray:
        """i32 [channels]. QuantizationError if there is one zero point for all."""
        return self._channels("q_per_channel_zero_points", "q_zero_point").zero_points.copy()

    def q_per_channel_axis(self) -> int:
        """The axis of the channels. QuantizationError if there is one scale for all."""
        axis = self._channels("q_per_channel_axis", "qscheme").axis
        assert axis is not None
        return axis

    # Views and other shapes

    def view(self, *shape: int) -> QuantizedTensor:
        """The same codes in another shape; ShapeError if that needs a copy."""
        made = self.reshape(*shape)
        if made.size and not np.shares_memory(made._codes, self._codes):
            raise ShapeError("a view of these codes needs a copy", got=f"shape {shape}", hint="reshape")
        return made

    def reshape(self, *shape: int) -> QuantizedTensor:
        """The codes in another shape, a view if possible. One size may be -1. Channels stay along one axis."""
        sizes = _integers("shape", shape)
        try:
            codes = self._codes.reshape(sizes)
        except ValueError:
            raise ShapeError("reshape", expected=f"{self.size} elements", got=f"shape {shape}") from None
        return self._like(codes, self._axis_in(codes.shape))

    def flatten(self, start: int = 0, end: int = -1) -> QuantizedTensor:
        """The axes from `start` to `end`, both included, as one."""
        start, end = (self._axis(axis) if self.ndim else 0 for axis in (start, end))
        if start > end:
            raise ShapeError("flatten", expected="start <= end", got=f"{start} > {end}")
        middle = int(np.prod(self.shape[start : end + 1], dtype=np.int64))
        return self.reshape(*self.shape[:start], middle, *self.shape[end + 1 :])

    def expand(self, *shape: int) -> QuantizedTensor:
        """The codes repeated along axes of size 1 and new leading axes, without a copy. -1 keeps a size."""
        for size in shape:
            check_type("shape", size, _INTEGER, "sizes")
        more = len(shape) - self.ndim
        sizes = tuple(self.shape[i - more] if n == -1 and i >= more else int(n) for i, n in enumerate(shape))
        try:
            codes = np.broadcast_to(self._codes, sizes)
        except ValueError:
            raise ShapeError("expand", expected=f"a shape that {self.shape} broadcasts to", got=f"{shape}") from None
        axis = self._params.axis
        return self._like(codes, None if axis is None else axis + more)

    def as_strided(self, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> QuantizedTensor:
        """The code at [i, j, ...] is the code number offset + i * strides[0] + j * strides[1] + ... A read-only view.

        Raises:
            QuantizationError: one scale for each channel.
            ShapeError: a position outside of the codes, or codes that are not in row-major order.
        """
        self._only("as_strided")
        if not self._codes.flags.c_contiguous:
            raise ShapeError("as_strided of codes that are not in row-major order", hint="clone() first")
        shape, strides, (offset,) = (
            _integers("shape", shape),
            _integers("strides", strides),
            _integers("offset", [offset]),
        )
        if len(shape) != len(strides) or any(number < 0 for number in (*shape, *strides, offset)):
            raise ShapeError("as_strided", expected="as many strides as sizes, none below 0", got=f"{shape}, {strides}")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if 0 not in shape and last >= self.size:
            raise ShapeError("as_strided", expected=f"positions below {self.size}", got=last)
        flat = self._codes.reshape(-1)[offset:]
        steps = [stride * flat.itemsize for stride in strides]
        return self._like(np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False), None)

    def transpose(self, first: int, second: int) -> QuantizedTensor:
        """Two axes exchanged, a view."""
        order = list(range(self.ndim))
        one, other = self._axis(first), self._axis(second)
        order[one], order[other] = order[other], order[one]
        return self.permute(*order)

    def permute(self, *axes: int) -> QuantizedTensor:
        """The axes in another order, a view."""
        order = [self._axis(axis) for axis in axes]
        if sorted(order) != list(range(self.ndim)):
            raise ShapeError("permute", expected=f"each of {self.ndim} axes once", got=f"{axes}")
        axis = self._params.axis
        return self._like(self._codes.transpose(order), None if axis is None else order.index(axis))

    def squeeze(self, axis: int) -> QuantizedTensor:
        """Without an axis of size 1, a view. A channel axis gives one scale for all."""
        place = self._axis(axis)
        if self.shape[place] != 1:
            raise ShapeError("squeeze", expected="an axis of size 1", got=f"size {self.shape[place]}")
        return self.select(place, 0)

    def unsqueeze(self, axis: int) -> QuantizedTensor:
        """With a new axis of size 1, a view."""
        check_type("axis", axis, _INTEGER, "an axis")
        if not -self.ndim - 1 <= axis <= self.ndim:
            raise ShapeError("unsqueeze", expected=f"{-self.ndim - 1} <= axis <= {self.ndim}", got=axis)
        index: list[Any] = [slice(None)] * self.ndim
        index.insert(axis % (self.ndim + 1), None)
        return self[tuple(index)]

    def select(self, axis: int, index: int) -> QuantizedTensor:
        """What has this index along an axis, a view. Along the channel axis it has one scale."""
        check_type("index", index, _INTEGER, "an index")
        return self[(slice(None),) * self._axis(axis) + (index,)]

    def __getitem__(self, index: Any) -> QuantizedTensor:
        """A view for numbers, slices, None and ...; a copy for arrays of indices or of bools, as in numpy.

        QuantizationError for arrays where each channel has a scale.
        """
        items = index if isinstance(index, tuple) else (index,)
        try:
            codes = np.asarray(self._codes[index])
        except IndexError as error:
            raise ShapeError("the index", expected=f"one for shape {self.shape}", got=str(error)) from None
        if not self._params.is_per_channel:
            return self._like(codes, None)
        if not all(item is None or item is Ellipsis or type(item) in (slice, int, np.int64) for item in items):
            self._only("an index of arrays")
        axis, params = indexed(items, self.ndim, self._params)
        return QuantizedTensor(codes, params if axis is None else moved(params, axis), self._dtype)

    def __setitem__(self, index: Any, value: object) -> None:
        """Put real numbers, or a quantized tensor with the same parameters, at an index."""
        place = self[index]
        if isinstance(value, QuantizedTensor):
            if value._params != place._params or value._dtype != place._dtype:
                raise QuantizationError(
                    "a tensor of other parameters", expected=str(place), got=str(value), hint="give value.dequantize()"
                )
            codes = value._codes
        else:
            try:
                codes = qmath.quantize(np.broadcast_to(_real(value), place.shape), place._params, self._dtype)
            except ValueError:
                raise ShapeError(
                    "the value", expected=f"one that broadcasts to {place.shape}", got=described(value)
                ) from None
        try:
            self._codes[index] = codes
        except ValueError as error:
            raise ShapeError("the value", expected=f"shape {place.shape}, writable", got=str(error)) from None

    def __len__(self) -> int:
        if not self.ndim:
            raise ShapeError("a tensor of rank 0 has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[QuantizedTensor]:
        return (self[index] for index in range(len(self)))

    def item(self) -> float:
        """The real number of a tensor of one element."""
        if self.size != 1:
            raise ShapeError("item", expected="one element", got=f"shape {self.shape}")
        return float(self.dequantize().reshape(()))

    # Changes in place

    def copy_(self, source: object) -> QuantizedTensor:
        """Take the codes and the parameters of a quantized tensor, or quantize real numbers with the own parameters.

        Raises:
            QuantizationError: another element type, or one scale for each channel on one side alone.
            ShapeError: another shape.
        """
        if not isinstance(source, QuantizedTensor):
            self[...] = source
            return self
        if source.shape != self.shape:
            raise ShapeError("copy_", expected=f"shape {self.shape}", got=f"shape {source.shape}")
        if source._dtype != self._dtype or source.qscheme() != self.qscheme():
            raise QuantizationError(
                "copy_", expected=f"{self._dtype} {self.qscheme()}", got=f"{source._dtype} {source.qscheme()}"
            )
        if source._params.axis != self._params.axis:
            raise QuantizationError("copy_", expected=f"axis {self._params.axis}", got=f"axis {source._params.axis}")
        self._codes[...] = source._codes
        self._params = source._params
        return self

    def resize_(self, *shape: int) -> QuantizedTensor:
        """Keep the first codes, in another shape. ShapeError if the shape has more codes than there are."""
        self._only("resize_")
        shape = _integers("shape", shape)
        count = math.prod(shape)
        if count > self.size or min(shape, default=0) < 0:
            raise ShapeError("resize_", expected=f"at most {self.size} elements", got=f"shape {shape}")
        self._codes = self._codes.reshape(-1)[:count].reshape(shape)
        return self

    def clone(self) -> QuantizedTensor:
        """A copy, in row-major order."""
        return self._like(np.array(self._codes, order="C"), self._params.axis)

    # Comparisons

    def equal(self, other: QuantizedTensor) -> bool:
        """Whether shape, element type, parameters and codes are equal."""
        check_type("other", other, QuantizedTensor, "a QuantizedTensor")
        same = (self._dtype, self._params) == (other._dtype, other._params)
        return bool(same and np.array_equal(self._codes, other._codes))

    def __eq__(self, other: object) -> np.ndarray:  # type: ignore[override]
        return self._compare(operator.eq, other)

    def __ne__(self, other: object) -> np.ndarray:  # type: ignore[override]
        return self._compare(operator.ne, other)

    def __lt__(self, other: object) -> np.ndarray:
        return self._compare(operator.lt, other)

    def __le__(self, other: object) -> np.ndarray:
        return self._compare(operator.le, other)

    def __gt__(self, other: object) -> np.ndarray:
        return self._compare(operator.gt, other)

    def __ge__(self, other: object) -> np.ndarray:
        return self._compare(operator.ge, other)

    # Order and statistics. Each needs one scale for all, and gives codes of the same parameters.

    def max(self, axis: int | None = None, *, keepdims: bool = False) -> Any:
        """The largest element of all; with `axis`, (the largest along it, their i64 indices)."""
        return self._extreme("max", np.argmax, axis, keepdims)

    def min(self, axis: int | None = None, *, keepdims: bool = False) -> Any:
        """The smallest element of all; with `axis`, (the smallest along it, their i64 indices)."""
        return self._extreme("min", np.argmin, axis, keepdims)

    def mean(self, axis: int | Sequence[int] | None = None, *, keepdims: bool = False) -> QuantizedTensor:
        """The mean, rounded half to even to a code: rne(sum(q - zero_point) / count) + zero_point."""
        zero_point = self._only("mean").zero_point[0]
        given = range(self.ndim) if axis is None else [axis] if isinstance(axis, _INTEGER) else axis
        axes = tuple(self._axis(each) for each in _integers("axis", given))
        count = int(np.prod([self.shape[each] for each in axes], dtype=np.int64))
        if not count:
            raise ShapeError("mean of no elements", got=f"shape {self.shape}")
        total = np.sum(self._codes.astype(np.int64) - zero_point, axis=axes, keepdims=keepdims)
        codes = np.rint(total / count).astype(np.int64) + zero_point
        return self._like(np.asarray(codes, self._dtype.numpy), None)

    def sort(self, axis: int = -1, *, descending: bool = False) -> tuple[QuantizedTensor, np.ndarray]:
        """(the elements in order along an axis, their i64 indices). Equal elements keep their order."""
        check_type("descending", descending, (bool, np.bool_), "True or False")
        self._only("sort")
        keys = self._codes.astype(np.int64) * (-1 if descending else 1)
        order = np.argsort(keys, axis=self._axis(axis), kind="stable")
        return self._like(np.take_along_axis(self._codes, order, self._axis(axis)), None), order

    def topk(self, k: int, axis: int = -1, *, largest: bool = True) -> tuple[QuantizedTensor, np.ndarray]:
        """(the k largest or smallest elements along an axis, in order, their i64 indices)."""
        check_type("k", k, _INTEGER, "a number of elements")
        check_type("largest", largest, (bool, np.bool_), "True or False")
        self._only("topk")
        if not 0 <= k <= self.shape[self._axis(axis)]:
            raise ShapeError("topk", expected=f"0 <= k <= {self.shape[self._axis(axis)]}", got=k)
        ordered, order = self.sort(axis, descending=largest)
        index = (slice(None),) * self._axis(axis) + (slice(k),)
        return ordered[index], order[index]

    # Arithmetic. Results have codes of this tensor's element type.

    def add(self, other: QuantizedTensor, scale: float, zero_point: int) -> QuantizedTensor:
        """quantize(dequantize(self) + dequantize(other)), the sum in f32. The shapes broadcast."""
        return self._binary("add", operator.add, other, scale, zero_point)

    def mul(self, other: QuantizedTensor, scale: float, zero_point: int) -> QuantizedTensor:
        """quantize(dequantize(self) * dequantize(other)), the product in f32. The shapes broadcast."""
        return self._binary("mul", operator.mul, other, scale, zero_point)

    def relu(self) -> QuantizedTensor:
        """max(code, zero_point), with the same parameters."""
        zero_point = self._only("relu").zero_point[0]
        return self._like(np.maximum(self._codes, self._dtype.numpy.type(zero_point)), None)

    def clamp(self, low: float | None = None, high: float | None = None) -> QuantizedTensor:
        """The codes between those of `low` and `high`, with the same parameters."""
        params, codes = self._only("clamp"), self._codes
        for name, bound, limit in (("low", low, np.maximum), ("high", high, np.minimum)):
            if bound is not None:
                check_type(name, bound, _NUMBER, "a number, or None")
                codes = limit(codes, qmath.quantize(np.asarray(bound, np.float32), params, self._dtype))
        return self._like(np.asarray(codes), None)

    def _refused(self, *_: object) -> NoReturn:
        """No operator says which scale its result has."""
        raise ArgumentError(
            "operators of quantized tensors", hint="add and mul take the result's scale, or compute with dequantize()"
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refused
    __matmul__ = __rmatmul__ = __pow__ = __rpow__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _refused
    __iadd__ = __isub__ = __imul__ = __itruediv__ = __imatmul__ = _refused
    __neg__ = __abs__ = __bool__ = __float__ = __int__ = _refused

    # numpy

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The real numbers: numpy's functions take a quantized tensor as f32."""
        if copy is False:
            raise ValueError("the real numbers of a quantized tensor are always a new array: copy=False is refused")
        return self.dequantize() if dtype is None else self.dequantize().astype(dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Comparisons are of real numbers; arithmetic is refused, as with operators."""
        if method == "__call__" and ufunc in _COMPARISONS and not options:
            return ufunc(*(each.dequantize() if isinstance(each, QuantizedTensor) else each for each in inputs))
        raise ArgumentError(f"np.{ufunc.__name__} of a quantized tensor", hint="give it x.dequantize() or x.int_repr()")

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.shape)) or "[]"
        if self._params.axis is not None:
            return f"{self._dtype} {sizes}, {len(self._params.scale)} scales along axis {self._params.axis}"
        return f"{self._dtype} {sizes}, scale={self._params.scale[0]:g}, zero_point={self._params.zero_point[0]}"

    def __repr__(self) -> str:
        return f"QuantizedTensor({self.dequantize()!r}, {self})"

    # Parts of the methods above

    def _like(self, codes: np.ndarray, axis: int | None) -> QuantizedTensor:
        """Codes with these parameters; their channels, if any, lie along `axis`."""
        params = self._params if self._params.axis in (None, axis) else moved(self._params, axis)
        return QuantizedTensor(codes, params, self._dtype)

    def _axis(self, axis: int) -> int:
        check_type("axis", axis, _INTEGER, "an axis")
        if not -self.ndim <= axis < self.ndim:
            raise ShapeError("the axis", expected=f"{-self.ndim} <= axis < {self.ndim}", got=axis)
        return int(axis) % self.ndim

    def _axis_in(self, shape: tuple[int, ...]) -> int | None:
        """Where the channels lie in another shape of the codes; QuantizationError if they are not along one axis."""
        axis = self._params.axis
        if axis is None:
            return None
        before, channels = np.prod(self.shape[:axis], dtype=np.int64), self.shape[axis]
        for place, size in enumerate(shape):
            if size == channels and np.prod(shape[:place], dtype=np.int64) == before:
                return place
        raise QuantizationError(
            "the shape does not keep the channels along one axis", expected=f"{channels} channels", got=f"shape {shape}"
        )

    def _only(self, method: str, other: str | None = None) -> QuantParams:
        if self._params.is_per_channel:
            raise QuantizationError(
                f"{method} needs one scale for all codes", got=str(self), hint=other or "compute with dequantize()"
            )
        return self._params

    def _channels(self, method: str, other: str) -> QuantParams:
        if not self._params.is_per_channel:
            raise QuantizationError(f"{method} needs a scale for each channel", got=str(self), hint=other)
        return self._params

    def _compare(self, compare: Callable[[Any, Any], Any], other: object) -> np.ndarray:
        value = other.dequantize() if isinstance(other, QuantizedTensor) else _real(other)
        try:
            return np.asarray(compare(self.dequantize(), value))
        except ValueError:
            raise ShapeError("a comparison", expected=f"shape {self.shape}", got=described(other)) from None

    def _extreme(self, name: str, find: Callable[..., Any], axis: int | None, keepdims: bool) -> Any:
        self._only(name)
        if not self.size:
            raise ShapeError(f"{name} of no elements", got=f"shape {self.shape}")
        if axis is None:
            return self._like(np.asarray(self._codes.reshape(-1)[find(self._codes)]), None)
        place = self._axis(axis)
        order = np.expand_dims(find(self._codes, axis=place), place)
        values = np.take_along_axis(self._codes, order, place)
        shape = values.shape if keepdims else values.shape[:place] + values.shape[place + 1 :]
        return self._like(values.reshape(shape), None), order.reshape(shape)

    def _binary(
        self, name: str, compute: Callable[[Any, Any], Any], other: object, scale: float, zero_point: int
    ) -> QuantizedTensor:
        check_type("other", other, QuantizedTensor, "a QuantizedTensor")
        assert isinstance(other, QuantizedTensor)
        self._only(name)
        other._only(name)
        try:
            with np.errstate(all="ignore"):
                real = compute(self.dequantize(), other.dequantize())
        except ValueError:
            raise ShapeError(name, expected=f"a shape that broadcasts with {self.shape}", got=other.shape) from None
        return quantize_per_tensor(real, scale, zero_point, self._dtype)


def quantize_per_tensor(x: object, scale: float, zero_point: int, dtype: DType | str) -> QuantizedTensor:
    """Quantize real numbers with one scale: rule (2) of `qmath`, codes of the shape of x.

    Args:
        x: an array of f32, or what numpy makes one of.
        scale: above 0; rounded to float32.
        zero_point: a code of `dtype`.
        dtype: "u8", "i8", "i16", "u4" or "i4", or a DType of these.

    Raises:
        ArgumentError: an argument of another type.
        QuantizationError: an illegal scale or zero point.
    """
    kind = _dtype(dtype)
    params = QuantParams.per_tensor(scale, zero_point, kind)
    return QuantizedTensor(qmath.quantize(_real(x), params, kind), params, kind)


def quantize_per_channel(
    x: object, scales: Sequence[float], zero_points: Sequence[int] | int, axis: int, dtype: DType | str
) -> QuantizedTensor:
    """Quantize real numbers with a scale for each channel along `axis`; an int is the zero point of all channels.

    Raises:
        ArgumentError: an argument of another type.
        QuantizationError: an illegal scale or zero point, or another number of them than channels.
        ShapeError: x has no such axis.
    """
    kind, real = _dtype(dtype), _real(x)
    check_type("axis", axis, _INTEGER, "an axis")
    if not -real.ndim <= axis < real.ndim:
        raise ShapeError("the axis", expected=f"{-real.ndim} <= axis < {real.ndim}", got=axis)
    try:
        points = zero_points if isinstance(zero_points, int) else [operator.index(point) for point in zero_points]
        steps = [float(scale) for scale in scales]
    except (TypeError, ValueError):
        raise ArgumentError(
            "arguments 'scales' and 'zero_points'",
            expected="a list of numbers, and one of ints or an int",
            got=f"{described(scales)}, {described(zero_points)}",
        ) from None
    params = QuantParams.per_channel(steps, points, int(axis) % real.ndim, kind)
    _check_channels(real.shape, params)
    return QuantizedTensor(qmath.quantize(real, params, kind), params, kind)


def _integers(name: str, given: object) -> tuple[int, ...]:
    """A sequence of ints. ArgumentError for anything else."""
    if isinstance(given, Iterable) and not isinstance(given, (str, bytes)):
        listed = tuple(given)
        if all(isinstance(each, _INTEGER) for each in listed):
            return tuple(map(int, listed))
    raise ArgumentError(f"argument {name!r}", expected="ints", got=described(given))


def _dtype(dtype: object) -> DType:
    name = str(dtype) if isinstance(dtype, DType) else dtype
    if not isinstance(name, str):
        raise ArgumentError("argument 'dtype'", expected=f"one of {', '.join(_DTYPES)}", got=described(dtype))
    if name not in _DTYPES:
        raise QuantizationError(f"codes of {name}", hint=nearest(name, _DTYPES))
    return _DTYPES[name]


def _real(x: object) -> np.ndarray:
    """x as f32; a quantized tensor is none, since its codes would be quantized twice."""
    if isinstance(x, QuantizedTensor):
        raise ArgumentError("argument 'x'", expected="real numbers", got=str(x), hint="x.dequantize()")
    try:
        array = np.asarray(x)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        raise ArgumentError("argument 'x'", expected="an array of real numbers", got=described(x))
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _check_channels(shape: tuple[int, ...], params: QuantParams) -> None:
    if params.axis is None:
        return
    if not 0 <= params.axis < len(shape) or shape[params.axis] != len(params.scale):
        raise QuantizationError(
            "another number of scales than channels",
            expected=f"{len(params.scale)} channels along axis {params.axis}",
            got=f"shape {shape}",
        )
