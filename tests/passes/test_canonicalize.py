"""canonicalize: identities, clamps, merged moves."""

from __future__ import annotations

import pytest

from qcompiler.passes.canonicalize import Canonicalize
from tests.passes.pass_texts import apply, check_text, load, same_bits, unchanged

X = "%x: f32[2,3,4]"


def test_moves_of_moves_and_clamps() -> None:
    graph = load(
        X,
        """
        %a = reshape(%x) {shape=(2, 12)} : f32[2,12]
        %b = reshape(%a) {shape=(-1,)} : f32[24]
        %t = transpose(%x) {perm=(1, 2, 0)} : f32[3,4,2]
        %u = transpose(%t) {perm=(2, 1, 0)} : f32[2,4,3]
        %y = hardtanh(%b) {min_value=0.0, max_value=6.0} : f32[24]
        %z = hardtanh(%u) {min_value=0.0, max_value=inf} : f32[2,4,3]
        return %y, %z""",
    )
    after = apply(Canonicalize(), graph)
    check_text(
        after,
        X,
        """
        %b = reshape(%x) {shape=(24,)} : f32[24]
        %u = transpose(%x) {perm=(0, 2, 1)} : f32[2,4,3]
        %y = relu6(%b) : f32[24]
        %z = relu(%u) : f32[2,4,3]
        return %y, %z""",
    )
    same_bits(graph, after, high=8.0)


IDENTITIES = [
    "%a = reshape(%x) {shape=(2, 3, 4)} : f32[2,3,4]",
    "%a = expand(%x) {shape=(2, 3, 4)} : f32[2,3,4]",
    "%a = cast(%x) {dtype=f32} : f32[2,3,4]",
    "%a = dropout(%x) : f32[2,3,4]",
    "%a = transpose(%x) {perm=(0, 1, 2)} : f32[2,3,4]",
    "%a = pad(%x) {padding=((0, 0), (0, 0), (0, 0))} : f32[2,3,4]",
    "%a = slice(%x) {axes=(1,), starts=(0,), stops=(9,), steps=(1,)} : f32[2,3,4]",
    "%a = tile(%x) {repeats=(1, 1, 1)} : f32[2,3,4]",
    "%a = concat(%x) {axis=1} : f32[2,3,4]",
    '%a = resize(%x) {size=(4,), mode="nearest"} : f32[2,3,4]',
    "const @one : f32[1]\n%a = mul(%x, @one) : f32[2,3,4]",
    "const @one : f32[3,1]\n%a = div(%x, @one) : f32[2,3,4]",
]


@pytest.mark.parametrize("line", IDENTITIES)
def test_identities_go(line: str) -> None:
    ones = {"one": [1.0] if "f32[1]" in line else [1.0] * 3}
    graph = load(X, f"{line}\n%y = exp(%a) : f32[2,3,4]\nreturn %y", **(ones if "@one" in line else {}))
    after = apply(Canonicalize(), graph)
    check_text(after, X, "%y = exp(%x) : f32[2,3,4]\nreturn %y")
    same_bits(graph, after)


@pytest.mark.parametrize(
    "line",
    [
        "%a = transpose(%x) {perm=(0, 2, 1)} : f32[2,4,4]",
        "%a = flip(%x) {axes=(1,)} : f32[2,4,4]",
        "const @one : f32[1]\n%a = mul(%x, @one) : f32[2,4,4]",
        'const @one : f32[1]\n%a = mul(%x, @one) {activation="relu"} : f32[2,4,4]',
        '%a = resize(%x) {scales=(1.2,), mode="nearest"} : f32[2,4,4]',
        "%a = hardtanh(%x) {min_value=-1.0, max_value=1.0} : f32[2,4,4]",
        "%a = reshape(%x) {shape=(8, 4)} : f32[8,4]",
    ],
)
def test_what_changes_something_stays(line: str) -> None:
    constant = {"one": [1.0 if "relu" in line else 2.0]} if "@one" in line else {}
    graph = load("%x: f32[2,4,4]", f"{line}\nreturn %a", **constant)
    unchanged(Canonicalize(), graph)


def test_a_clamp_with_other_bounds_says_why() -> None:
    graph = load(X, "%a = hardtanh(%x) {min_value=-1.0, max_value=6.0} : f32[2,3,4]\nreturn %a")
    unchanged(Canonicalize(), graph, "its bounds are not those of relu or relu6")


def test_an_identity_between_input_and_output() -> None:
    graph = load(X, '%a = dropout(%x) : f32[2,3,4]\nreturn %a as "logits"')
    after = apply(Canonicalize(), graph)
    check_text(after, X, 'return %x as "logits"')


def test_the_first_of_two_reshapes_stays_for_its_other_readers() -> None:
    graph = load(
        X,
        """
        %a = reshape(%x) {shape=(6, 4)} : f32[6,4]
        %b = reshape(%a) {shape=(24,)} : f32[24]
        return %a, %b""",
    )
    after = apply(Canonicalize(), graph)
    check_text(
        after,
        X,
        """
        %a = reshape(%x) {shape=(6, 4)} : f32[6,4]
        %b = reshape(%x) {shape=(24,)} : f32[24]
        return %a, %b""",
    )
    same_bits(graph, after)


def test_symbolic_sizes_survive_a_merge() -> None:
    graph = load(
        "%x: f32[B,3,4]",
        """
        %a = reshape(%x) {shape=("B", 12)} : f32[B,12]
        %b = reshape(%a) {shape=(-1, 6)} : f32[2*B,6]
        return %b""",
    )
    check_text(
        apply(Canonicalize(), graph),
        "%x: f32[B,3,4]",
        """
        %b = reshape(%x) {shape=("2*B", 6)} : f32[2*B,6]
        return %b""",
    )


def test_relu_twice_is_relu() -> None:
    graph = load(X, "%a = relu(%x) : f32[2,3,4]\n%b = relu(%a) : f32[2,3,4]\nreturn %b")
    after = apply(Canonicalize(), graph)
    check_text(after, X, '%a = relu(%x) : f32[2,3,4]\nreturn %a as "b"')
    same_bits(graph, after)


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
