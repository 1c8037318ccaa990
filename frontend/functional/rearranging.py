"""Resizing, padding and rearranging; and torch's functions that are methods or operators elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qcompiler.arguments import described
from qcompiler.errors import TraceError, nearest
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import indexing
from qcompiler.frontend.array_ops import binary, rank
from qcompiler.frontend.functional.calling import emit, traceable
from qcompiler.frontend.recorder import shape_entry
from qcompiler.frontend.sizes import Size
from qcompiler.frontend.source import user_place

_RESIZE_MODES = ("nearest", "nearest-exact", "linear", "bilinear", "trilinear")


@traceable
def interpolate(
    x: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    """Resize the spatial axes to `size`, or by `scale_factor`."""
    if mode not in _RESIZE_MODES or antialias:
        raise TraceError(
            "interpolate: unsupported mode" + (" (antialias)" if antialias else ""),
            where=user_place(),
            got=mode,
            hint=nearest(mode, _RESIZE_MODES),
        )
    if (size is None) == (scale_factor is None):
        raise TraceError("interpolate needs either size or scale_factor", where=user_place())
    x = ops.single(x, "interpolate")
    spatial = rank(x) - 2
    attrs: dict[str, Any] = {"mode": "nearest" if mode.startswith("nearest") else "bilinear", "arithmetic": "multiply"}
    if mode.startswith("nearest"):
        exact = mode == "nearest-exact"
        attrs["coordinates"] = "half_pixel" if exact else "asymmetric"
        attrs["rounding"] = "round_prefer_ceil" if exact else "floor"
    else:
        attrs["coordinates"] = "align_corners" if align_corners else "half_pixel"
    if size is not None:
        listed = tuple(size) if isinstance(size, (tuple, list)) else (size,) * spatial
        if len(listed) != spatial:
            raise TraceError(f"size: one int, or one for each of {spatial} axes", where=user_place(), got=size)
        attrs["size"] = tuple(shape_entry(item) for item in listed)
    else:
        listed = tuple(scale_factor) if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * spatial
        if any(isinstance(factor, str) or not hasattr(factor, "__float__") for factor in listed):
            raise TraceError("scale_factor: numbers", where=user_place(), got=described(scale_factor))
        factors = tuple(float(factor) for factor in listed)
        if recompute_scale_factor:
            attrs["size"] = tuple(int(ops.static_size(x, 2 + i, "interpolate") * f) for i, f in enumerate(factors))
        else:
            attrs["scales"] = factors
    return emit("resize", x, **attrs)


upsample = interpolate


@traceable
def pad(x: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """torch's pad: pairs (before, after) from the last axis on, in mode constant, reflect, replicate or circular.

    Negative amounts crop. Amounts that are computed from open sizes stay symbolic in mode constant.
    """
    if len(pad) % 2 or len(pad) > 2 * rank(x):
        raise TraceError(
            "pad takes two amounts an axis", where=user_place(), expected=f"at most {2 * rank(x)} ints", got=list(pad)
        )
    amounts = [amount if isinstance(amount, Size) and mode == "constant" else int(amount) for amount in pad]
    pairs = [(amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)][::-1]
    pairs = [(0, 0)] * (rank(x) - len(pairs)) + pairs
    crops = {
        i: slice(-before if before < 0 else 0, after if after < 0 else None)
        for i, (before, after) in enumerate(pairs)
        if before < 0 or after < 0
    }
    if crops:
        x = indexing.slice_axes(x, crops)
        pairs = [(0 if before < 0 else before, 0 if after < 0 else after) for before, after in pairs]
    if mode == "circular":
        for axis, (before, after) in enumerate(pairs):
            parts = ([indexing.slice_axes(x, {axis: slice(-before, None)})] if before else []) + [x]
            parts += [indexing.slice_axes(x, {axis: slice(0, after)})] if after else []
            x = ops.concat(parts, axis)
        return x
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if mode not in modes:
        raise TraceError("pad: unknown mode", where=user_place(), got=mode, hint=nearest(mode, [*modes, "circular"]))
    return ops.pad(x, pairs, modes[mode], value or 0.0)


@traceable
def pixel_shuffle(x: Any, upscale_factor: int) -> Any:
    return emit("pixel_shuffle", x, factor=int(upscale_factor))


@traceable
def pixel_unshuffle(x: Any, downscale_factor: int) -> Any:
    return emit("pixel_unshuffle", x, factor=int(downscale_factor))


@traceable
def channel_shuffle(x: Any, groups: int) -> Any:
    return emit("channel_shuffle", x, groups=int(groups))


@traceable
def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """torch.flatten."""
    return ops.flatten(x, start_dim, end_dim)


@traceable
def add(x: Any, y: Any, *, alpha: float = 1) -> Any:
    """torch.add: x + alpha * y."""
    return binary("add", x, y if alpha == 1 else binary("mul", y, alpha))


@traceable
def mul(x: Any, y: Any) -> Any:
    return binary("mul", x, y)


@traceable
def cat(xs: Sequence[Any], dim: int = 0) -> Any:
    return ops.concat(list(xs), dim)


@traceable
def stack(xs: Sequence[Any], dim: int = 0) -> Any:
    return ops.stack(list(xs), dim)


@traceable
def matmul(x: Any, y: Any) -> Any:
    return ops.matmul(x, y)
