"""Compile one-node graphs for every level, run them as `tests.backends.levels` says, compare with the interpreter.

Quantized results are compared to the bit. Float results must have equal bits on every level and thread count, and lie
within `bound`
of the interpreter: relative to the largest value of the result, by default 64 roundings of f32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qcompiler.backends.target import parse_target
from qcompiler.interpreter import run as interpret
from qcompiler.ir import Graph, Value
from qcompiler.opdef import OpDef, QuantKind, Role, Trait, opdef, works_on_codes
from qcompiler.quantization.choose_qparams import choose_qparams
from qcompiler.quantization.qmath import quantize
from qcompiler.quantization.spec import QuantSpec
from qcompiler.signature import bind_inputs
from qcompiler.types import DType, QuantParams, TensorType, type_of
from qcompiler.verify import verify
from tests.backends.levels import LEVELS, is_executed, lower_for

FLOAT_BOUND = 64 * 2.0**-24
Operand = TensorType | np.ndarray | None


def is_quantizable(op: OpDef) -> bool:
    """Whether the op has a meaning on codes."""
    return op.integer is not None or bool({Trait.MOVES_DATA, Trait.UNARY} & op.traits)


def conv_attrs(spatial: int, stride: int = 1, padding: int = 0, dilation: int = 1, **more: object) -> dict[str, object]:
    """Attributes of a convolution, equal along all spatial axes."""
    return {
        "stride": (stride,) * spatial,
        "padding": ((padding, padding),) * spatial,
        "dilation": (dilation,) * spatial,
        **more,
    }


def u8_params(zero_point: int, scale: float = 0.05) -> QuantParams:
    """Parameters of u8 codes."""
    return QuantParams.per_tensor(scale, zero_point, DType.U8)


def whole_range(dtype: DType) -> QuantSpec:
    """Affine codes over the whole range of an element type."""
    return QuantSpec(dtype, dtype.min, dtype.max)


def random_array(type: TensorType, rng: np.random.Generator, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """Random data: floats in [low, high), integers in the dtype's range, or bools."""
    if type.dtype.is_float:
        return rng.uniform(low, high, type.shape).astype(type.dtype.numpy)
    if type.dtype is DType.BOOL:
        return rng.integers(0, 2, type.shape).astype(bool)
    return rng.integers(type.dtype.min, type.dtype.max, type.shape, endpoint=True).astype(type.dtype.numpy)


def one_node(
    op_name: str,
    arrays: Sequence[np.ndarray | None],
    attrs: Mapping[str, Any],
    *,
    quantized: bool = False,
    params: Mapping[int, QuantParams] | None = None,
    out: QuantParams | None = None,
    dynamic: bool = False,
    constants: Sequence[int] = (),
    fed: Sequence[int] = (),
    behind_a_pool: bool = False,
    weight_dtype: DType = DType.I8,
    to_f32: Sequence[int] | None = None,
    dtypes: Mapping[int, DType] | None = None,
    out_dtype: DType = DType.U8,
    types: Mapping[int, TensorType] | None = None,
) -> tuple[Graph, list[np.ndarray]]:
    """A graph of one node, and arrays for its inputs. Weights, biases and parameters are constants, activations are
    inputs.

    quantized: activations are quantized by us to u8, weights to i8 per channel, the bias to i32; inputs are codes.
    params: parameters of operands by position, instead of chosen ones; out: of the result. dynamic: axis 0 of the
    activations is symbolic, if all agree.
    constants: operands that are constant as well; fed: weights and biases that are inputs. behind_a_pool: activations
    of rank 3 to 5 go through a max_pool of one pixel first, so that they lie channels last. weight_dtype: of quantized
    weights. to_f32: the result of a quantized node is f32, and so are these activations. dtypes: of quantized
    activations by position, instead of u8; out_dtype: of a quantized result. types: of operands by position, whose
    arrays are codes already.
    """
    op = opdef(op_name)
    complete = op.complete_attrs(attrs)
    graph = Graph("test")
    graph.stage = "integer"
    params, dtypes = dict(params or {}), dict(dtypes or {})
    shared: QuantParams | None = None
    operands, inputs, real = [], [], []
    for position, array in enumerate(arrays):
        if array is None:
            operands.append(None)
            real.append(None)
            continue
        role = op.spec(position).role
        type = (types or {}).get(position) or type_of(array)
        real.append(array)
        if quantized and type.dtype.is_float and role is Role.WEIGHT:
            axis = op.quant.weight_axis
            flat = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
            chosen = params.get(position) or QuantParams.per_channel(
                np.maximum(np.abs(flat).max(axis=1), 1e-3) / 127, 0, axis, DType.I8, -127, 127
            )
            array, type = quantize(array, chosen, weight_dtype), TensorType(weight_dtype, array.shape, chosen)
            weight_params = chosen
        elif quantized and type.dtype.is_float and role is Role.BIAS:
            scales = np.float32(operands[0].type.quant.scale[0]) * weight_params.scales
            scales = (
                np.tile(scales, array.shape[0] // len(scales)) if len(scales) not in (1, array.shape[0]) else scales
            )
            scales = np.broadcast_to(scales, array.shape)
            chosen = QuantParams.per_channel(scales, 0, 0, DType.I32)
            array = np.rint(array / scales.astype(np.float64)).astype(np.int32)
            type = TensorType(DType.I32, array.shape, chosen)
        elif quantized and type.dtype.is_float and role is Role.ACTIVATION and position not in (to_f32 or ()):
            chosen, dtype = params.get(position), dtypes.get(position, DType.U8)
            if chosen is None and op.quant.kind is QuantKind.SHARES_INPUT and shared is not None:
                chosen = shared
            if chosen is None:
                low, high = (array.min(), array.max()) if array.size else (-1.0, 1.0)
                chosen = choose_qparams(low, high, whole_range(dtype))
            shared = shared or chosen
            array, type = quantize(array, chosen, dtype), TensorType(dtype, array.shape, chosen)
        if position in fed or (role in (Role.ACTIVATION, Role.INDEX) and position not in constants):
            operands.append(graph.add_input(op.spec(position).name + str(position), type))
            inputs.append(array)
        else:
            operands.append(graph.add_const(f"c{position}", array, type))
    if dynamic:
        _make_dynamic(graph)
    if behind_a_pool:
        operands = [_pooled(graph, v) if v in graph.inputs and 3 <= v.type.rank <= 5 else v for v in operands]
    results = op.infer_types([None if v is None else v.type for v in operands], complete)
    if quantized and to_f32 is None:
        value = op.run_reference(real, complete)[0]
        if out is None:
            if op.quant.kind is QuantKind.FIXED:
                out = op.quant.fixed_params()
            elif op.quant.kind is QuantKind.SHARES_INPUT or (op.integer is None and Trait.MOVES_DATA in op.traits):
                out = shared
            else:
                finite = value[np.isfinite(value)]
                low, high = (finite.min(), finite.max()) if finite.size else (-1.0, 1.0)
                out = choose_qparams(low, high, whole_range(out_dtype))
        results = tuple(t.quantized(out_dtype, out) for t in results)
    node = graph.create(op_name, operands, complete, types=results)
    graph.set_outputs(node.results)
    return graph, inputs


def _pooled(graph: Graph, value: Value) -> Value:
    """A max_pool with a window of one pixel, which is the identity."""
    if value.type.dtype not in (DType.F32, DType.U8):
        return value
    spatial = value.type.rank - 2
    attrs = {
        "kernel": (1,) * spatial,
        "stride": (1,) * spatial,
        "padding": ((0, 0),) * spatial,
        "dilation": (1,) * spatial,
    }
    return graph.create("max_pool", [value], attrs, types=value.type, names=f"{value.name}.pooled").result


def _make_dynamic(graph: Graph) -> None:
    from qcompiler.dims import Dim

    rank = max(value.type.rank for value in graph.inputs)
    for value in graph.inputs:
        if value.type.rank == rank:
            graph.set_type(
                value, TensorType(value.type.dtype, (Dim.name("B"), *value.type.shape[1:]), value.type.quant)
            )


def check_graph(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    *,
    bound: float = FLOAT_BOUND,
    allow_python: bool = False,
    threads: Sequence[int] = (1, 2, 3),
) -> list[np.ndarray]:
    """Compare every level and thread count with the interpreter; returns the interpreter's outputs."""
    verify(graph)
    expected = interpret(graph, inputs)
    arrays, sizes = bind_inputs(graph, inputs)
    first: list[np.ndarray] | None = None
    given = [np.asarray(array, order="C") for array in arrays]
    for name in LEVELS:
        target = parse_target(name)
        lowered = lower_for(graph, target)
        if not allow_python:
            assert not lowered.python_nodes, f"{name}: Python steps {lowered.python_nodes}"
        program = lowered.bind(sizes)
        if not is_executed(graph, program, target):
            continue
        # not through `lowered.run`, which gives small programs one thread; the interpreter takes its time
        for count in threads if target.can_run() else threads[-1:]:
            got = program.run(given, threads=count)
            first = first or got
            _compare(graph, expected, got, first, bound, f"{name}, {count} threads")
    return expected


def _compare(
    graph: Graph,
    expected: Sequence[np.ndarray],
    got: Sequence[np.ndarray],
    first: Sequence[np.ndarray],
    bound: float,
    where: str,
) -> None:
    """Compare the outputs of one run with the interpreter's, and with those of the first run of all."""
    for value, want, have in zip(graph.outputs, expected, got):
        assert (have.dtype, have.shape) == (want.dtype, want.shape), where
        if value.producer is not None and works_on_codes(value.producer):
            assert same_bits(want, have), f"{where}: {difference(want, have)}"
        elif want.dtype.kind != "f":
            assert np.array_equal(want, have), f"{where}: {difference(want, have)}"
        else:
            check_close(want, have, bound, where)
    for one, other in zip(first, got):
        assert same_bits(one, other), f"{where}: other bits than the first level: {difference(one, other)}"


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the bytes are equal, except that any NaN equals any other: IEEE 754 leaves its sign and payload open, and
    x86 and ARM differ in them."""
    if one.dtype.kind != "f":
        return one.tobytes() == other.tobytes()
    return (
        np.where(np.isnan(one), one.dtype.type(np.nan), one).tobytes()
        == np.where(np.isnan(other), one.dtype.type(np.nan), other).tobytes()
    )


def check_close(want: np.ndarray, have: np.ndarray, bound: float, where: str) -> None:
    assert np.array_equal(np.isnan(want), np.isnan(have)), f"{where}: NaN in other places"
    infinite = np.isinf(want)
    assert np.array_equal(want[infinite], have[infinite]), f"{where}: infinities differ"
    finite = np.isfinite(want)
    scale = float(np.abs(want[finite]).max(initial=2.0**-100))
    error = float(np.abs(want[finite].astype(np.float64) - have[finite]).max(initial=0.0))
    assert error <= bound * scale, (
        f"{where}: off by {error:.3g}, {error / scale * 2**24:.1f} roundings of the largest value"
    )


def difference(want: np.ndarray, have: np.ndarray) -> str:
    places = np.argwhere(
        (want != have) & ~(np.isnan(want) & np.isnan(have)) if want.dtype.kind == "f" else want != have
    )
    if not len(places):
        return "signs of zero"
    at = tuple(places[0])
    return f"{len(places)} of {want.size} differ, the first at {at}: {want[at]} expected, {have[at]} got"


def check_op(
    op_name: str,
    operands: Sequence[Operand],
    attrs: Mapping[str, Any] | None = None,
    *,
    quantized: bool = False,
    seed: int = 0,
    low: float = -2.0,
    high: float = 2.0,
    bound: float = FLOAT_BOUND,
    allow_python: bool = False,
    threads: Sequence[int] = (1, 2, 3),
    **options: Any,
) -> list[np.ndarray]:
    """One node on every level. operands: as in an op's samples (types get random data); options: of `one_node`."""
    rng = np.random.default_rng(seed)
    arrays = [o if o is None or isinstance(o, np.ndarray) else random_array(o, rng, low, high) for o in operands]
    types = {i: o for i, o in enumerate(operands) if isinstance(o, TensorType) and o.is_quantized}
    graph, inputs = one_node(op_name, arrays, attrs or {}, quantized=quantized, types=types, **options)
    return check_graph(graph, inputs, bound=bound, allow_python=allow_python, threads=threads)
