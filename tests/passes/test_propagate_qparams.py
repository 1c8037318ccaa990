"""propagate-qparams moves parameters up, down, and between equals, always with the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.interpreter import run
from qcompiler.ops.quantized import Quantize
from qcompiler.passes.propagate_qparams import PropagateQparams
from tests.passes.pass_texts import apply, load, same_bits, unchanged

Q = "{scale=0.0625, zero_point=128}"


class Step(PropagateQparams):
    """A pass that gives `unchanged` the reasons of every quantize."""

    name = "propagate-qparams"

    def explain(self, graph):
        from qcompiler.passes.rewrite import Refusal

        return [
            Refusal(n.name, n.op, "", str(self.match_up(graph, Quantize(n)))) for n in graph.nodes if n.op == "quantize"
        ]


def test_a_border_is_quantized_with_the_rest() -> None:
    graph = load(
        "%x: f32[4]",
        f"%p = pad(%x) {{padding=((1, 1),), value=0.3}} : f32[6]\n%q = quantize(%p) : u8[6]{Q}\nreturn %q",
        "qdq",
    )
    after = apply(PropagateQparams(), graph)
    assert [node.op for node in after.nodes] == ["quantize", "dequantize", "pad", "quantize"]
    same_bits(graph, after)


def test_a_gather_from_a_constant_table_moves_up() -> None:
    graph = load(
        "%i: i64[3]",
        f"""
        const @table : f32[10,4]
        %g = gather(@table, %i) {{axis=0}} : f32[3,4]
        %q = quantize(%g) : u8[3,4]{Q}
        return %q""",
        "qdq",
    )
    after = apply(PropagateQparams(), graph)
    assert [node.op for node in after.nodes] == ["quantize", "dequantize", "gather", "quantize"]
    indices = [np.array([3, 0, 9])]
    assert np.array_equal(run(graph, indices)[0], run(after, indices)[0])


@pytest.mark.parametrize(
    "body, reason",
    [
        (f"%e = exp(%x) : f32[2,8]\n%q = quantize(%e) : u8[2,8]{Q}\nreturn %q", "not made by an op that moves data"),
        (
            f"%t = transpose(%x) {{perm=(1, 0)}} : f32[8,2]\n%q = quantize(%t) : u8[8,2]{Q}\nreturn %q, %t",
            "%t has other readers",
        ),
        (
            f"%t = slice(%x) {{axes=(0,), starts=(0,), stops=(1,), steps=(1,)}} : f32[1,8]\n"
            f"%q = quantize(%t) : u8[1,8]{Q}\nreturn %q",
            "slice picks from a float value",
        ),
    ],
)
def test_left_alone(body: str, reason: str) -> None:
    unchanged(Step(), load("%x: f32[2,8]", body, "qdq"), reason)


def test_running_it_twice_changes_nothing_more() -> None:
    graph = load(
        "%x: f32[2,8]",
        f"""
        %t = transpose(%x) {{perm=(1, 0)}} : f32[8,2]
        %q = quantize(%t) : u8[8,2]{Q}
        %d = dequantize(%q) : f32[8,2]
        %r = reshape(%d) {{shape=(16,)}} : f32[16]
        return %r""",
        "qdq",
    )
    once = apply(PropagateQparams(), graph)
    same_bits(graph, once)
    unchanged(PropagateQparams(), once)


@pytest.mark.parametrize("value, moves", [(0.0, True), (0.125, True), (0.3, False), (-np.inf, False), (99.0, False)])
def test_a_border_that_is_no_code_stays_float(value: float, moves: bool) -> None:
    graph = load(
        f"%x: u8[4]{Q}",
        f"%d = dequantize(%x) : f32[4]\n%p = pad(%d) {{padding=((1, 1),), value={value}}} : f32[6]\nreturn %p",
        "qdq",
    )
    after = apply(PropagateQparams(), graph)
    assert [node.op for node in after.nodes][2:] == (["quantize", "dequantize"] if moves else [])
    same_bits(graph, after)


def test_codes_wider_than_quantize_gives_stay_behind_a_mover() -> None:
    body = """
    %d = dequantize(%x) : f32[2,8]
    %t = transpose(%d) {perm=(1, 0)} : f32[8,2]
    return %t"""
    unchanged(PropagateQparams(), load("%x: i32[2,8]{scale=0.5}", body, "qdq"))
