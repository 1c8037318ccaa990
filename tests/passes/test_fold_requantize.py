"""fold-requantize folds into tables exactly, and into ops within one code."""

from __future__ import annotations

import numpy as np

from qcompiler.interpreter import run
from qcompiler.passes.fold_requantize import FoldRequantize
from tests.passes.pass_texts import apply, load, unchanged

Q, P = "{scale=0.0625, zero_point=128}", "{scale=0.5, zero_point=3}"
X = f"%x: u8[2,8]{Q}"


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


def test_the_roundings_of_imported_graphs_all_stay() -> None:
    graph = load(
        X,
        f"""
        %a = add(%x, %x) : u8[2,8]{Q}
        %b = requantize(%a) : u8[2,8]{P}
        return %b""",
        "integer",
    )
    assert [node.op for node in apply(FoldRequantize(), graph).nodes] == ["add"]
    unchanged(FoldRequantize(exact=True), graph, "would round once instead of twice")
