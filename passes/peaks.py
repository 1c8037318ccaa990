"""Finds values whose ranges must not be clipped: those of which a maximum or minimum over many elements is taken.

The default observer cuts rare large elements off where that makes the mean squared error of all elements least. A
maximum over many elements, as over the time of a recording, is one of these rare ones, so nearly all that it gives
would be cut, and always to the same side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from qcompiler.ir import Graph, Node, Value
from qcompiler.ops.pool import AdaptiveMaxPool, MaxPool
from qcompiler.ops.quantized import Observe
from qcompiler.ops.reduce import Max, Min
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.histogram import Histogram
from qcompiler.quantization.observers import Observer
from qcompiler.quantization.qconfig import QConfig, get_qconfig
from qcompiler.quantization.spec import QuantSpec
from qcompiler.types import QuantParams

LEAST_WINDOW = 64
"""Elements of a maximum from which on ranges are not clipped. The default observer cuts off about one element in a
thousand or ten thousand, which maxima of few elements seldom meet."""


def unclipped(
    graph: Graph,
    params: Mapping[str, QuantParams],
    observers: Mapping[str, Observer],
    configs: Mapping[str, QConfig | None],
) -> tuple[dict[str, QuantParams], dict[str, str]]:
    """(observer group -> parameters that span all of its range, name of the value -> why), for the groups of an
    observed graph whose ranges the default observer has cut.

    Args:
        params: observer group -> the parameters that its observer chose.
        configs: node name -> its qconfig (int8 for a node that is not in it). Those without `mixed_precision` keep
            the range that the observer chose.
    """
    found: dict[str, QuantParams] = {}
    reasons: dict[str, str] = {}
    for node in graph.nodes:
        extreme, config = _extreme(node), configs.get(node.name, get_qconfig("int8"))
        if extreme is None or extreme[1] < LEAST_WINDOW:
            continue
        x, window = extreme
        observe = Observe.of(x.producer)
        if observe is None or config is None or not config.mixed_precision or observe.group not in params:
            continue
        observer, spec = observers.get(observe.group), QuantSpec.parse(observe.spec_text)
        if type(observer) is Histogram and not observer.is_empty:
            whole = choose_qparams(observer.low, observer.high, spec)
            if whole != params[observe.group]:
                found[observe.group] = whole
                count = "many" if math.isinf(window) else f"{window:g}"
                reasons[observe.x.name] = f"%{node.name} = {node.op} takes one of {count} elements"
    return found, reasons


def _extreme(node: Node) -> tuple[Value, float] | None:
    """The value of which a node takes largest or smallest elements, and of how many each, inf if that depends on
    symbolic sizes; None for other nodes."""
    pool = MaxPool.of(node)
    if pool is not None:
        return pool.x, math.prod(pool.kernel)
    reduction = Max.of(node) or Min.of(node) or AdaptiveMaxPool.of(node)
    if reduction is None:
        return None
    shapes = [reduction.x.type.shape, node.result.type.shape]
    symbolic = [{size for size in shape if not isinstance(size, int)} for shape in shapes]
    if symbolic[0] != symbolic[1]:
        return reduction.x, math.inf
    given, made = (math.prod(size for size in shape if isinstance(size, int)) for shape in shapes)
    return reduction.x, given / max(made, 1)
