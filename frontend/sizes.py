"""Sizes as a traced model sees them: `x.shape[0]` of a dynamic axis.

Arithmetic stays symbolic. An operation that needs a number (a comparison, `range`, `float`) uses the example's size,
and the trace notes the guard under which that decision holds. A comparison that has one answer for all sizes, which are
never negative, needs neither: `B == -1` is False.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from qcompiler.dims import Dim, DimLike
from qcompiler.errors import TraceError
from qcompiler.notes import Guard


class Decides(Protocol):
    """The part of a trace that sizes need."""

    sizes: dict[str, int]
    missing_example: str

    def guard(self, guard: Guard) -> None: ...

    def bake(self, size: Dim, number: int) -> None: ...


class Size:
    """A symbolic size inside one trace.

    `+ - * // %` give Sizes or ints. Any other operation takes the example's number and notes a guard.
    """

    __slots__ = ("dim", "trace")
    __array_ufunc__ = None

    def __init__(self, dim: Dim, trace: Decides) -> None:
        self.dim = dim
        self.trace = trace

    def _number(self, dim: DimLike) -> int:
        try:
            return dim.evaluate(self.trace.sizes) if isinstance(dim, Dim) else int(dim)
        except KeyError as missing:
            raise TraceError(
                f"the model needs a number for the size {dim}, and {missing.args[0]} has no example",
                hint=self.trace.missing_example,
            ) from None

    def bake(self) -> int:
        """The example's number; the trace notes the guard that the size equals it."""
        value = self._number(self.dim)
        self.trace.bake(self.dim, value)
        return value

    def _compare(self, other: Any, relation: str) -> bool:
        if isinstance(other, Size):
            other = other.dim
        elif isinstance(other, float):
            return _FLOAT_RELATIONS[relation](float(self), other)
        elif not isinstance(other, int):
            return NotImplemented
        difference = self.dim - other
        if not isinstance(difference, Dim):
            return Guard(difference, relation, 0).holds({})
        decided = _decided(difference, relation)
        if decided is not None:
            return decided
        asked = Guard(self.dim, relation, other)
        holds = Guard(self._number(difference), relation, 0).holds({})
        self.trace.guard(asked if holds else asked.negated())
        return holds

    def __eq__(self, other: object) -> bool:
        return self._compare(other, "==")

    def __ne__(self, other: object) -> bool:
        return self._compare(other, "!=")

    def __lt__(self, other: object) -> bool:
        return self._compare(other, "<")

    def __le__(self, other: object) -> bool:
        return self._compare(other, "<=")

    def __gt__(self, other: object) -> bool:
        return self._compare(other, ">")

    def __ge__(self, other: object) -> bool:
        return self._compare(other, ">=")

    def __hash__(self) -> int:
        return hash(self.bake())

    def __bool__(self) -> bool:
        return self != 0

    def __index__(self) -> int:
        return self.bake()

    def __int__(self) -> int:
        return self.bake()

    def __float__(self) -> float:
        return float(self.bake())

    def __neg__(self) -> Any:
        return sized(-self.dim, self.trace)

    def __truediv__(self, other: Any) -> float:
        return self.bake() / other

    def __rtruediv__(self, other: Any) -> float:
        return other / self.bake()

    def __pow__(self, other: Any) -> Any:
        if isinstance(other, int) and 0 <= other <= 8:
            power: Any = 1
            for _ in range(other):
                power = power * self
            return power
        return self.bake() ** other

    def __str__(self) -> str:
        return str(self.dim)

    def __repr__(self) -> str:
        return f"Size({self.dim})"


def _decided(difference: Dim, relation: str) -> bool | None:
    """Whether `difference relation 0` holds for all sizes (True) or for none (False); None if that depends on them."""
    least, greatest = difference.bounds()
    positive, negative = least is not None and least > 0, greatest is not None and greatest < 0
    if relation in ("==", "!="):
        return relation == "!=" if positive or negative else None
    if relation in ("<", ">="):
        if negative:
            return relation == "<"
        return relation == ">=" if least is not None and least >= 0 else None
    if positive:
        return relation == ">"
    return relation == "<=" if greatest is not None and greatest <= 0 else None


_FLOAT_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _arithmetic(name: str, *, reflected: bool) -> Callable[[Size, Any], Any]:
    def method(self: Size, other: Any) -> Any:
        left: Any
        right: Any
        if isinstance(other, float):
            left, right = (other, float(self)) if reflected else (float(self), other)
            return getattr(left, name)(right)
        operand = other.dim if isinstance(other, Size) else other
        if not isinstance(operand, (int, Dim)):
            return NotImplemented
        left, right = (operand, self.dim) if reflected else (self.dim, operand)
        if isinstance(left, Dim):
            return sized(getattr(left, name)(right), self.trace)
        if name in ("__floordiv__", "__mod__"):
            return getattr(left, name)(self.bake())
        return sized(getattr(right, f"__r{name[2:]}")(left), self.trace)

    return method


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(Size, f"__{_name}__", _arithmetic(f"__{_name}__", reflected=False))
    setattr(Size, f"__r{_name}__", _arithmetic(f"__{_name}__", reflected=True))


def sized(dim: DimLike, trace: Decides) -> int | Size:
    """What the user sees for a dimension: an int, or a Size."""
    return Size(dim, trace) if isinstance(dim, Dim) else int(dim)


def as_dim(size: Any) -> DimLike:
    """The dimension behind an int or a Size; TraceError for anything else."""
    if isinstance(size, Size):
        return size.dim
    if isinstance(size, Dim):
        return size
    if hasattr(size, "__index__") and not isinstance(size, bool):
        return int(size.__index__())
    raise TraceError("a size must be an int", got=f"{type(size).__name__} {size!r}")


class CallableSize(Size):
    """`x.size` of numpy (the number of elements) that can also be called as torch's `x.size(dim)`."""

    __slots__ = ("shape",)
    shape: tuple[Any, ...]
    __hash__ = Size.__hash__

    def __call__(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]


class CallableInt(int):
    """CallableSize for static shapes."""

    shape: tuple[int, ...]

    def __call__(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]
