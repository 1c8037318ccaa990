"""Activations and the softmax family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qcompiler.errors import TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import indexing
from qcompiler.frontend.array_ops import binary, rank, unary
from qcompiler.frontend.functional.calling import emit, no_training, traceable


def _activation(op: str, name: str | None = None, **fixed: Any) -> Callable[..., Any]:
    def activation(x: Any, inplace: bool = False) -> Any:
        return unary(op, x, **fixed)

    activation.__name__ = activation.__qualname__ = name or op
    activation.__doc__ = f"torch.nn.functional.{name or op}."
    return traceable(activation)


relu, relu6, sigmoid, tanh = (_activation(op) for op in ("relu", "relu6", "sigmoid", "tanh"))
hardsigmoid, hardswish, silu, mish = (_activation(op) for op in ("hardsigmoid", "hardswish", "silu", "mish"))
selu, softsign, tanhshrink, logsigmoid = (_activation(op) for op in ("selu", "softsign", "tanhshrink", "logsigmoid"))


@traceable
def hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    return unary("hardtanh", x, min_value=float(min_val), max_value=float(max_val))


@traceable
def gelu(x: Any, approximate: str = "none") -> Any:
    return unary("gelu", x, approximate=approximate)


@traceable
def elu(x: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    return unary("elu", x, alpha=float(alpha))


@traceable
def celu(x: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    return unary("celu", x, alpha=float(alpha))


@traceable
def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    return unary("softplus", x, beta=float(beta), threshold=float(threshold))


@traceable
def softshrink(x: Any, lambd: float = 0.5) -> Any:
    return unary("softshrink", x, lambd=float(lambd))


@traceable
def hardshrink(x: Any, lambd: float = 0.5) -> Any:
    return unary("hardshrink", x, lambd=float(lambd))


@traceable
def leaky_relu(x: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    return unary("leaky_relu", x, negative_slope=float(negative_slope))


@traceable
def rrelu(x: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False) -> Any:
    """Leaky ReLU whose slope, at inference, is the mean of the bounds."""
    no_training("rrelu", training)
    return unary("leaky_relu", x, negative_slope=(lower + upper) / 2)


@traceable
def threshold(x: Any, threshold: float, value: float, inplace: bool = False) -> Any:
    return unary("threshold", x, threshold=float(threshold), value=float(value))


@traceable
def prelu(x: Any, weight: Any) -> Any:
    return emit("prelu", x, weight)


@traceable
def glu(x: Any, dim: int = -1) -> Any:
    """The first half of an axis times the sigmoid of the second."""
    axis = ops.check_axis(dim, rank(x), "glu")
    size = ops.static_size(x, axis, "glu")
    if size % 2:
        raise TraceError("glu halves its axis", where=x.trace.place(), expected="an even size", got=size)
    first, second = indexing.split_at(x, [size // 2], axis)
    return binary("mul", first, unary("sigmoid", second))


@traceable
def softmax(x: Any, dim: int = -1) -> Any:
    return ops.softmax(x, dim)


@traceable
def log_softmax(x: Any, dim: int = -1) -> Any:
    return ops.softmax(x, dim, "log_softmax")


@traceable
def softmin(x: Any, dim: int = -1) -> Any:
    return ops.softmax(unary("neg", x), dim)
