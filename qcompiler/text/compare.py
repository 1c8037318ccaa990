"""Whether two graphs are the same: by their text, and by the data that the text names."""

from __future__ import annotations

import numpy as np

from qcompiler.ir import Graph, Module
from qcompiler.text.printer import graph_data, module_data, print_graph, print_module


def first_difference(a: Graph | Module, b: Graph | Module, *, names: bool = True, data: bool = True) -> str | None:
    """The first line or array in which two graphs differ, or None. With names=False, names of values do not count."""
    left, right = (_text(item, names).split("\n") for item in (a, b))
    for number, (one, other) in enumerate(zip(left, right), 1):
        if one != other:
            return f"line {number}:\n  - {one.strip()}\n  + {other.strip()}"
    if len(left) != len(right):
        longer = left if len(left) > len(right) else right
        return (
            f"line {min(len(left), len(right)) + 1}: {longer[min(len(left), len(right))].strip()} is on one side only"
        )
    return _array_difference(_arrays(a), _arrays(b)) if data else None


def _array_difference(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> str | None:
    for (name, one), other in zip(left.items(), right.values()):
        if one.dtype != other.dtype or one.shape != other.shape or one.tobytes() != other.tobytes():
            return f"@{name} has other data"
    return None


def _arrays(item: Graph | Module) -> dict[str, np.ndarray]:
    return module_data(item) if isinstance(item, Module) else graph_data(item)


def _text(item: Graph | Module, names: bool) -> str:
    if isinstance(item, Module):
        return print_module(item)
    if names:
        return print_graph(item)
    order = {id(value): f"v{index}" for index, value in enumerate(item.values())}
    return print_graph(item, rename=lambda value: order.get(id(value), "undefined"))


def structurally_equal(a: Graph | Module, b: Graph | Module, *, names: bool = True, data: bool = True) -> bool:
    """Whether two graphs are the same in text and data."""
    return first_difference(a, b, names=names, data=data) is None
