"""Quantization parameters per channel behind an index or a move of the axes."""

from __future__ import annotations

from typing import Any

from qcompiler.errors import QuantizationError, ShapeError
from qcompiler.types import QuantParams


def moved(params: QuantParams, axis: int | None) -> QuantParams:
    """The parameters with the channels along another axis."""
    return QuantParams(params.scale, params.zero_point, axis, params.qmin, params.qmax)


def indexed(items: tuple[Any, ...], rank: int, params: QuantParams) -> tuple[int | None, QuantParams]:
    """(the channel axis, the parameters) behind an index of numbers, slices, None and `...`."""
    used = sum(item is not None and item is not Ellipsis for item in items)
    rest = [slice(None)] * (rank - used)
    at = next((i for i, item in enumerate(items) if item is Ellipsis), len(items))
    axis = place = 0
    for item in (*items[:at], *rest, *items[at + 1 :]):
        if item is None:
            place += 1
            continue
        if axis == params.axis:
            chosen = params.scales[item], params.zero_points[item]
            if not isinstance(item, slice):
                return None, QuantParams((float(chosen[0]),), (int(chosen[1]),), None, params.qmin, params.qmax)
            if not len(chosen[0]):
                raise QuantizationError("a slice without channels", got=f"{item} of {len(params.scale)} channels")
            scale, zero_point = tuple(map(float, chosen[0])), tuple(map(int, chosen[1]))
            return place, QuantParams(scale, zero_point, axis, params.qmin, params.qmax)
        axis += 1
        place += isinstance(item, slice)
    raise ShapeError("the index", expected=f"one for rank {rank}", got=str(items))
