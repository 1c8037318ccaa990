"""Sorting. The values of a sort, or of the k largest, are gathered by its indices, so codes are moved, not compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.opdef import FLOAT_ONLY, LayoutRule, Op, Sample, bool_attr, int_attr, operand
from qcompiler.ops.axes import check_axis
from qcompiler.types import DType, TensorType, tensor


class Argsort(Op):
    """The indices, i64, that sort x along an axis. Equal elements keep their order, and NaN counts as the largest.
    torch.argsort(stable=True), torch.sort, topk; numpy.argsort(kind="stable"); ONNX TopK."""

    name = "argsort"
    quant = FLOAT_ONLY
    layout = LayoutRule.ROW_MAJOR
    x = operand()
    axis = int_attr()
    descending = bool_attr(default=False, doc="the largest element first")

    def infer(self, x: TensorType) -> TensorType:
        check_axis("argsort", self.axis, x)
        return TensorType(DType.I64, x.shape)

    def reference(self, x: np.ndarray) -> np.ndarray:
        if not self.descending:
            return np.argsort(x, axis=self.axis, kind="stable").astype(np.int64)
        # the order of the reversed axis, reversed, keeps the order of equal elements
        backwards = np.argsort(np.flip(x, self.axis), axis=self.axis, kind="stable")
        return (x.shape[self.axis] - 1 - np.flip(backwards, self.axis)).astype(np.int64)

    @staticmethod
    def samples() -> Sequence[Sample]:
        ties = np.array([[2, -0.0, np.nan, 0, 2, -np.inf, np.nan, 0, 1]], np.float32)
        return [
            Sample((tensor("f32", 7),), {"axis": 0}),
            Sample((tensor("f32", 2, 33),), {"axis": 1, "descending": True}),
            Sample((tensor("f32", 4, 17, 3),), {"axis": 1}),
            Sample((ties,), {"axis": 1, "descending": True}),
            Sample((ties,), {"axis": 1}),
            Sample((np.array([3, -1, 3, 2**40, -1], np.int64),), {"axis": 0, "descending": True}),
        ]
