"""The epilogue of nodes with quantized weights: what it needs besides the accumulator, and whether it may take the
short way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.rules.convert import bounds, zero_point
from qcompiler.quantization import qmath

_LARGEST_CODE = {np.dtype(np.int8): 128, np.dtype(np.int16): 255}
"""Of a weight less its zero point, which is i8 itself or i16 of nine bits."""


@dataclass(frozen=True, eq=False)
class RequantizeTerms:
    """What the epilogue of a weighted node needs.

    Attributes:
        codes: the weights less the zero point, [channels, ...].
        bias: i64 [channels].
        shift: the zero point of x less the target's `dot4_offset`.
        multiplier: f32 [channels], M of rule (4).
        proven: no product leaves i32 on its way through f32.
        arguments: what is the same for all channels.
    """

    codes: np.ndarray
    bias: np.ndarray
    shift: int
    multiplier: np.ndarray
    proven: bool
    arguments: Mapping[str, float]

    @property
    def is_plain(self) -> bool:
        """Whether codes have all of a byte's range and no zero point."""
        return (self.arguments["zero"], self.arguments["low_code"], self.arguments["high_code"]) == (0, 0, 255)

    @cached_property
    def start(self) -> np.ndarray:
        """i32 [channels], the bias less `shift` times the sum of the weights, which are not read where it is 0: behind
        a ReLU."""
        return (self.bias - self.shift * _sums(self.codes) if self.shift else self.bias).astype(np.int32)


def requantize_terms(
    s: NodeLowering, codes: np.ndarray, bias: np.ndarray | None, channels: slice, role: str
) -> RequantizeTerms:
    """For `channels` of the result. codes: their weights [channels, ...], less the zero point; role: unique within the
    node."""
    x, w = s.type(0).quant, s.type(1).quant
    multiplier, outputs = (
        qmath.multiplier(x.scales, w.scales, over=s.out.quant.scales),
        s.out.shape[-1 if s.node.op == "linear" else 1],
    )
    if w.axis is not None:  # conv_transpose: the scales of one group serve all
        multiplier = np.tile(multiplier, outputs // len(multiplier))
    multiplier = np.broadcast_to(multiplier, (outputs,))[channels].astype(np.float32)
    first = np.zeros(len(codes), np.int64) if bias is None else bias.astype(np.int64)
    shift = int(x.zero_point[0]) - s.target.dot4_offset
    other_zero, other_scale = 0, 0.0
    if s.has(3):
        other = s.type(3).quant
        other_zero = other.zero_point[0]
        other_scale = float(qmath.multiplier(other.scales, over=s.out.quant.scales)[0])

    def stays(magnitudes: np.ndarray | int, start: np.ndarray) -> bool:
        """Whether f32(accumulator) times M stays in i32, with much room. magnitudes: sums of |weight|; start: |first
        term|."""
        reach = (255 * magnitudes + start) * multiplier.astype(np.float64) + 255 * other_scale
        return bool(reach.max(initial=0) < 2**30)

    def exactly() -> np.ndarray:
        magnitudes = np.abs(codes.astype(np.int64)).sum(axis=tuple(range(1, codes.ndim)))
        return np.array([stays(magnitudes, np.abs(first - shift * _sums(codes)))])

    # The largest weights that codes can be give a bound without reading them; hardly a model needs the exact one.
    most = _LARGEST_CODE[codes.dtype] * (codes.size // max(1, len(codes)))
    proven = stays(most, np.abs(first) + abs(shift) * most) or s.memo(f"{role}.proven", exactly).item()
    limits = bounds(s.out, s.attrs["activation"])
    arguments = {
        "zero": zero_point(s.out),
        "low_code": int(limits["low"]),
        "high_code": int(limits["high"]),
        "other_zero": float(other_zero),
        "other_scale": other_scale,
        **limits,
    }
    return RequantizeTerms(codes, first, shift, multiplier, proven, arguments)


def _sums(codes: np.ndarray) -> np.ndarray:
    """i64 [channels]: the sum of all weights of a channel. i32 is wide enough for what has up to nine bits, and faster."""
    kind = np.int32 if codes.size < 2**22 else np.int64
    return codes.sum(axis=tuple(range(1, codes.ndim)), dtype=kind).astype(np.int64)
