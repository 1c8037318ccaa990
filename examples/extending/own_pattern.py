"""A pattern of one's own: x + c * r, written out in a model, becomes the op `gated_add`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gated_add import GatedAdd
from levels import run_everywhere

import qcompiler as qc
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.ops.elementwise import Add, Mul
from qcompiler.passes.agreement import agree
from qcompiler.passes.rewrite import Refusal, Rewrite, RewritePass, why_not_alone


@dataclass(frozen=True)
class Gated:
    """What the pattern found: add(x, mul(r, gate))."""

    add: Add
    mul: Mul
    x: Value
    r: Value
    gate: float


class AsGatedAdd(Rewrite[Gated]):
    rule = "recognition of a gated add"
    ops = (Add,)  # the pattern starts from these

    def __init__(self, configs: Mapping[str, Any] | None) -> None:
        self.configs = configs

    def match(self, graph: Graph, node: Node) -> Gated | Refusal:
        add = Add(node)
        for x, scaled in ((add.x, add.y), (add.y, add.x)):
            mul = Mul.of(scaled.producer)
            if mul is None or mul.activation != "none":
                continue
            gate, r = (mul.x, mul.y) if isinstance(mul.x, Const) else (mul.y, mul.x)
            if not isinstance(gate, Const) or gate.data.size != 1 or r.type != x.type or not x.type.dtype.is_float:
                continue
            if not agree(self.configs, mul.node, node):
                return self.refuse(node, f"%{scaled.name} has another qconfig")
            reason = why_not_alone(graph, scaled, node)
            return self.refuse(node, reason) if reason else Gated(add, mul, x, r, float(gate.data.reshape(())))
        return self.refuse(node, "no operand is a value times a constant")

    def rewrite(self, graph: Graph, match: Gated) -> None:
        attrs = {"gate": match.gate, "activation": match.add.activation}
        origin = (*match.mul.node.origin, *match.add.node.origin)
        graph.replace(match.add.node, GatedAdd.name, [match.x, match.r], attrs, origin=origin)
        graph.erase(match.mul.node)


@dataclass(frozen=True)
class RecognizeGatedAdd(RewritePass):
    """add(x, mul(r, gate)) = gated_add(x, r) {gate=...}."""

    configs: Mapping[str, Any] | None = None  # the qconfigs of nodes; compile fills it in
    name: ClassVar[str] = "recognize-gated-add"

    def rules(self, graph: Graph) -> Sequence[Rewrite[Any]]:
        return (AsGatedAdd(self.configs),)


qc.register_pass(RecognizeGatedAdd(), before="fold-batchnorm")  # which would take the factor into the weights


def main() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    first, second = qc.nn.Conv2d(3, 8, 3, padding=1), qc.nn.Conv2d(8, 8, 3, padding=1)

    def model(x):
        y = first(x)
        return np.maximum(y + 0.3 * second(y), 0).mean(axis=(2, 3))

    compiled = qc.compile(model, "int8:plain", (x,), calibration_data=[x])
    print(*(node.op for node in compiled.graph.nodes))
    run_everywhere(compiled.graph, x)
    refused = qc.fuse(lambda x: x + np.maximum(x, 0), (x,))
    print(*RecognizeGatedAdd().explain(refused))


if __name__ == "__main__":
    main()
