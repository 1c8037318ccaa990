"""insert-observers: which values get an observer, in which groups, and what stays float and why."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.ir import Graph
from qcompiler.notes import KeptFloat
from qcompiler.passes.insert_observers import InsertObservers
from qcompiler.quantization.qconfig import QConfig, get_qconfig
from tests.passes.pass_texts import apply, load, same_bits


def configs(graph: Graph, **given: QConfig | None) -> dict[str, QConfig | None]:
    return {node.name: given.get(node.name, get_qconfig("int8")) for node in graph.nodes}


def observe(graph: Graph, **given: QConfig | None) -> Graph:
    return apply(InsertObservers(configs(graph, **given)), graph)


def observed(graph: Graph) -> dict[str, str]:
    """The group of each observed value."""
    return {node.operands[0].name: node.attrs["group"] for node in graph.nodes if node.op == "observe"}


def test_concat_and_pool_share_a_group() -> None:
    graph = load(
        "%x: f32[1,4,4,4]",
        """
        const @w : f32[4,4,1,1]
        const @v : f32[4,4,1,1]
        %a = conv(%x, @w) {CONV} : f32[1,4,4,4]
        %b = conv(%x, @v) {CONV} : f32[1,4,4,4]
        %c = concat(%a, %b) {axis=1} : f32[1,8,4,4]
        %p = max_pool(%c) {kernel=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)), dilation=(1, 1)} : f32[1,8,2,2]
        return %p""",
    )
    assert observed(observe(graph)) == {"x": "x", "a": "a", "b": "a", "c": "a", "p": "a"}


def test_values_inside_a_table_have_no_observer() -> None:
    graph = load(
        "%x: f32[2,8]",
        """
        const @w : f32[8,8]
        const @two : f32[]
        %a = linear(%x, @w) : f32[2,8]
        %b = mul(%a, @two) : f32[2,8]
        %c = tanh(%b) : f32[2,8]
        %d = exp(%c) : f32[2,8]
        %y = linear(%d, @w) : f32[2,8]
        return %y""",
    )
    assert observed(observe(graph)) == {"x": "x", "a": "a", "d": "d", "y": "y"}
    assert set(observed(observe(graph, c=get_qconfig("torch:default")))) == {"x", "a", "b", "c", "d", "y"}


def test_values_read_twice_and_outputs_in_the_middle_are_observed_once() -> None:
    graph = load(
        "%x: f32[2,8]",
        """
        const @w : f32[8,8]
        %a = linear(%x, @w) : f32[2,8]
        %b = tanh(%a) : f32[2,8]
        %c = sigmoid(%b) : f32[2,8]
        %y = mul(%b, %c) : f32[2,8]
        return %b, %y, %a""",
    )
    after = observe(graph)
    assert observed(after) == {"x": "x", "a": "a", "b": "b", "y": "y"}
    assert [value.name for value in after.outputs] == ["b.obs", "y.obs", "a.obs"]
    same_bits(graph, after)


def test_a_node_without_qconfig_stays_float_and_what_follows_it_too() -> None:
    graph = load(
        "%x: f32[2,8]",
        """
        const @w : f32[8,8]
        %a = linear(%x, @w) : f32[2,8]
        %b = linear(%a, @w) : f32[2,8]
        %c = reshape(%b) {shape=(16,)} : f32[16]
        %d = reshape(%c) {shape=(2, 8)} : f32[2,8]
        %y = linear(%d, @w) : f32[2,8]
        return %y""",
    )
    after = observe(graph, b=None)
    assert observed(after) == {"x": "x", "a": "a", "d": "d", "y": "y"}
    assert after.notes == [
        KeptFloat("b", "linear", "its qconfig is None"),
        KeptFloat("c", "reshape", "its operand is float"),
        KeptFloat("d", "reshape", "its operand is float"),
    ]
    float_reads = next(node for node in after.nodes if node.name == "b").operands[0]
    assert float_reads.name == "a.obs", "a float node reads what the integer graph will have"


REASONS = {
    "no integer form": ("%y = log_softmax(%x) {axis=1} : f32[2,8]", "log_softmax has no integer form"),
    "variable weight": ("%y = linear(%x, %v) : f32[2,8]", "its weight is not constant"),
    "integers": ("%y = add(%i, %i) : i32[2,8]", "its values are not f32"),
    "constants": ("const @c : f32[2,8]\n%y = add(@c, @c) : f32[2,8]", "it reads constants only"),
    "no operand": ("%y = relu(%x) : f32[2,8]", "its operand is float"),
}


@pytest.mark.parametrize("case", REASONS)
def test_reasons(case: str) -> None:
    body, reason = REASONS[case]
    graph = load("%x: f32[2,8], %v: f32[8,8], %i: i32[2,8]", f"{body}\nreturn %y")
    after = observe(graph)
    assert observed(after) == {} and after.notes[0].reason == reason


MASKS = {
    "constant": (
        "const @mask : f32[4,4]\n%m = add(%s, @mask) : f32[4,4]",
        {"mask": np.triu(np.full((4, 4), -np.inf), 1)},
    ),
    "finite": ("const @mask : f32[4,4]\n%m = add(%s, @mask) : f32[4,4]", {"mask": np.triu(np.full((4, 4), -1e9), 1)}),
    "where": ("const @low : f32[]\n%m = where(%keep, %s, @low) : f32[4,4]", {"low": -np.inf}),
    "added where": (
        "const @low : f32[]\nconst @zero : f32[]\n%w = where(%keep, @zero, @low) : f32[4,4]\n"
        "%m = add(%s, %w) : f32[4,4]",
        {"low": -np.inf, "zero": 0.0},
    ),
    "arithmetic": (
        "const @one : f32[]\nconst @low : f32[]\n%kept = cast(%keep) {dtype=f32} : f32[4,4]\n"
        "%n = sub(@one, %kept) : f32[4,4]\n"
        "%w = mul(%n, @low) : f32[4,4]\n%m = add(%s, %w) : f32[4,4]",
        {"one": 1.0, "low": -10000.0},
    ),
}


@pytest.mark.parametrize("case", MASKS)
def test_masks_stay_out_of_quantized_ranges(case: str) -> None:
    lines, data = MASKS[case]
    consts = "\n".join(line for line in lines.split("\n") if line.startswith("const"))
    rest = "\n".join(line for line in lines.split("\n") if not line.startswith("const"))
    graph = load(
        "%q: f32[4,8], %k: f32[8,4], %v: f32[4,8], %keep: bool[4,4]",
        f"""{consts}
%s = matmul(%q, %k) : f32[4,4]
{rest}
%t = transpose(%m) {{perm=(1, 0)}} : f32[4,4]
%p = softmax(%t) {{axis=1}} : f32[4,4]
%y = matmul(%p, %v) : f32[4,8]
return %y""",
        **data,
    )
    after = observe(graph)
    assert set(observed(after)) == {"q", "k", "s", "p", "v", "y"}
    assert any(note.text.startswith("float: %p = softmax: %t holds a mask") for note in after.notes)


def test_ordinary_constants_are_no_masks() -> None:
    graph = load(
        "%x: f32[4,4]",
        """
        const @w : f32[4,4]
        const @c : f32[4,4]
        %a = linear(%x, @w) : f32[4,4]
        %y = add(%a, @c) : f32[4,4]
        return %y""",
        c=np.full((4, 4), -3000.0),
    )
    assert set(observed(observe(graph))) == {"x", "a", "c", "y"}
