"""Observers on hard data: the ends of f32 against torch; spikes and tails against ONNX Runtime and min-max."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.quantization.calibrate import HistogramCollector
from torch.ao.quantization import observer as theirs

import qcompiler as qc
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.observers import make_observer
from qcompiler.quantization.qmath import fake_quantize
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import MAX_SCALE, MIN_SCALE, QuantParams

NAMES = ("histogram", "minmax", "moving_average", "torch_histogram", "percentile", "mse", "kl")
LEAST = np.finfo(np.float32).min
SPEC = QuantSpec()


def observed(name: str, batches: list[np.ndarray]) -> QuantParams:
    made = make_observer(QuantSpec(observer=name))
    with np.errstate(all="raise", under="ignore"):
        for batch in batches:
            made.observe(batch)
        return made.qparams()


def by_torch(batches: list[np.ndarray]) -> tuple[float, int]:
    reference = theirs.HistogramObserver()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch in batches:
            reference(torch.from_numpy(batch))
        scale, zero_point = reference.calculate_qparams()
    return float(scale), int(zero_point)


# -- magnitudes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [2.0**24, 2e7, -3e9, 1e20, -1e20, 1e-30, 1e-45, 0.0])
def test_a_constant_keeps_its_value(name: str, value: float) -> None:
    data = np.full(8, value, np.float32)
    params = observed(name, [data, data])
    assert np.abs(fake_quantize(data, params, SPEC.dtype) - data).max() <= max(abs(value) / 255, params.scale[0] / 2)
    if name == "torch_histogram":
        scale, zero_point = by_torch([data, data])
        assert params.scale[0] == pytest.approx(scale, rel=1e-6) and params.zero_point[0] == zero_point


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("high", [1.0, 1e20, 3.4e38])
@pytest.mark.parametrize("low", [float(LEAST), -3e38, 0.0])
def test_the_widest_ranges_give_legal_parameters(name: str, low: float, high: float) -> None:
    rng = np.random.default_rng(0)
    data = np.where(rng.random((4, 50)) < 0.5, low, high * rng.random((4, 50))).astype(np.float32)
    params = observed(name, [data, data / 2])
    assert MIN_SCALE <= params.scale[0] <= MAX_SCALE and 0 <= params.zero_point[0] <= 255


@pytest.mark.parametrize("scale", [1.0, 1e30, 1.7e38, 3.4e38])
def test_a_moving_average_of_bounds_whose_difference_leaves_f32(scale: float) -> None:
    made = make_observer(QuantSpec(observer="moving_average"))
    for batch in ([-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]):
        made.observe(np.array(batch, np.float32) * np.float32(scale))
    wide, c = np.float64(np.float32(scale)), np.float64(np.float32(0.01))
    low = -wide + c * 2 * wide
    expected = [low + c * (-wide - low), wide - c * 2 * wide]
    assert [made.low, made.high] == pytest.approx(expected, rel=2.0**-21)  # type: ignore[attr-defined]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    exponents=st.lists(st.integers(-5, 20), min_size=1, max_size=3),
    shift=st.sampled_from([0.0, 1.0, -3.0, 100.0]),
    seed=st.integers(0, 99),
)
def test_torchs_range_at_moderate_magnitudes(exponents: list[int], shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batches = [((rng.normal(size=300) + shift) * 2.0**e).astype(np.float32) for e in exponents]
    scale, zero_point = by_torch(batches)
    params = observed("torch_histogram", batches)
    assert params.scale[0] == pytest.approx(scale, rel=1e-6) and params.zero_point[0] == zero_point


@settings(max_examples=40, deadline=None, derandomize=True)
@given(exponent=st.integers(-16, 67), seed=st.integers(0, 99), batches=st.integers(1, 3))
def test_the_search_does_not_depend_on_the_magnitude(exponent: int, seed: int, batches: int) -> None:
    """torch's own search breaks down where a cube leaves f32. Ours gives the scaled range of the same data."""
    rng = np.random.default_rng(seed)
    data = [rng.normal(size=200).astype(np.float32) * np.float32(i + 1) for i in range(batches)]
    params = observed("torch_histogram", data)
    scaled = observed("torch_histogram", [np.ldexp(batch, exponent) for batch in data])
    assert scaled.zero_point == params.zero_point
    assert scaled.scale[0] == np.clip(np.ldexp(params.scale[0], exponent), np.float32(SPEC.eps), MAX_SCALE)


class _Attention(torch.nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return F.softmax(x @ x.transpose(-1, -2) + mask, -1) @ x


@pytest.mark.parametrize("qconfig", ["torch:x86", "torch:qnnpack", "int8:plain", "int8:minmax", "int8:kl", "int8:mse"])
def test_a_mask_of_finfo_min_among_the_inputs(qconfig: str) -> None:
    x = np.random.default_rng(0).normal(size=(1, 6, 4)).astype(np.float32)
    mask = np.where(np.tri(6) == 0, LEAST, 0).astype(np.float32)[None]
    config = replace(qc.get_qconfig(qconfig), mixed_precision=False)
    model = qc.compile(_Attention().eval(), config, (x, mask), calibration_data=[(x, mask)], target="reference")
    real = _Attention()(torch.tensor(x), torch.tensor(mask)).numpy()
    assert np.abs(model(x, mask) - real).max() < 0.05 * np.abs(real).max()
    assert "no scale below 2^60 spans the range of %mask" in str(model.report())


@pytest.mark.parametrize("qconfig", ["torch:fbgemm", "int8", "int8:minmax"])
@pytest.mark.parametrize("value", [2e7, 1e20, 1e38])
def test_constant_activations(qconfig: str, value: float) -> None:
    torch.manual_seed(0)
    x = np.full((4, 8), value, np.float32)
    layer = torch.nn.Linear(8, 2).eval()
    real = layer(torch.tensor(x)).detach().numpy()
    got = qc.compile(layer, qconfig, (x,), calibration_data=[(x,)], target="reference")(x)
    assert np.abs(got - real).max() < 0.02 * np.abs(real).max()


# -- spikes and tails

COUNT = 40_000


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def _spike(value: float, share: float) -> Callable[[np.random.Generator], np.ndarray]:
    """Normal values and a spike as wide as one code, so that no range quantizes the spike exactly by luck."""
    width = 0.03 if value else 0.0

    def draw(rng: np.random.Generator) -> np.ndarray:
        spike = value + width * (rng.random(COUNT) - 0.5)
        return np.where(rng.random(COUNT) < share, spike, rng.normal(size=COUNT))

    return draw


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "normal": lambda rng: rng.normal(size=COUNT),
    "relu": lambda rng: _relu(rng.normal(size=COUNT)),
    "sparse relu": lambda rng: _relu(rng.normal(size=COUNT) - 1),
    "negated relu": lambda rng: -_relu(rng.normal(size=COUNT)),
    "half zero": _spike(0, 0.5),
    "nearly all zero": _spike(0, 0.99),
    "spike at 1": _spike(1, 0.5),
    "spike at -0.3": _spike(-0.3, 0.8),
    "spike at 3.5": _spike(3.5, 0.3),
    "one-sided laplace": lambda rng: np.abs(rng.laplace(size=COUNT)),
    "laplace": lambda rng: rng.laplace(size=COUNT),
    "uniform": lambda rng: rng.uniform(0, 1, COUNT),
    "far from zero": lambda rng: rng.uniform(5, 6, COUNT),
    "bimodal": lambda rng: rng.choice([-3, 3], COUNT) + rng.normal(size=COUNT) * 0.3,
    "bimodal, one side": lambda rng: rng.choice([1, 8], COUNT) + rng.normal(size=COUNT) * 0.2,
    "relu6": lambda rng: np.clip(rng.normal(size=COUNT) * 4, 0, 6),
    "tanh": lambda rng: np.tanh(rng.normal(size=COUNT) * 3),
    "lognormal": lambda rng: rng.lognormal(size=COUNT),
    "student": lambda rng: rng.standard_t(3, COUNT),
    "outliers": lambda rng: np.concatenate([rng.normal(size=COUNT - 2), [60, -80]]),
    "two values": lambda rng: rng.choice([-1.0, 3.0], COUNT),
}


def sqnr(data: np.ndarray, params: QuantParams) -> float:
    """The signal-to-noise ratio of quantized data, in dB."""
    noise = np.square(fake_quantize(data, params, SPEC.dtype).astype(np.float64) - data).sum()
    return float(10 * np.log10(np.square(data.astype(np.float64)).sum() / max(noise, 1e-30)))


def by_onnxruntime(data: np.ndarray, bins: int) -> QuantParams:
    collector = HistogramCollector("entropy", False, bins, 128, 99.99, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"x": [data]})
        low, high = collector.compute_collection_result()["x"][:2]
    return choose_qparams(float(low), float(high), SPEC)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_kl_is_at_most_3_db_below_the_better_of_min_max_and_onnx_runtimes_entropy(kind: str) -> None:
    data = DISTRIBUTIONS[kind](np.random.default_rng(0)).astype(np.float32)
    ours = sqnr(data, observed("kl", [data]))
    others = [observed("minmax", [data]), by_onnxruntime(data, 128), by_onnxruntime(data, 2048)]
    assert ours >= max(sqnr(data, params) for params in others) - 3.1


@pytest.mark.parametrize("kind", ["relu", "sparse relu", "negated relu", "half zero"])
@pytest.mark.parametrize("seed", range(3))
def test_kl_keeps_39_db_where_half_of_the_values_are_0(kind: str, seed: int) -> None:
    data = DISTRIBUTIONS[kind](np.random.default_rng(seed)).astype(np.float32)
    assert sqnr(data, observed("kl", [data])) >= 39


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
def test_zeros_do_not_change_the_range_that_kl_chooses_much(share: float) -> None:
    rng = np.random.default_rng(1)
    values = np.abs(rng.laplace(size=COUNT)).astype(np.float32)
    alone = observed("kl", [values]).scale[0]
    with_zeros = observed("kl", [values, np.zeros(int(COUNT * share / (1 - share)), np.float32)]).scale[0]
    assert with_zeros == pytest.approx(alone, rel=0.05)
