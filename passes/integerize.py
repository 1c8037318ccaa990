"""integerize: replace dequantize, op and quantize by the op's integer form, and functions of one value by tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompiler.ir import AttrValue, Const, Graph, Node, Origin, Value
from qcompiler.notes import KeptFloat, RealResult
from qcompiler.opdef import Op, Role, Trait, op_of, opdef, works_on_codes
from qcompiler.ops.interfaces import Conversion, RangeConversion, Weighted
from qcompiler.ops.quantized import Dequantize, Lookup, Quantize, Requantize
from qcompiler.ops.recurrent import has_coded_weights
from qcompiler.passes.dequantized import codes_behind
from qcompiler.passes.integer_bias import IntegerBias, integer_bias
from qcompiler.passes.regions import Region, pointwise_region
from qcompiler.passes.rewrite import M, Refusal, Rewrite, erase_dead, erase_if_unread
from qcompiler.passes.unary_form import is_unary
from qcompiler.passes.verify_integer_safety import why_unsafe
from qcompiler.quantization import qmath
from qcompiler.quantization.qconfig import QConfig
from qcompiler.quantization.tables import build_knots, build_table
from qcompiler.types import DType, TensorType
from qcompiler.verify_quantization import why_no_conversion, why_not_integer

_QUANTIZED_ROLES = (Role.ACTIVATION, Role.WEIGHT, Role.BIAS)
Configs = Mapping[str, QConfig | None] | None
LARGEST_ERROR = 1.0
"""By how many codes of the result an interpolated table may be off."""


def _is_kept_float(configs: Configs, node: Node) -> bool:
    return configs is not None and configs.get(node.name) is None


def _become(
    graph: Graph,
    quantize: Node,
    node: Node,
    op: str,
    operands: Sequence[Value | None],
    attrs: Mapping[str, AttrValue],
    origin: Iterable[Origin],
) -> None:
    """Replace `quantize` and the float `node` that it reads by an integer op of that node's name."""
    name = node.name
    new = graph.replace(quantize, op, operands, attrs, types=quantize.result.type, origin=origin)
    new.loc = node.loc
    graph.erase(node)
    graph.rename(new.result, name)


@dataclass(frozen=True)
class _Requantized:
    quantize: Quantize
    source: Value


class _AsRequantize(Rewrite[_Requantized]):
    """q(d(a)) = requantize(a), or a itself."""

    rule = "requantize"
    ops = (Quantize,)

    def match(self, graph: Graph, node: Node) -> _Requantized | Refusal:
        quantize = Quantize(node)
        source = codes_behind(quantize.x)
        if source is None:
            return self.refuse(node, "its operand is not dequantized")
        if source.type != node.result.type:
            violation = why_no_conversion(Requantize, source.type, node.result.type)
            if violation is not None:
                return self.refuse(node, str(violation))
        return _Requantized(quantize, source)

    def rewrite(self, graph: Graph, match: _Requantized) -> None:
        node, source = match.quantize.node, match.source
        if source.type == node.result.type:
            graph.replace_uses(node.result, source)
            graph.erase(node)
        else:
            graph.replace(node, Requantize.name, [source], types=node.result.type)


@dataclass(frozen=True)
class _Tabulated:
    """A pointwise region from the codes `source` to a quantize."""

    quantize: Node
    region: Region
    source: Value
    table: np.ndarray


class _AsTable(Rewrite[_Tabulated]):
    """q(f(d(a))) = table[a]."""

    rule = "table"
    ops = (Quantize,)

    def __init__(self, configs: Configs) -> None:
        self.configs = configs

    def match(self, graph: Graph, node: Node) -> _Tabulated | Refusal:
        value, region = Quantize(node).x, None
        end = value.producer
        if end is not None and len(value.uses) == 1 and not graph.is_output(value):
            region = pointwise_region(graph, end)
        source, out = codes_behind(None if region is None else region.source), node.result.type
        if region is None or source is None:
            return self.refuse(node, "its operand is no function of one value that is dequantized")
        if any(_is_kept_float(self.configs, inner) for inner in region.nodes):
            return self.refuse(node, "a qconfig is None")
        violation = why_no_conversion(Lookup, source.type, out)
        if violation is not None:
            return self.refuse(node, f"a table reads 8 or 16 bits, per tensor: {violation}")
        if source.type.dtype is not DType.I16:
            return _Tabulated(node, region, source, build_table(region, source.type, out))
        if self.configs is None:
            return self.refuse(node, "interpolation would give other codes than the float function")
        knots, error = build_knots(region, source.type, out)
        if error > LARGEST_ERROR:
            return self.refuse(node, f"between {len(knots)} knots the function is off by {error:.3g} codes")
        return _Tabulated(node, region, source, knots)

    def rewrite(self, graph: Graph, match: _Tabulated) -> None:
        *inner, last = match.region.nodes
        table = graph.add_const(f"{last.name}.table", match.table)
        origin = tuple(part for node in match.region.nodes for part in node.origin)
        _become(graph, match.quantize, last, Lookup.name, [match.source, table], {}, origin)
        for node in reversed(inner):
            erase_if_unread(graph, node)


@dataclass(frozen=True)
class _Operands:
    """The operands of a float node's integer form; `bias` replaces the operand of that role."""

    values: tuple[Value | None, ...]
    bias: IntegerBias | None = None


@dataclass(frozen=True)
class _Integer:
    """A float node whose operands can be codes instead."""

    quantize: Node
    node: Node
    operands: _Operands


class _OnCodes(Rewrite[M]):
    """A float node whose operands can be codes."""

    def __init__(self, configs: Configs) -> None:
        self.configs = configs

    def operands(self, graph: Graph, node: Node, out: TensorType | None = None) -> _Operands | Refusal:
        """The operands of a float node's integer form, or why it has none.

        out: the type of its result; f32 if the result stays real.
        """
        codes = out is None or out.is_quantized
        definition = opdef(node.op)
        moves = Trait.MOVES_DATA in definition.traits
        if not moves and _is_kept_float(self.configs, node):
            return self.refuse(node, "its qconfig is None")
        if len(node.results) != 1 or (definition.integer is None and not moves):
            return self.refuse(node, f"{node.op} has no integer meaning")
        if codes and (len(node.result.uses) != 1 or graph.is_output(node.result)):
            return self.refuse(node, "its float result has other readers")
        operands: list[Value | None] = list(node.operands)
        for spec, index, value in op_of(node).present_operands():
            if spec.role not in _QUANTIZED_ROLES:
                continue
            source = codes_behind(value)
            if source is None and spec.role is Role.BIAS and isinstance(value, Const):
                continue
            if source is None and not codes and spec in definition.reads_real:
                continue
            if source is None:
                return self.refuse(node, f"its operand {spec.name} is float")
            if spec.role is Role.ACTIVATION and source.type.params.axis is not None:
                return self.refuse(node, f"its operand {spec.name} is quantized per channel")
            if moves and out is not None and (source.type.dtype, source.type.quant) != (out.dtype, out.quant):
                return self.refuse(node, f"its operand {spec.name} has other parameters")
            operands[index] = source
        if out is not None and codes and out.params.axis is not None:
            return self.refuse(node, "its result is quantized per channel")
        bias = self._bias(node, operands, out)
        if isinstance(bias, str):
            return self.refuse(node, bias)
        types = [None if value is None else value.type for value in operands]
        if bias is not None:
            types[definition.operand_index("bias")] = bias.type
        violation = None if out is None else why_not_integer(definition, types, [out])
        if violation is not None:
            return self.refuse(node, str(violation))
        unsafe = why_unsafe(node, None if bias is None else bias.data)
        return _Operands(tuple(operands), bias) if unsafe is None else self.refuse(node, unsafe)

    def _bias(self, node: Node, operands: Sequence[Value | None], out: TensorType | None) -> IntegerBias | str | None:
        """The codes of a layer's constant bias, None without a bias, or the reason why the bias has to stay float."""
        layer = Weighted.of(node)
        if layer is None or layer.bias is None:
            return None
        x, weight, bias = (operands[layer.operand_index(name)] for name in ("x", "weight", "bias"))
        assert x is not None and weight is not None  # required operands
        if not isinstance(bias, Const):
            return None
        return integer_bias(bias, x.type.params, weight.type.params, out)

    @staticmethod
    def values(graph: Graph, node: Node, operands: _Operands) -> list[Value | None]:
        """The values that a node's integer form reads, including the codes of its bias."""
        values = list(operands.values)
        if operands.bias is not None:
            index = opdef(node.op).operand_index("bias")
            values[index] = _bias_const(graph, values[index], operands.bias)
        return values


class _AsInteger(_OnCodes[_Integer]):
    """q(op(d(a), d(w), d(b))) = the integer meaning of op on a, w, b."""

    rule = "integer form"
    ops = (Quantize,)

    def match(self, graph: Graph, node: Node) -> _Integer | Refusal:
        maker = Quantize(node).x.producer
        if maker is None or maker.op == Dequantize.name:
            return self.refuse(node, "no op makes its operand")
        operands = self.operands(graph, maker, node.result.type)
        return operands if isinstance(operands, Refusal) else _Integer(node, maker, operands)

    def rewrite(self, graph: Graph, match: _Integer) -> None:
        values = self.values(graph, match.node, match.operands)
        _become(graph, match.quantize, match.node, match.node.op, values, match.node.attrs, match.node.origin)


@dataclass(frozen=True)
class _Real:
    """A float product whose operands can be codes instead, and whose result stays real."""

    node: Node
    operands: _Operands


class _AsReal(_OnCodes[_Real]):
    """op(d(a), d(w), d(b)) = the integer meaning of op on a, w, b with an f32 result: rule (6) of qmath.

    This is for products that are read as real numbers, by anything but one quantize. A residual may stay f32. It
    applies
    only where qconfigs decided that the node is int8: in an imported graph such a node is float by the file's meaning.
    """

    rule = "integer form with a real result"
    ops = (Op,)

    def match(self, graph: Graph, node: Node) -> _Real | Refusal:
        if not opdef(node.op).gives_real or works_on_codes(node):
            return self.refuse(node, f"an integer {node.op} gives codes")
        if self.configs is None:
            return self.refuse(node, "an imported graph keeps its float results")
        users = node.result.users
        if len(users) == 1 and users[0].op == Quantize.name and not graph.is_output(node.result):
            return self.refuse(node, "one quantize reads it")
        operands = self.operands(graph, node, node.result.type)
        return operands if isinstance(operands, Refusal) else _Real(node, operands)

    def rewrite(self, graph: Graph, match: _Real) -> None:
        for index, value in enumerate(self.values(graph, match.node, match.operands)):
            graph.set_operand(match.node, index, value)


def _bias_const(graph: Graph, given: Value | None, bias: IntegerBias) -> Const:
    """The constant of a bias. The given one is used if it already has the codes and the type."""
    assert isinstance(given, Const)  # integer_bias reads nothing else
    name = given.name if given.type.is_quantized else f"{given.name}.q"
    return given if given.type == bias.type else graph.add_const(name, bias.data, bias.type)


@dataclass(frozen=True)
class Integerize:
    """qdq -> integer. With d and q for dequantize and quantize:

        q(op(d(a), d(w), d(b))) = the integer meaning of op on a, w, b      each op's own; see qcompiler/ops
                                  (b: an i32 of scale sx * sw, or a constant that integer_bias.py turns into one)
        op(d(a), d(w), d(b))    = the same with an f32 result, where a product is read as real numbers (`Op.gives_real`)
        q(f(d(a)))              = table[a]          made in float64; f maps each element by itself. 256 entries, or for
                                  16-bit codes knots, where all results are right within a code
        q(d(a))                 = requantize(a), or a itself

    The second, and tables of knots, are made only with `configs`: in imported graphs such a node is float, as its
    writer meant it. A node stays float if the verifier's rules forbid its integer form, if it is not proven free of
    overflow, if it reads a float value, or if it resolved to the qconfig None (`configs`; None: no decisions, as in
    imported graphs; ops that only move data do so on codes all the same). A note says why.

    Before:
        %x.dq = dequantize(%x.q) : f32[2,8]
        %w.dq = dequantize(@w.q) : f32[4,8]
        %y = linear(%x.dq, %w.dq) : f32[2,4]
        %y.q = quantize(%y) : u8[2,4]{scale=0.2, zero_point=3}
    After:
        %y = linear(%x.q, @w.q) : u8[2,4]{scale=0.2, zero_point=3}
    """

    configs: Mapping[str, QConfig | None] | None = None
    name: ClassVar[str] = "integerize"

    def rules(self) -> Sequence[Rewrite[Any]]:
        """The rewrites in order. For each quantize the first one that applies is used."""
        return _AsRequantize(), _AsTable(self.configs), _AsInteger(self.configs)

    def run(self, graph: Graph) -> Graph:
        rules = self.rules()
        for node in graph.nodes:
            if node.op == Quantize.name:
                for rule in rules:
                    match = rule.match(graph, node)
                    if not isinstance(match, Refusal):
                        rule.rewrite(graph, match)
                        break
        real = _AsReal(self.configs)
        for node in graph.nodes:
            product = real.match(graph, node)
            if not isinstance(product, Refusal):
                real.rewrite(graph, product)
        erase_dead(graph)
        self._note_float(graph)
        for node in graph.nodes:
            _restore_weights(graph, node)
        erase_dead(graph)
        graph.stage = "integer"
        return graph

    def explain(self, graph: Graph) -> list[Refusal]:
        """Why each float node between conversions stayed."""
        rule, found = _AsInteger(self.configs), []
        for node in graph.nodes:
            quantize = Quantize.of(node)
            if quantize is not None and quantize.x.producer is not None:
                operands = rule.operands(graph, quantize.x.producer, node.result.type)
                if isinstance(operands, Refusal):
                    found.append(operands)
        return found

    def _note_float(self, graph: Graph) -> None:
        """Drop the notes of nodes that became integer after all, and note why other nodes stayed float."""
        is_float = {
            node.name: node
            for node in graph.nodes
            if not issubclass(opdef(node.op), (Conversion, RangeConversion))
            and not works_on_codes(node)
            and not has_coded_weights(node)
        }
        graph.notes[:] = [
            note
            for note in graph.notes
            if not isinstance(note, (KeptFloat, RealResult)) or (note.node in is_float) is isinstance(note, KeptFloat)
        ]
        noted = {note.node for note in graph.notes if isinstance(note, KeptFloat)}
        for name, node in is_float.items():
            if name not in noted and any(value.type.dtype.is_float for value in node.results):
                graph.notes.append(KeptFloat(name, node.op, self._why_float(graph, node)))

    def _why_float(self, graph: Graph, node: Node) -> str:
        """Why a node was left float."""
        users = node.result.users if len(node.results) == 1 else []
        quantize = users[0] if len(users) == 1 and users[0].op == Quantize.name else None
        if quantize is not None and is_unary(node):
            table = _AsTable(self.configs).match(graph, quantize)
            if isinstance(table, Refusal):
                return table.reason
        if quantize is None and self.configs is not None and opdef(node.op).gives_real:
            real = _AsReal(self.configs).match(graph, node)
            if isinstance(real, Refusal):
                return real.reason
        out = None if quantize is None else quantize.result.type
        operands = _AsInteger(self.configs).operands(graph, node, out)
        return operands.reason if isinstance(operands, Refusal) else "its result is read as float"


def _restore_weights(graph: Graph, node: Node) -> None:
    """Let a float node read float weights: weights that were quantized in vain are dequantized again."""
    if works_on_codes(node):
        return
    for spec, index, value in op_of(node).present_operands():
        source = codes_behind(value) if spec.role in (Role.WEIGHT, Role.BIAS) else None
        if isinstance(source, Const):
            real = qmath.dequantize(source.data, source.type.params)
            graph.set_operand(node, index, graph.add_const(value.name, real))
