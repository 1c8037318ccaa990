"""Linear and bilinear layers, and layers that rearrange or return their input."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import functional as F
from qcompiler.frontend.nn import init
from qcompiler.frontend.nn.module import Module


class Identity(Module):
    """Takes any arguments, as torch's does, and returns its input."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return x


class Linear(Module):
    """[..., in] to [..., out]; weight [out, in]."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = init.kaiming_uniform((out_features, in_features))
        self.register_parameter("bias", init.bias_for((out_features, in_features), out_features) if bias else None)

    def forward(self, x: Any) -> Any:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Bilinear(Module):
    """x1^T W x2 + b; weight [out, in1, in2]."""

    def __init__(self, in1_features: int, in2_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        bound = 1.0 / np.sqrt(in1_features)
        self.weight = init.uniform((out_features, in1_features, in2_features), bound)
        self.register_parameter("bias", init.uniform((out_features,), bound) if bias else None)

    def forward(self, x: Any, y: Any) -> Any:
        return F.bilinear(x, y, self.weight, self.bias)


class Flatten(Module):
    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Any) -> Any:
        return F.flatten(x, self.start_dim, self.end_dim)


class Unflatten(Module):
    """Splits one axis into several."""

    def __init__(self, dim: int, unflattened_size: Any) -> None:
        super().__init__()
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, x: Any) -> Any:
        x = ops.lift(x)
        axis = ops.check_axis(self.dim, ops.rank(x), "unflatten")
        shape = ops.dims(x)
        return ops.reshape(x, (*shape[:axis], *self.unflattened_size, *shape[axis + 1 :]))


class Dropout(Module):
    """Dropout: the identity at inference, and an error in training mode."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Any) -> Any:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout1d(Dropout):
    pass


class Dropout2d(Dropout):
    pass


class Dropout3d(Dropout):
    pass


class AlphaDropout(Dropout):
    pass


class FeatureAlphaDropout(Dropout):
    pass
