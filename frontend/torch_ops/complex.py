"""Complex numbers inside a torch module, as pairs of real arrays: rotary embeddings and Fourier transforms.

Inputs and results of a module are real. Ops that move elements, sums and products take complex operands here; other
ops refuse them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompiler.dims import Dim
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend import indexing
from qcompiler.frontend.array_ops import binary, dims, lift, rank, unary
from qcompiler.frontend.ranges import arange, size_value
from qcompiler.frontend.sizes import Size
from qcompiler.frontend.torch_ops.sizes import CHECKS
from qcompiler.frontend.torch_ops.table import Meaning, aten, unsupported
from qcompiler.types import DType


@dataclass(frozen=True)
class Complex:
    """A complex array: two real ones of one shape."""

    real: Any
    imag: Any

    def map(self, function: Callable[[Any], Any]) -> Complex:
        """A function that is linear and real, of each part."""
        return Complex(function(self.real), function(self.imag))


def product(x: Any, y: Any) -> Complex:
    """The product of two arrays, one of which is complex."""
    if not isinstance(x, Complex):
        x, y = y, x
    if not isinstance(y, Complex):
        return x.map(lambda part: binary("mul", part, y))
    real = binary("sub", binary("mul", x.real, y.real), binary("mul", x.imag, y.imag))
    return Complex(real, binary("add", binary("mul", x.real, y.imag), binary("mul", x.imag, y.real)))


_PART_BY_PART = frozenset(
    f"aten.{name}"
    for names in (
        "view.default reshape.default _unsafe_view.default flatten.using_ints unsqueeze.default squeeze.default",
        "squeeze.dim squeeze.dims expand.default permute.default transpose.int select.int slice.Tensor narrow.default",
        "index.Tensor index_select.default cat.default stack.default repeat.default clone.default alias.default",
        "contiguous.default detach.default roll.default flip.default neg.default chunk.default split.Tensor",
    )
    for name in names.split()
)
_SUMS = frozenset({"aten.add.Tensor", "aten.sub.Tensor"})
_PRODUCTS = frozenset({"aten.mul.Tensor", "aten.mul.Scalar"})
_CASTS = frozenset(f"aten.{name}" for name in ("_to_copy.default", "to.dtype", "to.dtype_layout", "to.device"))


def from_real(x: Any) -> Complex:
    """A real array as a complex one."""
    return Complex(x, ops.expand(lift(0.0), dims(x)))


def meaning_of(name: str, meaning: Meaning, leaves: Sequence[Any]) -> Meaning:
    """What an op means with complex operands, or with a complex dtype among its arguments.

    Raises:
        TraceError: it has no such meaning.
    """
    if not any(isinstance(leaf, Complex) for leaf in leaves):
        is_cast = name in _CASTS and any(str(leaf).startswith("torch.complex") for leaf in leaves)
        return (lambda x, *args, **kwargs: from_real(x)) if is_cast else meaning
    if name in _PRODUCTS:
        return product
    if name in _CASTS:
        return lambda x, *args, **kwargs: x
    if name in _PART_BY_PART or name in _SUMS:
        return lambda *args, **kwargs: _by_parts(meaning, name in _SUMS, args, kwargs)
    if name in READERS or name in CHECKS:
        return meaning
    raise unsupported(f"{name} of complex numbers is not supported")


def _by_parts(meaning: Meaning, sums: bool, args: Any, kwargs: Any) -> Any:
    if sums and not all(isinstance(arg, Complex) for arg in args[:2]):
        args = [arg if isinstance(arg, Complex) else Complex(arg, 0.0) for arg in args]
    found = [meaning(*_part(args, name), **_part(kwargs, name)) for name in ("real", "imag")]
    if isinstance(found[0], (tuple, list)):
        return tuple(Complex(real, imag) for real, imag in zip(*found))
    return Complex(*found)


def _part(item: Any, name: str) -> Any:
    """Nested arguments with one part of each complex array."""
    if isinstance(item, Complex):
        return getattr(item, name)
    if isinstance(item, dict):
        return {key: _part(value, name) for key, value in item.items()}
    return type(item)(_part(value, name) for value in item) if isinstance(item, (tuple, list)) else item


# -- between real and complex

aten("view_as_complex")(lambda x: Complex(indexing.select(x, -1, 0), indexing.select(x, -1, 1)))
aten("complex")(Complex)
aten("polar")(lambda size, angle: Complex(*(binary("mul", size, unary(op, angle)) for op in ("cos", "sin"))))
aten("view_as_real", "view_as_real_copy")(lambda x: ops.stack([x.real, x.imag], -1))
aten("real")(lambda x: x.real if isinstance(x, Complex) else x)
aten("imag")(lambda x: x.imag)
aten("_conj", "conj", "_conj_physical")(lambda x: Complex(x.real, unary("neg", x.imag)))
aten("resolve_conj", "resolve_neg")(lambda x: x)


# -- Fourier transforms


@aten("_fft_c2c")
def _c2c(x: Complex, dim: Sequence[int], normalization: int, forward: bool) -> Complex:
    for axis in dim:
        x = _transformed(x, axis, forward)
    return _normalized(x, dim, normalization)


@aten("_fft_r2c")
def _r2c(x: Any, dim: Sequence[int], normalization: int, onesided: bool) -> Complex:
    """Forward transforms of real numbers; `onesided` keeps the first half of the last axis of `dim`."""
    found = Complex(x, None)
    for axis in reversed(dim):
        found = _transformed(found, axis, True)
    found = _normalized(found, dim, normalization)
    if not onesided:
        return found
    last = ops.check_axis(dim[-1], rank(x), "fft")
    half = x.shape[last] // 2 + 1
    return found.map(lambda part: indexing.slice_axes(part, {last: slice(0, half)}))


def _transformed(x: Complex, axis: int, forward: bool) -> Complex:
    """The transform along one axis, as products with the matrices cos and sin of 2 pi k n / N."""
    axis = ops.check_axis(axis, rank(x.real), "fft")
    cos, sin = _waves(x.real, axis)
    sin = unary("neg", sin) if forward else sin

    def times(part: Any, wave: Any) -> Any:
        return ops.moveaxis(ops.matmul(ops.moveaxis(part, axis, -1), wave), -1, axis)

    if x.imag is None:
        return Complex(times(x.real, cos), times(x.real, sin))
    real = binary("sub", times(x.real, cos), times(x.imag, sin))
    return Complex(real, binary("add", times(x.real, sin), times(x.imag, cos)))


def _waves(x: Any, axis: int) -> tuple[Any, Any]:
    size = dims(x)[axis]
    if not isinstance(size, Dim):
        angles = np.outer(np.arange(size), np.arange(size)) % size * (2 * math.pi / size)
        return lift(np.cos(angles).astype(np.float32)), lift(np.sin(angles).astype(np.float32))
    places = arange(0, Size(size, x.trace))
    turns = binary("remainder", binary("mul", ops.expand_dims(places, 1), places), size_value(size, x.trace))
    angle = binary("mul", binary("div", turns, size_value(size, x.trace)), 2 * math.pi)
    return unary("cos", angle), unary("sin", angle)


def _normalized(x: Complex, dim: Sequence[int], normalization: int) -> Complex:
    """x as it is (0), divided by the root of the number of elements along `dim` (1), or by this number (2)."""
    if normalization == 0:
        return x
    count: Any = math.prod(dims(x.real)[axis] for axis in dim)
    total = ops.cast(size_value(count, x.real.trace), DType.F32)
    total = unary("sqrt", total) if normalization == 1 else total
    return x.map(lambda part: binary("div", part, total))


READERS = frozenset(
    f"aten.{name}.default"
    for name in (
        *("view_as_real", "view_as_real_copy", "real", "imag", "_conj", "conj", "_conj_physical"),
        *("resolve_conj", "resolve_neg", "_fft_c2c"),
    )
)
"""The ops here that take complex numbers."""
