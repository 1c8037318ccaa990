"""Operands and attributes of ONNX ops that pick elements by index, put others in their places, or sort."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.frontend.onnx.recipes import Draw, Operands, i64, no_nan, recipe


def _tuples(d: Draw, sizes: tuple[int, ...], lead: tuple[int, ...], once: bool = False) -> np.ndarray:
    """Index tuples [*lead, len(sizes)] into the first axes of a tensor. once: no place twice."""
    count, places = int(np.prod(lead)), int(np.prod(sizes))
    flat = d.rng.permutation(places)[:count] if once else d.rng.integers(0, places, count)
    found = np.stack(np.unravel_index(flat, sizes), -1).astype(np.int64).reshape(*lead, len(sizes))
    return found - np.array(sizes) if d.chance(0.2) else found


@recipe("GatherND")
def _gather_nd(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = d.data(d.shape(2, 4, empty=False))
    batch = int(d.rng.integers(0, x.ndim - 1)) if d.opset >= 12 and d.chance(0.5) else 0
    depth = int(d.rng.integers(1, x.ndim - batch + 1))
    lead = (*x.shape[:batch], int(d.rng.integers(1, 4)))
    return [x, _tuples(d, x.shape[batch : batch + depth], lead)], {"batch_dims": batch} if batch else {}


def _reduction(d: Draw, x: np.ndarray) -> dict[str, Any]:
    least = {"add": 16, "mul": 16, "max": 18, "min": 18}
    chosen = d.one("none", *(name for name, opset in least.items() if d.opset >= opset and x.dtype.kind in "fiu"))
    return {"reduction": chosen} if chosen != "none" or d.opset >= 16 and d.chance(0.5) else {}


@recipe("ScatterND", bound="sum")
def _scatter_nd(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = no_nan(d.data(d.shape(1, 3, empty=False), tame=True))
    attrs = _reduction(d, x)
    depth = int(d.rng.integers(1, x.ndim + 1))
    count = int(d.rng.integers(1, int(np.prod(x.shape[:depth])) + 1))
    indices = _tuples(d, x.shape[:depth], (count,), once=attrs.get("reduction", "none") == "none")
    return [x, indices, no_nan(d.data((count, *x.shape[depth:]), tame=True))], attrs


@recipe("ScatterElements", "Scatter", bound="sum")
def _scatter_elements(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = no_nan(d.data(d.shape(1, 3, empty=False), tame=True))
    attrs = _reduction(d, x) if d.op == "ScatterElements" else {}
    axis = int(d.rng.integers(0, x.ndim))
    shape = [int(d.rng.integers(1, size + 1)) for size in x.shape]
    picked = np.argsort(d.rng.random([*shape[:axis], x.shape[axis], *shape[axis + 1 :]]), axis)
    dtype = helper.tensor_dtype_to_np_dtype(d.types["Tind"])
    indices = np.take(picked, range(shape[axis]), axis).astype(dtype)  # no place twice
    return [x, indices, no_nan(d.data(shape, tame=True))], attrs | ({"axis": axis} if axis or d.chance(0.5) else {})


@recipe("TopK")
def _top_k(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    d.wanted = 2
    x = no_nan(d.data(d.shape(1, 3, empty=False)))
    x = np.where(x == 0, np.abs(x), x)  # the order of 0 and -0 is open
    axis = int(d.rng.integers(0, x.ndim))
    k = int(d.rng.integers(1, x.shape[axis] + 1))
    attrs = {"axis": axis, "largest": int(d.chance(0.6))}
    return ([x], attrs | {"k": k}) if d.opset < 10 else ([x, i64([k])], attrs)


@recipe("OneHot")
def _one_hot(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.types |= {"T1": TensorProto.INT64, "T2": TensorProto.INT64}
    d.known |= {1}
    shape, depth = d.shape(1, 3), int(d.rng.integers(1, 5))
    indices = d.rng.integers(-depth - 2, depth + 2, shape).astype(np.int64)
    d.types["T3"] = d.one(TensorProto.FLOAT, TensorProto.INT64)
    return [np.asarray(indices), i64([depth]), d.data((2,), "T3")], {"axis": int(d.rng.integers(-1, len(shape) + 1))}


@recipe("Hardmax")
def _hardmax(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.types["T"] = TensorProto.FLOAT
    x = no_nan(d.data(d.shape(2, 3, empty=False)))
    return [x], {"axis": int(d.rng.integers(0, x.ndim))} if d.chance(0.7) else {}


@recipe("EyeLike")
def _eye_like(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.types["T1"] = d.one(TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64)
    d.types["T2"] = d.types["T1"]
    return [d.data(d.shape(2, 2, empty=False), "T1")], {"k": int(d.rng.integers(-3, 4))} if d.chance(0.5) else {}


@recipe("NonZero")
def _non_zero(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {0}
    d.types["T"] = d.one(TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64)
    return [
        np.abs(d.data(d.shape(1, 3), tame=True)) > 1 if d.types["T"] == TensorProto.BOOL else d.data(d.shape(1, 3))
    ], {}


@recipe("Compress")
def _compress(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    x = d.data(d.shape(1, 3, empty=False))
    axis = int(d.rng.integers(0, x.ndim)) if d.chance(0.6) else None
    size = x.size if axis is None else x.shape[axis]
    return [x, d.rng.random(size) < 0.5], {} if axis is None else {"axis": axis}


@recipe("GridSample", bound="scaled")
def _grid_sample(d: Draw) -> tuple[Operands, dict[str, Any]]:
    """Places are eighths, so that each oracle finds the same elements."""
    batch, channels, height, width, rows, columns = (int(d.one(1, 2, 3, 5)) for _ in range(6))
    image = no_nan(d.data((batch, channels, height, width), "T1", tame=True))
    grid = d.rng.integers(-20, 21, (batch, rows, columns, 2)) / 8
    old = d.opset < 20
    mode = d.one(*["bilinear" if old else "linear", "nearest"] * 3, "bicubic" if old else "cubic")
    if not old and d.chance(0.1):
        image, grid = image[..., None], np.zeros((batch, rows, columns, 1, 3))
    attrs = {"mode": mode, "padding_mode": d.one("zeros", "border", "reflection"), "align_corners": int(d.chance(0.5))}
    return [image, grid.astype(helper.tensor_dtype_to_np_dtype(d.types["T2"]))], attrs
