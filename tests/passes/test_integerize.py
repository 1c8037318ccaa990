"""integerize: dq-op-q to integer ops, chains to tables, what stays float and why."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.ir import Graph
from qcompiler.notes import KeptFloat
from qcompiler.passes.integerize import Integerize
from tests.passes.pass_texts import apply, check_text, load, same_bits, within_one_code

Q, P = "{scale=0.0625, zero_point=128}", "{scale=0.5, zero_point=3}"
X = f"%x: u8[2,8]{Q}"


def test_a_chain_of_unary_ops_is_one_table() -> None:
    graph = load(
        X,
        """
        const @two : f32[]
        %d = dequantize(%x) : f32[2,8]
        %a = tanh(%d) : f32[2,8] loc("m.py":1) origin("a":"Tanh")
        %b = sub(@two, %a) : f32[2,8]
        %c = exp(%b) : f32[2,8] loc("m.py":3) origin("c":"exp")
        %q = quantize(%c) : u8[2,8]{scale=0.05}
        return %q""",
        "qdq",
        two=2.0,
    )
    after = apply(Integerize(), graph)
    check_text(
        after,
        X,
        """
        const @c.table : u8[256]
        %c = lookup(%x, @c.table) : u8[2,8]{scale=0.05} loc("m.py":3) origin("a":"Tanh", "c":"exp")
        return %c as "q"
        """,
    )
    every = np.arange(256, dtype=np.uint8)
    real = (every.astype(np.float64) - 128) * 0.0625
    assert np.array_equal(
        after.consts["c.table"].data, np.clip(np.rint(np.exp(2 - np.tanh(real)) / np.float32(0.05)), 0, 255)
    )
    within_one_code(graph, after)


def test_a_chain_read_in_the_middle_is_two_tables() -> None:
    graph = load(
        X,
        """
        %d = dequantize(%x) : f32[2,8]
        %a = tanh(%d) : f32[2,8]
        %a.q = quantize(%a) : u8[2,8]{scale=0.0078125, zero_point=128}
        %a.dq = dequantize(%a.q) : f32[2,8]
        %b = exp(%a.dq) : f32[2,8]
        %q = quantize(%b) : u8[2,8]{scale=0.0125}
        return %q, %a.q""",
        "qdq",
    )
    after = apply(Integerize(), graph)
    assert [node.op for node in after.nodes] == ["lookup", "lookup"]
    within_one_code(graph, after)


OPS = {
    "add": ("%y = add(%d, %e) : f32[2,8]", "f32[2,8]"),
    "residual": ("%y = linear(%d, %w.dq, none, %e) : f32[2,8]", "f32[2,8]"),
    "concat": ("%y = concat(%d, %d) {axis=0} : f32[4,8]", "f32[4,8]"),
    "softmax": ("%y = softmax(%d) {axis=1} : f32[2,8]", "f32[2,8]"),
    "mean": ("%y = mean(%d) {axes=(1,)} : f32[2]", "f32[2]"),
}


@pytest.mark.parametrize("case", [name for name in OPS])
def test_ops(case: str) -> None:
    line, type = OPS[case]
    weight = "const @w : i8[8,8]{scale=0.01, qmin=-127, qmax=127}\n" if "%w" in line else ""
    feed = "%w.dq = dequantize(@w) : f32[8,8]\n" if "%w" in line else ""
    out = Q if case == "concat" else "{scale=0.00390625}" if case == "softmax" else P
    graph = load(
        f"{X}, %z: u8[2,8]{Q}",
        f"""{weight}%d = dequantize(%x) : f32[2,8]
%e = dequantize(%z) : f32[2,8]
{feed}{line}
%q = quantize(%y) : u8{type.removeprefix("f32")}{out}
return %q""",
        "qdq",
    )
    after = apply(Integerize(), graph)
    assert [node.op for node in after.nodes] == [{"residual": "linear"}.get(case, case)]
    within_one_code(graph, after)


def float_note(graph: Graph, name: str) -> str:
    return next(note.reason for note in graph.notes if isinstance(note, KeptFloat) and note.node == name)


LEFT_FLOAT = {
    "a float operand": (
        f"%y = add(%d, %f) : f32[2,8]\n%q = quantize(%y) : u8[2,8]{P}\nreturn %q",
        "its operand y is float",
    ),
    "another reader": (
        f"%y = add(%d, %d) : f32[2,8]\n%q = quantize(%y) : u8[2,8]{P}\nreturn %q, %y",
        "its float result has other readers",
    ),
    "no meaning": (
        f"%y = prod(%d) {{axes=(1,), keepdims=true}} : f32[2,1]\n%q = quantize(%y) : u8[2,1]{P}\nreturn %q",
        "prod has no integer meaning",
    ),
    "other parameters": (
        f"%y = transpose(%d) {{perm=(1, 0)}} : f32[8,2]\n%q = quantize(%y) : u8[8,2]{P}\nreturn %q",
        None,
    ),
    "read as float": ("%y = add(%d, %d) : f32[2,8]\nreturn %y", "its float result has other readers"),
}


@pytest.mark.parametrize("case", LEFT_FLOAT)
def test_left_float(case: str) -> None:
    body, reason = LEFT_FLOAT[case]
    graph = load(f"{X}, %f: f32[2,8]", f"%d = dequantize(%x) : f32[2,8]\n{body}", "qdq")
    after = apply(Integerize(), graph)
    assert not next(node for node in after.nodes if node.name == "y").result.type.is_quantized
    if reason is not None:
        assert float_note(after, "y") == reason
        if "%q" in body:
            assert any(refusal.reason == reason for refusal in Integerize().explain(after))
    same_bits(graph, after)


def test_what_could_overflow_stays_float_with_float_weights() -> None:
    depth = 70_000
    graph = load(
        f"%x: u8[1,{depth}]{Q}",
        f"""
        const @w : i8[1,{depth}]{{scale=0.01, qmin=-127, qmax=127}}
        const @b : i32[1]{{scale=0.000625}}
        %x.dq = dequantize(%x) : f32[1,{depth}]
        %w.dq = dequantize(@w) : f32[1,{depth}]
        %b.dq = dequantize(@b) : f32[1]
        %y = linear(%x.dq, %w.dq, %b.dq) : f32[1,1]
        %q = quantize(%y) : u8[1,1]{{scale=512.0, zero_point=128}}
        return %q""",
        "qdq",
        w=np.full((1, depth), 127),
    )
    after = apply(Integerize(), graph)
    assert (
        float_note(after, "y")
        == f"its i32 accumulator could reach {depth * 127 * 255 + abs(int(graph.consts['b'].data[0]))}"
    )
    weight = next(node for node in after.nodes if node.op == "linear").operands[1]
    assert weight.is_const and weight.type.dtype.is_float
    same_bits(graph, after)
    short = load(
        f"%x: u8[1,8]{Q}",
        f"""
        const @w : i8[1,8]{{scale=0.01, qmin=-127, qmax=127}}
        %x.dq = dequantize(%x) : f32[1,8]
        %w.dq = dequantize(@w) : f32[1,8]
        %y = linear(%x.dq, %w.dq) : f32[1,1]
        %q = quantize(%y) : u8[1,1]{P}
        return %q""",
        "qdq",
        w=np.full((1, 8), 127),
    )
    assert apply(Integerize(), short).notes == []


def test_notes_of_nodes_that_became_integer_go() -> None:
    graph = load(
        X,
        f"""
        note "float: %t = transpose: its operand is float"
        note "guard: B > 1"
        %d = dequantize(%x) : f32[2,8]
        %t = transpose(%d) {{perm=(1, 0)}} : f32[8,2]
        %q = quantize(%t) : u8[8,2]{Q}
        return %q""",
        "qdq",
    )
    assert [note.text for note in apply(Integerize(), graph).notes] == ["guard: B > 1"]
