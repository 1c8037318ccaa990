"""The observers of weights are honoured; parameters that no tensor can have are refused where they are given."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import QuantizationError
from qcompiler.quantization import observers
from qcompiler.quantization.observers import make_observer, register_observer
from qcompiler.quantization.qconfig import QConfig
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import DType, QuantParams

INT8 = qc.get_qconfig("int8")
X = np.random.default_rng(0).normal(size=(4, 3, 6, 6)).astype(np.float32)


def weight_spec(observer: str, *, per_channel: bool = True) -> QuantSpec:
    assert INT8.weight is not None
    return replace(INT8.weight, observer=observer, per_channel=per_channel)


def net() -> nn.Module:
    layer = nn.Conv2d(3, 4, 3)
    layer.weight[...] = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)
    return layer


def weight_params(spec: QuantSpec) -> QuantParams:
    config = QConfig(INT8.activation, spec, equalize=False)  # equalization and biases ask the observer too
    model = qc.compile(net(), config, (X,), calibration_data=[X], target="reference")
    return next(value.type.params for value in model.graph.consts.values() if value.type.dtype is DType.I8)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[..., object]], str]]:
    monkeypatch.setattr(observers, "_OBSERVERS", dict(observers._OBSERVERS))

    def register(factory: Callable[..., object]) -> str:
        name = f"user_{uuid.uuid4().hex}"
        register_observer(name, factory)
        return name

    yield register


class Recorder:
    """A user's observer, which gives the range of min-max times a number."""

    seen: list[tuple[tuple[int, ...], str]] = []

    def __init__(self, spec: QuantSpec, factor: float = 1.0) -> None:
        self.inner, self.factor = make_observer(replace(spec, observer="minmax")), np.float32(factor)

    def observe(self, array: np.ndarray, name: str = "") -> None:
        Recorder.seen.append((array.shape, name))
        self.inner.observe(array * self.factor, name)

    def qparams(self) -> QuantParams:
        return self.inner.qparams()

    def merge(self, other: Recorder) -> None:
        self.inner.merge(other.inner)


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_users_observer_sees_the_weight(registered: Callable[..., str], per_channel: bool) -> None:
    name = registered(Recorder)
    Recorder.seen.clear()
    plain = weight_params(weight_spec("minmax", per_channel=per_channel))
    halved = weight_params(weight_spec(f"{name}(0.5)", per_channel=per_channel))
    shapes = [(3, 3, 3)] * 4 if per_channel else [(4, 3, 3, 3)]
    assert [shape for shape, _ in Recorder.seen] == shapes and all("weight" in where for _, where in Recorder.seen)
    np.testing.assert_array_equal(halved.scales, plain.scales / 2)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(
    "observer", ["minmax", "histogram", "torch_histogram", "percentile(80)", "mse", "kl", "moving_average"]
)
def test_every_built_in_observer_chooses_the_scales_of_a_weight(observer: str, per_channel: bool) -> None:
    params = weight_params(weight_spec(observer, per_channel=per_channel))
    weight = np.asarray(net().weight)
    channels = weight if per_channel else [weight]
    expected = []
    for channel in channels:
        made = make_observer(weight_spec(observer, per_channel=False))
        made.observe(channel)
        expected.append(made.qparams().scale[0])
    assert params.scale == tuple(expected) and params.axis == (0 if per_channel else None)


def test_fixed_parameters_of_a_weight() -> None:
    assert weight_params(weight_spec("fixed(0.125,0)")).scale == (0.125,) * 4


class Wrong(Recorder):
    """An observer that chooses what its class attribute says."""

    answer: object = None

    def qparams(self) -> QuantParams:
        return self.answer


@pytest.mark.parametrize(
    "answer, message",
    [
        (None, "no parameters"),
        (0.5, "no parameters"),
        (QuantParams((0.1, 0.2), (0, 0), 0, -127, 127), "no parameters"),
        (QuantParams.per_tensor(0.1, 0, DType.I8, -128, 127), "another range"),
    ],
)
def test_an_observer_that_chooses_no_legal_parameters(
    registered: Callable[..., str], monkeypatch: pytest.MonkeyPatch, answer: object, message: str
) -> None:
    name = registered(Wrong)
    monkeypatch.setattr(Wrong, "answer", answer)
    with pytest.raises(QuantizationError, match=message) as caught:
        weight_params(weight_spec(name))
    assert "weight" in str(caught.value.where)
    config = QConfig(QuantSpec(observer=name), INT8.weight)
    with pytest.raises(QuantizationError, match=message):
        qc.compile(net(), config, (X,), calibration_data=[X], target="reference")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: QuantSpec(observer="histogrm"), "did you mean 'histogram'"),
        (lambda: weight_spec("minmx"), "did you mean 'minmax'"),
        (lambda: QuantSpec(observer=""), "unknown observer"),
        (lambda: QuantSpec(observer="percentile(99.9"), "parentheses"),
        (lambda: QuantSpec(observer="percentile 99)"), "unknown observer"),
        (lambda: QuantSpec(observer="percentile(x)"), "cannot be made"),
        (lambda: QuantSpec(observer="percentile(1000)"), "percentile"),
        (lambda: QuantSpec(observer="percentile(50)"), "above 50, up to 100"),
        (lambda: QuantSpec(observer="percentile(100.5)"), "above 50, up to 100"),
        (lambda: QuantSpec(observer="minmax(3)"), "cannot be made"),
        (lambda: QuantSpec(observer="fixed"), "cannot be made"),
        (lambda: QuantSpec(DType.U8, 0, 256), "quantized range"),
        (lambda: QuantSpec(DType.U8, 5, 5), "quantized range"),
        (lambda: QuantSpec(DType.F32), "quantized range"),
        (lambda: QuantSpec(eps=0.0), "eps"),
        (lambda: QuantSpec(eps=float("inf")), "eps"),
        (lambda: QuantSpec(eps=float("nan")), "eps"),
        (lambda: QConfig(QuantSpec(per_channel=True), INT8.weight), "activations have one scale"),
        (lambda: QConfig(QuantSpec(DType.I32, 0, 9), INT8.weight), "at most 16 bits"),
        (lambda: QConfig(INT8.activation, QuantSpec(DType.I16, 0, 9)), "at most 8 bits"),
        (lambda: QuantSpec.parse(str(QuantSpec()).replace("histogram", "histogrm")), "did you mean 'histogram'"),
        (lambda: register_observer("two words", Recorder), "identifier"),
    ],
)
def test_what_no_tensor_can_have_is_refused_where_it_is_given(make: Callable[[], object], message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        make()
