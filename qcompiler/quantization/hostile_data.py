"""What becomes of values of which calibration data says little: those that held NaN or Inf, or one number alone."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

from qcompiler.ir import Graph, Node
from qcompiler.notes import KeptFloat, Note, Uncalibrated, Unjudged
from qcompiler.ops.quantized import Observe
from qcompiler.quantization.calibration import Calibration
from qcompiler.quantization.minmax import Fixed, MinMax
from qcompiler.quantization.observers import Observer

_log = logging.getLogger(__name__)
_MOST_LINES = 20
"""A warning has so many lines at most."""


def kept_float(graph: Graph, not_finite: Iterable[str]) -> Graph:
    """An observed graph in which notes keep the nodes float that make or read these values: codes have no NaN, and an
    Inf among them is only their largest number."""
    bad = set(not_finite)
    if not bad:
        return graph
    graph = graph.clone()
    noted = {note.node for note in graph.notes if isinstance(note, KeptFloat)}
    observers = [observe for node in graph.node_list if (observe := Observe.of(node)) is not None]
    for observe in observers:
        if observe.x.name not in bad:
            continue
        left = [*observe.node.result.users, *observe.x.users]
        left += [] if observe.x.producer is None else [observe.x.producer]
        while left:
            node = left.pop()
            if node.name in noted or node.op == Observe.name:
                continue
            noted.add(node.name)
            reason = f"calibration saw NaN or Inf in %{observe.x.name}"
            graph.notes.append(KeptFloat(node.name, node.op, reason))
            left += _without_observer(node)
    return graph


def _without_observer(node: Node) -> Iterator[Node]:
    """The neighbours of a node inside of a region that would become one table: no observer stands between."""
    for value in node.operands:
        if value is not None and value.producer is not None:
            yield value.producer
    for value in node.results:
        if all(user.op != Observe.name for user in value.users):
            yield from value.users


def lacks_data(observers: Mapping[str, Observer], group: str) -> bool:
    """Whether the values of a group held NaN or Inf in all items."""
    if not isinstance(observers, Calibration) or not observers.not_finite.intersection(observers.members[group]):
        return False
    observer = observers[group]
    return isinstance(observer, MinMax) and observer.is_empty


def uncalibrated(graph: Graph, calibration: Calibration) -> list[Uncalibrated]:
    """What calibration data says little about, in the order of the graph."""
    found = [
        Uncalibrated(name, f"it held NaN or Inf in {count} item{'s' * (count > 1)}, which were left out")
        for name, count in calibration.left_out.items()
    ]
    for node in graph.nodes:
        observe = Observe.of(node)
        if observe is None:
            continue
        name, observer = observe.x.name, calibration.get(observe.group)
        if name in calibration.not_finite:
            found.append(Uncalibrated(name, "it held NaN or Inf, so the nodes that make and read it stay float"))
        elif isinstance(observer, MinMax) and not isinstance(observer, Fixed) and observer.low == observer.high:
            found.append(Uncalibrated(name, f"it was {float(observer.low):g} in all items"))
    return found


def warn(notes: Sequence[Note]) -> None:
    """Say in the log, once, of which values calibration data says little."""
    lines = [str(note) for note in notes if isinstance(note, (Uncalibrated, Unjudged))]
    if lines:
        more = [f"and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
        text = "\n".join(f"  {line}" for line in (*lines[:_MOST_LINES], *more))
        _log.warning(
            "calibration says little about some values; more, or other, items help where the data is the reason:\n%s",
            text,
        )
