"""The weights of lstm, gru and rnn as codes, for quantize-dynamic and quantize-states."""

from __future__ import annotations

import numpy as np

from qcompiler.ir import Const, Graph, Value
from qcompiler.ops.recurrent import Recurrent
from qcompiler.passes.dynamic_weights import codes_of, why_no_codes
from qcompiler.quantization.qconfig import FLOAT16, QConfig
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import DType


def why_recurrent_float(op: Recurrent, config: QConfig) -> str | None:
    """Why a recurrent layer is not quantized dynamically, or None."""
    if config.dynamic == FLOAT16:
        return "recurrent layers have no weights of f16"
    if config.activation is None or config.weight is None or config.activation.qmin != 0:
        return "recurrent layers have symmetric weights of i8, and codes from 0 on"
    return why_weights_float(op, config.weight)


def why_weights_float(op: Recurrent, spec: QuantSpec) -> str | None:
    """Why the weights of a recurrent layer can't become codes of this spec, or None."""
    if op.ih_scale is not None:
        return "its weights are codes already"
    weights = (op.w_ih, op.w_hh)
    if not all(isinstance(weight, Const) for weight in weights):
        return "its weights are not constant"
    if not all(isinstance(bias, Const | None) for bias in (op.bias_ih, op.bias_hh)):
        return "its biases are not constant"
    if not spec.symmetric or spec.dtype is not DType.I8:
        return "recurrent layers have symmetric weights of i8"
    return next((why for weight in weights if isinstance(weight, Const) and (why := why_no_codes(weight))), None)


def quantize_recurrent(graph: Graph, op: Recurrent, config: QConfig) -> None:
    """Let a layer read codes that are made at run time."""
    assert config.activation is not None
    give_codes(graph, op, config)
    graph.set_attr(op.node, "scale_of", str(config.dynamic))
    graph.set_attr(op.node, "qmax", int(config.activation.qmax))


def give_codes(graph: Graph, op: Recurrent, config: QConfig) -> None:
    """Give a layer the codes of its weights, and their scales, one for each row."""
    spec, node = config.weight, op.node
    assert spec is not None
    for weight, scale in ((type(op).w_ih, type(op).ih_scale), (type(op).w_hh, type(op).hh_scale)):
        given = node.operands[weight.index]
        assert isinstance(given, Const)
        codes, quant = codes_of(given, spec)
        scales = np.ascontiguousarray(np.broadcast_to(quant.scales, given.data.shape[:1]))
        made: tuple[Value, Value] = (
            graph.add_const(f"{given.name}.q", codes),
            graph.add_const(f"{given.name}.scale", scales),
        )
        graph.set_operand(node, weight.index, made[0])
        graph.set_operand(node, scale.index, made[1])
