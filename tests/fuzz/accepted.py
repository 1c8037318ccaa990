"""What must hold for a graph that came in through a door: it prints and parses back, compiles, and runs."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

import qcompiler as qc
from qcompiler.backends.target import known_targets, parse_target
from qcompiler.cli.inputs import random_inputs
from qcompiler.errors import ParseError, ShapeError, VerifyError
from qcompiler.interpreter import run
from qcompiler.ir import Graph, Module
from qcompiler.opdef import opdef
from qcompiler.ops.interfaces import Conversion
from qcompiler.text import lark_reader, quick
from qcompiler.text.compare import first_difference
from qcompiler.text.parser import parse
from qcompiler.text.printer import graph_data, module_data, print_graph, print_module
from qcompiler.verify import verify
from tests.fuzz.damage import Chance
from tests.text.test_quick_reader import plain

OBSERVED = ["int8", "int8:minmax", "int8:percentile", "int8:mse", "int8:kl", "torch:fbgemm", "torch:qnnpack"]
"""qconfigs with every kind of observer."""
DYNAMIC = ["dynamic", "dynamic:per_tensor", "dynamic:reduced", "dynamic:float16"]
"""qconfigs that need no calibration."""
MOST_ELEMENTS = 200_000
"""The most elements of all values of a graph together; larger graphs are not run."""


def check_text(found: Graph | Module) -> None:
    """Print a graph or a module and read it back.

    Raises:
        AssertionError: the print is not read, or read as something else.
    """
    text = print_module(found) if isinstance(found, Module) else print_graph(found)
    data = module_data(found) if isinstance(found, Module) else graph_data(found)
    try:
        again = parse(text, data)
    except ParseError as error:
        raise AssertionError(f"the print of a graph does not parse: {error}") from error
    assert isinstance(again, type(found)), "a module became a graph, or the other way round"
    difference = first_difference(found, again)
    assert difference is None, f"printed and read back, it differs: {difference}"


def check_readers(text: str) -> None:
    """Check that the quick reader gives up on a text, or gives the phrases of the reader that has the messages."""
    phrases = quick.read_quickly(text)
    if phrases is None:
        return
    try:
        slow = lark_reader.read(text)
    except ParseError as error:
        raise AssertionError(f"the quick reader reads what the grammar refuses: {error}") from error
    assert plain(phrases) == plain(slow), "the two readers give different phrases"


def check_legal(graph: Graph, what: str) -> None:
    """Check a graph that qcompiler itself made.

    Raises:
        AssertionError: it is not legal.
    """
    try:
        verify(graph)
    except VerifyError as error:
        raise AssertionError(f"{what} is not legal: {error}") from error


def sizes_of(graph: Graph, chance: Chance) -> dict[str, int] | None:
    """Small numbers for the symbolic sizes; None if the graph is too large to run with them."""
    sizes = {name: 1 + chance.below(3) for name in graph.dim_names}
    try:
        types = [value.type.bind(sizes) for value in graph.values()]
    except ShapeError:  # too many elements for a tensor
        return None
    return sizes if sum(math.prod(type.sizes) for type in types) <= MOST_ELEMENTS else None


def check_runs(graph: Graph, chance: Chance, *, native: bool = False, config: str | None = None) -> str:
    """Compile and run a legal graph. Gives "large" if it is too large to run, else on what it ran.

    Args:
        native: run it on this machine too, and on a weaker level. Integer graphs must have the bits of the interpreter,
            and float graphs the same bits on both levels.
        config: a qconfig by which a float graph is quantized before.

    Raises:
        AssertionError: an output has another type than the graph says, or other bits.
        QCompilerError: indices out of range, or sizes that do not fit.
    """
    sizes = sizes_of(graph, chance)
    if sizes is None:
        return "large"
    inputs = random_inputs(graph, sizes, chance.below(1000))
    with np.errstate(all="ignore"):
        _check_types(graph, sizes, run(graph, inputs))
        if config is not None and graph.stage == "float":
            data = None if config in DYNAMIC else [tuple(inputs)]
            graph = qc.compile(graph, config, calibration_data=data, target="reference").graph
            check_legal(graph, "the quantized graph")
            check_text(graph)
        wanted = "keep" if graph.stage == "qdq" else None
        model = qc.compile(graph, wanted, target="reference")
        check_legal(model.graph, "the compiled graph")
        want = _outputs(model(*inputs))
        if not native:
            return "ran"
        got = _outputs(qc.compile(graph, wanted, target="native")(*inputs))
        level = str(chance.one(_levels()))
        weaker = _outputs(qc.compile(graph, wanted, target=level)(*inputs))
    assert len(got) == len(want), "another number of outputs"
    exact = is_integer(model.graph)
    for one, other, third in zip(got, want, weaker, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), "an output is of another type natively"
        assert not exact or _same(one, other), "other bits natively"
        assert _same(one, third), f"other bits on {level}"
    return "ran natively"


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether all bits are equal, but for those of NaN."""
    if one.dtype.kind != "f":
        return one.tobytes() == other.tobytes()
    signs = (np.signbit(one) == np.signbit(other)) | np.isnan(one)
    return np.array_equal(one, other, equal_nan=True) and bool(signs.all())


@cache
def _levels() -> list[str]:
    """The levels that this CPU runs."""
    return [name for name in known_targets() if parse_target(name).execution() == "native"]


def _check_types(graph: Graph, sizes: dict[str, int], outputs: list[np.ndarray]) -> None:
    for value, array in zip(graph.outputs, outputs, strict=True):
        type = value.type.bind(sizes)
        assert (array.dtype, array.shape) == (type.dtype.numpy, type.sizes), "an output is not of its type"


def _outputs(found: Any) -> list[np.ndarray]:
    if isinstance(found, dict):
        return list(found.values())
    return list(found) if isinstance(found, (tuple, list)) else [found]


def is_integer(graph: Graph) -> bool:
    """Whether only conversions make floats, in which case all levels must agree to the bit."""
    return all(
        issubclass(opdef(node.op), Conversion) or not any(value.type.dtype.is_float for value in node.results)
        for node in graph.node_list
    )
