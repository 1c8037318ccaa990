"""Images of other sizes: those of a template equal those of lowering again, for every op and level."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.backends.lower import _with_layouts
from qcompiler.backends.lowering.graph import MOST_TEMPLATES, GraphLowering
from qcompiler.backends.program.constants import Constants
from qcompiler.backends.program.image import ProgramImage
from qcompiler.backends.target import parse_target
from qcompiler.dims import Dim
from qcompiler.errors import InputError, QCompilerError
from qcompiler.frontend import functional, nn
from qcompiler.ir import Graph
from qcompiler.opdef import OpDef, all_ops, opdef
from qcompiler.types import MAX_ELEMENTS, tensor, type_of
from tests.backends.rules.harness import is_quantizable, one_node, random_array
from tests.ops.test_registry import resized, sized_attrs, ties

MOST_SAMPLES = 3
"""How many samples of an op are lowered."""
WINDOWS = "tables of windows and rows, which follow from the spatial sizes"
MOSTLY_TIED = {
    "conv": WINDOWS,
    "conv_transpose": WINDOWS,
    "max_pool": WINDOWS,
    "max_pool_indices": WINDOWS,
    "avg_pool": WINDOWS,
    "resize": "tables of positions, which follow from the spatial sizes",
    "reshape": "sizes that the shape of the sample does not take",
    "slice": "as reshape",
    "lstm": "as conv, of the axis of the steps or of the depth",
    "gru": "as lstm",
    "rnn": "as lstm",
    "mean": "a multiplier that follows from the number of elements",
}
"""Ops of which a program may serve one size only where some axis is open, and why."""


def images(graph: Graph, level: str, first: Mapping[str, int], *others: Mapping[str, int]) -> list[bool]:
    """Lower for the first sizes, then for the others: by its template and anew. Which of them the template served."""
    constants, target = Constants(), parse_target(level)
    lowered = _with_layouts(graph)
    lowering = GraphLowering(lowered, target, constants)
    try:
        lowering.image(first)
    except InputError:  # an op of the sample takes larger sizes only
        return []
    served = []
    for sizes in others:
        count = len(lowering._templates)
        try:
            fresh = lowering.lower(sizes)
        except QCompilerError as error:
            with pytest.raises(type(error)):
                lowering.image(sizes)
            continue
        image, own = lowering.image(sizes)
        expected = fresh.finish()
        assert image == expected, f"{level}, {sizes}"
        assert image.argument_words()[1] == recomputed(image)[1]
        assert np.array_equal(image.argument_words()[0], recomputed(image)[0])
        if image.own_constant_bytes:
            assert np.array_equal(own.block().data, fresh.own.block().data)
        served.append(len(lowering._templates) == count)
    return served


def recomputed(image: ProgramImage) -> tuple[np.ndarray, list[int]]:
    """The argument words, computed from the steps."""
    from dataclasses import replace

    return replace(image, known_words=None).argument_words()


def open_sample(op: OpDef, index: int, axis: int) -> tuple[Graph, int] | None:
    """A graph of one node with the axis of operand 0 open, and its size in the sample; None if it can't be open."""
    sample = op.samples()[index]
    types = [None if o is None else type_of(o) if isinstance(o, np.ndarray) else o for o in sample.operands]
    attrs, size = op.complete_attrs(sample.attrs), types[0].shape[axis]
    for slots in ties(types, axis):
        for chosen in (attrs, sized_attrs(op, attrs, size, Dim.name("B"))):
            try:
                opened = resized(types, slots, Dim.name("B"))
                op.infer_types(opened, op.complete_attrs(chosen))
            except QCompilerError:
                continue
            graph = Graph(f"{op.name}_{index}")
            graph.stage = "integer"
            rng, operands = np.random.default_rng(0), []
            for position, (given, type) in enumerate(zip(sample.operands, opened)):
                if type is None:
                    operands.append(None)
                elif isinstance(given, np.ndarray) and type.is_static:
                    operands.append(graph.add_const(f"c{position}", given))
                elif op.spec(position).role.name in ("WEIGHT", "BIAS") and type.is_static:
                    operands.append(graph.add_const(f"c{position}", random_array(type, rng)))
                else:
                    operands.append(graph.add_input(f"x{position}", type))
            node = graph.create(op.name, operands, op.complete_attrs(chosen))
            graph.set_outputs(node.results)
            return graph, size
    return None


NEED_CODES = ("quantize", "dequantize", "dynamic_linear")
"""Ops whose operands or results are quantized in another way than the harness does."""
FLOAT_OPS = [
    op for op in all_ops() if op.samples() and op.family not in ("quantized", "observed") and op.name not in NEED_CODES
]


@pytest.mark.parametrize("op", FLOAT_OPS, ids=lambda op: op.name)
def test_samples(op: OpDef) -> None:
    """Every axis of the first operand that may be open."""
    tried = served = 0
    for index, sample in enumerate(op.samples()[:MOST_SAMPLES]):
        first = sample.operands[0]
        for axis in range(first.ndim if isinstance(first, np.ndarray) else first.rank):
            found = open_sample(op, index, axis)
            if found is None:
                continue
            graph, size = found
            least = max((stop for stop in sample.attrs.get("stops", ()) if stop < MAX_ELEMENTS), default=0)
            others = [{"B": other} for other in (12, 2 * size, 1) if other >= least]
            outcomes = images(graph, "x86-64+avx2", {"B": size}, *others)
            tried, served = tried + len(outcomes), served + sum(outcomes)
    assert 2 * served >= tried or op.name in MOSTLY_TIED, f"{served} of {tried} served by a template"


QUANTIZABLE = [op for op in all_ops() if op.samples() and is_quantizable(op) and op.name not in NEED_CODES]


@pytest.mark.parametrize("op", QUANTIZABLE, ids=lambda op: op.name)
def test_codes(op: OpDef) -> None:
    """The first axis of quantized samples. Codes of NHWC images lie channels last behind a pool."""
    rng, tried, served = np.random.default_rng(3), 0, 0
    for sample in op.samples()[:MOST_SAMPLES]:
        arrays = [o if o is None or isinstance(o, np.ndarray) else random_array(o, rng) for o in sample.operands]
        for pooled in (False, True):
            try:
                graph, inputs = one_node(
                    op.name, arrays, sample.attrs, quantized=True, dynamic=True, behind_a_pool=pooled
                )
            except QCompilerError:
                continue
            if not graph.dim_names:
                continue
            first = {"B": max((array.shape[0] for array in inputs if array.ndim), default=2)}
            outcomes = images(graph, "aarch64+neon" if pooled else "x86-64+avx2", first, {"B": 5}, {"B": 9}, {"B": 1})
            tried, served = tried + len(outcomes), served + sum(outcomes)
    assert 2 * served >= tried or op.name in MOSTLY_TIED, f"{served} of {tried} served by a template"


class Attention(nn.Module):
    """One head over x [B, S, 16], and a mask [B, S]."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.norm = nn.LayerNorm(16)

    def forward(self, x, mask):
        scores = self.q(x) @ self.k(x).transpose(0, 2, 1) * 0.25 + (1.0 - mask[:, None, :]) * -1e4
        return self.norm(x + self.o(functional.softmax(scores, -1) @ self.v(x)))


def test_an_attention_of_open_batch_and_length_is_lowered_once() -> None:
    """Every new pair of sizes is served by the template of the first, and gives the interpreter's numbers."""
    rng = np.random.default_rng(0)

    def inputs(batch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(batch, length, 16)).astype(np.float32)
        return x, (rng.uniform(size=(batch, length)) < 0.8).astype(np.float32)

    axes = {0: {0: "B", 1: "S"}, 1: {0: "B", 1: "S"}}
    for qconfig in (None, "int8"):
        data = [inputs(2, 9) for _ in range(4)] if qconfig else None
        model = Attention()
        native, reference = (
            qc.compile(model, qconfig, inputs(2, 9), calibration_data=data, dynamic=axes, target=target)
            for target in ("native", "reference")
        )
        for batch, length in ((2, 9), (3, 10), (5, 70), (2, 8), (64, 33), (7, 129)):
            given = inputs(batch, length)
            np.testing.assert_allclose(native(*given), reference(*given), rtol=1e-4, atol=1e-4)
        assert len(native.program._lowering._templates) == 1


def test_sizes_that_do_not_fit_are_refused_as_ever() -> None:
    """The error of a later binding names the input, although the first one was traced."""
    graph = Graph("windows")
    x = graph.add_input("x", tensor("f32", 2, 3, "B"))
    attrs = {"kernel": (4,), "stride": (1,), "padding": ((0, 0),), "dilation": (1,)}
    graph.set_outputs(graph.create("max_pool", [x], opdef("max_pool").complete_attrs(attrs)).results)
    lowering = GraphLowering(_with_layouts(graph), parse_target("x86-64+avx2"), Constants())
    lowering.image({"B": 6})
    with pytest.raises(InputError, match="do not fit"):
        lowering.image({"B": 3})
    assert lowering.image({"B": 9})[0].sizes == (("B", 9),)


def test_the_oldest_templates_are_dropped() -> None:
    """Sizes that are all decided otherwise leave no more templates than allowed."""
    graph = Graph("table")
    graph.set_outputs(graph.create("size", [graph.add_input("x", tensor("f32", "B", 3))], {"axis": 0}).results)
    lowering = GraphLowering(_with_layouts(graph), parse_target("x86-64+avx2"), Constants())
    for batch in range(1, 20):
        image, _ = lowering.image({"B": batch})
        assert image == lowering.lower({"B": batch}).finish()
    assert len(lowering._templates) <= MOST_TEMPLATES
