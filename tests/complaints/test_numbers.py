"""Complaints about numbers: simulated accuracy is not real accuracy, machines differ, folding, overflow,
calibration."""

from __future__ import annotations

import itertools
import time
import tracemalloc

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import QuantizationError
from qcompiler.quantization.observers import make_observer
from qcompiler.quantization.qconfig import ROWS4, ROWS8, get_qconfig, is_dynamic
from qcompiler.quantization.spec import QuantSpec
from qcompiler.report import count_nodes
from qcompiler.types import DType
from tests.backends.rules.harness import check_graph
from tests.complaints.conftest import sqnr


def test_05_simulated_accuracy_is_not_int8_accuracy(batches, x) -> None:
    """The int8 program of 30 layers has the bits of the reference: nothing is simulated in float."""

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv2d(3, 8, 1), *(layer for _ in range(29) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()))
            )

        def forward(self, x):
            return self.layers(x)

    compiled = qc.compile(Deep(), "int8", (x,), calibration_data=batches)
    assert np.array_equal(compiled(x), qc.compile(compiled.graph, target="reference")(x))


def test_06_machines_give_different_results(small_net, batches, x, every_target) -> None:
    """Every level gives the same bits, also for a sample alone, in int8 and in float."""
    compiled = qc.compile(small_net(), "int8", (x,), calibration_data=batches, dynamic={"x": {0: "B"}})
    whole = every_target(compiled.graph, x)
    assert np.array_equal(np.concatenate([compiled(x[i : i + 1]) for i in range(4)]), whole)


def test_12_calibration_eats_memory(small_net, x) -> None:
    """200 batches need no more memory than 10."""
    prepared = qc.prepare(qc.trace(small_net(), (x,)), "int8")
    peaks = []
    for count in (10, 200):
        rng = np.random.default_rng(0)
        tracemalloc.start()
        qc.calibrate(prepared, (rng.normal(size=x.shape).astype(np.float32) for _ in range(count)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000


def test_13_histogram_calibration_is_slow() -> None:
    """A histogram costs no more than a few passes over the data. Its search depends on the bins, not on the data."""
    observer = make_observer(QuantSpec())
    data = np.random.default_rng(0).normal(size=2_000_000).astype(np.float32)
    start = time.perf_counter()
    observer.observe(data)
    observed = time.perf_counter() - start
    start = time.perf_counter()
    np.sort(data)
    assert observed < 20 * (time.perf_counter() - start)
    small = make_observer(QuantSpec())
    small.observe(data[:2000])
    times = []
    for each in (small, observer):
        start = time.perf_counter()
        each.qparams()
        times.append(time.perf_counter() - start)
    assert times[1] < 50 * times[0] + 0.5


def test_17_batchnorm_folding(batches, x) -> None:
    """Shared weights are cloned and not folded twice. Linear, transposed and grouped convolutions fold entirely."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Conv2d(3, 3, 1)
            self.one, self.two, self.three, self.four = (nn.BatchNorm2d(n) for n in (3, 3, 6, 6))
            self.up = nn.ConvTranspose2d(3, 6, 2, stride=2)
            self.grouped = nn.Conv2d(6, 6, 3, groups=2)
            self.flatten = nn.Flatten(1)
            self.fc, self.last = nn.Linear(6 * 14 * 14, 7), nn.BatchNorm1d(7)

        def forward(self, x):
            x = self.two(self.shared(self.one(self.shared(x))))
            return self.last(self.fc(self.flatten(self.four(self.grouped(self.three(self.up(x)))))))

    model = Net()
    rng = np.random.default_rng(3)
    state = model.state_dict()
    for name in state:
        chosen = "running" in name or name.split(".")[0] in ("one", "two", "three", "four", "last")
        if chosen and "num_batches" not in name:
            state[name] = rng.uniform(0.5, 1.5, state[name].shape).astype(np.float32)
    model.load_state_dict(state)
    graph = qc.trace(model, (x,))
    fused = qc.fuse(graph)
    assert not any(node.op == "batch_norm" for node in fused.nodes)
    before, after = qc.interpret(graph, [x])[0], qc.interpret(fused, [x])[0]
    np.testing.assert_allclose(after, before, rtol=2e-4, atol=2e-4 * np.abs(before).max())


def test_18_per_channel_transposed_convolution(batches, x, every_target) -> None:
    """Grouped transposed convolutions have one scale for each channel, along the axis that the op names."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.up = nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2)

        def forward(self, x):
            return self.up(self.stem(x))

    compiled = qc.compile(Net(), "int8", (x,), calibration_data=batches)
    node = next(n for n in compiled.graph.nodes if n.op == "conv_transpose")
    quant = node.operands[1].type.quant
    assert quant.axis == 1 and len(set(quant.scale)) == 6
    every_target(compiled.graph, x)


def test_19_bias_overflows_with_tiny_weight_scales(batches, x, every_target) -> None:
    """Beside weights of 10^-9 a bias is 10^6: the channel's scale is raised until the i32 bias fits."""
    model = nn.Conv2d(3, 4, 1)
    state = model.state_dict()
    state["weight"] = np.full((4, 3, 1, 1), 1e-9, np.float32)
    state["weight"][1:] = 0.5
    state["bias"] = np.array([1e6, 0.5, -0.5, 0.0], np.float32)
    model.load_state_dict(state)
    compiled = qc.compile(model, "int8", (x,), calibration_data=batches)
    bias = next(n for n in compiled.graph.nodes if n.op == "conv").operands[2].data
    assert np.abs(bias.astype(np.int64)).max() <= 2**30
    got = every_target(compiled.graph, x)
    reference = qc.compile(model, None, (x,))(x)
    assert sqnr(reference[:, 0], got[:, 0]) > 40


def test_20_a_branch_that_never_ran_in_calibration(x) -> None:
    """There is no silent scale of 1: an empty batch reaches no tensor, and an error says so."""
    with pytest.raises(QuantizationError, match="no calibration data reached"):
        qc.compile(nn.Conv2d(3, 4, 1), "int8", (x,), calibration_data=[x[:0]], dynamic={"x": {0: "B"}})


def test_21_skip_this_layer_is_ignored(small_net, batches, x) -> None:
    """A rule that matches nothing is an error with the nearest name. One that matches stands in the table."""
    with pytest.raises(QuantizationError, match="matches no node") as caught:
        qc.compile(
            small_net(),
            qc.QConfigMapping().set_global("int8").set_module_name("stm", None),
            (x,),
            calibration_data=batches,
        )
    assert "stem" in str(caught.value)
    table = qc.prepare(
        qc.trace(small_net(), (x,)), qc.QConfigMapping().set_global("int8").set_module_name_regex("ste.*", None)
    ).table
    assert "regex ste.*" in str(table)


def _configs(dynamic: bool) -> list[str]:
    from qcompiler.quantization.qconfig import _QCONFIGS

    return [name for name in _QCONFIGS if is_dynamic(name) is dynamic]


@pytest.mark.parametrize("qconfig", _configs(dynamic=False))
def test_32_shipped_configs_are_broken(qconfig, small_net, batches, x, every_target) -> None:
    """Every named qconfig builds, calibrates, and runs with the same bits everywhere."""
    compiled = qc.compile(small_net(), qconfig, (x,), calibration_data=batches)
    assert count_nodes(compiled.graph)[1] == 0
    got = every_target(compiled.graph, x)
    assert sqnr(qc.compile(small_net(), None, (x,), target="reference")(x), got) > -100
    assert got.std() > 0


OF_TABLES = [name for name in _configs(dynamic=True) if get_qconfig(name).dynamic in (ROWS8, ROWS4)]
"""The qconfigs that quantize tables of embeddings, and nothing else."""


@pytest.mark.parametrize("qconfig", OF_TABLES)
def test_32_shipped_configs_of_tables_are_broken(qconfig, every_target) -> None:
    """Every named qconfig of tables builds without data, and its rows have the same bits everywhere."""
    indices = np.array([[0, 3, 9], [5, 5, 1]])
    table = nn.Embedding(10, 16)
    compiled = qc.compile(table, qconfig, (indices,))
    assert DType.F32 not in {const.type.dtype for const in compiled.graph.consts.values() if const.data.size == 160}
    got = every_target(compiled.graph, indices)
    assert sqnr(qc.compile(table, None, (indices,), target="reference")(indices), got) > 15


@pytest.mark.parametrize("qconfig", sorted(set(_configs(dynamic=True)) - set(OF_TABLES)))
def test_32_shipped_dynamic_configs_are_broken(qconfig, small_net, x, every_target) -> None:
    """Every named dynamic qconfig builds without data, and its products of codes have the same bits everywhere. Those
    of float16 are float, so that the order of their sums is free."""
    assert qc.compile(small_net(), qconfig, (x,))(x).std() > 0
    layers = nn.Sequential(nn.Flatten(1), nn.Linear(192, 24), nn.ReLU(), nn.Linear(24, 5))
    compiled = qc.compile(layers, qconfig, (x,))
    exact = qc.compile(layers, None, (x,), target="reference")(x)
    if get_qconfig(qconfig).kind == "f16":
        assert [const.type.dtype for const in compiled.graph.consts.values()].count(DType.F16) == 2
        (got,) = check_graph(compiled.graph, [x], bound=_sum_error(layers.state_dict(), x) / np.abs(exact).max())
    else:
        assert [node.op for node in compiled.graph.nodes if "linear" in node.op] == ["dynamic_linear"] * 2
        got = every_target(compiled.graph, x)
    assert sqnr(exact, got) > 25
    assert got.std() > 0


def _sum_error(state, x) -> float:
    """The most by which two orders of the sums of two linear layers differ in f32: n * 2^-24 of the magnitudes that n
    numbers sum up to, for either order. n counts the bias, and two for terms of second order and weights in f16."""
    weights = {name: np.abs(array.astype(np.float64)) for name, array in state.items()}
    (first, bias), (second, other) = ((weights[f"{at}.weight"].T, weights[f"{at}.bias"]) for at in (1, 3))
    hidden = np.abs(x.astype(np.float64)).reshape(len(x), -1) @ first + bias
    errors = [(2 * (len(weight) + 3) * 2.0**-24) for weight in (first, second)]
    return float((errors[0] * (hidden @ second) + errors[1] * (hidden @ second + other)).max())


def test_08_tracing_dies_on_control_flow(x) -> None:
    """Python branches on shapes and flags just run. A branch on data is an error that names its line."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x, augment=False):
            if augment or x.shape[1] != 3:
                raise RuntimeError("not reached")
            for _ in range(x.shape[0] // 2):
                x = self.conv(x)
            return x

    assert sum(node.op == "conv" for node in qc.trace(Net(), (x,)).nodes) == 2
    with pytest.raises(qc.TraceError) as caught:
        qc.trace(lambda a: a if np.sum(a) > 0 else -a, (x,))
    assert "test_numbers.py" in str(caught.value)


def test_27_names_do_not_match_the_graph(small_net, batches, x, tmp_path) -> None:
    """One artifact holds graph, parameters and data under the graph's own names. Once loaded, it is the same graph."""
    compiled = qc.compile(small_net(), "int8", (x,), calibration_data=batches)
    path = tmp_path / "m.qc.safetensors"
    compiled.save(path)
    loaded = qc.load(path)
    assert str(loaded.graph) == str(compiled.graph)
    assert {"stem", "conv", "fc"} <= {
        part for node in loaded.graph.nodes for origin in node.origin for part in [origin.path]
    }
    assert np.array_equal(loaded(x), compiled(x))


@pytest.mark.parametrize(
    "call,text",
    [
        (lambda net, x, data: qc.compile(net(), "int8", (x,), calibration_data=[(x, 1)]), "label"),
        (lambda net, x, data: qc.compile(net(), "int8", (x,), calibration_data=(b for b in [])), "empty"),
        (lambda net, x, data: qc.compile(net(), "int88", (x,), calibration_data=data), "int8"),
        (lambda net, x, data: qc.compile(net(), "int8", (x,), calibration_data=data, target="x86-64+avx51"), "avx512"),
    ],
)
def test_28_misleading_exceptions(call, text, small_net, batches, x) -> None:
    """Configuration is checked first, and the message names the cause."""
    with pytest.raises(qc.QCompilerError, match=text):
        call(small_net, x, batches)


def test_every_combination_of_small_sizes_keeps_its_bits(every_target) -> None:
    """Sizes of one are corner cases that shipped kernels forget."""
    for batch, channels, size in itertools.product((1, 2), (1, 5), (1, 3)):
        x = np.random.default_rng(1).normal(size=(batch, channels, size, size)).astype(np.float32)
        compiled = qc.compile(nn.Conv2d(channels, 3, 3, padding=1), "int8", (x,), calibration_data=[x])
        every_target(compiled.graph, x)
