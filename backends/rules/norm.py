"""Lowers batch_norm, layer_norm, rms_norm, l2_normalize, group_norm and instance_norm."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.backends.kernel_ir.definition import Memory
from qcompiler.backends.kernels import norm as kernels
from qcompiler.backends.kernels import norm_channels as channel_kernels
from qcompiler.backends.kernels.elementwise import map_affine
from qcompiler.backends.kernels.elementwise_codes import AffineCodes, map_affine_codes
from qcompiler.backends.kernels.map_loop import Map
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import lowers
from qcompiler.backends.lowering.views import TensorView, row_major_strides
from qcompiler.backends.lowering.why_not import operand_types, why_not_codes, why_not_f32, why_not_u8
from qcompiler.backends.rules.convert import code_range, zero_point
from qcompiler.backends.rules.maps import MapCall, run_map
from qcompiler.backends.target import Target
from qcompiler.ir import Const, Node, Value
from qcompiler.ops.norm import (
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    L2Normalize,
    LastAxesNorm,
    batch_norm_terms,
    length_floor,
    normalised_eps,
)
from qcompiler.ops.reduce import check_sum_fits
from qcompiler.quantization import qmath

_PARAMETER_BYTES = 32
"""Bytes that lowering needs for the gain and the shift of one channel: as f32, as f64, and among the constants."""


def _why_not_constant(node: Node) -> str | None:
    """Why the parameters of a node are not all constant, or None."""
    _, *parameters = node.operands
    constant = all(value is None or isinstance(value, Const) for value in parameters)
    return None if constant else "parameters are not constant"


def _why_not_batch_norm(node: Node, target: Target) -> str | None:
    """Why a node does not have constant parameters, and activations of f32 or codes of u8 or i16, or None."""
    if (reason := _why_not_constant(node)) is not None or not node.result.type.is_quantized:
        return reason or why_not_f32(node, target)
    return why_not_codes(BatchNorm(node).x.type) or why_not_codes(node.result.type)


def _why_not_norm(node: Node, target: Target) -> str | None:
    """Why a node does not have constant parameters, and activations of f32 or codes of u8 or i16, or None."""
    if (reason := _why_not_constant(node)) is not None or not node.result.type.is_quantized:
        return reason or why_not_f32(node, target)
    return why_not_codes(operand_types(node)[0]) or why_not_codes(node.result.type)


def _parameter(s: NodeLowering, value: Value | None) -> np.ndarray | None:
    """The data of a constant operand; None if it is absent."""
    return None if value is None else s.constant(value)


def _along_channels(s: NodeLowering, role: str, values: np.ndarray) -> TensorView:
    """A constant [C], viewed along axis 1 of the result."""
    rank = len(s.out.shape)
    ref = s.packed(role, lambda: values)
    return TensorView(ref, values.dtype, (1, len(values), *(1,) * (rank - 2)), (0, values.itemsize, *(0,) * (rank - 2)))


@lowers("batch_norm", unless=_why_not_batch_norm)
def batch_norm(s: NodeLowering) -> None:
    op, quantized = BatchNorm(s.node), s.out.is_quantized
    weight, bias = _parameter(s, op.weight), _parameter(s, op.bias)
    scales = (op.x.type.params.scale[0], s.out.params.scale[0]) if quantized else (1.0, 1.0)
    factor, shift = batch_norm_terms(s.constant(op.mean), s.constant(op.var), weight, bias, op.eps, *scales)
    factors, shifts = (
        _along_channels(s, role, values.astype(np.float32)) for role, values in (("factor", factor), ("shift", shift))
    )
    operands = [s.view(op.x), factors, shifts]

    def affine(inner: str, tensors: Map[Memory, int]) -> MapCall[AffineCodes]:
        arguments = AffineCodes(tensors, in_zero=zero_point(op.x.type), codes=code_range(s.out))
        return map_affine_codes(inner=inner, dtypes=(str(op.x.type.dtype), str(s.out.dtype))), arguments

    if quantized:
        run_map(s, operands, affine)
    else:
        run_map(s, operands, lambda inner, tensors: (map_affine(inner=inner), tensors))


def _why_not_channels_last(node: Node, target: Target) -> str | None:
    """Why a node is not the norm of bytes that lie channels last, or None."""
    layout = node.result.type.layout
    if layout is None or layout.order != "channels_last":
        return "not channels last"
    return _why_not_constant(node) or why_not_u8(node, target)


@lowers("group_norm", "instance_norm", unless=_why_not_channels_last)
def norm_of_channels(s: NodeLowering) -> None:
    op = GroupNorm.of(s.node) or InstanceNorm.of(s.node)
    assert op is not None and s.out.layout is not None
    channels = s.out.layout.channel_stride
    x, y = s.channels_last(op.x, channels), s.result()
    images, real_channels, pixels = y.shape[0], y.shape[1], math.prod(y.shape[2:])
    groups = op.groups if isinstance(op, GroupNorm) else real_channels
    width = real_channels // groups
    check_sum_fits(s.node.op, op.x.type, width * pixels)
    slices = max(-(-pixels // channel_kernels.MOST_PIXELS), min(16, pixels * channels // 4096), 1)
    sums, squares = (s.scratch(images * slices * channels * 4, name) for name in ("sums", "squares"))
    means, factors = (s.scratch(images * channels * 4, name) for name in ("means", "factors"))
    weight, bias = _parameter(s, op.weight), _parameter(s, op.bias)
    s.check_table(channels, _PARAMETER_BYTES)
    gain, shift = np.zeros((2, channels), np.float32)
    gain[:real_channels] = 1 if weight is None else weight
    shift[:real_channels] = 0 if bias is None else bias
    lanes = min(s.target.vector_bytes, 1 << (channels.bit_length() - 1))
    sizes = channel_kernels.Images(images=images, slices=slices, pixels=pixels, channels=channels)
    in_zero, over = zero_point(op.x.type), s.out.params.scale[0]
    s.call(
        channel_kernels.sums_of_channels(lanes=lanes),
        channel_kernels.ChannelSums(x=x, sums=sums, squares=squares, images=sizes),
    )
    s.call(
        channel_kernels.terms_of_groups(),
        channel_kernels.GroupTerms(
            sums=sums,
            squares=squares,
            means=means,
            factors=factors,
            images=sizes,
            groups=groups,
            width=width,
            in_zero=in_zero,
            eps=float(normalised_eps(op.eps, op.x.type)),
        ),
    )
    s.call(
        channel_kernels.map_of_channels(lanes=lanes),
        channel_kernels.ChannelMap(
            x=x,
            means=means,
            factors=factors,
            gain=s.stored(np.asarray(qmath.multiplier(gain, over=over), np.float32)),
            shift=s.stored(np.asarray(qmath.multiplier(shift, over=over), np.float32)),
            y=y,
            images=sizes,
            in_zero=in_zero,
            codes=code_range(s.out),
        ),
        bytes=3 * x.elements,
    )


@lowers("layer_norm", "rms_norm", "group_norm", "instance_norm", unless=_why_not_norm)
def norm(s: NodeLowering) -> None:
    op = LastAxesNorm.of(s.node) or GroupNorm.of(s.node) or InstanceNorm.of(s.node)
    assert op is not None
    x, y = s.row_major(op.x), s.result()
    shape, each = x.shape, isinstance(op, LastAxesNorm)
    if isinstance(op, LastAxesNorm):
        rank = op.normalized_rank
        rows, groups, runs, run = math.prod(shape[:-rank]), 1, 1, math.prod(shape[-rank:])
        parameters = run
    else:
        groups = op.groups if isinstance(op, GroupNorm) else shape[1]
        rows, runs, run = shape[0] * groups, shape[1] // groups, math.prod(shape[2:])
        parameters = shape[1]
    out = y if y.is_row_major else s.new(s.out, f"{s.node.name}.row_major")
    scale = s.out.params.scale[0] if s.out.is_quantized else 1.0
    weight, bias = _parameter(s, op.weight), _parameter(s, op.bias)
    s.check_table(parameters, _PARAMETER_BYTES)
    gain = np.ones(parameters, np.float32) if weight is None else weight.reshape(-1)
    shift = np.zeros(parameters, np.float32) if bias is None else bias.reshape(-1)
    tensors = kernels.NormRows[Memory, int](
        x=x,
        gain=s.stored(np.asarray(qmath.multiplier(gain, over=scale), np.float32)),
        shift=s.stored(np.asarray(qmath.multiplier(shift, over=scale), np.float32)),
        y=out,
        rows=rows,
        groups=groups,
        runs=runs,
        run=run,
    )
    nbytes = 2 * x.elements * x.dtype.itemsize
    if s.out.is_quantized:
        check_sum_fits(s.node.op, op.x.type, runs * run)
        arguments = kernels.NormCodes(
            tensors,
            in_zero=zero_point(op.x.type),
            eps=float(normalised_eps(op.eps, op.x.type)),
            codes=code_range(s.out),
        )
        s.call(
            kernels.norm_codes(each=each, centers=op.centers, source=str(op.x.type.dtype), to=str(s.out.dtype)),
            arguments,
            bytes=nbytes,
        )
    else:
        s.call(kernels.norm_real(each=each, centers=op.centers), kernels.NormReal(tensors, eps=op.eps), bytes=nbytes)
    if out is not y:
        s.copy(TensorView(out.buffer, out.dtype, shape, row_major_strides(shape, out.dtype.itemsize)), y)


def _axis_last(view: TensorView, axis: int) -> TensorView:
    """The same memory with one axis moved behind the others."""
    order = [*(a for a in range(len(view.shape)) if a != axis), axis]
    return view.moved(0, [view.shape[a] for a in order], [view.strides[a] for a in order])


@lowers("l2_normalize", unless=_why_not_norm)
def l2_normalize(s: NodeLowering) -> None:
    op = L2Normalize(s.node)
    given, wanted = _axis_last(s.view(op.x), op.axis), _axis_last(s.result(), op.axis)
    x, y = (
        view if view.is_row_major else _dense(s, view, name) for view, name in ((given, "operand"), (wanted, "dense"))
    )
    if x is not given:
        s.copy(given, x)
    run, scale = x.shape[-1], s.out.params.scale[0] if s.out.is_quantized else 1.0
    tensors = kernels.NormRows[Memory, int](
        x=x,
        gain=s.stored(np.asarray([qmath.multiplier(1.0, over=scale)], np.float32)),
        shift=s.stored(np.zeros(1, np.float32)),
        y=y,
        rows=x.elements // run,
        groups=1,
        runs=1,
        run=run,
    )
    nbytes = 2 * x.elements * x.dtype.itemsize
    if s.out.is_quantized:
        check_sum_fits(s.node.op, op.x.type, run)
        arguments = kernels.NormCodes(
            tensors,
            in_zero=zero_point(op.x.type),
            eps=float(length_floor(op.eps, op.x.type)),
            codes=code_range(s.out),
        )
        s.call(
            kernels.norm_codes(
                each=False, centers=False, length=True, source=str(op.x.type.dtype), to=str(s.out.dtype)
            ),
            arguments,
            bytes=nbytes,
        )
    else:
        s.call(
            kernels.norm_real(each=False, centers=False, length=True),
            kernels.NormReal(tensors, eps=op.eps),
            bytes=nbytes,
        )
    if y is not wanted:
        s.copy(y, wanted)


def _dense(s: NodeLowering, view: TensorView, name: str) -> TensorView:
    """New memory for the elements of a view, without gaps."""
    memory = s.scratch(view.elements * view.dtype.itemsize, name)
    return TensorView(memory, view.dtype, view.shape, row_major_strides(view.shape, view.dtype.itemsize))
