"""Weights that are rounded on calibration data: smaller errors, the same bits everywhere, and data that says little."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import PassError, QuantizationError
from qcompiler.notes import NotRounded, Rounded
from qcompiler.ops.interfaces import Weighted
from qcompiler.passes.round_weights import RoundWeights
from qcompiler.quantization import adaround, exact_products, input_moments
from qcompiler.quantization.adaround import choose_rounding
from qcompiler.quantization.error_feedback import round_with_feedback
from qcompiler.quantization.kept_items import MAX_BYTES_TO_ROUND, KeptItems
from tests.passes.pass_texts import load

METHODS = ("adaround", "gptq")


@pytest.fixture(autouse=True)
def few_steps_and_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompiler.frontend.nn.init._generator", np.random.default_rng(0))
    monkeypatch.setattr(adaround, "STEPS", 250)
    monkeypatch.setattr(adaround, "WARM_UP", 50)


def items(*shape: int, count: int = 6, seed: int = 5) -> list[np.ndarray]:
    """Inputs whose channels are correlated, so that errors of weights can make up for each other."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, *shape)).astype(np.float32)
    return list(noise + 6 * noise.mean(axis=2, keepdims=True))


NETS = {
    "linear": (lambda: nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 16)), (64, 32)),
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, stride=2)),
        (2, 3, 9, 8),
    ),
    "groups": (lambda: nn.Sequential(nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3, groups=2)), (2, 4, 9, 8)),
    "depthwise": (
        lambda: nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU6(), nn.Conv2d(16, 16, 3, groups=16)),
        (2, 3, 9, 8),
    ),
    "transposed": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, stride=2)),
        (2, 3, 6, 6),
    ),
}


def case_of(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A net with random weights of a fixed seed, and the shape of its input."""
    make, shape = NETS[name]
    return make(), shape


def compiled(net: nn.Module, qconfig: object, data: list[np.ndarray], target: str = "reference") -> qc.CompiledModel:
    return qc.compile(net, qconfig, (data[0],), calibration_data=data, target=target)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", NETS)
def test_outputs_come_nearer_to_float(case: str, method: str) -> None:
    """On data that calibration did not see; and codes stay in range, with the bits of the interpreter."""
    net, shape = case_of(case)
    data, test = items(*shape), items(*shape, seed=6)
    real = qc.compile(net, None, (data[0],))
    nearest, chosen = (compiled(net, name, data) for name in ("w4a8", f"w4a8:{method}"))
    losses = [sum(float(((model(x) - real(x)) ** 2).sum()) for x in test) for model in (nearest, chosen)]
    assert losses[1] < (0.9 if case == "depthwise" else 0.8) * losses[0]
    notes = [note for note in chosen.graph.notes if isinstance(note, Rounded)]
    assert len(notes) == 2 and all(note.method == method and note.after <= note.before for note in notes)
    assert f"    {notes[0]}" in str(chosen.report())
    assert qc.parse(str(chosen.graph), data="zeros").notes == chosen.graph.notes
    for node in chosen.graph.nodes:
        layer = Weighted.of(node)
        assert layer is None or abs(layer.weight.data.astype(int)).max() <= 7
    native = compiled(net, f"w4a8:{method}", data, "native")
    assert str(native.graph) == str(chosen.graph)
    for x in test:
        assert np.array_equal(native(x), chosen(x))


@pytest.mark.parametrize("qconfig", ["w2a4:gptq", "w3a5:plain", "w4a16:gptq", "w8a6:adaround", "int8:gptq", "w4a4"])
def test_bits_by_name(qconfig: str) -> None:
    net, shape = case_of("conv")
    data = items(*shape)
    given = qc.get_qconfig(qconfig)
    assert given.weight is not None and given.activation is not None
    if qconfig.startswith("w"):
        assert (given.weight.bits, given.activation.bits) == tuple(map(int, qconfig[1:].partition(":")[0].split("a")))
    assert given.mixed_precision == given.equalize == (not qconfig.endswith("plain"))
    reference, native = (compiled(net, qconfig, data, target) for target in ("reference", "native"))
    assert all(np.array_equal(reference(x), native(x)) for x in data)
    assert not [node for node in native.graph.nodes if node.op == "conv" and not node.operands[1].type.is_quantized]


@pytest.mark.parametrize("name", ["w1a8", "w9a8", "w4a3", "w4a9", "w4a8:kl", "w4a8:gptq:plain", "w4", "int8:ada"])
def test_unknown_bits_are_refused(name: str) -> None:
    with pytest.raises(QuantizationError, match="unknown qconfig"):
        qc.get_qconfig(name)


def test_a_rounding_needs_weights_and_data() -> None:
    int8, weightless = qc.get_qconfig("int8"), {"weight": None, "rounding": "gptq"}
    for config, options in ((int8, {"rounding": "up"}), (int8, weightless), (qc.get_qconfig("dynamic"), METHODS)):
        with pytest.raises(QuantizationError) as caught:
            replace(config, **options if isinstance(options, dict) else {"rounding": METHODS[0]})  # type: ignore[arg-type]
        assert "QConfig.rounding" in str(caught.value)
    net, shape = case_of("linear")
    data = items(*shape)
    prepared = qc.prepare(net, "w4a8:gptq", (data[0],))
    calibration = qc.calibrate(prepared, data)
    scales = qc.Scales.of(prepared, calibration)
    calibration.kept_items = None
    for observers in (calibration, scales):
        with pytest.raises(QuantizationError, match="no calibration items to round weights on"):
            qc.convert(prepared, observers)


HOSTILE = {
    "zeros": [np.zeros((4, 32), np.float32)] * 3,
    "a constant": [np.full((4, 32), 3.0, np.float32)] * 3,
    "one row": [np.linspace(-1, 1, 32, dtype=np.float32)[None]],
    "one item with NaN": [np.full((4, 32), np.nan, np.float32), np.ones((4, 32), np.float32)],
    "huge": [np.full((4, 32), 1e30, np.float32), np.full((4, 32), -1e30, np.float32)],
    "tiny": [np.full((4, 32), 1e-30, np.float32)],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", HOSTILE)
def test_data_that_says_little(case: str, method: str) -> None:
    """Compilation ends, and nothing of the result is worse than finite."""
    net, data = case_of("linear")[0], HOSTILE[case]
    made = compiled(net, f"w4a8:{method}", data)
    assert np.isfinite(made(data[-1])).all()
    assert all(np.isfinite([note.before, note.after]).all() for note in made.graph.notes if isinstance(note, Rounded))


def test_values_with_nan_inside_stay_float() -> None:
    """A quotient of zeros in some items: its readers are float, all others are rounded by data."""
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    last = nn.Linear(8, 4)
    data = [np.zeros((4, 8), np.float32), *items(4, 8)]
    made = compiled(lambda x: last(net(x) + (x * 0) / x), "w4a8:gptq", data)  # type: ignore[arg-type]
    assert np.isfinite(made(data[1])).all()


def test_rows_of_many_terms_are_left_to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompiler.passes.round_weights.MAX_BYTES_OF_ONE", 8 * 30**2)
    net, shape = case_of("linear")
    made = compiled(net, "w4a8:gptq", items(*shape))
    kinds = [type(note) for note in made.graph.notes if isinstance(note, (Rounded, NotRounded))]
    assert kinds == [NotRounded, Rounded] and made.report().not_rounded


def test_few_bytes_of_moments_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, shape = case_of("conv")
    whole = compiled(net, "w4a8:gptq", items(*shape))
    monkeypatch.setattr(input_moments, "MAX_BYTES", 1)
    monkeypatch.setattr(input_moments, "_BLOCK_BYTES", 1)
    assert _same(compiled(net, "w4a8:gptq", items(*shape)), whole)


def test_the_order_of_the_items_changes_nothing() -> None:
    net, shape = case_of("conv")
    data = items(*shape)
    assert _same(compiled(net, "w4a8:gptq", data[:1] + data[:0:-1]), compiled(net, "w4a8:gptq", data))


@pytest.mark.parametrize("choose", [choose_rounding, round_with_feedback])
def test_the_order_of_sums_changes_nothing(choose: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A BLAS that sums in another order gives the same codes, to the bit; such a product of plain f64 differs."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 500, 150)) + rng.normal(size=(2, 500, 1))
    moments = np.matmul(rows.swapaxes(1, 2), rows)
    target, bound = rng.normal(size=(2, 20, 150)) * 3, np.full((2, 20), 7.0)
    codes = choose(target, moments, -bound, bound)  # type: ignore[operator]
    matmul = np.matmul
    monkeypatch.setattr(exact_products.np, "matmul", lambda a, b: matmul(a[..., ::-1], b[..., ::-1, :]))
    assert np.array_equal(choose(target, moments, -bound, bound), codes)  # type: ignore[operator]
    assert not np.array_equal(np.matmul(target, moments), matmul(target, moments))


def test_products_are_near_and_exact_in_any_order() -> None:
    rng = np.random.default_rng(1)
    for size in (1, 7, 300):
        a, b = rng.normal(size=(3, 5, size)), rng.normal(size=(3, size, 6)) * 1e5
        got, order = exact_products.product(a, b), rng.permutation(size)
        assert np.array_equal(exact_products.product(a[..., order], b[..., order, :]), got)
        bits = exact_products.slice_bits(size)
        bound = size * 2.0 ** (3 - 2 * bits) * np.abs(a).max() * np.abs(b).max()
        assert np.abs(got - np.matmul(a, b)).max() <= bound + 2.0**-50 * size * np.abs(a).max() * np.abs(b).max()
    assert not exact_products.product(np.zeros((1, 2, 3)), np.zeros((1, 3, 2))).any()


def test_feedback_minimizes_each_term_of_the_factored_error() -> None:
    """Equation (3) of error_feedback.py, with U by numpy: no code could be one higher or lower at less error."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(400, 12)) @ rng.normal(size=(12, 12))
    moments = (rows.T @ rows)[None]
    target = rng.normal(size=(1, 5, 12)) * 4
    bound = np.full((1, 5), 100.0)
    codes = round_with_feedback(target, moments, -bound, bound)
    order = np.argsort(-np.diagonal(moments[0]), kind="stable")
    left = np.linalg.cholesky(moments[0][np.ix_(order[::-1], order[::-1])])[::-1, ::-1]
    upper = left / np.diagonal(left)
    terms = (codes - target)[0][:, order] @ upper
    assert np.abs(terms).max() <= 0.5 + 1e-9


def test_large_items_are_kept_to_round_on() -> None:
    """Items that are too large to judge outputs by are not too large to round weights on."""
    item = np.broadcast_to(np.float32(1), (MAX_BYTES_TO_ROUND // 4 // 32, 32))
    (value,) = qc.trace(case_of("linear")[0], (np.ones(item.shape, np.float32),)).inputs
    for to_round in (True, False):
        kept = KeptItems.of_inputs([value], to_round)
        kept.take([item])
        assert len(kept.items) == to_round and len(kept.to_judge()) == to_round


def test_outputs_are_judged_on_the_items_of_other_qconfigs() -> None:
    few, many = (KeptItems.of_inputs(qc.trace(nn.ReLU(), (np.ones(3, np.float32),)).inputs, each) for each in (0, 1))
    for kept in (few, many):
        for number in range(30):
            kept.take([np.full(3, number, np.float32)])
    assert len(many.items) == 30 and np.array_equal(many.to_judge(), few.items)


WRONG = {
    "no product": {"r": "AA=="},
    "unknown": {"z": "AA=="},
    "no base64": {"y": "?"},
    "too few": {"y": "AA=="},
    "beyond the range": {"y": base64.b64encode(bytes([8] * 6)).decode()},
}


@pytest.mark.parametrize("case", WRONG)
def test_codes_that_do_not_fit_are_refused(case: str) -> None:
    body = """
        const @w : i8[2,3]{scale=0.5, qmin=-7, qmax=7}
        %d = dequantize(@w) : f32[2,3]
        %r = relu(%x) : f32[4,3]
        %y = linear(%r, %d) : f32[4,2]
        return %y
    """
    with pytest.raises(PassError):
        RoundWeights(WRONG[case]).run(load("%x: f32[4,3]", body, "qdq"))


def _same(first: qc.CompiledModel, second: qc.CompiledModel) -> bool:
    weights = [
        [layer.weight.data for node in model.graph.nodes if (layer := Weighted.of(node)) is not None]
        for model in (first, second)
    ]
    return str(first.graph) == str(second.graph) and all(map(np.array_equal, *weights))
