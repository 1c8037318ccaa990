"""Operands and attributes of ONNX ops that move elements, make tensors or resize images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.frontend.onnx.recipes import Draw, Operands, i64, recipe


@recipe("Shape", "Size", "Flatten", "Transpose")
def _whole(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = d.data(d.shape())
    attrs: dict[str, Any] = {}
    if d.op == "Shape" and d.opset >= 15:
        attrs = {name: int(d.rng.integers(-5, 6)) for name in ("start", "end") if d.chance(0.5)}
    if d.op == "Flatten" and d.chance(0.8):
        attrs = {"axis": int(d.rng.integers(-x.ndim, x.ndim + 1))}
    if d.op == "Transpose" and d.chance(0.7):
        attrs = {"perm": [int(axis) for axis in d.rng.permutation(x.ndim)]} if x.ndim else {}
    return [x], attrs


@recipe("Constant")
def _constant(d: Draw) -> tuple[Operands, dict[str, Any]]:
    names = ["value"] + (["value_float", "value_floats", "value_int", "value_ints"] if d.opset >= 12 else [])
    name = d.one(*names)
    if name == "value":
        return [], {name: d.data(d.shape())}
    d.types["T"] = TensorProto.FLOAT if "float" in name else TensorProto.INT64
    values = d.data(d.shape(1, 1, empty=False) if name.endswith("s") else ()).tolist()
    return [], {name: values}


@recipe("ConstantOfShape")
def _constant_of_shape(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {0}
    given = d.chance(0.8)
    if not given:
        d.types["T2"] = TensorProto.FLOAT
    return [i64(d.shape())], {"value": d.data((1,), "T2")} if given else {}


@recipe("Range")
def _range(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {0, 1, 2}
    dtype = helper.tensor_dtype_to_np_dtype(d.types["T"])
    start, stop, step = (int(v) for v in d.rng.integers(-9, 10, 3))
    values = [start, stop, step or 2]
    if np.dtype(dtype).kind == "f":
        values = [v / d.one(1, 4, 10) for v in values]
    return [np.array(v).astype(dtype) for v in values], {}


@recipe("Reshape")
def _reshape(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    x = d.data(d.shape())
    sizes = list(x.shape)
    if 0 in sizes:  # a size of 0 copies
        return [x, i64(sizes)], {}
    if len(sizes) > 1 and d.chance(0.5):
        sizes = [sizes[0] * sizes[1], *sizes[2:]]
    if d.chance(0.3):
        sizes.append(1)
    attrs: dict[str, Any] = {}
    if d.opset >= 14 and d.chance(0.3):
        attrs["allowzero"] = 1
    elif sizes and x.ndim and d.chance(0.3) and sizes[0] == x.shape[0]:
        sizes[0] = 0
    if sizes and d.chance(0.4):
        sizes[int(d.rng.integers(len(sizes)))] = -1
    return [x, i64(sizes)], attrs


def _axes_operand(d: Draw, x: np.ndarray, axes: list[int] | None) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    if d.opset >= 13:
        return [x, None if axes is None else i64(axes)], {}
    return [x], {} if axes is None else {"axes": axes}


@recipe("Squeeze")
def _squeeze(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = d.data([1 if d.chance(0.5) else size for size in d.shape()])
    ones = [axis - x.ndim if d.chance(0.3) else axis for axis, size in enumerate(x.shape) if size == 1]
    return _axes_operand(d, x, ones[: int(d.rng.integers(len(ones) + 1))] or None)


@recipe("Unsqueeze")
def _unsqueeze(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x, more = d.data(d.shape(0, 3)), int(d.rng.integers(1, 3))
    total = x.ndim + more
    axes = [int(axis - total if d.chance(0.3) else axis) for axis in d.rng.permutation(total)[:more]]
    return _axes_operand(d, x, axes)


@recipe("Slice")
def _slice(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1, 2, 3, 4}
    x = d.data(d.shape(1, 4))
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(d.types.get("Tind", TensorProto.INT64)))
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    bounds = [0, 1, 2, 5, 6, -1, -2, -5, -6, -7, low, low + 1, high, high - 1, -(2**31), 1 - 2**31, 2**31 - 1]
    axes = d.axes(x.ndim) if d.chance(0.7) else list(range(int(d.rng.integers(0, x.ndim + 1))))
    axes = [axis % x.ndim for axis in axes] or [0] if d.opset < 10 else axes
    given = d.chance(0.8) or axes != list(range(len(axes)))
    starts, ends = ([d.one(*bounds) for _ in axes] for _ in range(2))
    if d.opset < 10:
        return [x], {"starts": starts, "ends": ends, **({"axes": axes} if given else {})}
    steps = [d.one(1, 1, 2, 3, -1, -2, high, low + 1) for _ in axes] if d.chance(0.7) else None
    listed = [starts, ends, axes if given else None, steps]
    return [x, *(None if v is None else np.array(v, dtype) for v in listed)], {}


@recipe("Split")
def _split(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    x = d.data(d.shape(1, 4, empty=False))
    axis = d.axis(x.ndim)
    size, attrs = x.shape[axis], {"axis": axis} if axis or d.chance(0.5) else {}
    cuts = sorted(int(c) for c in d.rng.integers(0, size + 1, int(d.rng.integers(0, 3))))
    parts = [b - a for a, b in zip([0, *cuts], [*cuts, size])]
    if d.chance(0.3):
        d.wanted = d.one(
            *(n for n in range(1, size + 1) if size % n == 0 or d.opset >= 18 and -(-size // n) * (n - 1) < size)
        )
        return [x], attrs | ({"num_outputs": d.wanted} if d.opset >= 18 else {})
    d.wanted = len(parts)
    return ([x, i64(parts)], attrs) if d.opset >= 13 else ([x], attrs | {"split": parts})


@recipe("Concat")
def _concat(d: Draw) -> tuple[Operands, dict[str, Any]]:
    shape = d.shape(1, 4)
    axis = d.axis(len(shape))
    parts = []
    for _ in range(int(d.rng.integers(1, 4))):
        own = list(shape)
        own[axis] = int(d.rng.integers(0, 4))
        parts.append(d.data(own))
    return parts, {"axis": axis}


@recipe("Pad")
def _pad(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1, 2, 3}
    x = d.data(d.shape(1, 4, empty=False))
    d.types["Tind"] = TensorProto.INT64  # ONNX Runtime has no axes of int32
    mode = d.one("constant", "constant", "reflect", "edge", *(["wrap"] if d.opset >= 19 else []))
    axes = d.axes(x.ndim) if d.opset >= 18 and d.chance(0.4) else None
    sizes = [x.shape[axis] for axis in (range(x.ndim) if axes is None else axes)]
    most = [size - 1 if mode == "reflect" else size for size in sizes]
    crops = mode == "constant" and x.dtype.kind == "f"  # onnx's evaluator cannot crop, ONNX Runtime pads few types
    least = [0 if d.chance(0.8) or not crops else -((size - 1) // 2) for size in sizes]
    pads = [int(d.rng.integers(a, b + 1)) for a, b in zip(least * 2, most * 2)]
    value = d.data(()) if d.chance(0.6) and mode == "constant" else None
    if d.opset < 11:
        return [x], {"mode": mode, "pads": pads, **({} if value is None else {"value": float(value)})}
    return [x, i64(pads), value, None if axes is None else i64(axes)], {"mode": mode}


@recipe("Trilu")
def _trilu(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    k = np.array(d.one(0, 1, -1, 2, -7, 9, 2**62, -(2**62)), np.int64) if d.chance(0.7) else None
    return [d.data(d.shape(2, 4)), k], {}


@recipe("Expand")
def _expand(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    whole = d.shape()
    own = [1 if d.chance(0.4) else size for size in whole[int(d.rng.integers(len(whole) + 1)) :]]
    target = [1 if d.chance(0.2) else size for size in whole[int(d.rng.integers(len(whole) + 1)) :]]
    return [d.data(own), i64(target)], {}


@recipe("Tile")
def _tile(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    x = d.data(d.shape())
    return [x, i64(d.one(0, 1, 1, 2, 3) for _ in x.shape)], {}


def _indices(d: Draw, shape: Sequence[int], size: int) -> np.ndarray:
    dtype = helper.tensor_dtype_to_np_dtype(d.types["Tind"])
    return d.rng.integers(-size, size, shape).astype(dtype) if size else np.zeros([0, *shape[1:]], dtype)


@recipe("Gather")
def _gather(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = d.data(d.shape(1, 4, empty=False))
    axis = d.axis(x.ndim)
    return [x, _indices(d, d.shape(0, 2), x.shape[axis])], {"axis": axis} if axis or d.chance(0.5) else {}


@recipe("GatherElements")
def _gather_elements(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = d.data(d.shape(1, 4, empty=False))
    axis = d.axis(x.ndim)
    shape = [int(d.rng.integers(1, size + 1)) for size in x.shape]
    shape[axis] = int(d.rng.integers(0, 5))
    return [x, _indices(d, shape, x.shape[axis])], {"axis": axis} if axis or d.chance(0.5) else {}


@recipe("DepthToSpace", "SpaceToDepth")
def _blocks(d: Draw) -> tuple[Operands, dict[str, Any]]:
    batch, channels, height, width, b = (int(d.one(1, 2, 3)) for _ in range(5))
    has_mode = d.op == "DepthToSpace" or d.opset >= 28
    attrs = {"blocksize": b, **({"mode": d.one("DCR", "CRD")} if has_mode and d.chance(0.7) else {})}
    if d.op == "DepthToSpace":
        return [d.data((batch, channels * b * b, height, width))], attrs
    return [d.data((batch, channels, height * b, width * b))], attrs


@recipe("Resize", "Upsample", bound="scaled")
def _resize(d: Draw) -> tuple[Operands, dict[str, Any]]:
    spatial = d.shape(1, 3, empty=False)
    x = d.data((1, 2, *spatial), "T1" if "T1" in d.types else "T", tame=True)
    mode = d.one("nearest", "nearest", "linear", "linear", "cubic")
    coordinates = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    coordinates += ["half_pixel_symmetric"] if d.opset >= 19 else []
    attrs: dict[str, Any] = {"mode": mode}
    if d.chance(0.8):
        attrs["coordinate_transformation_mode"] = d.one(*coordinates)
    if mode == "nearest" and d.chance(0.8):
        attrs["nearest_mode"] = d.one("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    if mode != "nearest" and d.chance(0.15):
        attrs["exclude_outside"] = 1
    if mode != "nearest" and d.opset >= 18 and d.chance(0.15):
        attrs["antialias"] = 1
    d.known |= {1, 2, 3}
    lead = (1, 1)
    if d.op == "Upsample" or d.opset < 11:
        d.known |= {1}
        factors = [1.0, 1.0, *(d.one(1.0, 2.0, 3.0, 1.5, 2.6) for _ in spatial[:2])]
        x = d.data((1, 2, *(spatial * 2)[:2]), tame=True) if len(spatial) != 2 else d.data((1, 2, *spatial), tame=True)
        attrs = {"mode": d.one("nearest", "linear")}
        factors = (factors + [2.0])[: x.ndim]
        if d.opset < 9:
            return [x], attrs | {"scales": factors}
        return [x, np.array(factors, np.float32)], attrs
    if d.opset >= 18 and d.chance(0.3):
        attrs["axes"], lead = list(range(2, x.ndim)), ()
    absent = np.zeros(0, np.float32) if d.opset < 13 else None
    roi = None if absent is None else d.values((0,), helper.tensor_dtype_to_np_dtype(d.types["T2"]))
    if d.chance(0.4):
        sizes = [int(d.rng.integers(1, 12)) for _ in spatial]
        return [x, roi, absent, i64([*(x.shape[:2] if lead else ()), *sizes])], attrs
    factors = [d.one(1.0, 2.0, 3.0, 0.5, 1.1, 1.25, 0.7, 1.7, 2.6, 0.34, 7.3) for _ in spatial]
    scaled = [int(np.float32(size) * np.float32(f)) for size, f in zip(spatial, factors)]
    copied = scaled == list(spatial) and set(factors) != {1.0}  # ONNX Runtime does not interpolate then
    if 0 in scaled or copied or len(spatial) == 3:  # which ONNX Runtime leaves to the evaluator, which rounds otherwise
        factors = [1.5, 2.0, 2.0][: len(spatial)]
    return [x, roi, np.array([*lead, *factors], np.float32), None], attrs
