"""Tables as ONNX: as the function that they hold, else as a Gather from the table itself."""

from __future__ import annotations

import functools

import numpy as np

from qcompiler.export.onnx.builder import ELEMENTS
from qcompiler.export.onnx.node import WRITERS, NodeWriter, Refusal
from qcompiler.interpreter import unary_function
from qcompiler.ir import Const
from qcompiler.opdef import REQUIRED, OpDef, Trait, all_ops
from qcompiler.quantization.tables import build_table, interpolation_bits, interpolation_shift
from qcompiler.types import DType, TensorType

_INT32, _INT64 = 6, 7


@functools.cache
def known_functions() -> tuple[OpDef, ...]:
    """qcompiler's ops of one element that need no attributes, in the order of the registry."""
    return tuple(
        op
        for op in all_ops()
        if Trait.UNARY in op.traits
        and not op.is_own
        and len(op.operands) == 1
        and op.name in WRITERS
        and all(spec.default is not REQUIRED for spec in op.attrs)
    )


@functools.lru_cache(maxsize=256)
def function_of(table: bytes, source: TensorType, out: TensorType) -> OpDef | None:
    """The first op that gives this table with its default attributes, if there is one."""
    for op in known_functions():
        made = build_table(unary_function(op, op.complete_attrs({})), source, out)
        if made.tobytes() == table:
            return op
    return None


def write_lookup(w: NodeWriter) -> str:
    """The codes of a lookup."""
    x, value = w.value(0), w.node.result
    table = w.value(1)
    if not isinstance(table, Const):
        raise Refusal("a table that is no constant")
    if x.type.dtype is DType.I16:
        return _interpolated(w, table.data)
    plain = TensorType(x.type.dtype, (), x.type.quant), TensorType(value.type.dtype, (), value.type.quant)
    op = function_of(table.data.tobytes(), *plain)
    if op is not None:
        w.op, w.operands = op.from_attrs(op.complete_attrs({})), [x]
        made = WRITERS[op.name](w)
        assert isinstance(made, str)
        return w.model.quantized(w.model.named(made, value), value)
    index = w.emit("Cast", w.model.names[id(x)], to=_INT64)
    if x.type.dtype.min:
        index = w.emit("Add", index, w.constant(np.int64(-x.type.dtype.min), "first"))
    return w.emit("Gather", w.model.names[id(table)], index, axis=0)


def _interpolated(w: NodeWriter, knots: np.ndarray) -> str:
    """The formula of `qcompiler/quantization/tables.py` on i32, which holds every number of it. OpenVINO computes i64
    as i32, and remainders in f32: so remainders by powers of two are written as masks."""

    def number(value: int) -> str:
        return w.constant(np.int32(value), "number")

    shift = interpolation_shift(len(knots))
    bits, out = interpolation_bits(shift), w.node.result.type
    place = w.emit("Add", w.emit("Cast", w.model.names[id(w.value(0))], to=_INT32), number(2**15))
    index = w.emit("Div", place, number(2**shift))
    fraction = w.emit("BitwiseAnd", place, number(2**shift - 1))
    first, second = (
        w.emit("Gather", w.model.names[id(w.value(1))], at, axis=0) for at in (index, w.emit("Add", index, number(1)))
    )
    rise = w.emit("Mul", w.emit("Sub", second, first), fraction)
    total = w.emit("Add", w.emit("Mul", first, number(2**shift)), rise)
    floored = w.emit("BitwiseAnd", w.emit("Add", total, number(2 ** (bits - 1))), number(-(2**bits)))
    rounded = w.emit("Div", floored, number(2**bits))
    clamped = w.emit("Min", w.emit("Max", rounded, number(out.params.qmin)), number(out.params.qmax))
    return w.emit("Cast", clamped, to=int(ELEMENTS[out.dtype]))
