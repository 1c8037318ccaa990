"""The operands of an epilogue, which converts the sums of a weighted node, and the proof that it may clamp late."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.kernels.code_range import CodeRange
from qcompiler.backends.kernels.epilogue import Clamp, Dequantize, Requantize
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.rules.convert import code_range
from qcompiler.fork_safety import cached_property
from qcompiler.ops.interfaces import TakesResidual, Weighted
from qcompiler.quantization import qmath
from qcompiler.types import DType

_LARGEST_CODE = {np.dtype(np.int8): 128, np.dtype(np.int16): 255}
"""The largest magnitude of a weight minus its zero point: i8, or nine bits in i16."""
_LARGEST_PRODUCT = 2**30
"""The bound of |sum * M| that the proof uses. It is far below the range of i32."""


@dataclass(frozen=True, eq=False)
class SumTerms:
    """The numbers that convert the sums of some channels of a weighted node to results.

    Attributes:
        weights: the weights minus their zero point, [channels, ...].
        bias: i64 [channels].
        shift: what the products' sums contain of each weight: the zero point of x minus the target's `dot4_offset`. For
            words, which are multiplied as two planes of bytes, see `kernels.conv`, it is that of q + 32768 minus
            256 * dot4_offset + dot4_offset.
        multiplier: f32 [channels], M of rule (4), or of rule (6) if the result is real.
        residual_zero, residual_scale: see `Requantize` and `Dequantize`; 0 without a residual of codes.
    """

    weights: np.ndarray
    bias: np.ndarray
    shift: int
    multiplier: np.ndarray
    residual_zero: int
    residual_scale: float

    @cached_property
    def start(self) -> np.ndarray:
        """i32 [channels]: bias - shift * sum(weights). The weights are not read when shift is 0 (as after a ReLU)."""
        return (self.bias - self.shift * _sums(self.weights) if self.shift else self.bias).astype(np.int32)

    def dequantize(self, multiplier: Memory, clamp: Clamp[float]) -> Dequantize[Memory, float]:
        """The epilogue's arguments for a kernel with f32 results. multiplier: see `RequantizeTerms.requantize`."""
        return Dequantize(
            multiplier=multiplier,
            residual_zero=float(self.residual_zero),
            residual_scale=self.residual_scale,
            clamp=clamp,
        )


@dataclass(frozen=True, eq=False)
class RequantizeTerms(SumTerms):
    """The terms of results that are codes.

    Attributes:
        proven: whether every product of a sum and its multiplier provably fits i32.
        codes: the codes of the result.
    """

    proven: bool
    codes: CodeRange[int, float]

    @property
    def is_plain(self) -> bool:
        """Whether codes have the whole range of u8 and the zero point 0."""
        return (self.codes.zero, self.codes.low, self.codes.high) == (0, 0, 255)

    def requantize(self, multiplier: Memory) -> Requantize[Memory, int, float]:
        """The epilogue's arguments for a kernel whose results are codes.

        multiplier: where the multipliers lie, in the order of packed channels.
        """
        return Requantize(
            multiplier=multiplier,
            codes=self.codes,
            low_code=int(self.codes.low),
            high_code=int(self.codes.high),
            residual_zero=float(self.residual_zero),
            residual_scale=self.residual_scale,
        )


def sum_terms(s: NodeLowering, op: Weighted, weights: np.ndarray, bias: np.ndarray | None, channels: slice) -> SumTerms:
    """The terms of `channels` of the result.

    weights: the channels' weights minus their zero point, [channels, ...].
    """
    weight, over = op.weight.type.params, s.out.params.scales if s.out.is_quantized else 1.0
    multiplier = qmath.multiplier(op.x.type.params.scales, weight.scales, over=over)
    outputs = s.out.shape[op.channel_axis]
    assert isinstance(outputs, int)  # that of the weight, which is constant
    multiplier = np.broadcast_to(multiplier, (outputs,))[channels].astype(np.float32)
    first = np.zeros(len(weights), np.int64) if bias is None else bias.astype(np.int64)
    zero, offset = int(op.x.type.params.zero_point[0]), s.target.dot4_offset
    shift = zero - offset if op.x.type.dtype is DType.U8 else zero + 2**15 - 257 * offset
    residual_zero, residual_scale = 0, 0.0
    if isinstance(op, TakesResidual) and op.residual is not None and op.residual.type.is_quantized:
        residual = op.residual.type.params
        residual_zero = residual.zero_point[0]
        residual_scale = float(qmath.multiplier(residual.scales, over=over)[0])
    return SumTerms(weights, first, shift, multiplier, residual_zero, residual_scale)


def requantize_terms(
    s: NodeLowering, op: Weighted, weights: np.ndarray, bias: np.ndarray | None, channels: slice, role: str
) -> RequantizeTerms:
    """`sum_terms` of a node whose result is codes. role: unique within the node."""
    terms = sum_terms(s, op, weights, bias, channels)
    first, shift = terms.bias, terms.shift
    highest = 2**op.x.type.dtype.bits - 1
    farthest = 0 if op.added is None else 2**op.added.type.dtype.bits - 1  # of the residual from its zero point

    def stays(magnitudes: np.ndarray | int, start: np.ndarray) -> bool:
        """Whether f32(sum) * M stays far within i32. magnitudes: sums of |weight|; start: |first term|."""
        reach = (highest * magnitudes + start) * terms.multiplier.astype(np.float64) + farthest * terms.residual_scale
        return bool(reach.max(initial=0) < _LARGEST_PRODUCT)

    def exactly() -> np.ndarray:
        magnitudes = np.abs(weights.astype(np.int64)).sum(axis=tuple(range(1, weights.ndim)))
        return np.array([stays(magnitudes, np.abs(first - shift * _sums(weights)))])

    # Assume every weight has the largest magnitude: that bound needs no data and nearly always suffices.
    most = _LARGEST_CODE[weights.dtype] * (weights.size // max(1, len(weights)))
    proven = stays(most, np.abs(first) + abs(shift) * most) or s.memo(f"{role}.proven", exactly).item()
    return RequantizeTerms(**vars(terms), proven=proven, codes=code_range(s.out, op.activation))


def _sums(weights: np.ndarray) -> np.ndarray:
    """i64 [channels]: the sum of each channel's weights.

    Fewer than 2^22 weights of up to nine bits sum within i32, which is faster.
    """
    sums = np.int32 if weights.size < 2**22 else np.int64
    return weights.sum(axis=tuple(range(1, weights.ndim)), dtype=sums).astype(np.int64)
