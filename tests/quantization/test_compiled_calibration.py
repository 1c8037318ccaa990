"""Calibration runs the compiled float program: observers end in the same state as if they were given its values, on
every level."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import knobs, nn
from qcompiler.backends.calibration_program import CalibrationProgram
from qcompiler.backends.lower import lower_graph
from qcompiler.backends.target import native_target
from qcompiler.errors import InputError
from qcompiler.ops.quantized import Observe
from qcompiler.passes.expose_statistics import ExposeStatistics, counted_part
from qcompiler.quantization import collect
from qcompiler.quantization.histogram import Histogram
from qcompiler.quantization.observers import SavableObserver, make_observer, register_observer, statistic
from qcompiler.quantization.spec import QuantSpec
from qcompiler.quantization.workflow import Prepared
from qcompiler.verify import verify
from tests.random_graphs import RandomGraph

SEEDS = range(12)


def conv_net() -> nn.Module:
    """A network with halos, a concatenation in place, a residual, a strided view and a head."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 12, 3, padding=1)
            self.left = nn.Conv2d(12, 8, 3, padding=1)
            self.right = nn.Conv2d(12, 6, 1)
            self.deep = nn.Conv2d(14, 14, 3, padding=1, groups=14)
            self.head = nn.Linear(14, 5)

        def forward(self, x: np.ndarray) -> np.ndarray:
            x = np.maximum(self.stem(x), 0)
            x = np.concatenate([np.maximum(self.left(x), 0), self.right(x)], axis=1)
            x = x + self.deep(x)
            return self.head(np.tanh(x).mean(axis=(2, 3)))

    return Net()


def batches(shape: tuple[int, ...], count: int = 3, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=shape) * 2.0**i).astype(np.float32) for i in range(count)]


def prepared_conv(qconfig: str = "int8") -> tuple[Prepared, list[np.ndarray]]:
    data = batches((2, 3, 9, 11))
    return qc.prepare(conv_net(), qconfig, (data[0],)), data


def state(calibration: qc.Calibration) -> dict[str, bytes]:
    found = {}
    for group, observer in calibration.items():
        assert isinstance(observer, SavableObserver)
        found[group] = b"".join(name.encode() + array.tobytes() for name, array in sorted(observer.state().items()))
    return found


def observed_outputs(prepared: Prepared, items: list[list[np.ndarray]]) -> dict[str, bytes]:
    """The state of observers that are given the values of the compiled float program, as its outputs."""
    graph = prepared.graph.clone()
    nodes = [observe for node in graph.node_list if (observe := Observe.of(node)) is not None]
    for observe in nodes:
        graph.replace_uses(observe.node.result, observe.x)
    values = [observe.x for observe in nodes]
    groups = [(observe.group, observe.node.name) for observe in nodes]
    for observe in nodes:
        graph.erase(observe.node)
    graph.set_outputs(values, [f"value{index}" for index in range(len(values))])
    program = lower_graph(graph, native_target()).bind({})
    observers = {group: make_observer(spec) for group, spec in prepared.specs().items()}
    for item in items:
        for (group, name), array in zip(groups, program.run(item)):
            observers[group].observe(array, name)
    return state(qc.Calibration(observers, prepared.specs()))


@pytest.mark.parametrize("qconfig", ["int8", "int8:minmax", "torch:fbgemm", "int8:kl"])
def test_observers_see_the_values_of_the_float_program(qconfig: str) -> None:
    prepared, data = prepared_conv(qconfig)
    assert state(qc.calibrate(prepared, data)) == observed_outputs(prepared, [[array] for array in data])


@pytest.mark.parametrize("seed", SEEDS)
def test_random_networks(seed: int) -> None:
    made = RandomGraph(seed)
    prepared, inputs = qc.prepare(made.build(), "int8"), made.arrays(seed)
    assert state(qc.calibrate(prepared, [tuple(inputs)])) == observed_outputs(prepared, [inputs])


def wide_net() -> nn.Module:
    """Values of more elements than are counted: of channels last, of rows of channels, and an input."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 8, 3, groups=4),
        nn.Conv2d(8, 20, 1, stride=3),
        nn.ReLU(),
    )


def test_of_large_values_a_part_is_counted() -> None:
    """Ranges are those of all elements, totals are about as many, and the parameters are near to those of all."""
    data = batches((1, 3, 56, 60), count=2)
    prepared = qc.prepare(wide_net(), "int8", (data[0],))
    found = qc.calibrate(prepared, data)
    whole = {group: make_observer(spec) for group, spec in prepared.specs().items()}
    for array in data:
        collect.GraphInterpreter(prepared.graph, {}, "").observe([array], collect.Taken(whole), 1)
    steps = {each.group: counted_part(each) for node in prepared.graph.nodes if (each := Observe.of(node)) is not None}
    assert max(step for _, step in steps.values()) > 3 and min(step for _, step in steps.values()) == 1
    for group, observer in found.items():
        other = whole[group]
        assert isinstance(observer, Histogram) and isinstance(other, Histogram)
        assert observer.low == pytest.approx(other.low, rel=1e-5) and observer.high == pytest.approx(
            other.high, rel=1e-5
        )
        assert 0.8 < observer.counts.sum() / other.counts.sum() < 1.25
        assert observer.qparams().scale[0] == pytest.approx(other.qparams().scale[0], rel=0.2)
        assert restored(observer).counts.sum() == observer.counts.sum()  # its state is one that data gives


def restored(observer: Histogram) -> Histogram:
    other = make_observer(observer.spec)
    assert isinstance(other, Histogram)
    other.restore(observer.state())
    return other


def test_the_smallest_and_the_largest_element_count_always() -> None:
    """Although they lie where nothing is counted, so that the state is one that data gives."""
    x = np.zeros((1, 24, 64, 64), np.float32)
    x[0, 0, 0, 0], x[0, 1, 1, 1] = -5, 9
    prepared = qc.prepare(nn.Conv2d(24, 8, 3), "int8", (x,))
    assert counted_part_of(prepared, "x") == (2, 6)
    observer = qc.calibrate(prepared, [x] * 2)["x"]
    assert isinstance(observer, Histogram) and (observer.low, observer.high) == (-5, 9)
    assert np.count_nonzero(observer.counts) == 3 and restored(observer).counts.sum() == observer.counts.sum()


def test_symbolic_sizes_are_counted_whole() -> None:
    x = np.ones((1, 3, 128, 128), np.float32)
    prepared = qc.prepare(nn.Conv2d(3, 24, 3), "int8", (x,), dynamic={"x": {2: "H"}})
    assert counted_part_of(prepared, "x") == (0, 1)


def counted_part_of(prepared: Prepared, value: str) -> tuple[int, int]:
    (observe,) = (e for node in prepared.graph.nodes if (e := Observe.of(node)) is not None and e.x.name == value)
    return counted_part(observe)


def test_the_same_on_every_level_and_with_any_number_of_threads() -> None:
    data = batches((2, 3, 9, 11))
    big = [np.tile(array, (40, 1, 1, 1)) for array in data]
    prepared = qc.prepare(conv_net(), "int8", (big[0],))
    expected = state(qc.calibrate(prepared, big, threads=1))
    assert state(qc.calibrate(prepared, big, threads=2)) == expected
    for level in native_target().levels:
        if native_target().levels.is_available(level):
            with knobs.ISA(level):
                assert state(qc.calibrate(prepared, big)) == expected, level


def test_order_and_batches_do_not_matter() -> None:
    net, (data, *_) = conv_net(), batches((6, 3, 9, 11))
    whole = state(qc.calibrate(qc.prepare(net, "int8", (data,), dynamic={"x": {0: "B"}}), [data]))
    prepared = qc.prepare(net, "int8", (data,), dynamic={"x": {0: "B"}})
    for parts in ([data[:1], data[1:]], [data[4:], data[:1], data[1:4]], [data[i : i + 1] for i in range(6)]):
        assert state(qc.calibrate(prepared, parts)) == whole


def test_exact_values_give_the_interpreters_state() -> None:
    """Sums of small integers have no roundings, whatever their order."""
    rng = np.random.default_rng(1)
    w, v = (rng.integers(-3, 4, size).astype(np.float32) for size in ((16, 24), (24, 7)))

    def net(x: np.ndarray) -> np.ndarray:
        return np.maximum(x @ w, 0) @ v

    data = [rng.integers(-4, 5, (5, 16)).astype(np.float32) for _ in range(3)]
    prepared = qc.prepare(net, "int8", (data[0],))
    compiled = qc.calibrate(prepared, data)
    interpreted = {group: make_observer(spec) for group, spec in prepared.specs().items()}
    for array in data:
        collect.GraphInterpreter(prepared.graph, {}, "").observe([array], collect.Taken(interpreted), 1)
    assert state(compiled) == state(qc.Calibration(interpreted, prepared.specs()))


def test_rounded_values_are_near_the_interpreters() -> None:
    """A sum of K products is off by less than K eps times the sum of their magnitudes, in either order."""
    rng = np.random.default_rng(2)
    w = rng.normal(size=(300, 40)).astype(np.float32)
    x = rng.normal(size=(64, 300)).astype(np.float32)
    prepared = qc.prepare(lambda x: x @ w, "int8:minmax", (x,))
    compiled, interpreted = qc.calibrate(prepared, [x]), {g: make_observer(s) for g, s in prepared.specs().items()}
    collect.GraphInterpreter(prepared.graph, {}, "").observe([x], collect.Taken(interpreted), 1)
    bound = 2 * 300 * 2.0**-24 * float((np.abs(x) @ np.abs(w)).max())
    for group in compiled:
        one, other = compiled[group], interpreted[group]
        assert abs(one.low - other.low) <= bound and abs(one.high - other.high) <= bound


@pytest.mark.parametrize("qconfig", ["int8", "torch:fbgemm"])
def test_every_target_has_the_same_integer_graph(qconfig: str) -> None:
    net, data = conv_net(), batches((2, 3, 9, 11))
    texts = set()
    for target in ("reference", "native", "x86-64+avx2", "aarch64+neon"):
        model = qc.compile(net, qconfig, (data[0],), calibration_data=data, target=target)
        texts.add(str(model.graph) + "".join(str(const.data.tolist()) for const in model.graph.consts.values()))
    assert len(texts) == 1


# -- the graph and its memory


def test_the_outputs_are_ranges_and_counts_alone() -> None:
    prepared, data = prepared_conv()
    graph = ExposeStatistics().run(prepared.graph.clone())
    verify(graph)
    assert {value.type.shape for value in graph.outputs} == {(2,), (4096,)}
    assert not any(Observe.of(node) for node in graph.node_list)
    taking_values = ExposeStatistics().run(prepared_conv("torch:fbgemm")[0].graph.clone())
    verify(taking_values)
    assert all(not node.result.uses for node in taking_values.node_list if Observe.of(node))


def test_memory_does_not_grow_with_the_depth() -> None:
    """The arena of a deep chain holds a few values, not all that are observed."""

    def arena(depth: int) -> int:
        x = np.ones((1, 8, 64, 64), np.float32)
        chain = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(depth)))
        program = CalibrationProgram(qc.prepare(chain, "int8", (x,)).graph, native_target())
        return program._program.image().arena.nbytes

    assert arena(12) <= arena(4)


# -- observers that take whole values


def test_a_users_observer_gets_whole_values_row_major() -> None:
    seen: dict[str, list[np.ndarray]] = {}

    class Keeps:
        def __init__(self, spec: QuantSpec) -> None:
            self.inner = make_observer(QuantSpec(observer="minmax"))

        def observe(self, array: np.ndarray, name: str = "") -> None:
            assert array.flags.c_contiguous
            seen.setdefault(name, []).append(array.copy())
            self.inner.observe(array, name)

        def merge(self, other: Keeps) -> None:
            self.inner.merge(other.inner)

        def qparams(self) -> qc.QuantParams:
            return self.inner.qparams()

    register_observer("keeps_whole_values", Keeps)
    spec = QuantSpec(observer="keeps_whole_values")
    data = batches((2, 3, 9, 11))
    prepared = qc.prepare(conv_net(), qc.QConfig(activation=spec, weight=qc.get_qconfig("int8").weight), (data[0],))
    qc.calibrate(prepared, data)
    shapes = {node.name: node.result.type.shape for node in prepared.graph.node_list if Observe.of(node)}
    assert {name: arrays[0].shape for name, arrays in seen.items()} == shapes
    assert all(len(arrays) == len(data) for arrays in seen.values())


def test_a_class_that_overrides_observe_takes_whole_values() -> None:
    class Clipped(Histogram):
        def observe(self, array: np.ndarray, name: str = "") -> None:
            super().observe(np.clip(array, -1, 1), name)

    kinds = {name: statistic(make_observer(QuantSpec(observer=name))) for name in ("histogram", "kl", "minmax")}
    assert kinds == {"histogram": "counts", "kl": "counts", "minmax": "range"}
    assert statistic(make_observer(QuantSpec(observer="moving_average"))) == "range"
    assert statistic(make_observer(QuantSpec(observer="torch_histogram"))) == "values"
    assert statistic(Clipped(QuantSpec())) == "values"


# -- errors


def test_a_value_that_overflows_is_noted() -> None:
    def net(x: np.ndarray) -> np.ndarray:
        return np.maximum(x * np.float32(1e30) * np.float32(1e30) @ np.eye(4, dtype=np.float32), 0)

    for qconfig in ("int8", "int8:minmax", "torch:fbgemm"):
        prepared = qc.prepare(net, qconfig, (np.ones((2, 4), np.float32),))
        found = qc.calibrate(prepared, [np.ones((2, 4), np.float32)])
        assert found.not_finite == {node.operands[0].name for node in prepared.graph.nodes if node.op == "observe"} - {
            "x"
        }


def test_an_index_outside_is_an_error() -> None:
    ids = np.array([[1, 9, -10]], np.int64)
    prepared = qc.prepare(nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 3)), "int8", (ids,))
    qc.calibrate(prepared, [ids])
    with pytest.raises(InputError, match="an index of gather is outside"):
        qc.calibrate(prepared, [ids + 1])


def test_sizes_that_do_not_fit_are_an_error() -> None:
    x, y = np.ones((2, 4), np.float32), np.ones((3, 4), np.float32)
    w = np.ones((4, 4), np.float32)
    prepared = qc.prepare(lambda x, y: x @ w + y, "int8", (x, x), dynamic={"x": {0: "B"}, "y": {0: "B"}})
    qc.calibrate(prepared, [(x, x), (y, y)])
    with pytest.raises(InputError, match="sizes bound by the inputs|is B|B = "):
        qc.calibrate(prepared, [(x, y)])


# -- a machine without kernels


def test_without_kernels_the_interpreter_runs_and_the_report_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    prepared, data = prepared_conv()
    compiled = qc.calibrate(prepared, data)
    graph = qc.convert(prepared, compiled)
    assert not compiled.interpreted and "calibrated on" not in str(qc.compile(graph, target="reference").report())
    reason = "no backend for riscv64"
    monkeypatch.setattr(collect, "collector", lambda graph, sampled: collect.GraphInterpreter(graph, sampled, reason))
    calibration = qc.calibrate(prepared, data[:1]) + compiled
    calibration.save(tmp_path / "c.safetensors")
    loaded = qc.Calibration.load(tmp_path / "c.safetensors")
    assert loaded.interpreted == calibration.interpreted == "no backend for riscv64"
    graph = qc.convert(prepared, loaded)
    assert qc.parse(str(graph), data="zeros").notes[-1] == graph.notes[-1]
    model = qc.compile(graph, target="reference")
    assert "calibrated on the interpreter: no backend for riscv64" in str(model.report())
    assert model.report().to_dict()["interpreted"] == "no backend for riscv64"
