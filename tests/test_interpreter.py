"""The interpreter: integer ops at their extremes against Python's integers and single float32 operations; and how a
graph is run, with its binding, hooks and errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from qcompiler.errors import InputError, VerifyError
from qcompiler.interpreter import evaluate_node, run
from qcompiler.ir import Graph, Node, Value
from qcompiler.types import DType, QuantParams, TensorType, tensor

F32 = np.float32
BYTES = (DType.U8, DType.I8)


def q(dtype: DType, shape: tuple[int, ...], scale: float, zero_point: int) -> TensorType:
    return TensorType(dtype, shape, QuantParams.per_tensor(scale, zero_point, dtype))


def graph_of(op: str, types: list[TensorType], out: TensorType, attrs: dict | None = None) -> Graph:
    """A graph of one node over inputs of these types."""
    graph = Graph("g", "integer")
    operands: list[Value] = [graph.add_input(f"x{index}", type) for index, type in enumerate(types)]
    graph.set_outputs([graph.create(op, operands, attrs, types=out, names="y").result])
    return graph


def filled(type: TensorType, code: int) -> np.ndarray:
    return np.full(type.sizes, code, type.dtype.numpy)


def rounded(real: float, out: TensorType) -> int:
    """Clamp a float32 in units of the result's scale, round half to even, and add the zero point: rules (3) and (5) of
    qmath."""
    zero = out.params.zero_point[0]
    low, high = out.params.qmin - zero, out.params.qmax - zero
    return round(min(max(float(real), low), high)) + zero


def multiplier(*scales: float, over: float) -> np.float32:
    product = 1.0
    for scale in scales:
        product *= float(F32(scale))
    return F32(product / float(F32(over)))


# -- conversions


@pytest.mark.parametrize("dtype", [*BYTES, DType.I16])
@pytest.mark.parametrize("end", ["low", "middle", "high"])
def test_quantize_rounds_half_to_even_and_saturates(dtype: DType, end: str) -> None:
    zero = {"low": dtype.min, "middle": (dtype.min + dtype.max + 1) // 2, "high": dtype.max}[end]
    halves = [-2.5, -1.5, -0.5, -0.0, 0.5, 1.5, 2.5]
    wild = [np.inf, -np.inf, 3e38, -3e38, 2.0**31, -(2.0**31), 1e-45]
    x = np.array([*halves, *wild, np.nan], F32)
    (got,) = run(graph_of("quantize", [tensor("f32", x.size)], q(dtype, (x.size,), 1.0, zero)), [x])
    expected = [min(max(round(min(max(float(v), -1e6), 1e6)) + zero, dtype.min), dtype.max) for v in x[:-1]]
    assert got.tolist() == [*expected, dtype.min] and got.dtype == dtype.numpy


def test_quantize_divides_and_does_not_multiply_by_the_reciprocal() -> None:
    scale = F32(0.3)
    x = ((np.arange(-127, 127) + 0.5) * 0.3).astype(F32)
    (got,) = run(graph_of("quantize", [tensor("f32", x.size)], q(DType.I8, (x.size,), 0.3, 0)), [x])
    assert np.array_equal(got, np.rint(x / scale))
    assert not np.array_equal(got, np.rint(x * (F32(1) / scale))), "the inputs must tell both rounding rules apart"


@pytest.mark.parametrize("dtype", [*BYTES, DType.I16, DType.I32])
def test_dequantize_of_the_ends(dtype: DType) -> None:
    zero = 0 if dtype is DType.I32 else dtype.max
    codes = np.array([dtype.min, 0, dtype.max], dtype.numpy)
    (got,) = run(graph_of("dequantize", [q(dtype, (3,), 0.1, zero)], tensor("f32", 3)), [codes])
    assert got.tolist() == [float(F32(int(code) - zero) * F32(0.1)) for code in codes]


@pytest.mark.parametrize("source, out", list(itertools.product(BYTES, BYTES)), ids=str)
@pytest.mark.parametrize("scales", [(0.5, 0.5), (1.0, 0.25), (0.3, 7.0), (2.0**-60, 2.0**60), (2.0**60, 2.0**-60)])
def test_requantize_all_codes(source: DType, out: DType, scales: tuple[float, float]) -> None:
    codes = np.arange(source.min, source.max + 1).astype(source.numpy)
    for zero, new_zero in itertools.product((source.min, source.max), (out.min, out.max)):
        given, wanted = q(source, (256,), scales[0], zero), q(out, (256,), scales[1], new_zero)
        (got,) = run(graph_of("requantize", [given], wanted), [codes])
        with np.errstate(over="ignore", under="ignore"):
            m = multiplier(scales[0], over=scales[1])
            assert got.tolist() == [rounded(F32(int(code) - zero) * m, wanted) for code in codes]


@pytest.mark.parametrize("dtype", BYTES)
def test_lookup_takes_the_entry_of_its_code(dtype: DType) -> None:
    codes = np.arange(dtype.min, dtype.max + 1).astype(dtype.numpy)
    table = np.random.default_rng(1).permutation(256).astype(np.uint8)
    graph = graph_of("lookup", [q(dtype, (256,), 0.1, 0), tensor("u8", 256)], q(DType.U8, (256,), 0.1, 0))
    assert np.array_equal(run(graph, [codes, table])[0], table)


# -- arithmetic


@pytest.mark.parametrize("depth", [1, 3, 64, 1000])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_linear_at_all_extremes(depth: int, scale: float) -> None:
    """Every mix of least and largest codes, zero points and biases, with results that saturate and results that do
    not."""
    for code, zero, w_code, bias in itertools.product((0, 255), (0, 255), (-128, -127, 127), (-(2**30), 0, 2**30)):
        x, w = q(DType.U8, (2, depth), 0.02, zero), q(DType.I8, (3, depth), 0.01, 0)
        b = TensorType(DType.I32, (3,), QuantParams.per_tensor(float(multiplier(0.02, 0.01, over=1.0)), 0, DType.I32))
        y = q(DType.U8, (2, 3), scale, 7)
        (got,) = run(graph_of("linear", [x, w, b], y), [filled(x, code), filled(w, w_code), filled(b, bias)])
        accumulator = depth * (code - zero) * w_code + bias
        expected = rounded(F32(accumulator) * multiplier(0.02, 0.01, over=scale), y)
        assert np.all(got == expected), (code, zero, w_code, bias)


def test_linear_with_a_residual_adds_before_it_rounds() -> None:
    x, w, r = q(DType.U8, (1, 5), 0.02, 255), q(DType.I8, (2, 5), 0.01, 0), q(DType.U8, (1, 2), 0.03, 0)
    y = q(DType.I8, (1, 2), 0.05, -128)
    graph = Graph("g", "integer")
    values = [graph.add_input(name, type) for name, type in (("x", x), ("w", w), ("r", r))]
    graph.set_outputs([graph.create("linear", [values[0], values[1], None, values[2]], types=y).result])
    for code, w_code, r_code in itertools.product((0, 254, 255), (-128, 127), (0, 1, 255)):
        (got,) = run(graph, [filled(x, code), filled(w, w_code), filled(r, r_code)])
        product = F32(5 * (code - 255) * w_code) * multiplier(0.02, 0.01, over=0.05)
        assert np.all(got == rounded(product + F32(r_code) * multiplier(0.03, over=0.05), y))


@pytest.mark.parametrize("activation, low, high", [("relu", 100, 255), ("relu6", 100, 112), ("none", 0, 255)])
def test_fused_activations_clamp_codes(activation: str, low: int, high: int) -> None:
    x, w, y = q(DType.U8, (1, 1), 1.0, 128), q(DType.I8, (1, 1), 1.0, 0), q(DType.U8, (1, 1), 0.5, 100)
    graph = graph_of("linear", [x, w], y, {"activation": activation})
    ends = [int(run(graph, [filled(x, code), filled(w, 127)])[0][0, 0]) for code in (0, 255)]
    assert ends == [low, high]


@pytest.mark.parametrize("op", ["add", "sub", "mul"])
@pytest.mark.parametrize("dtype", BYTES)
def test_binary_ops_at_all_extremes(op: str, dtype: DType) -> None:
    for zeros in itertools.product((dtype.min, dtype.max), repeat=3):
        a, b, y = q(dtype, (1,), 0.2, zeros[0]), q(dtype, (1,), 0.03, zeros[1]), q(dtype, (1,), 0.1, zeros[2])
        graph = graph_of(op, [a, b], y)
        for codes in itertools.product((dtype.min, dtype.max), repeat=2):
            (got,) = run(graph, [filled(a, codes[0]), filled(b, codes[1])])
            left, right = (code - zero for code, zero in zip(codes, zeros))
            first, second = F32(left) * multiplier(0.2, over=0.1), F32(right) * multiplier(0.03, over=0.1)
            if op == "mul":
                real = F32(left * right) * multiplier(0.2, 0.03, over=0.1)
            else:
                real = first + second if op == "add" else first - second
            assert int(got[0]) == rounded(real, y), (zeros, codes)


@pytest.mark.parametrize("dtype", BYTES)
def test_a_unary_op_is_its_table(dtype: DType) -> None:
    x, y = q(dtype, (256,), 0.1, dtype.min), q(DType.U8, (256,), 1 / 256, 0)
    codes = np.arange(dtype.min, dtype.max + 1).astype(dtype.numpy)
    (got,) = run(graph_of("sigmoid", [x], y), [codes])
    real = 1 / (1 + np.exp(-(codes.astype(np.float64) - dtype.min) * float(F32(0.1))))
    assert np.abs(got - np.clip(real * 256, 0, 255)).max() <= 0.5 + 1e-9 and got[0] == 128


def test_ops_that_move_data_keep_the_codes() -> None:
    type = q(DType.I8, (2, 3), 0.1, 5)
    codes = np.array([[-128, 0, 127], [1, 2, 3]], np.int8)
    graph = graph_of("reshape", [type], type.with_shape((3, 2)), {"shape": (3, 2)})
    assert run(graph, [codes])[0].tolist() == codes.reshape(3, 2).tolist()


def test_float_ops_refuse_quantized_values() -> None:
    graph = graph_of("relu", [q(DType.I8, (2,), 0.1, 0)], tensor("f32", 2))
    with pytest.raises(VerifyError, match="insert dequantize"):
        evaluate_node(graph.node_list[0], [np.zeros(2, np.int8)])
    graph = graph_of("pow", [q(DType.I8, (2,), 0.1, 0)] * 2, q(DType.I8, (2,), 0.1, 0))
    with pytest.raises(VerifyError, match="no meaning on quantized values") as caught:
        run(graph, [np.zeros(2, np.int8)] * 2)
    assert "%y = pow" in str(caught.value)


# -- running


def two_steps() -> Graph:
    graph = Graph()
    x = graph.add_input("x", tensor("f32", "B", 2))
    a = graph.create("neg", [x], names="a").result
    b = graph.create("add", [a, graph.add_const("c", np.array([1, 2], F32))], names="b").result
    graph.set_outputs([b, x, b], ["b", "x", "again"])
    return graph


def test_values_hooks_and_outputs() -> None:
    seen: list[tuple[str, list[float]]] = []
    values: dict[str, np.ndarray] = {}

    def hook(node: Node, results: object) -> None:
        assert isinstance(results, tuple)
        seen.append((node.name, results[0].ravel().tolist()))

    x = np.array([[3, 4]], F32)
    outputs = run(two_steps(), {"x": x}, hook=hook, keep=values)
    assert seen == [("a", [-3, -4]), ("b", [-2, -2])] and list(values) == ["a", "b"]
    assert [output.tolist() for output in outputs] == [[[-2, -2]], [[3, 4]], [[-2, -2]]]
    outputs[0][:] = 9
    assert outputs[2][0, 0] == -2 and not np.shares_memory(outputs[1], x), "results own their memory"


def test_shape_attrs_take_the_bound_sizes() -> None:
    graph = Graph()
    x = graph.add_input("x", tensor("f32", "B", 4))
    graph.set_outputs([graph.create("reshape", [x], {"shape": ("2*B", 2)}).result])
    assert run(graph, [np.zeros((3, 4), F32)])[0].shape == (6, 2)


@pytest.mark.parametrize(
    "inputs, message",
    [
        ([], "wrong number of inputs"),
        ([np.zeros((1, 2), F32)] * 2, "wrong number of inputs"),
        ({"y": np.zeros((1, 2), F32)}, "names do not fit"),
        ([np.zeros((1, 2))], "another dtype"),
        ([np.zeros(2, F32)], "another rank"),
        ([np.zeros((1, 3), F32)], "another shape"),
    ],
)
def test_inputs_that_do_not_fit(inputs: list[np.ndarray] | dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(two_steps(), inputs)
