"""The graph IR: values, nodes, graphs and modules, and the only methods that change them.

The IR is SSA dataflow without nested regions. A graph owns its nodes as a linked list in execution order, so insertion
and removal are O(1) and a chain of 100,000 nodes needs no recursion. Only the mutation methods touch the use lists,
which therefore cannot go stale. Types, attrs and locations are frozen. Does not own op semantics (`opdef.py`), legality
(`verify.py`) or text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

import numpy as np

from qcompiler.dims import DimLike
from qcompiler.errors import VerifyError
from qcompiler.notes import Note
from qcompiler.types import DType, TensorType, type_of

AttrValue = Union[None, bool, int, float, str, DType, tuple["AttrValue", ...]]


@dataclass(frozen=True)
class Loc:
    """The user's source line."""

    file: str
    line: int

    def __str__(self) -> str:
        return f'"{self.file}":{self.line}'


@dataclass(frozen=True)
class Origin:
    """Where a node came from in the user's model: the module's path (or ONNX node's name) and its class (or op).

    A fused node has one Origin per part, in order; qconfig rules and reports match on them.
    """

    path: str
    kind: str

    def __str__(self) -> str:
        return f"{self.path}:{self.kind}"


@dataclass(eq=False)
class Use:
    """One operand slot that reads a value."""

    node: Node
    index: int


class Value:
    """One SSA value: a graph input or a node's result. Names are unique in a graph and survive every pass."""

    __slots__ = ("name", "type", "producer", "index", "_uses")

    def __init__(self, name: str, type: TensorType, producer: Node | None = None, index: int = 0) -> None:
        self.name = name
        self.type = type
        self.producer = producer
        self.index = index
        self._uses: dict[tuple[int, int], Use] = {}

    @property
    def uses(self) -> tuple[Use, ...]:
        """Every operand slot that reads this value, in the order they were added."""
        return tuple(self._uses.values())

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that read this value, each once."""
        return tuple({id(use.node): use.node for use in self._uses.values()}.values())

    @property
    def is_const(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"%{self.name}"


class Const(Value):
    """A named constant tensor. `data` is read-only, and its numpy type and shape are those of `type`."""

    __slots__ = ("data", "_extremes")

    def __init__(self, name: str, type: TensorType, data: np.ndarray) -> None:
        super().__init__(name, type)
        self._extremes: dict[str, tuple[np.ndarray, int | float]] = {}
        if data.dtype != type.dtype.numpy or data.shape != type.shape:
            raise VerifyError(
                f"data of constant @{name} does not fit its type", expected=str(type), got=str(type_of(data))
            )
        plain = data.__class__ is np.ndarray and data.flags.c_contiguous
        self.data = data if plain else np.ascontiguousarray(data).reshape(data.shape)
        if self.data.flags.writeable:
            if self.data is data or self.data.base is not None:
                self.data = self.data.copy()
            self.data.setflags(write=False)

    def least(self) -> int | float:
        """The least element; the data must not be empty. Computed once."""
        return self._extreme("min")

    def largest(self) -> int | float:
        """The largest element; the data must not be empty. Computed once."""
        return self._extreme("max")

    def _extreme(self, which: str) -> int | float:
        known = self._extremes.get(which)
        if known is not None and known[0] is self.data:
            return known[1]
        found: int | float = getattr(self.data, which)().item()
        self._extremes[which] = (self.data, found)
        return found

    @property
    def is_const(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"@{self.name}"


class Node:
    """One operation. Only its graph changes it."""

    __slots__ = ("op", "_operands", "_attrs", "results", "loc", "origin", "graph", "_prev", "_next")

    def __init__(
        self,
        op: str,
        operands: Sequence[Value | None],
        attrs: Mapping[str, AttrValue],
        loc: Loc | None,
        origin: tuple[Origin, ...],
    ) -> None:
        self.op = op
        self._operands: list[Value | None] = list(operands)
        self._attrs = dict(attrs)
        self.results: tuple[Value, ...] = ()
        self.loc = loc
        self.origin = origin
        self.graph: Graph | None = None
        self._prev: Node | None = None
        self._next: Node | None = None

    @property
    def operands(self) -> tuple[Value | None, ...]:
        """Operands by position; an absent optional one is None (trailing ones may be left out)."""
        return tuple(self._operands)

    @property
    def attrs(self) -> Mapping[str, AttrValue]:
        """All attrs of the op in declared order, with defaults filled in. Read only."""
        return self._attrs

    @property
    def result(self) -> Value:
        """The only result; VerifyError if there are several."""
        if len(self.results) != 1:
            raise VerifyError(f"{self.op} has {len(self.results)} results, not one", where=self.describe())
        return self.results[0]

    @property
    def name(self) -> str:
        """The name of the first result, by which a node is known."""
        return self.results[0].name

    def operand(self, name: str) -> Value | None:
        """The operand declared under `name`; None where an optional one is absent."""
        from qcompiler.opdef import opdef

        index = opdef(self.op).operand_index(name)
        return self._operands[index] if index < len(self._operands) else None

    def describe(self) -> str:
        """`%name = op` and the user's source line, for messages."""
        names = ", ".join(repr(value) for value in self.results)
        place = f" at {self.loc.file}:{self.loc.line}" if self.loc else ""
        return f"{names} = {self.op}{place}"

    def __repr__(self) -> str:
        return f"<{self.describe()}>"


class Nodes:
    """The nodes of a graph, as they are when a loop over them begins; `len` counts those of now."""

    __slots__ = ("_graph",)

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def __iter__(self) -> Iterator[Node]:
        graph = self._graph
        return (node for node in graph.node_list if node.graph is graph)

    def __len__(self) -> int:
        return len(self._graph)

    def __contains__(self, node: object) -> bool:
        return isinstance(node, Node) and node.graph is self._graph

    def __repr__(self) -> str:
        return f"<{len(self)} nodes of {self._graph.name}>"


class Graph:
    """A named dataflow graph at one stage.

    Attributes:
        name: the graph's name.
        stage: "float", "observed", "fake_quant", "qdq", "integer" or "lowered" (see stages.py).
        inputs, outputs: values, in the order of the signature.
        output_names: public names of the outputs.
        notes: decisions that frontends and passes record: guards, why a node stays float, ... (see notes.py).
    """

    def __init__(self, name: str = "main", stage: str = "float") -> None:
        self.name = name
        self.stage = stage
        self.inputs: list[Value] = []
        self._outputs: list[Value] = []
        self.output_names: list[str] = []
        self.consts: dict[str, Const] = {}
        self.notes: list[Note] = []
        self._names: set[str] = set()
        self._suffix: dict[str, int] = {}
        self._first: Node | None = None
        self._last: Node | None = None
        self._count = 0

    # -- reading

    @property
    def nodes(self) -> Nodes:
        """The nodes in execution order. Nodes erased during a loop are skipped; new ones are not visited."""
        return Nodes(self)

    @property
    def node_list(self) -> list[Node]:
        """The nodes in execution order, as a list."""
        found = []
        node = self._first
        while node is not None:
            found.append(node)
            node = node._next
        return found

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(self._outputs)

    def __len__(self) -> int:
        return self._count

    def value(self, name: str) -> Value:
        """The value of that name; VerifyError with the nearest name if there is none."""
        for value in self.values():
            if value.name == name:
                return value
        from qcompiler.errors import nearest

        raise VerifyError(f"no value named {name!r} in graph {self.name}", hint=nearest(name, self._names))

    def values(self) -> Iterator[Value]:
        """Inputs, constants, then results in execution order."""
        yield from self.inputs
        yield from self.consts.values()
        for node in self.nodes:
            yield from node.results

    @property
    def dim_names(self) -> tuple[str, ...]:
        """The symbolic sizes that the inputs bind, sorted."""
        return tuple(sorted(frozenset().union(*(value.type.dim_names for value in self.inputs))))

    def is_output(self, value: Value) -> bool:
        return any(value is output for output in self._outputs)

    # -- building

    def fresh_name(self, base: str) -> str:
        """`base`, or `base_1`, `base_2`, ... if taken. Reserves nothing."""
        if base not in self._names:
            return base
        count = self._suffix.get(base, 0)
        while True:
            count += 1
            if f"{base}_{count}" not in self._names:
                self._suffix[base] = count
                return f"{base}_{count}"

    def _claim(self, name: str) -> str:
        if name in self._names:
            raise VerifyError(f"the name {name!r} is taken in graph {self.name}")
        if len(name.encode()) > 1024:
            raise VerifyError("name too long", expected="at most 1024 bytes", got=len(name.encode()))
        self._names.add(name)
        return name

    def add_input(self, name: str, type: TensorType) -> Value:
        value = Value(self._claim(name), type)
        self.inputs.append(value)
        return value

    def add_const(self, name: str, data: np.ndarray, type: TensorType | None = None) -> Const:
        """Add a constant under `name`, with a suffix if it is taken; its type is the array's own unless given."""
        data = np.asarray(data)
        const = Const(self.fresh_name(name), type or type_of(data), data)
        self.consts[self._claim(const.name)] = const
        return const

    def set_outputs(self, values: Sequence[Value], names: Sequence[str] | None = None) -> None:
        self._outputs = list(values)
        self.output_names = list(names) if names is not None else [value.name for value in values]
        if len(self.output_names) != len(self._outputs):
            raise VerifyError("one name for each output", expected=len(self._outputs), got=len(self.output_names))

    def create(
        self,
        op: str,
        operands: Sequence[Value | None],
        attrs: Mapping[str, AttrValue] | None = None,
        *,
        types: Sequence[TensorType] | TensorType | None = None,
        names: Sequence[str] | str | None = None,
        loc: Loc | None = None,
        origin: Iterable[Origin] = (),
        before: Node | None = None,
        after: Node | None = None,
    ) -> Node:
        """Create a node at the end, or before/after another one.

        Attrs are checked against the op's declaration and completed with defaults. Result types are inferred unless
        given; quantized result types are always given. A name in `names` that is taken gets a suffix.

        Raises:
            VerifyError: unknown op or attr, wrong operand count. ShapeError: operand types that do not fit.
        """
        from qcompiler.opdef import opdef

        definition = opdef(op)
        while operands and operands[-1] is None:
            operands = operands[:-1]
        full_attrs = definition.complete_attrs(attrs or {})
        definition.check_operands(operands)
        if types is None:
            types = definition.infer_types([v.type if v is not None else None for v in operands], full_attrs)
        elif isinstance(types, TensorType):
            types = (types,)
        if names is None:
            names = (op,) * len(types)
        elif isinstance(names, str):
            names = (names,) if len(types) == 1 else tuple(f"{names}.{result}" for result in definition.results)
        node = Node(op, operands, full_attrs, loc, tuple(origin))
        node.results = tuple(
            Value(self._claim(self.fresh_name(name)), type, node, i) for i, (name, type) in enumerate(zip(names, types))
        )
        for index, operand in enumerate(node._operands):
            self._add_use(operand, node, index)
        self._link(node, before, after)
        return node

    def _link(self, node: Node, before: Node | None, after: Node | None) -> None:
        previous = after
        if after is not None:
            before = after._next
        else:
            previous = before._prev if before is not None else self._last
        node.graph, node._prev, node._next = self, previous, before
        if previous is None:
            self._first = node
        else:
            previous._next = node
        if before is None:
            self._last = node
        else:
            before._prev = node
        self._count += 1

    @staticmethod
    def _add_use(value: Value | None, node: Node, index: int) -> None:
        if value is not None:
            value._uses[(id(node), index)] = Use(node, index)

    @staticmethod
    def _drop_use(value: Value | None, node: Node, index: int) -> None:
        if value is not None:
            value._uses.pop((id(node), index), None)

    # -- mutation

    def set_operand(self, node: Node, index: int, value: Value | None) -> None:
        """Make operand `index` of `node` read `value`; the list grows by None up to `index`."""
        while len(node._operands) <= index:
            node._operands.append(None)
        self._drop_use(node._operands[index], node, index)
        node._operands[index] = value
        self._add_use(value, node, index)

    def set_attr(self, node: Node, name: str, value: AttrValue) -> None:
        from qcompiler.opdef import opdef

        node._attrs = opdef(node.op).complete_attrs({**node._attrs, name: value})

    def set_type(self, value: Value, type: TensorType) -> None:
        """Give a value another type; a constant's type changes only with its data."""
        if isinstance(value, Const):
            raise VerifyError(f"the type of constant @{value.name} changes only with its data")
        value.type = type

    def replace_uses(self, old: Value, new: Value, *, only: Callable[[Use], bool] | None = None) -> None:
        """Make every use of `old`, graph outputs included, read `new` instead.

        Args:
            only: which uses to replace; the graph outputs then stay.
        """
        for use in old.uses:
            if only is None or only(use):
                self.set_operand(use.node, use.index, new)
        if only is None:
            self._outputs = [new if output is old else output for output in self._outputs]

    def set_output(self, index: int, value: Value) -> None:
        self._outputs[index] = value

    def erase(self, node: Node) -> None:
        """Remove a node whose results nobody reads.

        Raises:
            VerifyError: a result is still used.
        """
        for value in node.results:
            if value._uses or self.is_output(value):
                raise VerifyError(f"cannot erase {node.describe()}: %{value.name} is still used")
        for index, operand in enumerate(node._operands):
            self._drop_use(operand, node, index)
        for value in node.results:
            self._names.discard(value.name)
        if node._prev is None:
            self._first = node._next
        else:
            node._prev._next = node._next
        if node._next is None:
            self._last = node._prev
        else:
            node._next._prev = node._prev
        node.graph = None
        self._count -= 1

    def replace(
        self,
        node: Node,
        op: str,
        operands: Sequence[Value | None],
        attrs: Mapping[str, AttrValue] | None = None,
        *,
        types: Sequence[TensorType] | TensorType | None = None,
        origin: Iterable[Origin] | None = None,
    ) -> Node:
        """Put a new node in the place of `node`: it takes the position, result names, source line and uses.

        `origin` defaults to the old node's own.
        """
        new = self.create(
            op,
            operands,
            attrs,
            types=types,
            names=[f"{v.name}.new" for v in node.results],
            loc=node.loc,
            origin=node.origin if origin is None else origin,
            before=node,
        )
        if len(new.results) != len(node.results):
            raise VerifyError(
                f"{op} has {len(new.results)} results, {node.op} {len(node.results)}", where=node.describe()
            )
        for old, value in zip(node.results, new.results):
            self.replace_uses(old, value)
        wanted = [value.name for value in node.results]
        self.erase(node)
        for value, name in zip(new.results, wanted):
            self.rename(value, name)
        return new

    def rename(self, value: Value, name: str) -> None:
        """Give a value another name; VerifyError if it is taken."""
        if value.name == name:
            return
        self._claim(name)
        self._names.discard(value.name)
        if isinstance(value, Const):
            self.consts = {name if key == value.name else key: const for key, const in self.consts.items()}
        value.name = name

    def erase_const(self, const: Const) -> None:
        if const._uses or self.is_output(const):
            raise VerifyError(f"cannot erase @{const.name}: it is still used")
        del self.consts[const.name]
        self._names.discard(const.name)

    def erase_unused_consts(self) -> None:
        for const in [c for c in self.consts.values() if not c._uses and not self.is_output(c)]:
            self.erase_const(const)

    def clone(self, *, stage: str | None = None, name: str | None = None) -> Graph:
        """A deep copy of the structure. Constant data is read-only and shared."""
        copy = Graph(name or self.name, stage or self.stage)
        copy.notes = list(self.notes)
        mapping: dict[int, Value] = {}
        for input in self.inputs:
            mapping[id(input)] = copy.add_input(input.name, input.type)
        for const in self.consts.values():
            new = Const(const.name, const.type, const.data)
            new._extremes = const._extremes
            copy.consts[copy._claim(const.name)] = new
            mapping[id(const)] = new
        self.splice_into(copy, mapping)
        copy.set_outputs([mapping[id(v)] for v in self._outputs], self.output_names)
        return copy

    def splice_into(self, target: Graph, mapping: dict[int, Value]) -> None:
        """Append copies of this graph's nodes to `target`.

        Args:
            mapping: id of a value here -> the value there. Holds the inputs and constants at the start, and all values
                at the end.
        """
        for node in self.nodes:
            new = Node(
                node.op,
                [None if v is None else mapping[id(v)] for v in node._operands],
                node._attrs,
                node.loc,
                node.origin,
            )
            results = []
            for value in node.results:
                result = Value(target._claim(target.fresh_name(value.name)), value.type, new, value.index)
                mapping[id(value)] = result
                results.append(result)
            new.results = tuple(results)
            for index, operand in enumerate(new._operands):
                self._add_use(operand, new, index)
            target._link(new, None, None)

    def __repr__(self) -> str:
        return f"<Graph {self.name} stage={self.stage}: {self._count} nodes>"

    def __str__(self) -> str:
        from qcompiler.text.printer import print_graph

        return print_graph(self)


@dataclass
class Module:
    """Named graphs with one entry."""

    graphs: dict[str, Graph] = field(default_factory=dict)
    entry: str = "main"

    @property
    def main(self) -> Graph:
        return self.graphs[self.entry]


Shape = tuple[DimLike, ...]
