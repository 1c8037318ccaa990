"""Every op of the table and every instruction gives the bits of its numpy meaning, in machine code of every level."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.backends.codegen.jit import disassemble
from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.interpreter import interpret
from qcompiler.backends.kernel_ir.ops import OPS, fused_multiply_add
from qcompiler.backends.kernel_ir.types import F32, F64, I8, I16, I32, I64, Type, vector
from qcompiler.backends.target import Target, parse_target
from tests.backends.levels import LEVELS, call, load
from tests.backends.signatures import ABCY, Operands, XYAlpha

LANES = 16
FAMILIES = ("int_binary", "float_binary", "float_unary", "float_ternary", "icmp", "fcmp")
BY_NAME = {str(each): each for each in (I8, I16, I32, I64, F32, F64)}
CONVERSIONS = [
    ("trunc", I32, I8), ("trunc", I64, I16), ("sext", I8, I32), ("sext", I16, I64), ("zext", I8, I32),
    ("zext", I8, I16),
    ("sitofp", I32, F32), ("sitofp", I64, F64), ("sitofp", I8, F32), ("uitofp", I8, F32), ("uitofp", I32, F32),
    ("fptosi", F32, I32), ("fptosi", F64, I64), ("lrint", F32, I32), ("fpext", F32, F64), ("fptrunc", F64, F32),
]  # fmt: skip


@kernel
def apply(b: KernelBuilder, a: ABCY, *, name: str, source: str, result: str = "", lanes: int = LANES) -> None:
    """Apply an op to vectors loaded from a, b and c. A comparison is stored as select(mask, 1, 0)."""
    element = BY_NAME[source]
    type = vector(element, lanes)
    count = {"float_unary": 1, "convert": 1, "float_ternary": 3}.get(OPS[name].family, 2)
    operands = [b.load(type, getattr(a, each)) for each in "abc"[:count]]
    if OPS[name].family == "convert":
        value = b.convert(name, operands[0], BY_NAME[result])
    elif OPS[name].family in ("icmp", "fcmp"):
        mask = getattr(b, name[:4])(name[5:], *operands)
        value = b.select(mask, b.const(vector(I8, lanes), 1), b.const(vector(I8, lanes), 0))
    else:
        value = b.emit(name, *operands, type=type)
    b.store(value, a.y)


def _operands(name: str, element: Type, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    if element.is_int:
        info = np.iinfo(element.numpy)
        sets = [rng.integers(info.min, info.max, LANES, element.numpy, endpoint=True) for _ in range(3)]
        for each in sets[:2]:
            each[rng.permutation(LANES)[:5]] = [info.min, info.max, 0, -1, 1]
        if "div" in name or "rem" in name:
            sets[1] = np.where((sets[1] == 0) | (sets[1] == -1), 7, sets[1]).astype(element.numpy)
        if name in ("shl", "lshr", "ashr"):
            sets[1] = (sets[1].view(element.unsigned) % element.bits).astype(element.numpy)
        return sets
    sets = [(rng.standard_normal(LANES) * 10.0 ** rng.integers(-3, 4, LANES)).astype(element.numpy) for _ in range(3)]
    if name in ("fptosi", "lrint"):
        sets[0][:6] = [0.5, 1.5, -2.5, 2147483520.0, -2147483648.0, -0.5]
        return sets
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 0.5, 1.5, 2.5, -0.5]
    for each in sets[:2]:
        each[: len(special)] = rng.permutation(special)
    return sets


def _same_bits(x: np.ndarray, y: np.ndarray) -> None:
    if x.dtype.kind == "f":  # which NaN it is, is no part of the meaning
        assert (np.isnan(x) == np.isnan(y)).all()
        x, y = np.where(np.isnan(x), 0, x), np.where(np.isnan(y), 0, y)
    np.testing.assert_array_equal(x.view(np.uint8), y.view(np.uint8))


def _cases() -> list[dict[str, str]]:
    cases = [{"name": name, "source": str(source), "result": str(result)} for name, source, result in CONVERSIONS]
    for name, spec in OPS.items():
        if spec.family in FAMILIES:
            elements = (I8, I16, I32, I64) if spec.family in ("int_binary", "icmp") else (F32, F64)
            cases += [{"name": name, "source": str(element)} for element in elements]
    return cases


@pytest.mark.parametrize("level", LEVELS)
def test_every_op_equals_its_meaning(level: str) -> None:
    target, cases = parse_target(level), _cases()
    for compiled, case in zip(load([apply.build(target, **case) for case in cases]), cases):
        element = BY_NAME[case["source"]]
        for seed in range(3):
            a, b, c = _operands(case["name"], element, seed)
            result = np.zeros((2, LANES * 8), np.uint8)
            call(compiled, [a, b, c, result[0]])
            interpret(compiled.function, {"a": a, "b": b, "c": c, "y": result[1]})
            dtype = (
                BY_NAME[case.get("result") or case["source"]].numpy
                if OPS[case["name"]].family[1:] != "cmp"
                else np.int8
            )
            _same_bits(result[0].view(dtype), result[1].view(dtype))


def test_all_arithmetic_ops_are_covered() -> None:
    tested = {case["name"] for case in _cases()}
    assert {name for name, spec in OPS.items() if spec.meaning is not None} - tested == {"select"}


def test_fma_rounds_once() -> None:
    x = np.float32(1 + 2**-12)
    exact = fused_multiply_add(np.array([x]), np.array([x]), np.array([-1 - 2**-11], np.float32))
    assert exact[0] == np.float32(2**-24)
    tie = fused_multiply_add(
        np.array([np.float32(2**-60)]), np.array([np.float32(1)]), np.array([np.float32(1 + 2**-23)])
    )
    assert tie[0] == np.float32(1 + 2**-23)
    half = fused_multiply_add(  # 1 + 2^-24 + 2^-60: double rounding through f64 would give the even 1.0
        np.array([np.float32(1 + 2**-12)]), np.array([np.float32(2**-24 * (1 - 2**-12))]), np.array([np.float32(1)])
    )
    assert half[0] == 1.0
    above = fused_multiply_add(
        np.array([np.float32(2**-12 + 2**-30)]), np.array([np.float32(2**-12 + 2**-30)]), np.array([np.float32(1)])
    )
    assert above[0] == np.float32(1 + 2**-23)
    large = np.array([1e300, -1e300])
    assert fused_multiply_add(large, np.abs(large), np.ones(2)).tolist() == [np.inf, -np.inf]


PLACES = "abcdef"


@kernel
def run_instruction(b: KernelBuilder, a: Operands, *, name: str) -> None:
    """Run an instruction on operands loaded from a, b, c and so on."""
    types = b.target.instruction(name).operands
    assert len(types) <= len(PLACES)
    b.store(b.instr(name, *(b.load(type, getattr(a, each)) for type, each in zip(types, PLACES))), a.y)


def _instructions(target: Target) -> list[str]:
    return [name for name, each in target.instructions.items() if target.has(each.feature)]


@pytest.mark.parametrize("level", LEVELS)
def test_every_instruction_equals_its_meaning(level: str) -> None:
    target, rng = parse_target(level), np.random.default_rng(11)
    names = _instructions(target)
    for compiled in load([run_instruction.build(target, name=name) for name in names]):
        for fill in (None, 0x80, 0xFF, 0x7F):
            data = [
                rng.integers(0, 256, 64).astype(np.uint8) if fill is None else np.full(64, fill, np.uint8)
                for _ in PLACES
            ]
            result = np.zeros((2, 64), np.uint8)
            call(compiled, [*data, result[0]])
            interpret(compiled.function, {**dict(zip(PLACES, data)), "y": result[1]})
            np.testing.assert_array_equal(result[0], result[1], err_msg=compiled.name)


@pytest.mark.parametrize("level", LEVELS)
def test_every_instruction_is_one_instruction(level: str) -> None:
    target = parse_target(level)
    for name in _instructions(target):
        mnemonic = name.split(".")[1]
        mnemonic = mnemonic[:3] if mnemonic in ("tbl4", "tbx4") else mnemonic
        assembly = disassemble(run_instruction.build(target, name=name))
        wanted = (mnemonic, "vpermt2b") if mnemonic == "vpermi2b" else (mnemonic,)
        assert sum(token in wanted for line in assembly.splitlines() for token in line.split()[:2]) == 1, assembly


@kernel
def bounded(b: KernelBuilder, a: XYAlpha) -> None:
    """Compute clamp(x, -3, alpha), which turns NaN into -3."""
    x = b.load(b.target.f32_vector(), a.x)
    b.store(b.clamp(x, -3.0, b.splat(a.alpha, b.target.f32_lanes)), a.y)


@pytest.mark.parametrize("level", LEVELS)
def test_clamp_is_max_and_min(level: str) -> None:
    target = parse_target(level)
    function = bounded.build(target)
    (compiled,) = load([function])
    x = np.resize(np.array([np.nan, np.inf, -np.inf, 1, 9, -9, -0.0], np.float32), target.f32_lanes)
    y = np.zeros_like(x)
    call(compiled, [x, y], n=0, alpha=5)
    np.testing.assert_array_equal(y, np.where(np.isnan(x), -3, np.clip(x, -3, 5)))
    text = disassemble(function)
    if target.arch == "x86-64":
        assert text.count("vmaxps") == 1 and text.count("vminps") == 1 and "vcmp" not in text
