"""The definitions that a script needs, cut out of the modules where they stand.

A bundle starts with some ops and the methods of theirs that will run, and follows every name that these read:
functions, constants and classes of their own module and of the modules that it imports. Of an op's class it takes the
methods that are reached through `self`, and nothing of its declaration. So a script computes with the interpreter's own
references, and an op that is added later needs no exporter.

Names of `REPLACED` come from `runtime.py` instead: the real ones check graphs, which a script has no need of. Texts are
copied as they stand, comments included. Two definitions of one name in different modules get different names.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

import qcompiler
from qcompiler.errors import LoweringError
from qcompiler.opdef import OpDef
from qcompiler.opfields import AttrSpec, OperandSpec

RUNTIME = "qcompiler.export.python.runtime"
REPLACED = {
    "qcompiler.types": ("DType", "QuantParams", "TensorType"),
    "qcompiler.dims": ("Dim",),
    "qcompiler.opdef": ("Op",),
    "qcompiler.quantization.typed_array": ("TypedArray",),
}
"""Module -> the names that `runtime.py` defines in its place. So it does for every class of `qcompiler.errors`."""
_ALLOWED = frozenset({*sys.stdlib_module_names, "numpy"})

_Function = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_Comprehension = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Source:
    """The text of a module, and what its top level binds."""

    def __init__(self, module: ModuleType) -> None:
        try:
            self.text = inspect.getsource(module)
        except (OSError, TypeError):
            raise LoweringError(f"the source of the module {module.__name__} is not at hand") from None
        self.module = module
        self.lines = self.text.splitlines(keepends=True)
        self.bound: dict[str, ast.stmt] = {}
        self.imported: dict[str, tuple[str, str | None]] = {}
        for statement in ast.parse(self.text).body:
            self._bind(statement)

    def _bind(self, statement: ast.stmt) -> None:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            self.bound[statement.name] = statement
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        self.bound[name.id] = statement
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            self.bound[statement.target.id] = statement
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                self.imported[alias.asname or alias.name.partition(".")[0]] = (alias.name, None)
        elif isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                self.imported[alias.asname or alias.name] = (statement.module or "", alias.name)

    def cut(self, node: ast.AST, edits: dict[ast.AST, str]) -> str:
        """The text of a node with its decorators, without the indent; some of its parts replaced."""
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(d.lineno for d in decorators)])  # type: ignore[attr-defined]
        lines = list(self.lines[first - 1 : node.end_lineno])  # type: ignore[attr-defined]
        places = sorted(((part.lineno, part.col_offset, part) for part in edits), reverse=True, key=lambda p: p[:2])  # type: ignore[attr-defined]
        for line, column, part in places:
            row = lines[line - first].encode()
            end = part.end_col_offset  # type: ignore[attr-defined]
            lines[line - first] = (row[:column] + edits[part].encode() + row[end:]).decode()
        return textwrap.dedent("".join(lines)).rstrip()


@cache
def source_of(module: str) -> Source:
    return Source(importlib.import_module(module))


@dataclass(frozen=True)
class Ref:
    """A top-level name of a module of ours; or, without a module, a module of the standard library or numpy."""

    module: str
    name: str


@dataclass
class _Class:
    """A class that the bundle holds, and the members taken so far. `is_op`: only members that are reached."""

    ref: Ref
    owner: type
    is_op: bool
    members: set[str] = field(default_factory=set)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] not in _ALLOWED


def find(module: str, name: str) -> Ref | str | None:
    """What a name means at the top level of a module: a definition, an import statement, or None for a builtin."""
    if module == "qcompiler.errors" and name[0].isupper():
        return Ref(RUNTIME, "GraphError")
    if name in REPLACED.get(module, ()):
        return Ref(RUNTIME, name)
    if module == "qcompiler" and name in qcompiler._HOMES:  # a file of a user says qc.ShapeError
        return find(f"qcompiler.{qcompiler._HOMES[name]}", name)
    source = source_of(module)
    if name in source.bound:
        return Ref(module, name)
    if name in source.imported:
        origin, member = source.imported[name]
        if not _is_ours(origin):
            if member is None:
                return f"import {origin}" + (f" as {name}" if name != origin.partition(".")[0] else "")
            return f"from {origin} import {member}" + (f" as {name}" if name != member else "")
        if member is None or _is_module(origin, member):
            return Ref(origin if member is None else f"{origin}.{member}", "")
        return find(origin, member)
    if hasattr(builtins, name) or name in ("__name__", "__file__"):
        return None
    raise LoweringError(f"the name {name!r} of the module {module} cannot be copied into a script")


def _is_module(package: str, member: str) -> bool:
    found = getattr(importlib.import_module(package), member, None)
    if found is not None:
        return isinstance(found, ModuleType)
    try:
        importlib.import_module(f"{package}.{member}")
    except ModuleNotFoundError:
        return False
    return True


class Bundle:
    """Definitions in an order in which they run.

    `add_op` and `add` name what the script calls. When all is added, `close` decides how each definition is called in
    the script; then `name_of` gives the name of an op's class, and `text` the imports and definitions.
    """

    def __init__(self) -> None:
        self._refs: dict[Ref, None] = {}
        self._classes: dict[Ref, _Class] = {}
        self._names: dict[Ref, str] = {}
        self._imports: set[str] = set()
        self._members: set[Ref] = set()
        """What code reads as a member of its module, and will read by its name alone."""
        self._attributes: set[str] = set()
        self._scanned: set[tuple[Ref, str]] = set()

    def add(self, name: str) -> None:
        """Take a definition of the runtime."""
        self._take(Ref(RUNTIME, name))
        self._take_reached()

    def add_op(self, op: OpDef, method: str) -> None:
        """Take an op with one of its meanings."""
        ref = Ref(op.__module__, op.__qualname__)
        if source_of(ref.module).bound.get(ref.name) is None:
            raise LoweringError(f"the op {op.name} is not declared at the top level of a module", got=op.__qualname__)
        self._take(ref)
        self._reach(op, method)
        self._take_reached()

    def close(self, reserved: Iterable[str] = ()) -> None:
        """Give every definition its name in the script. `reserved`: names that the script itself defines."""
        taken = {*reserved, *dir(builtins), *(_imported_name(line) for line in self._imports)}
        local = {name for ref in self._refs for part in self._parts(ref) for name in _bound_anywhere(part)}
        for ref in sorted(self._refs, key=lambda ref: ref.module != RUNTIME):
            name, count = ref.name, 1
            if ref in self._members and name in local:  # a local variable would hide it
                name = f"{ref.module.rpartition('.')[2]}_{name}"
            base = name
            while name in taken:
                count += 1
                name = f"{base}_{count}"
            taken.add(name)
            self._names[ref] = name

    def name_of(self, op: OpDef) -> str:
        return self._names[Ref(op.__module__, op.__qualname__)]

    @property
    def names(self) -> set[str]:
        """Every name that the bundle uses at the top level of the script."""
        return {*self._names.values(), *(_imported_name(line) for line in self._imports)}

    # -- what is needed

    def _take(self, ref: Ref) -> None:
        if ref in self._refs:
            return
        self._refs[ref] = None
        statement = source_of(ref.module).bound[ref.name]
        if isinstance(statement, ast.ClassDef):
            owner = getattr(importlib.import_module(ref.module), ref.name)
            is_op = hasattr(owner, "_own_fields")
            self._classes[ref] = _Class(ref, owner, is_op)
            self._scan(ref, [*self._bases(ref, statement), *statement.decorator_list])
        else:
            self._scan(ref, [statement])

    def _bases(self, ref: Ref, statement: ast.ClassDef) -> list[ast.expr]:
        return [base for base in statement.bases if _name(base) not in ("Generic", "Protocol")]

    def _scan(self, ref: Ref, nodes: Iterable[ast.AST], owner: type | None = None) -> None:
        for node in nodes:
            for part in _reads(node):
                self._follow(ref.module, part)
            for part in _code(node):
                if isinstance(part, ast.Attribute):
                    self._attributes.add(part.attr)
                    self._reach_through(ref, part, owner)

    def _reach_through(self, ref: Ref, part: ast.Attribute, owner: type | None) -> None:
        """Take the member that an attribute reads of `self`, `type(self)`, `super()`, or a class by its name."""
        value = part.value
        if isinstance(value, ast.Call) and _name(value.func) in ("type", "super"):
            value = value.args[0] if value.args and _name(value.func) == "type" else ast.Name("self")
            if _name(part.value.func) == "super" and owner is not None:  # type: ignore[attr-defined]
                for base in owner.__mro__[1:]:
                    self._reach(base, part.attr)
                return
        if _name(value) in ("self", "cls") and owner is not None:
            for kind in [k for k in self._classes.values() if k.is_op and issubclass(k.owner, owner)] or []:
                self._reach(kind.owner, part.attr)
        elif isinstance(value, ast.Name):
            found = find(ref.module, value.id) if value.id in _globals(ref.module) else None
            if isinstance(found, Ref) and found in self._classes:
                self._reach(self._classes[found].owner, part.attr)

    def _reach(self, owner: type, member: str) -> None:
        """Take a member of an op's class, from the class in its order of resolution that has it."""
        for base in owner.__mro__:
            if member not in base.__dict__:
                continue
            ref = Ref(base.__module__, base.__qualname__)
            if ref in self._classes and self._classes[ref].is_op:
                self._classes[ref].members.add(member)
            return

    def _take_reached(self) -> None:
        """Follow what the members of classes read, until nothing new is reached."""
        while True:
            before = (len(self._refs), sum(len(kind.members) for kind in self._classes.values()), len(self._scanned))
            for ref, kind in list(self._classes.items()):
                for name, part in self._kept(ref, kind):
                    if (ref, name) not in self._scanned or kind.is_op:
                        self._scanned.add((ref, name))
                        self._scan(ref, [part], kind.owner)
            after = (len(self._refs), sum(len(kind.members) for kind in self._classes.values()), len(self._scanned))
            if before == after:
                return

    def _kept(self, ref: Ref, kind: _Class) -> Iterator[tuple[str, ast.stmt]]:
        """The statements of a class's body that the bundle holds, by name."""
        statement = source_of(ref.module).bound[ref.name]
        assert isinstance(statement, ast.ClassDef)
        for index, part in enumerate(statement.body):
            if isinstance(part, ast.FunctionDef):
                wanted = kind.members if kind.is_op else self._attributes
                if part.name in wanted or (not kind.is_op and part.name.startswith("__")):
                    yield part.name, part
            elif not kind.is_op:
                yield f"{index}", part
            elif isinstance(part, (ast.Assign, ast.AnnAssign)) and part.value is not None:
                target = part.targets[0] if isinstance(part, ast.Assign) else part.target
                name = _name(target)
                if name in kind.members and not isinstance(kind.owner.__dict__[name], (AttrSpec, OperandSpec)):
                    yield name, part

    def _follow(self, module: str, part: ast.expr) -> None:
        """Take what a name, or a member of a module, means."""
        found = self._meaning(module, part)
        if isinstance(found, Ref):
            self._take(found)
            if isinstance(part, ast.Attribute):
                self._members.add(found)
        elif found is not None:
            self._imports.add(found)

    def _parts(self, ref: Ref) -> list[ast.stmt]:
        """The statements of a definition that the script holds."""
        statement = source_of(ref.module).bound[ref.name]
        if not isinstance(statement, ast.ClassDef):
            return [statement]
        return [part for _, part in self._kept(ref, self._classes[ref])]

    def _meaning(self, module: str, part: ast.expr) -> Ref | str | None:
        """The definition that an expression names; the import that it needs; or None."""
        if isinstance(part, ast.Name):
            found = find(module, part.id)
            return None if isinstance(found, Ref) and not found.name else found
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            found = find(module, part.value.id) if part.value.id in _globals(module) else None
            if isinstance(found, Ref) and not found.name:
                return find(found.module, part.attr)
        return None

    # -- the text

    def text(self) -> str:
        """The imports, then the definitions. A definition stands after those that run when it is made."""
        done: dict[Ref, str] = {}

        def emit(ref: Ref) -> None:
            if ref in done:
                return
            done[ref] = ""
            for needed in self._needed_at_once(ref):
                emit(needed)
            done[ref] = done.pop(ref) or self._definition(ref)

        for ref in sorted(self._refs, key=lambda ref: (ref.module != RUNTIME, ref.module, self._line(ref))):
            emit(ref)
        seen: dict[str, None] = dict.fromkeys(done.values())
        order = sorted(self._imports, key=lambda line: (line.startswith("from"), line.split()[1] == "numpy", line))
        return "\n".join(order) + "\n\n\n" + "\n\n\n".join(seen)

    def _line(self, ref: Ref) -> int:
        return source_of(ref.module).bound[ref.name].lineno

    def _needed_at_once(self, ref: Ref) -> list[Ref]:
        """The definitions that run when this one is made: bases, decorators, defaults, values of assignments."""
        statement = source_of(ref.module).bound[ref.name]
        parts: list[ast.AST] = []
        if isinstance(statement, ast.ClassDef):
            parts += [*self._bases(ref, statement), *statement.decorator_list]
            for _, part in self._kept(ref, self._classes[ref]):
                parts += _at_once(part)
        else:
            parts += _at_once(statement)
        found = [self._meaning(ref.module, part) for whole in parts for part in _reads(whole)]
        return [each for each in found if isinstance(each, Ref) and each != ref]

    def _definition(self, ref: Ref) -> str:
        source = source_of(ref.module)
        statement = source.bound[ref.name]
        if not isinstance(statement, ast.ClassDef):
            edits = self._edits(ref, statement)
            if isinstance(statement, ast.FunctionDef) and self._names[ref] != ref.name:
                text = source.cut(statement, edits)
                return text.replace(f"def {ref.name}(", f"def {self._names[ref]}(", 1)
            return source.cut(statement, edits)
        kind = self._classes[ref]
        bases = ", ".join(self._spelled(ref, base) for base in self._bases(ref, statement))
        head = [f"@{self._spelled(ref, decorator)}" for decorator in statement.decorator_list]
        head.append(f"class {self._names[ref]}({bases}):" if bases else f"class {self._names[ref]}:")
        body = ""
        if kind.is_op and ast.get_docstring(statement) is not None:
            body = source.cut(statement.body[0], {})
        for part in self._parts(ref):
            is_field = isinstance(part, (ast.Assign, ast.AnnAssign)) and not body.endswith('"""')
            body += ("\n" if is_field else "\n\n") + source.cut(part, self._edits(ref, part))
        return "\n".join(head) + "\n" + textwrap.indent(body.strip() or "pass", "    ")

    def _edits(self, ref: Ref, node: ast.AST) -> dict[ast.AST, str]:
        """The parts of a text that have another name in the script."""
        edits: dict[ast.AST, str] = {}
        for part in _reads(node):
            found = self._meaning(ref.module, part)
            if isinstance(found, Ref) and self._names[found] != ast.unparse(part):
                edits[part] = self._names[found]
        if node is self._statement(ref):
            for part in ast.walk(node):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                    edits[part] = self._names.get(Ref(ref.module, part.id), part.id)
        return edits

    def _spelled(self, ref: Ref, expression: ast.expr) -> str:
        """A base class or a decorator as the script spells it."""
        found = self._meaning(ref.module, expression)
        return self._names[found] if isinstance(found, Ref) else ast.unparse(expression)

    def _statement(self, ref: Ref) -> ast.stmt | None:
        statement = source_of(ref.module).bound[ref.name]
        return statement if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None


def _imported_name(line: str) -> str:
    """The name that an import statement binds."""
    return line.split()[-1].partition(".")[0]


def _bound_anywhere(node: ast.AST) -> set[str]:
    """The names that the functions in a piece of code bind."""
    names: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, _Function):
            names |= _bound_in(part)
        elif isinstance(part, _Comprehension):
            names |= {n.id for g in part.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
    return names


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""


@cache
def _globals(module: str) -> frozenset[str]:
    source = source_of(module)
    return frozenset({*source.bound, *source.imported})


def _at_once(statement: ast.AST) -> list[ast.AST]:
    """The expressions that run when a statement does, and not when its function is called."""
    if isinstance(statement, ast.FunctionDef):
        defaults = [default for default in (*statement.args.defaults, *statement.args.kw_defaults) if default]
        return [*statement.decorator_list, *defaults]
    value = getattr(statement, "value", None)
    return [] if value is None else [value]


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """Every part of a piece of code but its annotations, which a script does not evaluate."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _code(child)


def _reads(node: ast.AST) -> list[Any]:
    """The names that code reads from outside itself, and members of such names, as `qmath.clamp`."""
    found: list[ast.expr] = []

    def visit(part: ast.AST, local: frozenset[str]) -> None:
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id not in local:
            found.append(part)
        if isinstance(part, ast.Name):
            if isinstance(part.ctx, ast.Load) and part.id not in local:
                found.append(part)
            return
        if isinstance(part, _Function):
            inner = local | _bound_in(part)
            for child in _at_once(part) if isinstance(part, ast.FunctionDef) else []:
                visit(child, local)
            body = [part.body] if isinstance(part, ast.Lambda) else part.body
            for child in body:
                visit(child, inner)
            return
        if isinstance(part, _Comprehension):
            local = local | {
                name.id for g in part.generators for name in ast.walk(g.target) if isinstance(name, ast.Name)
            }
        for name, value in ast.iter_fields(part):
            if name in ("annotation", "returns"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child, local)

    visit(node, frozenset())
    return found


def _bound_in(function: Any) -> frozenset[str]:
    """The names that a function binds: its parameters, and what its body assigns."""
    args = function.args
    names = {a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg) if a is not None}
    body = [function.body] if isinstance(function, ast.Lambda) else function.body
    for part in (p for statement in body for p in ast.walk(statement)):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            names.add(part.id)
        elif isinstance(part, ast.FunctionDef):
            names.add(part.name)
    return frozenset(names)
