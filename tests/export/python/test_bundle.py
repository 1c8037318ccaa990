"""What a bundle copies, and in which order; ops that a user declares in a file of their own."""

from __future__ import annotations

import pathlib
import runpy
import sys

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import opdef as opdef_module
from qcompiler.errors import LoweringError
from qcompiler.export.python.bundle import Bundle
from qcompiler.ir import Graph
from qcompiler.opdef import all_ops, opdef
from qcompiler.types import tensor

OWN = '''
"""Ops of a user."""
from __future__ import annotations

import json as notation
from math import pi as PI

import numpy as np

from qcompiler.ops.activations import Unary
from qcompiler.quantization import qmath

SHIFT: float = PI * 2


def clamp(multiplier):  # a name that qmath has too
    multiplier = qmath.clamp(multiplier, -SHIFT, SHIFT)  # and a variable that is a name of qmath
    return multiplier * float(notation.loads("1.5"))


class {name}(Unary):
    """clamp(x), scaled."""

    name = "{op}"

    def function(self, x):
        return {body}
'''


@pytest.fixture
def own(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """A function that declares an op in a module of its own, for the time of a test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []

    def declare(name: str, body: str) -> str:
        module = f"own_{name.lower()}"
        (tmp_path / f"{module}.py").write_text(OWN.format(name=name, op=name.lower(), body=body))
        __import__(module)
        made.append((module, name.lower()))
        return name.lower()

    yield declare
    for module, op in made:
        sys.modules.pop(module, None)
        opdef_module._REGISTRY.pop(op, None)


def _graph(op: str) -> Graph:
    graph = Graph("g")
    graph.set_outputs([graph.create(op, [graph.add_input("x", tensor("f32", 5))]).result])
    return graph


def test_an_op_of_a_user(own, tmp_path: pathlib.Path) -> None:
    """Its functions are copied; a name that two modules define, or that a local variable hides, gets another."""
    graph = _graph(own("Shifted", "clamp(x) + SHIFT"))
    qc.export_python(graph, tmp_path / "model.py")
    x = np.linspace(-9, 9, 5, dtype=np.float32)
    script = runpy.run_path(str(tmp_path / "model.py"))
    (found,) = script["run"]({"x": x}).values()
    assert found.tobytes() == qc.interpret(graph, [x])[0].tobytes()
    assert "own_shifted" not in (tmp_path / "model.py").read_text()


def test_what_a_script_cannot_hold_is_named(own, tmp_path: pathlib.Path) -> None:
    graph = _graph(own("Foreign", "undefined_name(x)"))
    with pytest.raises(LoweringError, match="1 nodes have no form in a script[\\s\\S]*undefined_name"):
        qc.export_python(graph, tmp_path / "model.py")
    assert not (tmp_path / "model.py").exists()


def test_a_bundle_holds_what_is_used_alone() -> None:
    bundle = Bundle()
    bundle.add_op(opdef("relu"), "reference")
    bundle.close()
    text = bundle.text()
    assert "class Relu(" in text and "def requantize" not in text and "def infer" not in text and "samples" not in text


def test_every_op_can_be_copied() -> None:
    """Each with each of its meanings, one after the other; what a bundle holds compiles."""
    for op in all_ops():
        for method in ("reference", "integer"):
            if method == "integer" and op.integer is None:
                continue
            bundle = Bundle()
            bundle.add_op(op, method)
            bundle.close()
            compile(bundle.text(), op.name, "exec")
