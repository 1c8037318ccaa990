"""recognize: every way to write a function gives the graph of the op itself, and other functions are left alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.binding import bound_attrs
from qcompiler.frontend import functional as F
from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.passes import recognize, regions
from qcompiler.passes.pipelines import float_pipeline
from qcompiler.passes.recognize import Recognize
from qcompiler.passmanager import PassManager
from qcompiler.text.compare import first_difference

X = np.random.default_rng(0).normal(size=(6, 5, 24)).astype(np.float32)
GAIN, SHIFT = np.linspace(0.5, 1.5, 24, dtype=np.float32), np.linspace(-1, 1, 24, dtype=np.float32)

Spelling = Callable[[Any], Any]


def erf(x: Any) -> Any:
    return x.erf()


def rsqrt(x: Any) -> Any:
    return x.rsqrt()


ACTIVATIONS: dict[str, tuple[Spelling, list[Spelling]]] = {
    "gelu": (
        F.gelu,
        [
            lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),  # torch to ONNX, opsets below 20
            lambda x: x * (erf(x * 0.70710678) + 1.0) * 0.5,  # tf2onnx
            lambda x: x * (0.5 * (1.0 + erf(x / 1.4142135))),
            lambda x: (x * 0.5) * (1 + erf(x / np.sqrt(2.0))),
            lambda x: x * 0.5 + x * 0.5 * erf(x * np.float32(math.sqrt(0.5))),
        ],
    ),
    "tanh gelu": (
        lambda x: F.gelu(x, approximate="tanh"),
        [
            lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
            lambda x: 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x * x * x))),
            lambda x: x * (0.5 * (1 + np.tanh(x * 0.7978845608028654 * (1 + 0.044715 * x * x)))),
            lambda x: x * F.sigmoid(1.5957691216 * (x + 0.044715 * np.power(x, 3))),
        ],
    ),
    "silu": (
        F.silu,
        [lambda x: x * F.sigmoid(x), lambda x: x / (1 + np.exp(-x)), lambda x: F.sigmoid(x) * x],
    ),
    "hardswish": (
        F.hardswish,
        [
            lambda x: x * np.clip(x + 3, 0, 6) / 6,
            lambda x: x * np.clip(x * (1 / 6) + 0.5, 0, 1),
            lambda x: x * F.relu6(x + 3) * 0.16666667,
            lambda x: x * (np.minimum(np.maximum(x + 3, 0), 6) / 6),
            lambda x: x * F.hardsigmoid(x),
        ],
    ),
    "hardsigmoid": (F.hardsigmoid, [lambda x: np.clip(x + 3, 0, 6) / 6, lambda x: np.clip(x / 6 + 0.5, 0, 1)]),
    "mish": (
        F.mish,
        [lambda x: x * np.tanh(F.softplus(x)), lambda x: x * np.tanh(np.log(1 + np.exp(x)))],
    ),
    "sigmoid": (F.sigmoid, [lambda x: 1 / (1 + np.exp(-x)), lambda x: 0.5 * np.tanh(0.5 * x) + 0.5]),
    "softplus": (F.softplus, [lambda x: np.log(np.exp(x) + 1)]),
}


def _layer_norm(x: np.ndarray) -> np.ndarray:
    return F.layer_norm(x, (24,), GAIN, SHIFT, 1e-5)


def _centered(x: np.ndarray) -> np.ndarray:
    return x - x.mean(axis=-1, keepdims=True)


def _torch_to_onnx(x: np.ndarray) -> np.ndarray:
    d = _centered(x)
    return d / np.sqrt((d**2).mean(axis=-1, keepdims=True) + 1e-5) * GAIN + SHIFT


def _paddle(x: np.ndarray) -> np.ndarray:
    d = _centered(x)
    return SHIFT + GAIN * (d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + 1e-5))


def _tensorflow(x: np.ndarray) -> np.ndarray:
    """A batch norm as tf.nn.batch_normalization writes it: the gain is a part of the factor."""
    mean = x.mean(axis=-1, keepdims=True)
    factor = rsqrt(np.square(x - mean).mean(axis=-1, keepdims=True) + 1e-5) * GAIN
    return x * factor + (SHIFT - mean * factor)


def _jax(x: np.ndarray) -> np.ndarray:
    mean, square = x.sum(axis=2) * np.float32(1 / 24), (x * x).sum(axis=2) * np.float32(1 / 24)
    variance = np.maximum(0, square - mean * mean)
    return (x - mean.reshape(-1, 5, 1)) * (1 / np.sqrt(variance.reshape(-1, 5, 1) + 1e-5)) * GAIN + SHIFT


def _power(x: np.ndarray) -> np.ndarray:
    d = _centered(x)
    return d * np.power((d * d).mean(axis=-1, keepdims=True) + 1e-5, -0.5) * GAIN + SHIFT


def _length(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.sqrt((x * x).sum(axis=axis, keepdims=True))


def _groups_of_8(x: np.ndarray) -> np.ndarray:
    """The means and variances of three groups of channels, in small ops: x is [6, 24, 5]."""
    rows = x.reshape(-1, 3, 8, 5)
    d = rows - rows.mean(axis=(2, 3), keepdims=True)
    return (d / np.sqrt((d * d).mean(axis=(2, 3), keepdims=True) + 1e-5)).reshape(x.shape)


def _channels_first(f: Spelling) -> Spelling:
    return lambda x: f(x.swapaxes(1, 2)).swapaxes(1, 2)


NORMS: dict[str, tuple[Spelling, list[Spelling]]] = {
    "layer_norm": (_layer_norm, [_torch_to_onnx, _paddle, _tensorflow, _jax, _power]),
    "layer_norm without parameters": (
        lambda x: F.layer_norm(x, (24,), eps=1e-6),
        [lambda x: _centered(x) / np.sqrt(np.square(_centered(x)).mean(axis=-1, keepdims=True) + 1e-6)],
    ),
    "layer_norm of the channels of an image": (
        lambda x: F.layer_norm(x.swapaxes(1, 2), (5,), GAIN[:5], SHIFT[:5], 1e-6).swapaxes(1, 2),
        [
            lambda x: (
                (x - x.mean(axis=1, keepdims=True))
                / np.sqrt(np.square(x - x.mean(axis=1, keepdims=True)).mean(axis=1, keepdims=True) + 1e-6)
                * GAIN[:5, None]
                + SHIFT[:5, None]
            )
        ],
    ),
    "rms_norm of the first axis": (
        lambda x: F.rms_norm(x.transpose(1, 2, 0), (6,), eps=1e-6).transpose(2, 0, 1),
        [lambda x: x * rsqrt(np.square(x).mean(axis=0, keepdims=True) + 1e-6)],
    ),
    "layer_norm of two axes": (
        lambda x: F.layer_norm(x, (5, 24), eps=1e-3),
        [
            lambda x: (
                (x - x.mean(axis=(1, 2), keepdims=True))
                / np.sqrt(np.square(x - x.mean(axis=(1, 2), keepdims=True)).mean(axis=(1, 2), keepdims=True) + 1e-3)
            )
        ],
    ),
    "rms_norm": (
        lambda x: F.rms_norm(x, (24,), GAIN, 1e-6),
        [
            lambda x: x * rsqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-6) * GAIN,
            lambda x: GAIN * (x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)),
            lambda x: x / np.sqrt((x * x).sum(axis=-1, keepdims=True) * np.float32(1 / 24) + 1e-6) * GAIN,
        ],
    ),
    "group_norm": (
        _channels_first(lambda x: F.group_norm(x, 3, GAIN, SHIFT)),
        [
            # torch to ONNX, opsets below 18
            _channels_first(
                lambda x: (
                    F.instance_norm(x.reshape(-1, 3, 40)).reshape(x.shape) * GAIN.reshape(24, 1) + SHIFT.reshape(24, 1)
                )
            ),
            _channels_first(lambda x: _groups_of_8(x) * GAIN.reshape(24, 1) + SHIFT.reshape(24, 1)),
        ],
    ),
    "group_norm without parameters": (
        _channels_first(lambda x: F.group_norm(x, 3)),
        [
            _channels_first(lambda x: F.instance_norm(x.reshape(-1, 3, 40)).reshape(x.shape)),
            _channels_first(_groups_of_8),
        ],
    ),
    "l2_normalize": (
        lambda x: F.normalize(x, dim=-1),
        [
            lambda x: x / np.maximum(_length(x), 1e-12),
            lambda x: x / np.clip(_length(x), 1e-12, None),
            lambda x: x * (1 / np.maximum(_length(x), 1e-12)),
            lambda x: x * rsqrt(np.maximum((x * x).sum(axis=-1, keepdims=True), 1e-24)),  # tf.math.l2_normalize
        ],
    ),
    "l2_normalize of the second axis": (
        lambda x: F.normalize(x, dim=1, eps=1e-3),
        [lambda x: x / np.maximum(_length(x, 1), 1e-3)],
    ),
    "l2_normalize by a length alone": (lambda x: F.normalize(x, dim=-1, eps=0.0), [lambda x: x / _length(x)]),
    "softmax": (
        lambda x: F.softmax(x * 0.125, -1),
        [
            lambda x: (
                np.exp(x * 0.125 - (x * 0.125).max(axis=-1, keepdims=True))
                / np.exp(x * 0.125 - (x * 0.125).max(axis=-1, keepdims=True)).sum(axis=-1, keepdims=True)
            ),
            lambda x: np.exp(x * 0.125) / np.exp(x * 0.125).sum(axis=-1, keepdims=True),
        ],
    ),
    "softmax of the second axis": (
        lambda x: F.softmax(x, 1),
        [lambda x: np.exp(x) * (1 / np.exp(x).sum(axis=1, keepdims=True))],
    ),
    "log_softmax": (
        lambda x: F.log_softmax(x, -1),
        [lambda x: x - np.log(np.exp(x).sum(axis=-1, keepdims=True))],
    ),
}
KNOWN = {**ACTIVATIONS, **NORMS}
CASES = [(name, number) for name, (_, spellings) in KNOWN.items() for number in range(len(spellings))]


def _between_layers(f: Spelling) -> Spelling:
    weight = np.random.default_rng(1).normal(size=(24, 24)).astype(np.float32)
    return lambda x: f(x @ weight) @ weight


def _simplified(f: Spelling) -> Graph:
    return PassManager(float_pipeline()).run(qc.trace(f, (X,), dynamic={0: {0: "B"}}))


@pytest.mark.parametrize("name,number", CASES)
def test_every_spelling_gives_the_integer_graph_of_the_op(name: str, number: int) -> None:
    direct, spellings = KNOWN[name]
    graphs = [
        qc.compile(_between_layers(f), "int8", (X,), calibration_data=[X], target="reference").graph
        for f in (direct, spellings[number])
    ]
    assert [node.op for node in graphs[0].nodes] == [node.op for node in graphs[1].nodes], f"{graphs[0]}\n{graphs[1]}"
    codes = [run(graph, [X])[0] for graph in graphs]
    step = max(graph.node_list[0].result.type.params.scale[0] for graph in graphs)
    assert np.abs(codes[0] - codes[1]).max() <= 64 * step  # a tie of one code behind, times 24 weights of about 1


@pytest.mark.parametrize("name,number", CASES)
def test_the_numbers_stay(name: str, number: int) -> None:
    """The result is compared with the spelling in float64, as `Region` computes it, within recognize's own bound: 2^-16
    of the largest result."""
    spelling = KNOWN[name][1][number]
    traced = qc.trace(spelling, (X,), dynamic={0: {0: "B"}})
    before, after = run(traced, [X])[0], run(_simplified(spelling), [X])[0]
    assert np.abs(before - after).max() <= 2.0**-16 * np.abs(before).max()


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-6, 1e-5, 1e-3, 0.1])
@pytest.mark.parametrize("centers", [True, False])
def test_parameters_of_norms_are_found(eps: float, centers: bool) -> None:
    gain = np.random.default_rng(0).uniform(-2, 2, 24).astype(np.float32)
    gain[3] = 0

    def norm(x: np.ndarray) -> np.ndarray:
        d = _centered(x) if centers else x
        return d / np.sqrt(np.square(d).mean(axis=-1, keepdims=True) + eps) * gain

    graph = _simplified(norm)
    if eps == 0.0:  # the bias is found from a row of zeros, where such a norm has no value
        assert not {"layer_norm", "rms_norm"} & {node.op for node in graph.nodes}
        return
    [node] = graph.nodes
    assert node.op == ("layer_norm" if centers else "rms_norm")
    assert node.attrs["eps"] == eps
    weight = node.operands[1]
    assert weight is not None and np.abs(graph.consts[weight.name].data - gain).max() <= 1e-6
    assert len(node.operands) < 3 or node.operands[2] is None


def _by_deviation(x: np.ndarray, divisor: Spelling) -> np.ndarray:
    return _centered(x) / divisor(np.sqrt(np.square(_centered(x)).mean(axis=-1, keepdims=True)))


NOT_NORMALIZED = "its rows are not normalized and then multiplied by one weight"
NEAR: dict[str, tuple[Spelling, str]] = {
    "quick gelu": (lambda x: x * F.sigmoid(1.702 * x), "no op computes this function"),
    "gelu with another factor": (lambda x: 0.51 * x * (1 + erf(x / math.sqrt(2))), "it is near to gelu"),
    "hardswish with another bound": (lambda x: x * np.clip(x + 3, 0, 5.99) / 6, "it is near to hardswish"),
    "silu of two values": (lambda x: x * F.sigmoid(x[::-1]), "no op computes this function"),
    "norm by the mean of |d|": (
        lambda x: _centered(x) / (np.abs(_centered(x)).mean(axis=-1, keepdims=True) + 1e-5),
        NOT_NORMALIZED,
    ),
    "norm by the variance along another axis": (
        lambda x: (
            _centered(x[:, :, :5]) / np.sqrt(np.square(_centered(x[:, :, :5])).mean(axis=1, keepdims=True) + 1e-5)
        ),
        NOT_NORMALIZED,
    ),
    "norm of rows of other lengths": (
        lambda x: _centered(x) / np.sqrt(np.square(_centered(x)).mean(axis=(1, 2), keepdims=True) + 1e-5),
        "its reductions are over different numbers of elements",
    ),
    "norm by the mean square": (
        lambda x: _centered(x) / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-5),
        NOT_NORMALIZED,
    ),
    "norm with a weight of each row": (
        lambda x: _torch_to_onnx(x) * np.linspace(1, 2, 5, dtype=np.float32).reshape(5, 1),
        "rows of zeros do not all give the same bias",
    ),
    "norm with eps outside of the root": (
        lambda x: _by_deviation(x, lambda s: s + 1e-2),
        "its eps 0.01 is added to the root: s + eps; that of layer_norm is added under the root",
    ),
    "norm with a tiny eps outside of the root": (
        lambda x: _by_deviation(x, lambda s: s + 1e-8),
        "its eps 1e-08 is added to the root: s + eps; that of layer_norm is added under the root",
    ),
    "norm with a least deviation": (
        lambda x: _by_deviation(x, lambda s: np.maximum(s, 1e-3)),
        "its eps 0.001 is the least divisor: max(s, eps); that of layer_norm is added under the root",
    ),
    "normalize with eps outside of the root": (
        lambda x: x / (_length(x) + 1e-6),
        "its eps 1e-06 is added to the root: s + eps; that of l2_normalize is the least divisor",
    ),
    "normalize by the root of the length": (
        lambda x: x / np.maximum(np.sqrt(_length(x)), 1e-6),
        NOT_NORMALIZED,
    ),
    "group norm with a weight of each pixel": (
        _channels_first(lambda x: _groups_of_8(x) * np.linspace(1, 2, 5, dtype=np.float32)),
        NOT_NORMALIZED,
    ),
    "softmax with one more": (
        lambda x: np.exp(x) / (1 + np.exp(x).sum(axis=-1, keepdims=True)),
        NOT_NORMALIZED,
    ),
    "softmax with a tiny bit more": (
        lambda x: np.exp(x) / (1e-6 + np.exp(x).sum(axis=-1, keepdims=True)),
        "it differs from softmax by 1 (relative) for a row of mean -30 and deviation 1",
    ),
    "softmax of halves": (
        lambda x: np.exp(x * 0.5) / np.exp(x * 0.5000001 * 1.001).sum(axis=-1, keepdims=True),
        "it differs from softmax",
    ),
}


@pytest.mark.parametrize("name", NEAR)
def test_near_misses_are_left_alone_with_a_reason(name: str) -> None:
    spelling, reason = NEAR[name]
    after = PassManager([Recognize()]).run(qc.trace(spelling, (X,)))
    spelled = {"gelu", "silu", "hardswish", "layer_norm", "rms_norm", "softmax", "log_softmax"}
    kept = {node.op for node in after.nodes}
    if "group" in name or "each row" in name:
        assert len(kept) > 1, str(after)
    else:
        assert not spelled & kept, str(after)
    reasons = [refusal.reason for refusal in Recognize().explain(after)]
    assert any(reason in each for each in reasons), reasons


@pytest.mark.parametrize(
    "f",
    [
        lambda x: np.maximum(np.maximum(x, -1.0), 1e-20),
        lambda x: np.maximum(x * 1.0000001, x * 1e-20) * 1.0,
        lambda x: np.maximum(x, 0) + np.minimum(x, 0) * 0.0,  # NaN at -inf
    ],
)
def test_a_relu_but_for_a_tiny_or_an_infinite_value_is_none(f: Spelling) -> None:
    ops = {node.op for node in _simplified(f).nodes}
    assert len(ops) > 1 or "relu" not in ops


@pytest.mark.parametrize(
    "f,inner,outer",
    [
        (lambda x: np.minimum(x * F.sigmoid(x), 1e6), "silu", "minimum"),
        (lambda x: np.where(x == x, x * F.sigmoid(x), 0), "silu", "where"),
    ],
)
def test_what_differs_far_out_or_for_nan_alone_stays(f: Spelling, inner: str, outer: str) -> None:
    ops = [node.op for node in _simplified(f).nodes]
    assert ops[-1] == outer and inner in ops


def test_the_unbiased_variance_becomes_a_weight() -> None:
    def norm(x: Any) -> Any:
        d = _centered(x)
        return d / np.sqrt((d * d).sum(axis=-1, keepdims=True) / 23 + 1e-5)

    graph = _simplified(norm)
    [node] = graph.nodes
    assert node.op == "layer_norm" and node.attrs["eps"] == pytest.approx(1e-5 * 23 / 24, rel=1e-5)
    weight = node.operands[1]
    assert weight is not None and np.allclose(graph.consts[weight.name].data, math.sqrt(23 / 24), rtol=1e-6)


def test_a_near_miss_names_the_op_and_the_place() -> None:
    graph = qc.trace(NEAR["gelu with another factor"][0], (X,))
    reasons = [refusal.reason for refusal in Recognize().explain(graph)]
    assert any("near to gelu" in reason and "at x =" in reason for reason in reasons), reasons


def test_what_others_read_is_left_alone() -> None:
    def both(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        s = F.sigmoid(x)
        return x * s, s + 1

    ops = [node.op for node in _simplified(both).nodes]
    assert "silu" not in ops and "sigmoid" in ops


def test_one_qconfig_for_one_op() -> None:
    graph = qc.trace(ACTIVATIONS["silu"][1][0], (X,))
    first, *others = (node.name for node in graph.nodes)
    int8 = qc.get_qconfig("int8")
    kept = PassManager([Recognize({first: None, **dict.fromkeys(others, int8)})]).run(graph)
    assert first_difference(graph, kept) is None
    agreed = PassManager([Recognize(dict.fromkeys([first, *others], int8))]).run(graph)
    assert [node.op for node in agreed.nodes] == ["silu"]


@pytest.mark.parametrize("seed", range(40))
def test_random_elementwise_functions_keep_their_values(seed: int) -> None:
    """Whatever is recognized in random expressions of one value computes the same."""
    rng = np.random.default_rng(seed)
    unary: list[Spelling] = [np.tanh, np.exp, F.sigmoid, F.relu, np.abs, lambda v: v * v, lambda v: np.clip(v, -1, 2)]
    binary = [np.add, np.multiply, np.subtract, np.maximum]

    def expression(x: np.ndarray) -> np.ndarray:
        values = [x, x * float(rng.normal())]
        for _ in range(6):
            one, other = (values[i] for i in rng.integers(0, len(values), 2))
            values.append(
                unary[rng.integers(len(unary))](one) if rng.random() < 0.5 else binary[rng.integers(4)](one, other)
            )
            values.append(np.clip(values.pop(), -8, 8))
        return values[-1]

    graph = qc.trace(expression, (X,))
    before, after = run(graph, [X])[0], run(PassManager(float_pipeline()).run(graph), [X])[0]
    assert np.allclose(before, after, rtol=1e-5, atol=1e-5)


def test_all_pairs_of_known_functions_are_told_apart() -> None:
    """No activation is taken for another."""
    for (name, (f, _)), (other, _) in itertools.product(ACTIVATIONS.items(), repeat=2):
        [node] = _simplified(f).nodes
        assert node.op == {"tanh gelu": "gelu"}.get(name, name), (name, other)


def test_constants_of_one_element_may_have_axes() -> None:
    graph = qc.trace(
        lambda x: x * np.full((1, 1, 1), 0.5, np.float32) + np.full((1, 1), 2, np.float32),
        (np.ones((1, 1, 1), np.float32),),
    )
    after = PassManager([Recognize()]).run(graph)
    assert [node.op for node in after.nodes] == ["mul", "add"]


@pytest.mark.parametrize("name", ["relu", "sigmoid", "softplus", "elu", "gelu", "silu", "hardswish"])
def test_bools_are_no_operand_of_an_activation(name: str) -> None:
    """A cast from bool is elementwise too, but the function of a bool is not the op's."""
    graph = qc.trace(lambda x: getattr(F, name)((x > 0).astype(np.float32)), (X,))
    after = PassManager(float_pipeline()).run(graph)
    assert [node.op for node in after.nodes] == ["greater", "cast", name]
    assert np.array_equal(run(after, [X])[0], run(graph, [X])[0])


@pytest.mark.parametrize("steps", [30, 120])
def test_each_function_of_a_long_chain_is_computed_once(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all functions that end in a node, at most one for each node before it within the longest region."""
    evaluated: list[int] = []

    def counted(*args: Any) -> Any:
        evaluated.append(1)
        return bound_attrs(*args)

    def chain(x: Any) -> Any:
        for step in range(steps):
            x = np.tanh(x * (1.5 + step)) + 0.25
        return x

    graph = qc.trace(chain, (X,))
    monkeypatch.setattr(regions, "bound_attrs", counted)
    PassManager([Recognize()]).run(graph)
    assert 0 < len(evaluated) <= regions.MOST_NODES * len(graph)


def test_what_probes_rule_out_is_no_activation() -> None:
    """For activations, and functions near them: what the probes reject is None with all points too."""
    kept = rejected = 0
    for name, (f, _) in ACTIVATIONS.items():
        for factor, addend in (
            (1.0, 0.0),
            (1.0, 1e-9),
            (1.004, 0.0),
            (1.04, 0.0),
            (1.0, 0.02),
            (1.0, 0.5),
            (-1.0, 0.0),
        ):
            graph = qc.trace(lambda x, f=f, factor=factor, addend=addend: f(x) * factor + addend, (X,))
            region = max(regions.regions_to(graph, graph.node_list[-1], lambda _: True), key=lambda r: len(r.nodes))
            may_be = recognize._may_be_activation(region(recognize._points()[recognize._PROBES]))
            found = recognize._spelled_activation(region)
            assert may_be or found is None, name
            kept, rejected = kept + may_be, rejected + (not may_be)
    assert kept > 10 and rejected > 10
