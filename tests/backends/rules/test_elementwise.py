"""Elementwise kernels against the interpreter: every op over widths, layouts, broadcasts, types and extremes, on every
level and thread count, with inputs and outputs between pages that fault."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from qcompiler.backends.codegen.jit import compile_kernels, emitted_kernels
from qcompiler.backends.kernel_ir.definition import At
from qcompiler.backends.kernels.elementwise import INTEGER
from qcompiler.backends.kernels.integer_functions import SIGNED
from qcompiler.backends.kernels.map_loop import Map, MapOperand, MapResult
from qcompiler.backends.lower import lower_graph
from qcompiler.backends.runtime.pages import guarded_block
from qcompiler.backends.target import native_target
from qcompiler.dims import Dim
from qcompiler.interpreter import run as interpret
from qcompiler.ir import Graph
from qcompiler.opdef import Trait, all_ops, opdef
from qcompiler.signature import bind_inputs
from qcompiler.types import DType, QuantParams, TensorType, tensor
from tests.backends.levels import can_run, programs
from tests.backends.rules.harness import check_graph, check_op, one_node

WIDTHS = (1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 257)
BINARY = ("add", "sub", "mul", "div", "minimum", "maximum")
COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
UNARY = tuple(op.name for op in all_ops() if Trait.UNARY in op.traits)
EXACT = (
    "relu", "relu6", "hardtanh", "hardshrink", "threshold", "neg", "abs", "sqrt", "rsqrt", "reciprocal", "floor",
    "ceil", "round", "sign", "square",
)  # fmt: skip
INTEGERS = (DType.I8, DType.U8, DType.I16, DType.I32, DType.I64)
SPECIAL = np.float32([
    0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 6.0, 7.0, 1e-45, -1e-45, 2.0**-126, 3e38, -3e38, 2.0**31, 2.0**63,
    -(2.0**31), -(2.0**63), 2147483520.0, 127.5, 128.0, 255.5, -129.0, 1e20, np.inf, -np.inf, np.nan,
])  # fmt: skip


def _guarded(array: np.ndarray) -> np.ndarray:
    """A copy of an array between two pages that fault, with its end at the second one."""
    data = guarded_block(array.nbytes, array.itemsize).data[: array.nbytes]
    copy = data.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def check_exact(
    graph: Graph, inputs: Sequence[np.ndarray], threads: Sequence[int] = (1, 2, 3), signs: bool = True
) -> np.ndarray:
    """Check that the result has the interpreter's bits, except for which NaN it is, on every level and thread count,
    from and to guarded memory.

    signs: whether the signs of zeros count as well (numpy's minimum of 0 and -0 is either).
    """
    want = interpret(graph, inputs)[0]
    arrays, sizes = bind_inputs(graph, inputs)
    given = [_guarded(np.asarray(array, order="C")) for array in arrays]
    got = _guarded(np.empty_like(want, order="C"))
    number = want == want
    for level, program in programs(graph, sizes):
        for count in threads if can_run(level) else threads[-1:]:
            got.reshape(-1).view(np.uint8)[...] = 0xA5
            program.run(given, [got], threads=count)
            assert np.array_equal(number, got == got), (level, count)
            equal = _bits(want) == _bits(got) if signs else want == got
            wrong = np.flatnonzero(~equal[number])
            assert not len(wrong), (level, count, wrong[:4], want[number][wrong[:4]], got[number][wrong[:4]])
    return want


def _bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(f"u{array.itemsize}").reshape(array.shape)


def check(op: str, arrays: Sequence[np.ndarray], attrs: Mapping[str, Any] | None = None, **options: Any) -> np.ndarray:
    graph, inputs = one_node(op, arrays, attrs or {}, **options)
    return check_exact(graph, inputs, signs=op not in ("minimum", "maximum"))


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-3, 3, shape).astype(np.float32)


def pairs(values: np.ndarray) -> list[np.ndarray]:
    """Every pair of values, as two arrays of one shape."""
    return [np.ascontiguousarray(a.ravel()) for a in np.meshgrid(values, values)]


def graph_of(
    op: str, types: Sequence[TensorType], attrs: Mapping[str, Any] | None = None, out: QuantParams | None = None
) -> Graph:
    """A node whose operands are all inputs, of any types."""
    graph, definition = Graph("test"), opdef(op)
    graph.stage = "integer"
    operands = [graph.add_input(f"x{i}", type) for i, type in enumerate(types)]
    complete = definition.complete_attrs(attrs or {})
    results = definition.infer_types([operand.type for operand in operands], complete)
    if out is not None:
        results = tuple(type.quantized(DType.U8, out) for type in results)
    graph.set_outputs(graph.create(op, operands, complete, types=results).results)
    return graph


# -- geometry


@pytest.mark.sampled(3)
@pytest.mark.parametrize("width", WIDTHS)
def test_widths(width: int) -> None:
    x, y = floats(width), floats(width, seed=1)
    check("add", [x, y])
    check("mul", [x, y[:1]])
    check("sub", [x[:1], y])
    check("relu", [x])
    check("less", [x, y])
    check("where", [x > 0, x, y[:1]])
    check("cast", [x * 50], {"dtype": DType.U8})
    check("add", [x, y], quantized=True)
    check("mul", [floats(3, width), floats(3, 1)], quantized=True)
    check("sub", [floats(3, 1), floats(3, width)], quantized=True)


SHAPES = [
    ((2, 3, 4, 5), (2, 3, 4, 5)), ((2, 3, 4, 5), ()), ((), ()), ((2, 3, 4, 5), (5,)), ((2, 3, 4, 5), (3, 1, 1)),
    ((2, 1, 4, 1), (3, 1, 5)), ((4, 1), (1, 9)), ((70, 1), (1, 70)), ((7, 300, 3), (3,)), ((2, 1, 3), (2, 600, 3)),
    ((300, 33), (300, 1)), ((5, 200, 24), (5, 1, 24)), ((2, 100, 7), (1, 100, 7)), ((3, 1, 200, 5), (1, 2, 1, 5)),
    ((1, 1, 1), (1,)), ((2, 3, 2, 3, 2, 3), (2, 1, 2, 1, 2, 1)), ((2, 1, 3, 1, 2, 1, 3, 1), (1, 2, 1, 3, 1, 2, 1, 3)),
    ((1000, 2), (2,)), ((1025,), (1,)),
]  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_broadcasts(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    x, y = floats(*shapes[0]), floats(*shapes[1], seed=1)
    for a, b in ((x, y), (y, x)):
        check("sub", [a, b])
        check("sub", [a, b], quantized=True)
    check("where", [x > 0, y, np.float32(2.0)])
    check("less", [y, x])


@pytest.mark.sampled(10)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 17, 31, 32, 33, 64, 65])
@pytest.mark.parametrize("quantized", [False, True])
def test_channels_last(channels: int, quantized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values behind a pooling lie channels last, bytes with gaps between pixels. Each kind of second operand is
    tried."""
    monkeypatch.setenv("QC_GUARD", "1")
    x = floats(2, channels, 5, 6)
    for shape in (
        x.shape,
        (1, channels, 1, 1),
        (2, channels, 1, 1),
        (channels, 1, 1),
        (),
        (2, 1, 1, 1),
        (2, 1, 5, 6),
        (5, 6),
        (1, channels, 5, 6),
    ):
        for arrays in ([x, floats(*shape, seed=1)], [floats(*shape, seed=1), x]):
            for constants in ((), (0,) if arrays[0] is not x else (1,)):
                check_op("sub", arrays, quantized=quantized, behind_a_pool=True, bound=0.0, constants=constants)
    check_op("prelu", [x, floats(channels)], quantized=quantized, behind_a_pool=True, bound=0.0)
    check_op("prelu", [x, floats(1)], quantized=quantized, behind_a_pool=True, bound=0.0)
    check_op("silu", [x], quantized=quantized, behind_a_pool=True)


def test_layouts_that_differ() -> None:
    """One operand lies channels last, the other as it came in."""
    for quantized in (False, True):
        graph, inputs = one_node("add", [floats(2, 5, 4, 3), floats(2, 5, 4, 3, seed=1)], {}, quantized=quantized)
        node, x = graph.node_list[0], graph.inputs[0]
        attrs = {"kernel": (1, 1), "stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
        mixed = Graph("mixed")
        mixed.stage = "integer"
        first, second = (mixed.add_input(value.name, value.type) for value in graph.inputs)
        pooled = mixed.create("max_pool", [first], attrs, types=x.type).result
        mixed.set_outputs(mixed.create("add", [pooled, second], node.attrs, types=node.result.type).results)
        check_graph(mixed, inputs, bound=0.0)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize(("rows", "count"), [(1, 1000), (5, 300), (13, 7), (2, 64), (3, 129)])
def test_threads_write_different_elements(rows: int, count: int, threads: int) -> None:
    """Every element is written by exactly one thread, so that no two write to one place at a time."""
    compiled = compile_kernels([INTEGER[1].build(native_target(), op="neg", inner="1", dtype="i8")])[0]
    x, strides = np.ones(rows * count, np.int8), (0, 0, 0, 0, count)
    tensors = Map(count, (1, 1, 1, 1, rows), (MapOperand(At(0), strides),), MapResult(At(1), strides))
    args = INTEGER[1].pack_args(tensors)
    entry = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2)(compiled.address)
    written = np.zeros(rows * count, np.int64)
    for thread in range(threads):
        y = np.zeros_like(x)
        entry(args.ctypes.data, (ctypes.c_void_p * 2)(x.ctypes.data, y.ctypes.data), thread, threads)
        written -= y
    assert (written == 1).all()


@pytest.mark.parametrize("quantized", [False, True])
def test_empty(quantized: bool) -> None:
    for shapes in (((0,), (0,)), ((2, 0, 3), (2, 1, 3)), ((0, 4), (4,))):
        check_op("add", [np.zeros(shape, np.float32) for shape in shapes], quantized=quantized)


B, S = Dim.name("B"), Dim.name("S")
SYMBOLIC = [
    [(B, 3), (B, 1)], [(B,), (1,)], [(B, 1, S, S), (B, 4, S, S)], [(1, 1, S, S), (B, 4, S, S)], [(B, 5, 3), (3,)],
    [(B, S), (B, 1)], [(B, S, 3), (1, S, 3)], [(B, 1, 3), (B, S, 3)], [(B, S, 1), (1,)], [(B, S), ()],
    [(S, 1), (1, S)], [(B, S, 40), (B, 1, 40)],
]  # fmt: skip


@pytest.mark.parametrize("shapes", SYMBOLIC, ids=str)
def test_symbolic_sizes_need_no_new_kernel(shapes: list[tuple[Any, ...]]) -> None:
    """Some of the sizes are 1, which the type does not tell."""
    check_symbolic(graph_of("sub", [TensorType(DType.F32, shape) for shape in shapes]), shapes)


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("shape", [(S, S), (B, S, 3), (B, 1, S), (B, 4, S, 1), (B, 2, 3, S)], ids=str)
def test_triangles_of_symbolic_sizes(shape: tuple[Any, ...], upper: bool) -> None:
    check_symbolic(graph_of("trilu", [TensorType(DType.F32, shape)], {"upper": upper, "diagonal": 1}), [shape])


def check_symbolic(graph: Graph, shapes: Sequence[tuple[Any, ...]]) -> None:
    """Compare a graph for several sizes, all of which take the same kernels."""
    emitted: dict[str, int] = {}
    for b, s in ((2, 3), (1, 1), (1, 40), (70, 1), (3, 65)):
        bound = [[size if isinstance(size, int) else {"B": b, "S": s}[str(size)] for size in shape] for shape in shapes]
        check_exact(graph, [floats(*shape, seed=i) for i, shape in enumerate(bound)])
        lowered = lower_graph(graph, native_target())
        lowered.run(
            [floats(*shape) for shape in bound],
            {name: size for name, size in (("B", b), ("S", s)) if name in str(shapes)},
        )
        assert not emitted or emitted == dict(emitted_kernels)
        emitted = dict(emitted_kernels)


@pytest.mark.parametrize("dtype", [*INTEGERS, DType.BOOL, DType.F32], ids=str)
@pytest.mark.parametrize("shape", [(9, 31), (2, 1, 5, 70), (3, 0, 4)], ids=str)
def test_triangles_of_every_type(dtype: DType, shape: tuple[int, ...]) -> None:
    """Infinities and NaN outside of the triangle become 0 as well. Diagonals may lie far outside."""
    with np.errstate(invalid="ignore"):
        x = np.resize(SPECIAL, shape).astype(dtype.numpy)
    for diagonal in (0, -3, 2**62, -(2**63)):
        for upper in (False, True):
            graph = graph_of("trilu", [TensorType(dtype, shape)], {"upper": upper, "diagonal": diagonal})
            want = check_exact(graph, [x], threads=(2,))
            if abs(diagonal) < 100:
                np.testing.assert_array_equal(want, (np.triu if upper else np.tril)(x, diagonal))


@pytest.mark.parametrize("zero_point", [0, 7, 255])
def test_a_triangle_of_codes_is_zero_outside(zero_point: int) -> None:
    params = QuantParams.per_tensor(0.1, zero_point, DType.U8)
    x = np.random.default_rng(0).integers(0, 256, (2, 9, 33)).astype(np.uint8)
    graph = graph_of("trilu", [TensorType(DType.U8, x.shape, params)], {"upper": False, "diagonal": 4}, params)
    got = check_exact(graph, [x])
    np.testing.assert_array_equal(got, np.where(np.tri(9, 33, 4, bool), x, zero_point))


# -- floats


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
def test_binary_of_special_values(op: str, activation: str) -> None:
    """Every pair of zeros, denormals, ends of ranges, infinities and NaN."""
    if activation != "none" and op not in ("add", "mul"):
        return
    attrs = {"activation": activation} if op in ("add", "mul") else {}
    check(op, pairs(SPECIAL), attrs)


@pytest.mark.parametrize("op", BINARY)
def test_binary_f64(op: str) -> None:
    check(op, [a.astype(np.float64) / 3 for a in pairs(SPECIAL)])


@pytest.mark.sampled(5)
@pytest.mark.parametrize("op", COMPARISONS)
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64, DType.BOOL, *INTEGERS], ids=str)
def test_comparisons(op: str, dtype: DType) -> None:
    values = SPECIAL if dtype.is_float else np.array([0, 1]) if dtype is DType.BOOL else _extremes(dtype)
    check(op, pairs(values.astype(dtype.numpy)))


def _all_scales() -> np.ndarray:
    """Every 65537th float of f32, dense near 0, and the special ones."""
    every = np.arange(0, 2**32, 65537, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return np.concatenate([every, np.linspace(-25, 25, 30001).astype(np.float32), SPECIAL])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("op", EXACT)
def test_exact_unary(op: str) -> None:
    check(op, [_all_scales()])
    if op not in ("hardtanh", "hardshrink", "threshold"):
        with np.errstate(all="ignore"):
            values = _all_scales().astype(np.float64) / 3
        check(op, [values])


def _ulp(x: np.ndarray) -> np.ndarray:
    return np.maximum(2.0 ** (np.floor(np.log2(np.maximum(np.abs(x.astype(np.float64)), 2.0**-149))) - 23), 2.0**-149)


IN_F32 = {"sigmoid": 2.0**-126, "silu": 2.0**-119}
"""The functions that are computed in f32, within 4 units in the last place (their function within 2^-21.4, one more
rounding) -> the absolute bound where e^-x leaves the range of f32."""


@pytest.mark.parametrize("op", IN_F32)
def test_unary_in_f32(op: str) -> None:
    graph, inputs = one_node(op, [_all_scales()], {})
    with np.errstate(all="ignore"):
        want = interpret(graph, inputs)[0]
    found = [program.run(inputs, threads=2)[0] for _, program in programs(graph)]
    got = found[0]
    assert all(np.array_equal(_bits(got)[~np.isnan(got)], _bits(other)[~np.isnan(got)]) for other in found)
    assert np.array_equal(np.isnan(want), np.isnan(got))
    finite = np.isfinite(want) & np.isfinite(got)
    assert np.array_equal(want[~finite], got[~finite], equal_nan=True)
    error = np.abs(want[finite].astype(np.float64) - got[finite])
    assert np.all(error <= np.maximum(4 * _ulp(want[finite]), IN_F32[op]))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("op", [name for name in UNARY if name not in (*EXACT, *IN_F32, "tanhshrink")])
def test_unary_in_ulp(op: str) -> None:
    """The result is at most the neighbour of the interpreter's. Both round a value that lies within 2^-36 of the true
    one, so nearly all are equal. Some attrs are not representable in f32."""
    attrs: dict[str, list[dict[str, Any]]] = {
        "gelu": [{"approximate": "none"}, {"approximate": "tanh"}],
        "elu": [{"alpha": 0.7312}],
        "celu": [{"alpha": 0.3}],
        "softplus": [{"beta": 0.7, "threshold": 15.1}],
        "softshrink": [{"lambd": 0.3}],
        "leaky_relu": [{"negative_slope": 0.1}],
    }
    for chosen in attrs.get(op, [{}]):
        graph, inputs = one_node(op, [_all_scales()], chosen)
        with np.errstate(all="ignore"):
            want = interpret(graph, inputs)[0]
        first = None
        for _, program in programs(graph):
            got = program.run(inputs, threads=2)[0]
            assert np.array_equal(np.isnan(want), np.isnan(got))
            finite = np.isfinite(want) & np.isfinite(got)
            assert np.array_equal(want[~finite], got[~finite], equal_nan=True)
            error = np.abs(want[finite].astype(np.float64) - got[finite]) / _ulp(want[finite])
            assert error.max() <= 1, inputs[0][finite][error.argmax()]
            if op != "leaky_relu":  # its slope is rounded to f32, as in torch
                assert (error > 0).mean() < 0.002
            first = got if first is None else first
            assert np.array_equal(_bits(first)[~np.isnan(first)], _bits(got)[~np.isnan(got)])


def test_tanhshrink_without_cancellation() -> None:
    """The interpreter loses digits near 0, so the series is the oracle there."""
    x = np.concatenate(
        [np.float32(10.0) ** np.linspace(-12, -1, 500).astype(np.float32), np.linspace(0.1, 30, 500).astype(np.float32)]
    )
    x = np.concatenate([x, -x])
    r = x.astype(np.float64)
    z = r * r
    want = np.where(np.abs(r) < 0.05, r * z * (1 / 3 - z * (2 / 15 - z * (17 / 315 - z * (62 / 2835)))), r - np.tanh(r))
    graph, inputs = one_node("tanhshrink", [x], {})
    for _, program in programs(graph):
        got = program.run(inputs)[0]
        assert (np.abs(got - want) <= 0.51 * _ulp(want)).all()


@pytest.mark.parametrize(
    ("op", "attr"),
    [("hardshrink", "lambd"), ("threshold", "threshold"), ("softshrink", "lambd"), ("hardtanh", "max_value")],
)
@pytest.mark.parametrize("value", [0.1, 0.3, 0.5, 0.7, 1e-3])
def test_where_an_attr_decides(op: str, attr: str, value: float) -> None:
    """Floats next to an attr that f32 can't represent."""
    near = [np.float32(value)]
    for to in (-np.inf, np.inf):
        step = near[0]
        for _ in range(3):
            step = np.nextafter(step, np.float32(to))
            near.append(step)
    x = np.array([*near, *(-v for v in near)], np.float32)
    check(op, [x], {attr: value, **({"value": 7.0} if op == "threshold" else {})})


def test_prelu() -> None:
    for shape, slopes in (
        ((2, 3, 4, 5), 3),
        ((2, 3, 4, 5), 1),
        ((3, 65), 65),
        ((7,), 1),
        ((2, 33, 70), 33),
        ((1, 2, 3, 2, 3), 2),
        ((2, 0, 5, 3), 0),
    ):
        check("prelu", [floats(*shape), floats(slopes, seed=1)])
        check("prelu", [floats(*shape), floats(slopes, seed=1)], quantized=True)


def test_pow() -> None:
    x, y = pairs(SPECIAL)
    check_op("pow", [np.abs(floats(33, 9)), floats(9, seed=1)])
    one_exponent = np.array(SPECIAL, np.float32), np.array(0.5, np.float32)
    for graph, inputs in (one_node("pow", [x, y], {}), one_node("pow", [*one_exponent], {})):
        want = interpret(graph, inputs)[0]
        for _, program in programs(graph):
            got = program.run(inputs)[0]
            assert np.array_equal(np.isnan(want), np.isnan(got))
            close = np.isclose(want, got, rtol=2.0**-22, atol=0, equal_nan=True)
            assert close.all(), [np.broadcast_to(z, want.shape)[~close] for z in inputs]


DIVISIONS = ("floor_divide", "remainder", "fmod")


@pytest.mark.parametrize("op", DIVISIONS)
def test_divisions_of_floats(op: str) -> None:
    """Pairs of special values and of random bits, whose quotients span all of f32, and quotients next to whole
    numbers."""
    rng = np.random.default_rng(0)
    bits = [rng.integers(0, 2**32, 20000, dtype=np.uint64).astype(np.uint32).view(np.float32) for _ in range(2)]
    whole = rng.integers(-(2**24), 2**24, 2000).astype(np.float32)
    divisor = np.resize(np.float32([0.1, 0.3, -0.7, 3.0, 1e-3]), 2000)
    near = [np.nextafter(whole * divisor, np.float32(to)) for to in (-np.inf, np.inf)]
    x, y = pairs(SPECIAL)
    dividends = [x, bits[0], *near, whole * divisor]
    divisors = [y, bits[1], divisor, divisor, divisor]
    check(op, [np.concatenate(dividends), np.concatenate(divisors)])


# -- integers, bools, casts


def _extremes(dtype: DType) -> np.ndarray:
    least, most = dtype.min, dtype.max
    return np.array(
        [least, least + 1, -1 % (most + 1) if least == 0 else -1, 0, 1, 2, 5, 6, 7, most // 2, most - 1, most],
        dtype.numpy,
    )


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("op", [name for name in SIGNED if len(opdef(name).operands) == 2])
def test_integer_pairs(op: str, dtype: DType) -> None:
    """Sums and products wrap. Divisors include 0 and -1, and shifts go by counts around the width."""
    numbers = _extremes(dtype)
    if op.startswith("shift"):
        numbers[-5:-2] = dtype.bits - 1, dtype.bits, dtype.bits + 1
    x, y = pairs(numbers)
    check(op, [x, y])
    check(op, [x.reshape(12, 12), y[:1]])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("op", ["neg", "abs", "square", "relu", "relu6", "sign", "hardtanh", "bitwise_not"])
def test_integer_unary(op: str, dtype: DType) -> None:
    x = np.resize(_extremes(dtype), 77)
    bounds = [(-1.0, 1.0), (0.5, 5.5), (-2.5, np.inf), (-np.inf, 6.0), (300.0, 1e30), (-1e30, -300.0)]
    for low, high in bounds if op == "hardtanh" else bounds[:1]:
        graph = graph_of(
            op, [TensorType(dtype, x.shape)], {"min_value": low, "max_value": high} if op == "hardtanh" else {}
        )
        check_exact(graph, [x])


def test_logic() -> None:
    for width in WIDTHS:
        x, y = np.arange(width) % 2 == 0, np.arange(width) % 3 == 0
        check("logical_and", [x, y])
        check("logical_or", [x, y[:1]])
        check("logical_not", [x])
    check("logical_and", [np.arange(40).reshape(1, 40) % 3 == 0, np.arange(9).reshape(9, 1) % 2 == 0])


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64, DType.BOOL, *INTEGERS], ids=str)
def test_where(dtype: DType) -> None:
    """Bits pass unchanged, those of NaN too."""
    values = SPECIAL if dtype.is_float else np.array([0, 1]) if dtype is DType.BOOL else _extremes(dtype)
    x, y = pairs(values.astype(dtype.numpy))
    condition = np.random.default_rng(0).integers(0, 2, x.shape).astype(bool)
    check("where", [condition, x, y])
    check("where", [condition.reshape(len(values), -1), x[:1], y.reshape(len(values), -1)])
    check("where", [condition[: len(values), None], x.reshape(len(values), -1), y[: len(values)]])


KINDS = (DType.F32, DType.F64, DType.BOOL, *INTEGERS)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("source", KINDS, ids=str)
@pytest.mark.parametrize("to", KINDS, ids=str)
def test_casts(source: DType, to: DType) -> None:
    """Casts of floats saturate, truncate, and define NaN; casts of integers keep the low bits."""
    _check_cast(source, to)


@pytest.mark.parametrize("source", [DType.F32, DType.U8, DType.I64], ids=str)
def test_casts_to_bool(source: DType) -> None:
    """All that is not zero is true, NaN too."""
    _check_cast(source, DType.BOOL)


@pytest.mark.parametrize("source, to", [(DType.F16, DType.F32), (DType.F32, DType.F16)], ids=str)
def test_casts_without_a_kernel(source: DType, to: DType) -> None:
    """No kernel reads or writes f16: numpy does."""
    check_op("cast", [np.linspace(-3, 3, 37).astype(source.numpy)], {"dtype": to}, allow_python=True)


def _check_cast(source: DType, to: DType) -> None:
    values = SPECIAL if source.is_float else np.array([0, 1]) if source is DType.BOOL else _extremes(source)
    with np.errstate(over="ignore"):
        values = np.resize(values.astype(source.numpy), 131)
    if source is DType.F64:
        values[:4] = [1e300, -1e300, 0.1, 2.0**53 + 2]
    check("cast", [values], {"dtype": to})


# -- codes


CODES = np.arange(256, dtype=np.uint8)
PARAMS = {  # scale, zero point of x, y and the result
    "usual": ((0.02, 128), (0.03, 100), (0.05, 120)),
    "zeros": ((0.02, 0), (0.03, 0), (0.05, 0)),
    "ends": ((0.02, 255), (0.03, 255), (0.01, 255)),
    "mixed": ((1.0, 0), (0.25, 255), (0.5, 7)),
    "saturating": ((2.0**20, 10), (1.0, 250), (2.0**-20, 128)),
    "vanishing": ((2.0**-30, 10), (2.0**-30, 250), (2.0**20, 128)),
    "ties": ((1.0, 1), (1.0, 2), (2.0, 128)),
}


def _params(name: str) -> list[QuantParams]:
    return [QuantParams.per_tensor(scale, zero, DType.U8) for scale, zero in PARAMS[name]]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("op", BINARY)
def test_every_pair_of_codes(op: str, params: str) -> None:
    """All 65536 pairs, as one run and with one operand that repeats."""
    x, y, out = _params(params)
    column, row = np.repeat(CODES, 256), np.tile(CODES, 256)
    types = [TensorType(DType.U8, column.shape, x), TensorType(DType.U8, row.shape, y)]
    for activation in ("none", "relu", "relu6") if op in ("add", "mul") else ("none",):
        attrs = {"activation": activation} if op in ("add", "mul") else {}
        check_exact(graph_of(op, types, attrs, out), [column, row])
    table = [TensorType(DType.U8, (256, 1), x), TensorType(DType.U8, (1, 256), y)]
    check_exact(graph_of(op, table, {}, out), [CODES.reshape(256, 1), CODES.reshape(1, 256)])


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("params", PARAMS)
def test_prelu_of_every_code(params: str) -> None:
    x, _, out = _params(params)
    slopes = np.float32([0.25, -0.5, 0.0, 1.0, 3.0, 1e30, -1e-30])
    for weight in (slopes, slopes[:1]):
        graph = Graph("test")
        graph.stage = "integer"
        codes = graph.add_input("x", TensorType(DType.U8, (256, 7), x))
        types = TensorType(DType.F32, (256, 7)).quantized(DType.U8, out)
        node = graph.create("prelu", [codes, graph.add_const("w", weight, tensor("f32", len(weight)))], {}, types=types)
        graph.set_outputs(node.results)
        check_exact(graph, [np.repeat(CODES, 7).reshape(256, 7)])


@pytest.mark.parametrize("op", UNARY)
def test_every_code_of_unary(op: str) -> None:
    """Tables, also of functions with poles and NaN."""
    for params in PARAMS:
        x, _, out = _params(params)
        rule = opdef(op).quant
        if rule.fixed is not None:
            out = rule.fixed_params()
        check_exact(graph_of(op, [TensorType(DType.U8, (256,), x)], {}, out), [CODES])
