"""What torch.export made: programs, .pt2 files and the modules of programs come in as the module itself does."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

import qcompiler as qc
from qcompiler.errors import InputError, TraceError
from qcompiler.text.compare import first_difference

pytestmark = pytest.mark.filterwarnings("ignore")
X = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.fc(torch.relu(self.bn(self.a(x))).mean((2, 3)))


def exported(**options: Any) -> torch.export.ExportedProgram:
    return torch.export.export(Net().eval(), (X,), **options)


def test_a_program_its_module_and_its_file_give_the_graph_of_the_module(tmp_path: pathlib.Path) -> None:
    program, path = exported(), tmp_path / "net.pt2"
    torch.export.save(program, path)
    wanted = qc.trace(Net().eval(), (X,))
    for source, example in ((program, None), (program, X), (program.module(), X), (path, None), (str(path), X)):
        graph = qc.trace(source, example)
        graph.name = wanted.name
        assert [node.op for node in graph.nodes] == [node.op for node in wanted.nodes]
        assert np.array_equal(qc.compile(source, None, example)(X), qc.compile(Net().eval(), None, (X,))(X))
    assert {const.name for const in qc.trace(path).consts.values()} == {c.name for c in wanted.consts.values()}
    assert first_difference(qc.trace(path), qc.trace(program)) is None


def test_a_program_is_quantized_and_keeps_its_open_sizes() -> None:
    program = exported(dynamic_shapes={"x": {0: Dim("batch", max=64), 2: Dim("height", min=4), 3: Dim("width", min=4)}})
    graph = qc.trace(program)
    assert graph.inputs[0].type.dim_names == {"x_0", "x_2", "x_3"}
    compiled = qc.compile(program, "int8", calibration_data=[X], dynamic={"x": {0: "B", 2: "H"}})
    assert compiled.graph.inputs[0].type.dim_names == {"B", "H", "x_3"}
    fixed = qc.compile(exported(), "int8", calibration_data=[X])
    assert np.array_equal(compiled(X[:1]), fixed(X)[:1])
    with pytest.raises(InputError, match="B <= 64"):
        compiled(np.zeros((65, 3, 8, 8), np.float32))


def test_sizes_that_are_named_by_torch() -> None:
    """torch.export.Dim in `dynamic`: its name counts, and its bounds are checked at each call."""
    compiled = qc.compile(Net().eval(), None, (X,), dynamic={"x": {0: Dim("B", min=2, max=4)}})
    assert compiled.graph.inputs[0].type.dim_names == {"B"}
    assert compiled(X[:2]).shape == (2, 2)
    for size in (1, 5):
        with pytest.raises(InputError, match="B [<>]= "):
            compiled(np.zeros((size, 3, 8, 8), np.float32))
    with pytest.raises(TraceError, match="needs a size name"):
        qc.compile(Net().eval(), None, (X,), dynamic={"x": {0: Dim.AUTO}})


class Nested(nn.Module):
    def forward(self, x: Any, more: Any, scale: Any = None, flag: bool = True) -> Any:
        y = x + more["a"][0] * (2 if flag else 3)
        return y if scale is None else y * scale


def test_nested_inputs_are_flat_and_plain_values_are_fixed() -> None:
    x, a, scale = torch.ones(3), torch.full((3,), 2.0), torch.full((3,), 5.0)
    program = torch.export.export(Nested(), (x, {"a": [a]}), {"scale": scale, "flag": False})
    compiled = qc.compile(program, None)
    assert [value.name for value in compiled.graph.inputs] == ["x", "more_a_0", "scale"]
    assert np.array_equal(compiled(x=x, more_a_0=a, scale=scale), np.full(3, 35.0, np.float32))
    without = qc.compile(torch.export.export(Nested(), (x, {"a": [a]}, None)), None)
    assert np.array_equal(without(x, a), np.full(3, 5.0, np.float32))


@dataclasses.dataclass
class Pair:
    first: Any
    rest: Any


class Looks(OrderedDict):  # type: ignore[type-arg]
    """Refuses what is no tensor when it is made from parts, as classes of results do."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for value in self.values():
            iter(value)  # a traced array would be asked for its elements


torch.export.register_dataclass(Pair)
torch.utils._pytree.register_pytree_node(
    Looks,
    lambda looks: (list(looks.values()), list(looks)),
    lambda values, keys: Looks({key: [value] for key, value in zip(keys, values)}),
    serialized_type_name="test_torch_program.Looks",
)


class Structured(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Any) -> Any:
        parts = x + 1, [x + 2, {"deep": x + 3}]
        if self.kind == "dataclass":
            return Pair(*parts)
        return {"first": parts[0], "rest": parts[1]} if self.kind == "dict" else Looks(first=x + 1, rest=x + 2)


@pytest.mark.parametrize("kind", ["dataclass", "dict"])
def test_results_nest_as_the_module_returns_them(kind: str) -> None:
    got = qc.compile(Structured(kind).eval(), None, (X,))(X)
    assert np.array_equal(got["first"], X + 1)
    assert np.array_equal(got["rest"][1]["deep"], X + 3)


def test_a_class_of_results_that_looks_into_its_parts() -> None:
    got = qc.compile(Structured("class").eval(), None, (X,))(X)
    assert list(got) == ["first", "rest"] and np.array_equal(got["rest"][0], X + 2)


def test_files_that_are_none(tmp_path: pathlib.Path) -> None:
    for name, data in {"empty.pt2": b"", "text.pt2": b"not a program", "zip.pt2": b"PK\x05\x06" + bytes(18)}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TraceError, match=r"torch\.export\.load cannot read the file[\s\S]*" + name):
            qc.compile(tmp_path / name, None)
    with pytest.raises(TraceError, match="cannot read the file"):
        qc.trace(tmp_path / "missing.pt2")
    os.mkfifo(tmp_path / "pipe.pt2")
    with pytest.raises(TraceError, match="a named pipe"):
        qc.trace(tmp_path / "pipe.pt2")


def test_mistakes_with_programs() -> None:
    program = exported()
    with pytest.raises(TraceError, match="has fixed axis 0 of 'x'"):
        qc.trace(program, dynamic={"x": {0: "B"}})
    with pytest.raises(TraceError, match="there is no input 'y'"):
        qc.trace(program, dynamic={"y": {0: "B"}})
    with pytest.raises(TraceError, match="does not fit the exported program"):
        qc.trace(program, X[:1])
    with pytest.raises(TraceError, match="more example inputs"):
        qc.trace(program, (X, X))
    with pytest.raises(TraceError, match="no input 'z'"):
        qc.trace(program, {"z": X})
    open_program = exported(dynamic_shapes={"x": {0: Dim("batch")}})
    with pytest.raises(TraceError, match="does not fit"):
        qc.trace(open_program, X[:, :2])


def test_a_program_of_a_module_in_training_mode_is_refused() -> None:
    program = torch.export.export(Net().train(), (X,))
    with pytest.raises(TraceError):
        qc.compile(program, None)
