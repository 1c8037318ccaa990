"""Hostile names in every form that runs elsewhere: the files hold the same numbers, and nothing else is written."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

from qcompiler.export.check import check_export
from qcompiler.export.forms import FORMS
from qcompiler.ir import Graph
from qcompiler.types import DType, QuantParams, tensor
from tests.export.python.test_script import HOSTILE

SUFFIXES = {"onnx": [".onnx"], "qoperator": [".onnx"], "torch": [".pt"], "text": [".qir"]}
"""The script has a test of its own."""


def named(names: list[str]) -> Graph:
    """An integer graph of additions in which the graph, its input, its output, and each value has one of the names."""
    graph = Graph(names[0], "integer")
    codes = QuantParams.per_tensor(0.25, 100, DType.U8)
    x = graph.add_input(names[1], tensor("f32", 2, 3))
    value = graph.create("quantize", [x], types=x.type.quantized(DType.U8, codes)).result
    for index, name in enumerate(names[2:]):
        data = np.full((2, 3), 98 + index % 4, np.uint8)
        const = graph.add_const(f"{name[:1000]}c", data, value.type)
        value = graph.create("add", [value, const], types=value.type, names=name).result
    graph.set_outputs([graph.create("dequantize", [value], types=x.type).result], [names[0]])
    return graph


@pytest.mark.parametrize(("form", "suffix"), [(form, each) for form, found in SUFFIXES.items() for each in found])
def test_hostile_names(form: str, suffix: str, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    graph, path = named(list(HOSTILE)), str(folder / f"model{suffix}")
    FORMS[form].write(graph, path)
    (error,) = check_export(FORMS[form], path, graph, [[np.arange(-3, 3, dtype=np.float32).reshape(2, 3)]])
    assert error.signal > 0 and error.noise == 0
    assert os.listdir(tmp_path) == ["out"]
    assert set(os.listdir(folder)) <= {f"model{suffix}", "model.safetensors"}
