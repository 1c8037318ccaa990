"""TracedSize against int: the same arithmetic, the same answers, and a guard for whatever was answered."""

import math
import operator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcompiler.traced_size import Trace, TracedSize, computed, concrete, guarded, whole

SIZES = st.integers(0, 50)
ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod]
COMPARISONS = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]


def traced(**sizes: int) -> tuple[Trace, list[TracedSize]]:
    trace = Trace(sizes)
    return trace, list(trace.sizes.values())


@st.composite
def programs(draw: st.DrawFn) -> list[tuple]:
    """Operations: (function, operand, operand), where an operand is the index of an earlier value, or (int,)."""
    steps = []
    for count in range(draw(st.integers(1, 12))):
        index = st.integers(0, count + 1)
        steps.append(
            (
                draw(st.sampled_from([*ARITHMETIC, *COMPARISONS])),
                draw(index),
                draw(st.one_of(index, st.tuples(st.integers(-5, 70)))),
            )
        )
    return steps


def played(steps: list[tuple], a: int, b: int) -> tuple[list[int], list[bool]]:
    """(values, answers) of a program; operations that would divide by zero are left out."""
    values, answers = [a, b], []
    for function, x, y in steps:
        left, right = values[x], values[y] if isinstance(y, int) else y[0]
        if function in COMPARISONS:
            answers.append(function(left, right))
            values.append(values[0])
            continue
        divides = function in (operator.floordiv, operator.mod)
        values.append(values[0] if divides and right == 0 else function(left, right))
    return values, answers


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs(), SIZES, SIZES, SIZES, SIZES)
def test_other_sizes_give_what_playing_again_gives(steps: list[tuple], a: int, b: int, c: int, d: int) -> None:
    trace, (x, y) = traced(a=a, b=b)
    values, answers = played(steps, x, y)
    assert ([*map(concrete, values)], answers) == played(steps, a, b)
    assert all(type(answer) is bool for answer in answers)
    found = trace.evaluate({"a": c, "b": d})
    if found is not None:
        others, other_answers = played(steps, c, d)
        assert answers == other_answers
        assert [found[v.slot] if type(v) is TracedSize else v for v in values] == others
    own = trace.evaluate({"a": a, "b": b})
    assert own is not None
    assert [own[v.slot] if type(v) is TracedSize else v for v in values] == [*map(concrete, values)]


def test_a_size_is_an_int_of_python_and_none_of_c() -> None:
    _, (n,) = traced(n=3)
    assert isinstance(n, int) and isinstance(n + 1, int) and not isinstance(n, int.__subclasses__()[0])
    assert type(n) is TracedSize and type(2 * n) is TracedSize


@pytest.mark.parametrize(
    "reads",
    [
        lambda n: range(n),
        lambda n: [0] * 9 and [1, 2, 3, 4][n],
        lambda n: "abcdef"[:n],
        lambda n: np.zeros(n),
        lambda n: np.arange(n),
        lambda n: np.array([n, 1]),
        lambda n: np.prod((n, 2)),
        lambda n: np.arange(4) * n,
        lambda n: n * np.arange(4),
        lambda n: np.minimum(np.arange(4), n),
        lambda n: np.minimum(n, 7),
        lambda n: np.add.outer(np.arange(2), n),
        lambda n: {n: 1},
        lambda n: str(n),
        lambda n: f"{n}",
        lambda n: f"{n:3d}",
        lambda n: repr((n, 1)),
        lambda n: int(n),
        lambda n: float(n),
        lambda n: n / 2,
        lambda n: 2**n,
        lambda n: n * 0.5,
        lambda n: n << 1,
        lambda n: n.bit_length(),
        lambda n: math.sqrt(n),
        lambda n: b"x" * n,
        lambda n: guarded(n),
    ],
)
def test_what_reads_the_number_ties_the_trace_to_it(reads) -> None:
    trace, (n,) = traced(n=3)
    reads(n)
    assert trace.evaluate({"n": 3}) is not None
    assert trace.evaluate({"n": 2}) is None and trace.evaluate({"n": 4}) is None


def test_what_is_known_needs_no_guard() -> None:
    trace, (n, m) = traced(n=3, m=4)
    assert n >= 0 and n * m + 2 > 1 and not n // 2 < 0 and n == n and max(n, 0) is n and (n + 1) % 4 >= 0
    assert n * 1 is n and n + 0 is n and n // 1 is n and n * 0 == 0 and math.prod((n, m)) is n * m
    assert whole(n) is n and whole(np.int64(3)) == 3
    assert trace.evaluate({"n": 0, "m": 10**9}) is not None


def test_a_guard_is_learnt_from() -> None:
    trace, (n,) = traced(n=3)
    assert n > 1 and n != 1 and n >= 2 and n + 1 > 2
    assert trace.evaluate({"n": 2}) is not None and trace.evaluate({"n": 1}) is None


def test_numbers_of_numpy_are_recorded() -> None:
    trace, (n,) = traced(n=3)
    product = np.int64(5) * n + np.int32(1)
    assert type(product) is TracedSize and product.number == 16
    assert trace.evaluate({"n": 4})[product.slot] == 21
    assert np.int64(3) == n and bool(np.int64(2) < n) and np.int64(1) * n is n
    assert trace.evaluate({"n": 4}) is None


def test_a_computed_size_decides_within_its_function() -> None:
    def least_square(n: int, step: int) -> int:
        return next(i for i in range(0, 100, step) if i * i >= n)

    trace, (n,) = traced(n=5)
    found = computed(least_square, n + 1, 1)
    assert found.number == 3 and computed(least_square, n + 1, 1) is found
    assert trace.evaluate({"n": 30})[found.slot] == 6
    assert computed(least_square, 6, 1) == 3


@pytest.mark.parametrize("value", [1.5, "3", None])
def test_whole_refuses_what_is_no_integer(value: object) -> None:
    with pytest.raises(TypeError):
        whole(value)
