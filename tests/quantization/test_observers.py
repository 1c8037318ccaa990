"""Observers: those of torch give torch's numbers, ours merge exactly; memory while streaming; bad data."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.ao.quantization import observer as theirs

from qcompiler.errors import QuantizationError
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.histogram import Entropy
from qcompiler.quantization.observers import make_observer, register_observer, unregister_observer, weight_params
from qcompiler.quantization.qmath import fake_quantize
from qcompiler.quantization.spec import QuantSpec
from qcompiler.quantization.torch_histogram import _linspace
from qcompiler.types import DType

KINDS = ("normal", "relu", "negative", "laplace", "constant", "zero", "tiny", "big", "growing", "uniform", "two_values")


def batches(kind: str, count: int, seed: int = 0) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    make = {
        "normal": lambda i: rng.normal(size=(8, 16, 9)),
        "relu": lambda i: np.maximum(rng.normal(size=(4, 100)), 0),
        "negative": lambda i: -np.abs(rng.normal(size=1000)),
        "laplace": lambda i: rng.laplace(size=5000) * 3,
        "constant": lambda i: np.full(10, 2.0),
        "zero": lambda i: np.zeros(10),
        "tiny": lambda i: rng.normal(size=300) * 1e-6,
        "big": lambda i: rng.normal(size=300) * 1e6,
        "growing": lambda i: rng.normal(size=500) * (i + 1),
        "uniform": lambda i: rng.uniform(0, 1, size=7000),
        "two_values": lambda i: rng.choice([-1.0, 3.0], size=64),
    }[kind]
    for index in range(count):
        yield make(index).astype(np.float32)


def _range(dtype: torch.dtype, reduced: bool) -> tuple[int, int]:
    if dtype == torch.quint8:
        return (0, 127) if reduced else (0, 255)
    return (-64, 63) if reduced else (-128, 127)


PAIRS = {
    "minmax": theirs.MinMaxObserver,
    "moving_average": theirs.MovingAverageMinMaxObserver,
    "torch_histogram": theirs.HistogramObserver,
}
SCHEMES = [
    (d, s, r)
    for d, s, r in itertools.product(
        (torch.quint8, torch.qint8), (torch.per_tensor_affine, torch.per_tensor_symmetric), (False, True)
    )
    if not (r and d == torch.quint8 and s == torch.per_tensor_symmetric)
]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_zero_point_is_torchs_and_scale_within_1e6(name: str, kind: str) -> None:
    # torch's search in a histogram takes half a second, and does not depend on the scheme
    schemes = SCHEMES[:: len(SCHEMES) - 1] if name == "torch_histogram" else SCHEMES
    for (dtype, scheme, reduced), count in itertools.product(schemes, (1, 4)):
        low, high = _range(dtype, reduced)
        spec = QuantSpec(
            DType.U8 if dtype == torch.quint8 else DType.I8,
            low,
            high,
            scheme == torch.per_tensor_symmetric,
            observer=name,
        )
        ours = make_observer(spec)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reference = PAIRS[name](dtype=dtype, qscheme=scheme, reduce_range=reduced)
            for batch in batches(kind, count):
                ours.observe(batch)
                reference(torch.from_numpy(batch))
            scale, zero_point = reference.calculate_qparams()
        params = ours.qparams()
        assert params.zero_point[0] == int(zero_point)
        assert abs(params.scale[0] - float(scale)) <= 1e-6 * float(scale)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("symmetric", [False, True])
def test_per_channel_is_torchs(axis: int, symmetric: bool) -> None:
    scheme = torch.per_channel_symmetric if symmetric else torch.per_channel_affine
    reference = theirs.PerChannelMinMaxObserver(ch_axis=axis, dtype=torch.qint8, qscheme=scheme)
    weight = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32) * np.arange(1, 7, dtype=np.float32)
    ours = weight_params(
        weight, QuantSpec(DType.I8, -128, 127, symmetric, per_channel=True, observer="minmax"), axis, "w"
    )
    reference(torch.from_numpy(weight))
    scale, zero_point = reference.calculate_qparams()
    assert ours.axis == axis and ours.zero_point == tuple(zero_point.tolist())
    np.testing.assert_allclose(ours.scales, scale.numpy(), rtol=1e-6)


def test_the_name_of_torchs_class_leads_to_the_spec() -> None:
    with pytest.raises(QuantizationError, match="did you mean 'minmax'"):
        QuantSpec(per_channel=True, observer="per_channel_minmax")


MERGEABLE = ("histogram", "minmax", "percentile", "mse", "kl")


@pytest.mark.parametrize("name", MERGEABLE)
@pytest.mark.parametrize("kind", KINDS)
def test_order_and_chunking_and_merging_give_the_same_bits(name: str, kind: str) -> None:
    spec = QuantSpec(observer=name)
    data = list(batches(kind, 6))
    whole, backwards = make_observer(spec), make_observer(spec)
    for batch in data:
        whole.observe(batch)
    for batch in reversed(data):
        for part in np.array_split(batch.reshape(-1), 3):
            backwards.observe(part)
    halves = [make_observer(spec) for _ in range(3)]
    for index, batch in enumerate(data):
        halves[index % 3].observe(batch)
    for order in itertools.permutations(range(3)):
        merged = make_observer(spec)
        for index in order:
            merged.merge(halves[index])
        assert merged.qparams() == whole.qparams()
    assert backwards.qparams() == whole.qparams()


@pytest.mark.parametrize("name", ["moving_average", "torch_histogram"])
def test_order_dependent_observers_refuse_to_merge(name: str) -> None:
    one, other = make_observer(QuantSpec(observer=name)), make_observer(QuantSpec(observer=name))
    with pytest.raises(QuantizationError, match="depend.* on the order"):
        one.merge(other)


def test_memory_does_not_grow_with_the_data() -> None:
    observer = make_observer(QuantSpec())
    observer.observe(np.ones(10, np.float32))
    before = sum(sys.getsizeof(v) if not isinstance(v, np.ndarray) else v.nbytes for v in vars(observer).values())
    for batch in batches("growing", 50):
        observer.observe(batch)
    after = sum(sys.getsizeof(v) if not isinstance(v, np.ndarray) else v.nbytes for v in vars(observer).values())
    assert after <= before + 64
    assert observer.counts.dtype == np.int64 and observer.counts.sum() == 10 + 50 * 500


@pytest.mark.parametrize("name", ["histogram", "mse"])
def test_outliers_are_clipped_where_that_lowers_the_error(name: str) -> None:
    rng = np.random.default_rng(0)
    data = np.concatenate([rng.normal(size=200_000), [60.0, -80.0]]).astype(np.float32)
    errors = {}
    for observer in (name, "minmax"):
        spec = QuantSpec(observer=observer)
        made = make_observer(spec)
        made.observe(data)
        params = made.qparams()
        errors[observer] = float(np.square(fake_quantize(data, params, spec.dtype) - data).mean())
    assert errors[name] < 0.75 * errors["minmax"]


def test_percentile_and_kl_cut_tails() -> None:
    data = np.random.default_rng(0).laplace(size=500_000).astype(np.float32)
    scales = {}
    for observer in ("minmax", "percentile", "percentile(99)", "kl"):
        made = make_observer(QuantSpec(observer=observer))
        made.observe(data)
        scales[observer] = made.qparams().scale[0]
    assert scales["percentile(99)"] < scales["percentile"] < scales["minmax"] and scales["kl"] < scales["minmax"]
    exact = np.percentile(data, [0.5, 99.5])
    assert scales["percentile(99)"] == pytest.approx((exact[1] - exact[0]) / 255, rel=0.01)


def test_the_error_that_kl_expects_is_that_of_the_codes() -> None:
    """The rounding errors of uniform data are uniform, so 200,000 of them vary by less than 1% of their sum."""
    data = np.random.default_rng(0).uniform(-1, 2, 200_000).astype(np.float32)
    made = make_observer(QuantSpec(observer="kl"))
    made.observe(data)
    assert isinstance(made, Entropy)
    for fraction in (1.0, 0.99, 0.7):
        params = choose_qparams(float(made.low) * fraction, float(made.high) * fraction, made.spec)
        error = np.square(fake_quantize(data, params, made.spec.dtype).astype(np.float64) - data).sum()
        assert made._noise(np.array([fraction]), data.size)[0] == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize("low, high, count", [(0.0, 1.0, 11), (-3.7, 9.1, 2049), (0.1, 0.3, 6), (-1e-3, 1e4, 128)])
def test_even_steps_are_counted_from_the_nearer_end(low: float, high: float, count: int) -> None:
    """So both ends are exact, and the numbers of the negated range are the same in reverse."""
    made, negated = (
        _linspace(np.float32(low), np.float32(high), count),
        _linspace(-np.float32(high), -np.float32(low), count),
    )
    assert made[0] == np.float32(low) and made[-1] == np.float32(high)
    for part in (slice(0, count // 2), slice(-(count // 2), None)):
        assert np.array_equal(made[part], -negated[::-1][part])


def test_fixed_and_users_observers() -> None:
    fixed = make_observer(QuantSpec(observer="fixed(0.00390625,0)"))
    fixed.observe(np.array([1.0, 100.0], np.float32))
    assert fixed.qparams().scale == (1 / 256,)

    class Half:
        def __init__(self, spec: QuantSpec, factor: float = 0.5) -> None:
            self.inner, self.factor = make_observer(QuantSpec(observer="minmax")), factor

        def observe(self, array: np.ndarray, name: str = "") -> None:
            self.inner.observe(array * np.float32(self.factor), name)

        def qparams(self) -> object:
            return self.inner.qparams()

        def merge(self, other: object) -> None:
            self.inner.merge(other.inner)

    register_observer("half_of_test", Half)
    made = make_observer(QuantSpec(observer="half_of_test(0.25)"))
    made.observe(np.array([0.0, 255.0], np.float32))
    assert made.qparams().scale == (0.25,)
    with pytest.raises(QuantizationError, match="exists already"):
        register_observer("minmax", Half)
    with pytest.raises(QuantizationError, match=r"unregister_observer\('half_of_test'\)"):
        register_observer("half_of_test", Half)
    unregister_observer("half_of_test")
    for name in ("half_of_test", "minmax"):
        with pytest.raises(QuantizationError, match=f"no observer '{name}' was registered"):
            unregister_observer(name)


def test_a_factory_that_makes_no_observer() -> None:
    register_observer("nothing_of_test", lambda spec: object())  # type: ignore[arg-type,return-value]
    try:
        with pytest.raises(QuantizationError, match=r"(?s)lacks a method.*observe, qparams, merge"):
            make_observer(QuantSpec(observer="nothing_of_test"))
    finally:
        unregister_observer("nothing_of_test")


def test_bad_data_and_names() -> None:
    observer = make_observer(QuantSpec())
    with pytest.raises(QuantizationError, match="not finite"):
        observer.observe(np.array([1.0, np.nan], np.float32), "conv1")
    with pytest.raises(QuantizationError, match="no calibration data reached"):
        make_observer(QuantSpec()).qparams()
    with pytest.raises(QuantizationError, match="histogram"):
        make_observer(QuantSpec(observer="histogrm"))
    with pytest.raises(QuantizationError, match="percentile"):
        make_observer(QuantSpec(observer="percentile(7)"))
    with pytest.raises(QuantizationError, match="cannot be made"):
        make_observer(QuantSpec(observer="minmax(1,2,3)"))


@pytest.mark.parametrize("zero_point", ["2.5", "1e999", "nan", "1e300", "256", "-1"])
def test_fixed_takes_a_zero_point_that_is_a_code(zero_point: str) -> None:
    with pytest.raises(QuantizationError):
        QuantSpec(observer=f"fixed(0.1,{zero_point})")


@pytest.mark.parametrize(
    "spec,text",
    [
        ({"observer": "fixed(1e-9,0)"}, "at least eps"),
        ({"observer": "fixed(0.1,3)", "symmetric": True}, "expected: 128"),
        ({"observer": "fixed(0.1,3)", "symmetric": True, "dtype": DType.I8, "qmin": -127, "qmax": 127}, "expected: 0"),
    ],
)
def test_fixed_parameters_that_contradict_their_spec(spec: dict[str, object], text: str) -> None:
    with pytest.raises(QuantizationError, match=text):
        QuantSpec(**spec)  # type: ignore[arg-type]
    QuantSpec(observer="fixed(0.1,128)", symmetric=True)
