"""The AArch64 instructions that kernels use by name, each declared once: feature, intrinsic, types, meaning in numpy.

Instructions that LLVM selects by itself from plain IR are not here: fmla from `fma`, zip1 and zip2 from shuffles, xtn
from `trunc`, sadalp from saddlp and an addition, and multiplications by one element of a register from a splat.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qcompiler.backends.kernel_ir.types import I8, I16, I32, vector
from qcompiler.backends.target import Instruction

_B16, _B8, _H8, _H4, _S4 = vector(I8, 16), vector(I8, 8), vector(I16, 8), vector(I16, 4), vector(I32, 4)


def _dot(x_type: type, w_type: type) -> Callable[..., np.ndarray]:
    def meaning(acc: np.ndarray, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        products = x.view(x_type).astype(np.int64) * w.view(w_type).astype(np.int64)
        return (acc.astype(np.int64) + products.reshape(-1, 4).sum(axis=1)).astype(np.int32)

    return meaning


def _usmmla(acc: np.ndarray, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    products = x.view(np.uint8).astype(np.int64).reshape(2, 8) @ w.astype(np.int64).reshape(2, 8).T
    return (acc.astype(np.int64) + products.reshape(-1)).astype(np.int32)


def _multiply(result: type) -> Callable[..., np.ndarray]:
    return lambda x, y: (x.astype(np.int64) * y.astype(np.int64)).astype(result)


def _pairs(read: type, result: type) -> Callable[..., np.ndarray]:
    return lambda x: x.view(read).astype(np.int64).reshape(-1, 2).sum(axis=1).astype(result)


def _addp(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.concatenate([x, y]).astype(np.int64).reshape(-1, 2).sum(axis=1).astype(np.int32)


def _sqxtn(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -(2**15), 2**15 - 1).astype(np.int16)


def _tbl(*parts: np.ndarray) -> np.ndarray:
    *rows, codes = parts
    table = np.concatenate([*rows, np.zeros(256 - 64, np.int8)])
    return table[codes.view(np.uint8)]


def _tbx(old: np.ndarray, *parts: np.ndarray) -> np.ndarray:
    return np.where(parts[-1].view(np.uint8) < 64, _tbl(*parts), old)


_DECLARED = (
    Instruction(
        "arm.sdot",
        "dotprod",
        "llvm.aarch64.neon.sdot.v4i32.v16i8",
        (_S4, _B16, _B16),
        _S4,
        _dot(np.int8, np.int8),
        "four products of signed bytes added to each i32",
    ),
    Instruction(
        "arm.udot",
        "dotprod",
        "llvm.aarch64.neon.udot.v4i32.v16i8",
        (_S4, _B16, _B16),
        _S4,
        _dot(np.uint8, np.uint8),
        "four products of unsigned bytes added to each i32",
    ),
    Instruction(
        "arm.usdot",
        "i8mm",
        "llvm.aarch64.neon.usdot.v4i32.v16i8",
        (_S4, _B16, _B16),
        _S4,
        _dot(np.uint8, np.int8),
        "four products of unsigned by signed bytes added to each i32",
    ),
    Instruction(
        "arm.usmmla",
        "i8mm",
        "llvm.aarch64.neon.usmmla.v4i32.v16i8",
        (_S4, _B16, _B16),
        _S4,
        _usmmla,
        "2 x 8 unsigned bytes times the transpose of 2 x 8 signed bytes, added to the 2 x 2 i32",
    ),
    Instruction(
        "arm.smull.b",
        "neon",
        "llvm.aarch64.neon.smull.v8i16",
        (_B8, _B8),
        _H8,
        _multiply(np.int16),
        "products of signed bytes: at most 16384 in size",
    ),
    Instruction(
        "arm.smull.h", "neon", "llvm.aarch64.neon.smull.v4i32", (_H4, _H4), _S4, _multiply(np.int32), "products of i16"
    ),
    Instruction(
        "arm.saddlp.h",
        "neon",
        "llvm.aarch64.neon.saddlp.v4i32.v8i16",
        (_H8,),
        _S4,
        _pairs(np.int16, np.int32),
        "sums of neighbouring i16",
    ),
    Instruction(
        "arm.uaddlp.b",
        "neon",
        "llvm.aarch64.neon.uaddlp.v8i16.v16i8",
        (_B16,),
        _H8,
        _pairs(np.uint8, np.int16),
        "sums of neighbouring unsigned bytes",
    ),
    Instruction(
        "arm.uaddlp.h",
        "neon",
        "llvm.aarch64.neon.uaddlp.v4i32.v8i16",
        (_H8,),
        _S4,
        _pairs(np.uint16, np.int32),
        "sums of neighbouring unsigned i16",
    ),
    Instruction(
        "arm.addp", "neon", "llvm.aarch64.neon.addp.v4i32", (_S4, _S4), _S4, _addp, "sums of neighbours of x, then of y"
    ),
    Instruction("arm.sqxtn", "neon", "llvm.aarch64.neon.sqxtn.v4i16", (_S4,), _H4, _sqxtn, "i32 to i16, saturating"),
    Instruction(
        "arm.tbl4",
        "neon",
        "llvm.aarch64.neon.tbl4.v16i8",
        (_B16,) * 5,
        _B16,
        _tbl,
        "64 entries by code; 0 for other codes",
    ),
    Instruction(
        "arm.tbx4",
        "neon",
        "llvm.aarch64.neon.tbx4.v16i8",
        (_B16,) * 6,
        _B16,
        _tbx,
        "64 entries by code; else what was there",
    ),
)
INSTRUCTIONS: dict[str, Instruction] = {instruction.name: instruction for instruction in _DECLARED}
