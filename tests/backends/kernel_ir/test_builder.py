"""The builder: folding, loops, conditionals, prefixes and shares. Each kernel runs in the interpreter, and natively
where this machine can."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import At
from qcompiler.backends.kernel_ir.interpreter import interpret
from qcompiler.backends.kernel_ir.ir import KernelFunction
from qcompiler.backends.kernel_ir.types import F32, I8, I32, I64, Type, vector
from qcompiler.backends.target import parse_target
from qcompiler.errors import LoweringError
from tests.backends.kernel_ir.ir_kernels import scale
from tests.backends.levels import LEVELS, call, load
from tests.backends.signatures import PNS, XY, XYN, YN, InPlace, XYAlpha, Y

TARGET = parse_target("x86-64-linux+avx2")
GUARD = 0xA5


def _both(function: KernelFunction, inputs: dict[str, np.ndarray], result: np.ndarray, **values: float) -> np.ndarray:
    """The result of the interpreter, after comparing machine code with it where this machine runs it."""
    interpreted = result.copy()
    interpret(function, {**inputs, "y": interpreted}, **values)
    if function.target.can_run():
        native = result.copy()
        (compiled,) = load([function])
        call(compiled, [*inputs.values(), native], **values)
        np.testing.assert_array_equal(native.view(np.uint8), interpreted.view(np.uint8))
    return interpreted


@kernel
def folds(b: KernelBuilder, a: YN) -> None:
    n = a.n
    same = [n + 0, 0 + n, n - 0, n * 1, 1 * n, n // 1, n << 0, n | 0]
    assert all(each is n for each in same)
    assert (n * 0).const == 0
    assert (b.i64(6) * 7 - 2).const == 40
    assert (b.const(I8, 100) + 100).const == -56
    assert b.lshr(b.const(I8, -1), 4).const == 15
    assert (b.const(I32, 3) < 4).const is True
    assert b.sext(b.const(I8, -5), I64).const == -5
    assert b.zext(b.const(I8, -1), I32).const == 255
    assert b.const(vector(I8, 4), [2, 2, 2, 2]).const == 2
    assert b.blocks[0].ops == []


def test_constants_fold_and_neutral_operands_vanish() -> None:
    assert folds.build(TARGET).body.ops == []


@kernel
def fibonacci(b: KernelBuilder, a: YN) -> None:
    y = a.y
    with b.loop(0, a.n, carried=(b.i64(0), [b.i64(1)])) as loop:
        first, [second] = loop.carried
        loop.yield_((second, [first + second]))
    first, [second] = loop.results
    b.store(first, y)
    with b.if_(first % 2 == 0) as branch:
        branch.yield_(second)
    with branch.else_():
        branch.yield_(-second)
    b.store(branch.results, y, 8)
    with b.if_(first > 100):
        b.store(b.i64(1), y, disp=16)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("n", "expected"), [(0, [0, 1, 7]), (1, [1, -1, 7]), (6, [8, 13, 7]), (20, [6765, -10946, 1]), (-3, [0, 1, 7])]
)
def test_loops_and_conditionals(n: int, expected: list[int], level: str) -> None:
    assert _both(fibonacci.build(parse_target(level)), {}, np.full(3, 7, np.int64), n=n).tolist() == expected


@kernel
def static_loops(b: KernelBuilder, a: Y, *, lo: int, hi: int, step: int) -> None:
    with b.loop(lo, hi, step, carried=b.i64(0)) as loop:
        with b.loop(0, 3, carried=loop.carried) as inner:
            inner.yield_(inner.carried + loop.index)
        loop.yield_(inner.results)
    b.store(loop.results, a.y)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("lo", "hi", "step"), [(0, 10, 3), (0, 9, 3), (5, 5, 1), (7, 5, 1), (-4, 3, 2)])
def test_static_bounds(lo: int, hi: int, step: int, level: str) -> None:
    y = _both(static_loops.build(parse_target(level), lo=lo, hi=hi, step=step), {}, np.zeros(1, np.int64))
    assert y[0] == 3 * sum(range(lo, hi, step))


@kernel
def copy_prefix(b: KernelBuilder, a: XYN, *, element: str, lanes: int) -> None:
    type: Type = vector({"i8": I8, "i32": I32, "f32": F32}[element], lanes)
    value = b.load_prefix(type, a.x, 0, a.n)
    b.store_prefix(value, a.y, 0, a.n)
    b.store(value, a.y, disp=2 * type.bytes)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("element", "dtype", "lanes"), [("i8", np.int8, 32), ("i32", np.int32, 8), ("f32", np.float32, 16)]
)
def test_prefixes_touch_nothing_else(level: str, element: str, dtype: type, lanes: int) -> None:
    function = copy_prefix.build(parse_target(level), element=element, lanes=lanes)
    for n in (0, 1, 2, lanes // 2 - 1, lanes // 2, lanes - 1, lanes, lanes + 1, 1000):
        count = min(n, lanes)
        x = np.arange(1, count + 1).astype(dtype)  # the interpreter fails on a read past its end
        guard = np.full(3 * lanes * x.itemsize, GUARD, np.uint8).view(dtype)
        y = _both(function, {"x": x}, guard, n=n)
        np.testing.assert_array_equal(y[:count], x)
        np.testing.assert_array_equal(y[count : 2 * lanes].view(np.uint8), GUARD)
        np.testing.assert_array_equal(y[2 * lanes :], np.concatenate([x, np.zeros(lanes - count, dtype)]))


@pytest.mark.parametrize("level", LEVELS)
def test_scale_on_any_number_of_threads(level: str) -> None:
    target = parse_target(level)
    (compiled,) = load([scale.build(target, lanes=16)])
    for n in (0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100):
        for threads in (1, 2, 3, 7):
            x = np.random.default_rng(n).standard_normal(n + 1).astype(np.float32)
            y = np.full(n + 1, 42, np.float32)
            call(compiled, [x, y], threads=threads, n=n, alpha=0.3)
            np.testing.assert_array_equal(y[:n], x[:n] * np.float32(0.3))
            assert y[n] == 42


def test_share_covers_everything_once() -> None:
    @kernel
    def shares(b: KernelBuilder, a: YN) -> None:
        lo, hi = b.share(a.n, 4)
        b.store(lo, a.y)
        b.store(hi, a.y, disp=8)

    function = shares.build(TARGET)
    for n in (0, 1, 3, 4, 5, 100, 103):
        for threads in (1, 2, 3, 8):
            parts = []
            for thread in range(threads):
                y = np.zeros(2, np.int64)
                interpret(function, {"y": y}, thread=thread, threads=threads, n=n)
                parts.append(y.tolist())
            assert parts[0][0] == 0 and parts[-1][1] == n
            assert all(before[1] == after[0] for before, after in zip(parts, parts[1:]))
            assert all(lo % 4 == 0 or lo == n for lo, _ in parts)


@kernel
def tree(b: KernelBuilder, a: XY) -> None:
    b.store(b.reduce(lambda p, q: p + q, b.load(vector(F32, 16), a.x)), a.y)


@pytest.mark.parametrize("level", LEVELS)
def test_reduce_is_the_8_4_2_1_tree(level: str) -> None:
    x = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    y, lanes = _both(tree.build(parse_target(level)), {"x": x}, np.zeros(1, np.float32)), x
    for half in (8, 4, 2, 1):
        lanes = lanes[:half] + lanes[half:]
    assert y[0] == lanes[0]


@kernel
def row_sums(b: KernelBuilder, a: XYN, *, count: int) -> None:
    rows = b.rows(a.x, a.n, count)
    for row in range(count):
        b.store(b.load(I32, *rows[row]), a.y, 4 * row)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 14])
def test_rows_at_a_stride(count: int, level: str) -> None:
    x = np.arange(count * 5, dtype=np.int32).reshape(count, 5)
    y = _both(row_sums.build(parse_target(level), count=count), {"x": x}, np.zeros(count, np.int32), n=20)
    np.testing.assert_array_equal(y, x[:, 0])


@kernel
def shift(b: KernelBuilder, a: InPlace) -> None:
    for index in range(4):
        b.store(b.load(I32, a.x, 4 * index) + 1, a.y, 4 * index)


@pytest.mark.parametrize("level", LEVELS)
def test_aliased_pointers_may_overlap(level: str) -> None:
    (compiled,) = load([shift.build(parse_target(level))])
    data = np.zeros(5, np.int32)
    call(compiled, [data], places={"x": (0, 0), "y": (0, 4)})
    assert data.tolist() == [0, 1, 2, 3, 4]


def test_values_have_no_truth() -> None:
    @kernel
    def confused(b: KernelBuilder, a: PNS) -> None:
        if a.n > 3:
            b.i64(0)

    with pytest.raises(LoweringError, match="b.if_"):
        confused.build(TARGET)


def test_pack_args() -> None:
    words = scale.pack_args(XYAlpha(x=At(2, 64), y=At(3), n=-1, alpha=-1.5))
    assert words.dtype == np.int64
    assert words.tolist() == [2, 64, 3, 0, -1, int(np.float32(-1.5).view(np.uint32))]
    with pytest.raises(LoweringError, match="arguments do not fit"):
        scale.pack_args(XYN(x=At(2, 64), y=At(3), n=1))  # type: ignore[arg-type]


def test_interpreter_refuses_to_leave_a_buffer() -> None:
    @kernel
    def past(b: KernelBuilder, a: XY) -> None:
        b.store(b.load(vector(F32, 8), a.x, disp=4), a.y)

    with pytest.raises(LoweringError, match="outside its buffer"):
        interpret(past.build(TARGET), {"x": np.zeros(8, np.float32), "y": np.zeros(8, np.float32)})
