"""Recurrent layers that no op of ONNX holds, as a Scan over the steps whose body is the cell.

These are layers whose weights are codes, lstms that project their states, and weights that are computed. The products
of codes follow rules (7) and (8) of qmath, as in `dynamic.py`; the other arithmetic of the cell is that of f32.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from qcompiler.dims import DimLike
from qcompiler.export.onnx.builder import ELEMENTS
from qcompiler.export.onnx.dynamic import dynamic_codes, product_of_codes
from qcompiler.export.onnx.node import NodeWriter, Refusal
from qcompiler.frontend.onnx_described import KEY, Stored, description
from qcompiler.ir import Const
from qcompiler.ops.recurrent import BY_ROW, Gru, Lstm
from qcompiler.quantization import qmath
from qcompiler.types import DType, QuantParams

ACTIVATIONS: dict[str, tuple[str, bool, bool]] = {
    "sigmoid": ("Sigmoid", False, False),
    "tanh": ("Tanh", False, False),
    "relu": ("Relu", False, False),
    "softsign": ("Softsign", False, False),
    "softplus": ("Softplus", False, False),
    "affine": ("Affine", True, True),
    "leaky_relu": ("LeakyRelu", True, False),
    "thresholded_relu": ("ThresholdedRelu", True, False),
    "scaled_tanh": ("ScaledTanh", True, True),
    "hardsigmoid": ("HardSigmoid", True, True),
    "elu": ("Elu", True, False),
}
"""Ours -> ONNX's name, and whether it has an alpha and a beta."""
_LATER = 2**63 - 1


def scanned(w: NodeWriter) -> list[str]:
    """The results of a recurrent layer, by a Scan."""
    cell = Cell(w)
    gates = cell.times(w.x(0), 1, 3)
    states = [cell.first_state(5, w.type(2).shape[1])]
    if isinstance(w.op, Lstm):
        states.append(cell.first_state(7, cell.units))
    walked = [gates]
    if w.has(6):
        steps = w.emit("Squeeze", w.build.size(w.type().shape[0], w.base), w.ints([0]))
        walked.append(w.emit("Range", w.constant(np.int64(0)), steps, w.constant(np.int64(1))))
    direction = [int(w.op.reverse)] * len(walked)
    body = cell.body(len(states))
    *last, y = w.emits(
        len(states) + 1,
        "Scan",
        *states,
        *walked,
        body=body,
        num_scan_inputs=len(walked),
        scan_input_directions=direction,
        scan_output_directions=direction[:1],
    )
    text = description(w.node.op, cell.operands(), w.node.attrs, body)
    w.build.nodes[-1].metadata_props.add(key=KEY, value=text)
    return [y, *last]


class Cell:
    """The parts of one layer's cell, as they are written."""

    def __init__(self, w: NodeWriter) -> None:
        self.w, self.op = w, w.op
        self.units = w.type(2).sizes[0] // w.op.gate_count
        self.has_codes = w.op.ih_scale is not None
        self.names, self.parameters = w.op.activations(), w.op.parameters()
        self.turned = {} if self.has_codes else {index: w.model.transposed(w.value(index)) for index in (1, 2)}
        if w.has(9) and isinstance(w.op, Lstm):
            self.turned[9] = w.model.transposed(w.value(9))
        self.stored: dict[int, list[str]] = {index: [name] for index, name in self.turned.items()}

    def operands(self) -> list[str | Stored]:
        """The operands in the file. Weights are constants in the form that the products read, of which OpenVINO does
        not let a body read any that nodes compute."""
        found: list[str | Stored] = []
        for index, value in enumerate(self.w.operands):
            is_stored = index in self.stored and isinstance(value, Const)
            found.append(Stored(value.name, self.stored[index]) if is_stored and value else self.w.x(index))
        return found

    # -- products

    def times(self, x: str, weight: int, bias: int, gates: slice = slice(None)) -> str:
        """x by the rows `gates` of a weight, transposed, plus those of its bias."""
        w = self.w
        if not self.has_codes:
            y = w.emit("MatMul", x, self._part(self.turned[weight], 1, gates))
        elif self.op.is_static:
            quant = self.op.x_params() if weight == 1 else self.op.h_params()
            y = self._product(*self.codes(x, quant, DType.U8), weight, gates)
        else:
            codes, scale, zero = dynamic_codes(w, x, self.op.scale_of == BY_ROW, 0, self.op.qmax)
            y = self._product(codes, scale, zero, weight, gates)
        return w.emit("Add", y, self._part(w.x(bias), 0, gates)) if w.has(bias) else y

    def _product(self, codes: str, scale: str, zero: str, index: int, gates: slice) -> str:
        """Rule (8). The weights become u8, plus 128: see `Model.unsigned`."""
        w, weight, op = self.w, self.w.value(index), type(self.op)
        if not isinstance(weight, Const):
            raise Refusal("a recurrent layer whose weights are codes that are no constants")
        data = weight.data[gates].astype(np.int32)
        if not data.shape[1]:
            raise Refusal("a sum of no products, which ONNX Runtime leaves unset")
        turned = w.constant((data.T + 128).astype(np.uint8), "weight")
        self.stored.setdefault(index, []).append(turned)
        sums = data.sum(axis=1, dtype=np.int64).astype(np.int32)
        scales = self._part(w.x((op.ih_scale if index == 1 else op.hh_scale).index), 0, gates)
        return product_of_codes(w, (codes, scale, zero), turned, w.constant(np.uint8(128)), sums, scales)

    def codes(self, x: str, quant: QuantParams, dtype: DType) -> tuple[str, str, str]:
        """Codes of given parameters, their scale and their zero point."""
        w = self.w
        scale = w.constant(quant.scales.reshape(()), "scale")
        zero = w.constant(np.array(quant.zero_point[0], dtype.numpy), "zero_point")
        found = w.emit("QuantizeLinear", x, scale, zero)
        if dtype is DType.I16:
            found = w.build.kept_words(found, w.base)
        elif quant.qmax < dtype.max:
            found = w.emit("Min", found, w.constant(np.array(quant.qmax, dtype.numpy), "qmax"))
        return found, scale, zero

    def settled(self, x: str, index: int = 0) -> str:
        """A state as the next step reads it: static ones are those that codes stand for."""
        if not self.op.is_static:
            return x
        given = (self.op.c_params(), DType.I16) if index else (self.op.h_params(), DType.U8)
        return self.w.emit("DequantizeLinear", *self.codes(x, *given))

    def _part(self, x: str, axis: int, gates: slice) -> str:
        """Some of the gates along an axis."""
        if gates == slice(None):
            return x
        start, stop = gates.start or 0, _LATER if gates.stop is None else gates.stop
        ends = [self.w.ints([each]) for each in (start, stop, axis)]
        return self.w.emit("Slice", x, *ends)

    def gates(self, x: str, count: int, axis: int = -1) -> list[str]:
        """x [..., count * units] in its parts."""
        return self.w.emits(count, "Split", x, axis=axis, num_outputs=count)

    # -- the cell

    def act(self, index: int, x: str) -> str:
        """An activation of the op, of whose argument gates are clamped first."""
        w, (alpha, beta) = self.w, self.parameters[index]
        if self.op.clip is not None and index < 2:
            x = w.emit("Clip", x, w.number(-self.op.clip), w.number(self.op.clip))
        name = self.names[index]
        if self.op.is_static:
            return self._static(name, x)
        if name == "affine":
            return w.emit("Add", w.emit("Mul", x, w.number(alpha)), w.number(beta))
        if name == "scaled_tanh":
            return w.emit("Mul", w.emit("Tanh", w.emit("Mul", x, w.number(beta))), w.number(alpha))
        kind, has_alpha, has_beta = ACTIVATIONS[name]
        return w.emit(kind, x, alpha=alpha if has_alpha else None, beta=beta if has_beta else None)

    def _static(self, name: str, x: str) -> str:
        """The functions of rule (9)."""
        w, half = self.w, self.w.number(0.5)
        if name == "relu":
            return w.emit("Relu", x)
        if name == "sigmoid":
            return w.emit("Add", w.emit("Mul", self._static("tanh", w.emit("Mul", x, half)), half), half)
        bounded = w.emit("Clip", x, w.number(-qmath.GATE_BOUND), w.number(qmath.GATE_BOUND))
        v = w.emit("Mul", bounded, half)
        u = w.emit("Mul", v, v)

        def polynomial(coefficients: tuple[float, ...]) -> str:
            total = w.number(coefficients[0])
            for coefficient in coefficients[1:]:
                total = w.emit("Add", w.emit("Mul", total, u), w.number(coefficient))
            return total

        p, q = w.emit("Mul", v, polynomial(qmath.GATE_P)), polynomial(qmath.GATE_Q)
        over = w.emit("Add", w.emit("Mul", p, p), w.emit("Mul", q, q))
        return w.emit("Div", w.emit("Mul", w.emit("Add", p, p), q), over)

    def step(self, gates: str, *states: str) -> list[str]:
        """The next states, of which the first is y."""
        if isinstance(self.op, Lstm):
            return self.lstm(gates, *states)
        return self.gru(gates, *states) if isinstance(self.op, Gru) else self.rnn(gates, *states)

    def lstm(self, gates: str, h: str, c: str) -> list[str]:
        w = self.w
        given = w.emit("Add", gates, self.times(h, 2, 4))
        i, f, g, o = self.gates(given, 4)
        if w.has(8):
            p_i, p_f, p_o = self.gates(w.x(8), 3, 0)
            i = w.emit("Add", i, w.emit("Mul", p_i, c))
            f = w.emit("Add", f, w.emit("Mul", p_f, c))
        i = self.act(0, i)
        f = w.emit("Sub", w.number(1.0), i) if self.op.input_forget else self.act(0, f)
        c = self.settled(w.emit("Add", w.emit("Mul", f, c), w.emit("Mul", i, self.act(1, g))), 1)
        if w.has(8):
            o = w.emit("Add", o, w.emit("Mul", p_o, c))
        h = self.settled(w.emit("Mul", self.act(0, o), self.act(2, c)))
        return [w.emit("MatMul", h, self.turned[9]) if 9 in self.turned else h, c]

    def gru(self, gates: str, h: str) -> list[str]:
        w, before = self.w, slice(0, 2 * self.units)
        r, z, n = self.gates(gates, 3)
        if self.op.linear_before_reset:
            r_h, z_h, n_h = self.gates(self.times(h, 2, 4), 3)
        else:
            r_h, z_h = self.gates(self.times(h, 2, 4, before), 2)
        r, z = self.act(0, w.emit("Add", r, r_h)), self.act(0, w.emit("Add", z, z_h))
        if self.op.linear_before_reset:
            inner = w.emit("Mul", r, n_h)
        else:
            inner = self.times(w.emit("Mul", r, h), 2, 4, slice(2 * self.units, None))
        n = self.act(1, w.emit("Add", n, inner))
        return [self.settled(w.emit("Add", n, w.emit("Mul", z, w.emit("Sub", h, n))))]

    def rnn(self, gates: str, h: str) -> list[str]:
        return [self.settled(self.act(0, self.w.emit("Add", gates, self.times(h, 2, 4))))]

    # -- the walk

    def first_state(self, index: int, size: DimLike) -> str:
        """A state before the first step: an operand, or zeros."""
        w = self.w
        first = w.x(index) if w.has(index) else w.emit("Expand", w.number(0.0), w.shape((w.type().shape[1], size)))
        return self.settled(first, int(index == 7))

    def body(self, states: int) -> onnx.GraphProto:
        """One step: (states, gates, the number of the step) to (states, y)."""
        w, real = self.w, ELEMENTS[DType.F32]
        named = [w.build.fresh(f"{w.base}.{what}") for what in ("h", "c")[:states]]
        gates = w.build.fresh(f"{w.base}.gates")
        inputs = [helper.make_tensor_value_info(name, real, None) for name in (*named, gates)]
        with w.build.body() as nodes:
            after = self.step(gates, *named)
            y = after[0]
            if w.has(6):
                t = w.build.fresh(f"{w.base}.step")
                inputs.append(helper.make_tensor_value_info(t, ELEMENTS[DType.I64], ()))
                active = w.emit("Unsqueeze", w.emit("Greater", w.x(6), t), w.ints([1]))
                after = [w.emit("Where", active, new, old) for new, old in zip(after, named)]
                y = w.emit("Where", active, after[0], w.number(0.0))
            outputs = [w.emit("Identity", name) for name in (*after, y)]
        results = [helper.make_tensor_value_info(name, real, None) for name in outputs]
        return helper.make_graph(nodes, f"{w.base}.cell", inputs, results)
