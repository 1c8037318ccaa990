"""Symbolic dimensions: integer polynomials over named sizes and floor divisions of them.

A dimension is a Python int or a `Dim`. A `Dim` is in normal form, so two equal expressions built in different
ways compare equal: it is a sum of monomials with integer coefficients, and a monomial is a product of atoms. An atom is
a name (`B`) or a floor division `(dim)//int`. An expression that becomes constant is an int, never a `Dim`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import total_ordering
from typing import Union

from qcompiler.errors import ParseError, ShapeError
from qcompiler.traced_size import whole

DimLike = Union[int, "Dim"]
Bounds = tuple[int | None, int | None]
"""The least and the greatest value of an expression; None where it has no such bound, or none is known."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@total_ordering
class _Atom:
    """A factor of a monomial. `key` is its text, by which atoms are compared and sorted."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key = key

    def names(self) -> frozenset[str]:
        raise NotImplementedError

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        raise NotImplementedError

    def substitute(self, sizes: Mapping[str, DimLike]) -> DimLike:
        raise NotImplementedError

    def bounds(self) -> Bounds:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Atom) and self.key == other.key

    def __lt__(self, other: _Atom) -> bool:
        return self.key < other.key

    def __hash__(self) -> int:
        return hash(self.key)


class _Name(_Atom):
    """A named size."""

    __slots__ = ()

    def names(self) -> frozenset[str]:
        return frozenset((self.key,))

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        return sizes[self.key]

    def substitute(self, sizes: Mapping[str, DimLike]) -> DimLike:
        return sizes.get(self.key, Dim.name(self.key))

    def bounds(self) -> Bounds:
        return 0, None


class _Quotient(_Atom):
    """`numerator // divisor`, with a positive int divisor."""

    __slots__ = ("numerator", "divisor")

    def __init__(self, numerator: Dim, divisor: int) -> None:
        super().__init__(f"({numerator})//{divisor}")
        self.numerator = numerator
        self.divisor = divisor

    def names(self) -> frozenset[str]:
        return self.numerator.names()

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        return self.numerator.evaluate(sizes) // self.divisor

    def substitute(self, sizes: Mapping[str, DimLike]) -> DimLike:
        return self.numerator.substitute(sizes) // self.divisor

    def bounds(self) -> Bounds:
        least, greatest = self.numerator.bounds()
        return _scaled_down(least, self.divisor), _scaled_down(greatest, self.divisor)


_Monomial = tuple[_Atom, ...]


def _scaled_down(bound: int | None, divisor: int) -> int | None:
    return None if bound is None else bound // divisor


def _monomial_bounds(monomial: _Monomial) -> Bounds:
    """Bounds of a product. One of several factors that may be negative leaves it unbounded."""
    if len(monomial) == 1:
        return monomial[0].bounds()
    least = 1
    greatest: int | None = 1
    for atom in monomial:
        low, high = atom.bounds()
        if low is None or low < 0:
            return None, None
        least *= low
        greatest = None if greatest is None or high is None else greatest * high
    return least, greatest


def _graded(monomial: _Monomial) -> tuple[int, tuple[str, ...]]:
    """A key that orders monomials by degree, then by name; multiplying by a monomial does not change the order."""
    return len(monomial), tuple(atom.key for atom in monomial)


class Dim:
    """A symbolic size, immutable and hashable. Start with `Dim.name("B")`; `+ - * //` build new ones."""

    __slots__ = ("_terms", "_hash")

    def __init__(self, terms: Mapping[_Monomial, int]) -> None:
        self._terms = tuple(sorted((m, c) for m, c in terms.items() if c != 0))
        self._hash = hash(self._terms)

    @staticmethod
    def name(name: str) -> Dim:
        """The dimension that is one named size; ShapeError for text that is not a name."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ShapeError(f"{name!r} is not a name for a dimension", expected="letters, digits, _")
        return Dim({(_Name(name),): 1})

    @staticmethod
    def _of(value: DimLike) -> dict[_Monomial, int]:
        if isinstance(value, Dim):
            return dict(value._terms)
        return {(): int(value)}

    @staticmethod
    def _simplify(terms: dict[_Monomial, int]) -> DimLike:
        terms = {m: c for m, c in terms.items() if c != 0}
        if not terms:
            return 0
        if len(terms) == 1 and () in terms:
            return terms[()]
        return Dim(terms)

    def __add__(self, other: DimLike) -> DimLike:
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        terms = self._of(self)
        for monomial, coefficient in self._of(other).items():
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return self._simplify(terms)

    __radd__ = __add__

    def __neg__(self) -> DimLike:
        return self * -1

    def __sub__(self, other: DimLike) -> DimLike:
        return self + (-other)

    def __rsub__(self, other: DimLike) -> DimLike:
        return (-self) + other

    def __mul__(self, other: DimLike) -> DimLike:
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        terms: dict[_Monomial, int] = {}
        for left, a in self._of(self).items():
            for right, b in self._of(other).items():
                monomial = tuple(sorted(left + right))
                terms[monomial] = terms.get(monomial, 0) + a * b
        return self._simplify(terms)

    __rmul__ = __mul__

    def __floordiv__(self, other: DimLike) -> DimLike:
        if isinstance(other, Dim):
            return self._divide_by_dim(other)
        if other <= 0:
            raise ShapeError(f"a dimension cannot be divided by {other}", got=f"({self})//{other}")
        exact: dict[_Monomial, int] = {}
        rest: dict[_Monomial, int] = {}
        for monomial, coefficient in self._terms:
            quotient, remainder = divmod(coefficient, other)
            exact[monomial] = quotient
            rest[monomial] = remainder
        whole, remaining = self._simplify(exact), self._simplify(rest)
        if isinstance(remaining, int):
            return whole + remaining // other
        return Dim({(_Quotient(remaining, other),): 1}) + whole

    def _divide_by_dim(self, other: Dim) -> DimLike:
        """Exact division, as reshape needs it (`B*64 // B`, `(B*S+B) // (S+1)`): long division of polynomials.

        Raises:
            ShapeError: a remainder is left.
        """
        lead, lead_coefficient = max(other._terms, key=lambda term: _graded(term[0]))
        quotient: DimLike = 0
        rest: DimLike = self
        while rest != 0:
            monomial, coefficient = max(self._of(rest).items(), key=lambda term: _graded(term[0]))
            left = list(monomial)
            if coefficient % lead_coefficient or any(left.count(atom) < lead.count(atom) for atom in lead):
                raise ShapeError(
                    f"cannot divide the dimension {self} by {other}", hint="give one of the sizes as an int"
                )
            for atom in lead:
                left.remove(atom)
            term = self._simplify({tuple(left): coefficient // lead_coefficient})
            quotient = quotient + term
            rest = rest - term * other
        return quotient

    def __rfloordiv__(self, other: int) -> DimLike:
        if other == 0:
            return 0
        raise ShapeError(f"cannot divide {other} by the dimension {self}")

    def __mod__(self, other: DimLike) -> DimLike:
        return self - (self // other) * other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self._terms == other._terms

    def __hash__(self) -> int:
        return self._hash

    def names(self) -> frozenset[str]:
        """The free names of the expression."""
        return frozenset().union(*(atom.names() for monomial, _ in self._terms for atom in monomial))

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """The value under `sizes`; KeyError names a missing one."""
        total = 0
        for monomial, coefficient in self._terms:
            product = coefficient
            for atom in monomial:
                product *= atom.evaluate(sizes)
            total += product
        return total

    def bounds(self) -> Bounds:
        """Bounds over all sizes, which are never negative: (1, None) for B + 1. They need not be tight."""
        least: int | None = 0
        greatest: int | None = 0
        for monomial, coefficient in self._terms:
            low, high = _monomial_bounds(monomial)
            if coefficient < 0:
                low, high = high, low
            least = None if least is None or low is None else least + coefficient * low
            greatest = None if greatest is None or high is None else greatest + coefficient * high
        return least, greatest

    def substitute(self, sizes: Mapping[str, DimLike]) -> DimLike:
        """The expression with some names replaced."""
        total: DimLike = 0
        for monomial, coefficient in self._terms:
            product: DimLike = coefficient
            for atom in monomial:
                product = product * atom.substitute(sizes)
            total = total + product
        return total

    def __str__(self) -> str:
        parts: list[str] = []
        ordered = sorted(self._terms, key=lambda term: (term[0] == (), term[0]))
        for monomial, coefficient in ordered:
            magnitude = abs(coefficient)
            alone = len(monomial) == 1 and coefficient == 1  # 2*((B)//2) needs its brackets: 2*(B)//2 reads as (2*B)//2
            atoms = "*".join(atom.key if alone or isinstance(atom, _Name) else f"({atom.key})" for atom in monomial)
            if not monomial:
                text = str(magnitude)
            elif magnitude == 1:
                text = atoms
            else:
                text = f"{magnitude}*{atoms}"
            if not parts:
                parts.append(text if coefficient > 0 else f"-{text}")
            else:
                parts.append(f"+{text}" if coefficient > 0 else f"-{text}")
        return "".join(parts)

    def __repr__(self) -> str:
        return f"Dim({self})"


def names_of(dim: DimLike) -> frozenset[str]:
    """The free names of a Dim; none of an int."""
    return dim.names() if isinstance(dim, Dim) else frozenset()


def evaluate(dim: DimLike, sizes: Mapping[str, int]) -> int:
    """The int value of an int or a Dim."""
    return dim.evaluate(sizes) if isinstance(dim, Dim) else whole(dim)


def substitute(dim: DimLike, sizes: Mapping[str, DimLike]) -> DimLike:
    """`dim` with names replaced; ints pass through."""
    return dim.substitute(sizes) if isinstance(dim, Dim) else dim


def parse_dim(text: str) -> DimLike:
    """Read what `str(dim)` prints: a sum of products of ints, names and sums in brackets, with `//int`.

    Raises:
        ParseError: at the first character that does not fit.
    """
    tokens = re.findall(r"\d+|[A-Za-z_]\w*|//|[-+*()]|\S", text)
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take(expected: str | None = None) -> str:
        nonlocal position
        token = peek()
        if not token or (expected is not None and token != expected):
            raise ParseError(f"malformed dimension {text!r}", expected=expected or "a size", got=token or "its end")
        position += 1
        return token

    def factor() -> DimLike:
        token = take()
        if token == "(":
            value = total()
            take(")")
        elif token.isdigit():
            value = int(token)
        elif _NAME.fullmatch(token):
            value = Dim.name(token)
        elif token == "-":
            value = factor() * -1
        else:
            raise ParseError(f"malformed dimension {text!r}", expected="a name or an int", got=token)
        return value

    def product() -> DimLike:
        value = factor()
        while peek() in ("*", "//"):
            if take() == "*":
                value = value * factor()
            else:
                value = value // factor()
        return value

    def total() -> DimLike:
        value = product()
        while peek() in ("+", "-"):
            value = value + product() if take() == "+" else value - product()
        return value

    result = total()
    if position != len(tokens):
        raise ParseError(f"malformed dimension {text!r}", expected="its end", got=peek())
    return result


_Axes = Mapping[int, str | Dim]
Dynamic = Mapping[str, _Axes] | Mapping[int, _Axes] | Mapping[str | int, _Axes]
"""The symbolic axes of a model's inputs, which are given by name or position: `{"x": {0: "B"}}`."""
