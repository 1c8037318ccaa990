"""Whole models through lowering: the demo's network on every level, symbolic batches, and outputs in odd places."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.backends.codegen.jit import emitted_kernels
from qcompiler.backends.lower import lower_graph
from qcompiler.backends.target import parse_target
from qcompiler.errors import LoweringError
from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.signature import bind_inputs
from qcompiler.structure import flatten_outputs
from qcompiler.types import DType, QuantParams, tensor
from tests.backends.levels import LEVELS, can_run, lower_for
from tests.demo import load_split, preprocess, trained_model

RUNNABLE = [level for level in LEVELS if can_run(level)]
DYNAMIC = {"x": {0: "B"}}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return preprocess(load_split("test")[0][:64])


@pytest.fixture(scope="module")
def calibration() -> np.ndarray:
    return preprocess(load_split("calib")[0][:63])


@pytest.fixture(scope="module")
def quantized(calibration: np.ndarray) -> qc.CompiledModel:
    """The demo's integer graph, with the interpreter's answer."""
    return qc.compile(
        trained_model(), "int8", (calibration[:1],), calibration_data=[calibration], dynamic=DYNAMIC, target="reference"
    )


@pytest.mark.parametrize("level", LEVELS)
def test_integer_graph_has_the_bits_of_the_interpreter(
    level: str, quantized: qc.CompiledModel, images: np.ndarray
) -> None:
    target = parse_target(level)
    if target.execution() != "native":
        images = images[:6]
    expected = quantized(images)
    lowered = lower_for(quantized.graph, target)
    assert not lowered.python_nodes
    arrays, sizes = bind_inputs(quantized.graph, [images])
    assert all(step.kernel != "python" for step in lowered.image(sizes).steps)
    for threads in (1, 2, 3) if can_run(level) else ():
        assert np.array_equal(lowered.run(arrays, sizes, threads)[0], expected)


@pytest.mark.parametrize("qconfig", ["int8", None])
def test_a_symbolic_batch_has_the_bits_of_each_size_and_emits_no_kernel_again(
    qconfig: str | None, calibration: np.ndarray, images: np.ndarray
) -> None:
    observers = qc.calibrate(qc.prepare(qc.trace(trained_model(), (images[:1],), dynamic=DYNAMIC)), [calibration])

    def compiled(size: int, **options: object) -> qc.CompiledModel:
        graph = qc.trace(trained_model(), (images[:size],), **options)
        return qc.compile(qc.convert(qc.prepare(graph), observers)) if qconfig else qc.compile(graph, None)

    symbolic = compiled(1, dynamic=DYNAMIC)
    whole = symbolic(images)
    emitted = sum(emitted_kernels.values())
    found = {size: symbolic(images[:size]) for size in (1, 3, 7, 64)}
    assert sum(emitted_kernels.values()) == emitted
    for size, got in found.items():
        assert np.array_equal(got, whole[:size])
    for size in (1, 3, 7):
        assert np.array_equal(compiled(size)(images[:size]), found[size])


def test_float_bits_are_equal_on_every_level(images: np.ndarray) -> None:
    images = images[:4]  # emulated levels are slow
    outputs = {level: qc.compile(trained_model(), None, (images,), target=level)(images) for level in RUNNABLE}
    first = outputs[RUNNABLE[0]]
    assert all(np.array_equal(first, other) for other in outputs.values())
    reference = qc.compile(trained_model(), None, (images,), target="reference")(images)
    assert np.abs(first - reference).max() <= 2**-24 * 4096 * np.abs(reference).max()


def test_outputs_may_be_inputs_constants_shared_and_repeated() -> None:
    graph = qc.parse("""qcompiler 1
graph main(%x: f32[2,6]) stage=float {
  %a = add(%x, %x) : f32[2,6]
  %b = reshape(%a) {shape=(3, 4)} : f32[3,4]
  return %x, %a, %b, %a
}
""")
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    compiled = qc.compile(graph, None)
    outputs = compiled(x)
    assert [np.array_equal(o, w) for o, w in zip(outputs, (x, x + x, (x + x).reshape(3, 4), x + x))] == [True] * 4
    assert all(o.flags.owndata or o.base is None for o in outputs)
    outputs[1][:] = -1
    assert np.array_equal(outputs[3], x + x)


CONSTANT = np.arange(4, dtype=np.float32).reshape(2, 2)


@pytest.mark.parametrize("dynamic", [None, DYNAMIC])
@pytest.mark.parametrize("level", ["native", "reference", *LEVELS])
def test_models_that_compute_nothing(level: str, dynamic: object, tmp_path: pathlib.Path) -> None:
    """Outputs are inputs, constants, repeated or nested, in a graph without nodes, which is also saved and loaded."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    models = {
        "the input": (lambda x: x, x),
        "no longer there": (qc.nn.Sequential(qc.nn.Dropout(), qc.nn.Identity()).eval(), x),
        "twice": (lambda x: (x, x), (x, x)),
        "a constant": (lambda x: CONSTANT, CONSTANT),
        "both": (lambda x: {"a": x, "b": (x, CONSTANT)}, {"a": x, "b": (x, CONSTANT)}),
    }
    if level != "reference" and not can_run(parse_target(level).name):
        pytest.skip(f"this machine cannot run {level}")
    for model, want in models.values():
        compiled = qc.compile(model, None, (x,), target=level, dynamic=dynamic)
        path = tmp_path / "m.qc.safetensors"
        compiled.save(path)
        for each in (compiled, qc.load(path, target=level), qc.load(path, target=level)):
            got = each(x)
            assert flatten_outputs(got, is_array)[2] == flatten_outputs(want, is_array)[2]
            for one, other in zip(flatten_outputs(got, is_array)[0], flatten_outputs(want, is_array)[0]):
                assert np.array_equal(one, other)
                assert not np.shares_memory(one, x) and not np.shares_memory(one, CONSTANT)


def is_array(item: object) -> bool:
    return isinstance(item, np.ndarray)


def test_a_foreign_or_too_high_level_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QC_ISA", "avx2")
    with pytest.raises(LoweringError, match="can't run"):
        qc.compile(trained_model(), None, (np.zeros((1, 1, 28, 28), np.float32),), target="x86-64+avx512vnni")


def _convs(count: int, *, same: bool) -> Graph:
    """An integer graph that adds convolutions of one input, which share their weights or do not."""
    nn, rng = qc.nn, np.random.default_rng(0)
    convs = [nn.Conv2d(128, 128, 3, padding=1) for _ in range(count)]
    for conv in convs:
        conv.load_state_dict(
            {"weight": rng.normal(0, 0.03, (128, 128, 3, 3)).astype(np.float32), "bias": np.zeros(128, np.float32)}
        )

    def model(x):
        return sum((convs[0 if same else i](x * (i + 1)) for i in range(1, count)), convs[0](x))

    x = rng.normal(size=(1, 128, 6, 6)).astype(np.float32)
    return qc.compile(model, "int8", (x,), calibration_data=[x], target="reference").graph


@pytest.mark.parametrize("same", [True, False])
def test_nodes_that_share_weights_share_what_is_packed(same: bool) -> None:
    graph, x = _convs(3, same=same), np.random.default_rng(1).normal(size=(1, 128, 6, 6)).astype(np.float32)
    assert np.array_equal(qc.compile(graph)(x), qc.compile(graph, target="reference")(x))
    for level in LEVELS:
        target = parse_target(level)
        lowered = lower_for(graph, target)
        is_winograd = any("winograd" in step.kernel for step in lowered.image().steps)
        packed = 128 * 128 * (16 if is_winograd else 9) * (2 if target.multiplies_words else 1)
        stored = lowered.constants.nbytes / packed
        assert 1 <= stored / (1 if same else 3) <= 1.2, level


@pytest.mark.parametrize("weight,zero_point,proven", [(1, 0, True), (-1, 255, True), (127, 0, False), (-128, 3, False)])
def test_the_short_epilogue_is_taken_where_the_weights_themselves_allow_it(
    weight: int, zero_point: int, proven: bool
) -> None:
    """M is 1000 and there are 64 products: weights of 8 bits could leave i32 on the way, these can't."""
    codes, x = np.full((8, 64, 1, 1), weight, np.int8), QuantParams.per_tensor(1.0, zero_point, DType.U8)
    graph = Graph("g", "integer")
    operands = [
        graph.add_input("x", tensor("u8", 1, 64, 2, 2).quantized(DType.U8, x)),
        graph.add_const(
            "w", codes, tensor("i8", *codes.shape).quantized(DType.I8, QuantParams.per_tensor(1.0, 0, DType.I8))
        ),
    ]
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
    out = tensor("u8", 1, 8, 2, 2).quantized(DType.U8, QuantParams.per_tensor(0.001, 0, DType.U8))
    graph.set_outputs([graph.create("conv", operands, attrs, types=out).result])
    model = lower_graph(graph, parse_target("native"))
    data = np.random.default_rng(0).integers(0, 256, (1, 64, 2, 2), dtype=np.uint8)
    assert np.array_equal(model.run([data], {})[0], run(graph, [data])[0])
    found = [dict(key.static)["proven"] for key in model.image().kernels if "proven" in dict(key.static)]
    assert found == [proven]
