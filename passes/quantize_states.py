"""quantize-states: give lstm, gru and rnn codes of the ranges that calibration found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.notes import KeptFloat
from qcompiler.ops.quantized import Observe
from qcompiler.ops.recurrent import STATIC, Lstm, Recurrent
from qcompiler.passes.quantize_recurrent import give_codes, why_weights_float
from qcompiler.quantization.qconfig import QConfig, has_torchs_weights
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import DType, QuantParams

CELL_RANGE = 16.0
"""Cell states have codes up to this magnitude at least, as in TensorFlow Lite's LSTM of 8 bits: c_scale is 2^-11."""

CELL_HEADROOM = 4.0
"""Codes of cell states span this many times the largest one that calibration saw at the end of a sequence."""


@dataclass(frozen=True)
class QuantizeStates:
    """observed -> observed. params: observer group -> QuantParams; configs: node name -> QConfig or None.

    A recurrent layer whose operand and results are observed (`observe_states`) gets weights of codes, and the
    parameters of x, h and c: it becomes static. y stays real, as the numbers that codes of h stand for.

        x_scale, h_scale, zero points: those of the observers of x and y.
        c_scale = 2^-15 * r, r the least power of two that is at least 16 and 4 times the largest |c|

    Calibration sees the cell state behind the last step only, hence the factor 4. An i16 code resolves r / 2^15, which
    at r = 16 is a sixteenth of the step of a state in 8 bits, and a power of two makes the rounding of c the same as
    that of c / c_scale.

    Before:
        %x.obs = observe(%x) {spec="...", group="x"} : f32[T,1,2]
        %y, %h, %c = lstm(%x.obs, @w, @v) : f32[T,1,3], f32[1,3], f32[1,3]
    After:
        %y, %h, %c = lstm(%x.obs, @w.q, @v.q, none, ..., @w.scale, @v.scale) {scale_of="static", x_scale=0.01, ...}
    """

    params: Mapping[str, QuantParams] = field(default_factory=dict)
    configs: Mapping[str, QConfig | None] = field(default_factory=dict)
    name: ClassVar[str] = "quantize-states"

    def run(self, graph: Graph) -> Graph:
        kept = {note.node for note in graph.notes if isinstance(note, KeptFloat)}
        for node in graph.nodes:
            op, config = Recurrent.of(node), self.configs.get(node.name)
            if op is None or config is None or node.name in kept:
                continue
            reason = self._quantize(graph, op, config)
            if reason is not None:
                graph.notes.append(KeptFloat(node.name, node.op, reason))
        graph.erase_unused_consts()
        return graph

    def _quantize(self, graph: Graph, op: Recurrent, config: QConfig) -> str | None:
        """Make a layer static, or say why not."""
        found = [self.params.get(_group(value) or "") for value in observed_values(op)]
        if any(quant is None for quant in found):
            return "calibration gave its values no range"
        x, h, *cell = (quant for quant in found if quant is not None)
        if (x.qmin, x.qmax) != (h.qmin, h.qmax) or h.qmin != 0 or h.qmax > DType.U8.max:
            return "what it reads is observed for other codes than its states"
        give_codes(graph, op, config)
        static: dict[str, str | int | float] = {
            "scale_of": STATIC,
            "qmax": x.qmax,
            "x_scale": x.scale[0],
            "x_zero_point": x.zero_point[0],
            "h_scale": h.scale[0],
            "h_zero_point": h.zero_point[0],
        }
        if cell:
            static["c_scale"] = cell_scale(cell[0])
        for name, value in static.items():
            graph.set_attr(op.node, name, value)
        return None


def cell_scale(seen: QuantParams) -> float:
    """The scale of cell states, a power of two. seen: the parameters of the last ones, in 16 bits."""
    largest = CELL_HEADROOM * seen.scale[0] * (seen.qmax + 1)
    return 2.0 ** (max(math.log2(CELL_RANGE), math.ceil(math.log2(largest))) - 15)


def why_not_static(op: Recurrent, config: QConfig | None) -> str | None:
    """Why a recurrent layer is not quantized by calibrated ranges, or None."""
    if config is None:
        return "its qconfig is None"
    spec = config.activation
    if config.dynamic is not None or spec is None or config.weight is None:
        return "its qconfig has no specs of activations and weights"
    if has_torchs_weights(config):
        return "torch's static qconfigs leave recurrent layers float"
    if spec.dtype is not DType.U8 or spec.qmin != 0:
        return "the states of recurrent layers have u8 codes, from 0 on"
    if isinstance(op, Lstm) and op.w_hr is not None:
        return "its states are projected"
    biases = [bias.data for bias in (op.bias_ih, op.bias_hh) if isinstance(bias, Const)]
    if not all(np.isfinite(bias).all() for bias in biases):
        return "its bias is not finite"
    return op.why_not_static() or why_weights_float(op, config.weight)


def observed_values(op: Recurrent) -> list[Value]:
    """What calibration has to observe of a layer: x, y, and of an lstm the last c. x may be the result of its observer
    already."""
    return [op.x, op.node.results[0], *op.node.results[2:]]


def observe_states(graph: Graph, configs: Mapping[str, QConfig | None]) -> None:
    """Observe the values of recurrent layers that can become static, and note why others can't."""
    for node in graph.nodes:
        op = Recurrent.of(node)
        if op is None:
            continue
        config = configs.get(node.name)
        reason = why_not_static(op, config)
        if reason is not None:
            graph.notes.append(KeptFloat(node.name, node.op, reason))
            continue
        assert config is not None and config.activation is not None
        x, y, *cell = observed_values(op)
        for value in (x, y):
            _observe(graph, value, config.activation, node)
        wide = replace(config.activation, symmetric=True, observer="minmax").widened()
        for value in cell:
            _observe(graph, value, wide, node)
        starts = (op.h0, op.c0) if isinstance(op, Lstm) else (op.h0,)
        for start, state in zip(starts, (y, *cell)):
            if start is not None:  # has the codes of the states that follow, so its range counts too
                seen = _observer(state)
                assert seen is not None  # observed above
                _append(graph, start, seen.spec_text, seen.group, node)


def _observe(graph: Graph, value: Value, spec: QuantSpec, node: Node) -> None:
    """Append an observer of a value, in a group of its own, unless it has one."""
    if _observer(value) is None:
        _append(graph, value, str(spec), value.name, node)


def _append(graph: Graph, value: Value, spec: str, group: str, node: Node) -> None:
    producer, first = value.producer, next(iter(graph.nodes), None)
    graph.create(
        Observe.name,
        [value],
        {Observe.spec_text.name: spec, Observe.group.name: group},
        types=value.type,
        names=f"{value.name}.obs",
        loc=node.loc,
        before=first if producer is None else None,
        after=producer,
    )


def _observer(value: Value) -> Observe | None:
    """The observer that makes or reads a value."""
    for node in (value.producer, *value.users):
        observe = Observe.of(node)
        if observe is not None:
            return observe
    return None


def _group(value: Value) -> str | None:
    observe = _observer(value)
    return None if observe is None else observe.group
