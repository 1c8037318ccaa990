"""decompose: matmul by a constant, subtracted constants, one slope."""

from __future__ import annotations

import pytest

from qcompiler.passes.decompose import Decompose
from tests.passes.pass_texts import apply, check_text, close, load, same_bits, unchanged

X = "%x: f32[2,3,8], %z: f32[8,4]"


def test_before_and_after() -> None:
    graph = load(
        X,
        """
        const @w : f32[8,4]
        const @c : f32[4]
        const @slope : f32[1]
        %m = matmul(%x, @w) : f32[2,3,4]
        %s = sub(%m, @c) : f32[2,3,4]
        %y = prelu(%s, @slope) : f32[2,3,4]
        return %y""",
        slope=[0.25],
    )
    after = apply(Decompose(), graph)
    check_text(
        after,
        X,
        """
        const @w.t : f32[4,8]
        const @c.neg : f32[4]
        %m = linear(%x, @w.t) : f32[2,3,4]
        %s = add(%m, @c.neg) : f32[2,3,4]
        %y = leaky_relu(%s) {negative_slope=0.25} : f32[2,3,4]
        return %y""",
    )
    close(graph, after)


def test_a_subtraction_keeps_its_bits() -> None:
    graph = load("%x: f32[64]", "const @c : f32[64]\n%y = sub(%x, @c) : f32[64]\nreturn %y")
    same_bits(graph, apply(Decompose(), graph))


@pytest.mark.parametrize(
    "body, reason",
    [
        ("%y = matmul(%x, %z) : f32[2,3,4]", "%z is not constant"),
        ("const @w : f32[2,8,4]\n%y = matmul(%x, @w) : f32[2,3,4]", "not an activation and a matrix"),
        ("const @c : f32[8]\n%y = sub(@c, %x) : f32[2,3,8]", "%x is not constant"),
        ("const @s : f32[3]\n%y = prelu(%x, @s) : f32[2,3,8]", "a slope a channel"),
    ],
)
def test_left_alone(body: str, reason: str) -> None:
    unchanged(Decompose(), load(X, f"{body}\nreturn %y"), reason)


def test_a_quantized_matrix_is_transposed_as_codes() -> None:
    inputs = "%x: u8[3,8]{scale=0.0625, zero_point=128}"
    graph = load(
        inputs,
        """
        const @w : i8[8,4]{axis=1, scale=(0.5, 0.25, 1.0, 2.0)}
        %d = dequantize(%x) : f32[3,8]
        %e = dequantize(@w) : f32[8,4]
        %y = matmul(%d, %e) : f32[3,4]
        return %y""",
        "qdq",
    )
    after = apply(Decompose(), graph)
    check_text(
        after,
        inputs,
        """
        const @w.t : i8[4,8]{axis=0, scale=(0.5, 0.25, 1.0, 2.0)}
        %d = dequantize(%x) : f32[3,8]
        %e.t = dequantize(@w.t) : f32[4,8]
        %y = linear(%d, %e.t) : f32[3,4]
        return %y""",
    )
    same_bits(graph, after)
