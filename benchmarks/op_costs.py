"""Measure every op in int8 and in float on this machine: `Op.element_cost` and the cost profile.

The figures are nanoseconds per element, medians, on one thread at the native level. Operands have 200,000 elements
(1 x 64 x 56 x 56) unless `SHAPES` gives the op others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import qcompiler as qc
from qcompiler.backends.lower import lower_graph
from qcompiler.backends.target import parse_target
from qcompiler.errors import QCompilerError, QuantizationError
from qcompiler.ir import Graph, Value
from qcompiler.opdef import QuantKind, Trait, all_ops, works_on_codes
from qcompiler.quantization.cost_profile import elements, products
from qcompiler.types import tensor

IMAGE, ROWS = (1, 64, 56, 56), (196, 1024)
_WINDOW = {"kernel": (3, 3), "stride": (1, 1), "padding": ((1, 1), (1, 1))}
_CONV = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
SHAPES: dict[str, tuple[list[tuple[int, ...]], dict[str, Any]]] = {
    "conv": ([IMAGE, (64, 64, 3, 3)], _CONV),
    "depthwise": ([IMAGE, (64, 1, 3, 3)], {**_CONV, "groups": 64}),
    "linear": ([ROWS, (1024, 1024)], {}),
    "matmul": ([(8, 128, 64), (8, 64, 128)], {}),
    "max_pool": ([IMAGE], {**_WINDOW, "dilation": (1, 1)}),
    "avg_pool": ([IMAGE], _WINDOW),
    "adaptive_avg_pool": ([IMAGE], {"output_size": (1, 1)}),
    "adaptive_max_pool": ([IMAGE], {"output_size": (1, 1)}),
    "mean": ([IMAGE], {"axes": (2, 3)}),
    "max": ([IMAGE], {"axes": (2, 3)}),
    "min": ([IMAGE], {"axes": (2, 3)}),
    "sum": ([IMAGE], {"axes": (2, 3)}),
    "softmax": ([ROWS], {"axis": 1}),
    "layer_norm": ([ROWS, (1024,), (1024,)], {"normalized_rank": 1}),
    "group_norm": ([IMAGE, (64,), (64,)], {"groups": 8}),
    "instance_norm": ([IMAGE, (64,), (64,)], {}),
    "batch_norm": ([IMAGE, (64,), (64,), (64,), (64,)], {}),
    "prelu": ([IMAGE, (64,)], {}),
    "concat": ([IMAGE, IMAGE], {"axis": 1}),
    "transpose": ([IMAGE], {"perm": (0, 1, 3, 2)}),
    "pad": ([IMAGE], {"padding": ((0, 0), (0, 0), (1, 1), (1, 1))}),
    "slice": ([IMAGE], {"axes": (2, 3), "starts": (1, 1), "stops": (55, 55), "steps": (1, 1)}),
    "resize": ([IMAGE], {"size": (112, 112), "mode": "nearest"}),
}
NAMED = ("add", "sub", "mul", "div", "minimum", "maximum")


def graph_of(op: str, quantized: bool) -> tuple[Graph, list[np.ndarray]]:
    """A graph in which the op's result is named `measured`, and inputs for it. quantized: it is made of codes.

    Raises:
        QCompilerError: the op has no integer form.
    """
    shapes, attrs = SHAPES.get(op, ([IMAGE, IMAGE] if op in NAMED else [IMAGE], {}))
    rng, graph = np.random.default_rng(0), Graph(op)
    weighted = op in ("conv", "depthwise", "linear") or len(shapes) > 2 or op == "prelu"
    operands: list[Value] = []
    inputs: list[np.ndarray] = []
    for index, shape in enumerate(shapes):
        data = rng.uniform(0.1, 2, shape).astype(np.float32)
        if index and weighted:
            operands.append(graph.add_const(f"c{index}", data))
            continue
        value = graph.add_input(f"x{index}", tensor("f32", *shape))
        # A product is always quantized, so that ops which only follow their operand's type run in int8 too. Its
        # activation keeps an add from becoming its residual.
        identity = graph.add_const(f"identity{index}", np.eye(shape[-1], dtype=np.float32))
        operands.append(graph.create("relu", [graph.create("linear", [value, identity]).result]).result)
        inputs.append(data)
    graph.set_outputs(graph.create("conv" if op == "depthwise" else op, operands, attrs, names="measured").results)
    if quantized:
        # plain: by default, int8 leaves ops real that cost no more than the conversions
        graph = qc.compile(graph, "int8:plain", calibration_data=[tuple(inputs)], target="reference").graph
        measured = next(node for node in graph.node_list if node.result.name == "measured")
        if not works_on_codes(measured):
            raise QuantizationError(f"{op} has no integer form")
    return graph, inputs


def nanoseconds(graph: Graph, inputs: list[np.ndarray], node: str) -> float:
    """The time of a node's steps, without copies of operands into its layout."""
    bound = lower_graph(graph, parse_target("native")).bind({})
    for _ in range(3):
        bound.run(inputs)
    times = np.median([bound.profile(inputs) for _ in range(15)], axis=0)
    found = [
        t
        for t, step in zip(times, bound.image.steps)
        if step.node == node and not step.kernel.startswith("copy_transposed")
    ]
    return float(sum(found))


def measure(op: str) -> tuple[float, float] | None:
    """Nanoseconds in int8 and in float, per element, or per multiply-add of an op with weights.

    None if the op can't be built from one or two operands, or has no integer form.
    """
    try:
        float_graph, inputs = graph_of(op, False)
        integer_graph, _ = graph_of(op, True)
    except QCompilerError:
        return None
    node = float_graph.value("measured").producer
    integer = next((value for value in integer_graph.values() if value.name == "measured"), None)
    if node is None or integer is None or not integer.type.is_quantized:
        return None
    size = products(node) or max(elements(value) for value in (*node.operands[:1], node.result) if value is not None)
    return nanoseconds(integer_graph, inputs, "measured") / size, nanoseconds(float_graph, inputs, "measured") / size


def conversions() -> tuple[float, float]:
    """Nanoseconds per element of quantize and of dequantize."""
    graph, inputs = graph_of("add", True)
    bound = lower_graph(graph, parse_target("native")).bind({})
    times = np.median([bound.profile(inputs) for _ in range(15)], axis=0)
    found = [
        [float(t) for t, step in zip(times, bound.image.steps) if step.kernel.startswith(kernel)]
        for kernel in ("quantize", "dequantize")
    ]
    return min(found[0]) / float(np.prod(IMAGE)), min(found[1]) / float(np.prod(IMAGE))


if __name__ == "__main__":
    names = ["depthwise"]
    for definition in all_ops():
        if definition.quant.kind is not QuantKind.FLOAT_ONLY and Trait.IDENTITY_AT_INFERENCE not in definition.traits:
            names.append(definition.name)
    for name in names:
        pair = measure(name)
        print(f'"{name}": ({pair[0]:.4f}, {pair[1]:.4f}),' if pair else f"# {name}: not measured")
    print("quantize={:.4f}, dequantize={:.4f}".format(*conversions()))
