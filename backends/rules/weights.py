"""Packs weights and biases of conv, conv_transpose and linear.

Constants are packed at the first link, others by copies at run time. The zero point of quantized weights is subtracted
first, which gives integers of up to nine bits. `byte_parts` splits these into summands of i8, and a product goes over
its taps once for each summand. That is exact, and costs nothing extra if the zero point is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qcompiler.artifact.mapped_file import forget_pages
from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.kernels.tile_math import Words, widens
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.packing import channel_order, pack_codes, pack_floats
from qcompiler.backends.lowering.views import TensorView, row_major_strides
from qcompiler.backends.target import Target
from qcompiler.fork_safety import cached_property
from qcompiler.ir import Const, Value
from qcompiler.ops.dynamic import DynamicQuantize
from qcompiler.ops.interfaces import Weighted
from qcompiler.types import DType

_PACK_BYTES = 128 << 10
"""Bytes of weights that are packed at a time, few enough to stay in L2."""


_BASE = np.empty(1, np.uint8)


def _geometry(tensor: TensorView) -> np.ndarray:
    """An array with the shape and strides of a tensor. It has no elements of its own and must never be read."""
    return np.lib.stride_tricks.as_strided(_BASE, tensor.shape, tensor.strides)


def _part_of(tensor: TensorView, array: np.ndarray) -> TensorView:
    """The part of a tensor that a view of its geometry selects."""
    offset = array.__array_interface__["data"][0] - _BASE.__array_interface__["data"][0]
    return tensor.moved(offset if array.size else 0, array.shape, array.strides)


def _split_first(array: np.ndarray, outer: int, inner: int) -> np.ndarray:
    """A view of the array with its first axis split into two."""
    shape, strides = (outer, inner, *array.shape[1:]), (array.strides[0] * inner, *array.strides)
    return np.lib.stride_tricks.as_strided(array, shape, strides)


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight or a bias whose axes may be rearranged.

    Attributes:
        array: the data of a constant, otherwise the geometry of `memory`.
        memory: where the values will lie if they are not constant.
        role: unique within the node for each arrangement that is packed.
    """

    array: np.ndarray
    memory: TensorView | None = None
    role: str = ""

    @staticmethod
    def of(s: NodeLowering, value: Value) -> Weight:
        """The weight or bias of an operand. The zero point of quantized weights is subtracted."""
        if not isinstance(value, Const):
            memory = s.row_major(value)
            return Weight(_geometry(memory), memory, value.name)
        quant, data = value.type.quant, s.constant(value)
        if quant is None or data.dtype == np.int32 or (data.dtype == np.int8 and not any(quant.zero_point)):
            return Weight(data, None, value.name)
        return Weight((data.astype(np.int16) - quant.along(data.ndim)[1]).astype(np.int16), None, value.name)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def taken(self, role: object, take: Callable[[np.ndarray], np.ndarray]) -> Weight:
        """The weight after `take`, which may rearrange or copy. role: is appended to this weight's role."""
        return Weight(take(self.array), self.memory, f"{self.role}.{role}")

    def packed(self, s: NodeLowering, lanes: int) -> Memory:
        """Pack f32 [channels, *rest] to [ceil(channels / lanes)][*rest][lanes]; missing lanes hold any value."""
        channels, *rest = self.shape
        panels = -(-channels // lanes)
        if self.memory is None:
            return s.filled(f"{self.role} by {lanes}", (panels, math.prod(rest), lanes), np.float32, self._pack_floats)
        shape = (panels, *rest, lanes)
        y = TensorView(
            s.scratch(math.prod(shape) * 4, f"{self.role}.packed"),
            np.dtype(np.float32),
            shape,
            row_major_strides(shape, 4),
        )
        target, whole = np.moveaxis(_geometry(y), -1, 1), channels // lanes
        for part, into in (
            (_split_first(self.array[: whole * lanes], whole, lanes), target[:whole]),
            (self.array[whole * lanes :], target[panels - 1, : channels - whole * lanes]),
        ):
            s.copy(_part_of(self.memory, part), _part_of(y, into))
        return y

    def _pack_floats(self, into: np.ndarray) -> None:
        pack_floats(into, self.array.reshape(len(self.array), -1))
        forget_pages(self.array)


def byte_parts(weights: np.ndarray, count: int = 1) -> list[np.ndarray]:
    """Arrays of i8 whose sum is `weights`; at least `count` of them."""
    if weights.dtype == np.int8:
        return [weights]
    parts: list[np.ndarray] = []
    while len(parts) < count or weights.any():
        parts.append(np.clip(weights, -128, 127).astype(np.int8))
        weights = weights - parts[-1]
    return parts


@dataclass(frozen=True, eq=False)
class BytePacking:
    """How the i8 weights of a product are packed; the format is described in `kernels.conv`.

    Attributes:
        target: the target to pack for.
        weight: [channels, taps, elements], where taps and elements may be any number of axes.
        nv: registers of channels in a panel.
        taps: taps of the window.
        kc: elements of a tap, padded to a multiple of the target's `dot_depth`.
        parts: how many summands each weight has, see `byte_parts`.
        pairs: whether products may be added in pairs, see `Target.pairwise_dot_is_exact`.
        in_order: whether packed channels lie in order, which results that are not packed to bytes need.
        narrow: whether weights are i8 even where products are of words, see `tile_math.Words`.
    """

    target: Target
    weight: Weight
    nv: int
    taps: int
    kc: int
    parts: int
    pairs: bool
    in_order: bool
    narrow: bool

    @staticmethod
    def of(s: NodeLowering, op: Weighted, weight: Weight, nv: int, taps: int, kc: int, narrow: bool) -> BytePacking:
        """The packing of a product's weights. kc: elements of a tap of x."""
        target, array, role = s.target, weight.array, weight.role
        kc = -(-kc // target.dot_depth) * target.dot_depth
        parts = 1
        if array.dtype != np.int8:
            parts = s.memo(f"{role}.parts", lambda: np.array([len(byte_parts(array))])).item()
        highest = _highest_code(s, op)

        def pairwise_is_exact() -> np.ndarray:
            summands = byte_parts(_by_taps(array, taps, kc), parts)
            return np.array(all(target.pairwise_dot_is_exact(part, highest) for part in summands))

        pairs = bool(target.has_pairwise_dot and array.size and s.memo(f"{role}.pairs {kc}", pairwise_is_exact).item())
        return BytePacking(target, weight, nv, taps, kc, parts, pairs, s.out.dtype is not DType.U8, narrow)

    @property
    def is_wide(self) -> bool:
        """Whether the product is one of words."""
        return widens(self.target, self.pairs)

    @property
    def is_narrow(self) -> bool:
        """Whether the product is one of words, whose weights are i8 nevertheless."""
        return self.is_wide and self.narrow

    @property
    def weight_bytes(self) -> int:
        """Bytes of a packed weight."""
        return 2 if self.is_wide and not self.narrow else 1

    @cached_property
    def order(self) -> np.ndarray:
        """The index within its panel of each packed channel."""
        return np.arange(self.nv * self.target.i32_lanes) if self.in_order else channel_order(self.target, self.nv)

    @property
    def panels(self) -> int:
        return -(-len(self.weight.array) // len(self.order))

    @property
    def shape(self) -> tuple[int, ...]:
        depth = Words.depth if self.is_wide else self.target.dot_depth
        return self.panels, self.taps * self.kc * self.parts // depth, len(self.order), depth

    def constant(self, s: NodeLowering) -> Memory:
        """The packed weights as a constant of the program."""
        order = " in order" if self.in_order else ""
        narrow = " narrow" if self.is_narrow else ""
        role = f"{self.weight.role} {self.nv} {self.taps} {self.kc} {self.is_wide}{narrow}{order}"
        return s.filled(role, self.shape, f"i{self.weight_bytes}", self.fill)

    def fill(self, into: np.ndarray) -> None:
        """Pack the weights, a few panels at a time."""
        panels, _, nr, _ = into.shape
        at_once = max(1, _PACK_BYTES // max(1, nr * self.taps * self.kc))
        for panel in range(0, panels if self.taps else 0, at_once):
            rows = self.weight.array[panel * nr : (panel + at_once) * nr]
            summands = byte_parts(_by_taps(rows, self.taps, self.kc), self.parts)
            codes = np.concatenate(summands, axis=1) if self.parts > 1 else summands[0]
            part = into[panel : panel + at_once]
            packed = part if part.dtype == np.int8 else np.empty(part.shape, np.int8)
            pack_codes(packed, codes, self.order)
            if packed is not part:
                part[...] = packed


def _highest_code(s: NodeLowering, op: Weighted) -> int:
    """The highest code that x can hold."""
    quantize = DynamicQuantize.of(op.x.producer)
    if quantize is not None:
        return quantize.qmax
    inputs = s.node.graph.inputs if s.node.graph is not None else ()
    given = any(value.type.is_quantized for value in inputs)  # a caller's codes may lie beyond qmax
    return 255 if given or op.x.type.quant is None or op.x.type.dtype is not DType.U8 else op.x.type.quant.qmax


def _by_taps(weights: np.ndarray, taps: int, kc: int) -> np.ndarray:
    """Reshape [O, *rest] to [O, taps * kc]; each tap's elements are followed by zeros."""
    weights = weights.reshape(len(weights), taps, -1)
    if kc != weights.shape[2]:
        weights = np.pad(weights, ((0, 0), (0, 0), (0, kc - weights.shape[2])))
    return weights.reshape(len(weights), taps * kc)
