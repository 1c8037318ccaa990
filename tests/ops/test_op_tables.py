"""Facts about ops stand on their classes: no module lists ops by name, reads operands by position or attributes by key.

Three kinds of modules are free to: the declarations in qcompiler/ops, the frontends' maps from foreign names, and the
backends' registrations (`@lowers`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ops.op_table_lint import findings

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "qcompiler/opdef.py": {"operand", "table"},  # what views are made of; the names of the families
    "qcompiler/ir.py": {"operand"},  # lists of operands, of any op
    "qcompiler/text": {"operand", "attr"},  # prints and reads any op
    "qcompiler/traced_size.py": {"table"},  # Python's operators on ints
    "qcompiler/cli/run.py": {"table"},  # min, max and mean of an array
    "backends/rules/__init__.py": {"table"},  # the names of the files
    "qcompiler/export/onnx/cells.py": {"table"},  # the activations of recurrent layers
    "qcompiler/export/torch/recurrent.py": {"table"},
    "qcompiler/export/torch/scatter.py": {"table"},  # how a scatter combines
    "backends/kernel_ir": {"operand", "attr", "table"},  # has ops of its own
    "backends/codegen": {"operand", "attr"},  # reads the kernel IR
    "backends/kernels/elementwise.py": {"table"},  # from the names of functions to the code that computes them
    "backends/kernels/integer_functions.py": {"table"},
    "backends/kernels/real_functions.py": {"table"},
    "backends/kernels/trigonometry.py": {"table"},
    "backends/kernels/recurrent.py": {"table"},
    "backends/kernels/recurrent_gates.py": {"table"},
    "backends/kernels/reduce.py": {"table"},
    "backends/kernels/gather.py": {"table"},  # how a scatter combines
}
"""Folders and files -> the kinds of findings that mean something else there."""


def modules() -> Iterator[str]:
    for folder in ("passes", "qcompiler", "backends"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith("qcompiler/ops/"):
                yield name


def allowed(name: str) -> set[str]:
    return set().union(*(kinds for start, kinds in ALLOWED.items() if name.startswith(start)))


@pytest.mark.parametrize("name", list(modules()))
def test_ops_are_known_by_their_classes(name: str) -> None:
    found = findings((ROOT / name).read_text(encoding="utf-8"))
    refused = [f"{name}:{each.line}: {each.kind}: {each.text}" for each in found if each.kind not in allowed(name)]
    assert not refused, "\n".join(refused)


VARIANTS = {
    "dict": '_COSTS = {"conv": 1.0, "linear": 2.0}',
    "dict of values": '_NAMES = {0: "conv", 1: "linear"}',
    "dict call": "_COSTS = dict(conv=1.0, linear=2.0)",
    "set": '_LAYERS = {"conv", "linear"}',
    "tuple": '_LAYERS = ("conv", "linear")',
    "list": '_LAYERS = ["conv", "linear"]',
    "frozenset call": '_LAYERS = frozenset({"conv", "linear"})',
    "union of sets": '_LAYERS = {"conv"} | {"linear", "matmul"}',
    "fromkeys": '_COSTS = dict.fromkeys(("conv", "linear"), 1.0)',
    "== chain": 'def f(name):\n    return name == "conv" or name == "linear"',
    "!= chain": 'def f(name):\n    return name != "conv" and name != "linear"',
    "if - elif": 'def f(name):\n    if name == "conv":\n        return 1\n    elif name == "linear":\n        return 2',
    "conditional expression": 'def f(name):\n    return 1 if name == "conv" else 2 if name == "linear" else 0',
    "in": 'def f(name):\n    return name in ("conv", "linear")',
    "not in": 'def f(name):\n    return name not in ["conv", "linear"]',
    "match": 'def f(name):\n    match name:\n        case "conv":\n            return 1\n        case "linear":\n'
    "            return 2",
    "match with alternatives": 'def f(name):\n    match name:\n        case "conv" | "linear":\n            return 1',
    "class attribute": 'class Pass:\n    ops = ("conv", "linear")',
    "default argument": 'def f(ops=("conv", "linear")):\n    return ops',
    "annotated constant": '_LAYERS: frozenset[str] = frozenset(("conv", "linear"))',
    "words of a string": '_LAYERS = "conv linear".split()',
    "nested": '_TABLE = [("x", {"conv": 0, "linear": 1})]',
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_lint_sees_a_table(variant: str) -> None:
    assert "table" in [each.kind for each in findings(VARIANTS[variant])]


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("name", 'x = node.op == "conv"'),
        ("name", 'if "conv" != use.node.op:\n    pass'),
        ("operand", "x = node.operands[0]"),
        ("operand", "x = s.node.operands[-1]"),
        ("operand", "x = node.operands[1:]"),
        ("operand", "operands = node.operands\nx = operands[2]"),
        ("attr", 'x = node.attrs["groups"]'),
        ("attr", 'x = s.attrs["groups"]'),
        ("attr", 'x = node.attrs.get("groups", 1)'),
        ("extent", 'x = b.extent("rows")'),
    ],
)
def test_the_lint_sees_names_positions_and_keys(kind: str, source: str) -> None:
    assert kind in [each.kind for each in findings(source)]


@pytest.mark.parametrize(
    "source",
    [
        '@lowers("conv", "linear")\ndef rule(s):\n    pass',
        'lowers("conv", "linear", shared=("matmul", "linear"))',
        'conv = Conv.of(node)\nis_conv = node.op == Conv.name\nattrs = {"activation": "relu"}',
        'clamps = ("none", "relu", "relu6")',
        "x = node.operands[index]",
        'graph.create("conv", [x, w], {"groups": 1})',
    ],
)
def test_the_lint_leaves_alone(source: str) -> None:
    assert not findings(source)
