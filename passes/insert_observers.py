"""insert-observers: mark every value whose range calibration has to find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np

from qcompiler.ir import Graph, Node, Use, Value
from qcompiler.notes import KeptFloat
from qcompiler.opdef import QuantKind, Role, op_of, opdef
from qcompiler.ops.quantized import Observe
from qcompiler.ops.recurrent import Recurrent
from qcompiler.ops.shape import Pad
from qcompiler.passes.agreement import agree
from qcompiler.passes.quantize_states import observe_states
from qcompiler.passes.regions import Region, pointwise_regions
from qcompiler.passes.unary_form import activations, is_unary
from qcompiler.quantization.qconfig import QConfig
from qcompiler.types import DType

MASK = -1e4
"""A constant is a mask if all its values are 0, or below this: a large negative number is often written for -inf."""


def why_float(node: Node, config: QConfig | None, in_table: bool = False) -> str | None:
    """Why a node stays float whatever its neighbours do, or None.

    in_table: whether it is a part of a region that can become a table (`regions.pointwise_regions`).
    """
    definition = opdef(node.op)
    becomes_table = in_table or is_unary(node)
    if config is None or config.activation is None:
        return "its qconfig is None" if config is None else "its qconfig quantizes no activations"
    if definition.quant.kind is QuantKind.FLOAT_ONLY and not becomes_table:
        return f"{node.op} has no integer form"
    dtypes = {value.type.dtype for value in (*node.results, *(value for _, value in activations(node)))}
    if len(node.results) != 1 or not dtypes <= ({DType.F32, DType.BOOL} if in_table else {DType.F32}):
        return "its values are not f32"
    if definition.quant.kind is QuantKind.WEIGHTED:
        if config.weight is None:
            return "its qconfig has no weight spec"
        if not all(value.is_const for value in op_of(node).values(Role.WEIGHT, Role.BIAS)):
            return "its weight is not constant"
    if not (definition.has_integer_meaning() or becomes_table):
        return f"{node.op} has no integer meaning"
    if not in_table and all(value.is_const for _, value in activations(node)):
        return "it reads constants only"
    return None


def _shares(node: Node) -> bool:
    return opdef(node.op).quant.kind is QuantKind.SHARES_INPUT


def follows(node: Node) -> bool:
    """Whether a node is quantized only if its operands are, because its work alone is not worth a conversion."""
    return _shares(node) or (is_unary(node) and opdef(node.op).quant.kind is not QuantKind.WEIGHTED)


def masked_values(graph: Graph) -> set[int]:
    """The ids of float values that hold -inf by construction, or a number that stands for it: attention masks, and
    values that a mask was added to.

    Their range is so wide that all other elements would get one code.
    """
    found = {id(const) for const in graph.consts.values() if const.type.dtype.is_float and _is_mask(const.data)}
    for node in graph.nodes:
        masks = [value for value in node.operands if value is not None and id(value) in found]
        pad = Pad.of(node)
        if (pad is not None and pad.value <= MASK) or (masks and opdef(node.op).carries_masks):
            found.update(id(value) for value in node.results if value.type.dtype.is_float)
    return found


def _is_mask(data: np.ndarray) -> bool:
    return bool(np.isneginf(data).any() or (data <= MASK).any() and ((data <= MASK) | (data == 0)).all())


@dataclass(frozen=True)
class InsertObservers:
    """float -> observed. configs: node name -> QConfig or None, from the resolution table; slow: node name -> why the
    cost model keeps it float.

    A node is quantizable if its qconfig is set, its op has an integer meaning and its weight is constant. Movers and
    unary ops are quantized only if their operands are (`follows`). Values tied by sharing ops form one group with one
    observer. Values inside of a region that becomes one table have no observer. A node that reads or makes a mask
    stays float. A node that stays float is noted with its reason. Of recurrent layers the operand, y and the last cell
    state are observed, for quantize-states.

    Before:
        %y = conv(%x, @w) {...} : f32[1,4,8,8]
    After:
        %x.obs = observe(%x) {spec="u8 [0,255] affine per_tensor histogram ...", group="x"} : f32[1,3,8,8]
        %y = conv(%x.obs, @w) {...} : f32[1,4,8,8]
        %y.obs = observe(%y) {spec="u8 [0,255] affine per_tensor histogram ...", group="y"} : f32[1,4,8,8]
    """

    configs: Mapping[str, QConfig | None] = field(default_factory=dict)
    slow: Mapping[str, str] = field(default_factory=dict)
    name: ClassVar[str] = "insert-observers"

    def run(self, graph: Graph) -> Graph:
        masked = masked_values(graph)
        tables = self._tables(graph, masked)
        chosen = self._choose(graph, masked, tables)
        groups = _Groups()
        for node in chosen.values():
            if _shares(node):
                for _, value in activations(node):
                    groups.join(value, node.result)
        self._insert(graph, chosen, groups, tables)
        observe_states(graph, self.configs)
        graph.stage = "observed"
        return graph

    def _tables(self, graph: Graph, masked: set[int]) -> _Tables:
        """The regions that can become one table each."""

        def can(node: Node) -> bool:
            reason = why_float(node, self.configs.get(node.name), in_table=True) or self.slow.get(node.name)
            return reason is None and not any(id(value) in masked for value in (*node.operands, *node.results))

        regions = pointwise_regions(graph, partial(agree, self.configs))
        return _Tables([region for region in regions if all(map(can, region.nodes))])

    def _choose(self, graph: Graph, masked: set[int], tables: _Tables) -> dict[int, Node]:
        """The nodes to quantize, by id. Notes why the others are not quantized."""
        quantized: set[int] = set()  # ids of values that will be quantized
        chosen: dict[int, Node] = {}
        for node in graph.nodes:
            region = tables.region_of.get(id(node))
            if Recurrent.of(node) is not None:  # see quantize_states
                continue
            reason = why_float(node, self.configs.get(node.name), region is not None) or self.slow.get(node.name)
            mask = next((v for v in (*node.operands, *node.results) if v is not None and id(v) in masked), None)
            if reason is None and mask is not None:
                reason = f"{mask!r} holds a mask: -inf, or a number that stands for it"
            needed = [region.source] if region is not None else tables.operands(node)
            if reason is None and (region or follows(node)) and not all(id(v) in quantized for v in needed):
                reason = "its operand is float"
            if reason is not None:
                graph.notes.append(KeptFloat(node.name, node.op, reason))
                continue
            chosen[id(node)] = node
            quantized.update(id(value) for value in (*tables.operands(node), node.result))
        return chosen

    def _insert(self, graph: Graph, chosen: dict[int, Node], groups: _Groups, tables: _Tables) -> None:
        specs: dict[int, str] = {}
        values: dict[int, Value] = {}
        for node in chosen.values():
            config = self.configs[node.name]
            spec = str(None if config is None else config.activation)
            for value in (*tables.operands(node), node.result):
                values.setdefault(id(value), value)
                specs.setdefault(id(value), spec)
        first = next(iter(graph.nodes), None)
        for key, value in values.items():
            if id(value) in tables.inner:
                continue
            uses = [use for use in value.uses if id(use.node) in chosen]
            producer = value.producer
            node = graph.create(
                Observe.name,
                [value],
                {Observe.spec_text.name: specs[key], Observe.group.name: groups.name(value)},
                types=value.type,
                names=f"{value.name}.obs",
                loc=None if producer is None else producer.loc,
                before=first if producer is None else None,
                after=producer,
            )
            for use in uses:
                graph.set_operand(use.node, use.index, node.result)
            if producer is not None and id(producer) in chosen:
                graph.replace_uses(value, node.result, only=_all_but(node))
                for index, output in enumerate(graph.outputs):
                    if output is value:
                        graph.set_output(index, node.result)


class _Tables:
    """The regions that become one table each.

    Attributes:
        region_of: the region of each of its nodes, by the node's id.
        inner: the ids of values inside of regions, which have no observer.
    """

    def __init__(self, regions: Sequence[Region]) -> None:
        self.region_of = {id(node): region for region in regions for node in region.nodes}
        self.inner = {id(node.result) for region in regions for node in region.nodes[:-1]}

    def operands(self, node: Node) -> list[Value]:
        """The operands of a node that are quantized. The constants of a table are not."""
        values = [value for _, value in activations(node)]
        return [value for value in values if not value.is_const] if id(node) in self.region_of else values


def _all_but(node: Node) -> Callable[[Use], bool]:
    return lambda use: use.node is not node


class _Groups:
    """Connected components of values that share parameters, named after the member that was met first."""

    def __init__(self) -> None:
        self._parent: dict[int, Value] = {}
        self._met: dict[int, int] = {}

    def find(self, value: Value) -> Value:
        path = []
        while id(value) in self._parent:
            path.append(value)
            value = self._parent[id(value)]
        for passed in path:
            self._parent[id(passed)] = value
        return value

    def join(self, first: Value, second: Value) -> None:
        for value in (first, second):
            self._met.setdefault(id(value), len(self._met))
        a, b = sorted((self.find(first), self.find(second)), key=lambda value: self._met[id(value)])
        if a is not b:
            self._parent[id(b)] = a

    def name(self, value: Value) -> str:
        return self.find(value).name
