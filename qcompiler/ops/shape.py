"""Ops that move elements without computing. On quantized operands the codes move; parameters stay the same."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qcompiler.dims import Dim, DimLike, parse_dim
from qcompiler.errors import ShapeError
from qcompiler.opdef import (
    SHARES_INPUT,
    LayoutRule,
    Op,
    Sample,
    TypedArray,
    bool_attr,
    float_attr,
    int_attr,
    ints_attr,
    no_accumulator,
    operand,
    pairs_attr,
    shape_attr,
    str_attr,
    variadic_operand,
)
from qcompiler.ops.axes import check_axes, check_axis
from qcompiler.ops.interfaces import Mover
from qcompiler.quantization import qmath
from qcompiler.types import MAX_ELEMENTS, DType, TensorType, tensor

Shape = tuple[DimLike, ...]
SizeEntries = Sequence[int | str]

_PAD_MODES = ("constant", "reflect", "edge")


class _Shared(Mover):
    """A mover whose result shares the parameters of its operands."""

    quant = SHARES_INPUT


# sizes


class Size(Op):
    """The size of an axis of x, i64[]. torch's x.shape[axis] as a tensor; ONNX Shape."""

    name = "size"
    layout = LayoutRule.ROW_MAJOR
    x = operand()
    axis = int_attr()

    def infer(self, x: TensorType) -> TensorType:
        check_axis("size", self.axis, x)
        return TensorType(DType.I64, ())

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x.shape[self.axis], np.int64)

    @staticmethod
    def samples() -> Sequence[Sample]:
        shapes = ((7,), (2, 33), (4, 17, 3), (1, 1), (2, 3, 5, 5))
        return [Sample((tensor("f32", *shape),), {"axis": len(shape) - 1}) for shape in shapes]


# reshape, transpose, expand


def sizes_of(entries: SizeEntries) -> Shape:
    """The entries of a "shape" attr as ints and Dims."""
    return tuple(parse_dim(entry) if isinstance(entry, str) else entry for entry in entries)


def _text(shape: Sequence[DimLike]) -> str:
    return f"[{','.join(map(str, shape))}]"


def reshaped(shape: Shape, entries: SizeEntries) -> Shape:
    """The shape that reshape gives: -1 solved by exact division, the number of elements unchanged.

    Raises:
        ShapeError: two -1, a negative size, a division with a remainder, another number of elements.
    """
    target = sizes_of(entries)
    if any(not isinstance(size, Dim) and size < -1 for size in target) or target.count(-1) > 1:
        raise ShapeError("shape of reshape", expected="sizes of 0 or more, and at most one -1", got=_text(target))
    total: DimLike = math.prod(shape)
    known: DimLike = math.prod(size for size in target if size != -1)
    if -1 in target:
        solved = _divided(total, known, shape, target)
        return tuple(solved if size == -1 else size for size in target)
    if known != total:
        raise ShapeError(
            "reshape changes the number of elements",
            expected=f"{total} elements, as {_text(shape)} has",
            got=f"{known} in {_text(target)}",
        )
    return target


def _divided(total: DimLike, known: DimLike, shape: Shape, target: Shape) -> DimLike:
    def failure() -> ShapeError:
        return ShapeError(
            "reshape cannot solve -1",
            expected=f"a divisor of {total}, the elements of {_text(shape)}",
            got=f"{known} in {_text(target)}",
        )

    if known == 0:
        raise failure()
    try:
        solved = total // known
    except ShapeError:
        raise failure() from None
    if solved * known != total:
        raise failure()
    return solved


class Reshape(_Shared):
    """The same elements in C order under another shape. Sizes are ints or the text of symbolic ones; at most one is -1.
    torch.reshape, flatten, squeeze, unsqueeze; ONNX Reshape, Flatten, Squeeze, Unsqueeze."""

    name = "reshape"
    layout = LayoutRule.ROW_MAJOR
    is_view = True
    x = operand()
    shape = shape_attr(doc='sizes: ints or Dim text such as "B" or "2*S"')

    def infer(self, x: TensorType) -> TensorType:
        return x.with_shape(reshaped(x.shape, self.shape))

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.reshape(x, self.bound_shape)

    @property
    def bound_shape(self) -> tuple[int, ...]:
        """The sizes, where all are numbers."""
        return tuple(size for size in self.shape if isinstance(size, int))

    def is_identity(self) -> bool:
        return True

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", 2, 3, 4),), {"shape": (2, 12)}),
            Sample((tensor("f32", 2, 3, 4),), {"shape": (-1, 2)}),
            Sample((tensor("f32", 1, 33),), {"shape": (33,)}),
            Sample((tensor("f32", 5),), {"shape": (1, 5, 1)}),
            Sample((tensor("f32", 2, 3, 2, 2),), {"shape": (2, 3, 2, 2)}),
            Sample((tensor("f32", 1, 1),), {"shape": ()}),
        ]


class Transpose(_Shared):
    """Axis i of the result is axis perm[i] of x. torch.permute, numpy.transpose; ONNX Transpose."""

    name = "transpose"
    layout = LayoutRule.ROW_MAJOR
    x = operand()
    perm = ints_attr()

    def infer(self, x: TensorType) -> TensorType:
        if sorted(self.perm) != list(range(x.rank)):
            raise ShapeError(
                "perm of transpose", expected=f"every axis from 0 to {x.rank - 1} once", got=str(self.perm)
            )
        return x.with_shape([x.shape[axis] for axis in self.perm])

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.transpose(x, self.perm)

    def is_identity(self) -> bool:
        return self.perm == tuple(range(len(self.perm)))

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", *shape),), {"perm": perm})
            for shape, perm in (
                ((2, 3), (1, 0)),
                ((2, 3, 4, 5), (0, 2, 3, 1)),
                ((2, 33, 7), (0, 2, 1)),
                ((4,), (0,)),
                ((2, 3, 4), (2, 0, 1)),
            )
        ]


class Expand(_Shared):
    """Broadcast to a shape: axes of size 1, and new axes in front, are repeated. torch.expand, numpy.broadcast_to; ONNX
    Expand."""

    name = "expand"
    layout = LayoutRule.ROW_MAJOR
    x = operand()
    shape = shape_attr(doc="sizes: ints or Dim text; no -1")

    def infer(self, x: TensorType) -> TensorType:
        target = sizes_of(self.shape)
        own = (1,) * (len(target) - x.rank) + x.shape
        if len(own) != len(target) or any(have not in (1, want) or want == -1 for have, want in zip(own, target)):
            raise ShapeError(
                "shape of expand", expected=f"a shape that {_text(x.shape)} broadcasts to", got=_text(target)
            )
        return x.with_shape(target)

    def reference(self, x: np.ndarray) -> np.ndarray:
        sizes = tuple(size for size in self.shape if isinstance(size, int))
        return np.ascontiguousarray(np.broadcast_to(x, sizes))

    def is_identity(self) -> bool:
        return True

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", *own),), {"shape": shape})
            for own, shape in (
                ((1, 3), (4, 3)),
                ((3, 1), (2, 3, 5)),
                ((), (7,)),
                ((1, 1, 33), (1, 2, 33)),
                ((2, 3), (2, 3)),
            )
        ]


# slice, concat, flip, tile


def _sliced(size: DimLike, start: DimLike, stop: DimLike, step: int) -> DimLike:
    """Elements of start:stop:step. What is symbolic is taken to lie inside; MAX_ELEMENTS or more: to the end."""
    if isinstance(stop, int) and stop >= MAX_ELEMENTS and not (isinstance(size, int) and isinstance(start, int)):
        stop = size
    elif isinstance(size, int) and isinstance(stop, int):
        stop = min(stop, size)
    if isinstance(start, int) and isinstance(stop, int):
        return len(range(start, stop, step))
    return (stop - start + step - 1) // step


def _slice_attrs(*ranges: tuple[int, int, int, int]) -> dict[str, tuple[int, ...]]:
    return dict(zip(("axes", "starts", "stops", "steps"), zip(*ranges)))


class Slice(_Shared):
    """Elements start, start + step, ... below stop on some axes. Bounds count from 0; a stop may exceed the size, and
    from 2^31-1 on means the end. A bound may be symbolic. It, and any bound on a symbolic axis, is taken to lie inside.
    torch narrow, select, split, x[a:b:c]; ONNX Slice."""

    name = "slice"
    picks = True
    x = operand()
    axes = ints_attr()
    starts = shape_attr(doc="ints or Dim text")
    stops = shape_attr(doc="ints or Dim text")
    steps = ints_attr()

    def infer(self, x: TensorType) -> TensorType:
        axes, starts, stops, steps = self.axes, sizes_of(self.starts), sizes_of(self.stops), self.steps
        check_axes("slice", axes, x)
        if not len(axes) == len(starts) == len(stops) == len(steps):
            raise ShapeError(
                "attrs of slice",
                expected=f"{len(axes)} starts, stops and steps",
                got=f"{len(starts)}, {len(stops)}, {len(steps)}",
            )
        shape = list(x.shape)
        for axis, start, stop, step in zip(axes, starts, stops, steps):
            if any(isinstance(bound, int) and bound < 0 for bound in (start, stop)) or step < 1:
                raise ShapeError(
                    "bounds of slice",
                    expected="start and stop of 0 or more, step of 1 or more",
                    got=f"{start}:{stop}:{step}",
                )
            shape[axis] = _sliced(shape[axis], start, stop, step)
        return x.with_shape(shape)

    def index(self) -> tuple[slice, ...]:
        """numpy's index for an operand of as many axes as `axes` needs. All bounds must be numbers."""
        index = [slice(None)] * (max(self.axes, default=-1) + 1)
        for axis, start, stop, step in zip(self.axes, self.starts, self.stops, self.steps):
            index[axis] = slice(start, stop, step)
        return tuple(index)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x[self.index()]

    def is_identity(self) -> bool:
        """Of a static type the same shape means all elements in order, if the bounds are numbers."""
        return self.x.type.is_static and all(isinstance(bound, int) for bound in (*self.starts, *self.stops))

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", 3, 8),), _slice_attrs((1, 2, 6, 1))),
            Sample((tensor("f32", 4, 33),), _slice_attrs((0, 1, 3, 1), (1, 0, MAX_ELEMENTS, 2))),
            Sample((tensor("f32", 7),), _slice_attrs((0, 1, 100, 3))),
            Sample((tensor("f32", 2, 3, 8, 8),), _slice_attrs((2, 1, 7, 2), (3, 0, 5, 1))),
            Sample((tensor("f32", 2, 5),), _slice_attrs((1, 4, 5, 1))),
        ]


class Concat(_Shared):
    """Operands one after another along an axis. torch.cat, stack; ONNX Concat."""

    name = "concat"
    xs = variadic_operand()
    axis = int_attr()

    def infer(self, *xs: TensorType) -> TensorType:
        if not xs:
            raise ShapeError("operands of concat", expected="one or more", got="none")
        first, axis = xs[0], self.axis
        check_axis("concat", axis, first)
        total: DimLike = 0
        for x in xs:
            if (
                x.dtype is not first.dtype
                or x.rank != first.rank
                or any(a != b for i, (a, b) in enumerate(zip(x.shape, first.shape)) if i != axis)
            ):
                raise ShapeError("operands of concat", expected=f"like {first} but for axis {axis}", got=str(x))
            total = total + x.shape[axis]
        return first.with_shape([total if i == axis else size for i, size in enumerate(first.shape)])

    def reference(self, *xs: np.ndarray) -> np.ndarray:
        return np.concatenate(xs, axis=self.axis)

    def is_identity(self) -> bool:
        return len(self.xs) == 1

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample(tuple(tensor("f32", *shape) for shape in shapes), {"axis": axis})
            for shapes, axis in (
                (((2, 3), (2, 5)), 1),
                (((1, 3, 4, 4), (1, 13, 4, 4), (1, 1, 4, 4)), 1),
                (((7,), (9,)), 0),
                (((2, 4),), 0),
                (((2, 3, 8), (2, 3, 1)), 2),
            )
        ]


class Flip(_Shared):
    """Reversed along axes. torch.flip, numpy.flip."""

    name = "flip"
    x = operand()
    axes = ints_attr()

    def infer(self, x: TensorType) -> TensorType:
        check_axes("flip", self.axes, x)
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.flip(x, self.axes)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", *shape),), {"axes": axes})
            for shape, axes in (
                ((5,), (0,)),
                ((2, 33), (1,)),
                ((2, 3, 4), (0, 2)),
                ((1, 1), (0,)),
                ((2, 3, 5, 5), (2, 3)),
            )
        ]


class Tile(_Shared):
    """The whole repeated along each axis. torch.Tensor.repeat, numpy.tile; ONNX Tile."""

    name = "tile"
    layout = LayoutRule.ROW_MAJOR
    x = operand()
    repeats = ints_attr()

    def infer(self, x: TensorType) -> TensorType:
        if len(self.repeats) != x.rank or any(count < 1 for count in self.repeats):
            raise ShapeError("repeats of tile", expected=f"{x.rank} counts of 1 or more", got=str(self.repeats))
        return x.with_shape([size * count for size, count in zip(x.shape, self.repeats)])

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.tile(x, self.repeats)

    def is_identity(self) -> bool:
        return all(count == 1 for count in self.repeats)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", *shape),), {"repeats": repeats})
            for shape, repeats in (
                ((3,), (4,)),
                ((2, 3), (2, 1)),
                ((1, 5, 3), (3, 1, 2)),
                ((2, 33), (1, 2)),
                ((1, 1), (1, 1)),
            )
        ]


# pad


def _check_border(size: int, pair: tuple[int, int], mode: str) -> None:
    """ShapeError where there is nothing to reflect or repeat."""
    most = size - 1 if mode == "reflect" else MAX_ELEMENTS if mode == "constant" or size > 0 else 0
    if max(pair) > max(most, 0):
        raise ShapeError(
            f"pad with mode {mode}", expected=f"at most {max(most, 0)} on an axis of size {size}", got=str(pair)
        )


def _fill(dtype: DType, value: float) -> np.generic:
    """`value` as an element of a plain integer or bool tensor; ShapeError if there is no such element."""
    low, high = (0, 1) if dtype is DType.BOOL else (dtype.min, dtype.max)
    if not (math.isfinite(value) and value == int(value) and low <= value <= high):
        raise ShapeError(f"value of pad on {dtype}", expected=f"an integer from {low} to {high}", got=value)
    return dtype.numpy.type(int(value))


def _padded(x: np.ndarray, padding: Sequence[tuple[int, int]], mode: str, fill: np.generic | np.ndarray) -> np.ndarray:
    if mode == "constant":
        return np.pad(x, padding, constant_values=fill)
    for size, pair in zip(x.shape, padding):
        _check_border(size, pair, mode)
    return np.pad(x, padding, mode="reflect" if mode == "reflect" else "edge")


class Pad(_Shared):
    """A border on every axis: a constant, the elements mirrored without the edge, or the edge repeated. On codes the
    constant is quantized, so 0.0 gives the zero point. torch.nn.functional.pad; ONNX Pad."""

    name = "pad"
    terms = no_accumulator
    x = operand()
    padding = pairs_attr(doc="(before, after) for every axis")
    mode = str_attr(default="constant", choices=_PAD_MODES)
    value = float_attr(default=0.0, doc="the constant")

    @property
    def border(self) -> float | None:
        return self.value if self.mode == "constant" else None

    def infer(self, x: TensorType) -> TensorType:
        padding = self.padding
        if len(padding) != x.rank or any(not isinstance(n, int) or n < 0 for pair in padding for n in pair):
            raise ShapeError(
                "padding of pad",
                expected=f"{x.rank} pairs of ints of 0 or more",
                got=str(padding),
                hint="crop with slice",
            )
        if self.mode == "constant" and not x.dtype.is_float:
            _fill(x.dtype, self.value)
        for size, pair in zip(x.shape, padding):
            if not isinstance(size, Dim):
                _check_border(size, pair, self.mode)
        return x.with_shape([size + before + after for size, (before, after) in zip(x.shape, padding)])

    def reference(self, x: np.ndarray) -> np.ndarray:
        if np.issubdtype(x.dtype, np.floating):
            return _padded(x, self.padding, self.mode, x.dtype.type(self.value))
        return _padded(x, self.padding, self.mode, _fill(DType.from_numpy(x.dtype), self.value))

    def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
        fill = qmath.quantize(np.asarray(self.value, np.float32), out.params, out.dtype)[()]
        return _padded(x.array, self.padding, self.mode, fill)

    def is_identity(self) -> bool:
        return all(pair == (0, 0) for pair in self.padding)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", 2, 3, 4, 4),), {"padding": ((0, 0), (0, 0), (1, 1), (2, 0))}),
            Sample((tensor("f32", 1, 2, 5),), {"padding": ((0, 0), (0, 0), (4, 3)), "mode": "reflect"}),
            Sample((tensor("f32", 2, 33),), {"padding": ((1, 0), (3, 2)), "mode": "edge"}),
            Sample((tensor("f32", 7),), {"padding": ((1, 2),), "value": 1.5}),
            Sample((tensor("f32", 1, 1, 3, 3),), {"padding": ((0, 0), (0, 0), (2, 2), (1, 2)), "mode": "reflect"}),
        ]


# triangles


def triangle(rows: int, columns: int, upper: bool, diagonal: int) -> np.ndarray:
    """bool [rows, columns]: whether an element is on the diagonal or on the side that trilu keeps. Column - row is
    `diagonal` on the diagonal."""
    nearest = min(max(diagonal, -rows), columns)
    return ~np.tri(rows, columns, nearest - 1, bool) if upper else np.tri(rows, columns, nearest, bool)


class Trilu(_Shared):
    """The lower or upper triangle of the last two axes, and 0 elsewhere; on codes the zero point. torch.tril, triu,
    numpy.tril, triu; ONNX Trilu."""

    name = "trilu"
    picks = True
    terms = no_accumulator
    x = operand()
    upper = bool_attr(default=True, doc="keep the upper triangle instead of the lower one")
    diagonal = int_attr(default=0, doc="the last diagonal that is kept: column - row, 0 for the main one")

    def infer(self, x: TensorType) -> TensorType:
        if x.rank < 2:
            raise ShapeError("operand of trilu", expected="rank 2 or more", got=str(x))
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.where(self._kept(x), x, x.dtype.type(0))

    def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
        zero = qmath.quantize(np.zeros((), np.float32), out.params, out.dtype)
        return np.where(self._kept(x.array), x.array, zero)

    def _kept(self, x: np.ndarray) -> np.ndarray:
        return triangle(x.shape[-2], x.shape[-1], self.upper, self.diagonal)

    @staticmethod
    def samples() -> Sequence[Sample]:
        cases = (
            ((4, 4), True, 0),
            ((2, 3, 33), False, 1),
            ((7, 5), True, -2),
            ((2, 3, 5, 5), False, 0),
            ((3, 1, 1), False, -1),
            ((2, 17, 70), True, 60),
        )
        return [Sample((tensor("f32", *shape),), {"upper": upper, "diagonal": k}) for shape, upper, k in cases]
