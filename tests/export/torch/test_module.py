"""Modules of torch: our codes for every op and whole networks, accepted by all three of torch's compilers, and loaded
in a process without qcompiler."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import torch

import qcompiler as qc
from qcompiler.errors import ArgumentError, LoweringError
from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.opdef import OpDef
from qcompiler.types import tensor
from tests.export.elsewhere import run_elsewhere
from tests.export.networks import QCONFIGS, network
from tests.export.single import ON_CODES, ON_CODES_IDS, coded_sample, each_node
from tests.sample_graphs import CASE_IDS, CASES, random_array, sample_graph

REFUSED = ("observe", "value_range", "channel_range", "value_counts")


def tensors(arrays: Sequence[np.ndarray]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.array(array)) for array in arrays)


def outputs(returned: object) -> list[np.ndarray]:
    return [t.numpy() for t in (returned if isinstance(returned, tuple) else (returned,))]  # type: ignore[union-attr]


def check(graph: Graph, inputs: Sequence[np.ndarray], *, scripted: bool = False) -> None:
    """Codes and integers are the interpreter's; real numbers of float nodes lie within 2^-15 of the largest, since
    torch sums in another order and its functions round otherwise."""
    inputs = [np.asarray(array) for array in inputs]
    module, wanted = qc.to_torch(graph), run(graph, inputs)
    found = [outputs(module(*tensors(inputs)))]
    if scripted:
        found.append(outputs(torch.jit.script(module)(*tensors(inputs))))
    for each in found:
        for value, a, b in zip(graph.outputs, wanted, each):
            assert (a.shape, a.dtype) == (b.shape, b.dtype), value
            if a.dtype.kind == "f" and not value.type.is_quantized:
                assert_near(a, b)
            else:
                np.testing.assert_array_equal(a, b)


def assert_near(wanted: np.ndarray, found: np.ndarray) -> None:
    finite = np.abs(wanted[np.isfinite(wanted)]).max(initial=0)
    np.testing.assert_allclose(found, wanted, rtol=2.0**-15, atol=2.0**-15 * finite)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
def test_sample(case: tuple[OpDef, int]) -> None:
    op, index = case
    graph, rng = sample_graph(op, index), np.random.default_rng(1)
    inputs = [random_array(value.type, rng) for value in graph.inputs]
    is_empty = op.name == "dynamic_quantize" and graph.inputs and graph.inputs[0].type.shape[-1:] == (0,)
    if op.name in REFUSED or is_empty:
        with pytest.raises(LoweringError):
            qc.to_torch(graph)
        return
    check(graph, inputs, scripted=index == 0)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("case", ON_CODES, ids=ON_CODES_IDS)
def test_sample_on_codes(case: tuple[OpDef, int]) -> None:
    op, index = case
    graph, inputs = coded_sample(op, index)
    check(graph, inputs, scripted=index == 0)


@pytest.mark.sampled(20)
@pytest.mark.parametrize("seed", range(200))
def test_networks(seed: int) -> None:
    """Every integer node on identical inputs, to the bit; the whole of an integer network, too."""
    graph, inputs = network(seed)
    for node, alone, read, wanted in each_node(graph, inputs):
        found = outputs(qc.to_torch(alone)(*tensors(read)))
        for a, b in zip(wanted, found):
            assert a.dtype == b.dtype and a.shape == b.shape
            if a.dtype.kind in "iu" or any(v is not None and v.type.is_quantized for v in node.operands):
                assert np.array_equal(a, b), node.describe()
            else:
                assert_near(a, b)
    if QCONFIGS[seed % len(QCONFIGS)] == "int8:plain" and not has_reals(graph):
        for a, b in zip(run(graph, inputs), outputs(qc.to_torch(graph)(*tensors(inputs)))):
            np.testing.assert_array_equal(a, b)


def has_reals(graph: Graph) -> bool:
    """Whether a node computes on real numbers and gives real numbers."""
    return any(
        not node.results[0].type.is_quantized
        and not any(value is not None and value.type.is_quantized for value in node.operands)
        for node in graph.nodes
    )


LOADED = """
import numpy as np, torch
with np.load("x.npz") as file:
    x = torch.from_numpy(file["x"])
makers = {"script": torch.jit.load("script.pt"), "trace": torch.jit.load("trace.pt"),
          "export": torch.export.load("export.pt2").module()}
np.savez("y.npz", **{name: module(x).numpy() for name, module in makers.items()})
print(sorted({node.kind() for name in ("script", "trace") for node in makers[name].inlined_graph.nodes()}))
"""


def test_saved_modules_load_without_qcompiler(demo_stages: dict[str, Graph], tmp_path: pathlib.Path) -> None:
    """Traced, scripted and exported, each with another batch than it was made with; aten ops alone."""
    graph = demo_stages["integer"]
    module = qc.to_torch(graph)
    images = np.random.default_rng(0).uniform(-1, 2, (5, 1, 28, 28)).astype(np.float32)
    example = torch.from_numpy(images[:2].copy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module, example), tmp_path / "trace.pt")
        torch.jit.save(torch.jit.script(module), tmp_path / "script.pt")
    batch = torch.export.Dim("batch", min=2)
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=({0: batch},)), tmp_path / "export.pt2")
    np.savez(tmp_path / "x.npz", x=images)
    kinds = run_elsewhere(LOADED, cwd=tmp_path, blocked=("qcompiler",))
    assert all(kind.startswith(("aten::", "prim::")) for kind in eval(kinds))
    (wanted,) = run(graph, [images])
    with np.load(tmp_path / "y.npz") as file:
        for name in ("script", "trace", "export"):
            np.testing.assert_array_equal(wanted, file[name], err_msg=name)


def test_inside_another_module(demo_stages: dict[str, Graph]) -> None:
    """The module is inlined, constants and all, where a module that holds it is traced."""

    class Around(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = qc.to_torch(demo_stages["integer"])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x * 0.5).argmax(1)

    images = np.random.default_rng(0).uniform(-2, 2, (3, 1, 28, 28)).astype(np.float32)
    (wanted,) = run(demo_stages["integer"], [images * np.float32(0.5)])
    traced = torch.jit.trace(Around(), torch.from_numpy(images))
    np.testing.assert_array_equal(wanted.argmax(1), traced(torch.from_numpy(images)).numpy())


def test_open_sizes_and_names() -> None:
    graph = qc.parse(
        "qcompiler 1\n"
        'graph g(%"a\\"\\nb": f32[lambda,S,8], %y: f32[2*S,lambda]) stage=float {\n'
        '  %r = reshape(%"a\\"\\nb") {shape=("lambda", "2*S", 4)} : f32[lambda,2*S,4]\n'
        '  %s = slice(%r) {axes=(1,), starts=("S",), stops=("2*S",), steps=(1,)} : f32[lambda,S,4]\n'
        '  %e = expand(%y) {shape=(3, "2*S", "lambda")} : f32[3,2*S,lambda]\n'
        "  %n = size(%e) {axis=1} : i64[]\n"
        "  return %s, %e, %n, %y, %s\n}\n".replace("return %s, %e, %n, %y, %s", 'return %s, %e, %n, %y, %s as "again"')
    )
    assert isinstance(graph, Graph)
    module = torch.jit.script(qc.to_torch(graph))
    for batch, size in ((1, 2), (3, 5)):
        rng = np.random.default_rng(batch)
        inputs = [rng.normal(size=s).astype(np.float32) for s in ((batch, size, 8), (2 * size, batch))]
        for a, b in zip(run(graph, inputs), outputs(module(*tensors(inputs)))):
            np.testing.assert_array_equal(a, b)


def test_refusals(demo_stages: dict[str, Graph]) -> None:
    graph = Graph("g")
    x = graph.add_input("x", tensor("f32", 2, 5))
    first = graph.create("value_range", [x], names="first").results[0]
    second = graph.create("value_range", [graph.create("relu", [x]).result], names="second").results[0]
    graph.set_outputs([first, second])
    with pytest.raises(LoweringError, match="2 nodes have no form in torch[\\s\\S]*%first[\\s\\S]*%second"):
        qc.to_torch(graph)
    with pytest.raises(LoweringError, match="is not exported"):
        qc.to_torch(demo_stages["observed"])
    with pytest.raises(ArgumentError):
        qc.to_torch(3)  # type: ignore[arg-type]
