"""Functions with weights: linear, bilinear, convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qcompiler.errors import TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import binary, dims, lift, reshape, trace_of
from qcompiler.frontend.functional.calling import batched, emit, ints, traceable
from qcompiler.frontend.proxy import Proxy
from qcompiler.frontend.source import user_place
from qcompiler.ir import Const
from qcompiler.ops import conv


@traceable
def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """x @ weight.T + bias."""
    return emit("linear", x, weight, bias)


@traceable
def bilinear(x: Any, y: Any, weight: Any, bias: Any = None) -> Any:
    """b + x^T W y for each output; weight [out, in1, in2]."""
    trace = trace_of(x, y, weight)
    weight = lift(weight, trace)
    out, first, second = dims(weight)
    inner = emit("linear", x, reshape(ops.transpose(weight, (0, 2, 1)), (out * second, first)))
    inner = reshape(inner, (*dims(inner)[:-1], out, second))
    product = ops.reduce("sum", binary("mul", inner, ops.expand_dims(lift(y, trace), -2)), -1)
    return product if bias is None else binary("add", product, bias)


def conv_padding(
    padding: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """torch's padding argument (int, ints, "same", "valid") as (before, after) pairs."""
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "same":
        if any(s != 1 for s in stride):
            raise TraceError("padding='same' needs stride 1", where=user_place(), got=f"stride {tuple(stride)}")
        totals = [d * (k - 1) for k, d in zip(kernel, dilation)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if isinstance(padding, str):
        raise TraceError("unknown padding", where=user_place(), expected="ints, 'same' or 'valid'", got=padding)
    return tuple((p, p) for p in ints(padding, len(kernel), "padding"))


def _conv(spatial: int) -> Callable[..., Any]:
    def conv(
        x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> Any:
        weight = ops.single(weight, "convolution", trace_of(x, weight))
        strides, dilations = ints(stride, spatial, "stride"), ints(dilation, spatial, "dilation")
        kernel = tuple(int(size) for size in weight.shape[2:])
        pairs = conv_padding(padding, kernel, strides, dilations)
        return batched(
            x,
            spatial,
            f"conv{spatial}d",
            lambda x: emit(
                "conv", x, weight, bias, stride=strides, padding=pairs, dilation=dilations, groups=int(groups)
            ),
        )

    conv.__name__ = conv.__qualname__ = f"conv{spatial}d"
    conv.__doc__ = f"torch.nn.functional.conv{spatial}d."
    return traceable(conv)


conv1d, conv2d, conv3d = _conv(1), _conv(2), _conv(3)


def outputs_side_by_side(weight: Proxy, groups: int) -> Proxy:
    """The weight [C, O/groups, *K] of a transposed convolution as the IR has it: [C/groups, O, *K]."""
    shape = dims(weight)
    if groups == 1 or len(shape) < 2:
        return weight
    if groups < 1 or shape[0] % groups:
        raise TraceError(
            "groups of a transposed convolution",
            where=user_place(),
            expected=f"a divisor of the {shape[0]} input channels",
            got=groups,
        )
    const = weight.value
    if isinstance(const, Const) and not const.type.is_quantized:
        data = conv.outputs_side_by_side(const.data, groups)
        return weight.trace.derived(const, f"groups:{groups}", data, f"{const.name}.grouped")
    grouped = ops.swapaxes(reshape(weight, (groups, shape[0] // groups, *shape[1:])), 0, 1)
    return reshape(grouped, (shape[0] // groups, groups * shape[1], *shape[2:]))


def _conv_transpose(spatial: int) -> Callable[..., Any]:
    def conv(
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        pairs = tuple((p, p) for p in ints(padding, spatial, "padding"))
        weight = outputs_side_by_side(ops.single(weight, "convolution", trace_of(x, weight)), int(groups))
        return batched(
            x,
            spatial,
            f"conv_transpose{spatial}d",
            lambda x: emit(
                "conv_transpose",
                x,
                weight,
                bias,
                stride=ints(stride, spatial, "stride"),
                padding=pairs,
                output_padding=ints(output_padding, spatial, "output_padding"),
                dilation=ints(dilation, spatial, "dilation"),
                groups=int(groups),
            ),
        )

    conv.__name__ = conv.__qualname__ = f"conv_transpose{spatial}d"
    conv.__doc__ = f"torch.nn.functional.conv_transpose{spatial}d."
    return traceable(conv)


conv_transpose1d, conv_transpose2d, conv_transpose3d = _conv_transpose(1), _conv_transpose(2), _conv_transpose(3)
