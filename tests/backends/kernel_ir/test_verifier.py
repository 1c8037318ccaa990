"""What the verifier of the kernel IR refuses, and its message for each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qcompiler.backends.codegen.jit import compile_kernels, emit_object
from qcompiler.backends.kernel_ir.builder import KernelBuilder, KernelDef, kernel
from qcompiler.backends.kernel_ir.ir import Block, KernelFunction, Op, Value
from qcompiler.backends.kernel_ir.types import F32, I1, I8, I16, I32, I64, PTR, vector
from qcompiler.backends.kernel_ir.verifier import verify_kernel
from qcompiler.backends.target import parse_target
from qcompiler.errors import LoweringError, VerifyError
from tests.backends.signatures import PNS, Nothing

AVX2 = parse_target("x86-64-linux+avx2")
V8, V8F, V32 = vector(I32, 8), vector(F32, 8), vector(I8, 32)

Body = Callable[[KernelBuilder, PNS], object]
BAD: list[tuple[str, Body]] = [
    ("one type", lambda b, a: b.zero(V8) + b.load(V8F, a.p)),
    ("works on integers", lambda b, a: b.emit("add", a.s, a.s, type=F32)),
    ("works on floats", lambda b, a: b.emit("fadd", a.n, a.n, type=I64)),
    ("compares floats", lambda b, a: b.fcmp("olt", a.n, 3)),
    ("no comparison 'icmp.lt'", lambda b, a: b.icmp("lt", a.n, 3)),
    ("no '/' on i64", lambda b, a: a.n / 2),
    ("no '//' on f32", lambda b, a: a.s // 2),
    ("no '\\*' on pointers", lambda b, a: a.p * 2),
    ("condition is i1 or a mask", lambda b, a: b.select(b.load(V8, a.p) < 1, a.n, 0)),
    ("converts to another width", lambda b, a: b.trunc(b.load(I8, a.p), I32)),
    ("converts other kinds", lambda b, a: b.sext(a.s, I64)),
    ("keeps the size", lambda b, a: b.bitcast(b.load(V8, a.p), vector(I8, 16))),
    ("lane 8 is not below 8", lambda b, a: b.extract(b.load(V8, a.p), 8)),
    ("replaces a lane", lambda b, a: b.insert(b.load(V8, a.p), a.s, 0)),
    ("indices are below 16", lambda b, a: b.shuffle(b.load(V8, a.p), None, [16])),
    ("an i64 offset", lambda b, a: b.load(V8, a.p, b.load(I32, a.p))),
    ("an address is a ptr", lambda b, a: b.load(V8, a.n)),
    ("alignment is one of", lambda b, a: b.load(V8, a.p, align=3)),
    (
        "aligned to its size",
        lambda b, a: b.append(Op("stream", (b.zero(V8), a.p, b.i64(0)), (), {"disp": 0, "align": 4})),
    ),
    ("32-bit constant", lambda b, a: b.load(V8, a.p, disp=2**31)),
    ("don't live in memory", lambda b, a: b.store(a.n < 3, a.p)),
    ("a bit a lane", lambda b, a: b.masked_load(V8, a.p, 0, b.mask_below(3, 4))),
    ("no type <8 x i24>", lambda b, a: b.load(vector(type(I32)("i", 24), 8), a.p)),
    ("no constants", lambda b, a: b.const(PTR, 0)),
    ("3 constants for", lambda b, a: b.const(V8, [1, 2, 3])),
    ("x86.vpdpbusd.256 needs vnni256", lambda b, a: b.instr("x86.vpdpbusd.256", b.zero(V8), b.zero(V32), b.zero(V32))),
    ("x86.vpmaddwd.256 on other types", lambda b, a: b.instr("x86.vpmaddwd.256", b.zero(V8), b.zero(V32))),
    ("no conversion 'add'", lambda b, a: b.convert("add", a.n, I8)),
    ("the step is positive", lambda b, a: b.loop(0, 3, 0).__enter__().builder.blocks.pop() and _loop(b, 0)),
]


def _loop(b: KernelBuilder, step: int) -> None:
    with b.loop(0, 3, step):
        pass


def _kernel(body: Body) -> KernelDef[PNS, []]:
    """A kernel with one parameter of each kind."""

    def wrapped(b: KernelBuilder, a: PNS) -> None:
        body(b, a)

    return kernel(wrapped)


@pytest.mark.parametrize(("message", "body"), BAD, ids=[message for message, _ in BAD])
def test_refused_while_building(message: str, body: Body) -> None:
    definition = _kernel(body)
    with pytest.raises(VerifyError, match=message):
        definition.build(AVX2)


def test_unknown_instruction_names_the_nearest() -> None:
    definition = _kernel(lambda b, a: b.instr("x86.vpmadwd.256"))
    with pytest.raises(LoweringError, match="did you mean 'x86.vpmaddwd.256'"):
        definition.build(AVX2)


def test_loop_must_yield_what_it_carries() -> None:
    @kernel
    def forgets(b: KernelBuilder, a: Nothing) -> None:
        with b.loop(0, 3, carried=b.i64(0)):
            pass

    @kernel
    def changes(b: KernelBuilder, a: PNS) -> None:
        with b.loop(0, 3, carried=b.i64(0)) as loop:
            loop.yield_(a.s)

    @kernel
    def goes_on(b: KernelBuilder, a: PNS) -> None:
        with b.loop(0, 3, carried=b.i64(0)) as loop:
            loop.yield_(loop.index)
            b.store(loop.index, a.p)

    for definition, message in ((forgets, "needs yield_"), (changes, "other types"), (goes_on, "nothing may follow")):
        with pytest.raises(VerifyError, match=message):
            definition.build(AVX2)


def test_branches_must_agree() -> None:
    @kernel
    def one_sided(b: KernelBuilder, a: PNS) -> None:
        with b.if_(a.n < 3) as branch:
            branch.yield_(a.n)

    @kernel
    def unequal(b: KernelBuilder, a: PNS) -> None:
        with b.if_(a.n < 3) as branch:
            branch.yield_(a.n)
        with branch.else_():
            branch.yield_(a.s)

    for definition in (one_sided, unequal):
        with pytest.raises(VerifyError, match="branches"):
            definition.build(AVX2)


def test_values_stay_in_their_block() -> None:
    @kernel
    def leaks(b: KernelBuilder, a: PNS) -> None:
        with b.loop(0, 3) as loop:
            inner = loop.index + 1
        b.store(inner, a.p)

    with pytest.raises(VerifyError, match="not defined there"):
        leaks.build(AVX2)


def test_function_is_checked_again_before_llvm() -> None:
    definition = _kernel(lambda b, a: b.store(b.zero(V8), a.p))
    function = definition.build(AVX2)
    function.body.ops.append(Op("yield", (), ()))
    with pytest.raises(VerifyError, match="ends in its one yield"):
        verify_kernel(function)
    function = definition.build(AVX2)
    zmm = parse_target("x86-64-linux+avx512").instruction("x86.vpmaddwd.512")
    b = KernelBuilder("b", (), AVX2)
    operands = (b.zero(vector(I16, 32)), b.zero(vector(I16, 32)))
    function.body.ops.append(Op("instr", operands, (Value(vector(I32, 16), b),), instruction=zmm))
    with pytest.raises(VerifyError, match="needs avx512"):
        emit_object([function])


def test_twice_defined_value() -> None:
    b = KernelBuilder("twice", (), AVX2)
    function = KernelFunction("twice", (), Block((b.thread, b.thread)), AVX2)
    with pytest.raises(VerifyError, match="defined twice"):
        verify_kernel(function)


def test_modules_hold_one_target() -> None:
    definition = _kernel(lambda b, a: b.store(b.zero(V8), a.p))
    with pytest.raises(LoweringError, match="one target"):
        emit_object([definition.build(AVX2), definition.build(parse_target("x86-64-linux+avx512"))])


def test_foreign_code_is_not_run_here() -> None:
    definition = _kernel(lambda b, a: b.store(b.zero(V8), a.p))
    foreign = definition.build(parse_target("x86-64-windows+avx2"))
    with pytest.raises(LoweringError, match="can't run"):
        compile_kernels([foreign])
    assert emit_object([foreign])[:2] == b"\x64\x86"  # COFF, x86-64
    assert I1.numpy == np.bool_
