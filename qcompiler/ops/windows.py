"""Sliding windows: output sizes and views shared by convolution and pooling. Works on ints and Dims."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcompiler.dims import Dim, DimLike
from qcompiler.errors import ShapeError
from qcompiler.types import MAX_ELEMENTS

Pairs = Sequence[tuple[int, int]]


def check_geometry(op: str, spatial: int, **attrs: Sequence[object]) -> None:
    """ShapeError unless every attr has one entry per spatial axis, none so large that positions could leave 64 bits.
    It names the attr that is wrong."""
    for name, value in attrs.items():
        if len(value) != spatial:
            raise ShapeError(f"{name} of {op}", expected=f"{spatial} entries", got=str(value)[:200])
        numbers = [number for entry in value for number in (entry if isinstance(entry, tuple) else (entry,))]
        if any(isinstance(number, int) and number > MAX_ELEMENTS for number in numbers):
            raise ShapeError(f"{name} of {op} is too large", expected=f"at most {MAX_ELEMENTS}", got=str(value)[:200])


def output_size(
    size: DimLike, kernel: int, stride: int, padding: tuple[int, int], dilation: int, ceil_mode: bool = False
) -> DimLike:
    """Windows along one axis, with extent = dilation * (kernel - 1) + 1 and span = size + before + after - extent:

        floor: span // stride + 1
        ceil:  torch lets the last window reach past the end if it starts inside the input or the padding before it:
               min((span + stride - 1) // stride, (size + before - 1) // stride) + 1. The numerators differ by a
               constant, so the smaller one is known for a symbolic size too.

    Raises:
        ShapeError: no window fits; a kernel, stride or dilation below 1; negative padding.
    """
    if stride < 1 or dilation < 1 or kernel < 1:
        raise ShapeError("stride, dilation and kernel are positive", got=f"{stride}, {dilation}, {kernel}")
    if min(padding) < 0:
        raise ShapeError("padding is not negative", got=str(padding))
    extent = dilation * (kernel - 1) + 1
    span = size + padding[0] + padding[1] - extent
    if not ceil_mode:
        reach = span
    elif padding[1] - extent + stride > 0:  # the first numerator minus the second
        reach = size + padding[0] - 1
    else:
        reach = span + stride - 1
    if not isinstance(reach, Dim) and reach < 0:
        raise ShapeError("the window is larger than the padded input", expected=f"at least {extent}", got=span + extent)
    return reach // stride + 1


def output_sizes(
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    ceil_mode: bool = False,
) -> list[int]:
    """Windows along each spatial axis of an array [N, C, *S]."""
    sizes = [output_size(*axis, ceil_mode) for axis in zip(shape[2:], kernel, stride, padding, dilation)]
    return [size for size in sizes if isinstance(size, int)]


def windows(
    x: np.ndarray,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    outputs: Sequence[int],
    fill: float | int,
) -> np.ndarray:
    """x [N, C, *S] -> view [N, C, *outputs, *kernel]; padding (and what ceil_mode needs beyond) holds `fill`."""
    pads = [(0, 0), (0, 0)]
    for axis, out in enumerate(outputs):
        need = (out - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        before = padding[axis][0]
        pads.append((before, max(padding[axis][1], need - before - x.shape[axis + 2])))
    padded = np.pad(x, pads, constant_values=fill) if any(p != (0, 0) for p in pads) else x
    strides = padded.strides
    spatial = len(outputs)
    return np.lib.stride_tricks.as_strided(
        padded,
        (*padded.shape[:2], *outputs, *kernel),
        (
            *strides[:2],
            *(strides[i + 2] * stride[i] for i in range(spatial)),
            *(strides[i + 2] * dilation[i] for i in range(spatial)),
        ),
        writeable=False,
    )


def windows_at(
    x: np.ndarray,
    picked: Sequence[np.ndarray],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
) -> np.ndarray:
    """Some windows of x [N, C, *S], as [windows, C, *kernel]; zeros outside of x.

    picked: for each window the index of its sample, and the indices of its output along the spatial axes.
    """
    spatial, count = len(kernel), len(picked[0])
    inside: np.ndarray | None = None
    places = []
    for axis, index in enumerate(picked[1:]):
        size, shape = x.shape[axis + 2], (count, *[1] * axis, kernel[axis], *[1] * (spatial - 1 - axis))
        taps = np.arange(0, kernel[axis] * dilation[axis], dilation[axis]) - padding[axis][0]
        place = (index * stride[axis])[:, None] + taps
        if any(padding[axis]):
            within = (place >= 0) & (place < size)
            inside = within.reshape(shape) if inside is None else inside & within.reshape(shape)
            place = np.minimum(np.maximum(place, 0), size - 1)
        places.append(place.reshape(shape))
    channels_last = (0, *range(2, 2 + spatial), 1)
    found = x.transpose(channels_last)[picked[0].reshape(-1, *[1] * spatial), *places]
    if inside is not None:
        found[~np.broadcast_to(inside, found.shape[:-1])] = 0
    return found.transpose(0, 1 + spatial, *range(1, 1 + spatial))
