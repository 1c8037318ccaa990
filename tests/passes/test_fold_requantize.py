"""fold-requantize: into tables exactly, into ops within one code."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.interpreter import run
from qcompiler.passes.fold_requantize import FoldRequantize
from tests.passes.pass_texts import apply, check_text, draw, load, same_bits, unchanged

Q, P = "{scale=0.0625, zero_point=128}", "{scale=0.5, zero_point=3}"
X = f"%x: u8[2,8]{Q}"


def test_before_and_after() -> None:
    graph = load(
        X,
        f"""
        const @w : i8[4,8]{{scale=0.01, qmin=-127, qmax=127}}
        %y = linear(%x, @w) : u8[2,4]{{scale=0.1, zero_point=100}} loc("m.py":2)
        %z = requantize(%y) : u8[2,4]{P}
        %o = dequantize(%z) : f32[2,4]
        return %o""",
        "integer",
    )
    after = apply(FoldRequantize(), graph)
    check_text(
        after,
        X,
        f"""
        const @w : i8[4,8]{{scale=0.01, qmin=-127, qmax=127}}
        %y = linear(%x, @w) : u8[2,4]{P} loc("m.py":2)
        %o = dequantize(%y) : f32[2,4]
        return %o""",
    )
    one, other = (run(g, draw(graph))[0] for g in (graph, after))
    assert np.abs(one - other).max() <= 0.5 and len(np.unique(other)) > 2


def test_tables_on_both_sides_are_exact() -> None:
    graph = load(
        X,
        f"""
        const @t : u8[256]
        const @u : i8[256]
        %a = lookup(%x, @t) : u8[2,8]{Q}
        %b = requantize(%a) : u8[2,8]{P}
        %c = requantize(%x) : i8[2,8]{{scale=0.125}}
        %d = lookup(%c, @u) : i8[2,8]{{scale=0.25}}
        return %b, %d""",
        "integer",
        t=np.arange(256)[::-1],
        u=np.arange(256) // 2,
    )
    after = apply(FoldRequantize(), graph)
    assert [node.op for node in after.nodes] == ["lookup", "lookup"]
    every = [
        np.arange(256, dtype=np.uint8).reshape(16, 16)[i : i + 2, j : j + 8] for i in range(0, 16, 2) for j in (0, 8)
    ]
    for codes in every:
        for one, other in zip(run(graph, [codes]), run(after, [codes])):
            assert one.dtype == other.dtype and np.array_equal(one, other)


def test_a_quantize_takes_the_final_parameters() -> None:
    graph = load(
        "%x: f32[2,8]",
        f"""
        %q = quantize(%x) : u8[2,8]{Q}
        %r = requantize(%q) : u8[2,8]{P}
        return %r""",
        "integer",
    )
    check_text(apply(FoldRequantize(), graph), "%x: f32[2,8]", f'%q = quantize(%x) : u8[2,8]{P}\nreturn %q as "r"')


@pytest.mark.parametrize(
    "body, reason",
    [
        (
            f"%t = transpose(%x) {{perm=(1, 0)}} : u8[8,2]{Q}\n%r = requantize(%t) : u8[8,2]{P}\nreturn %r",
            "transpose of %t does not choose its parameters",
        ),
        (f"%r = requantize(%x) : u8[2,8]{P}\nreturn %r", "%x is an input of the graph"),
        (
            f"%t = add(%x, %x) : u8[2,8]{Q}\n%r = requantize(%t) : u8[2,8]{P}\nreturn %r, %t",
            "%t is an output of the graph",
        ),
    ],
)
def test_left_alone(body: str, reason: str) -> None:
    graph = load(X, body, "integer")
    unchanged(FoldRequantize(), graph, reason)
    same_bits(graph, apply(FoldRequantize(), graph))
