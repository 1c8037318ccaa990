"""fuse: biases, residual adds, activations; the reasons where it does not; its cost on long chains."""

from __future__ import annotations

import sys

import pytest

from qcompiler.ir import Graph
from qcompiler.passes.fuse import Fuse
from qcompiler.passmanager import PassManager
from qcompiler.quantization.qconfig import get_qconfig
from qcompiler.types import tensor
from tests.passes.pass_texts import apply, check_text, close, load, same_bits, unchanged

X = "%x: f32[1,4,5,5], %r: f32[1,4,5,5]"
W = "const @w : f32[4,4,1,1]"
Y = "f32[1,4,5,5]"


def test_before_and_after() -> None:
    graph = load(
        X,
        f"""{W}
const @b : f32[4]
%c = conv(%x, @w, @b) {{CONV}} : {Y} origin("c":"Conv2d")
%a = add(%r, %c) : {Y} origin("":"add")
%y = relu(%a) : {Y} loc("m.py":9) origin("act":"ReLU")
return %y""",
    )
    after = apply(Fuse(), graph)
    check_text(
        after,
        X,
        f"""{W}
const @b : f32[4]
%y = conv(%x, @w, @b, %r) {{CONV, activation="relu"}} : {Y} loc("m.py":9) origin("c":"Conv2d", "":"add", "act":"ReLU")
return %y""",
    )
    same_bits(graph, after)


def test_of_two_convolutions_the_later_one_takes_the_sum() -> None:
    graph = load(
        X,
        f"""{W}
%s = conv(%x, @w) {{CONV}} : {Y}
%m = conv(%r, @w) {{CONV}} : {Y}
%y = add(%m, %s) {{activation="relu6"}} : {Y}
return %y""",
    )
    after = apply(Fuse(), graph)
    check_text(
        after,
        X,
        f"""{W}
%s = conv(%x, @w) {{CONV}} : {Y}
%y = conv(%r, @w, none, %s) {{CONV, activation="relu6"}} : {Y}
return %y""",
    )
    same_bits(graph, after)


def test_a_chain_of_residual_blocks() -> None:
    graph = load(
        "%x: f32[1,4,5,5]",
        f"""{W}
%a = conv(%x, @w) {{CONV}} : {Y}
%b = add(%a, %x) : {Y}
%c = relu(%b) : {Y}
%d = conv(%c, @w) {{CONV}} : {Y}
%e = add(%d, %c) : {Y}
%f = relu(%e) : {Y}
return %f""",
    )
    after = apply(Fuse(), graph)
    check_text(
        after,
        "%x: f32[1,4,5,5]",
        f"""{W}
%c = conv(%x, @w, none, %x) {{CONV, activation="relu"}} : {Y}
%f = conv(%c, @w, none, %c) {{CONV, activation="relu"}} : {Y}
return %f""",
    )
    same_bits(graph, after)


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


LEFT_ALONE = {
    "output": (f"%c = conv(%x, @w) {{CONV}} : {Y}\n%y = relu(%c) : {Y}", "%y, %c", "%c is an output of the graph"),
    "readers": (
        f"%c = conv(%x, @w) {{CONV}} : {Y}\n%y = relu(%c) : {Y}\n%z = exp(%c) : {Y}",
        "%y, %z",
        "%c is read by %z too",
    ),
    "activated": (
        f'%c = conv(%x, @w) {{CONV, activation="relu6"}} : {Y}\n%y = relu(%c) : {Y}',
        "%y",
        "%c has an activation already",
    ),
    "activated residual": (
        f'%c = conv(%x, @w) {{CONV, activation="relu"}} : {Y}\n%y = add(%c, %r) : {Y}',
        "%y",
        "the activation of %c stands between",
    ),
    "second residual": (
        f"%c = conv(%x, @w, none, %r) {{CONV}} : {Y}\n%y = add(%c, %x) : {Y}",
        "%y",
        "%c has a residual already",
    ),
    "itself": (f"%c = conv(%x, @w) {{CONV}} : {Y}\n%y = add(%c, %c) : {Y}", "%y", "both operands are %c"),
    "nothing to fuse into": (f"%c = exp(%x) : {Y}\n%y = add(%c, %r) : {Y}", "%y", "%c is not made by conv or linear"),
    "pool": (f"%c = exp(%x) : {Y}\n%y = relu(%c) : {Y}", "%y", "%c is not made by conv"),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case: str) -> None:
    body, outputs, reason = LEFT_ALONE[case]
    weight = f"{W}\n" if "@w" in body else ""
    unchanged(Fuse(), load(X, f"{weight}{body}\nreturn {outputs}"), reason)


def test_a_broadcast_add_is_left_alone() -> None:
    graph = load(
        "%x: f32[2,8], %r: f32[1,4]",
        """
        const @w : f32[4,8]
        %c = linear(%x, @w) : f32[2,4]
        %y = add(%c, %r) : f32[2,4]
        return %y""",
    )
    unchanged(Fuse(), graph, "it broadcasts")


def test_a_constant_along_other_axes_is_no_bias() -> None:
    graph = load(
        "%x: f32[1,4,5,5]",
        f"""{W}
const @c : f32[5]
%a = conv(%x, @w) {{CONV}} : {Y}
%y = add(%a, @c) : {Y}
return %y""",
    )
    unchanged(Fuse(), graph, "is not one number a channel")


def test_options() -> None:
    graph = load(X, f"{W}\n%c = conv(%x, @w) {{CONV}} : {Y}\n%y = add(%c, %r) : {Y}\nreturn %y")
    unchanged(Fuse(residual=False), graph)
    unchanged(Fuse({"c": get_qconfig("int8"), "y": None}), graph, "%c has another qconfig")
    assert len(apply(Fuse({"c": get_qconfig("int8"), "y": get_qconfig("int8")}), graph)) == 1


def chain(blocks: int) -> Graph:
    """conv-free residual blocks: linear, add, relu."""
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
    """All passes from float to integer, on 2x as many nodes: 2x the lines, where one quadratic pass would tend to
    4x.
    """
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
