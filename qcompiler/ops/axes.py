"""Checks of axis attrs that reductions, shape ops and indexing share. Axes count from 0; frontends normalise."""

from __future__ import annotations

from collections.abc import Sequence

from qcompiler.dims import DimLike
from qcompiler.errors import ShapeError
from qcompiler.types import TensorType


def check_axis(op: str, axis: int, x: TensorType) -> None:
    """ShapeError unless 0 <= axis < rank of x."""
    if not 0 <= axis < x.rank:
        raise ShapeError(
            f"axis of {op}",
            expected=f"0 to {x.rank - 1}" if x.rank else "an operand with axes",
            got=f"{axis} for {x}",
            hint=f"write {axis + x.rank}" if -x.rank <= axis < 0 else None,
        )


def check_axes(op: str, axes: Sequence[int], x: TensorType) -> None:
    """ShapeError unless there is an axis, each in range, none twice."""
    for axis in axes:
        check_axis(op, axis, x)
    if not axes or len(set(axes)) != len(axes):
        raise ShapeError(f"axes of {op}", expected="one axis or more, each once", got=str(tuple(axes)))


def reduced_shape(shape: Sequence[DimLike], axes: Sequence[int], keepdims: bool) -> tuple[DimLike, ...]:
    """The shape after reducing `axes`: size 1 with keepdims, else gone."""
    if keepdims:
        return tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)
