"""choose-precision: decide which observed values stay real numbers, where codes would cost the model its answer."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from qcompiler.ir import Graph, Node, Use, Value
from qcompiler.notes import KeptFloat, RealResult
from qcompiler.opdef import opdef
from qcompiler.ops.interfaces import Weighted
from qcompiler.ops.quantized import Observe
from qcompiler.ops.recurrent import Recurrent
from qcompiler.quantization.cost_profile import ZEN5_AVX512VNNI as PROFILE
from qcompiler.quantization.cost_profile import elements, products
from qcompiler.quantization.qconfig import QConfig, get_qconfig
from qcompiler.quantization.spec import QuantSpec

SHARE_FOR_OUTPUTS = 0.03
"""Work behind the last product stays float while it adds at most this share to the estimated time of the graph."""

SHARE_FOR_WORDS = 0.1
"""Products that read what a steep function gives read 16-bit codes while that adds at most this share to the estimated
time of the graph."""


@dataclass(frozen=True)
class ChoosePrecision:
    """observed -> observed. configs: node name -> QConfig (int8 for a node that is not in it); code_outputs: the
    outputs of the graph are codes too; steep: name of a node at the end of a function that codes serve badly -> why
    (`steep.steep_functions`); sensitive: name of a node between products that codes serve badly -> why
    (`real_parts.choose_real_parts`).

    A product (conv, linear, matmul: `Op.gives_real`) reads codes, and writes f32 as cheaply as codes. A part is a
    largest group of other nodes that read each other's values. All nodes of a part stay float

        if one of them wants real numbers (`Op.wants_real`: norms, softmax), is steep, or is sensitive, or
        if no product reads what the part makes, as behind the last product. Together such parts may add 3 % to
        the time that the cost profile estimates; the cheapest ones come first.

    Their values lose their observers; a value that products read too keeps one, for these readers alone. Codes serve
    the residual of a product and an output of the graph as well, so these read real numbers only where no conversion
    is added: the value is real for other reasons, or a product makes it and nothing reads codes of it.
    Products whose results a part with a steep function reads, as a spectrum before its log, read 16-bit codes: what is
    small in them counts as much as what is large. Products that read what such a part makes do so too, while together
    they add at most 10 % to the estimated time: a step of one of 256 codes of a log is a large factor.
    A node whose qconfig lacks `mixed_precision` works on codes, like a product that gives codes. Notes say why.

    Before:
        %y = linear(%x.obs, @w, residual=%r.obs) : f32[4,8]
        %y.obs = observe(%y) {spec="...", group="y"} : f32[4,8]
        %z = layer_norm(%y.obs, @gain) {normalized_rank=1} : f32[4,8]
        %z.obs = observe(%z) {spec="...", group="z"} : f32[4,8]
        %o = linear(%z.obs, @w2) : f32[4,4]
    After:
        %y = linear(%x.obs, @w, residual=%r) : f32[4,8]
        %z = layer_norm(%y, @gain) {normalized_rank=1} : f32[4,8]
        %z.obs = observe(%z) {spec="...", group="z"} : f32[4,8]
        %o = linear(%z.obs, @w2) : f32[4,4]
    """

    configs: Mapping[str, QConfig | None] = field(default_factory=dict)
    code_outputs: bool = False
    steep: Mapping[str, str] = field(default_factory=dict)
    sensitive: Mapping[str, str] = field(default_factory=dict)
    name: ClassVar[str] = "choose-precision"

    def run(self, graph: Graph) -> Graph:
        roles = Roles(graph, self.configs)
        parts = roles.parts()
        reasons = self._reasons(graph, roles, parts)
        for node in graph.nodes:
            if id(node) in reasons and id(node) in roles.chosen:
                graph.notes.append(KeptFloat(node.name, node.op, reasons[id(node)]))
        real: set[int] = set()  # ids of products whose result is real
        made = []
        for node in reversed(graph.node_list):
            observe = Observe.of(node)
            if observe is not None:
                note = self._settle(graph, observe, roles, reasons, real)
                made += [] if note is None else [note]
        graph.notes += reversed(made)
        self._widen(graph, parts, real, roles)
        return graph

    def _widen(self, graph: Graph, parts: Iterable[list[Node]], real: set[int], roles: Roles) -> None:
        """Let products on both sides of a steep function read 16-bit codes, in the whole group of each operand; those
        behind it only as long as that is cheap."""
        groups: set[str] = set()
        left = SHARE_FOR_WORDS * roles.cost()
        for part in parts:
            if any(node.name in self.steep for node in part):
                behind = roles.read_by_products(graph, part)
                for group, price in sorted(behind.items(), key=lambda item: (item[1], item[0])):
                    if price <= left:
                        left -= price
                        groups.add(group)
                makers = [maker for node in part for maker in makers_of(node) if id(maker) in real]
                layers = [layer for maker in makers if (layer := Weighted.of(maker)) is not None]
                observes = [Observe.of(layer.x.producer) for layer in layers]
                groups |= {observe.group for observe in observes if observe is not None}
        widen_groups(graph, groups)

    def _reasons(self, graph: Graph, roles: Roles, parts: Iterable[list[Node]]) -> dict[int, str]:
        """Id of each node of the parts that stay float -> why."""
        found: dict[int, str] = {}
        tails = []
        for part in parts:
            steep = next((node for node in part if node.name in self.steep), None)
            wants = next((node for node in part if opdef(node.op).wants_real), None)
            if steep is not None:
                near = f"%{steep.name} = {steep.op} is steep, and no product stands between"
                found.update((id(node), near) for node in part)
                found |= {id(node): self.steep[node.name] for node in part if node.name in self.steep}
            elif any(node.name in self.sensitive for node in part):
                first = next(node for node in part if node.name in self.sensitive)
                near = f"%{first.name} = {first.op} stays real, and no product stands between"
                found.update((id(node), self.sensitive.get(node.name, near)) for node in part)
            elif wants is not None:
                near = f"%{wants.name} = {wants.op} wants real numbers, and no product stands between"
                found.update((id(node), near) for node in part)
                found |= {id(n): f"{n.op} wants real numbers" for n in part if opdef(n.op).wants_real}
            elif not any(roles.reads_codes(graph, value, self.code_outputs) for node in part for value in node.results):
                tails.append(part)
        for part in roles.affordable(graph, tails):
            found.update((id(node), "no product reads what it makes") for node in part)
        return found

    def _settle(
        self, graph: Graph, observe: Observe, roles: Roles, reasons: Mapping[int, str], real: set[int]
    ) -> RealResult | None:
        """Let the readers of an observed value that want it real read the value itself. All nodes behind it are settled
        already: `real` holds the products among them whose results are real."""
        value, seen = observe.x, observe.node.result
        maker = value.producer
        is_product = maker is not None and id(maker) in roles.products
        if maker is not None and id(maker) in roles.chosen and not is_product and id(maker) not in reasons:
            return None
        wanted, indifferent, codes = [], [], 0
        for use in seen.uses:
            if id(use.node) not in roles.chosen or id(use.node) in reasons:
                wanted.append(use)
            elif id(use.node) in real and opdef(use.node.op).spec(use.index) in opdef(use.node.op).reads_real:
                indifferent.append(use)
            else:
                codes += 1
        outputs = [index for index, output in enumerate(graph.outputs) if output is seen]
        codes += len(outputs) if self.code_outputs else 0
        if codes and is_product and not wanted:
            return None
        for use in (*wanted, *indifferent):
            graph.set_operand(use.node, use.index, value)
        if not self.code_outputs:
            for index in outputs:
                graph.set_output(index, value)
        if not seen.uses and not graph.is_output(seen):
            graph.erase(observe.node)
        if maker is None or not is_product or not (wanted or indifferent or outputs):
            return None
        real.add(id(maker))
        return RealResult(maker.name, maker.op, _why_real(wanted, indifferent))


def _why_real(wanted: list[Use], indifferent: list[Use]) -> str:
    """Why a product gives real numbers."""
    for use in (*wanted, *indifferent):
        return f"%{use.node.name} = {use.node.op} reads real numbers"
    return "it is an output of the graph"


def widen_groups(graph: Graph, groups: Container[str]) -> None:
    """Give 16 bits to all values of some groups of observers."""
    for node in graph.nodes:
        observe = Observe.of(node)
        if observe is not None and observe.group in groups:
            graph.set_attr(node, Observe.spec_text.name, str(QuantSpec.parse(observe.spec_text).widened()))


class Roles:
    """What nodes do in an observed graph. Recurrent layers read and write real numbers, also if they are static.

    Attributes:
        chosen: the ids of the nodes that were chosen for int8.
        products: the ids of those among them that read codes and can give real numbers.
        bounds: the ids of the nodes that no part holds: products, and nodes that always work on codes.
    """

    def __init__(self, graph: Graph, configs: Mapping[str, QConfig | None]) -> None:
        kept = {note.node for note in graph.notes if isinstance(note, KeptFloat)}
        default = get_qconfig("int8")
        self.nodes = [node for node in graph.nodes if node.op != Observe.name]
        self.chosen, self.products, self.bounds = set[int](), set[int](), set[int]()
        for node in self.nodes:
            config = None if node.name in kept else configs.get(node.name, default)
            if config is None or Recurrent.of(node) is not None:
                continue
            self.chosen.add(id(node))
            is_product = opdef(node.op).gives_real
            if is_product and config.mixed_precision:
                self.products.add(id(node))
            if is_product or not config.mixed_precision:
                self.bounds.add(id(node))

    def parts(self) -> list[list[Node]]:
        """The parts of the graph: the largest groups of nodes, none of them a bound, that read each other's reals."""
        part_of: dict[int, list[Node]] = {}
        for node in self.nodes:
            if id(node) in self.bounds:
                continue
            part = part_of[id(node)] = [node]
            for maker in (*makers_of(node), *self._deciders(node)):
                other = part_of.get(id(maker), part)
                if other is not part:
                    part, other = (part, other) if len(part) >= len(other) else (other, part)
                    part += other
                    part_of.update((id(moved), part) for moved in other)
        return list({id(part): part for part in part_of.values()}.values())

    def _deciders(self, node: Node) -> list[Node]:
        """The nodes that make the conditions which a node reads, where they are chosen: parts of one table."""
        makers = (value.producer for value in node.operands if value is not None and not value.type.dtype.is_float)
        return [maker for maker in makers if maker is not None and id(maker) in self.chosen]

    def reads_codes(self, graph: Graph, value: Value, code_outputs: bool) -> bool:
        """Whether a product, or another node that always works on codes, reads a value."""
        return any(
            (code_outputs and graph.is_output(seen)) or any(id(user) in self.bounds for user in seen.users)
            for seen in (value, *_observed(value))
        )

    def cost(self) -> float:
        """The nanoseconds that the graph takes by the cost profile."""
        return sum(PROFILE.cost(node, quantized=id(node) in self.chosen) for node in self.nodes)

    def read_by_products(self, graph: Graph, part: list[Node]) -> dict[str, float]:
        """Each group of observed values that only a part makes and only products with constant weights read -> the
        nanoseconds that 16-bit codes add to these products."""
        inside, found = {id(node) for node in part}, dict[str, float]()
        others = set[str]()
        for node in graph.nodes:
            observe = Observe.of(node)
            if observe is None:
                continue
            layers = [Weighted.of(user) for user in node.result.users]
            is_alone = observe.x.producer is not None and id(observe.x.producer) in inside and bool(layers)
            if (
                not is_alone
                or graph.is_output(node.result)
                or not all(layer and layer.x is node.result for layer in layers)
            ):
                others.add(observe.group)
                continue
            price = sum(PROFILE.product[0] * products(layer.node) for layer in layers if layer is not None)
            found[observe.group] = found.get(observe.group, 0.0) + price
        return {group: price for group, price in found.items() if group not in others}

    def affordable(self, graph: Graph, tails: Iterable[list[Node]]) -> Iterator[list[Node]]:
        """Those of the parts behind the last product that may stay float. Parts behind no product are free: without
        products int8 gains nothing."""
        left = SHARE_FOR_OUTPUTS * self.cost()
        priced = [(self.price(graph, part), number, part) for number, part in enumerate(tails)]
        for price, _, part in sorted(priced, key=lambda item: item[:2]):
            if price > left:
                return
            left -= max(price, 0)
            yield part

    def price(self, graph: Graph, part: list[Node]) -> float:
        """The nanoseconds that a part costs more in float than on codes, without conversions of what it makes for
        products; 0 if it reads no product."""
        sources = {id(value): value for node in part for value in _reals(node)}
        made = [value for value in sources.values() if value.producer and id(value.producer) in self.products]
        if not made:
            return 0
        costs = [
            PROFILE.cost(node, quantized=False) - PROFILE.cost(node, quantized=True)
            for node in part
            if id(node) in self.chosen
        ]
        ends = [v for node in part for v in node.results if any(map(graph.is_output, (v, *_observed(v))))]
        kept = [value for value in made if self.reads_codes(graph, value, code_outputs=False)]
        price = sum(costs) - sum(PROFILE.overhead + elements(value) * PROFILE.dequantize for value in ends)
        return price + sum(PROFILE.overhead + elements(value) * PROFILE.quantize for value in kept)


def _observed(value: Value) -> list[Value]:
    """The results of the observers of a value."""
    return [user.result for user in value.users if user.op == Observe.name]


def _reals(node: Node) -> list[Value]:
    """The float values that a node reads, behind their observers; no constants."""
    values = [value for value in node.operands if value is not None and value.type.dtype.is_float]
    observes = [(value, Observe.of(value.producer)) for value in values if not value.is_const]
    return [value if observe is None else observe.x for value, observe in observes]


def makers_of(node: Node) -> list[Node]:
    """The nodes whose float results a node reads."""
    return [value.producer for value in _reals(node) if value.producer is not None]
