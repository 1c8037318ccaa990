"""correct-bias: let the biases of products take up the mean error that the rounding of their weights makes.

With Wq for the rounded weights, y = W x + b = Wq x + (W - Wq) x + b, and (W - Wq) x has a mean that is not 0 wherever x
has one, as behind a relu (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019,
section 4.2; the empirical form).

The mean of x is that of the sampled rows of calibration. Two halves of them give one estimate m each for an output
channel. If a channel is corrected by the estimate of one half, the squared error of the other half's mean changes by
m1^2 - 2 m1 m2. Channels are corrected where this, summed over both halves, is below 0. It is the same on every machine:
rows and weights are rounded to 16 bits, so sums of their products are exact in any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from qcompiler.errors import PassError
from qcompiler.ir import Const, Graph
from qcompiler.ops.interfaces import Weighted
from qcompiler.ops.quantized import Observe
from qcompiler.passes.equalization import LEAST_ROWS, dot, fixed_point, weight_spec
from qcompiler.passes.scale_channels import Scales, set_operand
from qcompiler.quantization import qmath
from qcompiler.quantization.observers import weight_params
from qcompiler.quantization.product_inputs import ProductInput
from qcompiler.quantization.qconfig import QConfig, get_qconfig


@dataclass(frozen=True)
class CorrectBias:
    """observed -> observed. corrections: the name of a product -> what is added to its bias, for each output channel.

    Before:
        %y = linear(%x.obs, @w) : f32[4,2]
    After:
        %y = linear(%x.obs, @w, @y.bias.corrected) : f32[4,2]
    """

    corrections: Scales = field(default_factory=dict)
    name: ClassVar[str] = "correct-bias"

    def run(self, graph: Graph) -> Graph:
        nodes = {node.name: node for node in graph.nodes}
        for name, numbers in self.corrections.items():
            layer = Weighted.of(nodes.get(name))
            if layer is None or not (layer.bias is None or layer.bias.is_const):
                raise PassError(f"{self.name} corrects what is no product with a constant bias", where=f"%{name}")
            added, channels = np.asarray(numbers, np.float64), layer.node.result.type.shape[layer.channel_axis]
            if added.shape != (channels,) or not np.isfinite(added).all():
                raise PassError("corrections", where=f"%{name}", expected=f"{channels} numbers", got=numbers)
            old = layer.bias.data.astype(np.float64) if isinstance(layer.bias, Const) else 0.0
            set_operand(graph, layer, "bias", old + added, "corrected")
        graph.erase_unused_consts()
        return graph


def choose_corrections(
    graph: Graph,
    inputs: Mapping[str, ProductInput],
    configs: Mapping[str, QConfig | None],
) -> dict[str, np.ndarray]:
    """The name of a product -> what its bias shall take up, f32 for each output channel.

    Args:
        graph: of stage observed, with scaled channels.
        inputs: what calibration kept of the inputs of products, scaled as in the graph, by the product's name.
        configs: node name -> its qconfig (int8 for a node that is not in it).
    """
    found = {}
    for node in graph.nodes:
        layer = Weighted.of(node)
        config = configs.get(node.name, get_qconfig("int8"))
        observe = None if layer is None else Observe.of(layer.x.producer)
        kept = inputs.get(node.name)
        if layer is None or observe is None or kept is None or config is None or not config.equalize:
            continue
        if not isinstance(layer.weight, Const) or not (layer.bias is None or layer.bias.is_const):
            continue
        if layer.row_weight(layer.weight.data).shape[:2] != layer.grouped(layer.weight.data).shape[:2]:
            continue  # a row gives several results for a channel
        if len(kept.keys) < 2 * LEAST_ROWS or kept.rows.shape[1:] != layer.row_shape:
            continue
        correction = _correction(layer, layer.weight.data, kept.rows, configs)
        if correction.any():
            found[node.name] = correction
    return found


def _correction(
    layer: Weighted, weight: np.ndarray, rows: np.ndarray, configs: Mapping[str, QConfig | None]
) -> np.ndarray:
    spec = weight_spec(configs, layer.node.name)
    axis = layer.quant.weight_axis if spec.per_channel else None
    given = qmath.fake_quantize(weight, weight_params(weight, spec, axis, f"%{layer.weight.name}"), spec.dtype)
    # The difference is exact: a code next to a number that is not 0 is within a factor of 2 of it.
    lost, unit = fixed_point(layer.row_weight(weight - given))
    codes, row_unit = fixed_point(rows)
    halves = [codes[start::2] for start in (0, 1)]
    sums = [dot(half.sum(axis=0, keepdims=True), lost).reshape(-1) * (unit * row_unit) for half in halves]
    first, second = (total / len(half) for total, half in zip(sums, halves))
    agree = 4 * first * second > first * first + second * second
    return np.where(agree, (sums[0] + sums[1]) / len(codes), 0.0).astype(np.float32)
