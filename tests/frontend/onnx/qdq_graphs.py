"""Random ONNX graphs with QuantizeLinear and DequantizeLinear.

A graph has scales, zero points, axes and types wherever ONNX allows them, also where no integer form exists: weights of
16 bits or with scales along inputs, biases of every kind, pairs that are doubled, missing, or read codes with other
parameters than they were made with, ops on codes between them. Each real value has a bound on the difference of two
evaluations of it. `qdq_answers.py` compiles the graphs and compares their answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qcompiler.passes.integer_bias import MOVED

UNIT = 2.0**-24
"""The relative error of one rounding to float32."""
TYPES = {
    "uint8": (TensorProto.UINT8, 0, 255),
    "int8": (TensorProto.INT8, -128, 127),
    "uint16": (TensorProto.UINT16, 0, 65535),
    "int16": (TensorProto.INT16, -32768, 32767),
    "uint4": (TensorProto.UINT4, 0, 15),
    "int4": (TensorProto.INT4, -8, 7),
    "int32": (TensorProto.INT32, -(2**31), 2**31 - 1),
}


@dataclass(frozen=True)
class Real:
    """A real value: its name, its shape, a bound on its magnitude, and one on the difference between two evaluations of
    it."""

    name: str
    shape: tuple[int, ...]
    size: float
    error: float
    on_grid: bool = False
    """A DequantizeLinear made it: equal codes give equal values."""


@dataclass(frozen=True)
class Coded:
    """Codes, with the parameters that they were made with."""

    name: str
    shape: tuple[int, ...]
    type: str
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None


@dataclass(frozen=True)
class Rounding:
    """A QuantizeLinear: what it reads, its scales for that tensor, and how far from a tie two evaluations agree."""

    source: str
    scale: np.ndarray
    band: float


@dataclass
class QdqGraph:
    """One graph, drawn from a seed.

    Attributes:
        inputs: name -> (shape, type, size of the data).
        roundings: the QuantizeLinear nodes, for finding ties.
        moved: values that rounding a float bias may move.
        means: values that are means of codes.
        grids: dequantized value -> its scale, if it has one.
        shared: codes whose scale and zero point (the names) others may have too.
    """

    seed: int
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, tuple[tuple[int, ...], str, float]] = field(default_factory=dict)
    outputs: list[Real | Coded] = field(default_factory=list)
    roundings: list[Rounding] = field(default_factory=list)
    moved: set[str] = field(default_factory=set)
    means: set[str] = field(default_factory=set)
    grids: dict[str, float] = field(default_factory=dict)
    shared: list[tuple[Coded, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.opset = int(self.pick([*[13] * 6, 17, 17, 19, 19, *[21] * 8, 6]))
        self.powers = self.chance(0.15)
        self.count = 0
        self._draw()

    # -- drawing

    def pick(self, choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def const(self, kind: str, data: Any) -> str:
        name = self.name(kind)
        self.constants[name] = data
        return name

    def node(self, op: str, operands: list[str], outputs: int = 1, **attrs: Any) -> str:
        names = [self.name(op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, operands, names, **attrs))
        for marked in (self.moved, self.means):
            if marked & set(operands) and op != "QuantizeLinear":
                marked.update(names)
        if op in ("AveragePool", "GlobalAveragePool", "ReduceMean"):
            self.means.update(names)
        return names[0]

    def scale(self, about: float) -> np.ndarray:
        """Draw a scale of this size. In some graphs it is a power of two, so that every step is exact and ties must
        agree."""
        value = about * 2.0 ** self.rng.uniform(-0.7, 0.7)
        return np.asarray(2.0 ** round(math.log2(value)) if self.powers else value, np.float32)

    # -- conversions

    def code_type(self) -> str:
        wide = ["uint16", "int16", "uint4", "int4"] if self.opset >= 21 else []
        return str(self.pick(["uint8"] * 6 + ["int8"] * 4 + wide))

    def quantize(self, x: Real) -> Coded:
        if self.shared and x.name not in self.means and self.chance(0.25):  # a mean of codes is often a tie of them
            return self._quantize_as(x, self.pick(self.shared))
        kind = self.code_type()
        number, low, high = TYPES[kind]
        axis = None
        if x.shape and self.opset >= 13 and self.chance(0.08):
            axis = int(self.rng.integers(len(x.shape)))
        count = 1 if axis is None else x.shape[axis]
        about = max(min(x.size, 50.0), 2.0**-20) * 2 / (high - low)
        scale = np.array([self.scale(about) for _ in range(count)], np.float32)
        has_zero = not self.chance(0.15)
        if has_zero:
            zero = (
                self.rng.integers(low, high + 1, count) if self.chance(0.5) else np.full(count, (low + high + 1) // 2)
            )
        else:
            zero = np.zeros(count, np.int64)
            if self.opset < 21:
                kind = "uint8"
        attrs: dict[str, Any] = {}
        if not has_zero and (kind != "uint8" or (self.opset >= 21 and self.chance(0.3))):
            attrs["output_dtype"] = TYPES[kind][0]
        operands = [x.name, self.const("scale", self._one(scale, axis))]
        if has_zero:
            operands.append(self.const("zero", self._codes(self._one(zero, axis), kind)))
        if axis is not None:
            attrs["axis"] = axis - len(x.shape) if self.chance(0.3) else axis
        made = Coded(self.node("QuantizeLinear", operands, **attrs), x.shape, kind, scale, zero, axis)
        self._round(x, made)
        if axis is None and has_zero:
            self.shared.append((made, operands[1], operands[2]))
        return made

    def _quantize_as(self, x: Real, shared: tuple[Coded, str, str]) -> Coded:
        """Quantize x with the parameters, and the initializers, of other codes."""
        like, scale, zero = shared
        made = self.node("QuantizeLinear", [x.name, scale, zero])
        codes = Coded(made, x.shape, like.type, like.scale, like.zero_point, None)
        self._round(x, codes)
        return codes

    def _round(self, x: Real, codes: Coded) -> None:
        _, low, high = TYPES[codes.type]
        scale = self._along(codes.scale, codes.axis, len(x.shape))
        band = x.error / float(codes.scale.min()) + 4 * UNIT * (high - low)
        self.roundings.append(Rounding(x.name, scale, band + (MOVED if x.name in self.moved else 0)))

    def dequantize(self, q: Coded) -> Real:
        """Append a DequantizeLinear, in one graph of 20 with parameters of its own."""
        scale, zero, axis = q.scale, q.zero_point, q.axis
        _, low, high = TYPES[q.type]
        if self.chance(0.05):
            axis = None
            scale = np.array([self.scale(float(q.scale[0]))], np.float32)
            zero = self.rng.integers(low, high + 1, 1)
        operands = [q.name, self.const("scale", self._one(scale, axis))]
        if zero.any() or self.chance(0.6):
            operands.append(self.const("zero", self._codes(self._one(zero, axis), q.type)))
        size = float((scale * np.maximum(high - zero, zero - low)).max())
        attrs = {} if axis is None else {"axis": axis}
        return Real(self.node("DequantizeLinear", operands, **attrs), q.shape, size, 2 * UNIT * size, True)

    def pair(self, x: Real) -> Real:
        """Append what stands between two ops: mostly a pair of conversions, now and then with ops on codes between
        them."""
        for _ in range(self.pick([1] * 12 + [0] * 2 + [2])):
            codes = self.quantize(x)
            if self.chance(0.25):
                codes = self.move_codes(codes)
            x = self.dequantize(codes)
        return x

    def move_codes(self, q: Coded) -> Coded:
        """Append an op that moves codes. If it moves the axis of codes per channel, they are per tensor."""
        if q.axis is not None or q.type in ("uint16", "uint4", "int4", "int16"):
            return q
        x = Real(q.name, q.shape, 0.0, 0.0)
        if self.chance(0.15):
            pads = np.zeros(2 * len(q.shape), np.int64)
            pads[len(q.shape) - 1], pads[-1] = 1, 2
            moved = self.node("Pad", [q.name, self.const("pads", pads), *self._fill(q)])
            shape = (*q.shape[:-1], q.shape[-1] + 3)
        elif self.chance(0.15):
            moved, shape = self.node("Concat", [q.name, q.name], axis=0), (2 * q.shape[0], *q.shape[1:])
        else:
            result = self.move(x)
            moved, shape = result.name, result.shape
        if self.chance(0.2):
            moved = self.node("Cast", [moved], to=TYPES[q.type][0])
        return Coded(moved, shape, q.type, q.scale, q.zero_point, None)

    def _fill(self, q: Coded) -> list[str]:
        _, low, high = TYPES[q.type]
        value = self.rng.integers(low, high + 1)
        return [self.const("fill", self._codes(np.asarray(value), q.type))] if self.chance(0.6) else []

    # -- constants of layers

    def weight(self, shape: tuple[int, ...], channels: int) -> tuple[str, np.ndarray, np.ndarray | None]:
        """A weight: its name, its real values, and the scales of its products if there is one for each output.
        channels: the axis of the outputs."""
        real = self.rng.normal(size=shape) * 0.4
        if self.chance(0.08):
            return self.const("weight", real.astype(np.float32)), real, None
        kind = str(self.pick(["int8"] * 8 + ["uint8"] * 3 + (["int16", "int4", "uint4"] if self.opset >= 21 else [])))
        _, low, high = TYPES[kind]
        style = self.pick(["tensor"] * 4 + (["channel"] * 4 + ["wrong"] if self.opset >= 13 else []))
        axis = None
        if style != "tensor":
            axis = channels if style == "channel" else int(self.rng.integers(len(shape)))
        count = 1 if axis is None else shape[axis]
        scale = np.array([self.scale(2.4 / (high - low)) for _ in range(count)], np.float32)
        zero = np.full(count, (low + high + 1) // 2)
        if self.chance(0.2):
            zero = self.rng.integers(low, high + 1, count)
        along, points = self._along(scale, axis, len(shape)), self._along(zero, axis, len(shape))
        codes = np.clip(np.rint(real / along) + points, low, high)
        given = [self.const("scale", self._one(scale, axis))]
        if zero.any() or self.chance(0.7):
            given.append(self.const("zero", self._codes(self._one(zero, axis), kind)))
        attrs = {} if axis is None else {"axis": axis}
        if self.chance(0.1) and len(given) > 1:
            codes_name = self.node("QuantizeLinear", [self.const("weight", real.astype(np.float32)), *given], **attrs)
        else:
            codes_name = self.const("weight", self._codes(codes, kind))
        result = (codes - points) * along
        scales = scale if axis in (None, channels) else None
        return self.node("DequantizeLinear", [codes_name, *given], **attrs), result, scales

    def bias(self, count: int, x: Real, scales: np.ndarray | None) -> tuple[str, float, float]:
        """A bias: its name ("" for none), its largest magnitude, and by how much rounding it may move a result."""
        style = self.pick(["none"] * 2 + ["exact"] * 4 + ["near"] * 2 + ["float", "tensor", "int8", "free"])
        if style == "none":
            return "", 0.0, 0.0
        if style in ("near", "float") and self.powers:  # exact sums are often ties, which such a bias breaks
            style = "exact"
        real = self.rng.normal(size=count) * 0.5
        if style == "float":
            return self.const("bias", real.astype(np.float32)), float(np.abs(real).max()), MOVED
        product = self.rng.uniform(1e-4, 1e-2, 1)
        if scales is not None and x.name in self.grids:
            product = np.resize(np.float64(self.grids[x.name]) * scales.astype(np.float64), count)
        if style == "near":
            product = product * (1 + self.rng.uniform(-1, 1, product.size) * 2.0**-23)
        if style == "tensor":
            product = product[:1]
        if style == "free" or (product.size > 1 and self.opset < 13):
            product = self.rng.uniform(1e-4, 1e-2, 1)
        kind = "int8" if style == "int8" else "int32"
        step = product.astype(np.float32) if kind == "int32" else np.array([self.scale(0.01)], np.float32)
        low, high = TYPES[kind][1:]
        codes = np.clip(np.rint(real / step), low, high)
        axis = None if step.size == 1 else 0
        operands = [self.const("bias", codes.astype(kind)), self.const("scale", self._one(step, axis))]
        attrs = {} if axis is None else {"axis": 0}
        largest = float(np.abs(codes * step.astype(np.float64)).max())
        return self.node("DequantizeLinear", operands, **attrs), largest, 0.0

    # -- ops on real values

    def layer(self, x: Real) -> Real:
        if len(x.shape) == 2 or (len(x.shape) == 3 and self.chance(0.5)):
            return self.product(x)
        return self.convolution(x) if len(x.shape) >= 3 else x

    def product(self, x: Real) -> Real:
        inputs, outputs = x.shape[-1], int(self.rng.integers(1, 7))
        gemm = len(x.shape) == 2 and self.chance(0.6)
        flipped = gemm and self.chance(0.5)
        weight, real, scales = self.weight((outputs, inputs) if flipped else (inputs, outputs), 0 if flipped else 1)
        total = float(np.abs(real).sum(axis=1 if flipped else 0).max())
        shape = (*x.shape[:-1], outputs)
        if not gemm:
            return self._sum(x, self.node("MatMul", [x.name, weight]), shape, inputs, total, 0.0, 0.0)
        attrs: dict[str, Any] = {"transB": 1} if flipped else {}
        if self.chance(0.1):
            attrs["alpha"] = 0.75
        if self.chance(0.1):
            attrs["beta"] = 0.5
        if self.chance(0.1):  # C of any other shape, real or codes
            c = self.rng.normal(size=self.pick([(), (1,), (1, 1), (1, outputs), (x.shape[0], 1), shape])).astype(
                np.float32
            )
            name, largest, moved = self.const("c", c), float(np.abs(c).max()), MOVED
            if self.chance(0.5):
                step = self.scale(0.01)
                codes = np.clip(np.rint(c / step), -100, 100).astype(self.pick(["int32", "int8"]))
                name = self.node("DequantizeLinear", [self.const("c", codes), self.const("scale", step)])
        else:
            name, largest, moved = self.bias(outputs, x, scales)
        y = self.node("Gemm", [x.name, weight, *([name] if name else [])], **attrs)
        return self._sum(x, y, shape, inputs, total, largest, moved)

    def convolution(self, x: Real) -> Real:
        channels, spatial = x.shape[1], x.shape[2:]
        groups = int(self.pick([g for g in (1, 1, channels, 2) if channels % g == 0]))
        outputs = groups * int(self.rng.integers(1, 4))
        kernel = tuple(int(self.pick([k for k in (1, 2, 3) if k <= size])) for size in spatial)
        attrs: dict[str, Any] = {"group": groups} if groups > 1 else {}
        terms = channels // groups * math.prod(kernel)
        if self.chance(0.15):
            weight, real, scales = self.weight((channels, outputs // groups, *kernel), 1)
            bias, largest, moved = self.bias(outputs, x, scales)
            shape = (x.shape[0], outputs, *(s + k - 1 for s, k in zip(spatial, kernel)))
            y = self.node("ConvTranspose", [x.name, weight, *([bias] if bias else [])], **attrs)
            total = float(np.abs(real).sum())
            return self._sum(x, y, shape, terms, total, largest, moved)
        weight, real, scales = self.weight((outputs, channels // groups, *kernel), 0)
        bias, largest, moved = self.bias(outputs, x, scales)
        pads = [int(self.rng.integers(0, 2)) for _ in range(2 * len(kernel))]
        if moved:  # a window of padding alone gives the bias, which may be a tie whatever the data
            pads = [min(pad, k - 1) for pad, k in zip(pads, 2 * kernel)]
        if self.chance(0.2):
            attrs["strides"] = [int(self.rng.integers(1, 3)) for _ in kernel]
        total_pads = [before + after for before, after in zip(pads, pads[len(kernel) :])]
        strides = attrs.get("strides", [1] * len(kernel))
        sizes = [(s + p - k) // step + 1 for s, p, k, step in zip(spatial, total_pads, kernel, strides)]
        shape = (x.shape[0], outputs, *sizes)
        y = self.node("Conv", [x.name, weight, *([bias] if bias else [])], pads=pads, **attrs)
        total = float(np.abs(real).sum(axis=tuple(range(1, real.ndim))).max())
        return self._sum(x, y, shape, terms, total, largest, moved)

    def _sum(self, x: Real, name: str, shape: Any, terms: int, total: float, bias: float, moved: float) -> Real:
        """The result of a layer. total: the largest sum of |weights|; moved: codes by which rounding the bias may move
        it."""
        size = x.size * total + bias
        error = x.error * total + (terms + 8) * UNIT * size
        if moved:
            self.moved.add(name)
        return Real(name, tuple(shape), size, error)

    def activate(self, x: Real) -> Real:
        smooth = ["Sigmoid", "Tanh", *(["HardSwish"] if self.opset >= 14 and not self.powers else [])]
        op = self.pick(["Relu", "Relu", "Clip", "LeakyRelu", *smooth])
        operands, attrs = [x.name], {}
        size, error = x.size, x.error + 4 * UNIT * x.size
        if op == "Clip":
            operands += [self.const("low", np.float32(0)), self.const("high", np.float32(6))]
        if op == "LeakyRelu":
            attrs = {"alpha": 0.125 if self.powers else float(self.rng.uniform(0.05, 0.3))}
        if op in ("Sigmoid", "Tanh"):
            size, error = 1.0, x.error + 64 * UNIT
        if op == "HardSwish":
            error = 2 * x.error + 16 * UNIT * x.size
        name = self.node(op, operands, **attrs)
        return Real(name, x.shape, size, error)

    def pool(self, x: Real) -> Real:
        if len(x.shape) < 3:
            return x
        spatial = x.shape[2:]
        op = self.pick(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"])
        if op.startswith("Global"):
            shape, attrs, terms = (*x.shape[:2], *(1 for _ in spatial)), {}, math.prod(spatial)
        else:
            kernel = [min(2, size) for size in spatial]
            shape, attrs = (*x.shape[:2], *(s - k + 1 for s, k in zip(spatial, kernel))), {"kernel_shape": kernel}
            terms = math.prod(kernel)
        error = x.error if "Max" in op else x.error + (terms + 2) * UNIT * x.size
        return Real(self.node(op, [x.name], **attrs), shape, x.size, error)

    def combine(self, x: Real, y: Real) -> Real:
        op = self.pick(["Add", "Add", "Add", "Mul", "Sub"])
        shape = np.broadcast_shapes(x.shape, y.shape)
        name = self.node(op, [x.name, y.name])
        if op == "Mul":
            size = x.size * y.size
            return Real(name, shape, size, x.error * y.size + y.error * x.size + 4 * UNIT * size)
        return Real(name, shape, x.size + y.size, x.error + y.error + 4 * UNIT * (x.size + y.size))

    def multiply(self, x: Real) -> Real:
        """Append a matrix product of two activations."""
        rank = len(x.shape)
        if rank < 2:
            return x
        other = self.node("Transpose", [x.name], perm=[*range(rank - 2), rank - 1, rank - 2])
        y = Real(other, (*x.shape[:-2], x.shape[-1], x.shape[-2]), x.size, x.error, x.on_grid)
        y = self.dequantize(self.quantize(y)) if self.chance(0.7) else y
        terms = x.shape[-1]
        size = terms * x.size * y.size
        error = terms * (x.error * y.size + y.error * x.size) + (terms + 4) * UNIT * size
        name = self.node("MatMul", [x.name, y.name])
        return Real(name, (*x.shape[:-1], x.shape[-2]), size, error)

    def reduce(self, x: Real) -> Real:
        axes, rank = [len(x.shape) - 1], len(x.shape)
        if rank < 2:
            return x
        keep = int(self.chance(0.5))
        op = self.pick(["ReduceMean", "ReduceMax", "ReduceSum", "Softmax"])
        if op == "Softmax":
            return Real(self.node(op, [x.name], axis=-1), x.shape, 1.0, 4 * x.error + 64 * UNIT)
        if op == "ReduceSum" or self.opset >= 18:
            name = self.node(op, [x.name, self.const("axes", np.array(axes, np.int64))], keepdims=keep)
        else:
            name = self.node(op, [x.name], axes=axes, keepdims=keep)
        terms = x.shape[-1]
        size = x.size * (terms if op == "ReduceSum" else 1)
        error = x.error * (terms if op == "ReduceSum" else 1) + (terms + 2) * UNIT * size
        return Real(name, (*x.shape[:-1], *([1] * keep)), size, error)

    def concat(self, x: Real, y: Real) -> Real:
        axis = int(self.rng.integers(len(x.shape)))
        shape = tuple(2 * size if i == axis else size for i, size in enumerate(x.shape))
        name = self.node("Concat", [x.name, y.name], axis=axis)
        return Real(name, shape, max(x.size, y.size), max(x.error, y.error))

    def move(self, x: Real) -> Real:
        """Append an op that moves elements, which is legal on codes too."""
        shape, rank = x.shape, len(x.shape)
        op = self.pick(["Transpose", "Reshape", "Flatten", "Slice", "Gather", "Unsqueeze", "Expand", "Tile"])
        if op == "Transpose":
            perm = [int(i) for i in self.rng.permutation(rank)]
            name, shape = self.node(op, [x.name], perm=perm), tuple(shape[i] for i in perm)
        elif op == "Reshape":
            wanted = (shape[0], math.prod(shape[1:])) if self.chance(0.5) else (1, *shape)
            wanted = wanted if len(wanted) <= 4 else shape
            name, shape = self.node(op, [x.name, self.const("shape", np.array(wanted, np.int64))]), wanted
        elif op == "Flatten":
            name, shape = self.node(op, [x.name]), (shape[0], math.prod(shape[1:]))
        elif op == "Slice":
            ints = [self.const("ints", np.array([v], np.int64)) for v in (0, max(1, shape[-1] - 1), rank - 1)]
            name, shape = self.node(op, [x.name, *ints]), (*shape[:-1], max(1, shape[-1] - 1))
        elif op == "Gather":
            indices = self.rng.integers(0, shape[0], 3)
            name, shape = self.node(op, [x.name, self.const("indices", indices)], axis=0), (3, *shape[1:])
        elif op == "Unsqueeze" and rank < 4 and self.opset >= 13:
            name, shape = self.node(op, [x.name, self.const("axes", np.array([0], np.int64))]), (1, *shape)
        elif op == "Expand":
            name = self.node(op, [x.name, self.const("shape", np.array(shape, np.int64))])
        elif op == "Tile":
            repeats = np.array([2, *[1] * (rank - 1)], np.int64)
            name, shape = self.node(op, [x.name, self.const("repeats", repeats)]), (2 * shape[0], *shape[1:])
        else:
            return x
        return Real(name, tuple(shape), x.size, x.error, x.on_grid)

    # -- the graph

    def _draw(self) -> None:
        shape = tuple(int(self.rng.integers(low, high)) for low, high in ((1, 3), (1, 7), (2, 6), (2, 6)))
        shape = shape[: int(self.pick([2, 3, 4, 4, 4]))]
        x = self._input(shape)
        reals = [x]
        for _ in range(int(self.rng.integers(1, 6))):
            x = reals[-1] if self.chance(0.8) else self.pick(reals)
            kind = self.pick(
                ["layer"] * 5
                + ["activate"] * 2
                + ["pool", "combine", "combine", "concat", "move", "move", "reduce", "multiply"]
            )
            alike = [y for y in reals if y.shape == x.shape]
            if kind == "combine":
                y = self.combine(x, self.pick(alike))
            elif kind == "concat" and x.shape:
                y = self.concat(x, self.pick(alike))
            else:
                step: Callable[[Real], Real] = {
                    "layer": self.layer,
                    "activate": self.activate,
                    "pool": self.pool,
                    "reduce": self.reduce,
                    "multiply": self.multiply,
                }.get(kind, self.move)
                y = step(x)
            if kind == "layer" and self.chance(0.4):
                y = self.activate(y) if self.chance(0.8) else self.combine(y, y)
            if math.prod(y.shape) > 2000 or y.size > 1e6:
                break
            reals.append(self._paired(y))
        self.outputs.append(self._output(reals[-1]))
        if self.chance(0.2):
            self.outputs.append(self._output(self.pick(reals)))
        if not any(node.op_type.endswith("QuantizeLinear") for node in self.nodes):
            self.outputs.append(self.dequantize(self.quantize(reals[-1])))

    def _paired(self, x: Real) -> Real:
        y = self.pair(x)
        self._note_grid(y)
        return y

    def _note_grid(self, x: Real) -> None:
        maker = next((node for node in self.nodes if x.name in node.output), None)
        if maker is not None and maker.op_type == "DequantizeLinear":
            scale = np.ravel(self.constants[maker.input[1]])
            if scale.size == 1:
                self.grids[x.name] = float(scale[0])

    def _input(self, shape: tuple[int, ...]) -> Real:
        if self.chance(0.1):
            kind = str(self.pick(["uint8", "int8"]))
            self.inputs["x"] = shape, kind, 0.0
            _, low, high = TYPES[kind]
            codes = Coded("x", shape, kind, self.scale(0.02).reshape(1), self.rng.integers(low, high + 1, 1), None)
            x = self.dequantize(self.move_codes(codes) if self.chance(0.3) else codes)
        else:
            size = float(self.rng.uniform(0.5, 4))
            self.inputs["x"] = shape, "float32", size
            x = Real("x", shape, 4 * size, 0.0)
            x = self.pair(x) if self.chance(0.9) else x
        self._note_grid(x)
        return x

    def _output(self, x: Real) -> Real | Coded:
        if self.chance(0.15):
            return self.quantize(x)
        return x if x.name not in self.inputs else self.dequantize(self.quantize(x))

    def _one(self, values: np.ndarray, axis: int | None) -> np.ndarray:
        """Parameters as a file holds them: one number, or one for each element of the axis."""
        if axis is not None or self.chance(0.1):
            return values
        return values.reshape(())

    @staticmethod
    def _along(values: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
        return values.reshape(()) if axis is None else values.reshape([-1 if i == axis else 1 for i in range(rank)])

    @staticmethod
    def _codes(values: np.ndarray, kind: str) -> Any:
        """An initializer of codes: an array, or the elements of a four-bit tensor."""
        if kind not in ("int4", "uint4"):
            return values.astype(kind)
        return kind, values.shape, values.astype(np.int64).ravel().tolist()

    # -- as a model, and as data

    def model(self, extra: tuple[str, ...] = ()) -> onnx.ModelProto:
        """The ONNX model. extra: real values that are outputs too."""
        tensors = [
            helper.make_tensor(name, TYPES[data[0]][0], data[1], data[2])
            if isinstance(data, tuple)
            else numpy_helper.from_array(np.asarray(data), name)
            for name, data in self.constants.items()
        ]
        info = helper.make_tensor_value_info
        inputs = [
            info(name, TensorProto.FLOAT if kind == "float32" else TYPES[kind][0], shape)
            for name, (shape, kind, _) in self.inputs.items()
        ]
        outputs = [
            info(out.name, TYPES[out.type][0] if isinstance(out, Coded) else TensorProto.FLOAT, None)
            for out in {out.name: out for out in self.outputs}.values()
        ]
        outputs += [info(name, TensorProto.FLOAT, None) for name in extra]
        graph = helper.make_graph(self.nodes, "qdq", inputs, outputs, tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)

    def data(self, draw: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, draw))
        found = {}
        for name, (shape, kind, size) in self.inputs.items():
            if kind == "float32":
                found[name] = (rng.normal(size=shape) * size).astype(np.float32)
            else:
                found[name] = rng.integers(*TYPES[kind][1:], shape, endpoint=True).astype(kind)
        return found
