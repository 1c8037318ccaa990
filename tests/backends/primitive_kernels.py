"""Kernels that run one primitive of a target, for the tests of all architectures."""

from __future__ import annotations

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.types import F32, I32, vector
from qcompiler.backends.target import Storage
from tests.backends.signatures import XY


@kernel
def narrow(b: KernelBuilder, a: XY, *, parts: int, lanes: int, storage: Storage) -> None:
    loaded = [b.load(vector(I32, lanes), a.x, disp=4 * lanes * part) for part in range(parts)]
    b.store(b.target.narrow(b, loaded, storage), a.y)


@kernel
def round_to_i32(b: KernelBuilder, a: XY) -> None:
    b.store(b.target.round_to_i32(b, b.load(vector(F32, 16), a.x)), a.y)
