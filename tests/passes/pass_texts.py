"""Graphs from text with drawn constants, and comparisons of text and of numbers, which the tests of passes share."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.passmanager import Pass, PassManager
from qcompiler.text.compare import first_difference
from qcompiler.text.parser import parse
from qcompiler.text.printer import graph_data
from qcompiler.types import DType

CONV = "stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)"


def text_of(inputs: str, body: str, stage: str = "float") -> str:
    """The whole text of a graph from its inputs and the lines between the braces. CONV stands for plain attrs of a 2d
    convolution."""
    lines = textwrap.indent(textwrap.dedent(body).strip(), "  ").replace("CONV", CONV)
    return f"qcompiler 1\ngraph g({inputs}) stage={stage} {{\n{lines}\n}}\n"


def load(inputs: str, body: str, stage: str = "float", *, seed: int = 0, **data: np.ndarray) -> Graph:
    """Parse the graph of `text_of`, with the constants of `draw_constants`. data: constants by name, with "_" for
    "."."""
    return draw_constants(text_of(inputs, body, stage), seed, data)


def draw_constants(text: str, seed: int = 0, data: Mapping[str, Any] = MappingProxyType({})) -> Graph:
    """The graph with constants drawn from a fixed seed: floats in [0.5, 1.5) with random signs, positive where the
    name ends in "var" or "scale". data: constants by name, "_" for ".", that are given instead."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, array in graph_data(parse(text, "zeros")).items():
        if name.replace(".", "_") in data:
            given = np.asarray(data[name.replace(".", "_")], array.dtype)
            arrays[name] = np.broadcast_to(given, array.shape) if given.ndim == 0 else given.reshape(array.shape)
        elif array.dtype.kind == "f":
            sign = 1 if name.endswith(("var", "scale")) else rng.choice([-1, 1], array.shape)
            arrays[name] = (rng.uniform(0.5, 1.5, array.shape) * sign).astype(array.dtype)
        else:
            arrays[name] = rng.integers(-100, 100, array.shape).astype(array.dtype)
    return parse(text, arrays)


def check_text(graph: Graph, inputs: str, body: str, stage: str | None = None) -> None:
    """Check that the graph reads as given, without comparing the data of constants."""
    wanted = parse(text_of(inputs, body, stage or graph.stage), "zeros")
    difference = first_difference(wanted, graph, data=False)
    assert difference is None, f"{difference}\n\n{graph}"


def apply(step: Pass, graph: Graph) -> Graph:
    """Run the pass on a copy, which is verified before and after."""
    from qcompiler.verify import verify

    verify(graph)
    return PassManager([step]).run(graph)


def unchanged(step: Pass, graph: Graph, reason: str | None = None) -> None:
    """Check that the pass leaves the graph as it is, and, if `reason` is given, that it says so of some node."""
    graph = graph.clone()
    graph.erase_unused_consts()
    after = apply(step, graph)
    assert first_difference(graph, after) is None
    if reason is not None:
        reasons = [refusal.reason for refusal in step.explain(after)]
        assert any(reason in given for given in reasons), reasons


def draw(graph: Graph, seed: int = 1, low: float = -2.0, high: float = 2.0) -> list[np.ndarray]:
    """Draw inputs for a static graph."""
    rng = np.random.default_rng(seed)
    arrays = []
    for value in graph.inputs:
        dtype = value.type.dtype
        if dtype.is_float:
            arrays.append(rng.uniform(low, high, value.type.shape).astype(dtype.numpy))
        elif dtype is DType.BOOL:
            arrays.append(rng.integers(0, 2, value.type.shape).astype(bool))
        else:
            arrays.append(rng.integers(dtype.min, dtype.max, value.type.shape, endpoint=True).astype(dtype.numpy))
    return arrays


def same_bits(before: Graph, after: Graph, **given: float) -> None:
    inputs = draw(before, **given)
    for one, other in zip(run(before, inputs), run(after, inputs), strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)


def close(before: Graph, after: Graph, relative: float = 2.0**-18) -> None:
    """Check that numbers are equal except for the roundings of a few dozen f32 operations, relative to the largest
    result."""
    inputs = draw(before)
    for one, other in zip(run(before, inputs), run(after, inputs), strict=True):
        assert np.abs(one - other).max() <= relative * np.abs(one).max()


def within_one_code(before: Graph, after: Graph) -> None:
    """Check that codes, or floats made from codes, differ by one code at most: requantize multiplies where a qdq graph
    divides, and a table rounds once."""
    inputs = draw(before)
    for value, one, other in zip(after.outputs, run(before, inputs), run(after, inputs), strict=True):
        made = value.producer
        scale = made.operands[0].type.quant.scale[0] if made is not None and made.op == "dequantize" else 1
        assert one.dtype == other.dtype and np.abs(one.astype(np.float64) - other).max() <= scale * 1.001
        assert len(np.unique(other)) > 1
