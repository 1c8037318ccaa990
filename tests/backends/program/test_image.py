"""Program images as values: golden texts of the demo's image, equality, and what bindings of its batch size share."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from qcompiler import compiler
from qcompiler.backends.lower import Program, lower
from qcompiler.backends.lowering.graph import GraphLowering
from qcompiler.backends.program.constants import Constants
from qcompiler.backends.program.image import CONSTANTS, ProgramImage
from qcompiler.backends.program.saved_image import image_data, image_of
from qcompiler.backends.target import parse_target
from qcompiler.ir import Graph
from qcompiler.passes.pipelines import lower_pipeline
from qcompiler.passmanager import PassManager
from tests.demo import trained_model
from tests.test_demo_stages import RANGES, Range

TARGETS = {
    "avx2": "x86-64-linux+avx2",
    "avx512vnni": "x86-64-linux+avx512vnni",
    "dotprod": "aarch64-linux+dotprod",
}


@pytest.fixture(scope="module")
def demo() -> Graph:
    """The demo's integer graph with the activation ranges of its golden stages, which are the same on every machine."""
    traced = compiler.trace(trained_model(), (np.zeros((1, 1, 28, 28), np.float32),), dynamic={"x": {0: "B"}})
    prepared = compiler.prepare(traced, "int8")
    return compiler.convert(prepared, {name: Range(*ends) for name, ends in RANGES.items()})


def image(demo: Graph, level: str, batch: int = 1) -> ProgramImage:
    """The image of the demo for a level, without the extras that this CPU may have."""
    return lower(demo, parse_target(TARGETS[level], exact=True), {"B": batch})


@pytest.mark.parametrize("level", TARGETS)
def test_text(demo: Graph, level: str, golden: Callable[..., None]) -> None:
    golden(str(image(demo, level)))


def test_another_batch(demo: Graph, golden: Callable[..., None]) -> None:
    """What only the second batch size needs lies in constants of its image alone."""
    program = Program(PassManager(lower_pipeline()).run(demo), parse_target(TARGETS["avx2"], exact=True))
    one, three = program.image({"B": 1}), program.image({"B": 3})
    assert one == image(demo, "avx2") and one.own_constant_bytes == 0
    assert three.constant_bytes == one.constant_bytes > 20 * three.own_constant_bytes
    places = {buffer.name: buffer.offset for buffer in one.buffers if buffer.base == CONSTANTS}
    shared = [buffer for buffer in three.buffers if buffer.base == CONSTANTS]
    assert len(shared) > 30 and all(places[buffer.name] == buffer.offset for buffer in shared)
    assert three.kernels == one.kernels and program.image({"B": 3}) == three
    golden(str(three))


def test_the_template_of_one_batch_serves_all(demo: Graph) -> None:
    """A convolutional network is lowered for its first batch, even of 1, and never again."""
    lowered, target = PassManager(lower_pipeline()).run(demo), parse_target(TARGETS["avx512vnni"], exact=True)
    lowering = GraphLowering(lowered, target, Constants())
    for batch in (1, 2, 3, 8, 17, 100, 1):
        assert lowering.image({"B": batch})[0] == lowering.lower({"B": batch}).finish()
    assert len(lowering._templates) == 1


def test_images_compare_and_are_stored(demo: Graph) -> None:
    one, again, three = (image(demo, "avx512vnni", batch) for batch in (1, 1, 3))
    assert one == again and hash(one) == hash(again) and one != three != image(demo, "avx2", 3)
    stored = image_of(json.loads(json.dumps(image_data(one))))
    assert stored == one and str(stored) == str(one)
    assert np.array_equal(stored.argument_words()[0], one.argument_words()[0])
