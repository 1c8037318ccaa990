"""split-outliers: let a product read its few wide input channels in 16 bits, in a small product of their own.

Does not own the choice of the channels (`outliers.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from qcompiler.errors import PassError
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.ops.indexing import Gather
from qcompiler.ops.linear import Linear
from qcompiler.ops.quantized import Observe
from qcompiler.passes.choose_precision import widen_groups
from qcompiler.passes.regions import Region, pointwise_region
from qcompiler.passes.scale_channels import Scales
from qcompiler.quantization.spec import QuantSpec

SUFFIX = ".outliers"
"""What the names of added nodes end in, behind the name of the node whose qconfig they share."""


@dataclass(frozen=True)
class SplitOutliers:
    """observed -> observed. outliers: the name of an observed value that linears read -> the channels to split off;
    wide: the name of an observed value that gets 16 bits -> why.

        y = W x + b + r = W' x + b + (V x_o + r)          x_o: those channels of x; V: their weights; W': W with zeros

    The observer of x then covers the other channels only: codes clamp x_o, which W' does not read. Where x is a
    function of an observed value h that becomes a table, x_o is the same function of the channels of h, which
    stays float where 16 bits of both need more knots than a table has.

    Before:
        %y = linear(%x.obs, @w, @b) : f32[4,8]
    After:
        %x.outliers = gather(%x, @x.channels) {axis=1} : f32[4,1]
        %x.outliers.obs = observe(%x.outliers) {spec="i16 ...", group="x.outliers"} : f32[4,1]
        %y.outliers = linear(%x.outliers.obs, @w.outliers) : f32[4,8]
        %y = linear(%x.obs, @w.rest, @b, %y.outliers) : f32[4,8]
    """

    outliers: Scales = field(default_factory=dict)
    wide: Mapping[str, str] = field(default_factory=dict)
    name: ClassVar[str] = "split-outliers"

    def run(self, graph: Graph) -> Graph:
        observers = {observe.x.name: observe for node in graph.node_list if (observe := Observe.of(node)) is not None}
        for value, numbers in self.outliers.items():
            place = match_split(graph, observers[value]) if value in observers else "it has no observer"
            if isinstance(place, str):
                raise PassError(f"{self.name} cannot split %{value}: {place}")
            channels = np.asarray(numbers, np.int64)
            if (
                not channels.size
                or sorted(set(numbers)) != list(channels)
                or not 0 <= channels[0] <= channels[-1] < place.size
            ):
                raise PassError(
                    "channels to split off",
                    where=f"%{value}",
                    expected=f"ascending, 0 to {place.size - 1}",
                    got=numbers,
                )
            place.split(graph, channels)
        self._widen(graph, observers)
        graph.erase_unused_consts()
        return graph

    def _widen(self, graph: Graph, observers: Mapping[str, Observe]) -> None:
        """Give 16 bits to the values in `wide`, and to all of their groups."""
        for value in self.wide:
            if value not in observers or not reads_by_function(graph, observers[value]):
                raise PassError(f"{self.name} widens a value that more than tables read", where=f"%{value}")
        widen_groups(graph, {observers[value].group for value in self.wide})


@dataclass(frozen=True)
class Split:
    """A value whose channels can be split off.

    Attributes:
        observe: its observer, which only `products` read.
        region, source: the function that makes it, and the observer of what the function reads, if that is a table.
    """

    observe: Observe
    products: tuple[Linear, ...]
    region: Region | None
    source: Observe | None

    @property
    def size(self) -> int:
        """How many channels there are."""
        size = self.products[0].weight.type.shape[1]
        assert isinstance(size, int)  # of a constant
        return size

    @property
    def group(self) -> str:
        """The group of the channels that are split off."""
        return f"{self.observe.x.name}.outliers"

    def split(self, graph: Graph, channels: np.ndarray) -> None:
        picked = self._picked(graph, channels)
        spec = QuantSpec.parse(self.observe.spec_text).widened()
        seen = _observed(graph, picked, spec, self.group, self.observe.node)
        for layer in self.products:
            node = layer.node
            assert isinstance(layer.weight, Const)  # as `match_split` has checked
            weight = layer.weight.data.copy()
            own = graph.add_const(f"{layer.weight.name}.outliers", np.ascontiguousarray(weight[:, channels]))
            weight[:, channels] = 0
            rest = graph.add_const(f"{layer.weight.name}.rest", weight)
            made = graph.create(
                Linear.name, [seen, own, None, layer.residual], names=f"{node.name}.outliers", loc=node.loc, before=node
            ).result
            if gives_codes(graph, node):
                made = _observed(graph, made, spec, f"{node.name}.outliers", node)
            graph.set_operand(node, layer.operand_index("weight"), rest)
            graph.set_operand(node, layer.operand_index("residual"), made)

    def _picked(self, graph: Graph, channels: np.ndarray) -> Value:
        """The channels of the value, picked before the function that makes it where that becomes a table."""
        x, before = self.observe.x, self.observe.node
        index = graph.add_const(f"{x.name}.channels", channels)
        axis = {"axis": x.type.rank - 1}
        if self.region is None or self.source is None:
            return graph.create(
                Gather.name, [x, index], axis, names=f"{x.name}.outliers", loc=before.loc, before=before
            ).result
        picked = graph.create(
            Gather.name,
            [self.source.node.result, index],
            axis,
            names=f"{self.source.x.name}.{x.name}.outliers",
            before=before,
        ).result
        found: dict[int, Value] = {
            id(self.region.source): _observed(
                graph, picked, QuantSpec.parse(self.source.spec_text), self.source.group, before
            )
        }
        for node in self.region.nodes:
            operands = [None if value is None else found.get(id(value), value) for value in node.operands]
            made = graph.create(
                node.op, operands, node.attrs, names=f"{node.name}.outliers", loc=node.loc, before=before
            )
            found[id(node.result)] = made.result
        return found[id(x)]


def match_split(graph: Graph, observe: Observe) -> Split | str:
    """How channels of an observed value can be split off, or why they cannot."""
    seen = observe.node.result
    if graph.is_output(seen):
        return f"%{seen.name} is an output of the graph"
    products = []
    for use in seen.uses:
        layer = Linear.of(use.node)
        if layer is None or use.index != layer.operand_index("x") or not layer.weight.is_const:
            return f"%{use.node.name} = {use.node.op} reads it too"
        products.append(layer)
    if not products:
        return "no product reads it"
    if any(
        each is not None and each.group == observe.group and each.x is not observe.x
        for each in map(Observe.of, graph.nodes)
    ):
        return "another value shares its range"
    if observe.x.producer is None:
        return "it is an input of the graph"
    region = pointwise_region(graph, observe.x.producer)
    source = None if region is None else Observe.of(region.source.producer)
    if len(observe.x.uses) > 1:
        region = source = None
    return Split(observe, tuple(products), region, source)


def gives_codes(graph: Graph, node: Node) -> bool:
    """Whether the result of a product becomes codes: one observer alone reads it."""
    users = node.result.users
    return len(users) == 1 and users[0].op == Observe.name and not graph.is_output(node.result)


def _observed(graph: Graph, value: Value, spec: QuantSpec, group: str, before: Node) -> Value:
    attrs = {Observe.spec_text.name: str(spec), Observe.group.name: group}
    loc = None if value.producer is None else value.producer.loc
    return graph.create(Observe.name, [value], attrs, names=f"{value.name}.obs", loc=loc, before=before).result


def reads_by_function(graph: Graph, observe: Observe) -> bool:
    """Whether 16 bits suit all that reads the values of a group: functions that become tables, and gathers."""
    for node in graph.nodes:
        each = Observe.of(node)
        if each is None or each.group != observe.group:
            continue
        for user in node.result.users:
            if user.op != Gather.name and pointwise_region(graph, user) is None:
                return False
    return True
