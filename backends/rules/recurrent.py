"""Lowers lstm, gru and rnn: the product of x with w_ih over all steps, then the kernel that walks the steps.

Weights of codes make both products integer ones. x is quantized before its product, and states by the walk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompiler.backends.kernel_ir.definition import Arguments, Memory
from qcompiler.backends.kernel_ir.kernel_key import A, KernelKey
from qcompiler.backends.kernels import conv as products
from qcompiler.backends.kernels import convert
from qcompiler.backends.kernels import recurrent as kernels
from qcompiler.backends.kernels.code_range import CodeRange
from qcompiler.backends.kernels.epilogue import Clamp
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.packing import pack_codes
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.tiles import product_tile
from qcompiler.backends.lowering.views import TensorView, row_major_strides
from qcompiler.backends.program.recorded import BufferHandle
from qcompiler.backends.rules.dynamic import integer_product, quantized
from qcompiler.backends.rules.gemm import Distances, ProductCall
from qcompiler.backends.rules.linear import window_of_rows
from qcompiler.backends.rules.weights import Weight
from qcompiler.backends.target import Target
from qcompiler.dims import DimLike
from qcompiler.ir import Const, Node, Value
from qcompiler.ops.recurrent import BY_ROW, Gru, Lstm, Recurrent, Rnn

_REGISTERS_LEFT = 4
"""Registers of a tile that hold neither sums nor weights: elements of rows, and weights that wait for their product."""
_MOST_ROWS = 6
"""The most rows of a tile. Batches of fewer rows are computed one row at a time."""


@dataclass(frozen=True)
class Packing:
    """The tile of a product with packed weights: mr rows by nv registers of units for each of its gates."""

    mr: int
    nv: int
    nr: int

    @staticmethod
    def of(target: Target, gates: int, units: int, rows: DimLike) -> Packing:
        """The tile for the product with the most gates. A panel is not wider than all units. A quarter of the
        registers hold one row, so that its sums alone hide the latency of an fma."""
        lanes = target.f32_lanes
        nv = max(1, min(target.register_count // 4 // gates, -(-units // lanes)))
        weights = 0 if target.multiplies_memory else nv * gates
        mr = min(_MOST_ROWS, (target.register_count - weights - _REGISTERS_LEFT) // (nv * gates))
        return Packing(max(1, min(mr, rows) if isinstance(rows, int) else mr), nv, nv * lanes)

    def weights(
        self, s: NodeLowering, weight: Weight, bias: Weight | None, gates: slice, of: int
    ) -> kernels.Weights[Memory | None]:
        """Pack the weights [of * units, depth] and the bias of some gates."""
        units, depth = weight.shape[0] // of, weight.shape[1]
        if bias is None:
            bias = Weight(np.zeros(of * units, np.float32), None, f"no bias of {of * units}")
        name = f"gates {gates.start} to {gates.stop} of {of}"
        data = weight.taken(name, lambda w: w.reshape(of, units, depth)[gates].transpose(1, 2, 0))
        start = bias.taken(name, lambda v: v.reshape(of, units)[gates].T)
        return kernels.Weights[Memory | None](data.packed(s, self.nr), start.packed(s, self.nr), None, None)

    def codes(self, s: NodeLowering, op: Recurrent, gates: slice) -> kernels.Weights[Memory | None]:
        """Pack the codes of the product with the state: those of some gates."""
        assert isinstance(op.w_hh, Const) and isinstance(op.hh_scale, Const)
        of, units, depth = op.gate_count, op.units, _columns(op.w_hh)
        panels, count, role = -(-units // self.nr), gates.stop - gates.start, f"codes of {gates.start} to {gates.stop}"

        def by_panels(values: np.ndarray) -> np.ndarray:
            """[of * units, ...] as [panels * gates * nr, ...], with zeros for units that pad a panel."""
            rest = values.shape[1:]
            found = np.zeros((count, panels * self.nr, *rest), values.dtype)
            found[:, :units] = values.reshape(of, units, *rest)[gates]
            return np.moveaxis(found.reshape(count, panels, self.nr, *rest), 1, 0).reshape(-1, *rest)

        def data() -> np.ndarray:
            packed = np.zeros((panels, -(-depth // 4), count * self.nr, 4), np.int8)
            pack_codes(packed, by_panels(s.constant(op.w_hh)), np.arange(count * self.nr))
            return packed

        def bias() -> np.ndarray:
            given = np.zeros(of * units, np.float32) if op.bias_hh is None else s.constant(op.bias_hh)
            return by_panels(given)

        return kernels.Weights(
            s.packed(f"{role}, {self.nr}", data),
            s.packed(f"bias, {role}, {self.nr}", bias),
            s.packed(f"sums, {role}, {self.nr}", lambda: by_panels(s.constant(op.w_hh).sum(axis=1, dtype=np.int32))),
            s.packed(f"scales, {role}, {self.nr}", lambda: by_panels(s.constant(op.hh_scale))),
        )


def _columns(weight: Const) -> int:
    return int(weight.data.shape[1])


def _has_pairs(s: NodeLowering, op: Recurrent) -> bool:
    """Whether sums of the state's codes are exact where products are added in pairs."""
    target = s.target

    def is_exact() -> np.ndarray:
        weights = s.constant(op.w_hh)
        padded = np.pad(weights, ((0, 0), (0, -weights.shape[1] % 4)))
        return np.array(target.pairwise_dot_is_exact(padded, op.qmax))

    return bool(target.has_pairwise_dot and s.memo("pairs", is_exact).item())


@dataclass(frozen=True)
class _Layer:
    """What the three rules share: the packing, and the arguments of the walk and of the activations."""

    packing: Packing
    walk: kernels.Walk[Memory | None, int]
    activations: kernels.Activations[float]


def _hidden_weights(s: NodeLowering, op: Recurrent, layer: _Layer, gates: slice) -> kernels.Weights[Memory | None]:
    """The packed weights of some gates of the product with the state."""
    if op.hh_scale is not None:
        return layer.packing.codes(s, op, gates)
    bias = None if op.bias_hh is None else Weight.of(s, op.bias_hh)
    return layer.packing.weights(s, Weight.of(s, op.w_hh), bias, gates, op.gate_count)


def _inputs(s: NodeLowering, op: Recurrent) -> BufferHandle | None:
    """The products of all steps of x, with their bias: f32 [steps, rows, gates * units]. None if there are none."""
    if 0 in s.view(op.x).shape[:2]:
        return None
    if op.ih_scale is not None:
        return _integer_inputs(s, op)
    x, weight = s.row_major(op.x), Weight.of(s, op.w_ih)
    bias = Weight(np.zeros(weight.shape[0], np.float32), None, f"no bias of {weight.shape[0]}")
    if op.bias_ih is not None:
        bias = Weight.of(s, op.bias_ih)
    (steps, rows, depth), outputs = x.shape, weight.shape[0]
    inputs = s.scratch(steps * rows * outputs * 4, "inputs")
    declared = op.x.type.shape[0] * op.x.type.shape[1]  # the same tile for all bindings of symbolic sizes
    tile = product_tile(s.target, False, declared, outputs, depth * 4, depth)
    window = window_of_rows(s, steps * rows, tile, depth, depth, Distances(depth * 4, outputs * 4))
    product = ProductCall(window, tile, x, None, inputs, weight, bias, slice(0, outputs))
    arguments = product.arguments(
        s, window.rows.stored(s), weight.packed(s, tile.nr), bias.packed(s, tile.nr), window.taps, 1, 4
    )
    s.call(
        products.conv_f32(mr=tile.mr, nv=tile.nv, residual=False),
        products.ConvF32(product=arguments, clamp=Clamp(low=-math.inf, high=math.inf), streams=0),
        macs=window.products * outputs,
        bytes=4 * (outputs * depth + x.elements + steps * rows * outputs),
    )
    return inputs


def _integer_inputs(s: NodeLowering, op: Recurrent) -> BufferHandle:
    """Like `_inputs`, of codes."""
    assert isinstance(op.w_ih, Const) and isinstance(op.ih_scale, Const)
    x, weight, scales, bias = s.row_major(op.x), Weight.of(s, op.w_ih), op.ih_scale, op.bias_ih
    (steps, rows, _), outputs = x.shape, weight.shape[0]
    count = steps * rows
    inputs = s.scratch(count * outputs * 4, "inputs")
    if op.is_static:
        codes, records = _static_codes(s, op, x)
    else:
        codes, records = quantized(s, x, by_row=op.scale_of == BY_ROW, qmin=0, qmax=op.qmax)
    integer_product(
        s,
        codes,
        records,
        inputs,
        weight,
        lambda: s.constant(scales),
        None if bias is None else lambda: s.constant(bias),
        by_row=op.scale_of == BY_ROW,
        highest=op.qmax,
    )
    return inputs


def _static_codes(s: NodeLowering, op: Recurrent, x: TensorView) -> tuple[TensorView, TensorView]:
    """Like `quantized`, by the parameters that the op gives."""
    (steps, rows, depth), params = x.shape, op.x_params()
    codes = s.scratch(x.elements, "codes of x")
    zero = params.zero_point[0]
    bounds = CodeRange(zero=zero, low=float(params.qmin - zero), high=float(params.qmax - zero))
    arguments = convert.Quantize(x=x, y=codes, count=x.elements, scale=params.scale[0], codes=bounds)
    s.call(convert.quantize_flat(to="u8"), arguments, bytes=5 * x.elements)

    def record() -> np.ndarray:
        scale_bits = params.scales.astype(np.float32).view(np.int32)
        return np.array([[scale_bits.item(), zero]], np.int32)

    shape = (steps * rows, depth)
    return (
        TensorView(codes, np.dtype(np.uint8), shape, row_major_strides(shape, 1)),
        TensorView(s.packed("record of x", record), np.dtype(np.int32), (1, 2), row_major_strides((1, 2), 4)),
    )


def _state(s: NodeLowering, value: Value | None, rows: int, size: int) -> Memory:
    """A first state [rows, size], zeros where it is absent."""
    if value is not None:
        return s.row_major(value)
    s.check_table(rows * size, 4)
    return s.table(zeros, rows, size)


def zeros(rows: int, size: int) -> np.ndarray:
    """f32 zeros [rows, size]."""
    return np.zeros((rows, size), np.float32)


def _layer(s: NodeLowering, op: Recurrent, gates: int, outputs: int) -> _Layer:
    """Append the product of x. gates: of the product with the most gates; outputs: elements of a state."""
    steps, rows, _ = s.view(op.x).shape
    packing = Packing.of(s.target, gates, op.units, op.x.type.shape[1])
    parameters, of_codes = op.parameters(), op.hh_scale is not None
    return _Layer(
        packing,
        kernels.Walk(
            inputs=_inputs(s, op),
            lengths=None if op.lengths is None else s.row_major(op.lengths),
            h0=_state(s, op.h0, rows, outputs),
            y=s.result(0),
            h=s.result(1),
            states=s.scratch(2 * rows * outputs * 4, "states"),
            sums=s.scratch(rows * gates * packing.nr * 4, "sums"),
            codes=s.scratch(rows * -(-max(outputs, op.units) // 4) * 4, "codes") if of_codes else None,
            records=s.scratch(rows * kernels.RECORD_BYTES, "records of states") if of_codes else None,
            steps=steps,
            rows=rows,
            units=op.units,
            first=steps - 1 if op.reverse else 0,
            stride=-1 if op.reverse else 1,
        ),
        kernels.Activations(
            alphas=tuple(alpha for alpha, _ in parameters),
            betas=tuple(beta for _, beta in parameters),
            clip=op.clip or 0.0,
            qmax=float(op.qmax),
            states=_state_codes(op),
        ),
    )


def _state_codes(op: Recurrent) -> kernels.StateCodes[float]:
    """The static codes of the states."""
    h, c = op.h_params(), op.c_params()
    zero = h.zero_point[0]
    return kernels.StateCodes(
        h=h.scale[0], zero=float(zero), low=float(h.qmin - zero), high=float(h.qmax - zero), c=c.scale[0]
    )


def _codes(s: NodeLowering, op: Recurrent) -> Any:
    """The static arguments of weights that are codes."""
    return {} if op.hh_scale is None else {"codes": op.scale_of, "pairs": _has_pairs(s, op)}


def _why_not_constant(node: Node, target: Target) -> str | None:
    """Why no kernel serves a node whose weights are codes, or None."""
    op = Recurrent.of(node)
    if op is None or op.ih_scale is None:
        return None
    values = (op.w_ih, op.w_hh, op.ih_scale, op.hh_scale, op.bias_ih, op.bias_hh)
    return None if all(isinstance(value, Const | None) for value in values) else "codes and scales are not constant"


def _run(s: NodeLowering, op: Recurrent, kernel: KernelKey[A], arguments: Arguments[A]) -> None:
    """Append the call that walks the steps."""
    (steps, rows, _), weights = s.view(op.x).shape, math.prod(s.view(op.w_hh).shape)
    width = 4 if op.hh_scale is None else 1
    nbytes = steps * (width * weights + 4 * rows * op.w_hh.type.sizes[0])
    s.call(kernel, arguments, macs=steps * rows * weights, bytes=nbytes)


@lowers("lstm", unless=_why_not_constant)
def lstm(s: NodeLowering) -> None:
    op = Lstm(s.node)
    rows, units, outputs = s.view(op.x).shape[1], op.units, s.result(1).shape[1]
    layer = _layer(s, op, 4, outputs)
    none = kernels.Weights[Memory | None](None, None, None, None)
    projection = none if op.w_hr is None else layer.packing.weights(s, Weight.of(s, op.w_hr), None, slice(0, 1), 1)
    kernel = kernels.lstm(
        mr=layer.packing.mr,
        nv=layer.packing.nv,
        functions=(op.gate_activation, op.cell_activation, op.output_activation),
        lengths=op.lengths is not None,
        peephole=op.peephole is not None,
        projects=op.w_hr is not None,
        input_forget=op.input_forget,
        clips=op.clip is not None,
        **_codes(s, op),
    )
    arguments = kernels.Lstm(
        walk=layer.walk,
        weights=_hidden_weights(s, op, layer, slice(0, 4)),
        c0=_state(s, op.c0, rows, units),
        c=s.result(2),
        peephole=None if op.peephole is None else s.row_major(op.peephole),
        outputs=outputs,
        projection=projection,
        hidden=None if op.w_hr is None else s.scratch(rows * units * 4, "hidden"),
        activations=layer.activations,
    )
    _run(s, op, kernel, arguments)


@lowers("gru", unless=_why_not_constant)
def gru(s: NodeLowering) -> None:
    op = Gru(s.node)
    rows, units, linear = s.view(op.x).shape[1], op.units, op.linear_before_reset
    layer = _layer(s, op, 3 if linear else 2, units)
    none = kernels.Weights[Memory | None](None, None, None, None)
    kernel = kernels.gru(
        mr=layer.packing.mr,
        nv=layer.packing.nv,
        functions=(op.gate_activation, op.cell_activation),
        lengths=op.lengths is not None,
        linear_before_reset=linear,
        clips=op.clip is not None,
        **_codes(s, op),
    )
    arguments = kernels.Gru(
        walk=layer.walk,
        weights=_hidden_weights(s, op, layer, slice(0, 3 if linear else 2)),
        candidate=none if linear else _hidden_weights(s, op, layer, slice(2, 3)),
        updates=None if linear else s.scratch(rows * units * 4, "updates"),
        resets=None if linear else s.scratch(rows * units * 4, "resets"),
        activations=layer.activations,
    )
    _run(s, op, kernel, arguments)


@lowers("rnn", unless=_why_not_constant)
def rnn(s: NodeLowering) -> None:
    op = Rnn(s.node)
    layer = _layer(s, op, 1, op.units)
    kernel = kernels.rnn(
        mr=layer.packing.mr,
        nv=layer.packing.nv,
        functions=(op.activation,),
        lengths=op.lengths is not None,
        clips=op.clip is not None,
        **_codes(s, op),
    )
    arguments = kernels.Rnn(
        walk=layer.walk, weights=_hidden_weights(s, op, layer, slice(0, 1)), activations=layer.activations
    )
    _run(s, op, kernel, arguments)
