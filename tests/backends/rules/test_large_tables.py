"""Lowering refuses sizes for which it would need much memory itself, before it computes anything; a call for whose
outputs there is no memory is one clear error."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.errors import LoweringError

TABLE, ROOM = "table that the program needs is too large", "more memory than a process can address"


def conv(*padding: int, stride: int = 1, more: str = "") -> str:
    """Attributes of a convolution whose padding is the same at both ends of an axis."""
    rank, pairs = len(padding), ", ".join(f"({each}, {each})" for each in padding)
    entries = [", ".join([str(each)] * rank) + "," * (rank == 1) for each in (stride, 1)]
    return f"{{stride=({entries[0]}), padding=({pairs}{',' * (rank == 1)}), dilation=({entries[1]}){more}}}"


NODES: dict[str, tuple[dict[str, str], str, str]] = {
    "trilu": ({"x": "f32[40000,40000]"}, "trilu(%x) {upper=true}", TABLE),
    "max pool": (
        {"x": "f32[1,1,40000,40000]"},
        "max_pool(%x) {kernel=(20000, 20000), stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)}",
        TABLE,
    ),
    "average pool": ({"x": "f32[1,1,1000000000]"}, "avg_pool(%x) {kernel=(3,), stride=(1,), padding=((0, 0),)}", TABLE),
    "adaptive pool": ({"x": "f32[1,1,1000000000]"}, "adaptive_avg_pool(%x) {output_size=(900000000,)}", TABLE),
    "linear resize": ({"x": "f32[1,1,2]"}, 'resize(%x) {size=(1073741824,), mode="bilinear"}', TABLE),
    "nearest resize": ({"x": "f32[1,1,2]"}, 'resize(%x) {size=(1073741824,), mode="nearest"}', TABLE),
    "conv, rows of the result": (
        {"x": "f32[1,1,1000000000,1]", "w": "f32[1,1,3,1]"},
        f"conv(%x, %w) {conv(0, 0)}",
        TABLE,
    ),
    "conv, padding": (
        {"x": "f32[1,4,1,9]", "w": "f32[4,4,3,3]"},
        f"conv(%x, %w) {conv(1000000000, 0, stride=1000000000)}",
        TABLE,
    ),
    "conv, three paddings": (
        {"x": "f32[1,4,1,1,1]", "w": "f32[4,4,3,3,3]"},
        f"conv(%x, %w) {conv(*[1000000000] * 3, stride=1000000000)}",
        TABLE,
    ),
    "conv, pixels": ({"x": "f32[1,1,2000000000]", "w": "f32[1,1,1]"}, f"conv(%x, %w) {conv(0)}", TABLE),
    "conv, taps": ({"x": "f32[1,1,40000,40000]", "w": "f32[1,1,40000,40000]"}, f"conv(%x, %w) {conv(0, 0)}", TABLE),
    "conv, outputs": ({"x": "f32[1,1,1]", "w": "f32[2000000000,1,1]"}, f"conv(%x, %w) {conv(0)}", TABLE),
    "conv, bytes": (
        {"x": "f32[1,500000000,1]", "w": "f32[1,500000000,3]"},
        f"conv(%x, %w) {conv(1000000000, stride=1000000000)}",
        ROOM,
    ),
    "depthwise": (
        {"x": "f32[1,2,100000000,1]", "w": "f32[2,1,3,1]"},
        f"conv(%x, %w) {conv(0, 0, more=', groups=2')}",
        TABLE,
    ),
    "depthwise, padding": (
        {"x": "f32[1,4,10,10]", "w": "f32[4,1,3,3]"},
        f"conv(%x, %w) {conv(100000000, 0, more=', groups=4')}".replace("(1, 1), p", "(1, 8), p"),
        TABLE,
    ),
    "depthwise, columns": (
        {"x": "f32[1,2,1000000000]", "w": "f32[2,1,3]"},
        f"conv(%x, %w) {conv(0, more=', groups=2')}",
        TABLE,
    ),
    "conv_transpose, rows": (
        {"x": "f32[1,1,100000000,1]", "w": "f32[1,1,3,1]"},
        f"conv_transpose(%x, %w) {conv(0, 0, more=', output_padding=(0, 0)')}",
        TABLE,
    ),
    "conv_transpose, taps": (
        {"x": "f32[1,1,1]", "w": "f32[1,1,2000000000]"},
        f"conv_transpose(%x, %w) {conv(0, more=', output_padding=(0,)')}",
        TABLE,
    ),
    "conv_transpose, depthwise": (
        {"x": "f32[1,2,100000000,1]", "w": "f32[1,2,3,1]"},
        f"conv_transpose(%x, %w) {conv(0, 0, more=', output_padding=(0, 0), groups=2')}",
        TABLE,
    ),
    "linear": ({"x": "f32[2000000000,1]", "w": "f32[1,1]"}, "linear(%x, %w)", TABLE),
    "matmul": ({"x": "f32[1000000000,1,1]"}, "matmul(%x, %x)", TABLE),
    "layer_norm": ({"x": "f32[1,1000000000]"}, "layer_norm(%x) {normalized_rank=1}", TABLE),
    "rms_norm": ({"x": "f32[1,1000000000]"}, "rms_norm(%x) {normalized_rank=1}", TABLE),
    "group_norm": ({"x": "f32[1,1000000000,1]"}, "group_norm(%x) {groups=1}", TABLE),
    "instance_norm": ({"x": "f32[1,1000000000,2]"}, "instance_norm(%x)", TABLE),
}


def graph_of(inputs: dict[str, str], node: str) -> qc.Graph:
    given = ", ".join(f"%{name}: {type}" for name, type in inputs.items())
    return qc.parse(f"qcompiler 1\ngraph g({given}) stage=float {{\n  %y = {node}\n  return %y\n}}\n")


@pytest.mark.parametrize("kind", NODES)
def test_large_sizes_are_refused_at_once(kind: str) -> None:
    inputs, node, message = NODES[kind]
    graph = graph_of(inputs, node)
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LoweringError, match=message) as error:
        qc.compile(graph, None)
    assert "%y" in str(error.value) or message == ROOM
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10  # KiB


def test_a_border_around_a_large_image_needs_no_mask_of_it() -> None:
    """A value with a halo that a convolution reads: the gaps around its rows are found from the rows."""
    graph = qc.parse(
        "qcompiler 1\ngraph g(%x: f32[1,4,20000,20000], %w: f32[4,4,3,3]) stage=float {\n"
        f"  %a = max_pool(%x) {{kernel=(1, 1), {conv(0, 0)[1:]}\n  %y = conv(%a, %w) {conv(1, 1)}\n  return %y\n}}\n"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LoweringError, match=TABLE):  # of the pool's positions
        qc.compile(graph, None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10


def test_a_convolution_of_very_many_groups_runs_in_numpy() -> None:
    """Each group that is no depthwise filter has a step of its own."""
    graph = graph_of({"x": "f32[1,10000,2]", "w": "f32[5000,2,1]"}, f"conv(%x, %w) {conv(0, more=', groups=5000')}")
    model = qc.compile(graph, None)
    assert "each of its 5000 groups is a product" in next(iter(model.report().python_nodes.values()))
    x, w = np.random.default_rng(0).normal(size=(1, 10000, 2)), np.random.default_rng(1).normal(size=(5000, 2, 1))
    want = np.einsum("gcp,gc->gp", x.reshape(5000, 2, 2), w[:, :, 0])[None]
    assert np.allclose(model(x.astype(np.float32), w.astype(np.float32)), want, atol=1e-5)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """The process may take 2 GiB of address space more than it has."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("target", ["native", "reference"])
@pytest.mark.parametrize("node", ["expand(%x) {shape=(2000000000,)}", "pad(%x) {padding=((1000000000, 1000000000),)}"])
def test_a_call_without_memory_is_one_clear_error(node: str, target: str, little_memory: None) -> None:
    model = qc.compile(graph_of({"x": "f32[1]"}, node), None, target=target)
    with pytest.raises(LoweringError, match="not enough memory|no memory") as error:
        model(np.ones(1, np.float32))
    assert "Traceback" not in str(error.value) and "where:" in str(error.value)
