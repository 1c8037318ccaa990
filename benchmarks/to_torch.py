"""Convert float graphs of the benchmarks' networks to torch modules that torch.fx can trace and quantize."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from qcompiler.errors import LoweringError
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.ops.conv import Conv
from qcompiler.ops.linear import Linear
from qcompiler.ops.norm import BatchNorm
from qcompiler.ops.pool import AdaptiveAvgPool, MaxPool
from qcompiler.ops.shape import Concat


def _tensor(value: Value | None) -> torch.Tensor | None:
    return None if value is None else torch.from_numpy(np.array(value.data))  # type: ignore[union-attr]


def _even(op: Conv | MaxPool) -> tuple[int, ...]:
    if any(before != after for before, after in op.padding):
        raise LoweringError("torch's layers pad evenly", where=op.node.describe())
    return tuple(before for before, _ in op.padding)


def _conv(node: Node) -> nn.Module:
    op = Conv(node)
    weight, bias = _tensor(op.weight), _tensor(op.bias)
    layer = nn.Conv2d(
        weight.shape[1] * op.groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        op.stride,
        _even(op),
        op.dilation,
        op.groups,
        bias is not None,
    )
    return _loaded(layer, weight=weight, bias=bias)


def _linear(node: Node) -> nn.Module:
    op = Linear(node)
    weight, bias = _tensor(op.weight), _tensor(op.bias)
    return _loaded(nn.Linear(weight.shape[1], weight.shape[0], bias is not None), weight=weight, bias=bias)


def _norm(node: Node) -> nn.Module:
    op = BatchNorm(node)
    mean, var, weight, bias = (_tensor(value) for value in (op.mean, op.var, op.weight, op.bias))
    return _loaded(nn.BatchNorm2d(len(mean), eps=op.eps), running_mean=mean, running_var=var, weight=weight, bias=bias)


def _loaded(layer: nn.Module, **tensors: torch.Tensor | None) -> nn.Module:
    layer.load_state_dict({name: value for name, value in tensors.items() if value is not None}, strict=False)
    return layer


def _max_pool(node: Node) -> nn.Module:
    op = MaxPool(node)
    return nn.MaxPool2d(op.kernel, op.stride, _even(op), op.dilation, ceil_mode=op.ceil_mode)


_MODULES: dict[str, Callable[[Node], nn.Module]] = {
    "conv": _conv,
    "linear": _linear,
    "batch_norm": _norm,
    "max_pool": _max_pool,
    "adaptive_avg_pool": lambda node: nn.AdaptiveAvgPool2d(AdaptiveAvgPool(node).output_size),
    "relu": lambda node: nn.ReLU(),
    "relu6": lambda node: nn.ReLU6(),
    "silu": lambda node: nn.SiLU(),
    "sigmoid": lambda node: nn.Sigmoid(),
    "hardswish": lambda node: nn.Hardswish(),
    "hardsigmoid": lambda node: nn.Hardsigmoid(),
    "resize": lambda node: nn.Upsample(size=tuple(node.result.type.shape[2:])),
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"add": operator.add, "mul": operator.mul}


def to_torch(graph: Graph) -> fx.GraphModule:
    """The torch module of a float graph with static sizes."""
    modules: dict[str, nn.Module] = {}
    made = fx.Graph()
    values = {id(value): made.placeholder(value.name) for value in graph.inputs}
    for number, node in enumerate(graph.nodes):
        given = [values[id(value)] for value in node.operands if value is not None and not isinstance(value, Const)]
        if node.op in _MODULES:
            modules[f"layer{number}"] = _MODULES[node.op](node)
            result = made.call_module(f"layer{number}", (given[0],))
        elif node.op in _FUNCTIONS:
            result = made.call_function(_FUNCTIONS[node.op], tuple(given))
        elif node.op == "concat":
            result = made.call_function(torch.cat, (given, Concat(node).axis))
        elif node.op == "reshape":
            result = made.call_function(torch.reshape, (given[0], tuple(node.result.type.shape)))
        else:
            raise LoweringError(f"{node.op} is not written for torch here", where=node.describe())
        values[id(node.result)] = result
    made.output(values[id(graph.outputs[0])])
    return fx.GraphModule(modules, made).eval()
