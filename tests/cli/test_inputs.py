"""Data files and calls, random inputs, and outputs: the parts that commands share."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler import knobs
from qcompiler.cli.inputs import open_data, parse_type, random_inputs, read_arrays
from qcompiler.cli.output import write_arrays
from qcompiler.errors import QCompilerError
from qcompiler.ir import Graph
from qcompiler.metrics import OutputError
from qcompiler.types import tensor
from tests.cli.commands import REFERENCE, call


def graph_of(*shapes: tuple) -> Graph:
    graph = Graph()
    for index, shape in enumerate(shapes):
        graph.add_input(f"x{index}", tensor("f32", *shape))
    graph.set_outputs(graph.inputs)
    return graph


@pytest.mark.parametrize(
    "shapes, arrays, batch, expected",
    [
        ([("B", 3)], [(70, 3)], None, [32, 32, 6]),
        ([("B", 3)], [(7, 3)], 3, [3, 3, 1]),
        ([(2, 3)], [(6, 3)], None, [2, 2, 2]),
        ([(2, 3)], [(4, 2, 3)], None, [2, 2, 2, 2]),
        ([("B", 3)], [(4, 5, 3)], 2, [5, 5, 5, 5]),
        ([(3,)], [(3,)], None, [3]),
        ([("B", 3), ("B",)], [(5, 3), (5,)], 4, [4, 1]),
        ([("B", 3), (7,)], [(5, 3), (7,)], None, [5]),
        ([(2, 3)], [(0, 3)], None, []),
        ([(2, 3)], [(2, 3)], 2, [2]),
    ],
)
def test_how_data_is_cut_into_calls(tmp_path, shapes, arrays, batch, expected):
    np.savez(tmp_path / "d.npz", **{f"x{i}": np.zeros(shape, np.float32) for i, shape in enumerate(arrays)})
    data = open_data(str(tmp_path / "d.npz"), graph_of(*shapes), batch)
    assert [item[0].shape[0] for item in data] == expected and data.count() == len(expected)


def test_samples_that_do_not_fill_a_call_are_said_to_be_left_out(tmp_path, caplog):
    np.save(tmp_path / "d.npy", np.zeros((5, 3), np.float32))
    assert len(list(open_data(str(tmp_path / "d.npy"), graph_of((2, 3))))) == 2
    assert "the last 1 samples" in caplog.text
    with pytest.raises(QCompilerError, match="--batch differs"):
        list(open_data(str(tmp_path / "d.npy"), graph_of((2, 3)), 3))


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.savez(tmp_path / "o.npz", x=np.array([{"a": 1}], object))
    (tmp_path / "t.npz").write_bytes(b"PK\x03\x04 cut off")
    (tmp_path / "e.npy").write_bytes(b"")
    for name in ("o.npy", "o.npz", "t.npz", "e.npy"):
        with pytest.raises(QCompilerError, match="no plain arrays"):
            read_arrays(tmp_path / name)


def test_outputs_of_any_name_are_written(tmp_path):
    names = ["file", "y", "y", "a/b", "../c", "ü"]
    arrays = [np.float32(index) * np.ones(()) for index in range(6)]
    write_arrays(str(tmp_path / "o.npz"), names, arrays)
    found = np.load(tmp_path / "o.npz")
    assert [float(found[name]) for name in ("file", "y", "y_1", "a/b", "../c", "ü")] == [0, 1, 2, 3, 4, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["o.npz"]


def test_random_inputs():
    graph = graph_of(("B", 3))
    graph.add_input("i", tensor("i64", "B"))
    graph.set_outputs(graph.inputs)
    first, again = random_inputs(graph, {"B": 5}, 1), random_inputs(graph, {"B": 5}, 1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again)) and not np.array_equal(
        first[0], random_inputs(graph, {"B": 5}, 2)[0]
    )
    assert first[0].shape == (5, 3) and first[1].dtype == np.int64 and set(first[1].tolist()) <= {0, 1}
    with pytest.raises(QCompilerError, match="sizes are not given"):
        random_inputs(graph, {}, 0)


def test_the_seed_knob_chooses_the_inputs(files, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "qcompiler.cli.run.random_inputs",
        lambda graph, sizes, seed: seen.append(seed) or random_inputs(graph, sizes, seed),
    )
    with knobs.SEED(11):
        call(capsys, "bench", "int8.qc.safetensors", "--seconds", "0", "--json", *REFERENCE)
    assert seen == [11]


def test_types_of_inputs():
    assert parse_type("f32[ B, 3 ]") == tensor("f32", "B", 3) and parse_type("i64[]") == tensor("i64")


def test_output_errors_by_hand():
    error = OutputError("y")
    error.add(np.array([[3.0, 4.0], [1.0, 0.0]], np.float32), np.array([[3.0, 4.5], [0.0, 1.0]], np.float32))
    assert error.sqnr_db == pytest.approx(10 * np.log10(26 / 2.25)) and error.max_abs == 1.0 and error.agreement == 0.5
    error.add(np.array([[0.0, 1.0]], np.float32), np.array([[0.0, 1.0]], np.float32))
    assert error.agreement == pytest.approx(2 / 3)
    plain = OutputError("y")
    plain.add(np.ones(3, np.float32), np.ones(3, np.float32))
    assert plain.agreement is None and plain.sqnr_db == np.inf
    with pytest.raises(QCompilerError, match="differ in shape"):
        plain.add(np.ones(3), np.ones(4))


def test_counting_calls_says_nothing(tmp_path, caplog):
    np.savez(tmp_path / "d.npz", x0=np.zeros((5, 3), np.float32), other=np.zeros(2))
    data = open_data(str(tmp_path / "d.npz"), graph_of((2, 3)))
    assert data.count() == 2 and not caplog.records
    assert len(list(data)) == 2 and len(caplog.records) == 2
