"""verify-integer-safety: real inputs reach the bound, and one more is refused."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.errors import PassError
from qcompiler.ir import Graph
from qcompiler.opdef import op_of
from qcompiler.passes.verify_integer_safety import LIMIT, VerifyIntegerSafety, dot_bound, largest, reach, why_unsafe
from qcompiler.types import DType, QuantParams, tensor
from tests.passes.pass_texts import apply, load, unchanged

Q = "{scale=0.0625, zero_point=128}"


def linear(depth: int, weight: np.ndarray, bias: int = 0, zero_point: int = 0) -> Graph:
    return load(
        f"%x: u8[1,{depth}]{{scale=0.0625, zero_point={zero_point}}}",
        f"""
        const @w : i8[1,{depth}]{{scale=0.01}}
        const @b : i32[1]{{scale=0.000625}}
        %y = linear(%x, @w, @b) : u8[1,1]{Q}
        return %y""",
        "integer",
        w=weight,
        b=[bias],
    )


def test_the_bound_is_tight_and_exact() -> None:
    """2^31 - 1 = 255 * 8,421,504 + 127, so weights with the sum 8,421,504 and a bias of 127 just fit."""
    depth = 8_421_504 // 126
    weight = np.full((1, depth), 126)
    rest = 8_421_504 - 126 * depth
    weight[0, :rest] += 1
    assert weight.sum() == 8_421_504
    unchanged(VerifyIntegerSafety(), linear(depth, weight, bias=127))
    with pytest.raises(PassError, match="overflow") as caught:
        apply(VerifyIntegerSafety(), linear(depth, weight, bias=128))
    assert "%y = linear" in str(caught.value) and str(LIMIT + 1) in str(caught.value)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_bias_counts_by_its_magnitude(sign: int) -> None:
    """The sums of one channel reach 255 * 127 on both sides. A bias of either sign leaves room for 2^31 - 1 in all."""
    most = LIMIT - 255 * 127
    for bias, safe in ((most, True), (most + 1, False)):
        graph = linear(1, np.array([[-sign * 127]]), bias=sign * bias)
        assert (why_unsafe(graph.node_list[0]) is None) == safe


@pytest.mark.parametrize(
    "op, attrs, terms",
    [
        ("group_norm", "groups=3", 2),
        ("group_norm", "groups=1", 6),
        ("group_norm", "groups=6", 1),
        ("instance_norm", "eps=1e-5", 1),
        ("layer_norm", "normalized_rank=2", 1),
        ("layer_norm", "normalized_rank=3", 6),
        ("rms_norm", "normalized_rank=3", 6),
        ("mean", "axes=(2, 3), keepdims=true", 1),
        ("sum", "axes=(1, 2, 3), keepdims=true", 6),
    ],
)
def test_all_elements_of_a_group_are_summed(op: str, attrs: str, terms: int) -> None:
    """8,421,504 codes that reach 255 are the most that i32 holds. terms: how many of 6 channels one sum covers."""
    most = (2**31 - 1) // 255
    for spatial in ((most // terms // 4, 4), (4, most // terms // 4 + 1)):
        source = f"[1,6,{spatial[0]},{spatial[1]}]"
        axes = {"mean": "[1,6,1,1]", "sum": "[1,1,1,1]"}
        graph = load(
            f"%x: u8{source}{Q}", f"%y = {op}(%x) {{{attrs}}} : u8{axes.get(op, source)}{Q}\nreturn %y", "integer"
        )
        assert (why_unsafe(graph.node_list[0]) is None) == (terms * spatial[0] * spatial[1] <= most)


@pytest.mark.parametrize("zero_point", [0, 3, 128, 255])
def test_no_input_passes_the_bound(zero_point: int) -> None:
    rng = np.random.default_rng(zero_point)
    graph = linear(64, rng.integers(-128, 128, (1, 64)), bias=-77, zero_point=zero_point)
    node = graph.node_list[0]
    x = node.operands[0].type.quant
    weight = graph.consts["w"].data.astype(np.int64)
    bound = dot_bound(op_of(node), x, graph.consts["w"], graph.consts["b"].data)
    for worst in (np.where(weight > 0, 255, 0), np.where(weight > 0, 0, 255)):
        centered, raw = weight @ (worst - zero_point).T - 77, weight @ worst.T
        assert np.abs(centered).max() <= bound and np.abs(raw).max() <= bound
    assert reach(x) == 255


def test_groups_of_a_transposed_convolution_count_apart() -> None:
    graph = load(
        f"%x: u8[1,4,3,3]{Q}",
        f"""
        const @w : i8[2,4,2,2]{{scale=0.01}}
        %y = conv_transpose(%x, @w) {{CONV, groups=2, output_padding=(0, 0)}} : u8[1,4,4,4]{Q}
        return %y""",
        "integer",
        w=np.full((2, 4, 2, 2), 3),
    )
    node = graph.node_list[0]
    assert dot_bound(op_of(node), node.operands[0].type.quant, graph.consts["w"], None) == 2 * 4 * 3 * 255


@pytest.mark.parametrize("depth, safe", [(33_025, True), (33_026, False)])
def test_matmul(depth: int, safe: bool) -> None:
    """33,025 * 255 * 255 = 2^31 - 33,023, so the next larger depth is too much."""
    graph = load(
        f"%x: u8[1,{depth}]{Q}, %y: u8[{depth},1]{Q}", f"%z = matmul(%x, %y) : u8[1,1]{Q}\nreturn %z", "integer"
    )
    assert (why_unsafe(graph.node_list[0]) is None) == safe


@pytest.mark.parametrize("shape, safe", [("f32[2,12,S,S], f32[2,12,S,64]", True), ("f32[1,S], f32[S,1]", False)])
def test_symbolic_depths_are_bounded_by_the_size_of_tensors(shape: str, safe: bool) -> None:
    x, y = (part.removeprefix("f32") for part in shape.split(", "))
    rows = x.strip("[]").split(",")[:-1] + [y.strip("[]").split(",")[-1]]
    graph = load(f"%x: u8{x}{Q}, %y: u8{y}{Q}", f"%z = matmul(%x, %y) : u8[{','.join(rows)}]{Q}\nreturn %z", "integer")
    assert (why_unsafe(graph.node_list[0]) is None) == safe


def test_largest() -> None:
    types = [tensor("f32", 2, "S", "S"), tensor("f32", "S", 3)]
    size = types[0].shape[1]
    assert largest(size, types) == 32767 and 2 * 32767**2 <= 2**31 - 1 < 2 * 32768**2
    assert largest(7, []) == 7 and largest(2 * size, types) is None and largest(size, types[1:]) == (2**31 - 1) // 3


@pytest.mark.parametrize(
    "line, out, safe",
    [
        ("%y = mean(%x) {axes=(1,)}", "[B]", False),
        ("%y = mean(%x) {axes=(0,)}", "[S]", False),
        ("%y = layer_norm(%x) {normalized_rank=1}", "[B,S]", False),
        ("%y = add(%x, %x)", "[B,S]", True),
    ],
)
def test_symbolic_counts(line: str, out: str, safe: bool) -> None:
    graph = load(f"%x: u8[B,S]{Q}", f"{line} : u8{out}{Q}\nreturn %y", "integer")
    assert (why_unsafe(graph.node_list[0]) is None) == safe


def test_global_pooling_of_any_image_is_proven_by_its_channels() -> None:
    for channels, safe in ((512, True), (3, False)):
        graph = load(
            f"%x: u8[B,{channels},H,W]{Q}",
            f"%y = adaptive_avg_pool(%x) {{output_size=(1, 1)}} : u8[B,{channels},1,1]{Q}\nreturn %y",
            "integer",
        )
        assert (why_unsafe(graph.node_list[0]) is None) == safe


def test_variable_weights_are_not_proven() -> None:
    graph = load(f"%x: u8[1,8]{Q}, %w: i8[4,8]{{scale=0.5}}", f"%y = linear(%x, %w) : u8[1,4]{Q}\nreturn %y", "integer")
    assert why_unsafe(graph.node_list[0]) == "its weight is not a constant, so its accumulator is not bounded"


def test_reach_of_signed_codes() -> None:
    assert reach(QuantParams.per_tensor(1.0, 0, DType.I8)) == 128
    assert reach(QuantParams.per_tensor(1.0, 0, DType.I8, -127, 127)) == 127
    assert reach(QuantParams.per_tensor(1.0, -128, DType.I8)) == 255
