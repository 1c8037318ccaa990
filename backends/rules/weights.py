"""Weights and biases of conv, conv_transpose and linear: packed when lowering if they are constant, else by copies at
run time.

Codes of weights are taken less their zero point, as whole numbers of up to nine bits. `byte_parts` writes them as sums
of i8: a product then goes over its taps once a part, which is exact and costs nothing where one part does (zero point
0).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qcompiler.artifact.mapped_file import forget_pages
from qcompiler.backends.kernels.conv import pack_floats
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.views import TensorView, row_major_strides
from qcompiler.backends.program.builder import BufferHandle, BufferRef
from qcompiler.backends.rules.movement import geometry, part_of, split_axis


@dataclass(frozen=True, eq=False)
class Weight:
    """An array whose axes may be rearranged: the data of a constant, or the geometry of where it will lie (`place`).

    role: unique within the node for each arrangement that is packed.
    """

    array: np.ndarray
    place: TensorView | None = None
    role: str = ""

    @staticmethod
    def of(s: NodeLowering, index: int) -> Weight | None:
        """An operand, None if absent. Codes of weights come less the zero point, those of biases as they are."""
        if not s.has(index):
            return None
        role = s.node.operands[index].name
        if not s.is_constant(index):
            place = s.row_major(index)
            return Weight(geometry(place), place, role)
        quant, data = s.type(index).quant, s.constant(index)
        if quant is None or data.dtype == np.int32 or (data.dtype == np.int8 and not any(quant.zero_point)):
            return Weight(data, None, role)
        return Weight((data.astype(np.int16) - quant.along(data.ndim)[1]).astype(np.int16), None, role)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def taken(self, role: object, take: Callable[[np.ndarray], np.ndarray]) -> Weight:
        """A view. role: names it, after this one's role."""
        return Weight(take(self.array), self.place, f"{self.role}.{role}")

    def packed(self, s: NodeLowering, lanes: int) -> BufferRef | BufferHandle:
        """f32 [channels, *rest] as [channels / lanes, rounded up][*rest][lanes]; in missing lanes lies anything."""
        channels, *rest = self.shape
        panels = -(-channels // lanes)
        if self.place is None:
            return s.filled(f"{self.role} by {lanes}", (panels, math.prod(rest), lanes), np.float32, self._pack_floats)
        shape = (panels, *rest, lanes)
        y = TensorView(
            s.scratch(math.prod(shape) * 4, f"{self.role}.packed"),
            np.dtype(np.float32),
            shape,
            row_major_strides(shape, 4),
        )
        target, whole = np.moveaxis(geometry(y), -1, 1), channels // lanes
        for part, into in (
            (split_axis(self.array[: whole * lanes], 0, whole, lanes), target[:whole]),
            (self.array[whole * lanes :], target[panels - 1, : channels - whole * lanes]),
        ):
            s.copy(part_of(self.place, part), part_of(y, into))
        return y.buffer

    def _pack_floats(self, into: np.ndarray) -> None:
        pack_floats(into, self.array.reshape(len(self.array), -1))
        forget_pages(self.array)


def byte_parts(codes: np.ndarray, count: int = 1) -> list[np.ndarray]:
    """Arrays of i8 whose sum is `codes`; at least `count`."""
    if codes.dtype == np.int8:
        return [codes]
    parts: list[np.ndarray] = []
    while len(parts) < count or codes.any():
        parts.append(np.clip(codes, -128, 127).astype(np.int8))
        codes = codes - parts[-1]
    return parts
