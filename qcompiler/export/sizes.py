"""Symbolic sizes as expressions that a writer walks."""

from __future__ import annotations

import ast

from qcompiler.dims import Dim

_PREFIX = "size_"


def parsed_size(size: Dim) -> ast.expr:
    """The expression of a size: ints, names, sums, products and floor divisions. `size_name` gives a name's own
    spelling, since a size may be called `lambda`."""
    safe = size.substitute({name: Dim.name(_PREFIX + name) for name in size.names()})
    return ast.parse(str(safe), mode="eval").body


def size_name(part: ast.Name) -> str:
    return part.id.removeprefix(_PREFIX)
