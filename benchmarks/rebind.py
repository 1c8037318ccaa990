"""Measure what a new size of an open axis costs: binding it to a program that has already run with others.

Two networks: ResNet-50 with an open batch, in int8, and a transformer of 13 layers (296 nodes) with an open batch and
length, in f32. Reported are the first binding, which lowers the graph and loads the kernels, and the least, median and
largest CPU time of bindings that are new. A new size must emit no kernel.

    python benchmarks/rebind.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

import qcompiler as qc
from qcompiler.backends.codegen import jit
from qcompiler.frontend import functional, nn

DIM, HEADS = 64, 4


class _Layer(nn.Module):
    """A layer of an encoder: attention over all positions, then two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(DIM, DIM) for _ in range(4))
        self.wide, self.narrow = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)
        self.first, self.second = nn.LayerNorm(DIM), nn.LayerNorm(DIM)

    def forward(self, x, mask):  # type: ignore[no-untyped-def]
        batch, length = x.shape[:2]

        def heads(y):  # type: ignore[no-untyped-def]
            return y.reshape(batch, length, HEADS, DIM // HEADS).transpose(0, 2, 1, 3)

        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        weights = functional.softmax(q @ k.transpose(0, 1, 3, 2) * 0.25 + mask, -1)
        x = self.first(x + self.o((weights @ v).transpose(0, 2, 1, 3).reshape(batch, length, DIM)))
        return self.second(x + self.narrow(functional.gelu(self.wide(x))))


class _Transformer(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer() for _ in range(layers)])

    def forward(self, x, mask):  # type: ignore[no-untyped-def]
        mask = (1.0 - mask[:, None, None, :]) * -1e4
        for layer in self.layers:
            x = layer(x, mask)
        return x


def transformer() -> tuple[qc.CompiledModel, Sequence[Mapping[str, int]]]:
    axes = {0: {0: "B", 1: "S"}, 1: {0: "B", 1: "S"}}
    example = np.zeros((2, 9, DIM), np.float32), np.ones((2, 9), np.float32)
    model = qc.compile(_Transformer(13), None, example, dynamic=axes)
    return model, [{"B": batch, "S": length} for batch in (2, 3, 1, 8) for length in (9, 10, 33, 64, 128, 200)]


def resnet50() -> tuple[qc.CompiledModel, Sequence[Mapping[str, int]]]:
    from models import build

    network, shape = build("resnet50")
    x = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
    model = qc.compile(network, "int8", (x,), calibration_data=[x], dynamic={0: {0: "B"}})
    return model, [{"B": batch} for batch in range(1, 25)]


def measure(name: str, make: Callable[[], tuple[qc.CompiledModel, Sequence[Mapping[str, int]]]]) -> None:
    model, bindings = make()
    times = []
    for number, sizes in enumerate(bindings):
        emitted, start = jit.emitted_kernels.total(), time.process_time()
        model.program.bind(sizes)
        times.append((time.process_time() - start) * 1e3)
        if number and jit.emitted_kernels.total() != emitted:
            raise SystemExit(f"{name}: the sizes {sizes} emitted a kernel")
    first, *others = times
    print(
        f"{name}, {len(model.program.graph.node_list)} nodes: first {first:.0f} ms; {len(others)} new sizes: "
        f"{min(others):.1f} ms at least, {statistics.median(others):.1f} ms median, {max(others):.1f} ms at most"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    measure("transformer", transformer)
    measure("ResNet-50", resnet50)


if __name__ == "__main__":
    main()
