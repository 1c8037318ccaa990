"""resize: nearest and linear interpolation over the spatial axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.errors import ShapeError
from qcompiler.opdef import (
    SHARES_INPUT,
    LayoutRule,
    Op,
    Sample,
    TypedArray,
    no_accumulator,
    operand,
    optional_floats_attr,
    optional_shape_attr,
    str_attr,
)
from qcompiler.ops.rescale import share_or_requantize
from qcompiler.ops.shape import sizes_of
from qcompiler.quantization import qmath
from qcompiler.types import TensorType, tensor

_COORDINATES = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
_ROUNDINGS = ("floor", "round_prefer_floor", "round_prefer_ceil", "ceil")


def source_positions(size: int, out: int, scale: float | None, coordinates: str, arithmetic: str) -> np.ndarray:
    """float32[out]: where each result pixel lies in the operand (ONNX Resize's coordinate transformation modes).

    Every operation rounds to f32, as in torch and ONNX Runtime: a fractional step decides by its last bits which pixel
    is the nearest. torch multiplies by the step between positions, ONNX Runtime divides by the scale.
    """
    index, half, whole = np.arange(out, dtype=np.float32), np.float32(0.5), np.float32(size - 1)
    if coordinates == "align_corners":
        if out == 1:
            return np.zeros(1, np.float32)
        last = np.float32(out - 1)
        return index * (whole / last) if arithmetic == "multiply" else index * whole / last
    if coordinates == "pytorch_half_pixel" and out == 1:
        return np.zeros(1, np.float32)
    if arithmetic == "multiply":
        step = np.float32(1 / scale) if scale is not None else np.float32(size) / np.float32(out)
        if coordinates == "asymmetric":
            return index * step
        return ((index + half).astype(np.float64) * step - half).astype(np.float32)  # torch's compilers fuse the two
    factor = np.float32(scale) if scale is not None else np.float32(out) / np.float32(size)
    return index / factor if coordinates == "asymmetric" else (index + half) / factor - half


def scaled_size(size: int, scale: float, arithmetic: str) -> int:
    """The size of a result: torch multiplies in double, ONNX Runtime in f32."""
    return math.floor(size * scale if arithmetic == "multiply" else np.float32(size) * np.float32(scale))


def nearest_indices(positions: np.ndarray, size: int, rounding: str) -> np.ndarray:
    """i64: the element that each position rounds to, within the operand."""
    functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda p: np.ceil(p - np.float32(0.5)),
        "round_prefer_ceil": lambda p: np.floor(p + np.float32(0.5)),
    }
    return np.clip(functions[rounding](positions), 0, size - 1).astype(np.int64)


def linear_weights(positions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(left index, right index, f32 weight of the right one) of each position."""
    clipped = np.clip(positions, np.float32(0), np.float32(size - 1))
    left = np.floor(clipped).astype(np.int64)
    return left, np.minimum(left + 1, size - 1), (clipped - left).astype(np.float32)


class Resize(Op):
    """Interpolation to a size, or by scales. torch interpolate; ONNX Resize."""

    name = "resize"
    quant = SHARES_INPUT
    layout = LayoutRule.CHANNELS_LAST
    chooses_params = True
    element_cost = (0.014, 0.054)
    terms = no_accumulator
    x = operand()
    size = optional_shape_attr(doc="sizes of the spatial axes: ints or Dim text")
    scales = optional_floats_attr()
    mode = str_attr(default="nearest", choices=("nearest", "bilinear"))
    coordinates = str_attr(default="asymmetric", choices=_COORDINATES)
    rounding = str_attr(default="floor", choices=_ROUNDINGS)
    arithmetic = str_attr(default="divide", choices=("divide", "multiply"))

    def infer(self, x: TensorType) -> TensorType:
        size, scales, spatial = self.size, self.scales, x.rank - 2
        if x.rank < 3 or (size is None) == (scales is None) or len(size or scales or ()) != spatial:
            raise ShapeError(
                "resize",
                expected=f"size or scales with {spatial} entries for [N,C,*spatial]",
                got=f"{size}, {scales}, {x}",
            )
        if scales is None:
            return TensorType(x.dtype, (*x.shape[:2], *sizes_of(size or ())))
        if not all(0 < f < math.inf for f in scales):
            raise ShapeError("scales of resize", expected="finite numbers above 0", got=str(scales))
        if any(isinstance(s, Dim) and f != int(f) for s, f in zip(x.shape[2:], scales)):
            raise ShapeError("scales of a symbolic size", expected="whole numbers", got=str(scales))
        scaled: list[DimLike] = [
            s * int(f) if isinstance(s, Dim) else scaled_size(s, f, self.arithmetic)
            for s, f in zip(x.shape[2:], scales)
        ]
        return TensorType(x.dtype, (*x.shape[:2], *scaled))

    def reference(self, x: np.ndarray) -> np.ndarray:
        """Axis after axis, the first spatial one first. Linear: left * (1 - w) + right * w, two products and a sum."""
        scales = self.scales
        scaled = [scaled_size(s, f, self.arithmetic) for s, f in zip(x.shape[2:], scales or ())]
        outputs = [size for size in self.size if isinstance(size, int)] if self.size else scaled
        for axis, out in enumerate(outputs):
            length = x.shape[axis + 2]
            positions = self.positions(axis, length, out)
            if self.mode == "nearest":
                x = np.take(x, nearest_indices(positions, length, self.rounding), axis + 2)
                continue
            left, right, weight = linear_weights(positions, length)
            weight = weight.reshape([-1 if i == axis + 2 else 1 for i in range(x.ndim)])
            x = np.take(x, left, axis + 2) * (np.float32(1) - weight) + np.take(x, right, axis + 2) * weight
        return x

    def positions(self, axis: int, size: int, out: int) -> np.ndarray:
        """Where the pixels of a spatial axis lie in the operand."""
        scale = None if self.scales is None else self.scales[axis]
        if self.arithmetic == "multiply" and self.mode != "nearest" and out == size:
            return np.arange(out, dtype=np.float32)  # torch interpolates only if the size changes
        return source_positions(size, out, scale, self.coordinates, self.arithmetic)

    def integer(self, x: TypedArray, *, out: TensorType) -> np.ndarray:
        if self.mode == "nearest":
            return share_or_requantize(self.reference(x.array), x.type, out)
        real = self.reference(x.centered().astype(np.float32))
        return qmath.requantize(real * qmath.multiplier(x.scales, over=out.params.scales), out)

    def is_identity(self) -> bool:
        return self.mode == "nearest" and all(scale == 1.0 for scale in self.scales or ())

    @staticmethod
    def samples() -> Sequence[Sample]:
        return [
            Sample((tensor("f32", 1, 2, 4, 4),), {"size": (8, 8)}),
            Sample((tensor("f32", 1, 2, 4, 5),), {"scales": (2.0, 2.0)}),
            Sample((tensor("f32", 1, 3, 4, 4),), {"size": (7, 9), "mode": "bilinear", "coordinates": "half_pixel"}),
            Sample((tensor("f32", 2, 1, 5),), {"size": (9,), "mode": "bilinear", "coordinates": "align_corners"}),
            Sample(
                (tensor("f32", 1, 1, 3, 3),),
                {"size": (2, 2), "coordinates": "half_pixel", "rounding": "round_prefer_floor"},
            ),
        ]
