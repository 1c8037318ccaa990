"""Small valid graphs for generic tests: every op's samples, and what hypothesis builds of them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from qcompiler.ir import Graph, Loc, Origin
from qcompiler.notes import Remark
from qcompiler.opdef import OpDef, Role, all_ops
from qcompiler.types import DType, QuantParams, TensorType
from qcompiler.verify import verify

CASES = [(op, index) for op in all_ops() for index in range(len(op.samples()))]
CASE_IDS = [f"{op.name}-{index}" for op, index in CASES]
UNQUANTIZED = [(op, index) for op, index in CASES if op.family != "quantized" and not op.always_codes]


def random_array(type: TensorType, rng: np.random.Generator) -> np.ndarray:
    if type.dtype.is_float:
        return rng.uniform(-2, 2, type.shape).astype(type.dtype.numpy)
    if type.dtype is DType.BOOL:
        return rng.integers(0, 2, type.shape).astype(bool)
    return rng.integers(type.dtype.min, type.dtype.max, type.shape, endpoint=True).astype(type.dtype.numpy)


def sample_graph(op: OpDef, index: int, *, seed: int = 0) -> Graph:
    """A graph of one node. Activations and indices that are given as types are inputs, the rest are constants."""
    graph = Graph(f"{op.name}_{index}")
    append_sample(graph, op, index, np.random.default_rng(seed), [])
    graph.set_outputs(graph.node_list[-1].results)
    return graph


def append_sample(graph: Graph, op: OpDef, index: int, rng: np.random.Generator, reuse: list) -> None:
    """Append a node. Its operands are values of equal type from `reuse`, or new inputs and constants."""
    sample = op.samples()[index]
    operands = []
    for position, given in enumerate(sample.operands):
        if given is None:
            operands.append(None)
            continue
        if op.name in ("dequantize", "requantize"):
            given = given.quantized(DType.I8, QuantParams.per_tensor(0.25, -5, DType.I8))
        role, name = op.spec(position).role, f"{op.name}.{op.spec(position).name}"
        if isinstance(given, TensorType) and role in (Role.ACTIVATION, Role.INDEX):
            fitting = [value for value in reuse if value.type == given]
            operands.append(
                fitting[rng.integers(len(fitting))] if fitting else graph.add_input(graph.fresh_name(name), given)
            )
        else:
            is_array = isinstance(given, np.ndarray)
            data = given if is_array else random_array(given, rng)
            operands.append(graph.add_const(name, data, None if is_array else given))
    if op.name == "observe":
        graph.stage = "observed"
    if op.always_codes:
        graph.stage = "integer"
    types = None
    if op.name in ("quantize", "dequantize", "requantize"):
        graph.stage = "qdq"
    complete = op.complete_attrs(sample.attrs)
    inferred = op.infer_types([None if v is None else v.type for v in operands], complete)
    if op.name in ("quantize", "requantize"):
        types = [t.quantized(DType.U8, QuantParams.per_tensor(0.05, 3, DType.U8)) for t in inferred]
    node = graph.create(
        op.name,
        operands,
        complete,
        types=types,
        loc=Loc('model "x".py', 1 + index),
        origin=[Origin(f"net.{op.name}", op.family)],
    )
    reuse.extend(node.results)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Float graphs of 1 to 12 nodes, which share operands where types allow; odd names and notes now and then."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cases = draw(st.lists(st.sampled_from(UNQUANTIZED), min_size=1, max_size=12))
    graph = Graph(draw(st.sampled_from(["main", "odd name", "0", "Grün"])))
    reuse: list = []
    for op, index in cases:
        if op.name in ("lookup", "observe"):
            continue
        append_sample(graph, op, index, rng, reuse)
    if not graph.node_list:
        append_sample(graph, *UNQUANTIZED[0], rng, reuse)
    for value in list(graph.values())[: draw(st.integers(0, 3))]:
        wanted = draw(st.text(min_size=1, max_size=8).filter(lambda s: s.isprintable()))
        if not value.is_const:
            graph.rename(value, graph.fresh_name(wanted))
    texts = st.text(max_size=12).filter(lambda s: all(c < "\ud800" or c > "\udfff" for c in s))
    graph.notes.extend(map(Remark, draw(st.lists(texts, max_size=2))))
    outputs = [value for value in reuse if not value.uses] or reuse[-1:]
    graph.set_outputs(outputs, draw(st.sampled_from([None, [f"out {i}" for i in range(len(outputs))]])))
    verify(graph)
    return graph
