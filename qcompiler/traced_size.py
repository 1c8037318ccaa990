"""Sizes of one call that remember how they were computed, so that what was made of them can be made of others.

A `Trace` starts with the named sizes of a call. It gives for each a `TracedSize`, which stands for an int: arithmetic
gives another one, and is recorded. Whatever looks at the number itself, such as a comparison, `range` or `str`, gets
it, and the trace records a guard: the same question must have the same answer for other sizes. `Trace.evaluate`
computes all recorded sizes for other named sizes, or says that a guard fails. So any code that takes ints may be
traced: if it decides by a size, the result serves all sizes that decide alike.

A choice that has no influence on the structure of a result, such as how many rows a block has, is better made by a
function of ints that `computed` calls: its result is recorded as a size and not by the comparisons within.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

_Function = Callable[..., Any]
_APPLY, _GUARD, _CALL = 0, 1, 2


class TracedSize:
    """An int of one call that a `Trace` records. It is no subclass of int, so that no code of C reads its number
    unnoticed; yet `isinstance(size, int)` holds, so that Python code takes it for one.

    Attributes:
        number: the int itself. Reading it records nothing.
        slot: the index of its value among those of `Trace.evaluate`.
        least: a number that no value of it is below, or None.
    """

    __slots__ = ("trace", "number", "slot", "least")
    __class__ = cast("Any", property(lambda self: int))

    def __init__(self, trace: Trace, number: int, slot: int, least: int | None) -> None:
        self.trace, self.number, self.slot, self.least = trace, number, slot, least

    # -- arithmetic is recorded

    def __add__(self, other: Any) -> Any:
        return self.trace.apply(operator.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return self.trace.apply(operator.add, self, other)

    def __sub__(self, other: Any) -> Any:
        return self.trace.apply(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.trace.apply(operator.sub, other, self)

    def __mul__(self, other: Any) -> Any:
        return self.trace.apply(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.trace.apply(operator.mul, self, other)

    def __floordiv__(self, other: Any) -> Any:
        return self.trace.apply(operator.floordiv, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self.trace.apply(operator.floordiv, other, self)

    def __mod__(self, other: Any) -> Any:
        return self.trace.apply(operator.mod, self, other)

    def __rmod__(self, other: Any) -> Any:
        return self.trace.apply(operator.mod, other, self)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __neg__(self) -> Any:
        return self.trace.apply(operator.sub, 0, self)

    def __pos__(self) -> TracedSize:
        return self

    def __abs__(self) -> Any:
        return self if self >= 0 else -self

    # -- what reads the number records a guard

    def __lt__(self, other: Any) -> bool:
        return self.trace.compare(operator.lt, self, other)

    def __le__(self, other: Any) -> bool:
        return self.trace.compare(operator.le, self, other)

    def __gt__(self, other: Any) -> bool:
        return self.trace.compare(operator.gt, self, other)

    def __ge__(self, other: Any) -> bool:
        return self.trace.compare(operator.ge, self, other)

    def __eq__(self, other: object) -> bool:
        return self.trace.compare(operator.eq, self, other)

    def __ne__(self, other: object) -> bool:
        return self.trace.compare(operator.ne, self, other)

    def __bool__(self) -> bool:
        return self != 0

    def __index__(self) -> int:
        self.trace.compare(operator.eq, self, self.number)
        return self.number

    __int__ = __index__

    def __float__(self) -> float:
        return float(int(self))

    def __hash__(self) -> int:
        return hash(int(self))

    def __str__(self) -> str:
        return str(int(self))

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return format(int(self), spec)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(int(self), dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        function = _UFUNCS.get(ufunc)
        if function is not None and not options and all(np.ndim(concrete(each)) == 0 for each in inputs):
            return function(*[each.item() if isinstance(each, np.generic | np.ndarray) else each for each in inputs])
        return getattr(ufunc, method)(*map(guarded, inputs), **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(int(self), name)  # such as bit_length


_UFUNCS: dict[np.ufunc, _Function] = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.floor_divide: operator.floordiv,
    np.remainder: operator.mod,
    np.less: operator.lt,
    np.less_equal: operator.le,
    np.greater: operator.gt,
    np.greater_equal: operator.ge,
    np.equal: operator.eq,
    np.not_equal: operator.ne,
}
"""What numpy's scalars call for their operators."""


def _fixed(name: str) -> _Function:
    """An operator of an int that is not recorded: of the numbers, which are guarded."""

    def operate(self: TracedSize, *others: Any) -> Any:
        found = getattr(int, name)(int(self), *map(concrete, others))
        if found is NotImplemented and others and isinstance(others[0], float | np.floating):
            return getattr(float, name)(float(self), float(others[0]))
        return found

    return operate


for _name in ("truediv", "pow", "lshift", "rshift", "and", "or", "xor"):
    for _prefix in ("__", "__r"):
        setattr(TracedSize, f"{_prefix}{_name}__", _fixed(f"{_prefix}{_name}__"))
for _name in ("invert", "round", "trunc", "floor", "ceil"):
    setattr(TracedSize, f"__{_name}__", _fixed(f"__{_name}__"))


class Trace:
    """Records what is computed of the named sizes of a call. `sizes` holds a TracedSize for each name."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._names = tuple(sizes)
        self._first: list[int] = []
        self._steps: list[tuple[int, _Function, Any, int, Any]] = []
        self._known: dict[tuple[Any, ...], Any] = {}
        self._numbers: dict[int, int] = {}
        self.sizes = {name: self._new(int(number), 0) for name, number in sizes.items()}

    def _new(self, number: int, least: int | None) -> TracedSize:
        self._first.append(number)
        return TracedSize(self, number, len(self._first) - 1, least)

    def _slot(self, value: Any) -> int:
        if type(value) is TracedSize:
            return value.slot
        if value not in self._numbers:
            self._first.append(value)
            self._numbers[value] = len(self._first) - 1
        return self._numbers[value]

    def apply(self, function: _Function, a: Any, b: Any) -> Any:
        """function(a, b) of two ints of which at least one is traced."""
        if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
            return function(guarded(a), guarded(b))
        a, b = _plain(a), _plain(b)
        if a is None or b is None:
            return NotImplemented
        if isinstance(a, float) or isinstance(b, float):
            return function(_read(a), _read(b))
        trivial = _trivial(function, a, b)
        if trivial is not None:
            return trivial
        x, y = self._slot(a), self._slot(b)
        if function in (operator.add, operator.mul) and x > y:
            x, y = y, x
        key = (function, x, y)
        found = self._known.get(key)
        if found is None:
            found = self._new(function(concrete(a), concrete(b)), _least(function, a, b))
            self._known[key] = found
            self._steps.append((_APPLY, function, x, y, found.slot))
        return found

    def compare(self, function: _Function, a: TracedSize, b: Any) -> bool:
        """The answer to a comparison, which is guarded unless it is the same for all sizes."""
        if a is b:
            return bool(function(0, 0))
        if isinstance(b, np.ndarray):
            return cast("bool", function(int(a), b))
        b = _plain(b)
        if b is None:
            return cast("bool", NotImplemented)
        answer = bool(function(a.number, concrete(b)))
        if type(b) is int and a.least is not None:
            always = _always(function, a.least, b)
            if always is not None:
                return always
        key = (function, a.slot, self._slot(b))
        if key not in self._known:
            self._known[key] = answer
            self._steps.append((_GUARD, function, key[1], key[2], answer))
            if type(b) is int and a.least is not None:
                a.least = max(a.least, _learnt(function, answer, b, a.least))
        return answer

    def call(self, function: Callable[..., int], args: tuple[Any, ...]) -> Any:
        """The result of a function of ints, recorded as a size."""
        slots = tuple(map(self._slot, args))
        key = (function, slots)
        found = self._known.get(key)
        if found is None:
            found = self._new(int(function(*map(concrete, args))), None)
            self._known[key] = found
            self._steps.append((_CALL, function, slots, 0, found.slot))
        return found

    def evaluate(self, sizes: Mapping[str, int]) -> list[int] | None:
        """The value of every recorded size by its slot, for these named sizes; None if a guard fails."""
        values = self._first.copy()
        for slot, name in enumerate(self._names):
            values[slot] = sizes[name]
        for kind, function, a, b, wanted in self._steps:
            if kind == _APPLY:
                values[wanted] = function(values[a], values[b])
            elif kind == _GUARD:
                if function(values[a], values[b]) is not wanted:
                    return None
            else:
                values[wanted] = int(function(*[values[slot] for slot in a]))
        return values


def _plain(value: Any) -> Any:
    """An operand of arithmetic: a TracedSize, int or float; None of anything else."""
    if type(value) in (TracedSize, int, float):
        return value
    if isinstance(value, bool | int | np.integer):
        return int(value)
    return float(value) if isinstance(value, np.floating) else None


def _read(value: Any) -> Any:
    return value if isinstance(value, float) else int(value)


def _trivial(function: _Function, a: Any, b: Any) -> Any:
    """The result of an operation that needs no record, or None."""
    if function is operator.mul:
        if type(a) is int:
            a, b = b, a
        if type(b) is int and b in (0, 1):
            return a if b else 0
    elif function is operator.add:
        if type(a) is int and a == 0:
            return b
        if type(b) is int and b == 0:
            return a
    elif type(b) is int:
        if function is operator.sub and b == 0:
            return a
        if b == 1 and function is operator.floordiv:
            return a
        if b == 1 and function is operator.mod:
            return 0
    return None


def _least(function: _Function, a: Any, b: Any) -> int | None:
    """A number that no result of an operation is below, or None."""
    x = a if type(a) is int else a.least
    y = b if type(b) is int else b.least
    if function is operator.mod:
        return 0 if type(b) is int and b > 0 else None
    if x is None:
        return None
    if function is operator.sub:
        return x - b if type(b) is int else None
    if y is None:
        return None
    if function is operator.add:
        return cast("int", x + y)
    if x < 0 or y < 0:
        return None
    if function is operator.mul:
        return cast("int", x * y)
    return cast("int", x // b) if type(b) is int and b > 0 else None


def _always(function: _Function, least: int, b: int) -> bool | None:
    """The answer to a comparison of a size that is `least` or more with b, if all such sizes have the same."""
    if function in (operator.lt, operator.ge) and least >= b:
        return function is operator.ge
    if function in (operator.le, operator.gt, operator.eq, operator.ne) and least > b:
        return function in (operator.gt, operator.ne)
    return None


def _learnt(function: _Function, answer: bool, b: int, least: int) -> int:
    """What a size is at least once a guard has been passed."""
    if function is operator.gt and answer or function is operator.le and not answer:
        return b + 1
    if function is operator.ge and answer or function is operator.lt and not answer:
        return b
    if function is operator.eq and answer or function is operator.ne and not answer:
        return b
    if function in (operator.eq, operator.ne) and b == least:
        return b + 1
    return least


def computed(function: Callable[..., int], *args: Any) -> int:
    """function(*args). If an argument is traced, the result is recorded as a size, and the function is called again for
    other sizes. It must depend on its arguments alone."""
    for value in args:
        if type(value) is TracedSize:
            return cast("int", value.trace.call(function, args))
    return function(*args)


def concrete(value: Any) -> Any:
    """The number of a TracedSize; nothing is recorded. Anything else as it is."""
    return value.number if type(value) is TracedSize else value


def guarded(value: Any) -> Any:
    """The number of a TracedSize, which is guarded. Anything else as it is."""
    return int(value) if type(value) is TracedSize else value


def whole(value: Any) -> int:
    """An int or a TracedSize as it is; another integer as int.

    Raises:
        TypeError: the value is no integer.
    """
    return cast("int", value) if type(value) is TracedSize else int(operator.index(value))


def is_traced(value: Any) -> bool:
    """Whether a value is a TracedSize."""
    return type(value) is TracedSize


def expression(*sizes: int) -> tuple[Any, ...]:
    """A key that is equal for ints that are equal, or traced and computed in the same way. Nothing is recorded."""
    return tuple([("slot", size.slot) if is_traced(size) else size for size in cast("tuple[Any, ...]", sizes)])
