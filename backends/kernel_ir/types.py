"""Types of the kernel IR: signless integers, floats, pointers, and vectors of integers and floats.

Owns the types, and what they are called in LLVM and numpy. Types are interned: equal types are the same object.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from qcompiler.fork_safety import cached_property

_NUMPY = {
    "i1": np.bool_,
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "f32": np.float32,
    "f64": np.float64,
}
_UNSIGNED = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
_LLVM = {"f32": "float", "f64": "double"}


@dataclass(frozen=True)
class Type:
    """A scalar (lanes is 0) or a vector. kind: "i", "f" or "ptr"; bits: of one element."""

    kind: str
    bits: int
    lanes: int = 0

    @cached_property
    def name(self) -> str:
        """The printed form: `i32`, `ptr`, `<16 x f32>`."""
        scalar = "ptr" if self.kind == "ptr" else f"{self.kind}{self.bits}"
        return f"<{self.lanes} x {scalar}>" if self.lanes else scalar

    @cached_property
    def llvm(self) -> str:
        """The type in LLVM text."""
        scalar = _LLVM.get(self.element.name, self.element.name)
        return f"<{self.lanes} x {scalar}>" if self.lanes else scalar

    @cached_property
    def mangled(self) -> str:
        """The suffix of LLVM's overloaded intrinsics for the type: `v16i32`, `f32`, `p0`."""
        scalar = "p0" if self.kind == "ptr" else f"{self.kind}{self.bits}"
        return f"v{self.lanes}{scalar}" if self.lanes else scalar

    @property
    def element(self) -> Type:
        """The type of one lane; a scalar is its own element."""
        return _intern(self.kind, self.bits, 0) if self.lanes else self

    @property
    def is_int(self) -> bool:
        return self.kind == "i"

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_pointer(self) -> bool:
        return self.kind == "ptr"

    @property
    def count(self) -> int:
        """The number of lanes; 1 for a scalar."""
        return self.lanes or 1

    @cached_property
    def bytes(self) -> int:
        """The size in memory. `i1` and masks (vectors of `i1`) are never in memory."""
        return self.count * self.bits // 8

    @cached_property
    def numpy(self) -> np.dtype:
        """The numpy dtype of one lane; integers are signed."""
        return np.dtype(_NUMPY[self.element.name])

    @cached_property
    def unsigned(self) -> np.dtype:
        """The unsigned numpy dtype of one lane."""
        return np.dtype(_UNSIGNED[self.bits])

    def of(self, element: Type) -> Type:
        """The type with the same number of lanes and another element."""
        return _intern(element.kind, element.bits, self.lanes)

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


@cache
def _intern(kind: str, bits: int, lanes: int) -> Type:
    return Type(kind, bits, lanes)


def vector(element: Type, lanes: int) -> Type:
    """The vector type `<lanes x element>`; there are no vectors of pointers."""
    if element.lanes or element.is_pointer or lanes < 1:
        raise ValueError(f"no vector of {lanes} x {element}")
    return _intern(element.kind, element.bits, lanes)


I1 = _intern("i", 1, 0)
I8 = _intern("i", 8, 0)
I16 = _intern("i", 16, 0)
I32 = _intern("i", 32, 0)
I64 = _intern("i", 64, 0)
F32 = _intern("f", 32, 0)
F64 = _intern("f", 64, 0)
PTR = _intern("ptr", 64, 0)
