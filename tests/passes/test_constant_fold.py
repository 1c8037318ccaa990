"""constant-fold gives the bits of the interpreter; and what it leaves."""

from __future__ import annotations

import numpy as np

from qcompiler.interpreter import run
from qcompiler.passes.constant_fold import ConstantFold
from tests.passes.pass_texts import apply, load, unchanged

X = "%x: f32[4]"


def test_variables_dequantize_and_large_results_stay() -> None:
    unchanged(ConstantFold(), load(X, "const @a : f32[4]\n%y = add(%x, @a) : f32[4]\nreturn %y"), "%x is not constant")
    unchanged(
        ConstantFold(),
        load(
            X,
            """
        const @a : i8[4]{scale=0.5}
        %d = dequantize(@a) : f32[4]
        %y = add(%x, %d) : f32[4]
        return %y""",
            "qdq",
        ),
    )
    graph = load(X, "const @a : f32[1]\n%t = tile(@a) {repeats=(64,)} : f32[64]\nreturn %t")
    unchanged(ConstantFold(max_bytes=255), graph, "256 bytes are more than 255")
    assert np.array_equal(
        run(apply(ConstantFold(max_bytes=256), graph), [np.zeros(4, np.float32)])[0],
        run(graph, [np.zeros(4, np.float32)])[0],
    )
