"""The inner loops of the matrix products do not touch the stack, and reach a floor of multiply-adds a cycle on the
pipelines of common CPUs, as llvm-mca models them.

On x86 the products without VNNI are bound by 2 ports for vpmaddwd and vpaddd on Intel (16 or 32 multiply-adds a cycle),
and by the number of instructions on Zen 3.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache

import pytest

from qcompiler.backends.codegen.jit import disassemble
from qcompiler.backends.kernels import conv, depthwise
from qcompiler.backends.kernels.recurrent import lstm
from qcompiler.backends.rules.recurrent import Packing
from qcompiler.backends.target import Target, parse_target
from tests.backends.inner_loops import InnerLoop, hottest_block, hottest_loop

ITERATIONS = 200
FLOORS: list[tuple[str, str, str, float]] = [
    ("x86-64+avx2", "words", "znver3", 20.5),
    ("x86-64+avx2", "words", "haswell", 15.0),
    ("x86-64+avx2", "words", "skylake", 22.5),
    ("x86-64+avx2", "pairs", "znver3", 31.0),
    ("x86-64+avx2", "pairs", "haswell", 15.0),
    ("x86-64+avx2", "pairs", "skylake", 30.0),
    ("x86-64+avx2", "floats", "znver3", 7.9),
    ("x86-64+avx2", "floats", "haswell", 11.8),
    ("x86-64+avx2", "floats", "skylake", 14.0),
    ("x86-64+avxvnni", "bytes", "alderlake", 50.0),
    ("x86-64+avx512", "words", "skylake-avx512", 32.0),
    ("x86-64+avx512", "pairs", "skylake-avx512", 45.0),
    ("x86-64+avx512", "floats", "skylake-avx512", 27.0),
    ("x86-64+avx512vnni", "bytes", "icelake-server", 100.0),
    ("aarch64+dotprod", "bytes", "neoverse-n1", 20.0),
    ("x86-64+avx512vnni", "dynamic", "icelake-server", 100.0),
    ("aarch64+dotprod", "dynamic", "neoverse-n1", 20.0),
    ("x86-64+avx512vnni", "states", "icelake-server", 95.0),
    ("aarch64+dotprod", "states", "neoverse-n1", 11.0),
    ("aarch64+neon", "states", "neoverse-n1", 5.0),
]
"""(level, arithmetic, CPU, the least multiply-adds a cycle of the two largest tiles). dynamic: dynamic_linear; states:
the product of an lstm's states with the weights of four gates, of one row and of a batch."""


def loop_of(target: Target, arithmetic: str, mr: int, nv: int) -> InnerLoop:
    if arithmetic == "states":
        built = lstm.build(target, mr=mr, nv=nv // 4, codes="row")
    elif arithmetic == "dynamic":
        built = conv.conv_u8_dynamic.build(target, mr=mr, nv=nv, bias=True)
    elif arithmetic == "floats":
        built = conv.conv_f32.build(target, mr=mr, nv=nv, residual=False)
    else:
        pairs = arithmetic == "pairs"
        built = conv.conv_u8.build(target, mr=mr, nv=nv, residual="u8", proven=True, pairs=pairs)
    return hottest_loop(target.arch, disassemble(built), of_codes=arithmetic == "states")


def tiles_of(target: Target, arithmetic: str, every: bool = False) -> list[tuple[int, int]]:
    if arithmetic == "states":
        packings = [Packing.of(target, 4, 512, rows) for rows in (1, 8)]
        return [(packing.mr, 4 * packing.nv) for packing in packings]
    return list((target.gemm_tiles_f32 if arithmetic == "floats" else target.gemm_tiles)[: None if every else 2])


def macs_of(target: Target, arithmetic: str, mr: int, nv: int) -> int:
    """Multiply-adds of one iteration: the largest K block."""
    if arithmetic == "states":
        return mr * nv * target.i32_lanes * 4
    depth = (target.k_blocks_f32 if arithmetic == "floats" else target.k_blocks)[0]
    return mr * nv * target.i32_lanes * depth


@cache
def mca() -> str:
    """The name of llvm-mca. Skips where it is missing, unless QC_REQUIRE_ALL wants all tools."""
    for name in ("llvm-mca", *(f"llvm-mca-{version}" for version in range(25, 13, -1))):
        if shutil.which(name):
            return name
    if os.environ.get("QC_REQUIRE_ALL"):
        pytest.fail("llvm-mca is missing: apt install llvm")
    pytest.skip("llvm-mca is missing: apt install llvm")


def cycles(loop: InnerLoop, cpu: str) -> float:
    """Cycles of an iteration, estimated by llvm-mca."""
    triple = "aarch64" if loop.arch == "aarch64" else "x86_64"
    features = ["-mattr=+dotprod"] if loop.arch == "aarch64" else []
    command = [mca(), f"-mtriple={triple}", f"-mcpu={cpu}", f"-iterations={ITERATIONS}", *features]
    done = subprocess.run(command, input="\n".join(loop.instructions), capture_output=True, text=True, check=True)
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert found is not None, done.stdout
    return int(found[1]) / ITERATIONS


@pytest.mark.parametrize(("level", "arithmetic", "cpu", "least"), FLOORS)
def test_multiply_adds_a_cycle(level: str, arithmetic: str, cpu: str, least: float) -> None:
    target = parse_target(level, exact=True)
    for mr, nv in tiles_of(target, arithmetic):
        macs = macs_of(target, arithmetic, mr, nv)
        assert macs / cycles(loop_of(target, arithmetic, mr, nv), cpu) >= least, (mr, nv)


@pytest.mark.parametrize(("level", "arithmetic"), sorted({row[:2] for row in FLOORS}))
def test_no_access_to_the_stack(level: str, arithmetic: str) -> None:
    target = parse_target(level, exact=True)
    for mr, nv in tiles_of(target, arithmetic, every=True):
        loop = loop_of(target, arithmetic, mr, nv)
        assert not loop.stack, (mr, nv, loop.stack)


@pytest.mark.parametrize(
    ("taps", "stride", "rows", "interleaves", "spilled"),
    [(3, 1, 2, 16, 0), (3, 2, 1, 32, 2), (5, 1, 2, 84, 6), (5, 2, 1, 56, 4)],
)
def test_depthwise_tiles_keep_vectors_in_registers(
    taps: int, stride: int, rows: int, interleaves: int, spilled: int
) -> None:
    """interleaves: the most instructions that interleave taps. Tiles of windows of 3x3 take over the columns that they
    share with the tile before. spilled: the most accesses of vectors to the stack."""
    target = parse_target("x86-64+avx512vnni", exact=True)
    kernel = depthwise.depthwise_u8.build(
        target,
        taps=taps,
        kw=taps,
        stride=stride,
        dilation=1,
        mr=2,
        rows=rows,
        block=target.dot4_registers[0],
        residual=False,
        proven=True,
    )
    found = hottest_block(target.arch, disassemble(kernel))
    assert len(found.multiplies) >= 4 * 2 * rows * taps
    assert sum(line.startswith("vpunpck") for line in found.instructions) <= interleaves
    assert len([line for line in found.stack if "mm" in line]) <= spilled
