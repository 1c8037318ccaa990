"""Convolutions write the operands of a concatenation along the channels into its result: nothing is copied, and the
numbers are the same on every level."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from qcompiler import knobs
from qcompiler.backends.lower import lower_graph
from qcompiler.backends.target import native_target, parse_target
from qcompiler.dims import Dim
from qcompiler.ir import Graph, Value
from qcompiler.types import DType, QuantParams, TensorType
from tests.backends.levels import LEVELS, lower_for
from tests.backends.rules.harness import check_graph

CODES = QuantParams.per_tensor(0.05, 120, DType.U8)
JOINED = "joined"


@dataclass
class Network:
    """A graph of f32, or of codes that all have the parameters CODES. `join` is the concatenation under test."""

    quantized: bool
    shape: tuple[int, ...] = (3, 6, 5, 7)
    batch: int | Dim = 0
    graph: Graph = field(init=False)
    x: Value = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.graph = Graph("test", stage="integer" if self.quantized else "float")
        self.x = self.pool(self.graph.add_input("x", self.type((self.batch or self.shape[0], *self.shape[1:]))))

    def type(self, shape: tuple[int | Dim, ...]) -> TensorType:
        return TensorType(DType.U8, shape, CODES) if self.quantized else TensorType(DType.F32, shape)

    def pool(self, x: Value) -> Value:
        """Append an identity that wants pixels without gaps."""
        ones = (1,) * (x.type.rank - 2)
        attrs = {"kernel": ones, "stride": ones, "padding": ((0, 0),) * len(ones), "dilation": ones}
        return self.graph.create("max_pool", [x], attrs, types=x.type).result

    def conv(self, x: Value, outputs: int, kernel: int = 1, groups: int = 1, residual: Value | None = None) -> Value:
        """Append a convolution that keeps the operand's height and width."""
        spatial, channels = x.type.rank - 2, x.type.shape[1]
        shape = (outputs, channels // groups, *(kernel,) * spatial)
        scale = 1.0 / np.sqrt(np.prod(shape[1:])) / 127
        weights, bias = self.rng.integers(-127, 128, shape), self.rng.integers(-500, 500, outputs)
        if self.quantized:
            per_channel = QuantParams.per_channel([scale] * outputs, 0, 0, DType.I8, -127, 127)
            sums = QuantParams.per_channel([np.float32(scale) * CODES.scale[0]] * outputs, 0, 0, DType.I32)
            w = self.graph.add_const(
                self.graph.fresh_name("w"), weights.astype(np.int8), TensorType(DType.I8, shape, per_channel)
            )
            b = self.graph.add_const(
                self.graph.fresh_name("b"), bias.astype(np.int32), TensorType(DType.I32, (outputs,), sums)
            )
        else:
            w = self.graph.add_const(self.graph.fresh_name("w"), (weights * scale).astype(np.float32))
            b = self.graph.add_const(self.graph.fresh_name("b"), (bias * 1e-3).astype(np.float32))
        attrs = {
            "stride": (1,) * spatial,
            "padding": ((kernel // 2, kernel // 2),) * spatial,
            "dilation": (1,) * spatial,
            "groups": groups,
        }
        type = self.type((x.type.shape[0], outputs, *x.type.shape[2:]))
        return self.graph.create("conv", [x, w, b, residual], attrs, types=type).result

    def join(self, *values: Value, axis: int = 1) -> Value:
        shape = list(values[0].type.shape)
        shape[axis] = sum(value.type.shape[axis] for value in values)
        return self.graph.create("concat", values, {"axis": axis}, types=self.type(tuple(shape)), names=JOINED).result

    def check(self, *outputs: Value, copies: int) -> None:
        """Check that the outputs equal the interpreter's, that nothing outside the arena is touched, and that the
        concatenation takes this number of copies at every level."""
        self.graph.set_outputs(outputs)
        x = (
            self.rng.integers(0, 256, self.shape).astype(np.uint8)
            if self.quantized
            else self.rng.normal(size=self.shape).astype(np.float32)
        )
        check_graph(self.graph, [x])
        with knobs.GUARD(True), knobs.POISON(True):
            check_graph(self.graph, [x], threads=(2,))
        sizes = {"B": self.shape[0]} if self.batch else {}
        for level in LEVELS:
            steps = lower_for(self.graph, parse_target(level)).image(sizes).steps
            assert sum(step.node == JOINED for step in steps) == copies, level


@pytest.fixture(params=[True, False], ids=["int8", "float"])
def quantized(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.mark.sampled(3)
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("channels", [(1, 3, 5), (13, 16, 33), (33, 1, 2), (2, 2), (64, 65)])
def test_any_channels(channels: tuple[int, ...], backwards: bool, quantized: bool) -> None:
    """backwards: the operand behind another one is written before it, so that a byte too many would show."""
    net = Network(quantized)
    parts = [net.conv(net.x, count, kernel) for count, kernel in zip(channels, (1, 3, 1))]
    net.check(net.pool(net.join(*(parts[::-1] if backwards else parts))), copies=0)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("spatial", [(9,), (1,), (4, 5), (1, 1), (3, 4, 5)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_any_rank(spatial: tuple[int, ...], kernel: int, quantized: bool) -> None:
    for batch in (1, 3):
        net = Network(quantized, (batch, 5, *spatial))
        net.check(net.pool(net.join(net.conv(net.x, 7, kernel), net.conv(net.x, 6))), copies=0)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_symbolic_batch(batch: int, quantized: bool) -> None:
    net = Network(quantized, (batch, 6, 5, 7), Dim.name("B"))
    net.check(net.pool(net.join(net.conv(net.x, 5), net.conv(net.x, 17, 3))), copies=0)


@pytest.mark.parametrize("groups,channels,outputs", [(2, 6, 6), (3, 12, 21), (2, 8, 66)])
def test_groups(groups: int, channels: int, outputs: int, quantized: bool) -> None:
    net = Network(quantized, (2, channels, 4, 5))
    behind, grouped = net.conv(net.x, 5), net.conv(net.x, outputs, 3, groups)
    net.check(net.pool(net.join(net.conv(net.x, 3), grouped, behind)), copies=0)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("channels,times", [(8, 1), (5, 1), (36, 1), (6, 2), (33, 1), (3, 2)])
def test_convolutions_by_channel(channels: int, times: int, quantized: bool) -> None:
    """Convolutions of bytes write words of four channels, so an operand whose channels do not divide by four is
    copied."""
    net = Network(quantized, (2, channels, 4, 6))
    behind, by_channel = net.conv(net.x, 5), net.conv(net.x, channels * times, 3, channels)
    rest = quantized and channels * times % 4 != 0
    net.check(net.pool(net.join(net.conv(net.x, 3), by_channel, behind)), copies=int(rest))


def test_residuals(quantized: bool) -> None:
    net = Network(quantized)
    first = net.conv(net.x, 9, 3)
    net.check(net.pool(net.join(net.conv(net.x, 5), net.conv(net.x, 9, residual=first))), copies=0)


def test_a_chain_of_concatenations(quantized: bool) -> None:
    net = Network(quantized)
    inner = net.graph.create(
        "concat", [net.conv(net.x, 5), net.conv(net.x, 3)], {"axis": 1}, types=net.type((3, 8, 5, 7))
    ).result
    net.check(net.pool(net.join(net.conv(inner, 6, 3), inner)), copies=1)


def test_a_result_that_is_an_output(quantized: bool) -> None:
    net = Network(quantized)
    net.check(net.join(net.conv(net.x, 5), net.conv(net.x, 6)), copies=1)


def test_other_operands_are_copied(quantized: bool) -> None:
    """One operand is the result of a convolution; the other is not, so it is copied."""
    net = Network(quantized)
    relu = net.graph.create("relu", [net.x], types=net.x.type).result
    net.check(net.pool(net.join(net.graph.inputs[0], net.conv(net.x, 5), relu)), copies=2)


def test_an_operand_twice_is_copied(quantized: bool) -> None:
    net = Network(quantized)
    twice = net.conv(net.x, 5)
    net.check(net.pool(net.join(twice, net.conv(net.x, 3), twice)), copies=2)


def test_an_operand_that_is_an_output_is_copied(quantized: bool) -> None:
    net = Network(quantized)
    output = net.conv(net.x, 5)
    net.check(net.pool(net.join(net.conv(net.x, 3), output)), output, copies=1)


def test_an_operand_with_another_reader_is_copied(quantized: bool) -> None:
    net = Network(quantized)
    shared = net.conv(net.x, 5)
    net.check(net.pool(net.join(shared, net.conv(shared, 3, 3))), copies=1)


def test_other_axes_are_copied(quantized: bool) -> None:
    for axis in (0, 2):
        net = Network(quantized)
        net.check(net.pool(net.join(net.conv(net.x, 5), net.conv(net.x, 5), axis=axis)), copies=2)


def test_empty_batches(quantized: bool) -> None:
    net = Network(quantized, (0, 6, 5, 7), Dim.name("B"))
    net.check(net.pool(net.join(net.conv(net.x, 5), net.conv(net.x, 3))), copies=0)


def test_producers_do_not_wait_for_each_other(quantized: bool) -> None:
    """They write parts of one buffer, whose bytes alternate."""
    net = Network(quantized)
    net.graph.set_outputs([net.pool(net.join(net.conv(net.x, 5), net.conv(net.x, 6), net.conv(net.x, 7)))])
    steps = lower_graph(net.graph, native_target()).image({}).steps
    convs = [step for step in steps if step.kernel.startswith("conv_")]
    assert [step.barrier for step in convs] == [False, False, True]
