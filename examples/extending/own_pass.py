"""A pass of one's own: large silu become hardswish, which needs no exp. It approximates, so it is a user's choice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from levels import run_everywhere

import qcompiler as qc
from qcompiler.ops.activations import Hardswish, Silu


@dataclass(frozen=True)
class ApproximateSilu:
    """silu(x) is near to hardswish(x).

    at_least: elements that a value must have.

    Before:
        %y = silu(%x) : f32[2,8]
    After:
        %y = hardswish(%x) : f32[2,8]
    """

    at_least: int = 0
    name: ClassVar[str] = "approximate-silu"

    def run(self, graph: qc.Graph) -> qc.Graph:
        for node in graph.nodes:
            silu = Silu.of(node)
            if silu is None or not silu.x.type.is_static or math.prod(silu.x.type.sizes) < self.at_least:
                continue
            # The new node has the name, the results, the source line and the origin of the old one.
            graph.replace(node, Hardswish.name, [silu.x])
        return graph


qc.register_pass(ApproximateSilu(at_least=64), after="recognize")


def main() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    conv = qc.nn.Conv2d(3, 8, 3)

    def model(x):
        y = conv(x)
        return y / (1 + np.exp(-y))  # recognize makes it a silu first

    print("float:", *(node.op for node in qc.fuse(model, (x,)).nodes))
    compiled = qc.compile(model, "int8:plain", (x,), calibration_data=[x])
    run_everywhere(compiled.graph, x)


if __name__ == "__main__":
    main()
