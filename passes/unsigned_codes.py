"""unsigned-codes: write i8 activations as u8, which kernels read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcompiler.ir import Const, Graph, Value
from qcompiler.opdef import Role, op_of
from qcompiler.ops.quantized import Dequantize, Requantize
from qcompiler.types import DType, TensorType

SHIFT = 128
"""What is added to a code of i8, and to its zero point."""


@dataclass(frozen=True)
class UnsignedCodes:
    """qdq -> qdq. Adds 128 to every code of an i8 activation and to its zero point, qmin and qmax, and makes it u8.

    The real values stay as they are, to the bit: rules (2) to (5) of qmath see a code only as its distance from the
    zero point, and clamps it to bounds that are shifted with it. Weights, biases and activations per channel keep their
    codes. Inputs and outputs of the graph that are i8 codes keep theirs too: a requantize of the same scale stands
    beside them.

    Before:
        %x.q = quantize(%x) : i8[2,8]{scale=0.1, zero_point=-3}
        %x.dq = dequantize(%x.q) : f32[2,8]
    After:
        %x.q = quantize(%x) : u8[2,8]{scale=0.1, zero_point=125}
        %x.dq = dequantize(%x.q) : f32[2,8]
    """

    name: ClassVar[str] = "unsigned-codes"

    def run(self, graph: Graph) -> Graph:
        for value in graph.inputs:
            if _is_signed(value.type) and not _is_weight(value):
                self._shift_input(graph, value)
        for const in list(graph.consts.values()):
            if _is_signed(const.type):
                self._shift_const(graph, const)
        for node in graph.nodes:
            for value in node.results:
                if _is_signed(value.type) and not _is_weight(value):
                    self._shift_result(graph, value)
        graph.erase_unused_consts()
        return graph

    def _shift_input(self, graph: Graph, value: Value) -> None:
        users, first = list(value.uses), next(iter(graph.nodes), None)
        if not users:
            return
        made = graph.create(
            Requantize.name, [value], types=unsigned(value.type), names=f"{value.name}.u8", before=first
        )
        for use in users:
            graph.set_operand(use.node, use.index, made.result)

    def _shift_const(self, graph: Graph, const: Const) -> None:
        """Let the dequantizes of a constant that are read as activations read shifted codes."""
        shifted: Const | None = None
        for use in list(const.uses):
            if use.node.op == Dequantize.name and not _is_weight(const, use.node.result):
                if shifted is None:
                    codes = (const.data.astype(np.int16) + SHIFT).astype(np.uint8)
                    shifted = graph.add_const(f"{const.name}.u8", codes, unsigned(const.type))
                graph.set_operand(use.node, use.index, shifted)

    def _shift_result(self, graph: Graph, value: Value) -> None:
        signed, name = value.type, value.name
        graph.set_type(value, unsigned(signed))
        if not graph.is_output(value):
            return
        made = graph.create(Requantize.name, [value], types=signed, names=f"{name}.i8", after=value.producer)
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.set_output(index, made.result)


def unsigned(type: TensorType) -> TensorType:
    """The u8 type whose codes are those of an i8 type, plus 128."""
    quant = type.params
    points = tuple(point + SHIFT for point in quant.zero_point)
    shifted = replace(quant, zero_point=points, qmin=quant.qmin + SHIFT, qmax=quant.qmax + SHIFT)
    return type.quantized(DType.U8, shifted)


def _is_signed(type: TensorType) -> bool:
    return type.is_quantized and type.dtype is DType.I8 and type.params.axis is None


def _is_weight(codes: Value, real: Value | None = None) -> bool:
    """Whether an op reads a value, dequantized, as its weight or bias. real: only this dequantized value is asked."""
    values = [node.result for node in codes.users if node.op == Dequantize.name] if real is None else [real]
    for value in values:
        for use in value.uses:
            if op_of(use.node).spec(use.index).role in (Role.WEIGHT, Role.BIAS):
                return True
    return False
