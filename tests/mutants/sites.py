"""Finds the places of a source file where a small change changes its meaning, and what to change them to.

A mutant replaces one expression or statement; the rest of the text stays. No change is made inside docstrings, messages
(arguments of `raise`, `refuse`, f-strings), annotations, decorators, asserts, and what `EXCLUDED` names.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from dataclasses import dataclass

EXCLUDED = {
    "samples": "instances of an op for the tests",
    "binary_samples": "instances of an op for the tests",
    "sampled": "instances of an op for the tests",
    "_extremes": "data of instances of an op for the tests",
    "macs": "an estimate of the work, which chooses between int8 and float",
    "cost": "an estimate of the time",
    "element_cost": "an estimate of the time",
    "work": "an estimate of the work, which chooses how many threads run",
    "__repr__": "a text for people",
    "describe": "a text for people",
}
"""Functions and class attributes that decide speed or wording and not results: name -> why."""
_ESTIMATES = frozenset({"bytes"})
"""Keywords of `NodeLowering.call` that choose how many threads run a step."""
_STRICTER: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_SWAPPED = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.LShift, ast.RShift, ast.Pow, ast.MatMult)
_BOUNDS = frozenset({"max", "min", "maximum", "minimum", "smax", "smin", "clamp", "clip", "maxnum", "minnum", "abs"})
"""Calls that are replaced by their first argument where the bound is dropped."""
_DROPPED_RAISE = "a dropped raise"
_ROUNDINGS = {"rint": "floor", "floor": "ceil", "ceil": "floor", "trunc": "floor", "round": "int", "lrint": "fptosi"}


@dataclass(frozen=True)
class Site:
    """One mutant: the text from `start` to `end` (offsets of characters) of `path` becomes `new`.

    Attributes:
        function: the qualified name of the function or class around it.
        kind: the kind of change.
        ordinal: its index among the equal changes of the function.
    """

    path: str
    function: str
    line: int
    kind: str
    start: int
    end: int
    old: str
    new: str
    ordinal: int = 0

    @property
    def key(self) -> str:
        """A name of the mutant that edits elsewhere in the file do not change."""
        text = "\0".join((self.path, self.function, self.kind, self.old, self.new, str(self.ordinal)))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def is_statement(self) -> bool:
        """Whether the text is a statement, not an expression."""
        return self.kind == _DROPPED_RAISE

    def rank(self, seed: int) -> str:
        """The draw takes the smallest ranks, so an edit elsewhere does not change which mutants are drawn."""
        return hashlib.sha256(f"{seed}:{self.key}".encode()).hexdigest()

    def apply(self, text: str) -> str:
        return text[: self.start] + self.new + text[self.end :]


def sites_of(path: str, text: str) -> list[Site]:
    """All mutants of a file, in the order of the text."""
    finder = _Finder(path, text)
    finder.visit(ast.parse(text))
    return finder.found


class _Finder(ast.NodeVisitor):
    def __init__(self, path: str, text: str) -> None:
        self.path, self.text, self.found = path, text, list[Site]()
        self.scope: list[str] = []
        self.seen: dict[tuple[str, ...], int] = {}
        self.starts = [0]
        for line in text.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def _offset(self, line: int, column: int) -> int:
        start = self.starts[line - 1]
        before = self.text[start : self.starts[line]].encode()[:column].decode()
        return start + len(before)

    def _add(self, node: ast.expr | ast.stmt, kind: str, new: ast.AST | str) -> None:
        assert node.end_lineno is not None and node.end_col_offset is not None
        start, end = self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno, node.end_col_offset)
        text = new if isinstance(new, str) else f"({ast.unparse(new)})"
        old = self.text[start:end]
        lost = old.count("\n") - text.count("\n")
        text = text[:-1] + "\n" * lost + ")" if lost > 0 and text.endswith(")") else text  # lines keep their numbers
        function = ".".join(self.scope)
        place = (function, kind, old, text)
        ordinal = self.seen[place] = self.seen.get(place, -1) + 1
        self.found.append(Site(self.path, function, node.lineno, kind, start, end, old, text, ordinal))

    # Scopes, and what is no meaning.

    def _enter(self, node: ast.FunctionDef | ast.ClassDef) -> None:
        if node.name in EXCLUDED:
            return
        self.scope.append(node.name)
        for statement in node.body:
            self.visit(statement)
        if isinstance(node, ast.FunctionDef):
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default is not None:
                    self.visit(default)
        self.scope.pop()

    visit_FunctionDef = _enter
    visit_ClassDef = _enter

    def visit_Assign(self, node: ast.Assign) -> None:
        if not any(isinstance(target, ast.Name) and target.id in EXCLUDED for target in node.targets):
            self.visit(node.value)
            for target in node.targets:
                self.visit(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and not (isinstance(node.target, ast.Name) and node.target.id in EXCLUDED):
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        return

    def visit_Assert(self, node: ast.Assert) -> None:
        return

    def visit_arg(self, node: ast.arg) -> None:
        return

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add(node, _DROPPED_RAISE, "pass")

    # What is changed.

    def visit_If(self, node: ast.If) -> None:
        leaves = len(node.body) == 1 and isinstance(node.body[0], ast.Return | ast.Continue)
        if leaves and not node.orelse:
            self._add(node.test, "a dropped guard", "(False)")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for i, op in enumerate(node.ops):
            for other in _STRICTER[type(op)]:
                changed = copy.deepcopy(node)
                changed.ops[i] = other()
                self._add(node, "a comparison", changed)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        changed = copy.deepcopy(node)
        changed.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        self._add(node, "and/or", changed)
        for i in range(len(node.values)):
            rest = [*node.values[:i], *node.values[i + 1 :]]
            self._add(node, "a dropped condition", rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.USub | ast.Not | ast.Invert):
            if isinstance(node.operand, ast.Constant):
                self._constant(node, ast.literal_eval(node))
                return
            self._add(node, "a dropped negation", node.operand)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.BitOr) and isinstance(node.right, ast.Constant) and node.right.value is None:
            return  # a type
        if any(isinstance(side, ast.JoinedStr) for side in (node.left, node.right)):
            return
        if isinstance(node.op, _SWAPPED):
            self._add(node, "swapped operands", ast.BinOp(node.right, node.op, node.left))
        if isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.BitOr | ast.BitAnd):
            self._add(node, "a dropped term", node.left)
        if isinstance(node.op, ast.Add):
            self._add(node, "a sign", ast.BinOp(node.left, ast.Sub(), node.right))
        if isinstance(node.op, ast.Sub):
            self._add(node, "a sign", ast.BinOp(node.left, ast.Add(), node.right))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("refuse", "getattr", "cast", "TypeVar") or name.endswith("Error"):
            return
        if name in _BOUNDS and node.args and not isinstance(node.args[0], ast.Starred | ast.GeneratorExp):
            first = 1 if name in ("clamp",) and isinstance(node.args[0], ast.Name) and node.args[0].id == "b" else 0
            self._add(node, "a dropped bound", node.args[first])
        if name in _ROUNDINGS:
            changed = copy.deepcopy(node)
            if isinstance(changed.func, ast.Attribute):
                changed.func.attr = _ROUNDINGS[name]
            else:
                changed.func = ast.Name(_ROUNDINGS[name])
            if not (name == "trunc" and len(node.args) == 2):  # of the kernel IR: bits, not rounding
                self._add(node, "a rounding", changed)
        self.visit(node.func)
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            if not (name == "call" and keyword.arg in _ESTIMATES):
                self.visit(keyword.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        self._constant(node, node.value)

    def _constant(self, node: ast.expr, value: object) -> None:
        if isinstance(value, bool):
            self._add(node, "a constant", repr(not value))
        elif isinstance(value, int):
            self._add(node, "a constant", f"({value + 1})")
            self._add(node, "a constant", f"({value - 1})")
        elif isinstance(value, float):
            self._add(node, "a constant", f"({value + 1 if value == int(value) else value * 1.001})")
