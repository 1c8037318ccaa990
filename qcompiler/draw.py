"""Graphs as pictures, through Graphviz: SVG, PNG, PDF, or its own text.

Colours show what runs in int8 and what in float. Types are on the edges, constants and attrs in the nodes, and modules
of the user's model are frames. A node's tooltip (SVG) is its line of IR. Does not own the layout, which is Graphviz's.
"""

from __future__ import annotations

import html
import logging
import os
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from qcompiler.errors import QCompilerError, nearest
from qcompiler.ir import Graph, Node, Value
from qcompiler.module_scopes import Scope, module_tree
from qcompiler.regular_file import create_regular
from qcompiler.report import NodeKind, node_kind
from qcompiler.types import TensorType

_log = logging.getLogger(__name__)

_SUFFIXES = {".svg": "svg", ".png": "png", ".pdf": "pdf", ".dot": "dot", ".gv": "dot"}
_GET_DOT = "install Graphviz: apt-get install graphviz, brew install graphviz, or https://graphviz.org/download"
_MANY_NODES = 400  # for more, Graphviz's best layout takes minutes
_LONGEST = 40


_COLOURS = {  # kind -> (fill, border)
    NodeKind.INTEGER: ("#d9efdc", "#3f8f55"),
    NodeKind.FLOAT: ("#fbe3c8", "#c07a28"),
    NodeKind.CONVERSION: ("#d6e6f7", "#4577a8"),
    NodeKind.OBSERVER: ("#f3ecc0", "#a3932c"),
    NodeKind.INDEX: ("#ececec", "#8a8a8a"),
}


def draw(graph: Graph, path: str | os.PathLike[str]) -> pathlib.Path:
    """Draw `graph` in the format of the suffix of `path`: .svg, .png, .pdf, .dot or .gv.

    Returns the file that was written. If the program `dot` is missing, that is a .dot file next to `path`, and a
    warning says how to get the program.

    Raises:
        QCompilerError: another suffix, a file that cannot be written, or `dot` failed.
    """
    import graphviz

    target = pathlib.Path(path)
    form = _SUFFIXES.get(target.suffix.lower())
    if form is None:
        raise QCompilerError(
            f"no picture format {target.suffix!r}", where=f"file {target}", hint=nearest(target.suffix, _SUFFIXES)
        )
    source = dot_source(graph)
    if form == "dot":
        return _write(target, source.encode())
    try:
        picture = graphviz.Source(source).pipe(format=form, quiet=True)
    except graphviz.ExecutableNotFound:
        written = _write(target.with_name(target.name + ".dot"), source.encode())
        _log.warning(
            "the program `dot` is missing, so %s was written instead of %s; to get it: %s", written, target, _GET_DOT
        )
        return written
    except graphviz.CalledProcessError as error:
        told = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else str(error.stderr)
        raise QCompilerError("the program `dot` failed", where=f"file {target}", got=told.strip()[:500]) from error
    return _write(target, picture)


def _write(path: pathlib.Path, content: bytes) -> pathlib.Path:
    try:
        with create_regular(path) as file:
            file.write(content)
    except OSError as error:
        raise QCompilerError(
            "the picture cannot be written", where=f"file {path}", got=error.strerror or str(error)
        ) from error
    return path


def dot_source(graph: Graph) -> str:
    """The picture in Graphviz's own language. Equal graphs give equal text."""
    import graphviz

    nodes = graph.node_list
    many = len(nodes) > _MANY_NODES
    dot = graphviz.Digraph(
        "graph",
        graph_attr={
            "label": _title(graph, nodes),
            "labelloc": "t",
            "fontname": "Helvetica",
            "fontsize": "12",
            "ranksep": "0.32",
            "nodesep": "0.28",
            "pad": "0.3",
            "bgcolor": "white",
            "newrank": "true",
            **({"nslimit": "2", "nslimit1": "2", "splines": "polyline"} if many else {}),
        },
        node_attr={
            "shape": "box",
            "style": "rounded,filled",
            "fontname": "Helvetica",
            "fontsize": "11",
            "margin": "0.12,0.06",
            "penwidth": "1.1",
            "height": "0.3",
        },
        edge_attr={
            "fontname": "Helvetica",
            "fontsize": "9",
            "fontcolor": "#555555",
            "color": "#777777",
            "arrowsize": "0.6",
        },
    )
    ids = {id(node): f"n{index}" for index, node in enumerate(nodes)}
    sources = {id(value): f"in{index}" for index, value in enumerate(graph.inputs)}
    sources.update((id(value), ids[id(node)]) for node in nodes for value in node.results)
    for index, value in enumerate(graph.inputs):
        dot.node(
            f"in{index}",
            _label(f"<B>{_shown(value.name)}</B>"),
            shape="ellipse",
            fillcolor="white",
            color="#555555",
            tooltip=_tooltip(f"%{value.name}: {value.type}"),
        )
    _add_scope(dot, module_tree(nodes), graph, ids, "")
    labelled: set[int] = set()
    for node in nodes:
        for operand in node.operands:
            if operand is not None and not operand.is_const:
                _add_edge(dot, sources[id(operand)], ids[id(node)], operand, labelled)
    for index, (value, name) in enumerate(zip(graph.outputs, graph.output_names)):
        dot.node(
            f"out{index}",
            _label(f"<B>{_shown(name)}</B>"),
            shape="ellipse",
            fillcolor="white",
            color="#555555",
            penwidth="2",
            tooltip=_tooltip(f"{value!r}: {value.type}"),
        )
        if value.is_const:
            dot.node(
                f"const{index}",
                _label(f"{_shown('@' + value.name)}<BR/>{_shown(_short(value.type))}"),
                style="filled",
                fillcolor=_COLOURS[NodeKind.INDEX][0],
                color=_COLOURS[NodeKind.INDEX][1],
            )
            sources[id(value)] = f"const{index}"
        _add_edge(dot, sources[id(value)], f"out{index}", value, labelled)
    return dot.source


def _add_edge(dot: Any, tail: str, head: str, value: Value, labelled: set[int]) -> None:
    """Add an edge. Only the first edge of a value shows its type."""
    import graphviz

    label = "" if id(value) in labelled else f" {_printable(_short(value.type))} "
    labelled.add(id(value))
    kind = (
        NodeKind.INTEGER if value.type.is_quantized else NodeKind.FLOAT if value.type.dtype.is_float else NodeKind.INDEX
    )
    color = _COLOURS[kind][1]
    dot.edge(
        tail,
        head,
        label=graphviz.escape(label),
        color=color,
        tooltip=_tooltip(f"{value!r}: {value.type}"),
        labeltooltip=_tooltip(f"{value!r}: {value.type}"),
    )


def _add_scope(dot: Any, scope: Scope, graph: Graph, ids: dict[int, str], path: str) -> None:
    for node in scope.nodes:
        _add_node(dot, node, graph, ids[id(node)])
    for name, child in scope.children.items():
        inner = f"{path}.{name}" if path else name
        with dot.subgraph(
            name=f"cluster_{min(int(ids[id(node)][1:]) for node in child.all_nodes())}_{inner.count('.')}"
        ) as frame:
            frame.attr(
                label=_label(f'<FONT COLOR="#777777">{_shown(inner)}</FONT>'),
                labeljust="l",
                style="rounded",
                color="#c4c4c4",
                fontsize="10",
                margin="10",
                tooltip=_tooltip(inner),
            )
            _add_scope(frame, child, graph, ids, inner)


# -- nodes


def _add_node(dot: Any, node: Node, graph: Graph, name: str) -> None:
    from qcompiler.text.printer import format_node

    fill, border = _COLOURS[node_kind(node)]
    lines = [f"<B>{_shown(node.op)}</B>{_fused(node)}"]
    details = _attrs(node)
    if details:
        lines.append(f'<FONT POINT-SIZE="9">{html.escape(_cut(details, 60))}</FONT>')
    lines += [f'<FONT POINT-SIZE="9" COLOR="#555555">{text}</FONT>' for text in _constants(node)]
    lines.append(f'<FONT POINT-SIZE="8" COLOR="#777777">{_shown(node.name)}</FONT>')
    dot.node(
        name,
        _label("<BR/>".join(lines)),
        fillcolor=fill,
        color=border,
        tooltip=_tooltip(format_node(graph, node)),
    )


def _fused(node: Node) -> str:
    """What was fused into a node, as in ` + add + relu`."""
    from qcompiler.ops.interfaces import TakesActivation, Weighted

    layer, maker = Weighted.of(node), TakesActivation.of(node)
    words = ["add"] if layer is not None and layer.added is not None else []
    if maker is not None and maker.activation != "none":
        words.append(maker.activation)
    return "".join(f" + {_shown(word)}" for word in words)


def _attrs(node: Node) -> str:
    """The attrs that differ from their defaults: windows as 3x3, others as name=value."""
    from qcompiler.opdef import opdef
    from qcompiler.ops.interfaces import Weighted
    from qcompiler.ops.quantized import Observe
    from qcompiler.text.printer import format_attr

    defaults = {spec.name: spec.default for spec in opdef(node.op).attrs}
    left = {name: value for name, value in node.attrs.items() if value != defaults.get(name) and name != "activation"}
    words = []
    kernel: Any = left.pop("kernel", None)
    layer = Weighted.of(node)
    if layer is not None:
        kernel = tuple(layer.weight.type.shape[2:])
    if isinstance(kernel, tuple) and kernel:
        words.append("\u00d7".join(map(str, kernel)))
    for name in ("stride", "dilation", "padding"):
        value = left.pop(name, None)
        if isinstance(value, tuple) and value and set(_flat(value)) != {0 if name == "padding" else 1}:
            words.append(f"{name} {_brief(value)}")
    if node.op == Observe.name:
        left.pop(Observe.spec_text.name, None)
    words += [f"{name}={format_attr(value)}" for name, value in left.items()]
    return "  ".join(words)


def _flat(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _flat(item)] if isinstance(value, tuple) else [value]


def _brief(value: tuple[Any, ...]) -> str:
    leaves = _flat(value)
    return str(leaves[0]) if len(set(leaves)) == 1 else str(value).replace(" ", "")


def _constants(node: Node) -> list[str]:
    """One line per constant operand: its name, and its type or, for a scalar, its value."""
    from qcompiler.opdef import opdef

    found = []
    for index, value in enumerate(node.operands):
        if value is not None and value.is_const:
            data = value.data  # type: ignore[attr-defined]
            shown = f"{data.reshape(()).item():.6g}" if data.size == 1 else _short(value.type, scale=False)
            found.append(f"{_shown(opdef(node.op).spec(index).name)} {_shown(shown)}")
    return found if len(found) < 6 else [*found[:4], f"and {len(found) - 4} constants more"]


# -- words


def _short(type: TensorType, *, scale: bool = True) -> str:
    """A type in short form, for an edge: the scale to three digits, or the number of scales."""
    text = f"{type.dtype}[{','.join(map(str, type.shape))}]"
    if type.quant is None or not scale:
        return text
    quant = type.quant
    if quant.axis is not None:
        return f"{text} \u00d7{len(quant.scale)} scales"
    point = (
        f"\u2212{quant.zero_point[0]}"
        if quant.zero_point[0] > 0
        else f"+{-quant.zero_point[0]}"
        if quant.zero_point[0]
        else ""
    )
    return f"{text} \u00d7{quant.scale[0]:.3g}{f' ({point})' if point else ''}"


def _title(graph: Graph, nodes: Sequence[Node]) -> str:
    counts = Counter(node_kind(node) for node in nodes)
    cells = "".join(
        f'<TD BGCOLOR="{fill}" COLOR="{border}">{counts[kind]} {kind.value}</TD>'
        for kind, (fill, border) in _COLOURS.items()
        if counts[kind]
    )
    name = f'<FONT POINT-SIZE="16"><B>{_shown(graph.name)}</B></FONT>'
    body = f'<TR><TD BORDER="0">{name}  stage {_shown(graph.stage)}</TD>{cells}</TR>'
    return _label(f'<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="6" CELLPADDING="4">{body}</TABLE>')


def _label(markup: str) -> str:
    return f"<{markup}>"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _cut(text: str, length: int = _LONGEST) -> str:
    """The text, without its middle if it is long."""
    text = _printable(text)
    return text if len(text) <= length else f"{text[: length // 2]}\u2026{text[-length // 2 :]}"


def _shown(text: str) -> str:
    """Text escaped for a label's markup."""
    return html.escape(_cut(text)) or "&#8203;"


def _tooltip(text: str) -> str:
    import graphviz

    return graphviz.escape(_cut(text, 400))
