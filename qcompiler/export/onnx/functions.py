"""Ops of a user as nodes of a domain of their own, with a function of the model that says what they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx import helper

from qcompiler.export.onnx.builder import OPSET, Builder, Input
from qcompiler.export.onnx.node import NodeWriter, Refusal
from qcompiler.export.own import Exporter
from qcompiler.ir import AttrValue, Node

if TYPE_CHECKING:
    from qcompiler.export.onnx.model import Model

DOMAIN_VERSION = 1


class _Body(NodeWriter):
    """Writes the body of a function: operands are its formal inputs, and tensors stand in a graph of their own."""

    def __init__(self, model: Model, node: Node) -> None:
        super().__init__(model, node)
        self.formal = [self._formal(index) for index in range(len(self.operands))]
        given = [
            Input(name, value.type.expressed()) for name, value in zip(self.formal, self.operands) if value is not None
        ]
        self.build = Builder(given, {name for name in self.formal if name})
        self.base = "body"

    def _formal(self, index: int) -> str:
        spec = self.op.spec(index)
        return f"{spec.name}_{index}" if spec.variadic else spec.name

    def x(self, index: int = 0) -> str:
        return self.formal[index] if self.has(index) else ""


def write_in_domain(model: Model, node: Node, exporter: Exporter) -> list[str]:
    """A node of the exporter's domain; its results. The function that it calls is added to the model."""
    outer = NodeWriter(model, node)
    domain, kind = exporter.domain or "", type(outer.op).__name__
    attrs = {spec.name: _attribute(spec.name, node.attrs[spec.name]) for spec in outer.op.attrs}
    attrs = {name: value for name, value in attrs.items() if value is not None}
    count, overload = len(node.results), None
    if exporter.write is not None:
        overload = _function(model, node, exporter, domain, kind, list(attrs)) or None
    results = outer.emits(count, kind, *outer.xs(), domain=domain, overload=overload, **attrs)
    return results


def _function(model: Model, node: Node, exporter: Exporter, domain: str, kind: str, attrs: list[str]) -> str:
    """Add the function of a node to the model; its overload. Nodes whose bodies are equal share one."""
    body = _Body(model, node)
    assert exporter.write is not None
    made = checked_results(exporter.write(body), node)
    inner = body.build
    outputs = []
    for name in made:  # an output may not be an input, or another output
        is_free = name not in body.formal and name not in outputs
        outputs.append(name if is_free else inner.add("Identity", [name], "result")[0])
    constants = [helper.make_node("Constant", [], [t.name], name=t.name, value=t) for t in inner.initializers]
    imports = [helper.make_opsetid("", OPSET)]
    imports += [helper.make_opsetid(each, DOMAIN_VERSION) for each in sorted({n.domain for n in inner.nodes} - {""})]
    inputs = [name or f"absent_{index}" for index, name in enumerate(body.formal)]
    nodes = [*constants, *inner.nodes]
    return model.function(helper.make_function(domain, kind, inputs, outputs, nodes, imports, attrs))


def checked_results(made: object, node: Node) -> list[str]:
    """The names that a user's exporter gave, one for each result.

    Raises:
        Refusal: it gave something else.
    """
    names = [made] if isinstance(made, str) else list(made) if isinstance(made, (list, tuple)) else []
    if len(names) != len(node.results) or not all(isinstance(name, str) and name for name in names):
        raise Refusal(f"its exporter gave {str(made)[:40]!r} in place of the names of {len(node.results)} tensors")
    return names


def _attribute(name: str, value: AttrValue) -> Any:
    """An attribute as ONNX has it; None is left out, and so is an empty tuple."""
    if isinstance(value, bool):
        return int(value)
    if value is None or isinstance(value, (int, float, str)):
        return value
    if isinstance(value, tuple) and all(type(item) in (int, float) for item in value):
        return list(value) or None
    raise Refusal(f"ONNX has no attribute of the kind of {name}")
