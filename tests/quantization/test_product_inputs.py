"""What calibration keeps of the inputs of products: right rows, the same bits in any order, in bounded memory."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import ArtifactError, QuantizationError
from qcompiler.ir import Graph
from qcompiler.ops.interfaces import Weighted
from qcompiler.quantization import collect
from qcompiler.quantization.product_inputs import (
    ENOUGH_ROWS,
    MAX_BYTES,
    MAX_BYTES_OF_LONG,
    MAX_ROWS,
    MAX_TOTAL_BYTES,
    ProductInput,
    make_inputs,
    sample_seeds,
)
from qcompiler.types import tensor

State = dict[str, dict[str, bytes]]


def integers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


def layer_of(op: str, x: np.ndarray, weight: np.ndarray, **attrs: object) -> Weighted:
    graph = Graph()
    node = graph.create(op, [graph.add_input("x", tensor("f32", *x.shape)), graph.add_const("w", weight)], attrs)
    graph.set_outputs([node.result])
    found = Weighted.of(node)
    assert found is not None
    return found


def row_products(layer: Weighted, weight: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[positions, groups * outputs of a row]"""
    return np.einsum("goit,ngit->ngo", layer.row_weight(weight), rows).reshape(len(rows), -1)


CONVS = [
    ((2, 6, 7, 5), (4, 6, 3, 3), {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 1)}),
    ((2, 6, 9, 8), (6, 1, 3, 2), {"stride": (1, 2), "padding": ((2, 2), (0, 1)), "dilation": (2, 1), "groups": 6}),
    ((1, 4, 11), (6, 2, 4), {"stride": (3,), "padding": ((1, 2),), "dilation": (2,), "groups": 2}),
    (
        (2, 2, 4, 3, 5),
        (3, 2, 2, 1, 3),
        {"stride": (1, 1, 2), "padding": ((0, 1), (0, 0), (1, 1)), "dilation": (1,) * 3},
    ),
    ((3, 5, 1, 1), (4, 5, 1, 1), {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}),
]


@pytest.mark.parametrize("x_shape, w_shape, attrs", CONVS, ids=[str(case[0]) for case in CONVS])
def test_rows_of_convolutions(x_shape: tuple[int, ...], w_shape: tuple[int, ...], attrs: dict[str, object]) -> None:
    x, weight = integers(*x_shape), integers(*w_shape, seed=1)
    layer = layer_of("conv", x, weight, **attrs)
    expected = np.moveaxis(layer.run_reference([x, weight], layer.node.attrs)[0], 1, -1)
    positions = np.arange(expected.size // w_shape[0])
    assert layer.row_counts(x.shape) == expected.shape[:-1]
    rows = layer.rows(x, positions)
    assert rows.shape[1:] == layer.row_shape
    assert np.array_equal(row_products(layer, weight, rows), expected.reshape(-1, w_shape[0]))
    some = positions[::-3]
    assert np.array_equal(layer.rows(x, some), rows[some])


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7), (2, 3, 4, 7)])
def test_rows_of_linear(shape: tuple[int, ...]) -> None:
    x, weight = integers(*shape), integers(4, 7, seed=1)
    layer = layer_of("linear", x, weight)
    rows = layer.rows(x, np.arange(x.size // 7))
    assert np.array_equal(row_products(layer, weight, rows), (x @ weight.T).reshape(-1, 4))
    assert int(np.prod(layer.row_counts(x.shape))) == len(rows) and layer.row_shape == (1, 7, 1)


@pytest.mark.parametrize("groups", [1, 2])
def test_rows_of_transposed_convolutions(groups: int) -> None:
    """Without cropping, the result is the sum of all products of all pixels."""
    x, weight = integers(2, 4, 3, 5), integers(4 // groups, 3 * groups, 2, 3, seed=1)
    attrs = {"stride": (2, 3), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": groups}
    layer = layer_of("conv_transpose", x, weight, output_padding=(0, 0), **attrs)
    assert layer.row_counts(x.shape) == (2, 3, 5) and layer.row_shape == (groups, 4 // groups, 1)
    products = row_products(layer, weight, layer.rows(x, np.arange(30)))
    by_channel = products.reshape(2, 15, groups * 3, 6).sum(axis=(1, 3))
    assert np.array_equal(by_channel, layer.run_reference([x, weight], layer.node.attrs)[0].sum(axis=(2, 3)))


# -- the same bits in any order


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 6, 1),
        nn.Flatten(),
        nn.Linear(6 * 12 * 9, 5),
    )


def data(count: int = 9) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, 3, 12, 9)).astype(np.float32)


def prepared(qconfig: str = "int8") -> qc.Prepared:
    return qc.prepare(net(), qconfig, (data(1),), dynamic={"x": {0: "B"}})


def state(calibration: qc.Calibration) -> State:
    return {
        key: {name: array.tobytes() for name, array in kept.state().items()} for key, kept in calibration.inputs.items()
    }


def test_order_batches_and_merging_do_not_matter() -> None:
    x, ready = data(), prepared()
    whole = qc.calibrate(ready, [x])
    expected = state(whole)
    assert len(expected) == 4
    for parts in ([x[:4], x[4:]], [x[7:], x[2:7], x[:2]], [x[i : i + 1] for i in range(9)], [x, x[3:5]]):
        assert state(qc.calibrate(ready, parts)) == expected
        assert state(sum(qc.calibrate(ready, [part]) for part in parts[::-1])) == expected
    assert state(qc.calibrate(ready, [x], threads=2)) == expected


def test_the_kept_rows_are_rows_of_the_data() -> None:
    """Of the first layer, whose input is the data; and ranges are those of its channels."""
    x, ready = data(), prepared()
    key, layer = next(iter(ready.sampled_products().items()))
    kept = qc.calibrate(ready, [x]).inputs[key]
    every = {row.tobytes() for row in layer.rows(x, np.arange(9 * 12 * 9))}
    assert len(kept.rows) == kept.limit == MAX_ROWS == len({row.tobytes() for row in kept.rows})
    assert all(row.tobytes() in every for row in kept.rows)
    assert np.array_equal(kept.low, x.min(axis=(0, 2, 3))) and np.array_equal(kept.high, x.max(axis=(0, 2, 3)))


def test_rows_come_from_many_samples_and_positions() -> None:
    x = np.zeros((50, 3, 12, 9), np.float32)
    x += np.arange(50, dtype=np.float32).reshape(-1, 1, 1, 1)  # the sample
    x[:, 1:2] = np.arange(12 * 9, dtype=np.float32).reshape(12, 9)  # the position
    ready = prepared()
    kept = qc.calibrate(ready, [x]).inputs[next(iter(ready.sampled_products()))]
    center = kept.rows.reshape(len(kept.rows), 3, 9)[:, :, 4]
    assert len(set(center[:, 0])) > 25 and len(set(center[:, 1])) > 25


def test_products_of_one_form_share_what_is_kept() -> None:
    w, v, u = integers(16, 8), integers(16, 4, seed=1), integers(4, 4, seed=2)

    def heads(x: np.ndarray) -> tuple[np.ndarray, ...]:
        return x @ w, x @ v, (x @ v) @ u

    x = data(1).reshape(-1)[:64].reshape(4, 16)
    ready = qc.prepare(heads, "int8", (x,))
    assert len(ready.sampled_products()) == 2
    assert [kept.rows.shape for kept in qc.calibrate(ready, [x]).inputs.values()] == [(4, 1, 16, 1), (4, 1, 4, 1)]


def test_interpreted_and_compiled_runs_keep_the_same_of_exact_values() -> None:
    w, x = integers(16, 8), integers(6, 16, seed=1)
    ready = qc.prepare(lambda x: np.maximum(x @ w, 0) @ integers(8, 3, seed=2), "int8", (x,))
    compiled, sampled = qc.calibrate(ready, [x]), ready.sampled_products()
    interpreted = qc.Calibration(compiled.observers, compiled.specs, inputs=make_inputs(sampled))
    taken = collect.Taken(compiled.observers, interpreted.inputs)
    collect.GraphInterpreter(ready.graph, sampled, "").observe([x], taken, 1)
    assert state(interpreted) == state(compiled)


# -- memory


def test_bytes_are_bounded() -> None:
    wide = layer_of("linear", np.zeros((1, 3000), np.float32), np.zeros((2, 3000), np.float32))
    narrow = layer_of("linear", np.zeros((1, 8), np.float32), np.zeros((2, 8), np.float32))
    few = make_inputs({"wide": wide, "narrow": narrow})
    assert few["narrow"].limit == MAX_ROWS and few["wide"].limit == MAX_BYTES // 12_000
    many = make_inputs({str(i): wide for i in range(80)})
    assert sum(kept.limit for kept in many.values()) * 12_000 <= MAX_TOTAL_BYTES
    for size, limit in ((30_000, ENOUGH_ROWS), (100_000, MAX_BYTES_OF_LONG // 400_000), (2_000_000, 1)):
        long = layer_of("linear", np.zeros((1, size), np.float32), np.zeros((1, size), np.float32))
        assert make_inputs({"long": long})["long"].limit == limit


def test_nothing_reached_the_product() -> None:
    layer = layer_of("linear", np.zeros((2, 8), np.float32), np.zeros((2, 8), np.float32))
    kept = make_inputs({"x": layer})["x"]
    kept.observe(layer, np.zeros((0, 8), np.float32))
    assert kept.is_empty and state(qc.Calibration({}, {}, inputs={"x": kept}))


def test_rows_of_other_shapes_do_not_merge() -> None:
    with pytest.raises(QuantizationError, match="the calibrations kept other rows"):
        ProductInput(4, (1, 8, 1)).merge(ProductInput(4, (1, 8, 9)))


# -- files


def test_samples_may_be_single_numbers() -> None:
    assert len(set(sample_seeds([np.arange(4, dtype=np.float32)]).tolist())) == 4
    assert len(sample_seeds([np.float32(3), np.zeros((2, 3), np.float32)])) == 1


def test_round_trip(tmp_path: pathlib.Path) -> None:
    calibration = qc.calibrate(prepared(), [data()])
    calibration.save(tmp_path / "c.safetensors")
    loaded = qc.Calibration.load(tmp_path / "c.safetensors")
    assert state(loaded) == state(calibration) and state(loaded + calibration) == state(calibration)


def test_a_calibration_without_inputs_merges_and_loads(tmp_path: pathlib.Path) -> None:
    """As files of older versions are; nothing can be said of the inputs of both then."""
    calibration = qc.calibrate(prepared(), [data()])
    bare = qc.Calibration(calibration.observers, calibration.specs, calibration.members)
    bare.save(tmp_path / "c.safetensors")
    loaded = qc.Calibration.load(tmp_path / "c.safetensors")
    assert loaded.inputs == {} and (calibration + loaded).inputs == {} == (loaded + calibration).inputs
    assert len(qc.convert(prepared(), loaded)) > 0


BROKEN = {
    "limit": np.int64(0),
    "low": np.array([np.nan] * 8, np.float32),
    "high": np.zeros(7, np.float32),
    "keys": np.array([3, 2], np.int64),
    "rows": np.zeros((2, 1, 8, 1), np.float64),
}


@pytest.mark.parametrize("field", BROKEN)
def test_a_damaged_state_is_refused(field: str, tmp_path: pathlib.Path) -> None:
    layer = layer_of("linear", np.zeros((2, 8), np.float32), np.zeros((2, 8), np.float32))
    kept = make_inputs({"x": layer})["x"]
    kept.observe(layer, integers(2, 8))
    qc.Calibration({}, {}, inputs={"x": kept}).save(tmp_path / "c.safetensors")
    assert len(qc.Calibration.load(tmp_path / "c.safetensors").inputs["x"].keys) == 2
    setattr(kept, field, BROKEN[field])
    qc.Calibration({}, {}, inputs={"x": kept}).save(tmp_path / "c.safetensors")
    with pytest.raises(ArtifactError, match="the content of the calibration is not valid"):
        qc.Calibration.load(tmp_path / "c.safetensors")


def test_samples_that_hash_alike_do_not_depend_on_the_order() -> None:
    """Samples that differ only where no element is hashed have the same keys."""
    x = np.zeros((6, 3, 12, 9), np.float32)
    x.reshape(6, -1)[:, 1::6] = integers(6, 54)  # every 6th element is hashed, from the first on
    ready = prepared()
    key = next(iter(ready.sampled_products()))
    first = qc.calibrate(ready, [x[i : i + 1] for i in range(6)])
    other = qc.calibrate(ready, [x[3:], x[:3]])
    assert len(first.inputs[key].keys) < 6 * 108 and state(first) == state(other)
