"""Finds code that knows ops by name, by position or by key, where the op's class should say it.

table     two or more names of ops in one collection, chain of comparisons, or match statement
name      a comparison of `.op` with one name written out: `Conv.of(node)` and `Conv.name` are checked by tools
operand   `operands[0]`: `conv.x` has a type and a name
attr      `attrs["groups"]`: so has `conv.groups`
extent    `extent("rows")`: kernels read fields of their signature
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from qcompiler.opdef import ACTIVATIONS, all_ops

OPS = frozenset(op.name for op in all_ops())
REGISTRATIONS = frozenset({"lowers"})
"""Functions whose arguments register code for ops by name."""


@dataclass(frozen=True)
class Finding:
    kind: str
    line: int
    text: str


def findings(source: str) -> list[Finding]:
    """The findings of each kind in a module, in the order of its lines."""
    tree = ast.parse(source)
    registered = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _called(node) in REGISTRATIONS
        for inner in ast.walk(node)
    }
    continued = {id(node.orelse[0]) for node in ast.walk(tree) if isinstance(node, ast.If) and len(node.orelse) == 1}
    found = [
        Finding(kind, node.lineno, ast.unparse(node).partition("\n")[0][:100])
        for node in ast.walk(tree)
        if isinstance(node, (ast.expr, ast.stmt)) and id(node) not in registered
        for kind in _kinds(node, id(node) in continued)
    ]
    return sorted(found, key=lambda finding: finding.line)


def _kinds(node: ast.AST, continues: bool) -> Iterator[str]:
    names = set(_names_in(node, continues))
    if len(names) > 1 and not names <= set(ACTIVATIONS):
        yield "table"
    if isinstance(node, ast.Compare) and any(map(_is_op, (node.left, *node.comparators))) and _compared(node):
        yield "name"
    if isinstance(node, ast.Subscript) and _ends_with(node.value, "operands", "_operands") and _is_number(node.slice):
        yield "operand"
    if isinstance(node, ast.Subscript) and _ends_with(node.value, "attrs", "_attrs") and _text(node.slice) is not None:
        yield "attr"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        if node.func.attr == "get" and _ends_with(node.func.value, "attrs") and _text(node.args[0]) is not None:
            yield "attr"
        if node.func.attr == "extent" and _text(node.args[0]) is not None:
            yield "extent"


def _names_in(node: ast.AST, continues: bool) -> Iterable[str]:
    """The names of ops that one construct lists."""
    if isinstance(node, (ast.Set, ast.Tuple, ast.List)):
        return _known(node.elts)
    if isinstance(node, ast.Dict):
        keys, values = _known(node.keys), _known(node.values)
        return keys if len(set(keys)) > 1 else values
    if isinstance(node, ast.Call):
        return [word.arg for word in node.keywords if word.arg in OPS] if _called(node) == "dict" else []
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        words = node.value.replace(",", " ").split()
        return words if words and all(word in OPS for word in words) else []
    if isinstance(node, ast.BoolOp):
        return [name for value in node.values if isinstance(value, ast.Compare) for name in _compared(value)]
    if isinstance(node, ast.If) and not continues:
        return _of_chain(node)
    if isinstance(node, ast.IfExp):
        return [*_of_test(node.test), *(_names_in(node.orelse, False) if isinstance(node.orelse, ast.IfExp) else ())]
    if isinstance(node, ast.Match):
        patterns = [inner for case in node.cases for inner in ast.walk(case.pattern)]
        return _known([pattern.value for pattern in patterns if isinstance(pattern, ast.MatchValue)])
    return []


def _of_chain(node: ast.If) -> list[str]:
    """The names that the tests of an if - elif chain compare with."""
    rest = node.orelse[0] if len(node.orelse) == 1 else None
    return [*_of_test(node.test), *(_of_chain(rest) if isinstance(rest, ast.If) else ())]


def _of_test(test: ast.expr) -> list[str]:
    return _compared(test) if isinstance(test, ast.Compare) else []


def _compared(node: ast.Compare) -> list[str]:
    """The names that an == or != compares with."""
    if not all(isinstance(op, (ast.Eq, ast.NotEq)) for op in node.ops):
        return []
    return _known([node.left, *node.comparators])


def _known(nodes: Iterable[ast.expr | None]) -> list[str]:
    texts = [_text(node) for node in nodes]
    return [text for text in texts if text in OPS]


def _text(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _is_op(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "op"


def _is_number(node: ast.AST) -> bool:
    if isinstance(node, ast.UnaryOp):
        return _is_number(node.operand)
    if isinstance(node, ast.Slice):
        return any(_is_number(part) for part in (node.lower, node.upper) if part is not None)
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


def _ends_with(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in names or isinstance(node, ast.Name) and node.id in names


def _called(node: ast.Call) -> str | None:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", None)
