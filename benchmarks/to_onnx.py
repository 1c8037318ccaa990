"""Convert float graphs of the benchmarks' networks to ONNX models, for the peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qcompiler.errors import LoweringError
from qcompiler.ir import Graph, Node
from qcompiler.ops.conv import Conv
from qcompiler.ops.norm import BatchNorm
from qcompiler.ops.pool import AdaptiveAvgPool, MaxPool
from qcompiler.ops.resize import Resize
from qcompiler.ops.shape import Concat, Reshape

OPSET = 17


def _pads(pairs: Any) -> list[int]:
    return [before for before, _ in pairs] + [after for _, after in pairs]


def _conv(node: Node) -> tuple[str, dict[str, Any]]:
    op = Conv(node)
    return "Conv", {
        "strides": op.stride,
        "pads": _pads(op.padding),
        "dilations": op.dilation,
        "group": op.groups,
    }


def _max_pool(node: Node) -> tuple[str, dict[str, Any]]:
    op = MaxPool(node)
    return "MaxPool", {
        "kernel_shape": op.kernel,
        "strides": op.stride,
        "pads": _pads(op.padding),
        "dilations": op.dilation,
        "ceil_mode": int(op.ceil_mode),
    }


def _global_pool(node: Node) -> tuple[str, dict[str, Any]]:
    sizes = AdaptiveAvgPool(node).output_size
    if set(sizes) != {1}:
        raise LoweringError("adaptive_avg_pool is written for one output pixel", got=sizes)
    return "GlobalAveragePool", {}


_WRITERS: dict[str, Callable[[Node], tuple[str, dict[str, Any]]]] = {
    "conv": _conv,
    "max_pool": _max_pool,
    "adaptive_avg_pool": _global_pool,
    "batch_norm": lambda node: ("BatchNormalization", {"epsilon": BatchNorm(node).eps}),
    "relu": lambda node: ("Relu", {}),
    "sigmoid": lambda node: ("Sigmoid", {}),
    "hardswish": lambda node: ("HardSwish", {}),
    "hardsigmoid": lambda node: ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "add": lambda node: ("Add", {}),
    "mul": lambda node: ("Mul", {}),
    "concat": lambda node: ("Concat", {"axis": Concat(node).axis}),
    "linear": lambda node: ("Gemm", {"transB": 1}),
}


def _silu(node: Node) -> list[onnx.NodeProto]:
    """x * sigmoid(x): opset 17 has no op of its own."""
    x, y = node.operands[0].name, node.result.name
    return [
        helper.make_node("Sigmoid", [x], [f"{y}.gate"]),
        helper.make_node("Mul", [x, f"{y}.gate"], [y], name=node.name),
    ]


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """The ONNX model of a float graph with static sizes."""
    nodes, extra = [], []

    def constant(name: str, array: Any) -> str:
        extra.append(numpy_helper.from_array(array, name))
        return name

    for node in graph.nodes:
        names = ["" if value is None else value.name for value in node.operands]
        out = [value.name for value in node.results]
        if node.op == "reshape":
            nodes.append(
                helper.make_node(
                    "Reshape", [names[0], constant(f"{out[0]}.shape", np.array(Reshape(node).shape, np.int64))], out
                )
            )
        elif node.op == "relu6":
            low, high = constant(f"{out[0]}.low", np.float32(0)), constant(f"{out[0]}.high", np.float32(6))
            nodes.append(helper.make_node("Clip", [names[0], low, high], out))
        elif node.op == "silu":
            nodes += _silu(node)
        elif node.op == "resize":
            if Resize(node).mode != "nearest":
                raise LoweringError("resize is written for nearest", where=node.describe())
            sizes = constant(f"{out[0]}.sizes", np.array(node.result.type.shape, np.int64))
            nodes.append(
                helper.make_node(
                    "Resize",
                    [names[0], "", "", sizes],
                    out,
                    mode="nearest",
                    nearest_mode="floor",
                    coordinate_transformation_mode="asymmetric",
                    name=node.name,
                )
            )
        elif node.op in _WRITERS:
            kind, attrs = _WRITERS[node.op](node)
            if kind == "BatchNormalization":  # ours: x, mean, var, weight, bias
                names = [names[0], names[3], names[4], names[1], names[2]]
            nodes.append(helper.make_node(kind, names, out, name=node.name, **attrs))
        else:
            raise LoweringError(f"{node.op} is not written as ONNX here", where=node.describe())

    def info(value: Any) -> Any:
        return helper.make_tensor_value_info(value.name, TensorProto.FLOAT, value.type.shape)

    initializers = [numpy_helper.from_array(const.data, name) for name, const in graph.consts.items()]
    proto = helper.make_graph(
        nodes, graph.name, [info(v) for v in graph.inputs], [info(v) for v in graph.outputs], initializers + extra
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
