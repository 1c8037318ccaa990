"""Bias correction: means come nearer to float, and a channel is corrected only where both halves of the rows agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import PassError
from qcompiler.notes import BiasCorrected
from qcompiler.passes.correct_bias import CorrectBias, choose_corrections
from qcompiler.quantization import qmath
from qcompiler.quantization.observers import weight_params
from qcompiler.quantization.product_inputs import input_key
from tests.passes.pass_texts import load

INT8 = qc.get_qconfig("int8")
ROUGH = replace(INT8, weight=replace(INT8.weight, dtype=qc.DType.I8, qmin=-7, qmax=7))
"""Weights of few codes, whose rounding is large."""


def items(*shape: int, count: int = 6, seed: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(count)]


NETS = {
    "linear": (nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 24)), (16, 8)),
    "without a bias": (nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 24, bias=False)), (16, 8)),
    "conv": (nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1)), (2, 3, 9, 8)),
    "groups": (nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3, groups=4)), (2, 3, 9, 8)),
}


@pytest.mark.parametrize("case", NETS)
def test_means_of_channels_come_nearer(case: str) -> None:
    """On data that calibration did not see: the error of the mean falls to less than half."""
    net, shape = NETS[case]
    data, test = items(*shape), items(*shape, seed=6, count=24)
    real = qc.compile(net, None, (data[0],))
    errors = []
    for qconfig in (ROUGH, replace(ROUGH, equalize=False)):
        model = qc.compile(net, qconfig, (data[0],), calibration_data=data)
        apart = np.stack([model(x).astype(np.float64) - real(x) for x in test])
        axes = tuple(i for i in range(apart.ndim) if i != (2 if case in ("conv", "groups") else apart.ndim - 1))
        errors.append(float((apart.mean(axis=axes) ** 2).sum()))
    assert 4 * errors[0] < errors[1]


def test_the_correction_is_the_mean_of_what_is_lost() -> None:
    """With rows that are all alike, both halves agree, and the mean is what rounding loses of one row."""
    net = nn.Sequential(nn.Linear(8, 6))
    x = np.linspace(0.5, 2, 8, dtype=np.float32)
    data = [np.stack([x * (1 + i / 4096) for i in range(16)])]
    prepared = qc.prepare(net, ROUGH, (data[0],))
    calibration = qc.calibrate(prepared, data)
    (layer,) = prepared.sampled_products().values()
    (found,) = choose_corrections(
        prepared.graph, {layer.node.name: calibration.inputs[input_key(layer)]}, prepared.configs
    ).values()
    weight = layer.weight.data
    given = qmath.fake_quantize(weight, weight_params(weight, ROUGH.weight, 0, "w"), qc.DType.I8)
    expected = (weight.astype(np.float64) - given) @ data[0].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(found, expected, atol=float(np.abs(x).sum()) * 2.0**-13)


def test_halves_that_disagree_correct_nothing() -> None:
    """Rows of mean 0: what the halves estimate is noise, and at least a third of the channels stay as they are."""
    net = nn.Sequential(nn.Linear(64, 256))
    data = items(16, 64)
    prepared = qc.prepare(net, INT8, (data[0],))
    graph = qc.convert(prepared, qc.calibrate(prepared, data))
    notes = [note for note in graph.notes if isinstance(note, BiasCorrected)]
    assert all(note.channels == 256 and note.corrected < 170 for note in notes)


def test_it_is_reported_and_off_where_the_qconfig_says_so() -> None:
    net, shape = NETS["linear"]
    data = items(*shape)
    model = qc.compile(net, ROUGH, (data[0],), calibration_data=data)
    assert model.report().corrected and f"    {model.report().corrected[0]}" in str(model.report())
    assert qc.parse(str(model.graph), data="zeros").notes == model.graph.notes
    for qconfig in ("int8:plain", "torch:fbgemm", replace(ROUGH, equalize=False)):
        assert not qc.compile(net, qconfig, (data[0],), calibration_data=data).report().corrected


WRONG = {
    "no product": ({"r": (1.0, 1.0)}, "correct-bias corrects what is no product with a constant bias"),
    "unknown": ({"z": (1.0, 1.0)}, "correct-bias corrects what is no product with a constant bias"),
    "too few": ({"y": (1.0,)}, "corrections"),
    "not finite": ({"y": (1.0, float("inf"))}, "corrections"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_corrected_is_refused(case: str) -> None:
    corrections, message = WRONG[case]
    body = """
        const @w : f32[2,3]
        %r = relu(%x) : f32[4,3]
        %y = linear(%r, @w) : f32[4,2]
        return %y
    """
    with pytest.raises(PassError) as caught:
        CorrectBias(corrections).run(load("%x: f32[4,3]", body, "observed"))
    assert caught.value.message == message
