"""batch_norm, layer_norm, group_norm and instance_norm."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.backends.kernels import norm as kernels
from qcompiler.backends.kernels import norm_channels as channel_kernels
from qcompiler.backends.kernels.elementwise import AFFINE, AFFINE_CODES
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView, row_major_strides
from qcompiler.backends.lowering.why_not import why_not_f32
from qcompiler.backends.rules.convert import bounds, zero_point
from qcompiler.backends.rules.elementwise import run_map
from qcompiler.backends.target import Target
from qcompiler.ir import Const, Node
from qcompiler.ops.norm import batch_norm_terms, normalised_eps
from qcompiler.ops.reduce import check_sum_fits
from qcompiler.quantization import qmath
from qcompiler.types import DType


def _not_norm(node: Node, target: Target) -> str | None:
    """Fits constant parameters, f32 or u8 activations."""
    if any(v is not None and not isinstance(v, Const) for v in node.operands[1:]):
        return "parameters are not constant"
    x, out = node.operands[0].type, node.result.type
    if not out.is_quantized:
        return why_not_f32(node, target)
    for type in (x, out):
        if type.dtype is not DType.U8 or type.quant is None or type.quant.axis is not None:
            return f"{type} is not u8 with per-tensor parameters"
    return None


def _parameter(s: NodeLowering, index: int) -> np.ndarray | None:
    return s.constant(index) if s.has(index) else None


def _along_channels(s: NodeLowering, role: str, values: np.ndarray) -> TensorView:
    """[C] as a constant seen along axis 1."""
    rank = len(s.operand(0).shape)
    ref = s.packed(role, lambda: values)
    return TensorView(ref, values.dtype, (1, len(values), *(1,) * (rank - 2)), (0, values.itemsize, *(0,) * (rank - 2)))


@lowers("batch_norm", unless=_not_norm)
def batch_norm(s: NodeLowering) -> None:
    mean, var, weight, bias = s.constant(1), s.constant(2), _parameter(s, 3), _parameter(s, 4)
    scales = (s.type(0).quant.scale[0], s.out.quant.scale[0]) if s.out.is_quantized else (1.0, 1.0)
    factor, shift = batch_norm_terms(mean, var, weight, bias, s.attrs["eps"], *scales)
    terms = [
        _along_channels(s, role, values.astype(np.float32)) for role, values in (("factor", factor), ("shift", shift))
    ]
    if s.out.is_quantized:
        run_map(
            s,
            AFFINE_CODES,
            [s.operand(0), *terms],
            {},
            in_zero=zero_point(s.type(0)),
            zero=zero_point(s.out),
            **bounds(s.out),
        )
    else:
        run_map(s, AFFINE, [s.operand(0), *terms], {})


def _not_channels_last(node: Node, target: Target) -> str | None:
    layout = node.result.type.layout
    if layout is None or layout.order != "channels_last" or not node.result.type.is_quantized:
        return "not codes channels last"
    return _not_norm(node, target)


@lowers("group_norm", "instance_norm", unless=_not_channels_last)
def norm_of_channels(s: NodeLowering) -> None:
    channels = s.out.layout.channel_stride
    x, y = s.channels_last(0, channels), s.result()
    images, real_channels, pixels = y.shape[0], y.shape[1], math.prod(y.shape[2:])
    groups = s.attrs["groups"] if s.node.op == "group_norm" else real_channels
    width = real_channels // groups
    check_sum_fits(s.node.op, s.type(0), width * pixels)
    slices = max(-(-pixels // channel_kernels.MOST_PIXELS), min(16, pixels * channels // 4096), 1)
    sums, squares = (s.scratch(images * slices * channels * 4, name) for name in ("sums", "squares"))
    means, factors = (s.scratch(images * channels * 4, name) for name in ("means", "factors"))
    weight, bias = _parameter(s, 1), _parameter(s, 2)
    gain, shift = np.zeros((2, channels), np.float32)
    gain[:real_channels] = 1 if weight is None else weight
    shift[:real_channels] = 0 if bias is None else bias
    lanes = min(s.target.vector_bytes, 1 << (channels.bit_length() - 1))
    common = dict(images=images, slices=slices, pixels=pixels, channels=channels)
    zeros = dict(in_zero=zero_point(s.type(0)), zero=zero_point(s.out))
    over = s.out.quant.scale[0]
    s.call(
        channel_kernels.sums_of_channels,
        {"lanes": lanes},
        x=x,
        sums=sums,
        squares=squares,
        **common,
        writes=("sums", "squares"),
    )
    s.call(
        channel_kernels.terms_of_groups,
        sums=sums,
        squares=squares,
        means=means,
        factors=factors,
        **common,
        groups=groups,
        width=width,
        in_zero=zeros["in_zero"],
        eps=float(normalised_eps(s.attrs["eps"], s.type(0))),
        writes=("means", "factors"),
    )
    s.call(
        channel_kernels.map_of_channels,
        {"lanes": lanes},
        x=x,
        means=means,
        factors=factors,
        gain=s.table(np.asarray(qmath.multiplier(gain, over=over), np.float32)),
        shift=s.table(np.asarray(qmath.multiplier(shift, over=over), np.float32)),
        y=y,
        **common,
        **zeros,
        **bounds(s.out),
        writes=("y",),
        bytes=3 * x.elements,
    )


@lowers("layer_norm", "group_norm", "instance_norm", unless=_not_norm)
def norm(s: NodeLowering) -> None:
    x, y = s.row_major(0), s.result()
    shape, each = x.shape, s.node.op == "layer_norm"
    if each:
        rank = s.attrs["normalized_rank"]
        rows, groups, parts, run = math.prod(shape[:-rank]), 1, 1, math.prod(shape[-rank:])
        parameters = run
    else:
        groups = s.attrs["groups"] if s.node.op == "group_norm" else shape[1]
        rows, parts, run = shape[0] * groups, shape[1] // groups, math.prod(shape[2:])
        parameters = shape[1]
    out = y if y.is_row_major else s.lowering.new(s.out, f"{s.node.name}.row_major", None)
    scale = s.out.quant.scale[0] if s.out.is_quantized else 1.0
    weight, bias = _parameter(s, 1), _parameter(s, 2)
    gain = np.ones(parameters, np.float32) if weight is None else weight.reshape(-1)
    shift = np.zeros(parameters, np.float32) if bias is None else bias.reshape(-1)
    common = dict(
        x=x,
        gain=s.table(np.asarray(qmath.multiplier(gain, over=scale), np.float32)),
        shift=s.table(np.asarray(qmath.multiplier(shift, over=scale), np.float32)),
        y=out,
        rows=rows,
        groups=groups,
        parts=parts,
        run=run,
        writes=("y",),
        bytes=2 * x.elements * x.dtype.itemsize,
    )
    if s.out.is_quantized:
        check_sum_fits(s.node.op, s.type(0), parts * run)
        s.call(
            kernels.norm_codes,
            {"each": each},
            in_zero=zero_point(s.type(0)),
            zero=zero_point(s.out),
            eps=float(normalised_eps(s.attrs["eps"], s.type(0))),
            **bounds(s.out),
            **common,
        )
    else:
        s.call(kernels.norm_real, {"each": each}, eps=s.attrs["eps"], **common)
    if out is not y:
        s.copy(TensorView(out.buffer, out.dtype, shape, row_major_strides(shape, out.dtype.itemsize)), y)
