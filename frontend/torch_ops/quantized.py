"""The ops of torch's `quantized_decomposed` namespace, of which PT2E-converted programs are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qcompiler.errors import TraceError
from qcompiler.frontend.recorder import Traced, required_trace
from qcompiler.frontend.torch_ops.table import Meaning, element_type, meaning, unsupported
from qcompiler.ir import Const, Value
from qcompiler.types import DType, QuantParams, TensorType


def _decomposed(*names: str) -> Callable[[Meaning], Meaning]:
    return meaning(*(f"quantized_decomposed.{name}" for name in names))


@_decomposed("quantize_per_tensor.default", "quantize_per_tensor.tensor", "quantize_per_tensor.tensor2")
def _quantize_per_tensor(x: Any, scale: Any, zero_point: Any, qmin: Any, qmax: Any, dtype: Any) -> Any:
    return _quantize(x, _params(scale, zero_point, None, qmin, qmax), dtype)


@_decomposed("quantize_per_channel.default")
def _quantize_per_channel(x: Any, scale: Any, zero_point: Any, axis: int, qmin: int, qmax: int, dtype: Any) -> Any:
    return _quantize(x, _params(scale, zero_point, axis % x.ndim, qmin, qmax), dtype)


@_decomposed("dequantize_per_tensor.default", "dequantize_per_tensor.tensor", "dequantize_per_tensor.tensor2")
def _dequantize_per_tensor(
    x: Any, scale: Any, zero_point: Any, qmin: Any, qmax: Any, dtype: Any, *, out_dtype: Any = None
) -> Any:
    return _dequantize(x, _params(scale, zero_point, None, qmin, qmax), dtype, out_dtype)


@_decomposed("dequantize_per_channel.default")
def _dequantize_per_channel(
    x: Any, scale: Any, zero_point: Any, axis: int, qmin: int, qmax: int, dtype: Any, *, out_dtype: Any = None
) -> Any:
    return _dequantize(x, _params(scale, zero_point, axis % x.ndim, qmin, qmax), dtype, out_dtype)


def _params(scale: Any, zero_point: Any, axis: int | None, qmin: Any, qmax: Any) -> QuantParams:
    scales, points = _numbers(scale, np.float32), _numbers(0 if zero_point is None else zero_point, np.int64)
    points = np.broadcast_to(points, scales.shape)
    low, high = int(_numbers(qmin, np.int64)[0]), int(_numbers(qmax, np.int64)[0])
    return QuantParams(tuple(map(float, scales)), tuple(map(int, points)), axis, low, high)


def _numbers(given: Any, dtype: type) -> np.ndarray:
    """A scale, zero point or bound, which may be a number or a constant tensor, as an array of rank 1."""
    if isinstance(given, Traced):
        if not isinstance(given.value, Const):
            raise unsupported("quantization parameters that are computed from data are not supported")
        given = given.value.data
    return np.asarray(given, dtype).reshape(-1)


def _quantize(x: Any, params: QuantParams, dtype: Any) -> Any:
    trace, element = required_trace("import"), _element(dtype)
    _check_real(x)
    trace.graph.stage = "qdq"
    type = TensorType(element, x.value.type.shape, params)
    return trace.wrap(trace.graph.create("quantize", [x.value], types=type, loc=trace.loc).result)


def _dequantize(x: Any, params: QuantParams, dtype: Any, out_dtype: Any) -> Any:
    trace, element = required_trace("import"), _element(dtype)
    if out_dtype is not None and str(out_dtype) != "torch.float32":
        raise unsupported(f"dequantize to {out_dtype} is not supported")
    value: Value = x.value
    if isinstance(value, Const) and not value.type.is_quantized:
        codes = np.ascontiguousarray(value.data.astype(element.numpy))
        value = trace.graph.add_const(f"{value.name}.q", codes, TensorType(element, codes.shape, params))
    if not value.type.is_quantized:
        raise unsupported("dequantize of integers that no quantize makes is not supported")
    if (value.type.dtype, value.type.params) != (element, params):
        raise unsupported("dequantize with other parameters than the codes were made with is not supported")
    trace.graph.stage = "qdq"
    return trace.emit("dequantize", (trace.wrap(value),))


def _element(dtype: Any) -> DType:
    found = element_type(dtype)
    if found not in (DType.U8, DType.I8, DType.I16, DType.I32):
        raise unsupported(f"codes of {dtype} are not supported")
    return found


def _check_real(x: Any) -> None:
    if not isinstance(x, Traced) or x.value.type.dtype is not DType.F32 or x.value.type.is_quantized:
        raise TraceError("quantize reads f32", got=str(x.value.type) if isinstance(x, Traced) else repr(x))
