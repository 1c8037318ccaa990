"""LLVM leaves few instructions beside the products in the inner loops of the matrix product, and does not spill to the
stack."""

from __future__ import annotations

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "benchmarks"))
try:
    from arm_static import hottest_loop
finally:
    sys.path.pop(0)

from qcompiler.backends.codegen.jit import disassemble
from qcompiler.backends.kernels import conv
from qcompiler.backends.target import parse_target

MOST = {"neon": ("smull", 3.0), "dotprod": ("sdot", 1.25), "i8mm": ("usmmla", 1.5)}
"""Level -> the instruction that multiplies, and how many instructions of all kinds there may be for each of it."""


@pytest.mark.parametrize("residual", [None, "u8", "i16"])
@pytest.mark.parametrize("level", MOST)
def test_the_tiles_of_large_products(level: str, residual: str | None) -> None:
    target, (name, most) = parse_target(f"aarch64-linux+{level}"), MOST[level]
    for mr, nv in target.gemm_tiles[:2]:
        for pairs in (False, True) if level == "neon" else (False,):
            loop = hottest_loop(
                disassemble(conv.conv_u8.build(target, mr=mr, nv=nv, residual=residual, proven=True, pairs=pairs))
            )
            assert name in loop.name and loop.macs % (mr * nv * 16) == 0, "the loop that was found is another"
            assert loop.stack == 0 and len(loop.instructions) <= most * loop.multiplies, f"{mr} x {nv}, pairs {pairs}"


@pytest.mark.parametrize("level", MOST)
def test_floats(level: str) -> None:
    target = parse_target(f"aarch64-linux+{level}")
    for mr, nv in target.gemm_tiles_f32[:2]:
        loop = hottest_loop(disassemble(conv.conv_f32.build(target, mr=mr, nv=nv, residual=False)))
        assert loop.name == "fmla" and loop.multiplies == 4 * mr * nv
        assert loop.stack == 0 and len(loop.instructions) <= 1.25 * loop.multiplies
