"""resize: nearest and linear interpolation over the spatial axes."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.dims import Dim
from qcompiler.errors import ShapeError
from qcompiler.opdef import AttrSpec, OperandSpec, QuantKind, QuantRule, Sample
from qcompiler.ops.legacy import legacy_op as OpDef
from qcompiler.ops.legacy import register
from qcompiler.ops.rescale import share_or_requantize
from qcompiler.quantization import qmath
from qcompiler.types import TensorType, tensor

_COORDINATES = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
_ROUNDINGS = ("floor", "round_prefer_floor", "round_prefer_ceil", "ceil")


def _infer_resize(x: TensorType, size, scales, mode, coordinates, rounding) -> TensorType:
    spatial = x.rank - 2
    if x.rank < 3 or (size is None) == (scales is None) or len(size or scales) != spatial:
        raise ShapeError(
            "resize", expected=f"size or scales with {spatial} entries for [N,C,*spatial]", got=f"{size}, {scales}, {x}"
        )
    if size is None:
        if any(isinstance(s, Dim) and f != int(f) for s, f in zip(x.shape[2:], scales)):
            raise ShapeError("scales of a symbolic size", expected="whole numbers", got=str(scales))
        size = tuple(s * int(f) if isinstance(s, Dim) else math.floor(s * f) for s, f in zip(x.shape[2:], scales))
    return TensorType(x.dtype, (*x.shape[:2], *size))


def source_positions(size: int, out: int, scale: float | None, coordinates: str) -> np.ndarray:
    """float64[out]: where each result pixel lies in the operand (ONNX Resize's coordinate transformation modes)."""
    index = np.arange(out, dtype=np.float64)
    factor = scale if scale is not None else out / size
    if coordinates == "align_corners":
        return index * ((size - 1) / (out - 1)) if out > 1 else np.zeros(1)
    if coordinates == "asymmetric":
        return index / factor
    if coordinates == "pytorch_half_pixel" and out == 1:
        return np.zeros(1)
    return (index + 0.5) / factor - 0.5


def nearest_indices(positions: np.ndarray, size: int, rounding: str) -> np.ndarray:
    rounded = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda p: np.ceil(p - 0.5),
        "round_prefer_ceil": lambda p: np.floor(p + 0.5),
    }[rounding](positions)
    return np.clip(rounded, 0, size - 1).astype(np.int64)


def linear_weights(positions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(left index, right index, f32 weight of the right one)."""
    clipped = np.clip(positions, 0, size - 1)
    left = np.floor(clipped).astype(np.int64)
    return left, np.minimum(left + 1, size - 1), (clipped - left).astype(np.float32)


def _outputs(x: np.ndarray, size, scales) -> tuple[int, ...]:
    return tuple(size) if size is not None else tuple(math.floor(s * f) for s, f in zip(x.shape[2:], scales))


def _resize(x: np.ndarray, size, scales, mode: str, coordinates: str, rounding: str) -> np.ndarray:
    """Axis after axis, the first spatial one first; linear: left * (1 - w) + right * w, two products and one sum."""
    for axis, out in enumerate(_outputs(x, size, scales)):
        length = x.shape[axis + 2]
        positions = source_positions(length, out, None if scales is None else scales[axis], coordinates)
        if mode == "nearest":
            x = np.take(x, nearest_indices(positions, length, rounding), axis + 2)
            continue
        left, right, weight = linear_weights(positions, length)
        weight = weight.reshape([-1 if i == axis + 2 else 1 for i in range(x.ndim)])
        x = np.take(x, left, axis + 2) * (np.float32(1) - weight) + np.take(x, right, axis + 2) * weight
    return x


def _resize_integer(arrays, types, out: TensorType, *, mode: str, **attrs) -> np.ndarray:
    if mode == "nearest":
        return share_or_requantize(_resize(arrays[0], mode=mode, **attrs), types[0], out)
    real = _resize(qmath.centered(arrays[0], types[0].quant).astype(np.float32), mode=mode, **attrs)
    return qmath.requantize(real * qmath.multiplier(types[0].quant.scales, over=out.quant.scales), out)


register(
    OpDef(
        name="resize",
        doc="Interpolation to a size, or by scales. torch interpolate; ONNX Resize.",
        family="resize",
        operands=(OperandSpec("x"),),
        attrs=(
            AttrSpec("size", "ints", None),
            AttrSpec("scales", "floats", None),
            AttrSpec("mode", "str", "nearest", choices=("nearest", "bilinear")),
            AttrSpec("coordinates", "str", "asymmetric", choices=_COORDINATES),
            AttrSpec("rounding", "str", "floor", choices=_ROUNDINGS),
        ),
        infer=_infer_resize,
        reference=_resize,
        integer=_resize_integer,
        quant=QuantRule(QuantKind.SHARES_INPUT),
        samples=lambda: [
            Sample((tensor("f32", 1, 2, 4, 4),), {"size": (8, 8)}),
            Sample((tensor("f32", 1, 2, 4, 5),), {"scales": (2.0, 2.0)}),
            Sample((tensor("f32", 1, 3, 4, 4),), {"size": (7, 9), "mode": "bilinear", "coordinates": "half_pixel"}),
            Sample((tensor("f32", 2, 1, 5),), {"size": (9,), "mode": "bilinear", "coordinates": "align_corners"}),
            Sample(
                (tensor("f32", 1, 1, 3, 3),),
                {"size": (2, 2), "coordinates": "half_pixel", "rounding": "round_prefer_floor"},
            ),
        ],
    )
)
