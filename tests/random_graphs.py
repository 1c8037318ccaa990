"""Typed random float graphs: networks of a few dozen nodes over images and tokens, for tests that compare whole
programs.

Every op is drawn among those that fit the type at hand, so a seed always gives a valid graph. Weights are scaled by
their fan-in and activations kept near one, so that quantized values neither vanish nor saturate.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qcompiler.ir import Graph, Value
from qcompiler.types import tensor

LEAST = 100
"""The least number of elements of a network's first output, so that fractions of them mean something."""
UNARY = (
    "relu",
    "relu6",
    "sigmoid",
    "tanh",
    "hardswish",
    "silu",
    "gelu",
    "leaky_relu",
    "elu",
    "softplus",
    "hardsigmoid",
    "mish",
    "abs",
    "erf",
)


class RandomGraph:
    """Grows a graph of images, then of rows. `build` gives it. inputs: arrays for its signature.

    more_rows: steps for rows besides those that all networks have.
    """

    more_rows: tuple[Callable[[RandomGraph, Value], Value | None], ...] = ()

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph(f"random_{seed}")
        size = (self._int(1, 2), self._int(1, 9), self._int(6, 17), self._int(6, 17))
        self.input = tensor("f32", *size)
        self.pool: list[Value] = [self.graph.add_input("x", self.input)]

    def build(self, nodes: int = 10) -> Graph:
        for _ in range(nodes):
            self._grow(_IMAGE_STEPS)
        if self.rng.random() < 0.5:
            self._rows()
            for _ in range(nodes // 2):
                self._grow(_ROW_STEPS + self.more_rows)
        outputs = [self._weighted_end(self.pool[-1])]
        if self.rng.random() < 0.3 and len(self.pool) > 2:
            outputs.append(self.pool[len(self.pool) // 2])
        self.graph.set_outputs(outputs)
        return self.graph

    def arrays(self, seed: int) -> list[np.ndarray]:
        return [np.random.default_rng(seed).normal(size=self.input.shape).astype(np.float32)]

    # -- helpers

    def _int(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def _pick(self, *choices: object) -> object:
        return choices[self._int(0, len(choices) - 1)]

    def _weights(self, *shape: int, fan_in: int) -> Value:
        return self.graph.add_const(
            self.graph.fresh_name("w"), self.rng.normal(0, fan_in**-0.5, shape).astype(np.float32)
        )

    def _vector(self, size: int, low: float, high: float) -> Value:
        return self.graph.add_const(self.graph.fresh_name("v"), self.rng.uniform(low, high, size).astype(np.float32))

    def _node(self, op: str, *operands: Value | None, **attrs: object) -> Value:
        return self.graph.create(op, list(operands), attrs).result

    def _grow(self, steps: tuple[Callable[[RandomGraph, Value], Value | None], ...]) -> None:
        x = self.pool[-1] if self.rng.random() < 0.8 else self._same_rank()
        made = steps[self._int(0, len(steps) - 1)](self, x)
        if made is not None and 0 < np.prod(made.type.shape) < 20_000:
            self.pool.append(made)

    def _same_rank(self) -> Value:
        found = [value for value in self.pool if len(value.type.shape) == len(self.pool[-1].type.shape)]
        return found[self._int(0, len(found) - 1)]

    def _like(self, x: Value) -> Value | None:
        found = [value for value in self.pool if value is not x and value.type.shape == x.type.shape]
        return found[self._int(0, len(found) - 1)] if found else None

    def _rows(self) -> None:
        n, c, h, w = self.pool[-1].type.shape
        self.pool.append(self._node("reshape", self.pool[-1], shape=(n, c, h * w)))

    def _weighted_end(self, x: Value) -> Value:
        """A linear layer over the innermost axis, with at least LEAST results."""
        rows = int(np.prod(x.type.shape[:-1]))
        return self.linear(x, least=-(-LEAST // rows))

    # -- images

    def conv(self, x: Value) -> Value:
        channels, h, w = x.type.shape[1:]
        kind = self._pick("dense", "dense", "depthwise", "groups")
        groups = channels if kind == "depthwise" else 2 if kind == "groups" and channels % 2 == 0 else 1
        outputs = channels * self._int(1, 2) if kind == "depthwise" else groups * self._int(1, 24)
        kernel = (min(self._int(1, 5), h), min(self._int(1, 5), w))
        stride = (self._int(1, 2), self._int(1, 2))
        bias = self._vector(outputs, -0.5, 0.5) if self.rng.random() < 0.7 else None
        weight = self._weights(outputs, channels // groups, *kernel, fan_in=channels // groups * kernel[0] * kernel[1])
        padding = tuple((self._int(0, k // 2), self._int(0, k // 2)) for k in kernel)
        return self._node("conv", x, weight, bias, stride=stride, padding=padding, dilation=(1, 1), groups=groups)

    def unary(self, x: Value) -> Value:
        return self._node(str(self._pick(*UNARY)), x)

    def norm(self, x: Value) -> Value:
        channels = x.type.shape[1]
        parts = [self._vector(channels, *bounds) for bounds in ((-0.3, 0.3), (0.5, 1.5), (0.6, 1.2), (-0.3, 0.3))]
        return self._node("batch_norm", x, *parts)

    def binary(self, x: Value) -> Value | None:
        other = self._like(x)
        return (
            None if other is None else self._node(str(self._pick("add", "sub", "mul", "maximum", "minimum")), x, other)
        )

    def scale(self, x: Value) -> Value:
        shape = (1, x.type.shape[1], *(1 for _ in x.type.shape[2:]))
        const = self.graph.add_const(self.graph.fresh_name("s"), self.rng.uniform(0.5, 1.5, shape).astype(np.float32))
        return self._node(str(self._pick("mul", "add")), x, const)

    def pool_(self, x: Value) -> Value | None:
        if min(x.type.shape[2:]) < 3:
            return None
        window = {
            "kernel": (self._int(2, 3), self._int(2, 3)),
            "stride": (self._int(1, 2), self._int(1, 2)),
            "padding": ((0, 0), (0, 1)),
        }
        return (
            self._node("max_pool", x, dilation=(1, 1), **window)
            if self.rng.random() < 0.5
            else self._node("avg_pool", x, **window)
        )

    def concat(self, x: Value) -> Value:
        found = [
            v
            for v in self.pool
            if len(v.type.shape) == len(x.type.shape)
            and (v.type.shape[0], *v.type.shape[2:]) == (x.type.shape[0], *x.type.shape[2:])
        ]
        return self._node("concat", x, found[self._int(0, len(found) - 1)], axis=1)

    def resize(self, x: Value) -> Value:
        size = tuple(self._int(max(1, n // 2), n + 5) for n in x.type.shape[2:])
        return self._node("resize", x, size=size, mode=self._pick("nearest", "bilinear"))

    def pad(self, x: Value) -> Value:
        border = ((0, 0), (0, 0), (self._int(0, 2), 0), (0, self._int(0, 2)))
        return self._node("pad", x, padding=border, mode=self._pick("constant", "edge"))

    def crop(self, x: Value) -> Value | None:
        if min(x.type.shape[2:]) < 4:
            return None
        h, w = x.type.shape[2:]
        return self._node("slice", x, axes=(2, 3), starts=(1, 0), stops=(h, w - 1), steps=(1, self._int(1, 2)))

    def transpose(self, x: Value) -> Value:
        return self._node("transpose", x, perm=(0, 1, 3, 2) if len(x.type.shape) == 4 else (0, 2, 1))

    def gate(self, x: Value) -> Value:
        means = self._node("mean", x, axes=(2, 3), keepdims=True)
        return self._node("mul", x, self._node("sigmoid", means))

    # -- rows

    def linear(self, x: Value, least: int = 1) -> Value:
        inputs, outputs = x.type.shape[-1], max(least, self._int(1, 40))
        bias = self._vector(outputs, -0.5, 0.5) if self.rng.random() < 0.7 else None
        return self._node("linear", x, self._weights(outputs, inputs, fan_in=inputs), bias)

    def softmax(self, x: Value) -> Value:
        return self._node("softmax", x, axis=self._int(1, 2))

    def layer_norm(self, x: Value) -> Value:
        size = x.type.shape[-1]
        return self._node(
            "layer_norm", x, self._vector(size, 0.5, 1.5), self._vector(size, -0.3, 0.3), normalized_rank=1
        )

    def product(self, x: Value) -> Value:
        return self._node("matmul", x, self._node("transpose", x, perm=(0, 2, 1)))

    def recurrent(self, x: Value) -> Value:
        """A recurrent layer whose steps are the first axis."""
        op, gates = (("lstm", 4), ("gru", 3), ("rnn", 1))[self._int(0, 2)]
        depth, units = x.type.shape[-1], self._int(1, 20)
        weights = (
            self._weights(gates * units, depth, fan_in=depth),
            self._weights(gates * units, units, fan_in=units),
        )
        biases = [self._vector(gates * units, -0.5, 0.5) if self.rng.random() < 0.7 else None for _ in range(2)]
        reverse = bool(self.rng.random() < 0.5)
        node = self.graph.create(op, [x, *weights, *biases, None, None], {"reverse": reverse})
        return node.results[0]

    def lookup(self, x: Value) -> Value:
        """Rows of a table, picked by where the largest numbers are."""
        table = self._weights(x.type.shape[-1], self._int(1, 20), fan_in=1)
        return self._node("gather", table, self._node("argmax", x, axis=2, keepdims=False), axis=0)


_IMAGE_STEPS = (
    RandomGraph.conv,
    RandomGraph.conv,
    RandomGraph.conv,
    RandomGraph.unary,
    RandomGraph.unary,
    RandomGraph.norm,
    RandomGraph.binary,
    RandomGraph.scale,
    RandomGraph.pool_,
    RandomGraph.concat,
    RandomGraph.resize,
    RandomGraph.pad,
    RandomGraph.crop,
    RandomGraph.transpose,
    RandomGraph.gate,
)
RECURRENT_STEPS = (RandomGraph.recurrent, RandomGraph.lookup)
"""Steps for `more_rows`: recurrent layers, and embeddings."""
_ROW_STEPS = (
    RandomGraph.linear,
    RandomGraph.linear,
    RandomGraph.unary,
    RandomGraph.softmax,
    RandomGraph.layer_norm,
    RandomGraph.binary,
    RandomGraph.transpose,
    RandomGraph.product,
)
