"""Modules where codes begin, end, or keep their parameters."""

from __future__ import annotations

from typing import Any

from qcompiler.arguments import check_type
from qcompiler.errors import QuantizationError, TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.nn.module import Module
from qcompiler.frontend.nn.quantized.base import CodeModule, code_type, dequantized, quantized
from qcompiler.frontend.proxy import Proxy
from qcompiler.frontend.recorder import required_trace
from qcompiler.frontend.source import user_place
from qcompiler.types import DType, QuantParams


class Quantize(CodeModule):
    """f32 of any shape to codes of the same shape: rule (2) of `qmath`. torch.ao.nn.quantized.Quantize.

    Args:
        scale: above 0.
        zero_point: a code of `dtype`.
        dtype: "u8" or "i8", or a DType of these.

    Raises:
        QuantizationError: an illegal scale, zero point or element type.
    """

    def __init__(self, scale: float, zero_point: int, dtype: DType | str = "u8") -> None:
        super().__init__()
        if str(dtype) not in ("u8", "i8"):
            raise QuantizationError("dtype of Quantize", expected="u8 or i8", got=str(dtype))
        self.dtype = DType(str(dtype))
        QuantParams.per_tensor(scale, zero_point, self.dtype)
        self._set_result(scale, zero_point)

    def forward(self, x: Any) -> Any:
        real = ops.single(x, "Quantize", required_trace("Quantize"))
        if real.value.type.is_quantized:
            raise TraceError(
                "Quantize reads real numbers", where=user_place(), got=repr(real), hint="DeQuantize in front"
            )
        return quantized(real, self.scale, self.zero_point, self.dtype)

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}, zero_point={self.zero_point}, dtype={self.dtype}"


class DeQuantize(Module):
    """Codes of any shape to the real numbers that they stand for, f32. torch.ao.nn.quantized.DeQuantize."""

    def forward(self, x: Any) -> Any:
        return dequantized(x, "DeQuantize")


class KeepParams(Module):
    """A float layer whose result has the parameters of x: pools, reshapes, ReLU and what else selects or averages
    elements. In torch these layers take quantized tensors as they are.

    Args:
        module: a qcompiler.nn module of one operand.

    Raises:
        ArgumentError: another kind of module.
    """

    def __init__(self, module: Module) -> None:
        super().__init__()
        check_type("module", module, Module, "a qcompiler.nn module")
        self.module = module

    def forward(self, x: Any) -> Any:
        type = code_type(x, "KeepParams")
        y = self.module(dequantized(x, "KeepParams"))
        if not isinstance(y, Proxy):
            raise TraceError("KeepParams: the module gives one array", where=user_place(), got=repr(y))
        return quantized(y, type.params.scale[0], type.params.zero_point[0], type.dtype)
