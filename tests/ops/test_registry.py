"""Every op's declaration is complete, and its samples run through infer, reference and integer meaning."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from qcompiler.dims import Dim
from qcompiler.errors import InputError, ShapeError
from qcompiler.opdef import OpDef, QuantKind, Role, Sample, Trait, all_ops, opdef
from qcompiler.quantization import qmath
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.qmath import dequantize, quantize
from qcompiler.quantization.spec import QuantSpec
from qcompiler.quantization.tables import build_table, codes
from qcompiler.types import MAX_ELEMENTS, DType, QuantParams, TensorType, tensor, type_of

CASES = [(op, i) for op in all_ops() for i in range(len(op.samples()))]
Case = tuple[OpDef, int]


def select(*, where: object) -> dict[str, object]:
    """The arguments of parametrize for the cases that `where` accepts."""
    chosen = [case for case in CASES if where(case[0])]
    return {"argnames": "case", "argvalues": chosen, "ids": [f"{op.name}-{i}" for op, i in chosen]}


def arrays_of(sample: Sample, seed: int = 0) -> list[np.ndarray | None]:
    rng = np.random.default_rng(seed)
    return [
        operand
        if operand is None or isinstance(operand, np.ndarray)
        else rng.uniform(sample.low, sample.high, operand.shape).astype(operand.dtype.numpy)
        for operand in sample.operands
    ]


@pytest.mark.parametrize("op", all_ops(), ids=lambda op: op.name)
def test_declaration_is_complete(op: OpDef) -> None:
    assert len(op.doc) > 4 and op.family and op.operands
    made_by_passes = op.name in ("lookup", "observe")
    assert made_by_passes or len(op.samples()) >= 5
    if op.quant.kind is QuantKind.FIXED:
        assert op.quant.fixed_params().scale[0] > 0
    assert (op.quant.weight_axis is not None) == (op.quant.kind is QuantKind.WEIGHTED)
    if op.quant.kind not in (QuantKind.FLOAT_ONLY, QuantKind.FIXED):
        assert op.integer is not None or {Trait.MOVES_DATA, Trait.UNARY} & op.traits


@pytest.mark.parametrize(**select(where=lambda op: True))
def test_infer_agrees_with_reference(case: Case) -> None:
    op, index = case
    sample = op.samples()[index]
    arrays, attrs = arrays_of(sample), op.complete_attrs(sample.attrs)
    types = op.infer_types([None if a is None else type_of(a) for a in arrays], attrs)
    results = op.run_reference(arrays, attrs)
    assert [(t.dtype.numpy, t.shape) for t in types] == [(r.dtype, r.shape) for r in results]


# symbolic sizes


def resized(
    types: list[TensorType | None], slots: frozenset[tuple[int, int]], size: Dim | int
) -> list[TensorType | None]:
    return [
        None if t is None else t.with_shape([size if (i, axis) in slots else s for axis, s in enumerate(t.shape)])
        for i, t in enumerate(types)
    ]


def sized_attrs(op: OpDef, attrs: dict, old: int, new: Dim | int) -> dict:
    """The attrs with the size `old` replaced in those of kind "shape"."""
    names = {spec.name for spec in op.attrs if spec.kind == "shape"}
    entry = str(new) if isinstance(new, Dim) else new
    return {
        n: tuple(entry if s == old else s for s in v) if n in names and v is not None else v for n, v in attrs.items()
    }


def ties(types: list[TensorType | None], axis: int) -> Iterator[frozenset[tuple[int, int]]]:
    """The sets of (operand, axis) that may have one size together with `axis` of operand 0: it alone, or with any
    operands that have the same size at the same place, counted from either end."""
    size, others = types[0].shape[axis], []
    for i, type in enumerate(types[1:], 1):
        if type is not None:
            others += [
                (i, a) for a in {axis, axis - types[0].rank + type.rank} if 0 <= a < type.rank and type.shape[a] == size
            ]
    for count in range(len(others) + 1):
        for chosen in itertools.combinations(others, count):
            yield frozenset({(0, axis), *chosen})


def check_symbolic_axis(op: OpDef, index: int, axis: int) -> bool:
    """Whether an axis of operand 0 may be symbolic. If so, checks that its types agree with the concrete ones for
    several sizes."""
    sample = op.samples()[index]
    types = [None if o is None else type_of(o) if isinstance(o, np.ndarray) else o.expressed() for o in sample.operands]
    attrs = op.complete_attrs(sample.attrs)
    size = types[0].shape[axis]
    least = max((s for s in attrs.get("stops", ()) if s < MAX_ELEMENTS), default=0)  # slice takes a stop to lie inside
    for slots in ties(types, axis):
        variants = [attrs] + (
            [sized_attrs(op, attrs, size, Dim.name("B"))] if attrs != sized_attrs(op, attrs, size, -5) else []
        )
        for symbolic_attrs in variants:
            try:
                symbolic = op.infer_types(resized(types, slots, Dim.name("B")), op.complete_attrs(symbolic_attrs))
            except ShapeError:
                continue
            tried = 0
            for other in (size, 2 * size, 3 * size, 30 * size):
                given = attrs if symbolic_attrs is attrs else sized_attrs(op, attrs, size, other)
                try:
                    concrete = op.infer_types(resized(types, slots, other), given)
                except ShapeError:
                    continue
                if other >= least:
                    assert [t.bind({"B": other}) for t in symbolic] == list(concrete)
                    tried += 1
            assert tried, "accepted as a symbol, refused for every size"
            return True
    return False


@pytest.mark.parametrize("op", [op for op in all_ops() if op.samples()], ids=lambda op: op.name)
def test_symbolic_sizes_agree_with_concrete_ones(op: OpDef) -> None:
    """Where infer takes a symbol for an axis of a sample, it means what it means for ints. Some axis must take one."""
    accepted = 0
    for index, sample in enumerate(op.samples()):
        first = sample.operands[0]
        for axis in range(first.ndim if isinstance(first, np.ndarray) else first.rank):
            accepted += check_symbolic_axis(op, index, axis)
    assert accepted


# meaning on codes


class Quantized:
    """The operands of a sample as codes, with the real numbers that they stand for in float64."""

    def __init__(self, op: OpDef, arrays: list[np.ndarray | None], per_channel: bool) -> None:
        self.op, self.per_channel = op, per_channel
        count = max(len(arrays), sum(1 for spec in op.operands if not spec.variadic))
        self.codes: list[np.ndarray | None] = [None] * count
        self.types: list[TensorType | None] = [None] * count
        self.real: list[np.ndarray | None] = [None] * count
        self.shared: QuantParams | None = None
        for position, array in enumerate(arrays):
            if array is not None:
                self._add(position, array, op.spec(position).role)

    def _add(self, position: int, array: np.ndarray, role: Role) -> None:
        if role in (Role.PARAMETER, Role.INDEX):
            self.codes[position], self.types[position], self.real[position] = array, type_of(array), array
            return
        quant, dtype = self._params(array, role)
        self.codes[position] = quantize(array, quant, dtype)
        self.types[position] = TensorType(dtype, array.shape, quant)
        centered = self.codes[position].astype(np.float64) - quant.along(array.ndim)[1]
        self.real[position] = centered * quant.along(array.ndim)[0].astype(np.float64)

    def _params(self, array: np.ndarray, role: Role) -> tuple[QuantParams, DType]:
        if role is Role.WEIGHT:
            spec, axis = QuantSpec(DType.I8, -127, 127, symmetric=True), self.op.quant.weight_axis
            if not self.per_channel:
                return choose_qparams(array.min(), array.max(), spec), DType.I8
            others = tuple(i for i in range(array.ndim) if i != axis)
            return choose_qparams(array.min(others), array.max(others), spec, axis), DType.I8
        if role is Role.BIAS:
            weight = self.types[1].quant.scales
            scale = qmath.multiplier(
                self.types[0].quant.scales, np.tile(weight, array.size // weight.size) if weight.size > 1 else weight
            )
            return QuantParams(
                tuple(map(float, scale)), (0,) * scale.size, 0 if scale.size > 1 else None, DType.I32.min, DType.I32.max
            ), DType.I32
        if self.shared is None or self.op.quant.kind is not QuantKind.SHARES_INPUT:
            self.shared = choose_qparams(array.min(), array.max(), QuantSpec())
        return self.shared, DType.U8

    def result_type(self, value: np.ndarray) -> TensorType:
        kind = self.op.quant.kind
        params = (
            self.op.quant.fixed_params()
            if kind is QuantKind.FIXED
            else self.shared
            if kind is QuantKind.SHARES_INPUT
            else choose_qparams(value.min(), value.max(), QuantSpec())
        )
        return TensorType(DType.U8, value.shape, params)


def exact_codes(value: np.ndarray, out: TensorType) -> np.ndarray:
    """Where the real value lies among the codes before rounding, in float64."""
    quant = out.quant
    return np.clip(value / np.float64(quant.scale[0]) + quant.zero_point[0], quant.qmin, quant.qmax)


@pytest.mark.parametrize("per_channel", [False, True], ids=["per_tensor", "per_channel"])
@pytest.mark.parametrize(
    **select(where=lambda op: op.integer is not None and not op.always_codes and op.family != "quantized")
)
def test_integer_meaning_is_the_rounded_real_meaning(case: Case, per_channel: bool) -> None:
    """A code is at most half a step from the real function of the dequantized operands, taken in float64, plus the f32
    roundings (each 2^-24 of at most a few hundred steps: 2^-9 is generous), plus softmax's table error of 1/8."""
    op, index = case
    if per_channel and op.quant.kind is not QuantKind.WEIGHTED:
        return
    sample = op.samples()[index]
    given = Quantized(op, arrays_of(sample, seed=index + 1), per_channel)
    attrs = op.complete_attrs(sample.attrs)
    value = np.asarray(op.run_reference(given.real, attrs)[0], np.float64)
    out = given.result_type(value)
    got = op.run_integer(given.codes, given.types, out, attrs)
    assert got.dtype == np.uint8 and got.shape == value.shape
    slack = 2.0**-3 if op.name == "softmax" else 2.0**-9
    assert np.abs(got - exact_codes(value, out)).max(initial=0) <= 0.5 + slack


@pytest.mark.parametrize(
    **select(where=lambda op: Trait.MOVES_DATA in op.traits and op.integer is None and op.family != "quantized")
)
def test_moving_codes_moves_the_real_values(case: Case) -> None:
    op, index = case
    sample = op.samples()[index]
    given = Quantized(op, arrays_of(sample, seed=index), False)
    attrs = op.complete_attrs(sample.attrs)
    moved = op.run_reference(given.codes, attrs)[0]
    real = [dequantize(c, t.quant) if t is not None and t.is_quantized else c for c, t in zip(given.codes, given.types)]
    assert np.array_equal(dequantize(moved, given.shared), op.run_reference(real, attrs)[0])


@pytest.mark.parametrize("op", [op for op in all_ops() if Trait.UNARY in op.traits], ids=lambda op: op.name)
def test_a_table_is_the_function_rounded_once(op: OpDef) -> None:
    sample = op.samples()[0]
    attrs = op.complete_attrs(sample.attrs)
    source = TensorType(DType.U8, (4,), choose_qparams(sample.low, sample.high, QuantSpec()))
    real = (codes(source) - source.quant.zero_point[0]) * np.float64(source.quant.scale[0])
    value = np.asarray(op.run_reference([real], attrs)[0], np.float64)
    finite = np.isfinite(value)
    out = TensorType(
        DType.U8,
        (4,),
        op.quant.fixed_params()
        if op.quant.fixed
        else choose_qparams(value[finite].min(), value[finite].max(), QuantSpec()),
    )
    table = build_table(lambda x: op.run_reference([x], attrs)[0], source, out)
    assert np.abs(table - exact_codes(value, out))[finite].max() <= 0.5 + 1e-9
    assert (table[np.isnan(value)] == out.quant.qmin).all()


# complaints


@pytest.mark.parametrize("op", [op for op in all_ops() if op.samples()], ids=lambda op: op.name)
def test_no_sizes_make_infer_fail_in_python(op: OpDef) -> None:
    """Operands of odd ranks and sizes give a type or a ShapeError, and nothing else."""
    sample = op.samples()[0]
    types = [None if o is None else type_of(o) if isinstance(o, np.ndarray) else o.expressed() for o in sample.operands]
    attrs = op.complete_attrs(sample.attrs)
    for position, shape in itertools.product(range(len(types)), [(), (0,), (1,), (3, 0), (2, 3, 4, 5, 6, 7)]):
        if types[position] is None:
            continue
        odd = [t.with_shape(shape) if i == position else t for i, t in enumerate(types)]
        try:
            inferred = op.infer_types(odd, attrs)
        except ShapeError:
            continue
        arrays = [None if t is None else np.zeros(t.shape, t.dtype.numpy) for t in odd]
        try:
            results = op.run_reference(arrays, attrs)
        except InputError:  # an index of an empty axis
            continue
        assert [r.shape for r in results] == [t.shape for t in inferred]


@pytest.mark.parametrize("op", ["mean", "sum", "max"])
@pytest.mark.parametrize("axes", [(), (1, 1), (0, 1, 0)])
def test_reduced_axes_are_given_once(op: str, axes: tuple[int, ...]) -> None:
    declared = opdef(op)
    with pytest.raises(ShapeError, match="one axis or more, each once"):
        declared.infer_types([tensor("f32", 2, 3)], declared.complete_attrs({"axes": axes}))


@pytest.mark.parametrize(
    "dtype, legal, illegal",
    [
        ("u8", (0, 255), (-1, 256, 0.5, np.inf, np.nan)),
        ("i8", (-128, 127), (-129, 128)),
        ("i64", (-1, 2**31), (1e30,)),
        ("bool", (0, 1), (2, -1)),
    ],
)
def test_the_value_of_pad_is_an_element(dtype: str, legal: tuple[float, ...], illegal: tuple[float, ...]) -> None:
    pad, type = opdef("pad"), tensor(dtype, 2)
    for value in legal:
        attrs = pad.complete_attrs({"padding": ((1, 2),), "value": float(value)})
        assert pad.infer_types([type], attrs)[0].shape == (5,)
        [padded] = pad.run_reference([np.zeros(2, type.dtype.numpy)], attrs)
        assert padded.tolist() == [value, 0, 0, value, value] and padded.dtype == type.dtype.numpy
    for value in illegal:
        attrs = pad.complete_attrs({"padding": ((1, 2),), "value": float(value)})
        with pytest.raises(ShapeError, match="value of pad"):
            pad.infer_types([type], attrs)
            pad.run_reference([np.zeros(2, type.dtype.numpy)], attrs)


def test_order_does_not_depend_on_what_is_imported_first() -> None:
    import subprocess
    import sys

    orders = []
    for first in ("qcompiler.opdef", "qcompiler.ops.reduce", "qcompiler.ops.norm"):
        program = f"import {first}; from qcompiler.opdef import all_ops; print(*(op.name for op in all_ops()))"
        orders.append(
            subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        )
    assert orders[0] == orders[1] == orders[2]
