"""canonicalize removes identities, names clamps, and merges moves."""

from __future__ import annotations

from qcompiler.passes.canonicalize import Canonicalize


def test_maximum_with_zero_is_relu() -> None:
    import numpy as np

    import qcompiler as qc

    x = np.array([[-1.0, 2.0, np.nan]], np.float32)
    for function in (lambda a: np.maximum(a, 0), lambda a: np.maximum(0.0, a)):
        graph = qc.trace(function, (x,))
        after = Canonicalize().run(graph.clone())
        assert [node.op for node in after.nodes] == ["relu"]
        assert np.array_equal(qc.interpret(after, [x])[0], qc.interpret(graph, [x])[0], equal_nan=True)
    kept = Canonicalize().run(qc.trace(lambda a: np.maximum(a, 1.0), (x,)))
    assert [node.op for node in kept.nodes] == ["maximum"]
