"""The mutation methods of a graph: names, order and use lists stay right through each of them and through any mix."""

from __future__ import annotations

import random

import numpy as np
import pytest

from qcompiler.errors import ShapeError, VerifyError
from qcompiler.ir import Const, Graph, Loc, Node, Origin, Value
from qcompiler.types import DType, TensorType, tensor
from qcompiler.verify import verify

F32 = tensor("f32", 2)


def chain() -> tuple[Graph, Value, Node, Node, Node]:
    """The graph x -> relu a -> add b (a + c) -> neg y."""
    graph = Graph("g")
    x = graph.add_input("x", F32)
    c = graph.add_const("c", np.ones(2, np.float32))
    a = graph.create("relu", [x], names="a", loc=Loc("m.py", 3), origin=[Origin("net.a", "ReLU")])
    b = graph.create("add", [a.result, c], names="b")
    y = graph.create("neg", [b.result], names="y")
    graph.set_outputs([y.result])
    return graph, x, a, b, y


def slots(value: Value) -> list[tuple[str, int]]:
    return [(use.node.name, use.index) for use in value.uses]


def check_uses(graph: Graph) -> None:
    """Check the use lists, counted anew from the operands, and the linked list in both directions."""
    expected: dict[int, list[tuple[int, int]]] = {id(value): [] for value in graph.values()}
    for node in graph.node_list:
        for index, value in enumerate(node.operands):
            if value is not None:
                expected[id(value)].append((id(node), index))
    for value in graph.values():
        assert sorted((id(use.node), use.index) for use in value.uses) == sorted(expected[id(value)]), value
    backward, node = [], graph._last
    while node is not None:
        backward.append(node)
        node = node._prev
    assert backward[::-1] == graph.node_list and len(graph) == len(graph.node_list)


# -- creating


def test_create_links_names_and_uses() -> None:
    graph, x, a, b, y = chain()
    assert graph.node_list == [a, b, y] and len(graph) == 3
    assert slots(x) == [("a", 0)] and slots(a.result) == [("b", 0)] and a.result.users == (b,)
    assert (a.result.producer, a.result.index, a.name) == (a, 0, "a")
    assert a.describe() == "%a = relu at m.py:3" and graph.value("b") is b.result
    check_uses(graph)


def test_create_before_and_after() -> None:
    graph, x, a, b, y = chain()
    first = graph.create("neg", [x], before=a, names="first")
    last = graph.create("neg", [y.result], after=y, names="last")
    middle = graph.create("neg", [a.result], after=a, names="middle")
    assert [node.name for node in graph.nodes] == ["first", "a", "middle", "b", "y", "last"]
    assert graph.node_list[0] is first and graph.node_list[-1] is last and middle.graph is graph
    check_uses(graph)


def test_taken_names_get_a_suffix_and_names_are_freed() -> None:
    graph, x, a, *_ = chain()
    assert graph.create("neg", [x], names="a").name == "a_1"
    assert graph.create("neg", [x], names="a").name == "a_2"
    graph.erase(graph.node_list[-1])
    assert graph.fresh_name("y") == "y_1" and graph.fresh_name("new") == "new"
    with pytest.raises(VerifyError, match="taken"):
        graph.add_input("c", F32)
    with pytest.raises(VerifyError, match="name too long"):
        graph.add_input("x" * 1025, F32)
    assert graph.add_const("c", np.zeros(1, np.float32)).name == "c_1"


def test_several_results_have_the_names_of_the_op_and_result_refuses() -> None:
    graph = Graph()
    x = graph.add_input("x", tensor("f32", 2, 3, 4))
    weights = [graph.add_input(f"w{size}", tensor("f32", 5, size)) for size in (4, 5)]
    node = graph.create("rnn", [x, *weights], names="s")
    assert [value.name for value in node.results] == ["s.y", "s.h"] and node.results[1].index == 1
    with pytest.raises(VerifyError, match="2 results"):
        _ = node.result


def test_a_failed_create_leaves_the_graph_alone() -> None:
    graph, x, *_ = chain()
    before = str(graph)
    for op, operands, attrs in (
        ("add", [x, graph.add_input("z", tensor("f32", 3))], {}),
        ("relu", [x], {"nonsense": 1}),
        ("relu", [x, x], {}),
        ("no_such_op", [x], {}),
    ):
        with pytest.raises(VerifyError):
            graph.create(op, operands, attrs)
    graph.inputs.pop()
    graph._names.discard("z")
    assert str(graph) == before
    check_uses(graph)


def test_trailing_absent_operands_are_dropped() -> None:
    graph = Graph()
    x, w = graph.add_input("x", tensor("f32", 1, 4)), graph.add_const("w", np.ones((3, 4), np.float32))
    node = graph.create("linear", [x, w, None])
    assert node.operands == (x, w) and node.operand("bias") is None and node.operand("weight") is w


# -- changing


def test_set_operand_moves_the_use() -> None:
    graph, x, a, b, _ = chain()
    graph.set_operand(b, 0, x)
    assert slots(x) == [("a", 0), ("b", 0)] and slots(a.result) == []
    graph.set_operand(b, 1, x)
    assert slots(x) == [("a", 0), ("b", 0), ("b", 1)] and x.users == (a, b) and not graph.consts["c"].uses
    check_uses(graph)


def test_set_operand_appends_an_optional_one() -> None:
    graph = Graph()
    x, w = graph.add_input("x", tensor("f32", 1, 4)), graph.add_const("w", np.ones((3, 4), np.float32))
    bias = graph.add_const("b", np.ones(3, np.float32))
    node = graph.create("linear", [x, w])
    graph.set_operand(node, 3, bias)
    assert node.operands == (x, w, None, bias) and slots(bias) == [("linear", 3)]
    graph.set_operand(node, 3, None)
    assert not bias.uses
    check_uses(graph)


def test_replace_uses_takes_outputs_along_unless_restricted() -> None:
    graph, x, a, b, y = chain()
    graph.set_outputs([a.result, y.result], ["p", "q"])
    graph.replace_uses(a.result, x, only=lambda use: use.node is b)
    assert b.operands[0] is x and graph.outputs[0] is a.result
    graph.replace_uses(a.result, x)
    assert graph.outputs == (x, y.result) and graph.output_names == ["p", "q"] and not a.result.uses
    check_uses(graph)


def test_replace_keeps_name_place_loc_and_uses() -> None:
    graph, _, a, b, _ = chain()
    new = graph.replace(a, "sigmoid", a.operands)
    assert graph.node_list[0] is new and new.name == "a" and b.operands[0] is new.result
    assert new.loc == Loc("m.py", 3) and new.origin == (Origin("net.a", "ReLU"),) and a.graph is None
    verify(graph)
    pair = graph.create("relu", new.operands, types=[F32, F32])
    with pytest.raises(VerifyError, match="neg has 1 results, relu 2"):
        graph.replace(pair, "neg", new.operands)


def test_erase_refuses_what_is_used() -> None:
    graph, x, a, b, y = chain()
    for node in (a, b, y):
        with pytest.raises(VerifyError, match="still used"):
            graph.erase(node)
    graph.set_outputs([b.result])
    graph.erase(y)
    assert [node.name for node in graph.nodes] == ["a", "b"] and not b.result.uses and graph.fresh_name("y") == "y"
    with pytest.raises(VerifyError, match="still used"):
        graph.erase_const(graph.consts["c"])
    graph.set_operand(b, 1, x)
    graph.erase_unused_consts()
    assert not graph.consts and graph.fresh_name("c") == "c"
    check_uses(graph)


def test_nodes_erased_during_a_loop_are_skipped_and_new_ones_not_visited() -> None:
    graph, _, _, b, y = chain()
    graph.set_outputs([b.result])
    seen = []
    for node in graph.nodes:
        seen.append(node.name)
        if node.name == "a":
            graph.erase(y)
            graph.create("neg", [b.result], names="new")
    assert seen == ["a", "b"]


def test_rename_moves_constants_and_refuses_taken_names() -> None:
    graph, x, a, *_ = chain()
    graph.rename(graph.consts["c"], "d")
    graph.rename(a.result, "c")
    graph.rename(x, "x")
    assert list(graph.consts) == ["d"] and graph.consts["d"].name == "d" and a.name == "c"
    with pytest.raises(VerifyError, match="taken"):
        graph.rename(x, "d")
    verify(graph)


def test_types_and_attrs_are_set_through_the_graph() -> None:
    graph = Graph()
    x = graph.add_input("x", tensor("f32", 2, 3))
    node = graph.create("softmax", [x], {"axis": 1})
    graph.set_attr(node, "axis", 0)
    assert node.attrs["axis"] == 0
    with pytest.raises(VerifyError, match="axes"):
        graph.set_attr(node, "axes", 0)
    with pytest.raises(VerifyError, match="changes only with its data"):
        graph.set_type(graph.add_const("c", np.ones(2, np.float32)), F32)


def test_value_names_the_nearest() -> None:
    graph = chain()[0]
    with pytest.raises(VerifyError, match="known: .*y"):
        graph.value("yy")


# -- constants


def test_constants_are_read_only_copies_that_fit_their_type() -> None:
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    const = Const("c", tensor("f32", 2, 3), data)
    data[0, 0] = 9
    assert const.data[0, 0] == 0 and not const.data.flags.writeable
    assert Const("t", tensor("f32", 3, 2), data.T).data.flags.c_contiguous
    with pytest.raises(VerifyError, match="does not fit its type"):
        Const("c", tensor("f32", 3, 2), data)
    with pytest.raises(VerifyError, match="does not fit its type"):
        Const("c", tensor("i8", 2, 3), data)
    frozen = np.ones(3, np.float32)
    frozen.setflags(write=False)
    assert Const("c", tensor("f32", 3), frozen).data is frozen, "read-only data is shared"


def test_extremes_follow_the_data() -> None:
    const = Const("c", tensor("i8", 3), np.array([-7, 0, 5], np.int8))
    assert (const.least(), const.largest()) == (-7, 5)
    const.data = np.array([1, 2, 3], np.int8)
    assert (const.least(), const.largest()) == (1, 3)


# -- copies


def test_a_clone_is_equal_and_independent() -> None:
    graph, *_ = chain()
    copy = graph.clone()
    assert str(copy) == str(graph) and copy.consts["c"].data is graph.consts["c"].data
    copy.rename(copy.inputs[0], "other")
    copy.replace_uses(copy.node_list[0].result, copy.inputs[0])
    copy.erase(copy.node_list[0])
    assert len(graph) == 3 and graph.inputs[0].name == "x"
    check_uses(graph)
    check_uses(copy)
    verify(copy)
    renamed = graph.clone(stage="observed", name="h")
    assert (renamed.stage, renamed.name, graph.stage) == ("observed", "h", "float")


def test_splice_renames_what_is_taken() -> None:
    graph, *_ = chain()
    other, x, a, *_ = chain()
    mapping: dict[int, Value] = {id(graph.inputs[0]): a.result, id(graph.consts["c"]): other.consts["c"]}
    graph.splice_into(other, mapping)
    assert [node.name for node in other.nodes] == ["a", "b", "y", "a_1", "b_1", "y_1"]
    assert mapping[id(graph.node_list[-1].result)].name == "y_1"
    check_uses(other)
    verify(other)


def test_a_module_has_an_entry() -> None:
    from qcompiler.ir import Module

    graph = chain()[0]
    assert Module({"g": graph}, "g").main is graph


@pytest.mark.parametrize("seed", range(20))
def test_any_mix_of_mutations_keeps_the_lists_right(seed: int) -> None:
    """One graph is edited 200 times at random. Use lists, links and names are counted anew after each edit."""
    rng = random.Random(seed)
    graph, *_ = chain()
    for _ in range(200):
        nodes = graph.node_list
        kind = rng.randrange(6)
        anchor = rng.choice(nodes)
        earlier = [*graph.inputs, *graph.consts.values()]
        for node in nodes:
            if node is anchor:
                break
            earlier += node.results
        if kind == 0:
            graph.create("add", [rng.choice(earlier), rng.choice(earlier)], before=anchor)
        elif kind == 1:
            graph.set_operand(anchor, rng.randrange(len(anchor.operands)), rng.choice(earlier))
        elif kind == 2:
            graph.replace_uses(anchor.result, rng.choice(earlier), only=lambda use: rng.random() < 0.5)
        elif kind == 3 and len(anchor.operands) == 1:
            graph.replace(anchor, rng.choice(["relu", "neg", "abs"]), anchor.operands)
        elif kind == 4 and not anchor.result.uses and not graph.is_output(anchor.result):
            graph.erase(anchor)
        elif kind == 5:
            graph.rename(rng.choice(list(graph.values())), graph.fresh_name(f"n{rng.randrange(50)}"))
        check_uses(graph)
    verify(graph)


def test_dim_names_are_those_of_the_inputs() -> None:
    graph = Graph()
    graph.add_input("x", tensor("f32", "S", 2))
    graph.add_input("y", TensorType(DType.F32, tensor("f32", "B").shape))
    assert graph.dim_names == ("B", "S")


def test_shape_errors_come_from_the_op() -> None:
    graph, x, *_ = chain()
    with pytest.raises(ShapeError):
        graph.create("reshape", [x], {"shape": (3,)})
