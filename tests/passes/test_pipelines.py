"""Whole pipelines on small networks: each node is where it should be, and numbers are near the float ones."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from qcompiler import compiler
from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.notes import Equalized, KeptFloat
from qcompiler.quantization.qconfig import QConfigMapping, get_qconfig
from qcompiler.text.compare import first_difference
from qcompiler.types import DType
from qcompiler.verify import verify
from tests.passes.pass_texts import load


def quantized(
    graph: Graph, qconfig: object = "int8:plain", count: int = 4, seed: int = 0, **inputs: object
) -> tuple[Graph, list, list]:
    """The integer graph, the float outputs and the integer outputs for one of the calibration items."""
    rng = np.random.default_rng(seed)

    def item() -> tuple[np.ndarray, ...]:
        return tuple(
            rng.integers(0, 2, v.type.shape).astype(bool)
            if v.type.dtype is DType.BOOL
            else rng.integers(0, 4, v.type.shape)
            if not v.type.dtype.is_float
            else rng.normal(size=v.type.shape).astype(np.float32)
            for v in graph.inputs
        )

    items = [item() for _ in range(count)]
    prepared = compiler.prepare(graph, qconfig)
    integer = compiler.convert(prepared, compiler.calibrate(prepared, items))
    verify(integer)
    assert integer.stage == "integer"
    return integer, run(graph, items[0]), run(integer, items[0])


def decibels(wanted: np.ndarray, got: np.ndarray) -> float:
    noise = np.square(wanted - got).sum()
    return 10 * np.log10(np.square(wanted).sum() / max(noise, 1e-30))


def ops(graph: Graph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes)


def floats(graph: Graph) -> set[str]:
    return {node.op for node in graph.nodes if not node.results[0].type.is_quantized and node.op != "dequantize"}


def check(graph: Graph, expected: dict[str, int], least: float = 25.0, qconfig: object = "int8:plain") -> Graph:
    integer, wanted, got = quantized(graph, qconfig)
    assert ops(integer) == expected
    for one, other in zip(wanted, got, strict=True):
        assert decibels(one, other) > least
    return integer


def test_a_residual_block_with_batch_norms() -> None:
    graph = load(
        "%x: f32[1,8,6,6]",
        """
        const @w : f32[8,8,3,3]
        const @v : f32[8,8,1,1]
        const @mean : f32[8]
        const @var : f32[8]
        %a = conv(%x, @w) {stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1)} : f32[1,8,6,6]
        %b = batch_norm(%a, @mean, @var) : f32[1,8,6,6]
        %c = relu(%b) : f32[1,8,6,6]
        %d = conv(%c, @v) {CONV} : f32[1,8,6,6]
        %e = batch_norm(%d, @mean, @var) : f32[1,8,6,6]
        %f = add(%e, %x) : f32[1,8,6,6]
        %g = relu(%f) : f32[1,8,6,6]
        return %g""",
    )
    integer = check(graph, {"quantize": 1, "conv": 2, "dequantize": 1})
    assert [node.name for node in integer.nodes if node.op == "conv"] == ["c", "g"]
    assert all(isinstance(note, Equalized) for note in integer.notes)


def test_a_fixed_range_in_a_sharing_group_is_requantized_into_its_table() -> None:
    graph = load(
        "%x: f32[2,8]",
        """
        const @w : f32[8,8]
        %a = linear(%x, @w) : f32[2,8]
        %s = sigmoid(%a) : f32[2,8]
        %c = concat(%s, %a) {axis=1} : f32[2,16]
        %y = transpose(%c) {perm=(1, 0)} : f32[16,2]
        return %y""",
    )
    integer = check(graph, {"quantize": 1, "linear": 1, "lookup": 1, "concat": 1, "transpose": 1, "dequantize": 1})
    assert integer.value("s").type.quant == integer.value("a").type.quant


def test_mixed_qconfigs() -> None:
    graph = load(
        "%x: f32[2,8]",
        """
        const @w : f32[8,8]
        %a = linear(%x, @w) : f32[2,8]
        %r = relu(%a) : f32[2,8]
        %b = linear(%r, @w) : f32[2,8]
        %s = relu(%b) : f32[2,8]
        %y = linear(%s, @w) : f32[2,8]
        return %y""",
    )
    names = QConfigMapping(get_qconfig("int8:plain"), names={"b": None})
    integer = check(graph, {"quantize": 2, "linear": 3, "relu": 1, "dequantize": 2}, qconfig=names)
    kept = {note.node: note for note in integer.notes}
    assert kept["b"] == KeptFloat("b", "linear", "its qconfig is None") and "s" in kept
    assert integer.value("r").type.is_quantized and not integer.value("b").type.is_quantized
    relu = QConfigMapping(get_qconfig("int8:plain"), object_types={"relu": None})
    integer, _, _ = quantized(graph, relu)
    assert ops(integer)["relu"] == 2, "parts of unequal qconfig do not fuse"


def test_masked_attention() -> None:
    graph = load(
        "%q: f32[2,4,8], %k: f32[2,8,4], %v: f32[2,4,8], %keep: bool[2,4,4]",
        """
        const @scale : f32[]
        const @low : f32[]
        %s = matmul(%q, %k) : f32[2,4,4]
        %t = mul(%s, @scale) : f32[2,4,4]
        %m = where(%keep, %t, @low) : f32[2,4,4]
        %p = softmax(%m) {axis=2} : f32[2,4,4]
        %y = matmul(%p, %v) : f32[2,4,8]
        return %y""",
        scale=0.35,
        low=-1e9,
    )
    integer, wanted, got = quantized(graph)
    assert floats(integer) == {"where", "softmax"} and ops(integer)["matmul"] == 2
    assert decibels(wanted[0], got[0]) > 25


def test_an_embedding_becomes_a_table_of_codes() -> None:
    graph = load(
        "%i: i64[2,3]",
        """
        const @table : f32[4,8]
        const @w : f32[8,8]
        %e = gather(@table, %i) {axis=0} : f32[2,3,8]
        %y = linear(%e, @w) : f32[2,3,8]
        return %y""",
    )
    integer = check(graph, {"gather": 1, "linear": 1, "dequantize": 1})
    table = integer.node_list[0].operands[0]
    assert table.is_const and table.type.dtype.bits == 8 and integer.notes == []


def test_constants_that_are_added_are_codes() -> None:
    graph = load(
        "%x: f32[2,3,4]",
        """
        const @w : f32[4,4]
        const @position : f32[3,4]
        %a = linear(%x, @w) : f32[2,3,4]
        %y = add(%a, @position) : f32[2,3,4]
        return %y""",
    )
    integer = check(graph, {"quantize": 1, "linear": 1, "add": 1, "dequantize": 1})
    assert integer.value("y").producer.operands[1].is_const


def test_outputs_in_the_middle_and_values_read_twice() -> None:
    graph = load(
        "%x: f32[2,8]",
        """
        const @w : f32[8,8]
        %a = linear(%x, @w) : f32[2,8]
        %b = gelu(%a) : f32[2,8]
        %c = mul(%b, %b) : f32[2,8]
        %d = add(%c, %a) : f32[2,8]
        return %b, %d, %a, %b as "again"
        """,
    )
    integer, wanted, got = quantized(graph)
    assert integer.output_names == ["b", "d", "a", "again"] and np.array_equal(got[0], got[3])
    assert all(decibels(one, other) > 25 for one, other in zip(wanted, got))
    assert ops(integer) == {"quantize": 1, "linear": 1, "lookup": 2, "add": 1, "dequantize": 3}


def test_moves_of_an_input_are_done_on_codes() -> None:
    graph = load(
        "%x: f32[2,4,4,3]",
        """
        const @w : f32[8,3,3,3]
        %t = transpose(%x) {perm=(0, 3, 1, 2)} : f32[2,3,4,4]
        %y = conv(%t, @w) {CONV} : f32[2,8,2,2]
        return %y""",
    )
    integer = check(graph, {"quantize": 1, "transpose": 1, "conv": 1, "dequantize": 1})
    assert integer.node_list[0].op == "quantize" and integer.notes == []


def test_dead_branches_are_not_calibrated() -> None:
    graph = load(
        "%x: f32[2,8]",
        """
        const @w : f32[8,8]
        %unused = log(%x) : f32[2,8]
        %a = linear(%x, @w) : f32[2,8]
        return %a""",
    )
    check(graph, {"quantize": 1, "linear": 1, "dequantize": 1})


@pytest.mark.parametrize("qconfig", ["int8", "int8:plain", "int8:minmax", "torch:default"])
def test_the_same_graph_whatever_the_hash_seed(qconfig: str, demo_stages) -> None:
    """The same passes run twice give the same text. (Object ids differ between the runs, as hash seeds would make
    them.)"""
    graph = demo_stages["float"]
    data = [np.random.default_rng(3).normal(size=(2, 1, 28, 28)).astype(np.float32)]
    texts = set()
    for _ in range(2):
        prepared = compiler.prepare(graph, qconfig)
        texts.add(str(compiler.convert(prepared, compiler.calibrate(prepared, data))))
    assert len(texts) == 1


@pytest.mark.parametrize(
    "use",
    [
        compiler.fuse,
        compiler.prepare,
        functools.partial(compiler.prepare, qconfig="auto"),
        functools.partial(compiler.compile, qconfig=None, target="reference"),
        functools.partial(
            compiler.compile, calibration_data=[np.ones((1, 8, 6, 6), np.float32)], target="reference", io="quantized"
        ),
    ],
    ids=["fuse", "prepare", "prepare auto", "compile float", "compile int8"],
)
def test_the_graph_of_the_caller_stays_as_it_was(use: Callable[[Graph], object]) -> None:
    graph = load(
        "%x: f32[1,8,6,6]",
        """
        const @w : f32[8,8,1,1]
        const @mean : f32[8]
        const @var : f32[8]
        const @two : f32[8,1,1]
        %unused = log(%x) : f32[1,8,6,6]
        %a = conv(%x, @w) {CONV} : f32[1,8,6,6]
        %b = batch_norm(%a, @mean, @var) : f32[1,8,6,6]
        %c = add(%b, @two) : f32[1,8,6,6]
        %d = relu(%c) : f32[1,8,6,6]
        return %d""",
    )
    before = graph.clone()
    use(graph)
    assert first_difference(before, graph) is None
    assert str(before) == str(graph) and graph.notes == []
