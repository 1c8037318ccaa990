"""Corrupted graphs: one field of a valid graph is changed, in more than a thousand ways.

Either the verifier refuses it with a VerifyError, or it prints and parses back the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qcompiler.dims import Dim
from qcompiler.errors import QCompilerError, VerifyError
from qcompiler.ir import Graph, Node, Value
from qcompiler.notes import Remark
from qcompiler.text.compare import first_difference
from qcompiler.text.parser import parse
from qcompiler.text.printer import graph_data, print_graph
from qcompiler.types import DType, Layout, QuantParams, TensorType, tensor
from qcompiler.verify import verify
from tests.sample_graphs import CASES, sample_graph

ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    (),
    (0,),
    (1, -1),
    ((1, 1),),
    (((),),),
    DType.F32,
    [1],
    {},
    object(),
]


def odd_type(type: TensorType, rng: random.Random) -> Any:
    quant = QuantParams.per_tensor(rng.choice([0.5, 3.0]), 0, DType.I8)
    choices: list[Callable[[], Any]] = [
        lambda: TensorType(rng.choice(list(DType)), type.shape),
        lambda: TensorType(type.dtype, (*type.shape, 1)),
        lambda: TensorType(type.dtype, type.shape[1:]),
        lambda: TensorType(type.dtype, tuple(Dim.name("Z") for _ in type.shape)),
        lambda: TensorType(DType.I8, type.shape, quant),
        lambda: replace(type, layout=Layout("channels_last", 4)),
        lambda: None,
        lambda: "f32[2]",
        lambda: tensor("f32", 0),
        lambda: TensorType(type.dtype, (2**15, 2**15)),
        lambda: TensorType(DType.I8, type.shape, QuantParams.per_channel([1.0] * int(type.shape[0]), 0, 0, DType.I8)),
    ]
    try:
        return rng.choice(choices)()
    except (QCompilerError, IndexError, TypeError):
        return None


def corrupt(graph: Graph, rng: random.Random) -> str:
    """Change one field without the graph's methods, and say what was done."""
    node: Node = rng.choice(graph.node_list)
    values = list(graph.values())
    value: Value = rng.choice(values)
    odd = rng.choice(ODD)
    kind = rng.randrange(16)
    if kind == 0:
        node.op = rng.choice(["", "no_such_op", "relu", "conv", "linear", "concat", "reshape", "quantize", "lookup"])
    elif kind == 1 and node.attrs:
        node._attrs[rng.choice(list(node.attrs))] = odd
    elif kind == 2 and node.attrs:
        del node._attrs[rng.choice(list(node.attrs))]
    elif kind == 3:
        node._attrs["extra"] = odd
    elif kind == 4 and node.operands:
        node._operands[rng.randrange(len(node.operands))] = rng.choice(
            [None, node.results[0], value, Value("stray", tensor("f32", 2))]
        )
    elif kind == 5:
        node._operands.append(rng.choice([None, value]))
    elif kind == 6 and node.operands:
        node._operands.pop()
    elif kind == 7:
        value.type = odd_type(value.type, rng)
    elif kind == 8:
        value.name = rng.choice(["", "x" * 1025, "\ud800", values[0].name, 3, None])
    elif kind == 9:
        graph.stage = rng.choice(["", "integer", "lowered", "observed", "qdq", None, 3])
    elif kind == 10:
        graph._outputs = rng.choice([[], [value], [Value("stray", tensor("f32", 2))], [*graph._outputs, None]])
    elif kind == 11:
        graph.output_names = rng.choice([[], ["\ud800"], [None], ["a", "b", "c", "d"]])
    elif kind == 12:
        graph.notes = rng.choice([[3], [Remark("\ud800")], [None], ["text"]])
    elif kind == 13:
        value._uses.clear()
    elif kind == 14 and graph.consts:
        const = rng.choice(list(graph.consts.values()))
        const.data = rng.choice(
            [const.data[..., None], const.data.astype(np.float64), None, const.data.copy(), np.zeros(3, np.int8)]
        )
    else:
        graph._names.add("ghost") if rng.random() < 0.5 else setattr(node, "results", ())
    return f"kind {kind}"


@pytest.mark.parametrize("seed", range(4))
def test_one_field_corrupted(seed):
    rng = random.Random(seed)
    refused = harmless = 0
    for case in CASES:
        graph = sample_graph(*case)
        done = corrupt(graph, rng)
        try:
            verify(graph)
        except VerifyError:
            refused += 1
            continue
        harmless += 1
        again = parse(print_graph(graph), graph_data(graph))
        assert isinstance(again, Graph) and first_difference(graph, again) is None, done
        verify(again)
    assert refused > 3 * harmless > 0


def test_corruptions_of_an_integer_graph(demo_stages):
    rng = random.Random(9)
    refused = harmless = 0
    for _ in range(200):
        graph = demo_stages["integer"].clone()
        corrupt(graph, rng)
        try:
            verify(graph)
        except VerifyError:
            refused += 1
            continue
        harmless += 1
        assert first_difference(graph, parse(print_graph(graph), graph_data(graph))) is None
    assert refused > harmless
