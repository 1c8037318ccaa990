"""Symbolic sizes: the normal form against Python's ints, its text, and division."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.dims import Dim, DimLike, evaluate, parse_dim, substitute
from qcompiler.errors import ParseError, ShapeError

NAMES = ("B", "S", "W")
B, S, W = map(Dim.name, NAMES)

Meaning = Callable[[dict[str, int]], int]
Pair = tuple[DimLike, Meaning]


def _leaf(item: int | str) -> Pair:
    if isinstance(item, int):
        return item, lambda sizes, value=item: value
    return Dim.name(item), lambda sizes, name=item: sizes[name]


def _combine(pairs: tuple[Pair, str, Pair]) -> Pair:
    (left, of_left), sign, (right, of_right) = pairs
    if sign == "+":
        return left + right, lambda sizes: of_left(sizes) + of_right(sizes)
    if sign == "-":
        return left - right, lambda sizes: of_left(sizes) - of_right(sizes)
    return left * right, lambda sizes: of_left(sizes) * of_right(sizes)


def _divide(pair: tuple[Pair, int]) -> Pair:
    (dim, meaning), divisor = pair
    return dim // divisor, lambda sizes: meaning(sizes) // divisor


def _remainder(pair: tuple[Pair, int]) -> Pair:
    (dim, meaning), divisor = pair
    return dim % divisor, lambda sizes: meaning(sizes) % divisor


LEAVES = st.one_of(st.integers(-20, 20), st.sampled_from(NAMES)).map(_leaf)
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(_combine),
        st.tuples(inner, st.integers(1, 7)).map(_divide),
        st.tuples(inner, st.integers(1, 7)).map(_remainder),
    ),
    max_leaves=8,
)
SIZES = st.fixed_dictionaries({name: st.integers(1, 40) for name in NAMES})


@settings(max_examples=300)
@given(EXPRESSIONS, SIZES)
def test_the_normal_form_has_the_value_of_the_expression(pair: Pair, sizes: dict[str, int]) -> None:
    dim, meaning = pair
    assert evaluate(dim, sizes) == meaning(sizes)


@given(EXPRESSIONS)
def test_text_parses_back(pair: Pair) -> None:
    dim, _ = pair
    back = parse_dim(str(dim))
    assert back == dim and str(back) == str(dim) and type(back) is type(dim)


@given(EXPRESSIONS, EXPRESSIONS, EXPRESSIONS)
def test_equal_sums_and_products_have_one_form(a: Pair, b: Pair, c: Pair) -> None:
    x, y, z = a[0], b[0], c[0]
    for left, right in ((x + y, y + x), ((x + y) + z, x + (y + z)), (x * y, y * x), (x * (y + z), x * y + x * z)):
        assert left == right and hash(left) == hash(right) and str(left) == str(right)
    assert x - x == 0 and type(x - x) is int


@given(EXPRESSIONS, EXPRESSIONS, SIZES)
def test_substitution_commutes_with_evaluation(pair: Pair, other: Pair, sizes: dict[str, int]) -> None:
    dim, meaning = pair
    replaced = substitute(dim, {"B": other[0]})
    inner = {**sizes, "B": evaluate(other[0], sizes)}
    assert evaluate(replaced, sizes) == meaning(inner)
    assert substitute(dim, {}) == dim


@given(st.lists(st.tuples(st.integers(-4, 4), st.sampled_from(NAMES)), min_size=1, max_size=3), st.integers(1, 5))
def test_exact_division_by_a_size_undoes_the_product(terms: list[tuple[int, str]], offset: int) -> None:
    factor: DimLike = offset
    for coefficient, name in terms:
        factor = factor + coefficient * Dim.name(name)
    divisor = B * S + W + offset
    product = factor * divisor
    assert product // divisor == factor if isinstance(product, Dim) else factor == 0


# -- single facts


@pytest.mark.parametrize(
    "dim, text",
    [
        (2 * B, "2*B"),
        (B * S + 1, "B*S+1"),
        (1 - B, "-B+1"),
        ((W + 1) // 2, "(W+1)//2"),
        (2 * ((B + 1) // 2), "2*((B+1)//2)"),
        ((2 * B) // 2, "B"),
        ((2 * B + 3) // 2, "B+1"),
        ((3 * B) // 2, "B+(B)//2"),
        ((9 * B + 5) // 2, "(B+1)//2+4*B+2"),
        ((-3 * B) // 2, "(B)//2-2*B"),
        (B % 4, "-4*((B)//4)+B"),
        (B // 1, "B"),
    ],
)
def test_normal_forms(dim: DimLike, text: str) -> None:
    assert sorted(str(dim).replace("-", "+-").split("+")) == sorted(text.replace("-", "+-").split("+"))
    assert parse_dim(text) == dim


def test_expressions_without_names_are_ints() -> None:
    for found, value in ((B - B, 0), (B * 0, 0), ((2 * B + 6) // 2 - B, 3), (B - B + 5, 5), (0 // B, 0)):
        assert type(found) is int and found == value


def test_names_of_an_expression() -> None:
    assert (B * S + (W + 1) // 2).names() == frozenset(NAMES) if isinstance(B * S, Dim) else False
    assert B.names() == {"B"}
    with pytest.raises(KeyError, match="S"):
        evaluate(B * S, {"B": 2})


def test_a_dim_never_equals_an_int() -> None:
    assert B != 1 and B != "B" and B != S and len({B, Dim.name("B"), S}) == 2


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: B // 0, "divided by 0"),
        (lambda: B // -2, "divided by -2"),
        (lambda: 3 // B, "cannot divide 3"),
        (lambda: (B + 1) // S, "cannot divide"),
        (lambda: B // (2 * B), "cannot divide"),
        (lambda: Dim.name("2x"), "not a name"),
        (lambda: Dim.name(""), "not a name"),
    ],
)
def test_what_has_no_meaning_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        make()


def test_other_operands_are_type_errors() -> None:
    for operation in (lambda: B + "x", lambda: B * 0.5):  # type: ignore[operator]
        with pytest.raises(TypeError):
            operation()


@pytest.mark.parametrize("text", ["", "B+", "(B", "B)", "B S", "2 3", "B//", "*B", "B..", "B//S+é", "1.5"])
def test_malformed_text(text: str) -> None:
    with pytest.raises((ParseError, ShapeError)):
        parse_dim(text)


def test_text_is_the_same_in_any_order_of_building() -> None:
    parts = [B * S, 3 * W, (B + 1) // 2, -7]
    assert len({str(sum(order[1:], order[0])) for order in itertools.permutations(parts)}) == 1
