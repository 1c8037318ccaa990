"""Constants of 4 bits: two codes to a byte in the file, the same graph back, and malformed ones refused."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.artifact import load_graph, save_graph
from qcompiler.artifact.four_bits import pack, unpack
from qcompiler.errors import ArtifactError
from qcompiler.ir import Graph
from qcompiler.text.compare import first_difference
from qcompiler.text.printer import graph_data
from qcompiler.types import DType, QuantParams, TensorType, tensor
from tests.safetensors_files import join, parts

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "artifact_v2.qc.safetensors"
RANGES = {DType.I8: (-8, 7), DType.U8: (0, 15), DType.I4: (-8, 7), DType.U4: (0, 15)}


def graph_of(*names: str, shape: tuple[int, ...] = (3, 5)) -> Graph:
    """Constants of each element type with all codes, and one of 8 bits."""
    graph = Graph("small", "integer")
    values = []
    rng = np.random.default_rng(0)
    for name in names:
        for dtype, (low, high) in RANGES.items():
            params = QuantParams.per_tensor(0.5, 1, dtype, low, high)
            data = rng.integers(low, high + 1, shape).astype(dtype.numpy)
            values.append(graph.add_const(f"{name}{dtype}", data, TensorType(dtype, shape, params)))
    wide = QuantParams.per_tensor(0.5, 0, DType.I8, -9, 7)
    values.append(graph.add_const("wide", np.full((2, 2), -9, np.int8), TensorType(DType.I8, (2, 2), wide)))
    x = graph.add_input("x", tensor("f32", 2))
    graph.set_outputs([*values, x])
    return graph


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 4), (0, 3)])
@pytest.mark.parametrize("names", [("w",), ("i4[3]:w", "graph.qir", "const:i4[]:", "__metadata__", "u4[")])
def test_there_and_back(tmp_path: pathlib.Path, shape: tuple[int, ...], names: tuple[str, ...]) -> None:
    graph = graph_of(*names, shape=shape)
    save_graph(graph, tmp_path / "g")
    loaded = load_graph(tmp_path / "g")
    assert first_difference(loaded, graph) is None
    for name, array in graph_data(graph).items():
        assert np.array_equal(graph_data(loaded)[name], array)
    assert not any(const.data.flags.writeable for const in loaded.consts.values())


def test_two_codes_take_a_byte(tmp_path: pathlib.Path) -> None:
    save_graph(graph_of("w", shape=(100, 101)), tmp_path / "g")
    header, _ = parts((tmp_path / "g").read_bytes())
    sizes = {name: entry["shape"] for name, entry in header.items() if "100,101" in name}
    assert len(sizes) == len(RANGES) and all(shape == [5050] for shape in sizes.values())
    assert header["__metadata__"]["qcompiler"] == "2"


def test_the_golden_bytes_are_what_is_written_today(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> None:
    save_graph(graph_of("w"), GOLDEN if request.config.getoption("--update-golden") else tmp_path / "g")
    if not request.config.getoption("--update-golden"):
        assert (tmp_path / "g").read_bytes() == GOLDEN.read_bytes()
    assert first_difference(load_graph(GOLDEN), graph_of("w")) is None


@pytest.mark.parametrize("name", ["i4[3,5]:w", "u4[16]:w", "i4[]:w", "i4[999999999999,999999999999]:w", "u4[0]:w"])
def test_bytes_that_do_not_fit_the_shape_are_refused(name: str) -> None:
    for array in (np.zeros(3, np.uint8), np.zeros((4, 2), np.uint8), np.zeros(8, np.int8), np.zeros(9, np.uint8)):
        with pytest.raises(ArtifactError, match="malformed"):
            unpack("file", name, array)


def test_a_code_too_many_is_refused() -> None:
    assert unpack("file", "i4[3]:w", pack(np.array([-8, 7, -1], np.int8)))[1].tolist() == [-8, 7, -1]
    with pytest.raises(ArtifactError, match="a code too many"):
        unpack("file", "i4[3]:w", np.array([0, 16], np.uint8))


@pytest.mark.parametrize(
    "edit", [("u4[3,5]:wu4", "wu4"), ("u4[3,5]:wu4", "u4[3,5]:wu8"), ("u4[3,5]:wu4", "u4[15]:wu4")]
)
def test_other_names_are_refused(tmp_path: pathlib.Path, edit: tuple[str, str]) -> None:
    """A packed tensor under a plain name, under the name of another constant, and of another shape."""
    save_graph(graph_of("w"), tmp_path / "g")
    header, data = parts((tmp_path / "g").read_bytes())
    (tmp_path / "bad").write_bytes(
        join({edit[1] if name == edit[0] else name: each for name, each in header.items()}, data)
    )
    with pytest.raises(ArtifactError):
        load_graph(tmp_path / "bad")


def test_a_compiled_model_answers_alike(tmp_path: pathlib.Path) -> None:
    net = qc.nn.Sequential(qc.nn.Linear(64, 96), qc.nn.ReLU(), qc.nn.Linear(96, 10))
    x = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    sizes = []
    for qconfig in ("w4a8", "int8"):
        model = qc.compile(net, qconfig, (x,), calibration_data=[x])
        model.save(tmp_path / "m.qc.safetensors")
        assert np.array_equal(qc.load(tmp_path / "m.qc.safetensors")(x), model(x))
        sizes.append((tmp_path / "m.qc.safetensors").stat().st_size)
    assert sizes[1] - sizes[0] >= (64 * 96 + 96 * 10) // 2 - 200
