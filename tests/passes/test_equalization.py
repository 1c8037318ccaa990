"""Equalization: what is judged is what runs, errors fall, nothing gets worse, and what cannot be judged is told."""

from __future__ import annotations

import pathlib
from dataclasses import replace

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.ir import Graph
from qcompiler.notes import Equalized, Unjudged
from qcompiler.ops.quantized import Observe
from qcompiler.passes.equalization import GAIN, HEADROOM, LEAST_ROWS, _power, choose_scales, dot, fixed_point
from qcompiler.quantization import qmath
from qcompiler.quantization.observers import chosen_params, weight_params
from qcompiler.quantization.product_inputs import input_key
from qcompiler.quantization.qconfig import QConfig
from qcompiler.types import DType

INT8 = qc.get_qconfig("int8")
UNEQUALIZED = replace(INT8, equalize=False)


def outliers(channels: int, seed: int = 0) -> np.ndarray:
    """Factors of channels, most of them near 1 and a few large, as behind the norms of transformers."""
    rng = np.random.default_rng(seed)
    factors = rng.uniform(0.5, 1.5, channels)
    factors[rng.permutation(channels)[: max(1, channels // 16)]] *= 30
    return factors.astype(np.float32)


def normed(seed: int = 0) -> nn.Module:
    """A layer norm with outlier channels, whose result two products read."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            rng = np.random.default_rng(seed)
            self.gain = outliers(64, seed)
            self.w = rng.normal(size=(64, 24)).astype(np.float32)
            self.v = rng.normal(size=(64, 40)).astype(np.float32)

        def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            n = nn.functional.layer_norm(x, (64,), self.gain)
            return n @ self.w, n @ self.v

    return Net()


def convs(middle: nn.Module, first: int = 16, seed: int = 0, size: float = 1.0) -> nn.Module:
    """A convolution whose output channels differ in range, then `middle`, then a product. size: of the weights."""
    net = nn.Sequential(nn.Conv2d(3, first, 3, padding=1), middle, nn.Conv2d(first, 8, 1))
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(first, 3, 3, 3)) * outliers(first, seed).reshape(-1, 1, 1, 1)
    net[0].weight = (size * weight).astype(np.float32)
    return net


def items(*shape: int, count: int = 6, seed: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(count)]


def sqnr(real: list[np.ndarray], given: list[np.ndarray]) -> float:
    a, b = (np.concatenate([each.reshape(-1) for each in arrays]).astype(np.float64) for arrays in (real, given))
    return float(10 * np.log10((a * a).sum() / ((a - b) ** 2).sum()))


def flat(outputs: object) -> list[np.ndarray]:
    return list(outputs) if isinstance(outputs, tuple) else [np.asarray(outputs)]


def accuracy(net: object, data: list[np.ndarray], test: list[np.ndarray], qconfig: str | QConfig) -> float:
    real = qc.compile(net, None, (data[0],))
    model = qc.compile(net, qconfig, (data[0],), calibration_data=data)
    return sqnr([y for x in test for y in flat(real(x))], [y for x in test for y in flat(model(x))])


def notes(graph: Graph, kind: type) -> list[object]:
    return [note for note in graph.notes if isinstance(note, kind)]


def converted(net: object, data: list[np.ndarray], qconfig: str | QConfig = "int8") -> Graph:
    prepared = qc.prepare(net, qconfig, (data[0],))
    return qc.convert(prepared, qc.calibrate(prepared, data))


# -- errors fall


def apart() -> nn.Module:
    """Channels of 1 to 2 around middles of up to 40, whose sums nearly cancel, as between two blocks of MobileNetV2."""
    net = nn.Sequential(nn.Linear(16, 24), nn.Linear(24, 40), nn.ReLU6())
    rng = np.random.default_rng(1)
    net[0].bias = rng.uniform(-40, 40, 24).astype(np.float32)
    net[1].bias = (3 - net[1].weight @ net[0].bias).astype(np.float32)
    return net


CASES = {
    "through relu6": (
        convs(nn.Sequential(nn.ReLU6(), nn.Conv2d(16, 16, 3, padding=1, groups=16)), size=0.05),
        (2, 3, 10, 9),
        1.0,
    ),
    "ranges that lie apart": (apart(), (16, 16), 6.0),
    "behind a norm": (normed(), (8, 64), 2.5),
    "into a depthwise convolution": (convs(nn.Conv2d(16, 16, 3, padding=1, groups=16)), (2, 3, 10, 9), 1.0),
    "through relu and max pool": (convs(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))), (2, 3, 10, 9), 0.5),
    "into a transposed convolution": (convs(nn.ConvTranspose2d(16, 16, 2)), (2, 3, 10, 9), 1.5),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_nearer_to_float(case: str) -> None:
    """On data that calibration did not see. Gains are in dB; results are codes too, which lessens them."""
    net, shape, gain = CASES[case]
    data, test = items(*shape), items(*shape, seed=6)
    assert accuracy(net, data, test, "int8") >= accuracy(net, data, test, UNEQUALIZED) + gain


def test_channels_into_a_depthwise_convolution_get_all_of_it() -> None:
    net, shape, _ = CASES["into a depthwise convolution"]
    first, *_ = notes(converted(net, items(*shape)), Equalized)
    assert isinstance(first, Equalized) and first.strength == 1 and first.source and len(first.products) == 1


def test_behind_a_clamp_no_scale_is_above_1_nor_near_calibrated_values() -> None:
    net, shape, _ = CASES["through relu6"]
    data = items(*shape)
    prepared = qc.prepare(net, "int8", (data[0],))
    calibration = qc.calibrate(prepared, data)
    params = {group: chosen_params(calibration[group], spec, group) for group, spec in prepared.specs().items()}
    choices, _ = choose_scales(prepared.graph, params, calibration.inputs, prepared.configs)
    first = next(choice for choice in choices if choice.shifts is None)
    kept = next(kept for key, kept in calibration.inputs.items() if key.startswith(f"{first.value}:"))
    assert first.scales.max() == 1 and first.scales.min() < 0.5
    assert (6 * first.scales >= np.minimum(HEADROOM * kept.high, 6) * (1 - 1e-6)).all()


def test_ranges_that_lie_apart_are_shifted() -> None:
    net, shape, _ = CASES["ranges that lie apart"]
    (note,) = notes(converted(net, items(*shape)), Equalized)
    assert isinstance(note, Equalized) and note.shifted


@pytest.mark.parametrize("seed", range(8))
def test_no_product_gets_worse(seed: int) -> None:
    """By the codes of the kept rows, also where channels hardly differ."""
    nets = [normed(seed), convs(nn.ReLU(), seed=seed), nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3))]
    for net, shape in zip(nets, ((8, 64), (2, 3, 6, 7), (9, 12))):
        for note in notes(converted(net, items(*shape, seed=seed)), Equalized):
            assert isinstance(note, Equalized) and note.after * GAIN <= note.before * 1.01


def test_even_channels_are_left_alone() -> None:
    eye = np.eye(16, dtype=np.float32)
    data = [np.repeat(x, 16, axis=1) for x in items(32, 1)]
    graph = converted(lambda x: np.maximum(x @ eye, 0) @ eye, data)
    assert not notes(graph, Equalized) and not any(name.endswith(".scaled") for name in graph.consts)


def residual(width: int) -> nn.Module:
    """A norm whose result a product and the residual after it read, as in encoders; `width` is the product's."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            rng = np.random.default_rng(0)
            self.gain = outliers(64)
            self.w = rng.normal(size=(64, width)).astype(np.float32)
            self.v = rng.normal(size=(width, 64)).astype(np.float32)

        def forward(self, x: np.ndarray) -> np.ndarray:
            n = nn.functional.layer_norm(x, (64,), self.gain)
            return nn.functional.layer_norm(n + np.maximum(n @ self.w, 0) @ self.v, (64,))

    return Net()


def test_a_multiplication_serves_the_products_where_real_readers_share_the_norm() -> None:
    net, data, test = residual(4096), items(64, 64, count=2), items(64, 64, count=2, seed=6)
    graph = converted(net, data)
    note = next(note for note in graph.notes if isinstance(note, Equalized) and not note.source)
    assert len([node for node in graph.nodes if node.op == "mul"]) == 1 and note.after * GAIN <= note.before
    assert accuracy(net, data, test, "int8") >= accuracy(net, data, test, UNEQUALIZED) + 3


def test_a_multiplication_that_costs_too_much_is_left_out() -> None:
    """A product with few results is not worth a pass over its input."""
    graph = converted(residual(2), items(8, 64))
    assert not [node for node in graph.nodes if node.op == "mul"]


def test_codes_are_not_multiplied() -> None:
    """Where the norm itself works on codes, a multiplication would only add conversions."""
    graph = converted(residual(1024), items(8, 64), replace(INT8, mixed_precision=False))
    assert not [node for node in graph.nodes if node.op == "mul"]


def test_inputs_are_not_multiplied() -> None:
    """A caller may give them as codes."""
    weight = np.random.default_rng(0).normal(size=(64, 24)).astype(np.float32)
    data = [x * outliers(64) for x in items(8, 64)]
    graph = converted(lambda x: x @ weight, data)
    assert not notes(graph, Equalized) and [node.op for node in graph.nodes] == ["quantize", "linear"]
    model = qc.compile(lambda x: x @ weight, "int8", (data[0],), calibration_data=data, io="quantized")
    assert [node.op for node in model.graph.nodes] == ["linear"]


# -- what is judged is what runs


def test_the_judged_error_is_that_of_rounded_operands() -> None:
    """By fake quantization of the kept rows and the weights, summed in float64."""
    net, data = normed(), items(8, 64)
    prepared = qc.prepare(net, "int8", (data[0],))
    calibration = qc.calibrate(prepared, data)
    params = {group: chosen_params(calibration[group], spec, group) for group, spec in prepared.specs().items()}
    (choice,), unjudged = choose_scales(prepared.graph, params, calibration.inputs, prepared.configs)
    (kept,) = calibration.inputs.values()
    rows = kept.rows.reshape(-1, 64)
    assert not unjudged and len(rows) == 48  # all rows of the data

    def error(x: qc.QuantParams, scales: np.ndarray) -> float:
        found = []
        for layer in (node for node in prepared.graph.nodes if node.op == "linear"):
            weight = prepared.graph.consts[layer.operands[1].name].data
            scaled = (weight.astype(np.float64) * scales).astype(np.float32)
            spec = INT8.weight
            given = qmath.fake_quantize(scaled, weight_params(scaled, spec, 0, "w"), spec.dtype).astype(np.float64)
            y = qmath.fake_quantize(rows / scales, x, DType.U8).astype(np.float64) @ given.T
            exact = rows.astype(np.float64) @ weight.astype(np.float64).T
            found.append(((y - exact) ** 2).sum() / (exact**2).sum())
        return sum(found) / len(found)

    assert error(choice.params, choice.scales) == pytest.approx(choice.note.after, rel=0.01)
    assert error(params[choice.group], np.ones(64, np.float32)) == pytest.approx(choice.note.before, rel=0.01)


def test_ranges_of_scaled_values_hold_all_that_was_seen() -> None:
    net, data = normed(), items(8, 64)
    prepared = qc.prepare(net, "int8", (data[0],))
    calibration = qc.calibrate(prepared, data)
    params = {group: chosen_params(calibration[group], spec, group) for group, spec in prepared.specs().items()}
    (choice,), _ = choose_scales(prepared.graph, params, calibration.inputs, prepared.configs)
    layer = next(iter(prepared.sampled_products().values()))
    kept = calibration.inputs[input_key(layer)]
    quant = choice.params
    low, high = ((edge - quant.zero_point[0]) * quant.scale[0] for edge in (quant.qmin, quant.qmax))
    slack = quant.scale[0]
    assert (kept.low / choice.scales >= low - slack).all() and (kept.high / choice.scales <= high + slack).all()


# -- the same on every machine


def test_sums_are_exact_in_any_order() -> None:
    rng = np.random.default_rng(0)
    rows, _ = fixed_point(rng.normal(size=(5, 2, 300, 9)).astype(np.float32))
    weight, _ = fixed_point(rng.normal(size=(2, 7, 300, 9)).astype(np.float32))
    exact = np.einsum("ngit,goit->gno", rows.astype(np.int64), weight.astype(np.int64))
    assert np.array_equal(dot(rows, weight), exact) and np.abs(exact).max() < 2**53


@pytest.mark.parametrize("n, outputs, size", [(64, 64, 200), (64, 128, 64), (1, 1, 9), (3, 700, 1), (64, 5000, 3)])
def test_sums_of_blocks_are_those_of_whole_rows(n: int, outputs: int, size: int) -> None:
    rng = np.random.default_rng(0)
    rows, weight = (
        rng.integers(-100, 100, shape).astype(np.float64) for shape in ((n, 2, size, 1), (2, outputs, size, 1))
    )
    assert np.array_equal(dot(rows, weight), np.einsum("ngit,goit->gno", rows, weight))


def test_powers_are_made_of_roots() -> None:
    base = np.random.default_rng(0).uniform(1e-6, 1e6, 1000)
    for quarters in range(5):
        assert np.allclose(_power(base, quarters / 4), base ** (quarters / 4), rtol=1e-14, atol=0)


# -- options


@pytest.mark.parametrize("qconfig", [UNEQUALIZED, "torch:fbgemm", "torch:qnnpack", "torch:default"])
def test_it_is_off_where_the_qconfig_says_so(qconfig: str | QConfig) -> None:
    graph = converted(normed(), items(8, 64), qconfig)
    assert not notes(graph, Equalized) and not notes(graph, Unjudged)


def test_all_products_of_a_value_must_ask_for_it() -> None:
    net, data = normed(), items(8, 64)
    name = next(node.name for node in qc.prepare(net, INT8, (data[0],)).graph.nodes if node.op == "linear")
    mapping = qc.QConfigMapping(INT8).set_module_name(name, UNEQUALIZED)
    prepared = qc.prepare(net, mapping, (data[0],))
    assert not notes(qc.convert(prepared, qc.calibrate(prepared, data)), Equalized)


# -- hostile calibration


HOSTILE = {
    "one row": [items(1, 64, count=1)[0]],
    "a constant": [np.full((8, 64), 3, np.float32)] * 20,
    "all zero": [np.zeros((8, 64), np.float32)] * 20,
    "few rows": items(LEAST_ROWS - 1, 64, count=1),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_judged_is_told(case: str) -> None:
    data = HOSTILE[case]
    model = qc.compile(normed(), "int8", (data[0],), calibration_data=data)
    text = str(model.report())
    assert "not equalized:" in text or "equalized, with" not in text
    for y in flat(model(data[0])):
        assert np.isfinite(y).all()
    if case != "a constant" and case != "all zero":
        (note,) = model.report().unjudged
        assert str(note) == f"%{note.value}: fewer than {LEAST_ROWS} different rows reached its products"
        assert str(note) in text


def test_rows_too_long_to_be_kept_are_the_reason_and_not_the_data() -> None:
    """A row of a depthwise layer holds the windows of all channels."""
    model = nn.Sequential(nn.Conv2d(4, 6000, 1), nn.Conv2d(6000, 6000, 5, groups=6000))
    data = [np.random.default_rng(seed).normal(size=(1, 4, 7, 7)).astype(np.float32) for seed in range(4)]
    (note,) = qc.compile(model, "int8", (data[0],), calibration_data=data, target="reference").report().unjudged
    assert "its rows are so long that calibration keeps 6 of them" in str(note)  # 2^22 // (4 * 6000 * 25)


def test_wide_depthwise_layers_are_equalized() -> None:
    net = convs(nn.Sequential(nn.ReLU(), nn.Conv2d(640, 640, 5, padding=2, groups=640)), first=640)
    (note,) = [each for each in notes(converted(net, items(2, 3, 9, 9)), Equalized) if each.source == "1.0"]
    assert isinstance(note, Equalized) and note.after * GAIN <= note.before


def test_heavy_tails() -> None:
    rng = np.random.default_rng(0)
    data = [rng.standard_cauchy(size=(16, 64)).astype(np.float32) for _ in range(8)]
    assert accuracy(normed(), data, data, "int8") > accuracy(normed(), data, data, UNEQUALIZED) - 0.5


def test_channels_that_are_always_zero() -> None:
    class Net(nn.Module):
        def forward(self, x: np.ndarray) -> np.ndarray:
            gain = outliers(64)
            gain[:8] = 0
            weight = np.random.default_rng(0).normal(size=(64, 24)).astype(np.float32)
            weight[8:12] = 0
            return nn.functional.layer_norm(x, (64,), gain) @ weight

    data = items(8, 64)
    assert accuracy(Net(), data, data, "int8") > accuracy(Net(), data, data, UNEQUALIZED) + 1.5


def test_scales_are_bounded() -> None:
    """One channel is 2^13 times as large as the others, and its weights are as much smaller."""

    class Net(nn.Module):
        def forward(self, x: np.ndarray) -> np.ndarray:
            gain, weight = np.ones(64, np.float32), np.random.default_rng(0).normal(size=(64, 24)).astype(np.float32)
            gain[5], weight[5] = 2.0**13, weight[5] * np.float32(2.0**-13)
            return nn.functional.layer_norm(x, (64,), gain) @ weight

    data = items(8, 64)
    prepared = qc.prepare(Net(), "int8", (data[0],))
    calibration = qc.calibrate(prepared, data)
    params = {group: chosen_params(calibration[group], spec, group) for group, spec in prepared.specs().items()}
    [choice], _ = choose_scales(prepared.graph, params, calibration.inputs, prepared.configs)
    assert choice.scales[5] == 2.0**10 and choice.scales.min() >= 2.0**-10


def test_an_older_calibration_lacks_the_rows(tmp_path: pathlib.Path) -> None:
    net, data = normed(), items(8, 64)
    prepared = qc.prepare(net, "int8", (data[0],))
    calibration = qc.calibrate(prepared, data)
    old = qc.Calibration(calibration.observers, calibration.specs, calibration.members)
    (note,) = notes(qc.convert(prepared, old), Unjudged)
    assert isinstance(note, Unjudged) and note.reason == "the calibration kept no rows of it"
    assert not notes(qc.convert(prepared, calibration), Unjudged)


def test_the_chosen_scales_are_in_the_report() -> None:
    model = qc.compile(normed(), "int8", (items(8, 64)[0],), calibration_data=items(8, 64))
    (note,) = model.report().equalized
    assert f"    {note}" in str(model.report()) and note.after < note.before
    assert model.report().to_dict()["equalized"][0]["products"] == note.products
    assert qc.parse(str(model.graph), data="zeros").notes == model.graph.notes
    assert not any(Observe.of(node) for node in model.graph.nodes)


@pytest.mark.parametrize("seed", range(4))
def test_channels_of_ranges_beyond_16_bits_are_balanced(seed: int) -> None:
    """The ranges of channels and weights lie five decades apart, and each channel counts alike in the outputs."""
    rng = np.random.default_rng(seed)
    gains = (10.0 ** np.linspace(-2.5, 2.5, 8)).astype(np.float32)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1))
    model.load_state_dict(
        {
            "0.weight": rng.normal(size=(8, 3, 3, 3)).astype(np.float32) * gains[:, None, None, None],
            "0.bias": rng.normal(size=8).astype(np.float32) * gains,
            "1.weight": rng.normal(size=(4, 8, 1, 1)).astype(np.float32) / gains[None, :, None, None],
            "1.bias": rng.normal(size=4).astype(np.float32),
        }
    )
    batches = [rng.normal(size=(4, 3, 8, 8)).astype(np.float32) for _ in range(4)]
    want = qc.compile(model, None, (batches[0],), target="reference")(batches[0])
    got = qc.compile(model, "int8", (batches[0],), calibration_data=batches, target="reference")(batches[0])
    assert np.sum((got - want) ** 2) < 1e-3 * np.sum(want**2)  # 30 dB; 0 dB where the narrow channels are lost
