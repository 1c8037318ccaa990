"""Weights of layers that are quantized dynamically: which can have codes, and what the codes are."""

from __future__ import annotations

import numpy as np

from qcompiler.ir import Const
from qcompiler.quantization import qmath
from qcompiler.quantization.observers import weight_params
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import QuantParams


def why_no_codes(weight: Const) -> str | None:
    """Why a weight, f32 [outputs, inputs], can't be quantized, or None."""
    inputs = weight.data.shape[1]
    if inputs > qmath.MOST_DYNAMIC_TERMS:
        return f"its i32 accumulator could overflow: it has {inputs} inputs, of at most {qmath.MOST_DYNAMIC_TERMS}"
    if not weight.data.size:
        return "its weight is empty"
    return None if np.isfinite(weight.data).all() else "its weight is not finite"


def codes_of(weight: Const, spec: QuantSpec) -> tuple[np.ndarray, QuantParams]:
    """The codes of a weight [outputs, inputs] and their parameters: a scale for each output, or one."""
    quant = weight_params(weight.data, spec, 0 if spec.per_channel else None, f"%{weight.name}")
    return qmath.quantize(weight.data, quant, spec.dtype), quant
