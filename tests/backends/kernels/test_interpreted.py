"""Every kernel runs in a small program, for every level, in the interpreter of the kernel IR.

So every machine checks the kernels of all levels, whatever its CPU. The modules of `qcompiler.backends.kernels` define
which kernels there are.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.backends import kernels
from qcompiler.backends.kernel_ir.definition import KernelDef
from qcompiler.backends.target import parse_target
from qcompiler.interpreter import run
from qcompiler.opdef import opdef, works_on_codes
from qcompiler.passes.pipelines import lower_pipeline
from qcompiler.passmanager import PassManager
from tests.backends.levels import LEVELS, InterpretedProgram
from tests.backends.rules import harness
from tests.passes.pass_texts import draw_constants

Case = tuple[str, int, bool]
"""An op, the index of one of its samples, and whether the sample runs on codes."""

SAMPLES: list[Case] = [
    ("abs", 4, False), ("abs", 4, True), ("adaptive_avg_pool", 2, False), ("adaptive_avg_pool", 2, True),
    ("adaptive_max_pool", 2, False), ("adaptive_max_pool", 2, True), ("add", 1, True), ("add", 5, False),
    ("argmax", 3, False), ("argmin", 3, False), ("argsort", 0, False),
    ("batch_norm", 4, False), ("batch_norm", 4, True), ("cast", 2, False), ("channel_range", 0, False),
    ("conv", 2, False),
    ("conv", 2, True), ("conv", 4, True), ("conv_transpose", 1, True), ("cumsum", 0, False),
    ("equal", 5, False), ("flip", 3, True),
    ("gather", 2, True), ("gather_elements", 1, True), ("gather_nd", 0, False), ("group_norm", 0, True),
    ("gru", 4, False),
    ("layer_norm", 4, False),
    ("layer_norm", 4, True), ("linear", 0, False), ("linear", 0, True), ("logical_and", 1, False),
    ("logical_not", 1, False), ("lstm", 4, False), ("matmul", 0, False), ("matmul", 0, True),
    ("max_pool_indices", 0, False), ("mean", 4, False), ("mean", 4, True),
    ("prelu", 2, True), ("resize", 3, True), ("rnn", 1, False), ("scatter_nd", 0, False),
    ("scatter_nd_reduce", 1, False), ("sin", 4, False), ("softmax", 0, False),
    ("softmax", 0, True),
    ("softmax", 2, True), ("transpose", 0, True), ("value_counts", 0, False), ("value_range", 0, False),
    ("where", 1, False),
]  # fmt: skip
"""Family of kernels -> the smallest samples whose lowering calls all of them."""

TEXTS = {
    "conversions": """qcompiler 1
graph conversions(%x: f32[3,70]) stage=integer {
  %a = quantize(%x) : u8[3,70]{scale=0.03, zero_point=7}
  %b = requantize(%a) : u8[3,70]{scale=0.05, zero_point=120}
  %c = dequantize(%b) : f32[3,70]
  return %a, %b, %c
}
""",
    "real_results": """qcompiler 1
graph real_results(%x: u8[1,5,3,4]{scale=0.03, zero_point=7}, %y: u8[3,9]{scale=0.5}) stage=integer {
  const @w : i8[5,1,3,3]{scale=0.5}
  const @v : i8[3,5,1,1]{scale=0.25}
  %a = conv(%x, @w, none, %x) {stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=5} : f32[1,5,3,4]
  %b = conv(%x, @v) {stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)} : f32[1,3,3,4]
  %c = conv(%x, @v, none, %b) {stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)} : f32[1,3,3,4]
  %t = transpose(%y) {perm=(1, 0)} : u8[9,3]{scale=0.5}
  %d = matmul(%t, %y) : f32[9,9]
  return %a, %c, %d
}
""",
    "words": """qcompiler 1
graph words(%x: f32[3,35]) stage=integer {
  const @t : i16[256]
  const @k : i32[257]
  const @g : f32[35]
  %a = quantize(%x) : i16[3,35]{scale=0.0001, zero_point=-70}
  %b = requantize(%a) : u8[3,35]{scale=0.02, zero_point=120}
  %c = lookup(%b, @t) : i16[3,35]{scale=0.0002, zero_point=3}
  %d = add(%b, %c) : i16[3,35]{scale=0.0003}
  %e = dequantize(%d) : f32[3,35]
  %f = lookup(%d, @k) : u8[3,35]{scale=0.02, zero_point=120}
  return %a, %d, %e, %f
}
""",
    "products_to_words": """qcompiler 1
graph products_to_words(%x: u8[1,5,3,4]{scale=0.03, zero_point=7}, %r: i16[1,5,3,4]{scale=0.001, zero_point=-300},
                        %y: u8[3,9]{scale=0.5}) stage=integer {
  const @w : i8[5,1,3,3]{scale=0.5}
  const @v : i8[3,5,1,1]{scale=0.25}
  %a = conv(%x, @w, none, %r) {stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=5}
    : i16[1,5,3,4]{scale=0.002, zero_point=9}
  %b = conv(%x, @v) {stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)} : i16[1,3,3,4]{scale=0.001}
  %c = conv(%x, @v, none, %b) {stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)}
    : u8[1,3,3,4]{scale=0.05, zero_point=128}
  %t = transpose(%y) {perm=(1, 0)} : u8[9,3]{scale=0.5}
  %d = matmul(%t, %y) : i16[9,9]{scale=0.2, zero_point=-32768}
  return %a, %c, %d
}
""",
    "products_of_words": """qcompiler 1
graph products_of_words(%x: i16[1,5,3,4]{scale=0.001, zero_point=-300}, %y: i16[3,9]{scale=0.5}) stage=integer {
  const @w : i8[5,1,3,3]{scale=0.5}
  const @v : i8[3,5,1,1]{scale=0.25}
  const @u : i8[2,9]{scale=0.25}
  %a = conv(%x, @w, none, %x) {stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=5}
    : i16[1,5,3,4]{scale=0.2, zero_point=9}
  %b = conv(%x, @v) {stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)} : u8[1,3,3,4]{scale=0.5, zero_point=100}
  %c = linear(%y, @u) : f32[3,2]
  return %a, %b, %c
}
""",
    "norms_of_words": """qcompiler 1
graph norms_of_words(%x: i16[3,67]{scale=0.0001, zero_point=-70},
                     %y: u8[2,35]{scale=0.02, zero_point=120}) stage=integer {
  const @g : f32[67]
  %a = layer_norm(%x, @g) {normalized_rank=1} : i16[3,67]{scale=0.0002, zero_point=3}
  %b = rms_norm(%x) {normalized_rank=1} : u8[3,67]{scale=0.02, zero_point=100}
  %c = l2_normalize(%y) {axis=1} : i16[2,35]{scale=0.00003}
  return %a, %b, %c
}
""",
    "winograd": """qcompiler 1
graph winograd(%x: u8[1,32,8,8]{scale=0.03, zero_point=7}) stage=integer {
  const @w : i8[3,32,3,3]{scale=0.5}
  %a = conv(%x, @w) {stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1)} : u8[1,3,8,8]{scale=90.0, zero_point=128}
  %b = conv(%x, @w) {stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1)} : i16[1,3,8,8]{scale=0.3}
  %c = conv(%x, @w, none, %a) {stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1)} : f32[1,3,8,8]
  return %a, %b, %c
}
""",
    "integers": """qcompiler 1
graph integers(%x: i32[2,35], %y: i32[2,35]) stage=float {
  %a = neg(%x) : i32[2,35]
  %b = add(%a, %y) : i32[2,35]
  %c = sum(%b) {axes=(1,), keepdims=false} : i32[2]
  %d = hardtanh(%b) {min_value=-100.0, max_value=1000.0} : i32[2,35]
  return %b, %c, %d
}
""",
    "range_of_a_tensor": """qcompiler 1
graph range_of_a_tensor(%x: f32[2,16401]) stage=integer {
  %q, %scale, %zero = dynamic_quantize(%x) {axis="tensor"} : u8[2,16401], f32[], u8[]
  return %q, %scale, %zero
}
""",
    "many_axes": """qcompiler 1
graph many_axes(%x: f32[2,1,2,2,2,2,2]) stage=float {
  %a = flip(%x) {axes=(0, 2, 4, 6)} : f32[2,1,2,2,2,2,2]
  %b = transpose(%a) {perm=(0, 2, 5, 1, 3, 6, 4)} : f32[2,2,2,1,2,2,2]
  %c = tile(%b) {repeats=(2, 1, 2, 1, 2, 1, 2)} : f32[4,2,4,1,4,2,4]
  return %c
}
""",
}


def padded_convolutions() -> qc.Graph:
    """A float input that is quantized channels last, and two convolutions with a halo between them."""
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    return qc.compile(model, "int8", (x,), calibration_data=[x], target="reference").graph


@cache
def defined() -> frozenset[str]:
    """The names of all kernels."""
    found = set()
    for module in pkgutil.iter_modules(kernels.__path__):
        for value in vars(importlib.import_module(f"{kernels.__name__}.{module.name}")).values():
            held = value.values() if isinstance(value, dict) else [value]
            found.update(each.name for each in held if isinstance(each, KernelDef))
    return frozenset(found)


def sample_graph(case: Case) -> qc.Graph:
    """A graph of one node. That of group_norm stands behind a pool, whose result lies channels last."""
    name, index, quantized = case
    sample, rng = opdef(name).samples()[index], np.random.default_rng(index)
    arrays = [
        each
        if each is None or isinstance(each, np.ndarray)
        else harness.random_array(each, rng, sample.low, sample.high)
        for each in sample.operands
    ]
    behind = name == "group_norm"
    return harness.one_node(name, arrays, sample.attrs, quantized=quantized, behind_a_pool=behind)[0]


GRAPHS: dict[str, Callable[[], qc.Graph]] = {
    **{f"{case[0]}-{case[1]}{'-codes' if case[2] else ''}": partial(sample_graph, case) for case in SAMPLES},
    **{name: partial(draw_constants, text) for name, text in TEXTS.items()},
    "padded_convolutions": padded_convolutions,
}


@cache
def checked(name: str, level: str) -> frozenset[str]:
    """Compare a program on two threads with the interpreter of graphs, and give the kernels that it called."""
    graph = GRAPHS[name]()
    rng = np.random.default_rng(0)
    given = [harness.random_array(value.type, rng) for value in graph.inputs]
    if name.startswith(("gather", "scatter")):  # its operand has at least two rows
        given[1] = np.asarray(np.abs(given[1]) % 2, given[1].dtype)
    program = InterpretedProgram(PassManager(lower_pipeline()).run(graph), parse_target(level)).bind()
    outputs = program.run(given, threads=2)
    if program.image.has_index_checks:
        assert not outputs.pop()[: len(program.image.index_checks), 0].any()
    for value, want, got in zip(graph.outputs, run(graph, given), outputs, strict=True):
        assert (want.dtype, want.shape) == (got.dtype, got.shape)
        if value.producer is not None and works_on_codes(value.producer):
            assert harness.same_bits(want, got), harness.difference(want, got)
        elif want.dtype.kind == "f":
            harness.check_close(want, got, harness.FLOAT_BOUND, level)
        else:
            assert np.array_equal(want, got), harness.difference(want, got)
    return frozenset(key.definition.name for key in program.image.kernels)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", GRAPHS)
def test_every_level_has_the_interpreters_codes(name: str, level: str) -> None:
    assert checked(name, level)


def test_every_kernel_is_among_them() -> None:
    assert frozenset().union(*(checked(name, LEVELS[0]) for name in GRAPHS)) == defined()
