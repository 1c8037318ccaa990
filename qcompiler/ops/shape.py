"""Ops that move elements without computing: legal on every dtype, quantized or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qcompiler.dims import Dim, DimLike, parse_dim
from qcompiler.errors import ShapeError
from qcompiler.opdef import REQUIRED, AttrSpec, OpDef, OperandSpec, QuantKind, QuantRule, Sample, Trait, register
from qcompiler.ops.linear import broadcast_shapes
from qcompiler.ops.rescale import share_or_requantize
from qcompiler.quantization import qmath
from qcompiler.types import TensorType, tensor

_SHARED = QuantRule(QuantKind.SHARES_INPUT)
_X = (OperandSpec("x"),)


def _sizes(shape: Sequence[int | str]) -> list[DimLike]:
    return [parse_dim(size) if isinstance(size, str) else size for size in shape]


def _product(sizes: Sequence[DimLike]) -> DimLike:
    total: DimLike = 1
    for size in sizes:
        total = total * size
    return total


def moves(name: str, doc: str, infer: Callable[..., tuple], reference: Callable[..., np.ndarray], attrs: tuple[AttrSpec, ...],
          samples: Sequence[tuple[tuple[int, ...], dict]]) -> None:
    """Declare an op of one operand that only moves elements. `infer(shape, **attrs)` gives the result's shape."""
    register(OpDef(
        name=name, doc=doc, family="shape", operands=_X, attrs=attrs,
        infer=lambda x, **attrs: TensorType(x.dtype, tuple(infer(x.shape, **attrs))), reference=reference, quant=_SHARED,
        traits=frozenset({Trait.MOVES_DATA}),
        samples=lambda: [Sample((tensor("f32", *shape),), given) for shape, given in samples],
    ))


def _reshape(source: tuple, shape) -> list[DimLike]:
    sizes = _sizes(shape)
    unknown = [i for i, size in enumerate(sizes) if not isinstance(size, Dim) and size == -1]
    if len(unknown) > 1:
        raise ShapeError("reshape solves one -1 only", got=str(shape))
    total = _product(source)
    if unknown:
        rest = _product([size for i, size in enumerate(sizes) if i != unknown[0]])
        if not isinstance(rest, Dim) and rest == 0:
            raise ShapeError("reshape cannot solve -1 beside a size 0", got=str(shape))
        sizes[unknown[0]] = total // rest
    if _product(sizes) != total:
        raise ShapeError("reshape keeps the number of elements", expected=f"{total} elements", got=f"[{','.join(map(str, sizes))}]")
    return sizes


moves("reshape", "Another shape of as many elements, row-major. One -1 is solved.", _reshape,
      lambda x, shape: np.reshape(x, shape), (AttrSpec("shape", "shape", REQUIRED),),
      [((2, 3, 4), {"shape": (6, 4)}), ((2, 3, 4), {"shape": (2, -1)}), ((8,), {"shape": (2, 2, 2)}), ((1, 5, 1, 1), {"shape": (1, 5)}),
       ((4, 4), {"shape": (16,)})])


def _permuted(shape: tuple, perm) -> list[DimLike]:
    if sorted(perm) != list(range(len(shape))):
        raise ShapeError("perm of transpose", expected=f"a permutation of 0..{len(shape) - 1}", got=str(perm))
    return [shape[axis] for axis in perm]


moves("transpose", "Axes in another order; result axis i is operand axis perm[i].", _permuted, lambda x, perm: np.transpose(x, perm),
      (AttrSpec("perm", "ints", REQUIRED),),
      [((2, 3), {"perm": (1, 0)}), ((2, 3, 4), {"perm": (0, 2, 1)}), ((1, 2, 3, 4), {"perm": (0, 2, 3, 1)}), ((3, 1, 2), {"perm": (2, 0, 1)}),
       ((5,), {"perm": (0,)})])


def _slice_sizes(shape: tuple, axes, starts, stops, steps) -> list[DimLike]:
    if not len(axes) == len(starts) == len(stops) == len(steps):
        raise ShapeError("slice: one start, stop and step an axis", expected=len(axes), got=f"{starts}, {stops}, {steps}")
    sizes = list(shape)
    for axis, start, stop, step in zip(axes, starts, stops, steps):
        if not 0 <= axis < len(shape) or step == 0:
            raise ShapeError("axis or step of slice", expected=f"axis 0..{len(shape) - 1}, step not 0", got=f"axis {axis}, step {step}")
        size = shape[axis]
        if isinstance(size, Dim):
            open_end = stop >= 2**31 - 1
            if step < 1 or start < 0 or (stop < 0 and not open_end):
                raise ShapeError("slice of a symbolic axis", expected="start >= 0, step >= 1", got=f"{start}:{stop}:{step} of {size}")
            sizes[axis] = -((start - size) // step) if open_end else -(-(stop - start) // step)
        else:
            sizes[axis] = len(range(*slice(start, stop, step).indices(size)))
    return sizes


def _slice(x: np.ndarray, axes, starts, stops, steps) -> np.ndarray:
    index = [slice(None)] * x.ndim
    for axis, start, stop, step in zip(axes, starts, stops, steps):
        index[axis] = slice(start, None if stop < -x.shape[axis] else stop, step)
    return x[tuple(index)]


moves("slice", "x[start:stop:step] along some axes; Python's rules, stop may exceed the size.", _slice_sizes, _slice,
      tuple(AttrSpec(n, "ints", REQUIRED) for n in ("axes", "starts", "stops", "steps")),
      [((6, 4), {"axes": (0,), "starts": (1,), "stops": (5,), "steps": (2,)}), ((3, 8), {"axes": (1,), "starts": (2,), "stops": (99,), "steps": (1,)}),
       ((2, 3, 4), {"axes": (0, 2), "starts": (0, 1), "stops": (1, 3), "steps": (1, 1)}),
       ((5,), {"axes": (0,), "starts": (-3,), "stops": (5,), "steps": (1,)}), ((1, 33), {"axes": (1,), "starts": (0,), "stops": (17,), "steps": (1,)})])


def _infer_concat(*xs: TensorType, axis: int) -> TensorType:
    first = xs[0]
    if not 0 <= axis < first.rank:
        raise ShapeError("axis of concat", expected=f"0..{first.rank - 1}", got=axis)
    total: DimLike = 0
    for x in xs:
        if x.rank != first.rank or any(a != b for i, (a, b) in enumerate(zip(x.shape, first.shape)) if i != axis):
            raise ShapeError("operands of concat differ off the axis", expected=str(first), got=str(x))
        total = total + x.shape[axis]
    return TensorType(first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1:]))


register(OpDef(
    name="concat", doc="Operands one after another along `axis`.", family="shape", operands=(OperandSpec("xs", variadic=True),),
    attrs=(AttrSpec("axis", "int", REQUIRED),), infer=_infer_concat, reference=lambda *xs, axis: np.concatenate(xs, axis),
    integer=lambda arrays, types, out, axis: np.concatenate(
        [share_or_requantize(a, t, out) for a, t in zip(arrays, types)], axis),
    quant=_SHARED, traits=frozenset({Trait.MOVES_DATA}),
    samples=lambda: [Sample(tuple(tensor("f32", *s) for s in shapes), {"axis": axis}) for shapes, axis in (
        (((1, 3, 4, 4), (1, 5, 4, 4)), 1), (((2, 3), (1, 3)), 0), (((4,), (5,), (1,)), 0), (((1, 2, 3), (1, 2, 1)), 2), (((2, 2),), 1))],
))


def _padded_sizes(shape: tuple, padding, mode, value) -> list[DimLike]:
    if len(padding) != len(shape):
        raise ShapeError("padding of pad", expected=f"{len(shape)} pairs", got=str(padding))
    return [size + before + after for size, (before, after) in zip(shape, padding)]


def _pad(x: np.ndarray, padding, mode: str, value: float) -> np.ndarray:
    crop = tuple(slice(max(0, -a), x.shape[i] - max(0, -b)) for i, (a, b) in enumerate(padding))
    grown = [(max(0, a), max(0, b)) for a, b in padding]
    if mode == "constant":
        return np.pad(x[crop], grown, constant_values=value)
    return np.pad(x[crop], grown, mode=mode)


def _pad_integer(arrays, types, out: TensorType, *, padding, mode, value) -> np.ndarray:
    fill = int(qmath.quantize(np.float32([value]), types[0].quant, types[0].dtype)[0])
    return share_or_requantize(_pad(arrays[0], padding, mode, fill), types[0], out)


register(OpDef(
    name="pad", doc="A border on any axis: constant, reflect or edge; negative sizes crop.", family="shape", operands=_X,
    attrs=(AttrSpec("padding", "pairs", REQUIRED), AttrSpec("mode", "str", "constant", choices=("constant", "reflect", "edge")),
           AttrSpec("value", "float", 0.0)),
    infer=lambda x, padding, mode, value: TensorType(x.dtype, tuple(_padded_sizes(x.shape, padding, mode, value))),
    reference=_pad, integer=_pad_integer, quant=_SHARED, traits=frozenset({Trait.MOVES_DATA}),
    samples=lambda: [
        Sample((tensor("f32", 1, 2, 4, 4),), {"padding": ((0, 0), (0, 0), (1, 2), (1, 0))}), Sample((tensor("f32", 5),), {"padding": ((2, 1),), "mode": "reflect"}),
        Sample((tensor("f32", 3, 4),), {"padding": ((1, 1), (0, 2)), "mode": "edge"}), Sample((tensor("f32", 6),), {"padding": ((-1, 2),), "value": 0.5}),
        Sample((tensor("f32", 2, 3),), {"padding": ((0, 0), (0, 0))})],
))


def _expanded(shape: tuple, target) -> list[DimLike]:
    sizes = _sizes(target)
    if broadcast_shapes(shape, tuple(sizes), "expand") != tuple(sizes):
        raise ShapeError("expand", expected=f"a shape that [{','.join(map(str, shape))}] broadcasts to", got=str(target))
    return sizes


moves("expand", "numpy broadcasting to a larger shape.", lambda source, shape: _expanded(source, shape),
      lambda x, shape: np.ascontiguousarray(np.broadcast_to(x, shape)), (AttrSpec("shape", "shape", REQUIRED),),
      [((1, 3), {"shape": (4, 3)}), ((3, 1, 1), {"shape": (2, 3, 4, 4)}), ((5,), {"shape": (5,)}), ((1,), {"shape": (7,)}), ((2, 1), {"shape": (2, 9)})])


def _infer_shuffle(shape: tuple, factor: int) -> list[DimLike]:
    if len(shape) != 4 or factor < 1 or (not isinstance(shape[1], Dim) and shape[1] % (factor * factor)):
        raise ShapeError("pixel_shuffle", expected=f"[N, C*{factor}*{factor}, H, W]", got=str(shape))
    return [shape[0], shape[1] // (factor * factor), shape[2] * factor, shape[3] * factor]


def _pixel_shuffle(x: np.ndarray, factor: int) -> np.ndarray:
    n, c, h, w = x.shape
    split = x.reshape(n, c // factor**2, factor, factor, h, w).transpose(0, 1, 4, 2, 5, 3)
    return np.ascontiguousarray(split).reshape(n, c // factor**2, h * factor, w * factor)


moves("pixel_shuffle", "Channels to space: [N, C*r*r, H, W] to [N, C, H*r, W*r].", _infer_shuffle, _pixel_shuffle,
      (AttrSpec("factor", "int", REQUIRED),), [((1, 4, 3, 3), {"factor": 2}), ((2, 9, 2, 1), {"factor": 3}), ((1, 8, 1, 1), {"factor": 2}),
                                              ((1, 3, 2, 2), {"factor": 1}), ((1, 16, 4, 5), {"factor": 4})])


def _infer_unshuffle(shape: tuple, factor: int) -> list[DimLike]:
    if len(shape) != 4 or factor < 1 or any(not isinstance(s, Dim) and s % factor for s in shape[2:]):
        raise ShapeError("pixel_unshuffle", expected=f"H and W multiples of {factor}", got=str(shape))
    return [shape[0], shape[1] * factor * factor, shape[2] // factor, shape[3] // factor]


def _pixel_unshuffle(x: np.ndarray, factor: int) -> np.ndarray:
    n, c, h, w = x.shape
    split = x.reshape(n, c, h // factor, factor, w // factor, factor).transpose(0, 1, 3, 5, 2, 4)
    return np.ascontiguousarray(split).reshape(n, c * factor**2, h // factor, w // factor)


moves("pixel_unshuffle", "Space to channels: the inverse of pixel_shuffle.", _infer_unshuffle, _pixel_unshuffle,
      (AttrSpec("factor", "int", REQUIRED),), [((1, 1, 4, 4), {"factor": 2}), ((2, 1, 6, 3), {"factor": 3}), ((1, 2, 2, 2), {"factor": 2}),
                                              ((1, 3, 2, 2), {"factor": 1}), ((1, 1, 8, 8), {"factor": 4})])


def _check_groups(shape: tuple, groups: int) -> tuple:
    if groups < 1 or (not isinstance(shape[1], Dim) and shape[1] % groups):
        raise ShapeError("groups of channel_shuffle", expected=f"a divisor of {shape[1]}", got=groups)
    return shape


moves("channel_shuffle", "Channels [g, C/g] transposed to [C/g, g].", _check_groups,
      lambda x, groups: np.ascontiguousarray(x.reshape(x.shape[0], groups, -1, *x.shape[2:]).swapaxes(1, 2)).reshape(x.shape),
      (AttrSpec("groups", "int", REQUIRED),), [((1, 4, 3, 3), {"groups": 2}), ((2, 6, 2), {"groups": 3}), ((1, 8, 1, 1), {"groups": 4}),
                                              ((1, 3, 2, 2), {"groups": 1}), ((1, 9, 2, 2), {"groups": 3})])
moves("flip", "Reversed along some axes.", lambda shape, axes: shape, lambda x, axes: np.ascontiguousarray(np.flip(x, axes)),
      (AttrSpec("axes", "ints", REQUIRED),), [((4,), {"axes": (0,)}), ((2, 3), {"axes": (1,)}), ((2, 3, 4), {"axes": (0, 2)}), ((1, 5), {"axes": (0,)}),
                                             ((33,), {"axes": (0,)})])
moves("tile", "Repeated along every axis.", lambda shape, repeats: [s * r for s, r in zip(shape, repeats)], lambda x, repeats: np.tile(x, repeats),
      (AttrSpec("repeats", "ints", REQUIRED),), [((4,), {"repeats": (2,)}), ((2, 3), {"repeats": (1, 3)}), ((1, 1), {"repeats": (5, 7)}), ((3,), {"repeats": (1,)}),
                                                ((1, 2, 3), {"repeats": (2, 2, 2)})])
