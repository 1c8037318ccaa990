"""Saved models are mapped: they outlive the replacement of their file, and giving pages back changes no byte of
anything."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.artifact import load_graph, save_graph
from qcompiler.artifact.mapped_file import MappedFile, forget_pages, map_file
from qcompiler.backends.runtime.pages import aligned_block
from qcompiler.ir import Graph
from qcompiler.types import tensor

pytestmark = pytest.mark.skipif(os.name != "posix", reason="files are mapped on POSIX systems")


def graph_of(weights: np.ndarray) -> Graph:
    graph = Graph("g")
    x = graph.add_input("x", tensor("f32", 2, weights.shape[1]))
    graph.set_outputs([graph.create("linear", [x, graph.add_const("w", weights)]).result])
    return graph


@pytest.fixture
def weights() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(300, 500)).astype(np.float32)


def test_a_loaded_graph_reads_the_file_it_was_loaded_from(weights: np.ndarray, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.qc.safetensors"
    save_graph(graph_of(weights), path)
    loaded = load_graph(path)
    save_graph(graph_of(weights + 1), path)
    os.unlink(path)
    data = loaded.consts["w"].data
    forget_pages(data)
    assert np.array_equal(data, weights) and not data.flags.writeable


def test_constants_stay_readable_when_they_are_packed(weights: np.ndarray, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.qc.safetensors"
    save_graph(graph_of(weights), path)
    model, x = qc.load(path), np.ones((2, 500), np.float32)
    want = qc.load(path, target="reference")(x)
    assert np.allclose(model(x), want, rtol=1e-5, atol=1e-4)
    assert np.array_equal(model.graph.consts["w"].data, weights)


def test_arrays_over_a_mapped_file_give_their_pages_back_and_read_the_same(tmp_path: pathlib.Path) -> None:
    content = np.random.default_rng(1).integers(0, 256, 100_001, dtype=np.uint8)
    (tmp_path / "f").write_bytes(content.tobytes())
    with open(tmp_path / "f", "rb") as file:
        mapped = map_file(file)
    assert isinstance(mapped, MappedFile)
    for array in (
        np.frombuffer(mapped, np.uint8),
        np.frombuffer(mapped, np.uint8)[5:70_000],
        np.frombuffer(mapped, np.uint8)[:8].view(np.int64),
    ):
        before = array.copy()
        forget_pages(array)
        assert np.array_equal(array, before)


def test_other_memory_is_left_alone(tmp_path: pathlib.Path) -> None:
    block = aligned_block(1 << 16)
    block.data[:] = 7
    np.arange(5000, dtype=np.int64).tofile(tmp_path / "f")
    private = np.memmap(tmp_path / "f", np.int64, "c")
    private[:] = 9
    for array in (block.data, block.data[5:], np.arange(10), private):
        before = np.array(array)
        forget_pages(array)
        assert np.array_equal(array, before)


def test_an_empty_file_is_not_mapped(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").touch()
    with open(tmp_path / "empty", "rb") as file:
        assert map_file(file) is None
