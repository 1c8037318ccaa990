"""Lowering refuses tables that would take more memory than the program has reason to, before it computes them."""

from __future__ import annotations

import time

import pytest

import qcompiler as qc
from qcompiler.errors import LoweringError

NODES = {
    "trilu": ("f32[40000,40000]", "trilu(%x) {upper=true}"),
    "max pool": ("f32[1,1,40000,40000]", "max_pool(%x) {kernel=(20000, 20000), stride=(1, 1), "
                 "padding=((0, 0), (0, 0)), dilation=(1, 1)}"),
    "average pool": ("f32[1,1,1000000000]", "avg_pool(%x) {kernel=(3,), stride=(1,), padding=((0, 0),)}"),
    "adaptive pool": ("f32[1,1,1000000000]", "adaptive_avg_pool(%x) {output_size=(900000000,)}"),
    "linear resize": ("f32[1,1,2]", 'resize(%x) {size=(1073741824,), mode="bilinear"}'),
    "nearest resize": ("f32[1,1,2]", 'resize(%x) {size=(1073741824,), mode="nearest"}'),
}  # fmt: skip


@pytest.mark.parametrize("kind", NODES)
def test_large_tables_are_refused_at_once(kind: str) -> None:
    type, node = NODES[kind]
    graph = qc.parse(f"qcompiler 1\ngraph g(%x: {type}) stage=float {{\n  %y = {node}\n  return %y\n}}\n")
    began = time.process_time()
    with pytest.raises(LoweringError, match="table that the program needs is too large"):
        qc.compile(graph, None)
    assert time.process_time() - began < 5
