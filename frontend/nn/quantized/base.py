"""What all quantized modules share: values that are codes, weights that are codes, and results with parameters.

Modules pass values of a quantized type to each other. Each records dequantize, the float op and quantize, as a model of
quantize-dequantize pairs has them; `compile(..., qconfig="keep")` makes one integer op of the three.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from qcompiler.arguments import check_type, described
from qcompiler.errors import QuantizationError, TraceError
from qcompiler.frontend.nn.module import Module, Parameter
from qcompiler.frontend.proxy import Proxy
from qcompiler.frontend.recorder import Trace, required_trace
from qcompiler.frontend.source import user_place
from qcompiler.quantization import qmath
from qcompiler.quantization.observers import weight_params
from qcompiler.quantization.qconfig import QConfig, get_qconfig
from qcompiler.quantization.quantized_tensor import QuantizedTensor
from qcompiler.types import DType, QuantParams, TensorType


def enter_stage(trace: Trace, stage: str) -> None:
    """Let a graph have the ops of quantized modules: of "qdq" those of static ones, of "integer" those of dynamic ones.

    Raises:
        TraceError: the graph has both.
    """
    if trace.graph.stage not in ("float", stage):
        raise TraceError(
            "static and dynamic quantized modules in one model",
            where=user_place(),
            expected=f"a graph of stage {trace.graph.stage}",
            got=f"a module of stage {stage}",
            hint="take modules of nn.quantized or of nn.quantized.dynamic alone",
        )
    trace.graph.stage = stage


def code_type(x: Any, what: str) -> TensorType:
    """The type of a traced value that has codes. TraceError for any other value."""
    if not isinstance(x, Proxy) or not x.value.type.is_quantized:
        raise TraceError(
            f"{what} reads codes",
            where=user_place(),
            expected="a quantized value",
            got=repr(x),
            hint="put nn.quantized.Quantize(scale, zero_point, dtype) in front",
        )
    return x.value.type


def dequantized(x: Any, what: str) -> Proxy:
    """The real numbers of a traced value that has codes."""
    code_type(x, what)
    enter_stage(x.trace, "qdq")
    found: Proxy = x.trace.emit("dequantize", (x,))
    return found


def quantized(x: Proxy, scale: float, zero_point: int, dtype: DType) -> Proxy:
    """Codes of a traced f32 value."""
    trace = x.trace
    enter_stage(trace, "qdq")
    type = TensorType(dtype, x.value.type.shape, QuantParams.per_tensor(scale, zero_point, dtype))
    return trace.emit_quantized(x, type)


def weight_codes(tensor: QuantizedTensor, name: str) -> Proxy:
    """A quantized tensor as a constant that holds codes. One tensor gives one constant of a trace."""
    return required_trace("a weight").codes(tensor, tensor.int_repr(), tensor.dtype, tensor.params, name)


def weight_of(module: Module, qconfig: QConfig | str, axis: int = 0, name: str = "weight") -> QuantizedTensor:
    """The weight of a float module, quantized as the weight spec of a qconfig says.

    Raises:
        QuantizationError: a qconfig without a spec of weights, or a weight that is empty or not finite.
    """
    config = get_qconfig(qconfig) if isinstance(qconfig, str) else qconfig
    check_type("qconfig", config, QConfig, "a QConfig, or the name of one")
    if config.weight is None:
        raise QuantizationError("the qconfig quantizes no weights", got=repr(qconfig))
    weight = np.asarray(getattr(module, name), np.float32)
    if not weight.size or not np.isfinite(weight).all():
        raise QuantizationError(f"the {name} has no codes", expected="finite numbers, at least one", got=weight.shape)
    spec = config.weight
    params = weight_params(weight, spec, axis if spec.per_channel else None, name)
    return QuantizedTensor(qmath.quantize(weight, params, spec.dtype), params, spec.dtype)


def check_weight(weight: object, rank: int, where: str) -> QuantizedTensor:
    """The weight, if it is a quantized tensor of i8 of this rank; an error otherwise."""
    check_type("weight", weight, QuantizedTensor, "a QuantizedTensor")
    assert isinstance(weight, QuantizedTensor)
    if weight.dtype is not DType.I8 or weight.ndim != rank:
        raise QuantizationError(f"weight of {where}", expected=f"i8 of rank {rank}", got=str(weight))
    return weight


def bias_parameter(bias: Any, outputs: int, where: str) -> Parameter | None:
    """f32 [outputs], or None."""
    if bias is None:
        return None
    found = Parameter(bias)
    if found.shape != (outputs,):
        raise QuantizationError(f"bias of {where}", expected=f"f32[{outputs}]", got=described(bias))
    return found


def check_float(module: object, kind: type[Module], where: type[Module]) -> None:
    """ArgumentError unless a module is of a class of floats."""
    check_type("module", module, kind, f"a qcompiler.nn.{kind.__name__}, of which {where.__name__} is made")


class CodeModule(Module):
    """A module whose result has codes. `scale` and `zero_point` are those of the result."""

    scale: float
    zero_point: int

    def _set_result(self, scale: float, zero_point: int) -> None:
        QuantParams.per_tensor(scale, 0, DType.U8)  # checks the scale
        check_type("zero_point", zero_point, (int, np.integer), "a code")
        self.scale, self.zero_point = float(np.float32(scale)), int(zero_point)

    def _result(self, y: Any, x: Any) -> Proxy:
        """The codes of y, of the element type of x."""
        return quantized(y, self.scale, self.zero_point, x.value.type.dtype)

    def _is_layer(self) -> bool:
        return True


class Rounded(CodeModule):
    """A float layer between dequantize and quantize. It takes the arguments of the float layer, and the scale and zero
    point of its result by name. The result has the element type of x."""

    def __init__(self, *args: Any, scale: float, zero_point: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_result(scale, zero_point)

    def forward(self, x: Any) -> Any:
        return self._result(super().forward(dequantized(x, type(self).__name__)), x)

    @classmethod
    def from_float(cls, module: Module, scale: float, zero_point: int) -> Self:
        """The quantized form of a float layer, which shares its parameters.

        Raises:
            ArgumentError: a module of another class.
            QuantizationError: an illegal scale.
        """
        kind = next(base for base in cls.__mro__ if base.__module__ == Module.__module__)
        check_float(module, kind, cls)
        made = cls.__new__(cls)
        for name, value in vars(module).items():
            object.__setattr__(made, name, dict(value) if isinstance(value, dict) else value)
        made._set_result(scale, zero_point)
        return made

    def extra_repr(self) -> str:
        inner = super().extra_repr()
        return f"{inner}{', ' if inner else ''}scale={self.scale:g}, zero_point={self.zero_point}"
