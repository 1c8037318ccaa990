"""Reports: a model's nodes in int8 and in float, why the latter, conversions, and the bytes of constants.

It counts the nodes of the graph; the reasons are the graph's notes, which the passes wrote.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from qcompiler.dims import Dim, DimLike
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.notes import (
    UNREMARKABLE,
    BiasCorrected,
    Equalized,
    Estimate,
    Interpreted,
    KeptFloat,
    NotRounded,
    Outliers,
    PartsJudged,
    RealResult,
    Rounded,
    Uncalibrated,
    Unclipped,
    Unjudged,
)
from qcompiler.opdef import Role, op_of, works_on_codes
from qcompiler.ops.interfaces import Conversion, RangeConversion
from qcompiler.ops.quantized import Observe
from qcompiler.ops.recurrent import Recurrent, has_coded_weights

_NO_REASON = "no reason is recorded"


class NodeKind(Enum):
    """How a node counts. The value is the word that reports and drawings use."""

    INTEGER = "int8"
    FLOAT = "float"
    CONVERSION = "conversion"
    OBSERVER = "observer"
    INDEX = "index"


def node_kind(node: Node) -> NodeKind:
    """How a node counts: INTEGER if it works on codes (its result may be real), else FLOAT with a real result, INDEX
    with plain integers or bools."""
    if Conversion.of(node) is not None or RangeConversion.of(node) is not None:
        return NodeKind.CONVERSION
    if node.op == Observe.name:
        return NodeKind.OBSERVER
    if works_on_codes(node) or has_coded_weights(node):
        return NodeKind.INTEGER
    return NodeKind.FLOAT if any(value.type.dtype.is_float for value in node.results) else NodeKind.INDEX


def count_nodes(graph: Graph) -> tuple[int, int]:
    """(integer nodes, float nodes); conversions, observers and plain integers count as neither."""
    kinds = Counter(node_kind(node) for node in graph.nodes)
    return kinds[NodeKind.INTEGER], kinds[NodeKind.FLOAT]


def constant_bytes(graph: Graph) -> int:
    """Bytes of all constants, scales included."""
    scales = sum(4 * len(const.type.quant.scale) for const in graph.consts.values() if const.type.quant is not None)
    return sum(const.data.nbytes for const in graph.consts.values()) + scales


def float_constant_bytes(graph: Graph) -> int:
    """Bytes of all constants with every quantized one in f32."""
    layers = [layer for node in graph.nodes if (layer := Recurrent.of(node)) is not None and has_coded_weights(node)]
    coded = {id(weight) for layer in layers for weight in layer.values(Role.WEIGHT)}
    return sum(
        4 * const.data.size if const.type.is_quantized or id(const) in coded else const.data.nbytes
        for const in graph.consts.values()
    )


def product_work(graph: Graph) -> dict[str, tuple[int, int | None]]:
    """ "int8" and "float" -> (the weights of products that run so, their multiply-adds).

    A weight that several products read counts once for each kind. The multiply-adds are those of all products, also of
    two activations; None if a size is symbolic.
    """
    weights: dict[str, dict[str, int]] = {"int8": {}, "float": {}}
    work: dict[str, list[DimLike]] = {"int8": [], "float": []}
    for node in graph.nodes:
        op = op_of(node)
        sizes = op.products()
        if sizes is None:
            continue
        kind = "int8" if works_on_codes(node) or has_coded_weights(node) else "float"
        work[kind].append(math.prod(sizes, start=1))
        for value in op.values(Role.WEIGHT):
            stored = _stored(value)
            if stored is not None:
                weights[kind][stored.name] = stored.data.size
    found: dict[str, tuple[int, int | None]] = {}
    for kind, counts in work.items():
        known = [count for count in counts if not isinstance(count, Dim)]
        found[kind] = sum(weights[kind].values()), sum(known) if len(known) == len(counts) else None
    return found


def _stored(value: Value) -> Const | None:
    """The constant that a weight is, or is converted from."""
    while not isinstance(value, Const):
        if value.producer is None or len(value.producer.operands) != 1:
            return None
        value = op_of(value.producer).first
    return value


@dataclass(frozen=True)
class OpCount:
    """How many nodes of one op run in int8, and how many in float."""

    op: str
    int8: int
    float: int


@dataclass(frozen=True)
class FloatNode:
    """A float node of a quantized graph, the reason, and the user's source line ("" if unknown)."""

    node: str
    op: str
    reason: str
    where: str = ""


@dataclass(frozen=True, repr=False)
class Report:
    """What became of a model. `str()` gives the text, `to_dict()` the same for JSON.

    Attributes:
        name, stage: the graph's name and stage.
        target: what the graph was compiled for; "" if it was not.
        execution: how that runs here: "native", "emulated by ..." or "interpreter".
        equalized: the values whose channels were divided by scales; unjudged: those for which none could be chosen.
        outliers: the values of which a few channels are read in 16 bits.
        uncalibrated: the values of whose range calibration data says little.
        corrected: the products whose biases take up the mean error of rounded weights.
        rounded: the products whose weights have codes that were chosen on data; not_rounded: those of which a qconfig
            asks so, but that have the nearest codes.
        parts: whether parts between products stay real, and what codes there would cost the outputs; "" if there was
            nothing to judge.
        unclipped: the values whose ranges span all that calibration saw, since maxima are taken of them.
        inputs, outputs: `name: type`.
        ops: one row per op, in the order of first use, without conversions, observers and plain integers.
        conversions: op -> count.
        kept_float: the float nodes; empty at stage float, where all are.
        real: the int8 products that write f32 and not codes, and why.
        constant_bytes, float_constant_bytes: bytes as they are, and with every quantized constant in f32.
        products: "int8" and "float" -> (how many weights the products have that run so, their multiply-adds, or None if
            a size is symbolic).
        python_nodes: node -> why no kernel serves it, so that it runs in numpy.
        estimate: what the cost model of qconfig "auto" expects of the graph, quantized and in float; "" without it.
        interpreted: why the interpreter ran the calibration data; "" if compiled code did.
    """

    name: str
    stage: str
    target: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ops: tuple[OpCount, ...]
    conversions: Mapping[str, int]
    kept_float: tuple[FloatNode, ...]
    constant_bytes: int
    float_constant_bytes: int
    python_nodes: Mapping[str, str]
    products: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    estimate: str = ""
    interpreted: str = ""
    execution: str = ""
    equalized: tuple[Equalized, ...] = ()
    unjudged: tuple[Unjudged, ...] = ()
    uncalibrated: tuple[Uncalibrated, ...] = ()
    real: tuple[RealResult, ...] = ()
    outliers: tuple[Outliers, ...] = ()
    corrected: tuple[BiasCorrected, ...] = ()
    unclipped: tuple[Unclipped, ...] = ()
    rounded: tuple[Rounded, ...] = ()
    not_rounded: tuple[NotRounded, ...] = ()
    parts: str = ""

    @property
    def int8_nodes(self) -> int:
        return sum(row.int8 for row in self.ops)

    @property
    def float_nodes(self) -> int:
        return sum(row.float for row in self.ops)

    def __repr__(self) -> str:
        return (
            f"<Report of {self.name}: stage {self.stage}, {self.int8_nodes} int8 nodes, {self.float_nodes} float nodes>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, totals included."""
        return {"int8_nodes": self.int8_nodes, "float_nodes": self.float_nodes, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    def __str__(self) -> str:
        target = f", target {self.target} ({self.execution})" if self.target else ""
        lines = [
            f"{self.name}: stage {self.stage}{target}",
            f"  {', '.join(self.inputs)} -> {', '.join(self.outputs)}",
            f"  {self.int8_nodes} int8 nodes, {self.float_nodes} float nodes, {self._conversions()}",
            f"  constants: {self.constant_bytes:,} bytes{self._saved()}",
            *self._products(),
        ]
        if self.estimate:
            lines.append(f"  estimate of {self.estimate}")
        if self.interpreted:
            lines.append(f"  calibrated on the interpreter: {self.interpreted}")
        if self.ops:
            width = max(len("op"), *(len(row.op) for row in self.ops))
            lines.append(f"  {'op':<{width}}  int8  float")
            lines += [f"  {row.op:<{width}}  {row.int8:>4}  {row.float:>5}" for row in self.ops]
        if self.kept_float:
            lines.append("  stayed float:")
            for row in self.kept_float:
                if row.reason not in UNREMARKABLE:
                    where = f" at {row.where}" if row.where else ""
                    lines.append(f"    %{row.node} = {row.op}: {row.reason}{where}")
            lines += self._unremarkable()
        if self.parts:
            lines.append(f"  parts between products whose codes cost these much: {self.parts}")
        if self.real:
            lines.append("  int8 products that give real numbers:")
            lines += [f"    {note}" for note in self.real]
        if self.equalized:
            lines.append("  equalized, with the error of the products on sampled rows:")
            lines += [f"    {note}" for note in self.equalized]
        if self.uncalibrated:
            lines.append("  not calibrated well, since the data says little:")
            lines += [f"    {note}" for note in self.uncalibrated]
        if self.unjudged:
            lines.append("  not equalized:")
            lines += [f"    {note}" for note in self.unjudged]
        if self.outliers:
            lines.append("  channels that are read in 16 bits:")
            lines += [f"    {note}" for note in self.outliers]
        if self.unclipped:
            lines.append("  ranges that are not clipped:")
            lines += [f"    {note}" for note in self.unclipped]
        if self.corrected:
            lines.append("  biases corrected:")
            lines += [f"    {note}" for note in self.corrected]
        if self.rounded:
            lines.append("  weights rounded by data, with the error of the products on calibration items:")
            lines += [f"    {note}" for note in self.rounded]
        if self.not_rounded:
            lines.append("  weights rounded to nearest all the same:")
            lines += [f"    {note}" for note in self.not_rounded]
        if self.python_nodes:
            lines.append("  run in numpy, not by a kernel:")
            lines += [f"    %{node}: {reason}" for node, reason in self.python_nodes.items()]
        return "\n".join(lines)

    def _unremarkable(self) -> list[str]:
        """A line for each reason that most nodes of a graph have, with the count of these nodes by op."""
        lines = []
        for reason in UNREMARKABLE:
            counts = Counter(row.op for row in self.kept_float if row.reason == reason)
            if counts:
                ops = ", ".join(f"{count} {op}" for op, count in counts.items())
                lines.append(f"    {reason}: {ops}")
        return lines

    def _conversions(self) -> str:
        return ", ".join(f"{count} {op}" for op, count in self.conversions.items()) or "no conversions"

    def _products(self) -> list[str]:
        """The line on the products of a quantized graph."""
        int8, others = (self.products.get(kind, (0, 0)) for kind in ("int8", "float"))
        if self.stage not in ("integer", "lowered") or not int8[0]:
            return []
        weights = f"  products: {int8[0]:,} of {int8[0] + others[0]:,} weights in int8"
        if int8[1] is None or others[1] is None:
            return [weights]
        return [f"{weights}, {int8[1]:,} of {int8[1] + others[1]:,} multiply-adds"]

    def _saved(self) -> str:
        if self.constant_bytes >= self.float_constant_bytes:
            return ""
        times = self.float_constant_bytes / self.constant_bytes
        return f", {self.float_constant_bytes:,} in f32 ({times:.2f} times as many)"


def report(model: Any) -> Report:
    """The report of a Graph, or of a compiled model (anything with `graph`, `target` and `program`)."""
    graph: Graph = model if isinstance(model, Graph) else model.graph
    rows: dict[str, list[int]] = {}
    conversions: Counter[str] = Counter()
    for node in graph.nodes:
        kind = node_kind(node)
        if kind is NodeKind.CONVERSION:
            conversions[node.op] += 1
        elif kind in (NodeKind.INTEGER, NodeKind.FLOAT):
            rows.setdefault(node.op, [0, 0])[kind is NodeKind.FLOAT] += 1
    return Report(
        name=graph.name,
        stage=graph.stage,
        target="" if isinstance(model, Graph) else model.target,
        inputs=tuple(f"{value.name}: {value.type}" for value in graph.inputs),
        outputs=tuple(f"{name}: {value.type}" for name, value in zip(graph.output_names, graph.outputs)),
        ops=tuple(OpCount(op, *counts) for op, counts in rows.items()),
        conversions=dict(conversions),
        kept_float=_kept_float(graph),
        constant_bytes=constant_bytes(graph),
        float_constant_bytes=float_constant_bytes(graph),
        products=product_work(graph),
        python_nodes=dict(getattr(getattr(model, "program", None), "python_nodes", {})),
        estimate=next((str(note) for note in graph.notes if isinstance(note, Estimate)), ""),
        interpreted=next((note.reason for note in graph.notes if isinstance(note, Interpreted)), ""),
        execution="" if isinstance(model, Graph) else _execution(model),
        equalized=tuple(note for note in graph.notes if isinstance(note, Equalized)),
        unjudged=tuple(note for note in graph.notes if isinstance(note, Unjudged)),
        uncalibrated=tuple(note for note in graph.notes if isinstance(note, Uncalibrated)),
        real=tuple(note for note in graph.notes if isinstance(note, RealResult)),
        outliers=tuple(note for note in graph.notes if isinstance(note, Outliers)),
        corrected=tuple(note for note in graph.notes if isinstance(note, BiasCorrected)),
        unclipped=tuple(note for note in graph.notes if isinstance(note, Unclipped)),
        rounded=tuple(note for note in graph.notes if isinstance(note, Rounded)),
        not_rounded=tuple(note for note in graph.notes if isinstance(note, NotRounded)),
        parts=next((str(note) for note in graph.notes if isinstance(note, PartsJudged)), ""),
    )


def _execution(model: Any) -> str:
    if model.program is None:
        return "interpreter"
    from qcompiler.backends.availability import availability

    return str(availability(model.program.target))


def _kept_float(graph: Graph) -> tuple[FloatNode, ...]:
    if graph.stage not in ("qdq", "integer", "lowered"):
        return ()
    reasons = noted_reasons(graph)
    quantizing = graph.stage == "qdq"
    found = []
    for node in graph.nodes:
        if node_kind(node) is NodeKind.FLOAT and not (quantizing and node.name not in reasons):
            where = f"{node.loc.file}:{node.loc.line}" if node.loc else ""
            found.append(FloatNode(node.name, node.op, reasons.get(node.name, _NO_REASON), where))
    return tuple(found)


def noted_reasons(graph: Graph) -> dict[str, str]:
    """Node name -> why it stayed float, by the graph's notes; the first note of a node counts."""
    found: dict[str, str] = {}
    for note in graph.notes:
        if isinstance(note, KeptFloat):
            found.setdefault(note.node, note.reason)
    return found
