"""Every primitive of AArch64 on every level: machine code and the interpreter of the kernel IR are compared with numpy,
on random and on extreme codes."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.interpreter import interpret
from qcompiler.backends.kernel_ir.ir import KernelFunction
from qcompiler.backends.kernel_ir.types import I8, I16, I32, vector
from qcompiler.backends.target import Target, parse_target
from qcompiler.errors import LoweringError
from tests.backends.levels import LEVELS, call, load
from tests.backends.primitive_kernels import narrow, round_to_i32
from tests.backends.signatures import UVY, XY, AccUVY, AccXWY, AccXY, TableXY

pytestmark = pytest.mark.parametrize("level", [level for level in LEVELS if level.startswith("aarch64")])
CODES = (0, 1, 127, 128, 129, 254, 255)
WEIGHTS = (-128, -127, -1, 0, 1, 127)
WORDS = (
    -(2**31),
    2**31 - 1,
    -(2**15),
    -(2**15) - 1,
    2**15 - 1,
    2**15,
    65535,
    65536,
    255,
    256,
    -1,
    0,
    -128,
    -129,
    127,
    128,
)


def both(function: KernelFunction, result: np.ndarray, **buffers: np.ndarray) -> np.ndarray:
    """The result of the machine code, after comparing it with the interpreter's."""
    interpreted = result.copy()
    interpret(function, {**buffers, "y": interpreted})
    (compiled,) = load([function])
    call(compiled, [*buffers.values(), result])
    np.testing.assert_array_equal(result, interpreted)
    return result


# -- dot products


@kernel
def dot4(b: KernelBuilder, a: AccXWY, *, prepared: bool, safe: bool = False) -> None:
    """A kernel of one dot4. prepared: whether the operands go through dot4_activations and dot4_weights first."""
    target = b.target
    x, w = b.load(vector(I8, 16), a.x), b.load(vector(I8, 16), a.w)
    acc = b.load(vector(I32, 4), a.acc)
    if safe:
        y = target.dot4_pairwise(b, acc, x, w)
    elif prepared:
        y = target.dot4(b, acc, target.dot4_activations(b, x), target.dot4_weights(b, w))
    else:
        y = target.dot4(b, acc, x, w)
    b.store(y, a.y)


def dot_cases() -> list[tuple[np.ndarray, np.ndarray]]:
    """Operands u8[16] and i8[16]: every pair of extremes at every position, and random ones."""
    rng = np.random.default_rng(1)
    cases = [(np.full(16, x, np.uint8), np.full(16, w, np.int8)) for x in CODES for w in WEIGHTS]
    cases += [(rng.choice(CODES, 16).astype(np.uint8), rng.choice(WEIGHTS, 16).astype(np.int8)) for _ in range(20)]
    return cases + [
        (rng.integers(0, 256, 16).astype(np.uint8), rng.integers(-128, 128, 16).astype(np.int8)) for _ in range(20)
    ]


def compare_dots(target: Target, **static: bool) -> None:
    function = dot4.build(target, **static)
    rng = np.random.default_rng(2)
    for x, w in dot_cases():
        if static.get("safe") and target.level == "neon" and not target.pairwise_dot_is_exact(w):
            continue
        acc = rng.integers(-(2**30), 2**30, 4).astype(np.int32)
        terms = (x.astype(np.int64) - target.dot4_offset) * w
        got = both(function, np.zeros(4, np.int32), acc=acc, x=x, w=w)
        np.testing.assert_array_equal(got, acc + terms.reshape(4, 4).sum(axis=1), err_msg=f"{x} {w}")


@pytest.mark.parametrize("prepared", [False, True])
def test_dot4_is_exact(level: str, prepared: bool) -> None:
    compare_dots(parse_target(level), prepared=prepared)


def test_weights_that_make_pairs_safe(level: str) -> None:
    """neon adds two products in i16 where no pair of weights can overflow it: twice (-128) * -127 fits, twice (-128)^2
    does not."""
    target = parse_target(level)
    for pair, fits in (
        ((-127, -127), True),
        ((127, -127), True),
        ((-128, 127), True),
        ((-128, -128), False),
        ((-128, 128 - 256), False),
    ):
        assert target.pairwise_dot_is_exact(np.array([*pair, 0, 0], np.int8)) == fits
    assert target.has_pairwise_dot == (target.level == "neon")
    compare_dots(target, prepared=False, safe=True)


def test_dot4_wraps_as_i32_does(level: str) -> None:
    target = parse_target(level)
    acc, x, w = np.full(4, 2**31 - 1, np.int32), np.full(16, 255, np.uint8), np.full(16, 127, np.int8)
    term = 4 * (255 - target.dot4_offset) * 127
    got = both(dot4.build(target, prepared=False), np.zeros(4, np.int32), acc=acc, x=x, w=w)
    assert (got == 2**31 - 1 + term - 2**32).all()


@kernel
def mmla(b: KernelBuilder, a: AccXWY) -> None:
    x, w = b.load(vector(I8, 16), a.x), b.load(vector(I8, 16), a.w)
    b.store(b.target.mmla(b, b.load(vector(I32, 4), a.acc), x, w), a.y)


def test_mmla_multiplies_two_rows_by_two_channels(level: str) -> None:
    target = parse_target(level)
    if target.dot_depth != 8:
        with pytest.raises(LoweringError, match="no instruction that multiplies two rows"):
            mmla.build(target)
        return
    function, rng = mmla.build(target), np.random.default_rng(6)
    for x, w in dot_cases():
        acc = rng.integers(-(2**30), 2**30, 4).astype(np.int32)
        want = acc.reshape(2, 2) + x.reshape(2, 8).astype(np.int64) @ w.reshape(2, 8).astype(np.int64).T
        np.testing.assert_array_equal(both(function, np.zeros(4, np.int32), acc=acc, x=x, w=w), want.reshape(-1))


@kernel
def sum4(b: KernelBuilder, a: AccXY) -> None:
    b.store(
        b.target.sum4(b, b.load(vector(I32, 4), a.acc), b.load(vector(I8, 16), a.x)),
        a.y,
    )


def test_sum4_adds_unsigned_bytes(level: str) -> None:
    function = sum4.build(parse_target(level))
    for x, _ in dot_cases():
        acc = np.array([0, -1, 2**31 - 2000, -(2**31)], np.int32)
        got = both(function, np.zeros(4, np.int32), acc=acc, x=x)
        np.testing.assert_array_equal(got, acc + x.astype(np.int64).reshape(4, 4).sum(axis=1))


@kernel
def dot2(b: KernelBuilder, a: AccUVY) -> None:
    u, v = (b.load(vector(I16, 8), getattr(a, name)) for name in "uv")
    b.store(b.target.dot2(b, b.load(vector(I32, 4), a.acc), u, v), a.y)


def test_dot2_is_exact_for_terms_of_15_bits(level: str) -> None:
    function, rng = dot2.build(parse_target(level)), np.random.default_rng(3)
    extremes = [np.full(8, value, np.int16) for value in (-(2**14), 2**14 - 1, 255, -255, 0)]
    pairs = [(u, v) for u in extremes for v in extremes]
    pairs += [tuple(rng.integers(-(2**14), 2**14, (2, 8)).astype(np.int16)) for _ in range(20)]
    for u, v in pairs:
        acc = rng.integers(-(2**30), 2**30, 4).astype(np.int32)
        got = both(function, np.zeros(4, np.int32), acc=acc, u=u, v=v)
        np.testing.assert_array_equal(got, acc + (u.astype(np.int64) * v).reshape(4, 2).sum(axis=1))


# -- narrowing


@pytest.mark.parametrize("storage", ["u8", "i8"])
def test_narrow_saturates_in_order(level: str, storage: str) -> None:
    target, dtype = parse_target(level), np.dtype(storage.replace("u8", "uint8").replace("i8", "int8"))
    for parts in (1, 2, 4):
        for lanes in (4, 8, 16):
            x = np.random.default_rng(parts).integers(-400, 400, parts * lanes).astype(np.int32)
            for start in range(0, len(WORDS), 4):
                x[-4:] = WORDS[start : start + 4]
                got = both(
                    narrow.build(target, parts=parts, lanes=lanes, storage=storage), np.zeros(parts * lanes, dtype), x=x
                )
                np.testing.assert_array_equal(got, np.clip(x, np.iinfo(dtype).min, np.iinfo(dtype).max))


def test_narrow_knows_two_storages(level: str) -> None:
    with pytest.raises(LoweringError, match="no storage 'u16'"):
        narrow.build(parse_target(level), parts=1, lanes=4, storage="u16")


@kernel
def pack_words(b: KernelBuilder, a: UVY) -> None:
    b.store(b.target.pack_words(b, *(b.load(vector(I32, 4), getattr(a, name)) for name in "uv")), a.y)


def test_pack_words_saturates_in_order(level: str) -> None:
    function = pack_words.build(parse_target(level))
    assert parse_target(level).pair_order() == list(range(8))
    words = np.array(WORDS, np.int32)
    for shift in range(len(words)):
        u, v = np.roll(words, shift)[:4].copy(), np.roll(words, shift)[4:8].copy()
        got = both(function, np.zeros(8, np.int16), u=u, v=v)
        np.testing.assert_array_equal(got, np.clip(np.concatenate([u, v]), -(2**15), 2**15 - 1))


@kernel
def pack_bytes(b: KernelBuilder, a: UVY) -> None:
    b.store(b.target.pack_bytes(b, *(b.load(vector(I16, 8), getattr(a, name)) for name in "uv")), a.y)


def test_pack_bytes_keeps_every_byte_in_order(level: str) -> None:
    function, codes = pack_bytes.build(parse_target(level)), np.random.default_rng(4).permutation(256).astype(np.int16)
    for first in range(0, 256, 16):
        u, v = codes[first : first + 8].copy(), codes[first + 8 : first + 16].copy()
        np.testing.assert_array_equal(both(function, np.zeros(16, np.uint8), u=u, v=v), codes[first : first + 16])


def test_rounding_is_half_to_even(level: str) -> None:
    function = round_to_i32.build(parse_target(level))
    special = [
        0.5,
        1.5,
        2.5,
        -0.5,
        -1.5,
        -2.5,
        0.49999997,
        8388609,
        254.5,
        255.5,
        -128.5,
        0,
        -0.0,
        1e-45,
        2147483520.0,
        -2147483648.0,
    ]
    halves = np.arange(-40, 40) + 0.5
    for x in (np.float32(special), *halves.astype(np.float32).reshape(5, 16)):
        np.testing.assert_array_equal(both(function, np.zeros(16, np.int32), x=x), np.rint(x).astype(np.int32))


# -- tables and lanes


@kernel
def lookup(b: KernelBuilder, a: TableXY, *, made: bool) -> None:
    pointer = a.table
    if made:
        table = b.target.make_table(b, [b.load(vector(I8, 16), pointer, disp=first) for first in range(0, 256, 16)])
    else:
        table = b.target.load_table(b, pointer)
    with b.loop(0, 256, 16) as loop:
        b.store(b.target.lookup(b, table, b.load(vector(I8, 16), a.x, loop.index)), a.y, loop.index)


@pytest.mark.parametrize("made", [False, True])
def test_lookup_of_every_code(level: str, made: bool) -> None:
    """Look up all codes in every lane, by 16 rotations of them."""
    rng = np.random.default_rng(5)
    table, codes = rng.integers(0, 256, 256).astype(np.uint8), rng.permutation(256).astype(np.uint8)
    function = lookup.build(parse_target(level), made=made)
    for shift in range(16):
        x = np.roll(codes, shift)
        np.testing.assert_array_equal(both(function, np.zeros(256, np.uint8), table=table, x=x), table[x])


@kernel
def broadcast4(b: KernelBuilder, a: XY) -> None:
    b.store(b.target.broadcast4(b, a.x, disp=4), a.y)


def test_broadcast4_repeats_four_bytes(level: str) -> None:
    x = np.array([1, 2, 3, 4, 5, 128, 255, 0], np.uint8)
    np.testing.assert_array_equal(
        both(broadcast4.build(parse_target(level)), np.zeros(16, np.uint8), x=x), np.tile(x[4:], 4)
    )


@kernel
def words_above(b: KernelBuilder, a: XY) -> None:
    for half, floats in enumerate(b.target.words_above_2_23(b, b.load(vector(I16, 8), a.x))):
        b.store(floats, a.y, disp=16 * half)


def test_words_become_floats(level: str) -> None:
    x = np.array([0, 1, 255, 256, 32767, 32768, 65534, 65535], np.uint16)
    got = both(words_above.build(parse_target(level)), np.zeros(8, np.float32), x=x)
    np.testing.assert_array_equal(got, x[parse_target(level).pair_order()] + np.float32(2**23))
