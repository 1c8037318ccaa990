"""lstm, gru and rnn: one layer in one direction over a sequence.

Frontends compose stacked, bidirectional and batch-first networks from these: so no node holds more than one cell, and
each has its own weights. Gates lie in torch's order along axis 0 of weights and biases; importers reorder those of
ONNX. The reference computes in f64 and rounds its results once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from qcompiler.dims import DimLike
from qcompiler.errors import ShapeError
from qcompiler.ir import Node
from qcompiler.opdef import (
    FLOAT_ONLY,
    AttrSpec,
    LayoutRule,
    Op,
    Role,
    Sample,
    bias_operand,
    bool_attr,
    int_attr,
    operand,
    optional_float_attr,
    optional_floats_attr,
    optional_operand,
    optional_parameter,
    str_attr,
    weight_operand,
)
from qcompiler.quantization import qmath
from qcompiler.types import MAX_SCALE, MIN_SCALE, DType, QuantParams, TensorType, tensor

BY_ROW, BY_TENSOR, STATIC = "row", "tensor", "static"
Function = Callable[[np.ndarray, float, float], np.ndarray]

ACTIVATIONS: dict[str, Function] = {
    "sigmoid": lambda x, a, b: 1 / (1 + np.exp(-x)),
    "tanh": lambda x, a, b: np.tanh(x),
    "relu": lambda x, a, b: np.where(x < 0, 0, x),
    "affine": lambda x, a, b: a * x + b,
    "leaky_relu": lambda x, a, b: np.where(x < 0, a * x, x),
    "thresholded_relu": lambda x, a, b: np.where(x <= a, 0, x),
    "scaled_tanh": lambda x, a, b: a * np.tanh(b * x),
    "hardsigmoid": lambda x, a, b: np.where(a * x + b < 0, 0, np.where(a * x + b > 1, 1, a * x + b)),
    "elu": lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
    "softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "softplus": lambda x, a, b: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
}
"""ONNX's activations of recurrent ops: functions of x and of two parameters, which most of them don't read."""

STATIC_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoid": qmath.gate_sigmoid,
    "tanh": qmath.gate_tanh,
    "relu": lambda x: np.where(x < 0, np.float32(0), x),
}
"""The activations of static layers, f32 to f32: those of rule (9), and relu for an rnn."""


def activation_attr(default: str, doc: str) -> AttrSpec[str]:
    return str_attr(default=default, doc=doc, choices=tuple(ACTIVATIONS))


class Recurrent(Op):
    """One layer in one direction. x: [T, N, I]; w_ih: [G * H, I]; w_hh: [G * H, R]; biases: [G * H]; h0: [N, R], zeros
    where it is absent. H are the units, G the gates, and R is H unless an lstm projects its states. Results: y
    [T, N, R], and the last state h [N, R].

    lengths: i64 [N]. Past its length a row keeps its state, and its y is 0. A length above T counts as T, and one below
    0 as 0.

    With ih_scale and hh_scale, f32 [G * H], w_ih and w_hh are i8 codes of weights in [-127, 127], and both products are
    those of codes by rules (7) and (8) of qmath: x and each step's state are quantized by their range, with one scale
    for each row of the batch and each step, or, where `scale_of` is "tensor", one for all of x and one for each step.

    Where `scale_of` is "static", x and the states are u8 codes of the parameters x_scale, x_zero_point, h_scale and
    h_zero_point in [0, qmax], and the cell's state is an i16 code of c_scale, which saturates. Gates are f32, and their
    functions those of rule (9). So y, h and c are real numbers that codes stand for, and their bits are the same on the
    interpreter and on every level.
    """

    gate_count: ClassVar[int]
    quant = FLOAT_ONLY
    layout = LayoutRule.ROW_MAJOR
    results: ClassVar[tuple[str, ...]] = ("y", "h")
    x = operand()
    w_ih = weight_operand()
    w_hh = weight_operand()
    bias_ih = bias_operand()
    bias_hh = bias_operand()
    h0 = optional_operand()
    lengths = optional_operand(Role.INDEX)
    reverse = bool_attr(default=False, doc="go from the last step to the first; y keeps the order of x")
    clip = optional_float_attr(doc="the gates are clamped to [-clip, clip] before their activations")
    alphas = optional_floats_attr(doc="the first parameter of each activation; None if none has parameters")
    betas = optional_floats_attr(doc="the second parameter of each activation")
    scale_of = str_attr(
        default=BY_ROW,
        doc="what has a scale of its own, if weights are codes; static: scales are given",
        choices=(BY_ROW, BY_TENSOR, STATIC),
    )
    qmax = int_attr(default=255, doc="the highest code of x and the states, if weights are codes: 1 to 255")
    x_scale = optional_float_attr(doc="static: the scale of x")
    x_zero_point = int_attr(default=0, doc="static: the zero point of x")
    h_scale = optional_float_attr(doc="static: the scale of the states")
    h_zero_point = int_attr(default=0, doc="static: the zero point of the states")
    c_scale = optional_float_attr(doc="static: the scale of the i16 codes of an lstm's cell state")
    ih_scale: Any
    hh_scale: Any

    def activations(self) -> tuple[str, ...]:
        """The names of the activations, in the order of `alphas` and `betas`."""
        raise NotImplementedError(self.name)

    def parameters(self) -> tuple[tuple[float, float], ...]:
        """(alpha, beta) of each activation, as f32 numbers; 0 where none is given."""
        none = (0.0,) * len(self.activations())
        return tuple(
            (float(np.float32(a)), float(np.float32(b))) for a, b in zip(self.alphas or none, self.betas or none)
        )

    @property
    def is_static(self) -> bool:
        """Whether x and the states have given scales."""
        return bool(self.scale_of == STATIC)

    def x_params(self) -> QuantParams:
        """Static: the parameters of x."""
        return QuantParams((float(self.x_scale or 1),), (self.x_zero_point,), None, 0, self.qmax)

    def h_params(self) -> QuantParams:
        """Static: the parameters of the states."""
        return QuantParams((float(self.h_scale or 1),), (self.h_zero_point,), None, 0, self.qmax)

    def c_params(self) -> QuantParams:
        """Static: the parameters of an lstm's cell state."""
        return QuantParams((float(self.c_scale or 1),), (0,), None, DType.I16.min, DType.I16.max)

    @property
    def units(self) -> int:
        """H."""
        return _size(self.w_hh.type.shape[0]) // self.gate_count

    def products(self) -> tuple[DimLike, ...]:
        steps, rows, depth = self.x.type.shape
        return (steps, rows, self.w_hh.type.shape[0], depth + self.w_hh.type.shape[1])

    def infer_states(self, x: TensorType, w_ih: TensorType, w_hh: TensorType, *more: TensorType | None) -> TensorType:
        """The type of h, for operands in the declared order up to `lengths`."""
        bias_ih, bias_hh, h0, lengths, ih_scale, hh_scale = more
        name = self.name
        kind = DType.F32 if ih_scale is None else DType.I8
        for what, type, rank, dtype in (
            (f"x of {name}", x, 3, DType.F32),
            (f"w_ih of {name}", w_ih, 2, kind),
            (f"w_hh of {name}", w_hh, 2, kind),
        ):
            if type.dtype is not dtype or type.rank != rank or type.is_quantized:
                raise ShapeError(what, expected=f"{dtype} of rank {rank}", got=str(type))
        gates, kept = w_hh.shape
        self._check_scales(w_ih, w_hh, ih_scale, hh_scale)
        if not isinstance(gates, int) or gates % self.gate_count:
            raise ShapeError(f"w_hh of {name}", expected=f"[{self.gate_count} * units, state]", got=str(w_hh))
        if w_ih.shape != (gates, x.shape[2]):
            raise ShapeError(f"w_ih of {name}", expected=str(w_ih.with_shape((gates, x.shape[2]))), got=str(w_ih))
        for what, bias in (("bias_ih", bias_ih), ("bias_hh", bias_hh)):
            _check(f"{what} of {name}", bias, gates)
        _check(f"h0 of {name}", h0, x.shape[1], kept)
        if lengths is not None and (lengths.dtype is not DType.I64 or lengths.shape != x.shape[1:2]):
            raise ShapeError(f"lengths of {name}", expected=f"i64[{x.shape[1]}]", got=str(lengths))
        count = len(self.activations())
        for what, given in (("alphas", self.alphas), ("betas", self.betas)):
            if given is not None and len(given) != count:
                raise ShapeError(f"{what} of {name}", expected=f"{count} numbers", got=given)
        if self.clip is not None and not self.clip > 0:
            raise ShapeError(f"clip of {name}", expected="a number above 0", got=self.clip)
        return tensor("f32", x.shape[1], kept)

    def _check_scales(
        self, w_ih: TensorType, w_hh: TensorType, ih_scale: TensorType | None, hh_scale: TensorType | None
    ) -> None:
        """Raise ShapeError unless both scales or none are given, and integer sums stay within i32."""
        if (ih_scale is None) != (hh_scale is None):
            raise ShapeError(f"scales of {self.name}", expected="both of ih_scale and hh_scale, or none", got="one")
        if self.is_static:
            self._check_static(has_codes=ih_scale is not None)
        if ih_scale is None:
            return
        for what, scale in (("ih_scale", ih_scale), ("hh_scale", hh_scale)):
            _check(f"{what} of {self.name}", scale, w_hh.shape[0])
        if not 1 <= self.qmax <= 255:
            raise ShapeError(f"qmax of {self.name}", expected="1 to 255", got=self.qmax)
        for what, weight in (("w_ih", w_ih), ("w_hh", w_hh)):
            if not isinstance(weight.shape[1], int) or weight.shape[1] > qmath.MOST_DYNAMIC_TERMS:
                raise ShapeError(
                    f"{what} of {self.name}: its i32 sums could overflow",
                    expected=f"at most {qmath.MOST_DYNAMIC_TERMS} columns",
                    got=str(weight),
                )

    def _check_static(self, has_codes: bool) -> None:
        """Raise ShapeError unless the attributes of static codes are legal. has_codes: whether weights are codes."""
        if not has_codes:
            raise ShapeError(f"a static {self.name}", expected="weights of codes, with ih_scale", got="none")
        scales = {"x_scale": self.x_scale, "h_scale": self.h_scale}
        if self.name == "lstm":
            scales["c_scale"] = self.c_scale
        for what, scale in scales.items():
            if scale is None or not MIN_SCALE <= scale <= MAX_SCALE:
                raise ShapeError(f"{what} of a static {self.name}", expected="2^-60 to 2^60", got=scale)
        for what, zero in (("x_zero_point", self.x_zero_point), ("h_zero_point", self.h_zero_point)):
            if not 0 <= zero <= self.qmax:
                raise ShapeError(f"{what} of a static {self.name}", expected=f"0 to {self.qmax}", got=zero)
        reason = self.why_not_static()
        if reason is not None:
            raise ShapeError(f"a static {self.name}", expected="gates of sigmoid and tanh", got=reason)

    def why_not_static(self) -> str | None:
        """Why the layer has no static form, or None: rule (9) has only these functions."""
        names = self.activations()
        if names[:-1] != ("sigmoid", "tanh")[: len(names) - 1] or names[-1] not in STATIC_FUNCTIONS:
            return f"its activations are {', '.join(names)}"
        return None

    def times(
        self, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, scale: np.ndarray | None, *, of_x: bool = False
    ) -> np.ndarray:
        """x @ w.T + bias, as f64: of codes w with scales by rules (7) and (8), whose results are rounded to f32. Static
        ones are f32, by rules (2) and (8)."""
        if scale is None:
            found: np.ndarray = x.astype(np.float64) @ w.T.astype(np.float64)
            return found if bias is None else found + bias
        if self.is_static:
            quant = self.x_params() if of_x else self.h_params()
            codes, x_scale, zero = (
                qmath.quantize(x, quant, DType.U8),
                quant.scales,
                np.array(quant.zero_point[0], np.uint8),
            )
        else:
            codes, x_scale, zero = qmath.dynamic_quantize(
                x.astype(np.float32), by_row=self.scale_of == BY_ROW, qmin=0, qmax=self.qmax
            )
        product = qmath.dynamic_product(codes, x_scale, zero, w.astype(np.int32), scale)
        gates = product if bias is None else product + bias
        return gates if self.is_static else gates.astype(np.float64)

    def clamped(self, gate: np.ndarray) -> np.ndarray:
        """A gate before its activation. NaN stays."""
        return gate if self.clip is None else np.clip(gate, -np.float32(self.clip), np.float32(self.clip))

    def functions(self) -> list[Callable[[np.ndarray], np.ndarray]]:
        """The activations, of which those of gates clamp their argument first."""

        def bound(index: int, name: str, alpha: float, beta: float) -> Callable[[np.ndarray], np.ndarray]:
            of_gates = index < 2
            return lambda x: ACTIVATIONS[name](self.clamped(x) if of_gates else x, alpha, beta)

        names = self.activations()
        if self.is_static:
            return [partial(self._static_function, index, STATIC_FUNCTIONS[name]) for index, name in enumerate(names)]
        return [bound(i, name, *given) for i, (name, given) in enumerate(zip(names, self.parameters()))]

    def _static_function(self, index: int, function: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
        return function(self.clamped(x) if index < 2 else x)

    def settled(self, state: np.ndarray, index: int = 0) -> np.ndarray:
        """The state at this index, of (h, c), as the next step reads it: static ones are those that codes stand for."""
        if not self.is_static:
            return state
        quant, dtype = (self.c_params(), DType.I16) if index else (self.h_params(), DType.U8)
        return qmath.fake_quantize(state, quant, dtype)

    def walk(
        self,
        x: np.ndarray,
        gates: np.ndarray,
        states: Sequence[np.ndarray],
        lengths: np.ndarray | None,
        step: Callable[..., tuple[np.ndarray, ...]],
    ) -> tuple[np.ndarray, ...]:
        """y and the last states. gates: the products of x, [T, N, G * H]. step(gates, *states): the next states, of
        which the first is written to y."""
        wide = [
            self.settled(state, index) if self.is_static else state.astype(np.float64)
            for index, state in enumerate(states)
        ]
        y = np.zeros((*x.shape[:2], wide[0].shape[1]), np.float32)
        for t in reversed(range(len(x))) if self.reverse else range(len(x)):
            after = step(gates[t], *wide)
            active = np.ones((x.shape[1], 1), bool) if lengths is None else t < lengths[:, None]
            wide = [np.where(active, new, old) for new, old in zip(after, wide)]
            y[t] = np.where(active, wide[0], 0)
        return (y, *(state.astype(np.float32) for state in wide))


def has_coded_weights(node: Node) -> bool:
    """Whether a node is a recurrent layer whose weights are codes."""
    layer = Recurrent.of(node)
    return layer is not None and layer.ih_scale is not None


def _size(size: DimLike) -> int:
    if not isinstance(size, int):
        raise ShapeError("weights of a recurrent op", expected="sizes that are known", got=str(size))
    return size


def _check(what: str, type: TensorType | None, *shape: DimLike) -> None:
    if type is not None and (type.dtype is not DType.F32 or type.shape != shape):
        raise ShapeError(what, expected=str(tensor("f32", *shape)), got=str(type))


def _check_columns(what: str, weight: TensorType, columns: DimLike) -> None:
    if weight.shape[1] != columns:
        raise ShapeError(what, expected=str(weight.with_shape((weight.shape[0], columns))), got=str(weight))


def _state(given: np.ndarray | None, x: np.ndarray, size: int) -> np.ndarray:
    return np.zeros((x.shape[1], size), np.float32) if given is None else given


class Lstm(Recurrent):
    """i, f, g, o = the parts of x_t @ w_ih.T + bias_ih + h @ w_hh.T + bias_hh; c = gate(f) * c + gate(i) * cell(g); h =
    gate(o) * output(c), with the activations gate, cell and output. x: [T, N, I]; w_ih: [4 * H, I]; w_hh: [4 * H, R];
    biases: [4 * H]; h0: [N, R]; c0: [N, H]; lengths: i64 [N], past which a row keeps its state and its y is 0.
    peephole: [3 * H], adds P_i * c to i, P_f * c to f, and P_o times the new c to o. w_hr: [R, H], then h is w_hr @ h;
    otherwise R is H. Results: y [T, N, R], the last h [N, R] and c [N, H]. torch.lstm; ONNX LSTM."""

    name = "lstm"
    gate_count = 4
    results = ("y", "h", "c")
    c0 = optional_operand()
    peephole = optional_parameter()
    w_hr = optional_operand(Role.WEIGHT)
    gate_activation = activation_attr("sigmoid", "of the gates i, f and o")
    cell_activation = activation_attr("tanh", "of the gate g")
    output_activation = activation_attr("tanh", "of the cell's state")
    ih_scale = optional_parameter()
    hh_scale = optional_parameter()
    input_forget = bool_attr(default=False, doc="gate(f) is 1 - gate(i)")

    def activations(self) -> tuple[str, ...]:
        return self.gate_activation, self.cell_activation, self.output_activation

    def infer(
        self,
        x: TensorType,
        w_ih: TensorType,
        w_hh: TensorType,
        bias_ih: TensorType | None,
        bias_hh: TensorType | None,
        h0: TensorType | None,
        lengths: TensorType | None,
        c0: TensorType | None,
        peephole: TensorType | None,
        w_hr: TensorType | None,
        ih_scale: TensorType | None,
        hh_scale: TensorType | None,
    ) -> tuple[TensorType, ...]:
        h = self.infer_states(x, w_ih, w_hh, bias_ih, bias_hh, h0, lengths, ih_scale, hh_scale)
        units = _size(w_hh.shape[0]) // self.gate_count
        _check_columns("w_hh of lstm", w_hh, units if w_hr is None else w_hr.shape[0])
        _check("c0 of lstm", c0, x.shape[1], units)
        _check("peephole of lstm", peephole, 3 * units)
        _check("w_hr of lstm", w_hr, h.shape[1], units)
        if w_hr is not None and self.is_static:
            raise ShapeError("a static lstm", expected="states that are not projected", got=f"w_hr {w_hr}")
        return tensor("f32", x.shape[0], *h.shape), h, tensor("f32", x.shape[1], units)

    def reference(
        self,
        x: np.ndarray,
        w_ih: np.ndarray,
        w_hh: np.ndarray,
        bias_ih: np.ndarray | None,
        bias_hh: np.ndarray | None,
        h0: np.ndarray | None,
        lengths: np.ndarray | None,
        c0: np.ndarray | None,
        peephole: np.ndarray | None,
        w_hr: np.ndarray | None,
        ih_scale: np.ndarray | None,
        hh_scale: np.ndarray | None,
    ) -> tuple[np.ndarray, ...]:
        units = len(w_hh) // self.gate_count
        act_gate, act_cell, act_output = self.functions()
        p = np.zeros(3 * units, np.float32) if peephole is None else peephole
        p_i, p_f, p_o = p.astype(np.float32 if self.is_static else np.float64).reshape(3, units)

        def step(gates: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
            i, f, g, o = np.split(gates + self.times(h, w_hh, bias_hh, hh_scale), 4, axis=1)
            i, g = act_gate(i + p_i * c), act_cell(g)
            f = 1 - i if self.input_forget else act_gate(f + p_f * c)
            c = self.settled(f * c + i * g, 1)
            h = self.settled(act_gate(o + p_o * c) * act_output(c))
            return (h if w_hr is None else h @ w_hr.T.astype(np.float64)), c

        products = self.times(x, w_ih, bias_ih, ih_scale, of_x=True)
        return self.walk(x, products, [_state(h0, x, w_hh.shape[1]), _state(c0, x, units)], lengths, step)

    @staticmethod
    def samples() -> Sequence[Sample]:
        state, lengths = tensor("f32", 3, 9), np.array([5, 0, 3], np.int64)
        projected = (tensor("f32", 6, 4, 5), tensor("f32", 28, 5), tensor("f32", 28, 3), None, tensor("f32", 28))
        first = (tensor("f32", 4, 3), np.array([6, 1, 2, 6], np.int64), tensor("f32", 4, 7), None, tensor("f32", 3, 7))
        others = {"gate_activation": "hardsigmoid", "cell_activation": "affine", "output_activation": "softsign"}
        return [
            _sample(4, (5, 3, 7, 9), state, lengths, state),
            _sample(4, (1, 1, 33, 17)),
            _sample(4, (3, 8, 4, 40), None, None, None, tensor("f32", 120), clip=0.25, input_forget=True),
            Sample((*projected, *first), {"reverse": True}, low=-0.5, high=0.5),
            _sample(4, (4, 2, 3, 5), **others, alphas=(0.2, 0.5, 0.0), betas=(0.5, 0.25, 0.0)),
            _of_codes(4, (5, 3, 7, 9), state, lengths, state, None, None),
            _of_codes(4, (3, 8, 33, 40), None, None, None, None, None, scale_of=BY_TENSOR, qmax=127, reverse=True),
            _of_codes(4, (5, 3, 7, 9), state, lengths, state, tensor("f32", 27), None, **_STATIC, c_scale=2.0**-11),
            _of_codes(4, (3, 8, 33, 40), *[None] * 5, **_STATIC, c_scale=2.0**-14, clip=0.5, input_forget=True),
        ]


class Gru(Recurrent):
    """r, z, n = the parts of x_t @ w_ih.T + bias_ih; with the same parts of h @ w_hh.T + bias_hh, r = gate(r + r'), z =
    gate(z + z'), n = cell(n + r * n'), and h = n + z * (h - n), with the activations gate and cell. Without
    `linear_before_reset`, n' is (r * h) @ w_hn.T + bias_hn, and n = cell(n + n'). Operands and results are those of
    lstm, without c. torch.gru; ONNX GRU."""

    name = "gru"
    gate_count = 3
    gate_activation = activation_attr("sigmoid", "of the gates r and z")
    cell_activation = activation_attr("tanh", "of the gate n")
    ih_scale = optional_parameter()
    hh_scale = optional_parameter()
    linear_before_reset = bool_attr(default=True, doc="r multiplies the product, as in torch, not the state before it")

    def activations(self) -> tuple[str, ...]:
        return self.gate_activation, self.cell_activation

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return _infer_square(self, *types)

    def reference(
        self,
        x: np.ndarray,
        w_ih: np.ndarray,
        w_hh: np.ndarray,
        bias_ih: np.ndarray | None,
        bias_hh: np.ndarray | None,
        h0: np.ndarray | None,
        lengths: np.ndarray | None,
        ih_scale: np.ndarray | None,
        hh_scale: np.ndarray | None,
    ) -> tuple[np.ndarray, ...]:
        act_gate, act_cell = self.functions()
        units = len(w_hh) // 3
        before, reset = (slice(0, 2 * units), slice(2 * units, None))

        def part(h: np.ndarray, gates: slice) -> np.ndarray:
            bias, scale = (None if each is None else each[gates] for each in (bias_hh, hh_scale))
            return self.times(h, w_hh[gates], bias, scale)

        def step(gates: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, ...]:
            r, z = (act_gate(gate) for gate in np.split(gates[:, before] + part(h, before), 2, axis=1))
            n = act_cell(gates[:, reset] + (r * part(h, reset) if self.linear_before_reset else part(r * h, reset)))
            return (self.settled(n + z * (h - n)),)

        return self.walk(x, self.times(x, w_ih, bias_ih, ih_scale, of_x=True), [_state(h0, x, units)], lengths, step)

    @staticmethod
    def samples() -> Sequence[Sample]:
        state, lengths = tensor("f32", 3, 9), np.array([2, 5, 0], np.int64)
        return [
            _sample(3, (5, 3, 7, 9), state, lengths, reverse=True),
            _sample(3, (1, 1, 33, 17)),
            _sample(3, (5, 3, 7, 9), state, lengths, linear_before_reset=False),
            _sample(3, (3, 8, 4, 40), clip=0.25, linear_before_reset=False),
            _sample(3, (4, 2, 3, 5), cell_activation="scaled_tanh", alphas=(0.0, 1.5), betas=(0.0, 0.5)),
            _of_codes(3, (5, 3, 7, 9), state, lengths),
            _of_codes(3, (3, 2, 8, 33), None, None, linear_before_reset=False),
            _of_codes(3, (3, 8, 4, 17), None, None, scale_of=BY_TENSOR, qmax=127),
            _of_codes(3, (5, 3, 7, 9), state, lengths, **_STATIC, reverse=True),
            _of_codes(3, (3, 2, 8, 33), None, None, **_STATIC, linear_before_reset=False),
        ]


class Rnn(Recurrent):
    """h = activation(x_t @ w_ih.T + bias_ih + h @ w_hh.T + bias_hh). Operands and results are those of lstm, without c.
    torch.rnn_tanh, rnn_relu; ONNX RNN."""

    name = "rnn"
    gate_count = 1
    ih_scale = optional_parameter()
    hh_scale = optional_parameter()
    activation = activation_attr("tanh", "of the new state")

    def activations(self) -> tuple[str, ...]:
        return (self.activation,)

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return _infer_square(self, *types)

    def reference(
        self,
        x: np.ndarray,
        w_ih: np.ndarray,
        w_hh: np.ndarray,
        bias_ih: np.ndarray | None,
        bias_hh: np.ndarray | None,
        h0: np.ndarray | None,
        lengths: np.ndarray | None,
        ih_scale: np.ndarray | None,
        hh_scale: np.ndarray | None,
    ) -> tuple[np.ndarray, ...]:
        [function] = self.functions()

        def step(gates: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, ...]:
            return (self.settled(function(gates + self.times(h, w_hh, bias_hh, hh_scale))),)

        return self.walk(
            x, self.times(x, w_ih, bias_ih, ih_scale, of_x=True), [_state(h0, x, len(w_hh))], lengths, step
        )

    @staticmethod
    def samples() -> Sequence[Sample]:
        shapes = ((2, 1, 3, 5), (1, 2, 1, 33), (3, 2, 4, 7), (3, 1, 2, 8), (2, 3, 2, 16))
        given = [_sample(1, (5, 3, 7, 9), tensor("f32", 3, 9), np.array([2, 5, 0], np.int64), reverse=True, clip=0.5)]
        given += [_of_codes(1, (4, 3, 9, 12), tensor("f32", 3, 12), None), _of_codes(1, (2, 1, 3, 33), None, None)]
        given += [_of_codes(1, (4, 3, 9, 12), tensor("f32", 3, 12), None, **_STATIC)]
        given += [_of_codes(1, (2, 1, 3, 33), None, None, **_STATIC, activation="relu")]
        return [
            *given,
            *(
                _sample(1, shapes[i % 5], activation=name, alphas=(0.5,), betas=(0.25,))
                for i, name in enumerate(ACTIVATIONS)
            ),
        ]


_STATIC: dict[str, Any] = {
    "scale_of": STATIC,
    "x_scale": 0.004,
    "x_zero_point": 125,
    "h_scale": 0.0078,
    "h_zero_point": 128,
}
"""The attributes of static samples."""


def _infer_square(op: Recurrent, *types: TensorType | None) -> tuple[TensorType, ...]:
    """The results of an op whose state has as many elements as it has units."""
    x, w_ih, w_hh, *more = types
    assert x is not None and w_ih is not None and w_hh is not None
    h = op.infer_states(x, w_ih, w_hh, *more)
    _check_columns(f"w_hh of {op.name}", w_hh, _size(w_hh.shape[0]) // op.gate_count)
    return tensor("f32", x.shape[0], *h.shape), h


def _sample(
    gates: int, sizes: tuple[int, int, int, int], *more: TensorType | np.ndarray | None, **attrs: Any
) -> Sample:
    """A sample with biases. sizes: T, N, I and H. more: the operands from h0 on."""
    steps, rows, depth, units = sizes
    weights = (tensor("f32", gates * units, depth), tensor("f32", gates * units, units))
    biases = (tensor("f32", gates * units),) * 2
    return Sample((tensor("f32", steps, rows, depth), *weights, *biases, *more), attrs, low=-0.5, high=0.5)


def _of_codes(
    gates: int, sizes: tuple[int, int, int, int], *more: TensorType | np.ndarray | None, **attrs: Any
) -> Sample:
    """Like `_sample`, with weights of codes."""
    found, rng = _sample(gates, sizes, *more, **attrs), np.random.default_rng(sizes[3])
    x, w_ih, w_hh, *others = found.operands
    codes = [
        rng.integers(-127, 128, type.sizes).astype(np.int8) for type in (w_ih, w_hh) if isinstance(type, TensorType)
    ]
    scales = [rng.uniform(0.001, 0.004, gates * sizes[3]).astype(np.float32) for _ in range(2)]
    return Sample((x, *codes, *others, *scales), attrs, low=-0.5, high=0.5)
