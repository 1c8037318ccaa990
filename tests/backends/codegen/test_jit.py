"""Objects and assembly of kernels: for every level on every machine; symbols; what is refused."""

from __future__ import annotations

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
"""e_machine of ELF."""
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
