"""The x86 target: names, levels, QC_ISA, and each primitive on every level, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.interpreter import interpret
from qcompiler.backends.kernel_ir.types import I8, I32, vector
from qcompiler.backends.target import Target, host_level, parse_target
from qcompiler.backends.x86.target import LEVELS, X86Target, cpu_features
from qcompiler.errors import LoweringError
from tests.backends.levels import call, load
from tests.backends.primitive_kernels import narrow, round_to_i32
from tests.backends.signatures import AccXWY, TableXY

needs_x86 = pytest.mark.skipif(not cpu_features(), reason="an x86 host")


def _targets(level: str) -> list[Target]:
    """The target of the level, and the same without extras where it has some."""
    target = parse_target(f"x86-64+{level}")
    plain = X86Target(target.level, target.os, target.features - {"vbmi"})
    return [target] if plain == target else [target, plain]


def _both(
    target: Target, definition: object, buffers: dict[str, np.ndarray], result: np.ndarray, **static: object
) -> np.ndarray:
    """The result of machine code, after comparing the interpreter with it; of the interpreter alone where this CPU
    lacks the level."""
    function = definition.build(target, **static)  # type: ignore[attr-defined]
    (loaded,) = load([function])
    native = result.copy()
    call(loaded, [*buffers.values(), native])
    interpret(function, {**buffers, "y": result})
    np.testing.assert_array_equal(native, result)
    return native


@kernel
def dot4(b: KernelBuilder, a: AccXWY) -> None:
    size, lanes = b.target.vector_bytes, b.target.i32_lanes
    x, w = b.load(vector(I8, size), a.x), b.load(vector(I8, size), a.w)
    b.store(b.target.dot4(b, b.load(vector(I32, lanes), a.acc), x, w), a.y)


@pytest.mark.parametrize("level", LEVELS)
def test_dot4_is_exact(level: str) -> None:
    rng = np.random.default_rng(3)
    for target in _targets(level):
        for x_code, w_code in ((None, None), (255, -128), (255, 127), (0, -128), (128, -1)):
            n = target.vector_bytes
            x = rng.integers(0, 256, n).astype(np.uint8) if x_code is None else np.full(n, x_code, np.uint8)
            w = rng.integers(-128, 128, n).astype(np.int8) if w_code is None else np.full(n, w_code, np.int8)
            acc = rng.integers(-(2**30), 2**30, n // 4).astype(np.int32)
            y = _both(target, dot4, {"acc": acc, "x": x, "w": w}, np.zeros(n // 4, np.int32))
            np.testing.assert_array_equal(y, acc + (x.astype(np.int32) * w).reshape(-1, 4).sum(1))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("storage", ["u8", "i8"])
def test_narrow_saturates_in_order(level: str, storage: str) -> None:
    for target in _targets(level):
        for parts in (1, 2, 4):
            for lanes in {8, 16, target.i32_lanes}:
                x = np.random.default_rng(parts).integers(-400, 400, parts * lanes).astype(np.int32)
                x[:6] = [-(2**31), 2**31 - 1, 65535, -32769, 40000, -1]
                dtype = np.uint8 if storage == "u8" else np.int8
                y = np.zeros(parts * lanes, dtype)
                got = _both(target, narrow, {"x": x}, y, parts=parts, lanes=lanes, storage=storage)
                np.testing.assert_array_equal(got, np.clip(x, np.iinfo(dtype).min, np.iinfo(dtype).max))


@kernel
def lookup(b: KernelBuilder, a: TableXY, *, made: bool) -> None:
    size, pointer = b.target.vector_bytes, a.table
    if made:
        entries = [b.load(vector(I8, size), pointer, disp=first) for first in range(0, 256, size)]
        table = b.target.make_table(b, entries)
    else:
        table = b.target.load_table(b, pointer)
    with b.loop(0, 256, size) as loop:
        b.store(b.target.lookup(b, table, b.load(vector(I8, size), a.x, loop.index)), a.y, loop.index)


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_lookup_of_every_code(level: str, made: bool) -> None:
    rng = np.random.default_rng(5)
    for target in _targets(level):
        table, x = rng.integers(0, 256, 256).astype(np.uint8), rng.permutation(256).astype(np.uint8)
        got = _both(target, lookup, {"table": table, "x": x}, np.zeros(256, np.uint8), made=made)
        np.testing.assert_array_equal(got, table[x])


@pytest.mark.parametrize("level", LEVELS)
def test_rounding_is_half_to_even(level: str) -> None:
    x = np.array(
        [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, 8388609, 254.5, 255.5, -128.5, 0, -0.0, 3.7, -3.7, 1e9],
        np.float32,
    )
    for target in _targets(level):
        y = _both(target, round_to_i32, {"x": x}, np.zeros(16, np.int32))
        np.testing.assert_array_equal(y, np.rint(x).astype(np.int32))


def test_names() -> None:
    assert parse_target("x86-64-linux+avx512vnni").level == "avx512vnni"
    assert parse_target("x86-64-windows+avx2").triple == "x86_64-pc-windows-msvc"
    assert not parse_target("x86-64-windows+avx2").can_run()
    target = parse_target("x86-64-linux+avxvnni")
    assert target.has("avx2") and target.has("vnni256") and not target.has("avx512")
    assert (target.f32_lanes, target.register_count) == (8, 16)
    assert parse_target("x86-64-linux+avx2") == parse_target("x86-64-linux+avx2") != target
    assert len({parse_target(f"x86-64-linux+{level}") for level in LEVELS}) == len(LEVELS)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("x86-64+avx51", "did you mean 'x86-64+avx512'"),
        ("x86_64+avx2", "did you mean 'x86-64+avx2'"),
        ("natve", "did you mean 'native'"),
        ("", "known: "),
        ("riscv64+v", "known: "),
    ],
)
def test_unknown_names(text: str, hint: str) -> None:
    with pytest.raises(LoweringError, match=hint.replace("+", r"\+")):
        parse_target(text)


@needs_x86
def test_qc_isa_pretends_a_weaker_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QC_ISA", "avx2")
    assert host_level() == "avx2"
    native = parse_target("native")
    assert native.level == "avx2" and native.vector_bytes == 32
    assert LEVELS.is_available("avx2") and not LEVELS.is_available("avx512")
    monkeypatch.setenv("QC_ISA", "x86-64+avx2")
    assert host_level() == "avx2"
    monkeypatch.setenv("QC_ISA", "avx3")
    with pytest.raises(LoweringError, match="QC_ISA names an unknown level 'avx3'"):
        parse_target("native")


def test_tiles_fit_the_registers() -> None:
    for level in LEVELS:
        target = parse_target(f"x86-64-linux+{level}")
        more = 1 if target.multiplies_words else 0  # for a product that is not added yet
        for mr, nv in target.gemm_tiles:
            assert mr * nv + nv + 1 + more <= target.register_count, (level, mr, nv)
        for mr, nv in target.gemm_tiles_f32:
            assert mr * nv + nv + 1 <= target.register_count, (level, mr, nv)
