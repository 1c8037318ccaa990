"""Graphs as text: the one form that people read, tests compare and artifacts store.

`grammar.lark` is the language reference, and `parser.py` reads what this module prints. The text names constants and
per-channel parameters but does not hold their data; `graph_data` gives the arrays under those names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.arguments import check_type
from qcompiler.errors import VerifyError
from qcompiler.ir import Const, Graph, Module, Node, Value
from qcompiler.types import DType, Layout, QuantParams, TensorType

if TYPE_CHECKING:
    from qcompiler.ir import AttrValue

VERSION = 1
_BARE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*")
_BARE_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTEXT = 2


def format_name(name: str) -> str:
    """A value's name as printed after % or @: bare, or quoted if it has odd characters."""
    return name if _BARE_NAME.fullmatch(name) else json.dumps(name)


def _format_word(name: str) -> str:
    return name if _BARE_WORD.fullmatch(name) else json.dumps(name)


def format_scale(scale: float) -> str:
    """The shortest decimal that reads back to the same float32."""
    single = np.float32(scale)
    text = repr(float(np.format_float_scientific(single)))  # numpy's shortest digits, in Python's spelling
    return text if np.float32(float(text)) == single else repr(float(single))


def format_attr(value: AttrValue) -> str:
    """The text of an attr's value. A float has a point or an exponent, or is inf or nan."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, DType):
        return str(value)
    items = [format_attr(item) for item in value]
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


class ArrayNames:
    """The names of one graph's per-channel parameter arrays. Equal arrays share the name of the first one."""

    def __init__(self, taken: set[str]) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._taken = taken
        self._by_content: dict[tuple[str, bytes], str] = {}

    def name(self, owner: str, suffix: str, array: np.ndarray) -> str:
        key = (suffix, array.tobytes())
        if key not in self._by_content:
            name, count = f"{owner}.{suffix}", 0
            while name in self._taken or name in self.arrays:
                count += 1
                name = f"{owner}.{suffix}_{count}"
            self._by_content[key] = name
            self.arrays[name] = array
        return self._by_content[key]


def _format_quant(quant: QuantParams, dtype: DType, owner: str, arrays: ArrayNames | None) -> list[str]:
    fields = []
    if quant.axis is not None:
        fields.append(f"axis={quant.axis}")
    if quant.axis is None:
        fields.append(f"scale={format_scale(quant.scale[0])}")
    elif arrays is not None:
        fields.append(f"scale=@{format_name(arrays.name(owner, 'scale', quant.scales))}")
    else:
        fields.append(
            f"scale=({', '.join(format_scale(s) for s in quant.scale[:3])}{', ...' if len(quant.scale) > 3 else ''})"
        )
    if len(set(quant.zero_point)) == 1:
        if quant.zero_point[0] != 0:
            fields.append(f"zero_point={quant.zero_point[0]}")
    elif arrays is not None:
        fields.append(f"zero_point=@{format_name(arrays.name(owner, 'zero_point', quant.zero_points))}")
    else:
        fields.append("zero_point=(...)")
    if (quant.qmin, quant.qmax) != (dtype.min, dtype.max):
        fields += [f"qmin={quant.qmin}", f"qmax={quant.qmax}"]
    return fields


def _format_layout(layout: Layout) -> str:
    fields = []
    if layout.channel_stride:
        fields.append(f"channel_stride={layout.channel_stride}")
    if layout.halo:
        fields.append(f"halo={format_attr(layout.halo)}")
    return f"layout={layout.order}({', '.join(fields)})"


def format_type(type: TensorType, owner: str = "", arrays: ArrayNames | None = None) -> str:
    """The text of a type. Without `arrays`, as in messages, per-channel parameters are abbreviated instead of named."""
    text = f"{type.dtype}[{','.join(map(str, type.shape))}]"
    fields = []
    if type.quant is not None:
        fields += _format_quant(type.quant, type.dtype, owner, arrays)
    if type.layout is not None:
        fields.append(_format_layout(type.layout))
    return f"{text}{{{', '.join(fields)}}}" if fields else text


class _Printer:
    def __init__(self, graph: Graph, rename: Callable[[Value], str] | None = None) -> None:
        self.graph = graph
        self.rename = rename
        self.arrays = ArrayNames({self.name(const) for const in graph.consts.values()})

    def name(self, value: Value) -> str:
        return self.rename(value) if self.rename is not None else value.name

    def ref(self, value: Value | None) -> str:
        if value is None:
            return "none"
        return ("@" if value.is_const else "%") + format_name(self.name(value))

    def type(self, value: Value) -> str:
        return format_type(value.type, self.name(value), self.arrays)

    def header(self) -> str:
        graph = self.graph
        name = _format_word(graph.name)
        inputs = ", ".join(f"{self.ref(value)}: {self.type(value)}" for value in graph.inputs)
        return f"graph {name}({inputs}) stage={graph.stage} {{"

    def const(self, const: Const) -> str:
        return f"  const {self.ref(const)} : {self.type(const)}"

    def node(self, node: Node) -> str:
        results = ", ".join(self.ref(value) for value in node.results)
        operands = list(node.operands)
        while operands and operands[-1] is None:
            operands.pop()
        text = f"  {results} = {node.op}({', '.join(self.ref(value) for value in operands)})"
        attrs = self.attrs(node)
        if attrs:
            text += f" {{{attrs}}}"
        text += f" : {', '.join(self.type(value) for value in node.results)}"
        if node.loc is not None:
            text += f" loc({json.dumps(node.loc.file)}:{node.loc.line})"
        if node.origin:
            text += f" origin({', '.join(f'{json.dumps(o.path)}:{json.dumps(o.kind)}' for o in node.origin)})"
        return text

    def attrs(self, node: Node) -> str:
        from qcompiler.opdef import opdef

        if not node.attrs:
            return ""
        try:
            defaults = {spec.name: spec.default for spec in opdef(node.op).attrs}
        except VerifyError:
            defaults = {}  # an unknown op prints all its attrs
        return ", ".join(
            f"{name}={format_attr(value)}"
            for name, value in node.attrs.items()
            if name not in defaults or not _same(defaults[name], value)
        )

    def output(self, value: Value, name: str) -> str:
        return self.ref(value) if name == value.name else f"{self.ref(value)} as {json.dumps(name)}"

    def lines(self) -> Iterator[str]:
        graph = self.graph
        yield self.header()
        for note in graph.notes:
            yield f"  note {json.dumps(note.text)}"
        for const in graph.consts.values():
            yield self.const(const)
        for node in graph.node_list:
            yield self.node(node)
        outputs = [self.output(value, name) for value, name in zip(graph.outputs, graph.output_names)]
        yield f"  return {', '.join(outputs)}" if outputs else "  return"
        yield "}"


def _same(default: object, value: object) -> bool:
    """Whether two values are equal and of one type, so that 1, 1.0 and true differ."""
    return type(default) is type(value) and default == value and repr(default) == repr(value)


def print_graph(graph: Graph, *, rename: Callable[[Value], str] | None = None) -> str:
    """The text of a graph. `rename` gives values other names, for comparisons that ignore names."""
    check_type("graph", graph, Graph, "a Graph")
    return f"qcompiler {VERSION}\n" + "\n".join(_Printer(graph, rename).lines()) + "\n"


def print_module(module: Module) -> str:
    """The text of a module: its entry, then its graphs in order."""
    parts = [f"qcompiler {VERSION}", f"entry {_format_word(module.entry)}"]
    for graph in module.graphs.values():
        parts.extend(_Printer(graph).lines())
    return "\n".join(parts) + "\n"


def graph_data(graph: Graph) -> dict[str, np.ndarray]:
    """All arrays that the text of a graph names: constants, then scales and zero points of per-channel types."""
    printer = _Printer(graph)
    for _ in printer.lines():
        pass
    return {**{const.name: const.data for const in graph.consts.values()}, **printer.arrays.arrays}


def module_data(module: Module) -> dict[str, np.ndarray]:
    """All arrays of a module, each under `graph::name`."""
    return {
        f"{name}::{key}": array for name, graph in module.graphs.items() for key, array in graph_data(graph).items()
    }


def format_node(graph: Graph, node: Node) -> str:
    """The line of one node, without the indent."""
    return _Printer(graph).node(node).strip()


def annotate(graph: Graph, node: Node, message: str) -> str:
    """The IR around a node, with a caret under it and the message. It also works on graphs that do not verify."""
    printer = _Printer(graph)
    before: list[Node] = []
    after: list[Node] = []
    previous, following = node._prev, node._next
    while previous is not None and len(before) < _CONTEXT:
        before.append(previous)
        previous = previous._prev
    while following is not None and len(after) < _CONTEXT:
        after.append(following)
        following = following._next
    lines = [_safely(printer, n) for n in reversed(before)]
    line = _safely(printer, node)
    width = len(line.split(" = ")[0].strip()) if " = " in line else 1
    lines += [line, f"  {'^' * max(1, width)} {message}"]
    return "\n".join(lines + [_safely(printer, n) for n in after])


def _safely(printer: _Printer, node: Node) -> str:
    try:
        return printer.node(node)
    except Exception:  # noqa: BLE001  a broken node must not hide the error that is being reported
        return f"  {node.op}(...)"
