"""The x86 instructions that kernels use by name, each declared once: feature, intrinsic, types, meaning in numpy.

Instructions that LLVM selects by itself from plain IR are not here: vcvtps2dq from `lrint`, vpmovdb from `trunc`,
vmaxps from fcmp and select, vpmovb2m from a comparison with zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qcompiler.backends.kernel_ir.types import I8, I16, I32, Type, vector
from qcompiler.backends.target import Instruction


def _saturate(x: np.ndarray, dtype: type) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.clip(x, info.min, info.max).astype(dtype)


def _dpbusd(acc: np.ndarray, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    products = x.view(np.uint8).astype(np.int64) * w.astype(np.int64)
    return (acc.astype(np.int64) + products.reshape(-1, 4).sum(axis=1)).astype(np.int32)


def _maddubs(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    products = x.view(np.uint8).astype(np.int32) * w.astype(np.int32)
    return _saturate(products.reshape(-1, 2).sum(axis=1), np.int16)


def _madd(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    products = x.astype(np.int64) * y.astype(np.int64)
    return products.reshape(-1, 2).sum(axis=1).astype(np.int32)


def _pshufb(table: np.ndarray, codes: np.ndarray) -> np.ndarray:
    rows, picks = table.reshape(-1, 16), codes.view(np.uint8).reshape(-1, 16)
    return (
        np.where(picks < 128, np.take_along_axis(rows, (picks & 15).astype(np.intp), axis=1), 0).astype(np.int8).ravel()
    )


def _permi2(low: np.ndarray, codes: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.concatenate([low, high])[codes.view(np.uint8) & 127]


def _adds_unsigned(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.minimum(x.view(np.uint8).astype(np.int32) + y.view(np.uint8), 255).astype(np.uint8).view(np.int8)


def _pack(dtype: type, element: type) -> Callable[..., np.ndarray]:
    def meaning(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        lanes = x.size * x.itemsize // 16  # packs work within 128-bit lanes: x's lane, then y's
        joined = np.concatenate([x.reshape(lanes, -1), y.reshape(lanes, -1)], axis=1)
        return _saturate(joined, dtype).view(element).ravel()

    return meaning


def _declare() -> list[Instruction]:
    def bytes_(size: int) -> Type:
        return vector(I8, size)

    def words(size: int) -> Type:
        return vector(I16, size // 2)

    def ints(size: int) -> Type:
        return vector(I32, size // 4)

    found = [
        Instruction(
            f"x86.vpdpbusd.{size * 8}", feature, f"llvm.x86.avx512.vpdpbusd.{size * 8}",
            (ints(size), bytes_(size), bytes_(size)), ints(size), _dpbusd,
            "acc + dot product of four u8 x i8 pairs, wraps",
        )
        for size, feature in ((64, "avx512vnni"), (32, "vnni256"))
    ]  # fmt: skip
    for size, feature, prefix, suffix in (
        (64, "avx512", "llvm.x86.avx512.", ".512"),
        (32, "avx2", "llvm.x86.avx2.", ""),
    ):
        b, h, i, wide = bytes_(size), words(size), ints(size), size * 8
        rows: list[tuple[str, tuple[str, str], tuple[Type, Type], Type, Callable[..., np.ndarray], str]] = [
            ("vpmaddubsw", ("pmaddubs.w", "pmadd.ub.sw"), (b, b), h, _maddubs, "u8 x i8, pair sums saturate in i16"),
            ("vpmaddwd", ("pmaddw.d", "pmadd.wd"), (h, h), i, _madd, "i16 products, pairs added in i32"),
            ("vpshufb", ("pshuf.b",) * 2, (b, b), b, _pshufb, "bytes of each 128-bit block by index; bit 7 gives 0"),
            ("vpackssdw", ("packssdw",) * 2, (i, i), h, _pack(np.int16, np.int16), "i32 to i16, saturated, by block"),
            ("vpackusdw", ("packusdw",) * 2, (i, i), h, _pack(np.uint16, np.int16), "i32 to u16, saturated, by block"),
            ("vpacksswb", ("packsswb",) * 2, (h, h), b, _pack(np.int8, np.int8), "i16 to i8, saturated, by block"),
            ("vpackuswb", ("packuswb",) * 2, (h, h), b, _pack(np.uint8, np.int8), "i16 to u8, saturated, by block"),
        ]
        for name, spellings, operands, result, meaning, doc in rows:
            llvm = prefix + spellings[0 if size == 64 else 1] + suffix
            found.append(Instruction(f"x86.{name}.{wide}", feature, llvm, operands, result, meaning, doc))
        generic = f"llvm.uadd.sat.v{size}i8"
        found.append(
            Instruction(f"x86.vpaddusb.{wide}", feature, generic, (b, b), b, _adds_unsigned, "u8 sum, saturated")
        )
    z = bytes_(64)
    found.append(
        Instruction(
            "x86.vpermi2b.512", "vbmi", "llvm.x86.avx512.vpermi2var.qi.512", (z, z, z), z, _permi2,
            "bytes of 128 (first and third operand) by the low seven bits of the second",
        )
    )  # fmt: skip
    return found


INSTRUCTIONS: dict[str, Instruction] = {each.name: each for each in _declare()}
