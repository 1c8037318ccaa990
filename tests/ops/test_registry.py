"""The table test: every op's declaration is complete, and its samples run through infer, reference and integer meaning."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qcompiler.dims import Dim
from qcompiler.opdef import OpDef, QuantKind, Sample, Trait, all_ops
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.qmath import dequantize, quantize
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import DType, TensorType, type_of

CASES = [(op, i) for op in all_ops() for i in range(len(op.samples()))]
IDS = [f"{op.name}-{i}" for op, i in CASES]


def arrays_of(sample: Sample, seed: int = 0) -> list[np.ndarray | None]:
    rng = np.random.default_rng(seed)
    return [
        operand if operand is None or isinstance(operand, np.ndarray)
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
    if op.quant.kind not in (QuantKind.FLOAT_ONLY, QuantKind.FIXED):
        assert op.integer is not None or {Trait.MOVES_DATA, Trait.UNARY} & op.traits


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_infer_agrees_with_reference(case: tuple[OpDef, int]) -> None:
    op, index = case
    sample = op.samples()[index]
    arrays, attrs = arrays_of(sample), op.complete_attrs(sample.attrs)
    types = op.infer_types([None if a is None else type_of(a) for a in arrays], attrs)
    results = op.run_reference(arrays, attrs)
    assert [(t.dtype.numpy, t.shape) for t in types] == [(r.dtype, r.shape) for r in results]


@pytest.mark.parametrize("case", [c for c in CASES if isinstance(c[0].samples()[c[1]].operands[0], TensorType)],
                         ids=[i for c, i in zip(CASES, IDS) if isinstance(c[0].samples()[c[1]].operands[0], TensorType)])
def test_symbolic_batch_agrees_with_concrete(case: tuple[OpDef, int]) -> None:
    op, index = case
    if op.name in ("reshape", "expand", "tile", "pad", "slice", "flip", "transpose", "concat", "gather", "gather_elements", "matmul"):
        pytest.skip("axis 0 of these samples is an axis that the attrs fix")
    sample = op.samples()[index]
    concrete = [None if o is None else type_of(o) if isinstance(o, np.ndarray) else o for o in sample.operands]
    if concrete[0].rank < 2 or any(t is not None and t.rank == concrete[0].rank and t.shape[0] != concrete[0].shape[0] for t in concrete[1:]):
        pytest.skip("no batch axis")
    size = concrete[0].shape[0]
    spatial = ("x", "y", "residual", "condition")
    symbolic = [
        t.with_shape((Dim.name("B"), *t.shape[1:])) if t is not None and op.spec(i).name in spatial and t.rank == concrete[0].rank
        and op.quant.kind is not QuantKind.WEIGHTED or i == 0 else t
        for i, t in enumerate(concrete)
    ]
    if op.quant.kind is QuantKind.WEIGHTED and len(concrete) > 3 and concrete[3] is not None:
        symbolic[3] = concrete[3].with_shape((Dim.name("B"), *concrete[3].shape[1:]))
    attrs = op.complete_attrs(sample.attrs)
    expected = op.infer_types(concrete, attrs)
    assert [t.bind({"B": size}) for t in op.infer_types(symbolic, attrs)] == list(expected)


@pytest.mark.parametrize("case", [c for c in CASES if c[0].integer is not None and c[0].family != "quantized"],
                         ids=[i for c, i in zip(CASES, IDS) if c[0].integer is not None and c[0].family != "quantized"])
def test_integer_meaning_is_the_rounded_real_meaning(case: tuple[OpDef, int]) -> None:
    """Codes differ by at most one from the real function of the dequantized operands: one rounding, in f32 instead of f64."""
    op, index = case
    sample = op.samples()[index]
    arrays, attrs = arrays_of(sample, seed=index + 1), op.complete_attrs(sample.attrs)
    shares = op.quant.kind is QuantKind.SHARES_INPUT
    quantized, types, real = [], [], []
    shared = None
    for position, array in enumerate(arrays):
        role = op.spec(position).role.value
        if array is None or role in ("parameter", "index"):
            quantized.append(array)
            types.append(None if array is None else type_of(array))
            real.append(array)
            continue
        if role == "bias":
            quantized.append(None)
            types.append(None)
            real.append(None)
            continue
        spec = QuantSpec(DType.I8, -127, 127, symmetric=True) if role == "weight" else QuantSpec()
        params = choose_qparams(array.min(), array.max(), spec) if shared is None or not shares else shared
        shared = params if shared is None else shared
        codes = quantize(array, params, spec.dtype)
        quantized.append(codes)
        types.append(TensorType(spec.dtype, array.shape, params))
        real.append(dequantize(codes, params).astype(np.float64))
    value = op.run_reference(real, attrs)[0]
    params = op.quant.fixed_params() if op.quant.kind is QuantKind.FIXED else shared if shares else choose_qparams(
        value.min(), value.max(), QuantSpec())
    out = TensorType(DType.U8, value.shape, params)
    got = op.integer(quantized, types, out, **attrs)
    wanted = quantize(value.astype(np.float32), params, DType.U8)
    assert got.dtype == np.uint8 and got.shape == value.shape
    assert np.abs(got.astype(int) - wanted.astype(int)).max(initial=0) <= 1
    assert math.isfinite(float(got.mean()))
