"""Layers with weights of codes that read and give real numbers: what they read is quantized as it comes.

Public as `qcompiler.nn.quantized.dynamic`, with the names of torch.ao.nn.quantized.dynamic. The ops are those that
`qc.quantize_dynamic` makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from qcompiler.arguments import check_type
from qcompiler.errors import QuantizationError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import lift
from qcompiler.frontend.nn import linear, recurrent
from qcompiler.frontend.nn.activation import ReLU
from qcompiler.frontend.nn.module import Module, Parameter, Sequential
from qcompiler.frontend.nn.quantized.base import (
    bias_parameter,
    check_float,
    check_weight,
    enter_stage,
    weight_codes,
    weight_of,
)
from qcompiler.frontend.proxy import Proxy
from qcompiler.frontend.recorder import required_trace
from qcompiler.frontend.recurrent import Layer
from qcompiler.ops.dynamic import BY_ROW, BY_TENSOR
from qcompiler.quantization.qconfig import QConfig, get_qconfig
from qcompiler.quantization.quantized_tensor import QuantizedTensor


class _Ranges:
    """How what a layer reads is quantized: `scale_of`, "row" or "tensor", and the highest code `qmax`, 1 to 255."""

    scale_of: str
    qmax: int

    def _set_ranges(self, scale_of: str, qmax: int) -> None:
        if scale_of not in (BY_ROW, BY_TENSOR):
            raise QuantizationError("scale_of", expected=f"{BY_ROW} or {BY_TENSOR}", got=repr(scale_of))
        check_type("qmax", qmax, int, "1 to 255")
        if not 1 <= qmax <= 255:
            raise QuantizationError("qmax", expected="1 to 255", got=qmax)
        self.scale_of, self.qmax = scale_of, qmax

    def _product(self, x: Any, weight: Any, bias: Any, activation: str = "none", name: str = "weight") -> Proxy:
        """x @ weight.T + bias, for codes of x that are made here."""
        trace = required_trace("a dynamic layer")
        enter_stage(trace, "integer")
        x = ops.single(x, type(self).__name__, trace)
        codes = trace.emit_results("dynamic_quantize", (x,), {"axis": self.scale_of, "qmin": 0, "qmax": self.qmax})
        operands = [*codes, weight_codes(weight, name), None if bias is None else lift(bias, trace)]
        return trace.emit("dynamic_linear", operands, {"activation": activation})


def _ranges_of(qconfig: QConfig | str) -> dict[str, Any]:
    """The arguments `scale_of` and `qmax` that a dynamic qconfig stands for."""
    config = get_qconfig(qconfig) if isinstance(qconfig, str) else qconfig
    check_type("qconfig", config, QConfig, "a QConfig, or the name of one")
    if config.dynamic not in (BY_ROW, BY_TENSOR) or config.activation is None or config.activation.qmin != 0:
        raise QuantizationError(
            "the qconfig finds no ranges at run time", expected='"dynamic" or "torch:dynamic"', got=repr(qconfig)
        )
    return {"scale_of": config.dynamic, "qmax": config.activation.qmax}


class Linear(_Ranges, Module):
    """[..., in] to [..., out], f32; weight: i8 [out, in]; bias: f32 [out]. torch.ao.nn.quantized.dynamic.Linear.

    Args:
        weight: a quantized tensor, with one scale or one for each output.
        bias: f32 [out], or None.
        scale_of: "row", one scale for each row of x, or "tensor", one for all of x, as in torch.
        qmax: the highest code of x. torch's is 127 on x86.

    Raises:
        ArgumentError: an argument of another type.
        QuantizationError: a weight or bias of another shape, or another `scale_of` or `qmax`.
    """

    activation: ClassVar[str] = "none"

    def __init__(self, weight: QuantizedTensor, bias: Any = None, *, scale_of: str = BY_ROW, qmax: int = 255) -> None:
        super().__init__()
        self.weight = check_weight(weight, 2, type(self).__name__)
        self.out_features, self.in_features = weight.shape
        self.register_parameter("bias", bias_parameter(bias, self.out_features, type(self).__name__))
        self._set_ranges(scale_of, qmax)

    def forward(self, x: Any) -> Any:
        return self._product(x, self.weight, self.bias, self.activation)

    @classmethod
    def from_float(cls, module: Any, qconfig: QConfig | str = "torch:dynamic") -> Self:
        """The form of a float layer with codes as weights, by a dynamic qconfig."""
        if cls.activation == "relu" and isinstance(module, Sequential) and len(module) == 2:
            check_float(module[1], ReLU, cls)
            module = module[0]
        check_float(module, linear.Linear, cls)
        return cls(weight_of(module, qconfig), module.bias, **_ranges_of(qconfig))

    def extra_repr(self) -> str:
        return f"weight={self.weight}, scale_of={self.scale_of}, qmax={self.qmax}"


class LinearReLU(Linear):
    """`Linear` with a ReLU behind it. torch.ao.nn.intrinsic.quantized.dynamic.LinearReLU."""

    activation = "relu"


class _Weighted(_Ranges, Module):
    """A recurrent layer or cell whose weights are codes. It takes the arguments of the float layer, and by name
    `weights`: its parameters by torch's names, weight_ih... and weight_hh... as quantized tensors of i8 with zero
    points 0, the others as f32 arrays. `scale_of` and `qmax` are as in `Linear`, for x and for the state of each step.

    Raises:
        ArgumentError: an argument of another type.
        QuantizationError: weights are missing, unexpected or of another shape.
    """

    codes: dict[str, QuantizedTensor]

    def __init__(
        self,
        *args: Any,
        weights: Mapping[str, Any],
        scale_of: str = BY_ROW,
        qmax: int = 255,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._set_ranges(scale_of, qmax)
        check_type("weights", weights, Mapping, "a dict of parameters by name")
        shapes = {name: value.shape for name, value in self._parameters.items() if value is not None}
        if set(weights) != set(shapes):
            raise QuantizationError(
                f"weights of {type(self).__name__}", expected=", ".join(shapes), got=", ".join(map(str, weights))
            )
        self.codes = {}
        for name, shape in shapes.items():
            given = weights[name]
            if name.startswith(("weight_ih", "weight_hh")):
                check_weight(given, 2, f"{type(self).__name__}.{name}")
                if np.any(given.params.zero_points):
                    raise QuantizationError(f"weight {name}", expected="zero points 0", got=str(given))
                self.codes[name] = given
                del self._parameters[name]
            else:
                given = np.asarray(given, np.float32)
                self._parameters[name] = Parameter(given)
            if given.shape != shape:
                raise QuantizationError(f"weight {name}", expected=f"shape {shape}", got=f"shape {given.shape}")

    @classmethod
    def from_float(cls, module: Any, qconfig: QConfig | str = "torch:dynamic") -> Self:
        """The form of a float layer with codes as weights, by a dynamic qconfig."""
        kind = next(base for base in cls.__mro__ if base.__module__ == Module.__module__)
        check_float(module, kind, cls)
        weights = {
            name: weight_of(module, qconfig, name=name) if name.startswith(("weight_ih", "weight_hh")) else value
            for name, value in module._parameters.items()
            if value is not None
        }
        names = ("num_layers", "nonlinearity", "bias", "batch_first", "dropout", "bidirectional", "proj_size")
        given = {name: getattr(module, name) for name in names if hasattr(module, name)}
        if kind is not recurrent.LSTM:
            given.pop("proj_size", None)
        return cls(module.input_size, module.hidden_size, weights=weights, **given, **_ranges_of(qconfig))


class _Layers(_Weighted, recurrent._Recurrent):
    def _layers(self) -> list[Layer]:
        trace = required_trace("a dynamic layer")
        enter_stage(trace, "integer")
        made = []
        for layer in range(self.num_layers):
            for end in self._directions():
                tensors = [self.codes[f"weight_{part}_l{layer}{end}"] for part in ("ih", "hh")]
                others = [self._parameters.get(f"{name}_l{layer}{end}") for name in ("bias_ih", "bias_hh", "weight_hr")]
                codes, scales = zip(*(_plain(tensor) for tensor in tensors))
                made.append(Layer(*codes, *others, *scales))
        return made

    def _run(self, x: Any, states: list[Any], lengths: Any, **attrs: Any) -> tuple[Any, ...]:
        return super()._run(x, states, lengths, **attrs, scale_of=self.scale_of, qmax=self.qmax)


def _plain(tensor: QuantizedTensor) -> tuple[Proxy, Proxy]:
    """The codes of a weight as plain i8, and its scales, f32 [rows]."""
    trace = required_trace("a weight")
    scales = np.ascontiguousarray(np.broadcast_to(tensor.params.scales, tensor.shape[:1]))
    codes = trace.derived(tensor, "plain codes", tensor.int_repr(), trace.graph.fresh_name("weight.q"))
    return codes, trace.derived(tensor, "scales", scales, trace.graph.fresh_name("weight.scale"))


class LSTM(_Layers, recurrent.LSTM):
    """The results of `nn.LSTM`. torch.ao.nn.quantized.dynamic.LSTM. The weight of a projection stays f32."""


class GRU(_Layers, recurrent.GRU):
    """The results of `nn.GRU`. torch.ao.nn.quantized.dynamic.GRU."""


class RNN(_Layers, recurrent.RNN):
    """The results of `nn.RNN`. torch has no dynamic form of it."""


class _Cell(_Weighted):
    def _layer(self) -> Layer:
        parts = (self.codes["weight_ih"], self.codes["weight_hh"], self.bias_ih, self.bias_hh)
        return Layer(*parts, product=self._product)


class LSTMCell(_Cell, recurrent.LSTMCell):
    """The results of `nn.LSTMCell`. torch.ao.nn.quantized.dynamic.LSTMCell."""


class GRUCell(_Cell, recurrent.GRUCell):
    """The results of `nn.GRUCell`. torch.ao.nn.quantized.dynamic.GRUCell."""


class RNNCell(_Cell, recurrent.RNNCell):
    """The results of `nn.RNNCell`. torch.ao.nn.quantized.dynamic.RNNCell."""


__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "Linear", "LinearReLU", "RNNCell"]

for _exported in (globals()[name] for name in __all__):
    _exported.__module__ = "qcompiler.nn.quantized.dynamic"
