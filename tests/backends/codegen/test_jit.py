"""Objects and assembly of kernels, for every level on every machine; symbols; and what is refused."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from qcompiler.backends.codegen.jit import (
    compile_kernels,
    disassemble,
    emit_kernel,
    emit_object,
    emitted_kernels,
    symbols,
    verified,
)
from qcompiler.backends.target import native_target, parse_target
from qcompiler.errors import LoweringError
from tests.backends.kernel_ir.ir_kernels import scale
from tests.backends.levels import LEVELS, call, load

MACHINES = {"x86-64": 62, "aarch64": 183}
"""Architecture -> its number e_machine in ELF."""
LINUX = [name.replace("+", "-linux+") for name in LEVELS]


@pytest.mark.parametrize("name", LINUX)
def test_an_object_is_for_the_level_whatever_this_cpu_is(name: str) -> None:
    target = parse_target(name, exact=True)
    data = emit_object([scale.build(target, lanes=target.f32_lanes)])
    assert data[:5] == b"\x7fELF\x02" and int.from_bytes(data[18:20], "little") == MACHINES[target.arch]
    assert b"scale_lanes" in data


@pytest.mark.parametrize("name", LINUX)
def test_assembly_multiplies_whole_registers(name: str) -> None:
    target = parse_target(name, exact=True)
    text = disassemble(scale.build(target, lanes=target.f32_lanes))
    assert ("zmm" in text) == (target.arch == "x86-64" and target.vector_bytes == 64)
    assert ("vmulps" if target.arch == "x86-64" else "fmul") in text


def test_symbols_are_unique_and_in_order() -> None:
    wide, narrow = (scale.build(native_target(), lanes=lanes) for lanes in (8, 4))
    assert symbols([wide, narrow, wide]) == ["scale_lanes8", "scale_lanes4", "scale_lanes8.2"]


def test_kernels_are_counted_by_level() -> None:
    target = native_target()
    before = emitted_kernels[target.level]
    assert b"entry.of.mine" in emit_kernel(scale.build(target, lanes=4), "entry.of.mine")
    assert emitted_kernels[target.level] == before + 1


def test_two_kernels_of_one_name_are_both_called() -> None:
    function = scale.build(native_target(), lanes=4)
    x, y = np.arange(9, dtype=np.float32), np.zeros((2, 9), np.float32)
    for kernel, out, alpha in zip(load([function, function]), y, (2.0, 3.0)):
        call(kernel, [x, out], n=9, alpha=alpha)
    assert np.array_equal(y, [2 * x, 3 * x])


def test_what_is_refused() -> None:
    avx2, neon = (scale.build(parse_target(name), lanes=4) for name in ("x86-64-linux+avx2", "aarch64-linux+neon"))
    with pytest.raises(LoweringError, match="no kernels to compile"):
        verified([])
    with pytest.raises(LoweringError, match="kernels of one target"):
        emit_object([avx2, neon])
    with pytest.raises(LoweringError, match="can't run"):
        compile_kernels([scale.build(parse_target("x86-64-windows+avx2"), lanes=4)])


SCATTERED = """
import ctypes, sys
import numpy as np
import qcompiler as qc
from qcompiler import nn

libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
PROT_NONE, PRIVATE_ANONYMOUS_NORESERVE = 0, 0x4022


def reserve(size):
    return libc.mmap(None, size, PROT_NONE, PRIVATE_ANONYMOUS_NORESERVE, -1, 0)


x = np.ones((1, 3, 8, 8), np.float32)
qc.compile(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid()), None, (x,))(x)
far = reserve(8 << 30)
for shift in range(32, 11, -1):  # fill every gap above
    while (address := reserve(1 << shift)) > far:
        pass
    libc.munmap(address, 1 << shift)
libc.munmap(far + (7 << 30), int(sys.argv[1]) * 4096)  # leave a small gap 7 GiB away from all other free memory
softmax = qc.compile(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Softmax(1)), None, (x,))
assert np.allclose(softmax(x).sum(1), 1)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the flags of mmap are Linux's")
@pytest.mark.parametrize("pages", [1, 2, 4])
def test_sections_of_a_kernel_lie_within_reach_of_each_other(pages: int, tmp_path: pathlib.Path) -> None:
    """Where free memory is scattered, the code must not be placed more than 2 GiB away from its constants: LLVM's own
    memory manager does that, and then aborts the process."""
    environment = {**os.environ, "QC_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SCATTERED, str(pages)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
