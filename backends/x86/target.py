"""x86-64: its levels, what the CPU has, and the primitives that kernels are written with.

The levels are `avx2` (AVX2, FMA3, F16C and the rest of x86-64-v3), `avxvnni` (AVX-VNNI), `avx512` (F, BW, DQ, VL, CD)
and `avx512vnni`. Each includes avx2, and avx512vnni includes avx512. VBMI is an extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.backends import host
from qcompiler.backends.kernel_ir.types import I8, I16, I32, Type, vector
from qcompiler.backends.levels import Extra, Level, Levels
from qcompiler.backends.llvm_lock import llvm_lock
from qcompiler.backends.target import Execution, Storage, Target, llvm_triple
from qcompiler.backends.x86.dialect import DIALECT
from qcompiler.backends.x86.instructions import INSTRUCTIONS
from qcompiler.errors import LoweringError, nearest

if TYPE_CHECKING:
    from qcompiler.backends.kernel_ir.builder import KernelBuilder
    from qcompiler.backends.kernel_ir.ir import Operand, Value


_V3 = ("avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe")
_V4 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")
_TILES_16 = ((6, 2), (4, 3), (12, 1), (1, 4))
_TILES_32 = ((14, 2), (13, 2), (12, 2), (10, 2), (7, 2), (9, 3), (7, 3), (6, 4), (28, 1), (8, 2), (4, 4), (1, 4))


@cache
def cpu_features() -> frozenset[str]:
    """LLVM's names of what this CPU and its OS support; empty on another architecture."""
    if host.arch() != "x86-64":
        return frozenset()
    import llvmlite.binding as llvm

    with llvm_lock:
        features = llvm.get_host_cpu_features()
    return frozenset(name for name, present in features.items() if present)


LEVELS = Levels(
    "x86-64",
    (
        Level(
            name="avx2",
            features=("avx2",),
            cpu="x86-64-v3",
            needs=_V3,
            vector_bytes=32,
            register_count=16,
            gemm_tiles=((5, 2), (4, 2), (10, 1), (3, 2), (2, 2), (1, 2)),
            gemm_tiles_f32=_TILES_16,
            has_pairwise_dot=True,
            multiplies_words=True,
        ),
        Level(
            name="avxvnni",
            features=("avx2", "avxvnni", "vnni256"),
            cpu="x86-64-v3",
            needs=(*_V3, "avxvnni"),
            vector_bytes=32,
            register_count=16,
            gemm_tiles=_TILES_16,
            gemm_tiles_f32=_TILES_16,
        ),
        Level(
            name="avx512",
            features=("avx2", "avx512"),
            cpu="x86-64-v4",
            needs=(*_V3, *_V4),
            vector_bytes=64,
            register_count=32,
            gemm_tiles=((5, 4), (9, 2), (8, 2), (4, 4), (5, 2), (12, 1), (2, 4), (1, 4)),
            gemm_tiles_f32=_TILES_32,
            has_pairwise_dot=True,
            multiplies_words=True,
        ),
        Level(
            name="avx512vnni",
            features=("avx2", "avx512", "avx512vnni", "vnni256"),
            cpu="x86-64-v4",
            needs=(*_V3, *_V4, "avx512vnni"),
            vector_bytes=64,
            register_count=32,
            gemm_tiles=_TILES_32,
            gemm_tiles_f32=_TILES_32,
        ),
    ),
    cpu_features,
    extras=(Extra("vbmi", level="avx512vnni", llvm="avx512vbmi"),),
)


@dataclass(frozen=True)
class X86Target(Target):
    """A level of x86-64."""

    arch = "x86-64"
    levels = LEVELS
    dialect = DIALECT
    instructions = MappingProxyType(INSTRUCTIONS)
    streams = True
    multiplies_memory = True
    pack_saturates = True

    @property
    def triple(self) -> str:
        return llvm_triple("x86_64", self.os)

    @property
    def llvm_features(self) -> str:
        extras = [extra.llvm for extra in self.levels.extras if self.has(extra.name)]
        used = dict.fromkeys((*self.row.needs, *extras))
        return ",".join([*(f"+{name}" for name in used), "-prefer-256-bit"])

    @property
    def function_attributes(self) -> str:
        bits = self.vector_bytes * 8
        return f'nounwind "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}"'

    def execution(self) -> Execution:
        return "native" if self.is_native() else "none"

    # -- primitives -----------------------------------------------------------------------------------------------

    @property
    def _bits(self) -> int:
        return self.vector_bytes * 8

    @property
    def _vnni(self) -> bool:
        """Whether there is vpdpbusd for whole registers."""
        return self.has("avx512vnni") if self.vector_bytes == 64 else self.has("vnni256")

    @property
    def dot4_registers(self) -> tuple[int, ...]:
        return (64, 32) if self.has("avx512vnni") else super().dot4_registers

    def masks(self, type: Type) -> bool:
        return self.has("avx512") or type.bits >= 32

    def dot4_weights(self, b: KernelBuilder, w: Value, *, pairwise: bool = False) -> tuple[Value, ...]:
        """VNNI and the pairwise sequence take bytes; otherwise the even and the odd bytes, sign-extended to i16."""
        if self._vnni or pairwise:
            return (w,)
        words = b.bitcast(w, vector(I16, self.vector_bytes // 2))
        return (words << 8) >> 8, words >> 8

    def dot4_activations(self, b: KernelBuilder, x: Value, *, pairwise: bool = False) -> tuple[Value, ...]:
        """VNNI and the pairwise sequence take bytes; otherwise the even and the odd bytes, zero-extended to i16."""
        if self._vnni or pairwise:
            return (x,)
        words = b.bitcast(x, vector(I16, self.vector_bytes // 2))
        return words & 255, b.lshr(words, 8)

    def dot4(self, b: KernelBuilder, acc: Value, x: Value | tuple[Value, ...], w: Value | tuple[Value, ...]) -> Value:
        """vpdpbusd. Without VNNI two vpmaddwd, each a sum of two products in i32, so nothing saturates."""
        xs = x if isinstance(x, tuple) else self.dot4_activations(b, x)
        ws = w if isinstance(w, tuple) else self.dot4_weights(b, w)
        if self._vnni:
            return b.instr(f"x86.vpdpbusd.{8 * acc.type.bytes}", acc, xs[0], ws[0])
        for x_part, w_part in zip(xs, ws):
            acc = acc + b.instr(f"x86.vpmaddwd.{self._bits}", x_part, w_part)
        return acc

    def sum4(self, b: KernelBuilder, acc: Value, x: Value) -> Value:
        """`dot4` with ones."""
        return self.dot4(b, acc, x, b.const(x.type, 1))

    def pairwise_dot_is_exact(self, weights: np.ndarray, highest: int = 255) -> bool:
        """x0 * w0 + x1 * w1 fits i16. Weights are examined in parts: if `highest` is 255, the first part nearly always
        decides."""
        if highest * 2 * 128 < 2**15:
            return True
        pairs, part = np.ascontiguousarray(weights).reshape(-1, 2), 1 << 14
        return all(
            _pairs_fit(pairs[first : first + part].astype(np.int32), highest) for first in range(0, len(pairs), part)
        )

    def dot4_pairwise(
        self, b: KernelBuilder, acc: Value, x: Value | tuple[Value, ...], w: Value | tuple[Value, ...]
    ) -> Value:
        """vpmaddubsw, whose sums saturate unless the weights are small, then vpmaddwd with ones. VNNI: `dot4`."""
        if self._vnni:
            return self.dot4(b, acc, x, w)
        (x,), (w,) = (part if isinstance(part, tuple) else (part,) for part in (x, w))
        pairs = b.instr(f"x86.vpmaddubsw.{self._bits}", x, w)
        ones = b.const(vector(I16, self.vector_bytes // 2), 1)
        return acc + b.instr(f"x86.vpmaddwd.{self._bits}", pairs, ones)

    def round_to_i32(self, b: KernelBuilder, x: Value) -> Value:
        """vcvtps2dq in the default rounding mode."""
        return b.convert("lrint", x, I32)

    def narrow(self, b: KernelBuilder, parts: Sequence[Value], storage: Storage) -> Value:
        """AVX2, whole registers: two packs, and one vpermd that reorders the 128-bit lanes. AVX-512: vpmovdb."""
        if storage not in ("u8", "i8"):
            raise LoweringError(f"no storage {storage!r}", hint=nearest(storage, ["u8", "i8"]))
        if self.vector_bytes == 32 and len(parts) == 4 and all(part.type is vector(I32, 8) for part in parts):
            return self._narrow_by_packs(b, parts, "us" if storage == "u8" else "ss")
        low, high = (0, 255) if storage == "u8" else (-128, 127)
        return b.concat([b.trunc(b.clamp(part, low, high), I8) for part in parts])

    def _narrow_by_packs(self, b: KernelBuilder, parts: Sequence[Value], sign: str) -> Value:
        halves = [b.instr("x86.vpackssdw.256", parts[0], parts[1]), b.instr("x86.vpackssdw.256", parts[2], parts[3])]
        packed = b.instr(f"x86.vpack{sign}wb.256", *halves)  # parts 0 1 2 3 of the low lanes, then of the high ones
        quads = b.shuffle(b.bitcast(packed, vector(I32, 8)), None, [0, 4, 1, 5, 2, 6, 3, 7])
        return b.bitcast(quads, vector(I8, 32))

    def pack_words(self, b: KernelBuilder, x: Value, y: Value) -> Value:
        """vpackssdw."""
        return b.instr(f"x86.vpackssdw.{8 * x.type.bytes}", x, y)

    def dot2(self, b: KernelBuilder, acc: Value, x: Value, y: Value) -> Value:
        """vpmaddwd."""
        return acc + b.instr(f"x86.vpmaddwd.{self._bits}", x, y)

    def pack_bytes(self, b: KernelBuilder, x: Value, y: Value) -> Value:
        """vpackuswb."""
        return b.instr(f"x86.vpackuswb.{8 * x.type.bytes}", x, y)

    def load_table(self, b: KernelBuilder, pointer: Value, offset: Operand = 0) -> list[Value]:
        """VBMI: four registers of 64 entries. Otherwise sixteen registers with 16 entries in every 128-bit lane."""
        if self.has("vbmi"):
            return [b.load(vector(I8, 64), pointer, offset, disp=64 * part) for part in range(4)]
        rows = [b.load(vector(I8, 16), pointer, offset, disp=16 * row) for row in range(16)]
        lanes = [lane % 16 for lane in range(self.vector_bytes)]
        return [b.shuffle(row, None, lanes) for row in rows]

    def make_table(self, b: KernelBuilder, entries: Sequence[Value]) -> list[Value]:
        """The same form as `load_table` gives."""
        if self.has("vbmi"):
            return list(entries)
        lanes = [lane % 16 for lane in range(self.vector_bytes)]
        return [
            b.shuffle(part, None, [start + lane for lane in lanes])
            for part in entries
            for start in range(0, self.vector_bytes, 16)
        ]

    @property
    def fast_lookup(self) -> bool:
        return self.has("vbmi")

    def lookup(self, b: KernelBuilder, table: Sequence[Value], codes: Value) -> Value:
        """VBMI: two vpermi2b and a blend by bit 7. Otherwise one vpshufb for each row of 16 entries, with the indices
        code - 16 * row + 0x70 (a saturating sum), which are below 128 only for the codes of that row."""
        if self.has("vbmi"):
            low, high = (b.instr("x86.vpermi2b.512", table[half], codes, table[half + 1]) for half in (0, 2))
            return b.select(codes < 0, high, low)
        shift = b.const(codes.type, 0x70)
        found = None
        for row, entries in enumerate(table):
            picks = b.instr(f"x86.vpaddusb.{self._bits}", codes - 16 * row, shift)
            part = b.instr(f"x86.vpshufb.{self._bits}", entries, picks)
            found = part if found is None else found | part
        assert found is not None
        return found


def _pairs_fit(pairs: np.ndarray, highest: int) -> bool:
    """Whether x0 * w0 + x1 * w1 fits i16 for every pair of weights and all x from 0 to `highest`. pairs: i32 [n, 2]."""
    above, below = np.maximum(pairs, 0).sum(axis=1).max(initial=0), np.minimum(pairs, 0).sum(axis=1).min(initial=0)
    return bool(highest * above < 2**15 and highest * below >= -(2**15))
