"""Finds functions of one value that codes of the value serve badly: between two of its codes, most results jump far.

A log is the common one. Over a range of many decades nearly all elements lie in the lowest codes, where the result
jumps by a large part of its range from one code to the next.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qcompiler.ir import Graph
from qcompiler.ops.quantized import Observe
from qcompiler.passes.regions import pointwise_region
from qcompiler.quantization.histogram import Histogram
from qcompiler.quantization.observers import Observer
from qcompiler.quantization.tables import build_table
from qcompiler.types import DType, QuantParams

MOST_JUMP = 16.0
"""The mean jump, in codes of the result, up to which a table serves: half of it is the mean error that rounding the
operand makes, so 5 bits of the result are left."""


def steep_functions(
    graph: Graph, params: Mapping[str, QuantParams], observers: Mapping[str, Observer]
) -> dict[str, str]:
    """Name of the last node of each steep function of an observed graph -> why.

    params, observers: by group. A group without a histogram is not judged.
    """
    found = {}
    for node in graph.nodes:
        result = Observe.of(node)
        region = None if result is None or result.x.producer is None else pointwise_region(graph, result.x.producer)
        source = None if region is None else Observe.of(region.source.producer)
        if result is None or region is None or source is None:
            continue
        into, out = params.get(source.group), params.get(result.group)
        histogram = observers.get(source.group)
        if into is None or out is None or not isinstance(histogram, Histogram):
            continue
        if not all(_is_byte(each) for each in (into, out)):
            continue
        types = (source.x.type.quantized(DType.U8, into), result.x.type.quantized(DType.U8, out))
        steps = np.abs(np.diff(build_table(region, *types).astype(np.int64), prepend=0, append=0))
        steps[[0, -1]] = 0
        jump = _mean_at((steps[:-1] + steps[1:]) / 2, histogram, into)
        if jump > MOST_JUMP:
            end = region.nodes[-1]
            found[end.name] = f"{end.op} jumps by {jump:.0f} codes between two codes of its operand, in the mean"
    return found


def _is_byte(params: QuantParams) -> bool:
    return params.axis is None and params.qmin >= 0 and params.qmax <= 255


def _mean_at(values: np.ndarray, histogram: Histogram, params: QuantParams) -> float:
    """The mean of a number for each code, f64 [256], over the codes that calibration saw."""
    middles, counts = histogram.filled_bins()
    with np.errstate(over="ignore"):
        codes = np.rint(middles / np.float64(params.scale[0])) + params.zero_point[0]
    codes = np.clip(codes, params.qmin, params.qmax).astype(np.int64)
    return float((values[codes] * counts).sum() / max(counts.sum(), 1.0))
