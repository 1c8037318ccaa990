"""Checks of the arguments of layers and functions by their annotations: int, float, bool, or one of these and None.

A float where an int is meant would be cut to one in silence, and a text would end in an error of Python's own, raised
somewhere inside.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from qcompiler.arguments import described
from qcompiler.errors import ArgumentError
from qcompiler.frontend.sizes import Size

_EXPECTED = {"int": "an int", "float": "a number", "bool": "True or False"}
_COUNTS = ("in_", "out_", "in1_", "in2_", "num_", "hidden_", "input_", "embed", "d_model", "nhead", "features")
"""How the names of arguments begin that say how many there are of something: 0 or more."""
_MOST = 2**31 - 1


def check_arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise ArgumentError for an argument of another kind than the function's annotation says."""
    signature, kinds = _kinds(function)
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError:  # the call itself says what is missing
        return
    for name, (kind, is_optional) in kinds.items():
        if name in given and not (is_optional and given[name] is None) and not _is_kind(given[name], kind):
            expected = _EXPECTED[kind] + (", or None" if is_optional else "")
            raise ArgumentError(f"argument {name!r}", expected=expected, got=described(given[name]))
        if name in given and kind == "int" and name.startswith(_COUNTS):
            check_sizes(name, [given[name]])


def check_sizes(name: str, sizes: Sequence[Any]) -> None:
    """Raise ArgumentError unless the sizes are ints of an array's axes."""
    for size in sizes:
        if isinstance(size, bool) or not is_int(size) or not isinstance(size, Size) and not 0 <= size <= _MOST:
            raise ArgumentError(f"argument {name!r}", expected=f"0 to {_MOST}", got=described(size))


@cache
def _kinds(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, tuple[str, bool]]]:
    signature, kinds = inspect.signature(function), {}
    for name, parameter in signature.parameters.items():
        kind, *others = str(parameter.annotation).split(" | ")
        if (
            kind in _EXPECTED
            and others in ([], ["None"])
            and parameter.kind
            not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            )
        ):
            kinds[name] = (kind, bool(others))
    return signature, kinds


def _is_kind(value: Any, kind: str) -> bool:
    if kind == "int":
        return is_int(value)
    if kind == "bool":
        return isinstance(value, (bool, np.bool_)) or (isinstance(value, (int, np.integer)) and value in (0, 1))
    return hasattr(value, "__float__") and not (isinstance(value, np.ndarray) and value.ndim)


def is_int(value: Any) -> bool:
    """Whether a value is a whole number by its type. Symbolic sizes are."""
    if isinstance(value, Size):
        return True
    try:
        operator.index(value)
    except TypeError:
        return False
    return True
