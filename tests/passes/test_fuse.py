"""fuse: biases, residual adds and activations; the reasons why it does not fuse; its cost on long chains."""

from __future__ import annotations

import sys

import pytest

from qcompiler.ir import Graph
from qcompiler.passes.fuse import Fuse
from qcompiler.passmanager import PassManager
from qcompiler.quantization.qconfig import get_qconfig
from qcompiler.types import tensor
from tests.passes.pass_texts import apply, close, load, unchanged

X = "%x: f32[1,4,5,5], %r: f32[1,4,5,5]"
W = "const @w : f32[4,4,1,1]"
Y = "f32[1,4,5,5]"


@pytest.mark.parametrize("bias", ["const @b : f32[4]\n", ""])
@pytest.mark.parametrize(
    "op, x, w, out, const",
    [
        ("conv", "1,3,4,4", "4,3,1,1", "1,4,4,4", "4,1,1"),
        ("conv", "1,3,4,4", "4,3,1,1", "1,4,4,4", ""),
        ("conv_transpose", "1,3,4,4", "3,4,1,1", "1,4,4,4", "1,4,1,1"),
        ("linear", "2,3,8", "4,8", "2,3,4", "4"),
    ],
)
def test_an_added_constant_becomes_a_bias(op: str, x: str, w: str, out: str, const: str, bias: str) -> None:
    attrs = {"conv": "{CONV}", "conv_transpose": "{CONV, output_padding=(0, 0)}", "linear": ""}[op]
    graph = load(
        f"%x: f32[{x}]",
        f"""const @w : f32[{w}]
const @c : f32[{const}]
{bias}%a = {op}(%x, @w{", @b" if bias else ""}) {attrs} : f32[{out}]
%y = add(@c, %a) : f32[{out}]
return %y""",
    )
    after = apply(Fuse(), graph)
    assert [node.op for node in after.nodes] == [op] and after.node_list[0].operand("bias").name == "a.bias"
    close(graph, after)


def test_options() -> None:
    graph = load(X, f"{W}\n%c = conv(%x, @w) {{CONV}} : {Y}\n%y = add(%c, %r) : {Y}\nreturn %y")
    unchanged(Fuse(residual=False), graph)
    unchanged(Fuse({"c": get_qconfig("int8"), "y": None}), graph, "%c has another qconfig")
    assert len(apply(Fuse({"c": get_qconfig("int8"), "y": get_qconfig("int8")}), graph)) == 1


def chain(blocks: int) -> Graph:
    """A chain of residual blocks without convolutions: linear, add, relu."""
    import numpy as np

    graph = Graph("chain")
    value = graph.add_input("x", tensor("f32", 1, 4))
    weight = graph.add_const("w", np.eye(4, dtype=np.float32))
    for _ in range(blocks):
        made = graph.create("linear", [value, weight]).result
        value = graph.create("relu", [graph.create("add", [made, value]).result]).result
    graph.set_outputs([value])
    return graph


def lines_run(graph: Graph, passes: list) -> int:
    """How many lines of Python the passes execute: a measure of work that no other load disturbs."""
    count = 0

    def trace(frame: object, event: str, argument: object) -> object:
        nonlocal count
        count += event == "line"
        return trace

    manager = PassManager(passes)
    old = sys.gettrace()
    sys.settrace(trace)
    try:
        manager.run(graph)
    finally:
        sys.settrace(old)
    return count


def test_work_grows_with_the_number_of_nodes_not_its_square() -> None:
    """All passes from float to integer run on twice as many nodes. They execute twice the lines; a single quadratic
    pass would tend to four times."""
    from qcompiler.passes.pipelines import convert_pipeline, float_pipeline, observe_pipeline
    from qcompiler.types import DType, QuantParams

    def work(blocks: int) -> int:
        graph = chain(blocks)
        configs = {node.name: get_qconfig("int8") for node in graph.nodes}
        first = [*float_pipeline(configs), *observe_pipeline(configs)]
        count = lines_run(graph, first)
        observed = PassManager(first).run(graph)
        params = {
            node.attrs["group"]: QuantParams.per_tensor(0.1, 3, DType.U8)
            for node in observed.nodes
            if node.op == "observe"
        }
        return count + lines_run(observed, convert_pipeline(params, configs))

    small, large = work(100), work(200)
    assert large < 2.3 * small


def test_ten_thousand_nodes() -> None:
    after = PassManager([Fuse()]).run(chain(3334))
    assert len(after) == 3334
