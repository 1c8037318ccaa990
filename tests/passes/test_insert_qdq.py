"""insert-qdq: pairs of conversions, weights and biases."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.errors import QuantizationError
from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.passes.insert_qdq import MAX_BIAS, InsertQdq
from qcompiler.quantization.qconfig import QConfig, get_qconfig
from qcompiler.types import DType, QuantParams
from tests.passes.pass_texts import apply, load

SPEC = str(get_qconfig("int8").activation)
X, Y = QuantParams.per_tensor(0.125, 128, DType.U8), QuantParams.per_tensor(0.25, 100, DType.U8)


def linear(seed: int = 0, **data: np.ndarray) -> Graph:
    return load(
        "%x: f32[2,8]",
        f"""
        const @w : f32[4,8]
        const @b : f32[4]
        %x.obs = observe(%x) {{spec="{SPEC}", group="x"}} : f32[2,8]
        %y = linear(%x.obs, @w, @b) : f32[2,4]
        %y.obs = observe(%y) {{spec="{SPEC}", group="y"}} : f32[2,4]
        return %y.obs as "y"
        """,
        "observed",
        seed=seed,
        **data,
    )


def test_codes_of_weights_and_biases() -> None:
    graph = linear()
    after = apply(InsertQdq({"x": X, "y": Y}), graph)
    weight, bias = after.consts["w.q"], after.consts["b.q"]
    real = weight.data * weight.type.quant.scales[:, None]
    assert np.abs(real - graph.consts["w"].data).max() <= weight.type.quant.scales.max() * 0.51
    assert np.array_equal(np.abs(weight.data).max(axis=1), [127] * 4)
    assert np.array_equal(bias.type.quant.scales, (np.float64(0.125) * weight.type.quant.scales).astype(np.float32))
    assert np.array_equal(
        bias.data, np.rint(graph.consts["b"].data.astype(np.float64) / bias.type.quant.scales.astype(np.float64))
    )


def test_one_scale_a_tensor() -> None:
    after = apply(InsertQdq({"x": X, "y": Y}, per_channel=False), linear())
    assert after.consts["w.q"].type.quant.axis is None and after.consts["b.q"].type.quant.axis is None


def test_a_qconfig_without_a_weight_means_the_default_one() -> None:
    config = QConfig(get_qconfig("int8").activation, None)
    after, default = (apply(InsertQdq({"x": X, "y": Y}, given), linear()) for given in ({"y": config}, {}))
    assert after.consts["w.q"].type == default.consts["w.q"].type
    assert np.array_equal(after.consts["w.q"].data, default.consts["w.q"].data)


def test_known_ranges_win() -> None:
    graph = load(
        "%x: f32[4]",
        f"""
        %x.obs = observe(%x) {{spec="{SPEC}", group="x"}} : f32[4]
        %y = sigmoid(%x.obs) : f32[4]
        %y.obs = observe(%y) {{spec="{SPEC}", group="y"}} : f32[4]
        return %y.obs""",
        "observed",
    )
    after = apply(InsertQdq({"x": X, "y": Y}), graph)
    assert after.value("y.q").type.quant == QuantParams.per_tensor(1 / 256, 0, DType.U8)
    seven_bits = get_qconfig("torch:default").activation
    graph = load(
        "%x: f32[4]",
        f"""
        %x.obs = observe(%x) {{spec="{seven_bits}", group="x"}} : f32[4]
        %y = sigmoid(%x.obs) : f32[4]
        %y.obs = observe(%y) {{spec="{seven_bits}", group="y"}} : f32[4]
        return %y.obs""",
        "observed",
    )
    half = QuantParams.per_tensor(1 / 127, 0, DType.U8, 0, 127)
    assert apply(InsertQdq({"x": half, "y": half}), graph).value("y.q").type.quant == half


def test_a_missing_range_is_named() -> None:
    with pytest.raises(QuantizationError, match="no range was calibrated") as caught:
        apply(InsertQdq({"x": X}), linear())
    assert "%y" in str(caught.value)


def test_a_large_bias_raises_the_scale_of_its_channel_alone() -> None:
    bias = np.array([1e12, 0, -2e8, 1], np.float32)
    plain, raised = (apply(InsertQdq({"x": X, "y": Y}), linear(b=b)).consts for b in (np.zeros(4), bias))
    before, after = plain["w.q"].type.quant.scales, raised["w.q"].type.quant.scales
    assert after[0] > before[0] and after[2] > before[2] and np.array_equal(after[[1, 3]], before[[1, 3]])
    assert np.abs(raised["b.q"].data).max() <= MAX_BIAS
    scales = raised["b.q"].type.quant.scales.astype(np.float64)
    assert (np.abs(raised["b.q"].data * scales - bias) <= 0.5 * scales).all()


@pytest.mark.parametrize("per_channel", [True, False])
def test_raised_scales_keep_every_bias_within_the_limit(per_channel: bool) -> None:
    """The scale sx * sw is rounded to f32 twice, so a weight scale that is only just large enough would not do."""
    bias = np.random.default_rng(1).uniform(1e9, 3e10, 500).astype(np.float32)
    for seed, scale in enumerate(np.random.default_rng(2).uniform(0.001, 0.1, 1 if per_channel else 20)):
        graph = load(
            "%x: f32[2,2]",
            f"""
            const @w : f32[500,2]
            const @b : f32[500]
            %x.obs = observe(%x) {{spec="{SPEC}", group="x"}} : f32[2,2]
            %y = linear(%x.obs, @w, @b) : f32[2,500]
            return %y""",
            "observed",
            b=bias if per_channel else bias * np.float32(1 + seed / 7),
        )
        x = QuantParams.per_tensor(float(np.float32(scale)), 128, DType.U8)
        after = apply(InsertQdq({"x": x}, per_channel=per_channel), graph)
        codes = np.abs(after.consts["b.q"].data.astype(np.int64))
        assert codes.max() <= MAX_BIAS
        assert (codes >= MAX_BIAS * (1 - 2.0**-18)).all() or not per_channel  # and no larger than needed


def test_a_weight_shared_under_equal_parameters_is_one_constant() -> None:
    graph = load(
        "%x: f32[2,8]",
        f"""
        const @w : f32[8,8]
        %x.obs = observe(%x) {{spec="{SPEC}", group="x"}} : f32[2,8]
        %a = linear(%x.obs, @w) : f32[2,8]
        %a.obs = observe(%a) {{spec="{SPEC}", group="y"}} : f32[2,8]
        %y = linear(%a.obs, @w) : f32[2,8]
        %y.obs = observe(%y) {{spec="{SPEC}", group="y"}} : f32[2,8]
        return %y.obs""",
        "observed",
    )
    after = apply(InsertQdq({"x": X, "y": Y}), graph)
    assert list(after.consts) == ["w.q"]


def test_numbers_stay_within_half_steps() -> None:
    """A linear layer in the qdq graph differs by the rounding of x, of w, of b and of y, which is at most half a step
    each."""
    graph = linear(seed=5)
    after = apply(InsertQdq({"x": X, "y": Y}), graph)
    x = np.random.default_rng(0).uniform(-8, 8, (2, 8)).astype(np.float32)
    wanted, got = run(graph, [x])[0], run(after, [x])[0]
    weight = np.abs(graph.consts["w"].data)
    scales = after.consts["w.q"].type.quant.scales
    bound = (
        0.0625 * weight.sum(axis=1) + (np.abs(x).sum(axis=1, keepdims=True) + 0.0625 * 8) * scales / 2 + 0.125 + 0.01
    )
    inside = (wanted > -24) & (wanted < 38)  # the range of y
    assert inside.any() and (np.abs(got - wanted) <= bound)[inside].all()
