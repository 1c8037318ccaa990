"""equalize keeps the bits and makes ranges alike."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.ir import Graph
from qcompiler.opdef import op_of
from qcompiler.passes.equalize import Equalize, _column_ranges, _row_ranges
from tests.passes.pass_texts import apply, check_text, load, same_bits, unchanged

X = "%x: f32[1,4,6,6]"


def spread(graph: Graph) -> float:
    """The largest ratio of the ranges on the two sides of a channel, over all pairs of neighbours."""
    layers = [node for node in graph.nodes if node.op in ("conv", "conv_transpose", "linear")]
    ratios = [_row_ranges(op_of(a)) / _column_ranges(op_of(b)) for a, b in zip(layers, layers[1:])]
    return float(max(np.maximum(r, 1 / r).max() for r in ratios))


def uneven(shape: tuple[int, ...], axis: int, seed: int) -> np.ndarray:
    """A weight whose channels along `axis` differ by factors of up to 2^8."""
    rng = np.random.default_rng(seed)
    gains = 2.0 ** np.linspace(-4, 4, shape[axis])
    return rng.uniform(-1, 1, shape) * gains.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def test_before_and_after() -> None:
    graph = load(
        X,
        """
        const @u : f32[6,4,3,3]
        const @b : f32[6]
        const @v : f32[4,6,1,1]
        %a = conv(%x, @u, @b) {CONV, activation="relu"} : f32[1,6,4,4]
        %p = max_pool(%a) {kernel=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)), dilation=(1, 1)} : f32[1,6,2,2]
        %y = conv(%p, @v) {CONV} : f32[1,4,2,2]
        return %y""",
        u=uneven((6, 4, 3, 3), 0, 1),
        v=uneven((4, 6, 1, 1), 1, 2)[:, ::-1],
    )
    after = apply(Equalize(), graph)
    check_text(
        after,
        X,
        """
        const @u.equal : f32[6,4,3,3]
        const @b.equal : f32[6]
        const @v.equal : f32[4,6,1,1]
        %a = conv(%x, @u.equal, @b.equal) {CONV, activation="relu"} : f32[1,6,4,4]
        %p = max_pool(%a) {kernel=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)), dilation=(1, 1)} : f32[1,6,2,2]
        %y = conv(%p, @v.equal) {CONV} : f32[1,4,2,2]
        return %y""",
    )
    same_bits(graph, after)
    assert spread(graph) > 100 and spread(after) <= 2.0 + 1e-6


@pytest.mark.parametrize(
    "first, second",
    [
        (
            "const @u : f32[8,1,3,3]\n%a = conv(%x, @u) {CONV, groups=4} : f32[1,8,4,4]",
            "const @v : f32[8,1,1,1]\n%y = conv(%a, @v) {CONV, groups=8} : f32[1,8,4,4]",
        ),
        (
            "const @u : f32[2,8,2,2]\n"
            "%a = conv_transpose(%x, @u) {CONV, groups=2, output_padding=(0, 0)} : f32[1,8,7,7]",
            "const @v : f32[6,4,1,1]\n%y = conv(%a, @v) {CONV, groups=2} : f32[1,6,7,7]",
        ),
        (
            "const @u : f32[8,4,1,1]\n%a = conv(%x, @u) {CONV} : f32[1,8,6,6]",
            "const @v : f32[4,6,1,1]\n"
            "%y = conv_transpose(%a, @v) {CONV, groups=2, output_padding=(0, 0)} : f32[1,6,6,6]",
        ),
    ],
    ids=["depthwise", "transposed first", "transposed second"],
)
def test_groups(first: str, second: str) -> None:
    lines = (first + "\n" + second).split("\n")
    body = "\n".join([lines[0], lines[2], lines[1], lines[3], "return %y"])
    text_shape = tuple(map(int, lines[0].split("[")[1].rstrip("]").split(",")))
    axis = 1 if "conv_transpose(%x" in first else 0
    graph = load(X, body, u=uneven(text_shape, axis, 4))
    after = apply(Equalize(), graph)
    same_bits(graph, after)
    assert spread(after) <= 2.0 + 1e-6 < spread(graph)


@pytest.mark.parametrize(
    "between, out, reason",
    [
        (
            '%a = conv(%x, @u) {CONV, activation="relu6"} : f32[1,4,6,6]',
            "%y",
            "the activation relu6 of %a does not scale",
        ),
        ("%a = conv(%x, @u) {CONV} : f32[1,4,6,6]", "%y, %a", "%a is an output of the graph"),
        ("%a = conv(%x, @u, none, %x) {CONV} : f32[1,4,6,6]", "%y", "%a adds a residual"),
        ("%b = conv(%x, @u) {CONV} : f32[1,4,6,6]\n%a = exp(%b) : f32[1,4,6,6]", "%y", "exp of %a stands between"),
    ],
)
def test_left_alone(between: str, out: str, reason: str) -> None:
    graph = load(
        X,
        f"const @u : f32[4,4,1,1]\nconst @v : f32[4,4,1,1]\n{between}\n"
        f"%y = conv(%a, @v) {{CONV}} : f32[1,4,6,6]\nreturn {out}",
        u=uneven((4, 4, 1, 1), 0, 1),
    )
    unchanged(Equalize(), graph, reason)


def test_layers_that_share_a_weight_are_left_alone() -> None:
    graph = load(
        X,
        "const @u : f32[4,4,1,1]\n%a = conv(%x, @u) {CONV} : f32[1,4,6,6]\n"
        "%y = conv(%a, @u) {CONV} : f32[1,4,6,6]\nreturn %y",
        u=uneven((4, 4, 1, 1), 0, 1),
    )
    unchanged(Equalize(), graph, "both layers share a weight")
