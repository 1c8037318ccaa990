"""Elementary functions keep the bounds of their docstrings against float64 numpy, over all of f32 in steps, and have
the same bits on every level, also at infinities, NaN, zeros, denormals and the ends of the range."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import cache

import numpy as np
import pytest

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.types import F32, F64, vector
from qcompiler.backends.kernels import math as functions
from qcompiler.backends.target import parse_target
from tests.backends.levels import LEVELS, call, can_run, load
from tests.backends.signatures import XPYN, XYN

NATIVE = next(level for level in LEVELS if can_run(level))
LANES = 16
INF, NAN = math.inf, math.nan
Real = Callable[[np.ndarray], np.ndarray]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x > 0, 1 / (1 + small), small / (1 + small))


def _tanhshrink(x: np.ndarray) -> np.ndarray:
    """Compute x - tanh x; below 0.05 by enough terms of its series."""
    z = x * x
    series = x * z * (1 / 3 - z * (2 / 15 - z * (17 / 315 - z * (62 / 2835 - z * (1382 / 155925)))))
    return np.where(np.abs(x) < 0.05, series, x - np.tanh(x))


BOUNDS: dict[str, tuple[Real, int]] = {
    "exp": (np.exp, -46),
    "log": (np.log, -50),
    "log1p": (np.log1p, -49),
    "expm1": (np.expm1, -43),
    "tanh": (np.tanh, -42),
    "sigmoid": (_sigmoid, -45),
    "erf": (np.vectorize(math.erf, otypes=[np.float64]), -43),
    "erfc": (np.vectorize(math.erfc, otypes=[np.float64]), -44),
    "tanhshrink": (_tanhshrink, -36),
    "atan": (np.arctan, -48),
}
"""Function -> (what numpy gives, the exponent of the relative bound)."""


@kernel
def unary(b: KernelBuilder, a: XYN, *, name: str) -> None:
    """Compute y = f(x), x in f32 and y in f64, for a multiple of LANES elements."""
    with b.loop(0, a.n, LANES) as loop:
        x = b.convert("fpext", b.load(vector(F32, LANES), a.x, loop.index * 4), F64)
        b.store(getattr(functions, name)(b, x), a.y, loop.index * 8)


@kernel
def power(b: KernelBuilder, a: XPYN) -> None:
    """Compute y = x^p."""
    with b.loop(0, a.n, LANES) as loop:
        x, p = (b.convert("fpext", b.load(vector(F32, LANES), getattr(a, n), loop.index * 4), F64) for n in ("x", "p"))
        b.store(functions.power(b, x, p), a.y, loop.index * 8)


def evaluate(name: str, level: str, x: np.ndarray) -> np.ndarray:
    """The values of a function on one level, for any number of elements."""
    compiled = load([unary.build(parse_target(level), name=name)])[0]
    padded = np.resize(x.astype(np.float32), -(-len(x) // LANES) * LANES)
    y = np.empty(len(padded))
    call(compiled, [padded, y], n=len(padded))
    return y[: len(x)]


@cache
def samples() -> np.ndarray:
    """Every 8191th float of f32 (NaNs, infinities and denormals among them), dense lines, and the neighbours of points
    where a formula changes."""
    every = np.arange(0, 2**32, 8191, dtype=np.uint64).astype(np.uint32).view(np.float32)
    lines = [np.linspace(-r, r, 20001).astype(np.float32) for r in (0.01, 1, 10, 110)]
    edges = np.float32(
        [0.0, 2.0**-9, 2.0**-10, 0.25, 0.41421357, 0.5, 1.0, 2.4142137, 2**-149, 2**-126, 3.4028235e38, 88.72284]
        + [103.97208, 709.4, INF]
    )
    with np.errstate(over="ignore"):
        near = [np.nextafter(edges, np.float32(to)) for to in (INF, -INF)]
    positive = np.concatenate([edges, *near])
    return np.concatenate([every, *lines, positive, -positive, np.float32([NAN])])


def _stride(level: str) -> int:
    """One in how many samples a level computes: few where it is interpreted."""
    return 1 if can_run(level) else 199


def _domain(name: str, x: np.ndarray) -> np.ndarray:
    return x[~(x <= -1)] if name == "log1p" else x


@pytest.mark.sampled(3)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", BOUNDS)
def test_bound(name: str, level: str) -> None:
    """The result is NaN where numpy's is, has numpy's infinities and zeros after rounding to f32, and keeps the
    relative bound wherever f32 can hold it."""
    reference, exponent = BOUNDS[name]
    x = _domain(name, samples()[:: _stride(level)])
    with np.errstate(all="ignore"):
        want, got = reference(x.astype(np.float64)), evaluate(name, level, x)
        rounded, expected = got.astype(np.float32), want.astype(np.float32)
    assert np.array_equal(np.isnan(want), np.isnan(got))
    held = np.isfinite(expected) & (np.abs(want) >= 2.0**-151)
    assert np.array_equal(expected[~held], rounded[~held], equal_nan=True)
    error = np.abs(got[held] - want[held]) / np.abs(want[held])
    worst = error.argmax()
    assert error[worst] < 2.0**exponent, f"{name}({x[held][worst]!r}): 2^{math.log2(error[worst]):.2f}"


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "sigmoid", "erf", "erfc", "atan"])
def test_rounded_to_f32(name: str) -> None:
    """The result is within 0.5 + 2^24 * bound units in the last place, and nearly always the float nearest to the true
    value."""
    reference, exponent = BOUNDS[name]
    x = _domain(name, samples())
    with np.errstate(all="ignore"):
        want = reference(x.astype(np.float64))
        got, expected = evaluate(name, NATIVE, x).astype(np.float32), want.astype(np.float32)
    held = np.isfinite(expected)
    unit = np.maximum(2.0 ** (np.floor(np.log2(np.maximum(np.abs(want[held]), 2.0**-149))) - 23), 2.0**-149)
    assert (np.abs(got[held] - want[held]) / unit).max() <= 0.5 + 2.0 ** (24 + exponent)
    assert (got[held] != expected[held]).mean() < 1e-4


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", BOUNDS)
def test_same_bits_on_every_level(name: str) -> None:
    x = _domain(name, samples())
    first = evaluate(name, NATIVE, x)
    for level in LEVELS:
        wanted = first[:: _stride(level)]
        number = ~np.isnan(wanted)
        got = evaluate(name, level, x[:: _stride(level)])
        assert np.array_equal(wanted[number].view(np.int64), got[number].view(np.int64)), level


@pytest.mark.parametrize(("name", "pairs"), [
    ("exp", [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (1e30, INF), (-1e30, 0.0)]),
    ("log", [(0.0, -INF), (-0.0, -INF), (1.0, 0.0), (INF, INF), (-1.0, NAN), (-INF, NAN)]),
    ("tanh", [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (40.0, 1.0)]),
    ("atan", [(0.0, 0.0), (-0.0, -0.0), (INF, math.pi / 2), (-INF, -math.pi / 2), (1.0, math.pi / 4)]),
    ("erf", [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0)]),
    ("erfc", [(INF, 0.0), (-INF, 2.0), (40.0, 0.0)]),
    ("expm1", [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -1.0)]),
    ("log1p", [(0.0, 0.0), (INF, INF)]),
    ("sigmoid", [(INF, 1.0), (-INF, 0.0), (0.0, 0.5)]),
])  # fmt: skip
def test_exact_values(name: str, pairs: list[tuple[float, float]]) -> None:
    """These results are exact, including the sign of zero."""
    x, want = (np.array(column) for column in zip(*pairs, strict=True))
    for level in LEVELS:
        got = evaluate(name, level, x)
        assert np.array_equal(got, want, equal_nan=True), f"{level}: {got}"
        zero = want == 0
        assert np.array_equal(np.signbit(got[zero]), np.signbit(want[zero])), f"{level}: {got}"


def _powers(level: str, x: np.ndarray, p: np.ndarray) -> np.ndarray:
    compiled = load([power.build(parse_target(level))])[0]
    y = np.empty(len(x))
    call(compiled, [x, p, y], n=len(x))
    return y


def _pow(x: np.ndarray, p: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.power(x.astype(np.float64), p.astype(np.float64))


@pytest.mark.parametrize("level", LEVELS)
def test_power(level: str) -> None:
    """Bases and exponents are random over all scales; negative bases have whole exponents."""
    rng = np.random.default_rng(0)
    count = 64 * LANES * 16 if can_run(level) else 64 * LANES
    x = (rng.standard_normal(count) * 2.0 ** rng.integers(-20, 20, count)).astype(np.float32)
    p = (rng.standard_normal(count) * 2.0 ** rng.integers(-6, 6, count)).astype(np.float32)
    p[::2] = np.rint(p[::2])
    want, got = _pow(x, p), _powers(level, x, p)
    assert np.array_equal(np.isnan(want), np.isnan(got))
    held = np.isfinite(want) & (np.abs(want) < 2.0**128) & (np.abs(want) > 2.0**-150)
    assert held.mean() > 0.5
    assert (np.abs(got[held] - want[held]) / np.abs(want[held])).max() < 2.0**-41


@pytest.mark.parametrize("level", LEVELS)
def test_power_of_special_values(level: str) -> None:
    """All pairs of zeros, ones, infinities, NaN, odd, even and fractional exponents give what numpy gives, including
    the signs of zeros."""
    special = np.float32(
        [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 0.3, 1e30, -1e30, 16777217.0, INF, -INF, NAN, 1e-40]
    )
    x, p = (a.ravel().copy() for a in np.meshgrid(special, special))
    size = -(-len(x) // LANES) * LANES
    x, p = np.resize(x, size), np.resize(p, size)
    with np.errstate(all="ignore"):
        want, got = _pow(x, p).astype(np.float32), _powers(level, x, p).astype(np.float32)
    assert np.array_equal(np.isnan(want), np.isnan(got)), (
        x[np.isnan(want) != np.isnan(got)],
        p[np.isnan(want) != np.isnan(got)],
    )
    exact = (want == 0) | np.isinf(want) | (np.abs(want) == 1)
    assert np.array_equal(want[exact], got[exact])
    assert np.array_equal(np.signbit(want[exact]), np.signbit(got[exact]))


def _scaled_erfc(x: Decimal) -> Decimal:
    """Compute (1 + 2x) erfc(x) exp(x^2) in the precision of the context, by the series of erf that has only positive
    terms: erf x = 2 / sqrt(pi) exp(-x^2) sum of 2^n x^(2n + 1) / (2n + 1)!!."""
    term = total = x
    n = 1
    while term > total * Decimal(10) ** -280:
        term = term * 2 * x * x / (2 * n + 1)
        total += term
        n += 1
    return (1 + 2 * x) * ((x * x).exp() - total * 2 / _PI.sqrt())


_PI = Decimal(
    "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706"
    "7982148086513282306647093844609550582231725359408128481117450284102701938521105559644622948954930381"
    "9644288109756659334461284756482337867831652712"
)


def test_coefficients_of_erfc() -> None:
    """The polynomial takes the values of F at the 20 Chebyshev nodes, with F computed in 200 digits. So it is the
    interpolation that the docstring names."""
    count = len(functions._ERFCX)
    for k in range(count):
        u = math.cos(math.pi * (k + 0.5) / count)
        x = 3.75 * (1 + u) / (1 - u)
        if x > 12:  # the series would need more digits of pi; test_bound covers these
            continue
        with localcontext() as context:
            context.prec = 200
            want = float(_scaled_erfc(Decimal(x)))
        got = float(np.polynomial.polynomial.polyval(u, np.array(functions._ERFCX)))
        assert abs(got - want) < 2e-15 * want, (u, got, want)


@kernel
def sigmoid_single(b: KernelBuilder, a: XYN) -> None:
    """Compute y = sigmoid_f32(x) for a multiple of LANES elements."""
    with b.loop(0, a.n, LANES) as loop:
        b.store(
            functions.sigmoid_f32(b, b.load(vector(F32, LANES), a.x, loop.index * 4)),
            a.y,
            loop.index * 4,
        )


def test_sigmoid_of_f32_in_f32() -> None:
    x = np.resize(samples(), -(-len(samples()) // LANES) * LANES)

    def sigmoid(level: str, x: np.ndarray) -> np.ndarray:
        y = np.empty_like(x)
        call(load([sigmoid_single.build(parse_target(level))])[0], [x, y], n=len(x))
        return y

    first = sigmoid(NATIVE, x)
    for level in LEVELS:
        count = len(x) // _stride(level) // LANES * LANES
        assert np.array_equal(sigmoid(level, x[:count]).view(np.int32), first[:count].view(np.int32)), level
    with np.errstate(all="ignore"):
        want, got = _sigmoid(x.astype(np.float64)), first.astype(np.float64)
    assert np.array_equal(np.isnan(want), np.isnan(got))
    normal = want >= 2.0**-126
    assert np.all(np.abs(got - want)[normal] <= want[normal] * 2.0**-21.4)
    assert np.all(np.abs(got - want)[~normal & ~np.isnan(want)] <= 2.0**-126)
