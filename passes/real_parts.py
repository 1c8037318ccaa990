"""Chooses parts between products that stay real, so that what products read behind them has codes for every channel.

Where channels differ in range a hundredfold, one scale for all leaves small channels a few codes. Equalization moves
the difference into the product that makes the value, but not through functions such as hardswish or silu, nor through
sums of two values. A depthwise convolution that reads the value then loses the small channels, and what is behind it
may have scaled them up. Real numbers have no such loss on either side of the function, and a multiplication in front of
the one conversion left gives each channel all codes.

Real parts cost time. Relative errors add up along a network, so parts are chosen, the cheapest in proportion to what
they gain first, until the errors of the products behind those that are left sum up to less than a budget, measured on
their own outputs for the sampled rows of calibration. Plain networks meet it with no real part. Values of which outlier
channels can be split off (`split_outliers.py`), as behind a GELU, are left to that: it gains more there.

Those that are chosen are then judged by the outputs of the graph, on whole calibration items. With codes in all of them
the outputs may lose next to nothing; then the parts are codes after all.

The choice is the same on every machine, as that of scales is (`equalization.py`), which it uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from qcompiler.errors import InputError
from qcompiler.ir import Graph, Node
from qcompiler.notes import PartsJudged
from qcompiler.ops.quantized import Observe
from qcompiler.passes.choose_precision import ChoosePrecision, Roles, makers_of
from qcompiler.passes.equalization import estimate, judged_multiplications, multiply_cost, rounded
from qcompiler.passes.split_outliers import Split, match_split
from qcompiler.quantization.cost_profile import ZEN5_AVX512VNNI as PROFILE
from qcompiler.quantization.cost_profile import elements
from qcompiler.quantization.kept_items import Item, KeptItems
from qcompiler.quantization.output_errors import OutputErrors
from qcompiler.quantization.product_inputs import ProductInput
from qcompiler.quantization.qconfig import QConfig
from qcompiler.signature import bind_inputs
from qcompiler.types import QuantParams

BUDGET = 1e-3
"""What the errors of all products behind the parts may sum up to, as shares of the energy of their outputs (30 dB)."""

LEAST_ERROR = 1e-4
"""A value whose products lose less than this (40 dB) is good enough."""

GAIN = 2.0
"""Errors must fall by this factor (3 dB)."""

OUTPUT_BUDGET = 1e-4
"""If no output loses more than this share of its energy (40 dB) with codes in all parts, none stays real."""

SHARE_FOR_PARTS = 1.0
"""Parts that stay real may add this share to the estimated time of a graph."""

SPEED = 1.5
"""By this factor the estimated time stays below that of float with all parts that are chosen."""


@dataclass(frozen=True)
class RealParts:
    """The parts to keep real.

    Attributes:
        nodes: the name of a node of each part -> why it stays real.
        values: the names of the values behind them whose channels are multiplied, at a price that is counted.
        count: how many parts there are.
    """

    nodes: Mapping[str, str] = field(default_factory=dict)
    values: frozenset[str] = frozenset()
    count: int = 0


def choose_real_parts(
    graph: Graph,
    params: Mapping[str, QuantParams],
    inputs: Mapping[str, ProductInput],
    configs: Mapping[str, QConfig | None],
    *,
    code_outputs: bool,
    steep: Mapping[str, str],
) -> RealParts:
    """The parts whose loss is large; the cheapest in proportion to what they gain come first, and together they may add
    SHARE_FOR_PARTS to the estimated time of the graph.

    Args:
        graph: of stage observed, as choose-precision gets it.
        params: observer group -> its parameters.
        inputs: what calibration kept of the inputs of products.
        configs: node name -> its qconfig (int8 for a node that is not in it).
        code_outputs, steep: of choose-precision.
    """
    settled = ChoosePrecision(configs, code_outputs, steep).run(graph.clone())
    roles = Roles(settled, configs)
    parts = [part for part in roles.parts() if _is_candidate(settled, roles, part)]
    if not parts:
        return RealParts()
    trial = ChoosePrecision(configs, code_outputs, steep, {part[0].name: "" for part in parts}).run(graph.clone())
    number_of = {node.name: number for number, part in enumerate(parts) for node in part}
    gains, costs, values = [0.0] * len(parts), [0.0] * len(parts), [list[str]() for _ in parts]
    worst: list[tuple[float, float, str]] = [(0.0, 0.0, "")] * len(parts)
    seen = {observe.x.name: observe for node in settled.nodes if (observe := Observe.of(node)) is not None}
    for observe, choice in judged_multiplications(trial, params, inputs, configs, within=number_of):
        number = number_of[observe.x.producer.name] if observe.x.producer is not None else 0
        costs[number] += PROFILE.overhead + elements(observe.x) * PROFILE.quantize
        if isinstance(match_split(settled, seen[observe.x.name]), Split):
            continue
        if choice is None or choice.note.before < LEAST_ERROR or choice.note.after * GAIN > choice.note.before:
            continue
        gains[number] += choice.note.before - choice.note.after
        costs[number] += PROFILE.overhead + elements(observe.x) * multiply_cost()
        values[number].append(observe.x.name)
        worst[number] = max(worst[number], (choice.note.before, choice.note.after, choice.value))
    integer, real = (estimate(graph, each) for each in (configs, {node.name: None for node in graph.nodes}))
    left = min(SHARE_FOR_PARTS * integer, real / SPEED - integer)
    lost = sum(gains)
    chosen: dict[str, str] = {}
    paid: set[str] = set()
    count = 0
    priced = [(costs[i] + roles.price(settled, part), i) for i, part in enumerate(parts) if gains[i]]
    for cost, number in sorted(priced, key=lambda item: (item[0] / gains[item[1]], item[1])):
        if lost <= BUDGET:
            break
        if cost <= left:
            left, lost = left - cost, lost - gains[number]
            before, after, value = worst[number]
            reason = f"codes of %{value} cost its products {before:.2e} of their energy, and real numbers {after:.2e}"
            chosen |= {node.name: reason for node in parts[number]}
            paid |= set(values[number])
            count += 1
    return RealParts(chosen, frozenset(paid), count)


def judge_parts(
    graph: Graph, parts: RealParts, kept: KeptItems | None, without: Callable[[], Graph]
) -> tuple[RealParts, PartsJudged | None]:
    """The parts that stay real in view of the outputs: all of them or none; and what to note of that.

    Args:
        graph: of stage observed.
        kept: the whole items of the calibration; None if it has none.
        without: gives the integer graph without real parts.
    """
    if not parts.count:
        return parts, None
    items = [] if kept is None else [item for item in kept.to_judge() if fits(graph, item)]
    if not items:
        return parts, PartsJudged(parts.count, True, None)
    lost = OutputErrors(graph, items).of(without())
    real = lost > OUTPUT_BUDGET
    return parts if real else RealParts(), PartsJudged(parts.count, real, rounded(lost))


def fits(graph: Graph, item: Item) -> bool:
    """Whether an item, which may be of a calibration for other sizes, fits the inputs of the graph."""
    try:
        bind_inputs(graph, item)
    except InputError:
        return False
    return True


def _is_candidate(graph: Graph, roles: Roles, part: list[Node]) -> bool:
    """Whether a part works on codes that products make, and products read what it makes."""
    if not all(id(node) in roles.chosen for node in part):
        return False
    reads_products = any(id(maker) in roles.products for node in part for maker in makers_of(node))
    return reads_products and any(
        roles.reads_codes(graph, value, code_outputs=False) for node in part for value in node.results
    )
