"""Which operands and attributes a one-node model of an op needs, and the bound on its float results.

`RECIPES` has every op of the importer's table that is not quantized. A recipe draws operands and those attributes that
depend on shapes; what a schema alone determines (flags, float attributes with a default) `one_op_models` draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto, helper

Operands = Sequence["np.ndarray | None"]

EXTREMES = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, -3.0, 1e-3, -1e-5, 1e-20, 1e-40, 7.25, 100.0, -104.0]
HUGE = [88.8, 16777217.0, 2147483648.0, -2147483648.0, 3e9, 1e20, 3.4e38, -3.4e38, math.nan, math.inf, -math.inf]


@dataclass
class Draw:
    """One case in the making: the op, its opset, the element type of each of the schema's type parameters.

    Attributes:
        known: operands that the importer needs as initializers.
        wanted: how many outputs are asked for.
        attrs: given to the node, besides those that a recipe returns.
    """

    rng: np.random.Generator
    op: str
    opset: int
    types: dict[str, int]
    known: set[int] = field(default_factory=set)
    wanted: int = 1

    def one(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def shape(self, low: int = 0, high: int = 4, empty: bool = True) -> tuple[int, ...]:
        """Between `low` and `high` axes; now and then a size is 0."""
        sizes = [int(self.one(1, 2, 3, 3, 5)) for _ in range(int(self.rng.integers(low, high + 1)))]
        if empty and sizes and self.chance(0.05):
            sizes[int(self.rng.integers(len(sizes)))] = 0
        return tuple(sizes)

    def data(self, shape: Sequence[int], param: str = "T", tame: bool = False) -> np.ndarray:
        """Values of a type parameter's element type; `tame` ones can be summed without overflow."""
        dtype = helper.tensor_dtype_to_np_dtype(self.types[param])
        return self.values(shape, dtype, tame)

    def values(self, shape: Sequence[int], dtype: Any, tame: bool = False) -> np.ndarray:
        return np.asarray(self._values(tuple(shape), dtype, tame))

    def _values(self, shape: tuple[int, ...], dtype: Any, tame: bool) -> Any:
        dtype, count = np.dtype(dtype), math.prod(shape)
        if dtype.kind == "O":
            return np.array([str(self.rng.integers(9)) for _ in range(count)], object).reshape(shape)
        if dtype.kind == "b":
            return self.rng.random(shape) < 0.5
        if dtype.kind in "iu":
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
            pool = [low, low + 1, -7, -3, -1, 0, 1, 2, 3, 7, 2**24 + 1, -(2**24) - 1, 2**31 - 1, high - 1, high]
            pool = [v for v in pool if low <= v <= high and not (tame and abs(v) > 7)]
            return np.array([pool[i] for i in self.rng.integers(len(pool), size=count)], dtype).reshape(shape)
        if dtype.kind == "c":
            return self.rng.normal(size=shape).astype(dtype)
        real = self.rng.normal(size=count) * 2
        pool = EXTREMES if tame else EXTREMES + HUGE
        picked = self.rng.random(count) < (0.25 if tame else 0.6)
        real = np.where(picked, np.array(pool)[self.rng.integers(len(pool), size=count)], real)
        with np.errstate(all="ignore"):
            narrow = np.float16 if dtype == np.float16 else np.float32
            return real.astype(narrow).astype(dtype).reshape(shape)

    def broadcast(self, params: Sequence[str], high: int = 4, tame: bool = False) -> list[np.ndarray]:
        """Operands whose shapes broadcast against each other."""
        whole = self.shape(0, high)
        found = []
        for param in params:
            rest = whole[int(self.rng.integers(len(whole) + 1)) if self.chance(0.4) else 0 :]
            found.append(self.data([1 if self.chance(0.2) else size for size in rest], param, tame))
        return found

    def axis(self, rank: int) -> int:
        """An axis, from either end."""
        return int(self.rng.integers(-rank, rank)) if rank else 0

    def axes(self, rank: int) -> list[int]:
        count = int(self.rng.integers(0, rank + 1))
        return [int(axis - rank if self.chance(0.3) else axis) for axis in self.rng.permutation(rank)[:count]]


Make = Callable[[Draw], tuple[Operands, dict[str, Any]]]


@dataclass(frozen=True)
class Recipe:
    """How to draw a case, and how near its floats must be.

    Attributes:
        bound: "exact": equal, signs of zeros and places of NaN included.
            An int: units in the last place of the result. 0 leaves only the signs of zeros open, as a maximum does.
            "sum": a unit for each term, of the result for the operands' magnitudes. That bounds the rounding of a sum
            of products in any order.
            "scaled": 64 units of the largest result: a few dozen roundings, of values that are not much larger.
    """

    make: Make
    bound: str | int = "exact"


RECIPES: dict[str, Recipe] = {}


def recipe(*ops: str, bound: str | int = "exact") -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        RECIPES.update(dict.fromkeys(ops, Recipe(make, bound)))
        return make

    return add


def _i64(values: Iterable[int]) -> np.ndarray:
    return np.array(list(values), np.int64)


def _no_nan(x: np.ndarray) -> np.ndarray:
    """ONNX does not say which of two numbers is larger if one is NaN."""
    return np.where(np.isnan(x), x.dtype.type(1), x) if x.dtype.kind == "f" else x


# -- elementwise


@recipe("Abs", "Neg", "Floor", "Ceil", "Round", "Sign", "Relu", "Identity")
@recipe("Not", "Shrink", "LeakyRelu", "ThresholdedRelu", "Sqrt", "Reciprocal", bound=1)
@recipe("Sigmoid", "Tanh", "Exp", "Log", "Sin", "Cos", "Atan", "Erf", "Softsign", "Mish", "Elu", "Celu", bound=4)
@recipe("HardSigmoid", bound="sum")
@recipe("Softplus", "Gelu", "HardSwish", "Selu", "Tan", "Sinh", "Cosh", bound=4)
def _unary(d: Draw) -> tuple[Operands, dict[str, Any]]:
    attrs = {"approximate": d.one("none", "tanh")} if d.op == "Gelu" else {}
    x = d.data(d.shape(), "V" if "V" in d.types else "T")
    return [_no_nan(x) if d.op in ("Sign", "Shrink", "ThresholdedRelu") else x], attrs


@recipe("IsNaN")
def _is_nan(d: Draw) -> tuple[Operands, dict[str, Any]]:
    return [d.data(d.shape(), "T1")], {}


@recipe("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor")
@recipe("Add", "Sub", "Mul", "PRelu", bound=1)
def _binary(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x, y = d.broadcast(["T", "T"])
    if d.op == "PRelu":  # broadcasts one way: the slope to x
        x = d.data(np.broadcast_shapes(x.shape, y.shape))
    return [x, y], {}


@recipe("Mod")
@recipe("Div", bound=1)
def _division(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x, y = d.broadcast(["T", "T"])
    attrs = {"fmod": 1 if y.dtype.kind not in "iu" and d.opset < 28 else d.one(0, 1)} if d.op == "Mod" else {}
    return [x, np.where(y == 0, y.dtype.type(3), y) if y.dtype.kind in "iu" else y], attrs  # x / 0 is undefined


@recipe("Pow", bound=2)
def _pow(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x, y = d.broadcast(["T", "T1" if "T1" in d.types else "T"])
    if x.dtype.kind in "iu":  # what leaves the type is undefined
        low = 1 if x.dtype.kind == "u" else -3
        x = d.rng.integers(low, 4, x.shape).astype(x.dtype)
        x, y = np.where(x == 0, x.dtype.type(2), x), d.rng.integers(0, 4, y.shape).astype(y.dtype)
    return [x, y], {}


@recipe("Min", "Max", bound=0)
@recipe("Sum", "Mean", bound="sum")
def _variadic(d: Draw) -> tuple[Operands, dict[str, Any]]:
    return d.broadcast(["T"] * int(d.rng.integers(1, 4)), tame=d.op in ("Sum", "Mean")), {}


@recipe("Where")
def _where(d: Draw) -> tuple[Operands, dict[str, Any]]:
    return d.broadcast(["B", "T", "T"]), {}


@recipe("Clip", bound=0)
def _clip(d: Draw) -> tuple[Operands, dict[str, Any]]:
    bounds = [_no_nan(d.data(())) if d.chance(0.8) else None for _ in range(2)]
    if d.chance(0.6) and bounds[0] is not None and bounds[1] is not None and bounds[1] < bounds[0]:
        bounds.reverse()
    return [d.data(d.shape()), *bounds], {}


@recipe("Cast", "CastLike")
def _cast(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = d.data(d.shape(), "T1")
    target = d.types["T2"]
    whole = target not in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL)
    if x.dtype.kind == "f" and whole:  # out of range is undefined
        unsigned = np.dtype(helper.tensor_dtype_to_np_dtype(target)).kind == "u"
        x = np.where(np.abs(x) < 127, np.abs(x) if unsigned else x, x.dtype.type(2.5))
    return (
        ([x], {"to": target}) if d.op == "Cast" else ([x, d.values((1,), helper.tensor_dtype_to_np_dtype(target))], {})
    )


@recipe("Dropout")
def _dropout(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.wanted = d.one(1, 1, 2)
    if d.opset < 12:
        return [d.data(d.shape())], {"ratio": 0.25}
    d.known |= {1, 2}
    training = np.array(d.chance(0.2)) if d.chance(0.5) else None
    ratio = 0.0 if training is not None and training else 0.25  # without a ratio training does not drop
    return [d.data(d.shape()), np.array(ratio).astype(d.data((), "T1").dtype), training], {}


# -- convolutions, products, pools


def _windows(d: Draw, spatial: Sequence[int], kernel: Sequence[int], pool: bool = False) -> dict[str, Any]:
    """strides, dilations, pads or auto_pad, so that each window sees the operand."""
    attrs: dict[str, Any] = {}
    dilations = [int(d.one(1, 1, 2)) for _ in kernel]
    if d.chance(0.4) and all(k * e <= s for k, e, s in zip(kernel, dilations, spatial)):
        attrs["dilations"] = dilations
    else:
        dilations = [1] * len(kernel)
    if d.chance(0.7):
        attrs["strides"] = [int(d.one(1, 2, 3)) for _ in kernel]
    auto = d.one("NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    if auto != "NOTSET":
        attrs["auto_pad"] = auto
        if pool and auto != "VALID":  # ONNX Runtime leaves dilations out, and takes padding below 0 for an error
            attrs.pop("dilations", None)
            attrs["strides"] = [min(s, k) for s, k in zip(attrs.get("strides", kernel), kernel)]
    elif d.chance(0.6):
        most = [k - 1 if pool else 2 for k in kernel]
        attrs["pads"] = [int(d.rng.integers(0, m + 1)) for m in most * 2]
    return attrs


def _image(d: Draw, channels: int, low: int = 3, high: int = 7) -> tuple[int, list[int], list[int]]:
    """(batch, spatial sizes, a kernel that fits)"""
    spatial = [int(d.rng.integers(low, high)) for _ in range(int(d.one(1, 2, 2, 3)))]
    return int(d.one(1, 2)), spatial, [int(d.rng.integers(1, 4)) for _ in spatial]


@recipe("Conv", "ConvTranspose", bound="sum")
def _conv(d: Draw) -> tuple[Operands, dict[str, Any]]:
    group, i, o = int(d.one(1, 1, 2)), int(d.one(1, 2, 3)), int(d.one(1, 2, 3))
    batch, spatial, kernel = _image(d, i)
    attrs = _windows(d, spatial, kernel)
    attrs.update({"group": group} if group > 1 else {})
    attrs.update({"kernel_shape": kernel} if d.chance(0.5) else {})
    transposed = d.op == "ConvTranspose"
    if transposed:
        strides, dilations = (attrs.get(name, [1] * len(kernel)) for name in ("strides", "dilations"))
        attrs["pads"] = [0] * 2 * len(kernel)
        if d.chance(0.4):
            attrs["output_padding"] = [int(d.rng.integers(0, s)) for s in strides]
        if d.chance(0.3):
            extra = attrs.get("output_padding", [0] * len(kernel))
            attrs["output_shape"] = [
                max(1, s * (n - 1) + e + (k - 1) * a + 1 - int(d.rng.integers(0, 2)))
                for s, n, e, k, a in zip(strides, spatial, extra, kernel, dilations)
            ]
            attrs["auto_pad"] = d.one("NOTSET", "SAME_UPPER", "SAME_LOWER")
        if attrs.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in attrs:
            del attrs["pads"]
    weight = (i * group, o, *kernel) if transposed else (o * group, i, *kernel)
    bias = d.data((o * group,), tame=True) if d.chance(0.5) else None
    return [d.data((batch, i * group, *spatial), tame=True), d.data(weight, tame=True), bias], attrs


@recipe("Gemm", bound="sum")
def _gemm(d: Draw) -> tuple[Operands, dict[str, Any]]:
    m, k, n = (int(d.one(1, 2, 3, 5)) for _ in range(3))
    a, b = int(d.chance(0.4)), int(d.chance(0.4))
    c = d.one((), (1,), (n,), (1, n), (m, 1), (m, n), None)
    attrs: dict[str, Any] = {"transA": a, "transB": b}
    if d.chance(0.5):
        attrs |= {"alpha": d.one(0.5, 2.0, 0.0, -1.0), "beta": d.one(0.25, 0.0, 2.0)}
    return [
        d.data((k, m) if a else (m, k), tame=True),
        d.data((n, k) if b else (k, n), tame=True),
        None if c is None else d.data(c, tame=True),
    ], attrs


@recipe("MatMul", bound="sum")
def _matmul(d: Draw) -> tuple[Operands, dict[str, Any]]:
    m, k, n = (int(d.one(1, 2, 3, 5)) for _ in range(3))
    batch = d.shape(0, 2, empty=False)
    left = d.one((k,), (m, k), (*batch, m, k), (*(1 for _ in batch), m, k))
    right = d.one((k,), (k, n), (*batch, k, n))
    return [d.data(left, tame=True), d.data(right, tame=True)], {}


@recipe("Einsum", bound="sum")
def _einsum(d: Draw) -> tuple[Operands, dict[str, Any]]:
    equation, shapes = d.one(
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 1)]),
        ("i,i->", [(5,), (5,)]),
        ("i,j->ij", [(2,), (3,)]),
        ("ij->ji", [(2, 3)]),
        ("ij->i", [(2, 3)]),
        ("ii->i", [(3, 3)]),
        ("...ij,...jk->...ik", [(2, 1, 2, 3), (5, 3, 2)]),
        ("ij,jk", [(2, 3), (3, 2)]),
        ("bhid,bhjd->bhij", [(1, 2, 3, 4), (1, 2, 5, 4)]),
    )
    return [d.data(shape, tame=True) for shape in shapes], {"equation": equation}


@recipe("MaxPool", bound=0)
@recipe("AveragePool", bound="sum")
def _pool(d: Draw) -> tuple[Operands, dict[str, Any]]:
    batch, spatial, kernel = _image(d, 2)
    attrs = {"kernel_shape": kernel, **_windows(d, spatial, kernel, pool=True)}
    if d.op == "AveragePool" and d.opset < 19:
        attrs.pop("dilations", None)
    if d.op == "MaxPool" and d.chance(0.3):
        d.wanted = 2
        attrs["storage_order"] = int(d.chance(0.3))
    if d.op == "AveragePool":
        attrs["count_include_pad"] = int(d.chance(0.5))
    attrs["ceil_mode"] = int(d.chance(0.4))
    x = _no_nan(d.data((batch, 2, *spatial), tame=d.op == "AveragePool"))
    return [np.where(x == -math.inf, x.dtype.type(0), x)], attrs  # ONNX Runtime starts from the lowest finite number


@recipe("GlobalMaxPool", bound=0)
@recipe("GlobalAveragePool", bound="sum")
def _global_pool(d: Draw) -> tuple[Operands, dict[str, Any]]:
    shape = (*d.shape(2, 2, empty=False), *d.shape(1, 3, empty=False))
    return [_no_nan(d.data(shape, tame=d.op == "GlobalAveragePool"))], {}


# -- normalisation


def _positive(x: np.ndarray) -> np.ndarray:
    return np.abs(x) + x.dtype.type(0.5)


@recipe("BatchNormalization", bound="scaled")
def _batch_norm(d: Draw) -> tuple[Operands, dict[str, Any]]:
    shape = d.shape(2, 4, empty=False)
    first, second = ("T1", "T2") if "T2" in d.types else ("U", "U") if "U" in d.types else ("T", "T")
    scale, bias = (d.data(shape[1:2], first if "T1" in d.types else "T", tame=True) for _ in range(2))
    mean, var = (d.data(shape[1:2], second, tame=True) for _ in range(2))
    attrs = {"training_mode": 1} if d.opset >= 14 and d.chance(0.1) else {}
    if attrs:
        d.wanted = 3
    return [d.data(shape, tame=True), scale, bias, mean, _positive(var)], attrs


@recipe("InstanceNormalization", bound="scaled")
def _instance_norm(d: Draw) -> tuple[Operands, dict[str, Any]]:
    shape = (*d.shape(2, 2, empty=False), *d.shape(1, 2, empty=False), 3)
    return [d.data(shape, tame=True), d.data(shape[1:2], tame=True), d.data(shape[1:2], tame=True)], {}


@recipe("GroupNormalization", bound="scaled")
def _group_norm(d: Draw) -> tuple[Operands, dict[str, Any]]:
    groups, per = int(d.one(1, 2, 3)), int(d.one(1, 2))
    shape = (2, groups * per, *d.shape(1, 2, empty=False), 3)
    d.known |= {1, 2}
    size = (groups if d.opset < 21 else groups * per,)
    return [d.data(shape, tame=True), d.data(size, tame=True), d.data(size, tame=True)], {"num_groups": groups}


@recipe("LayerNormalization", bound="scaled")
def _layer_norm(d: Draw) -> tuple[Operands, dict[str, Any]]:
    shape = (*d.shape(0, 3, empty=False), 5)
    axis = d.one(-1, d.axis(len(shape)))
    inner = shape[axis:]
    d.wanted = d.one(1, 1, 3)
    bias = d.data(inner, tame=True) if d.chance(0.6) else None
    return [d.data(shape, tame=True), d.data(inner, tame=True), bias], {"axis": axis} if axis != -1 or d.chance(
        0.5
    ) else {}


@recipe("LpNormalization", bound="scaled")
def _lp_norm(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = d.data((*d.shape(0, 3, empty=False), 4), tame=True)
    x = np.where(np.abs(x) < 1e-6, x.dtype.type(0), x)  # squares that f32 has
    return [x], {"p": d.one(1, 2), "axis": d.axis(x.ndim)}


@recipe("Softmax", "LogSoftmax", bound="scaled")
def _softmax(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = d.data(d.shape(1, 4, empty=False), tame=True)
    return [x], {"axis": d.axis(x.ndim)} if d.chance(0.8) and (d.opset >= 13 or x.ndim > 1) else {}


# -- reductions


@recipe("ReduceMax", "ReduceMin", bound=0)
@recipe("ReduceSum", "ReduceMean", "ReduceL1", "ReduceSumSquare", bound="sum")
@recipe("ReduceProd", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", bound="scaled")
def _reduce(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    extremes = d.op in ("ReduceMax", "ReduceMin")
    shape = d.shape(0, 4, empty=d.op != "ReduceMean")  # the mean of nothing is undefined
    x = d.data(shape, tame=not extremes)
    if d.op == "ReduceSum" and x.dtype.kind in "iu":
        x = d.data(shape)
    if extremes:
        x = _no_nan(x)
    if d.op == "ReduceLogSum":
        x = np.abs(x)
    axes = d.axes(x.ndim)
    attrs: dict[str, Any] = {"keepdims": int(d.chance(0.6))} if d.chance(0.8) else {}
    if d.opset >= (13 if d.op == "ReduceSum" else 18):
        if d.chance(0.3):
            attrs["noop_with_empty_axes"] = 1
        return [x, _i64(axes) if axes or d.chance(0.5) else None], attrs
    return [x], attrs | ({"axes": axes} if axes else {})


@recipe("CumSum", bound="sum")
def _cumsum(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    shape = d.shape(1, 4)
    return [d.data(shape, tame=True), np.array(d.axis(len(shape)), helper.tensor_dtype_to_np_dtype(d.types["T2"]))], {}


@recipe("ArgMax", "ArgMin")
def _arg(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = _no_nan(d.data(d.shape(1, 4, empty=False)))
    return [x], {"axis": d.axis(x.ndim)} if d.chance(0.8) else {}


# -- shapes


@recipe("Shape", "Size", "Flatten", "Transpose")
def _whole(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = d.data(d.shape())
    attrs: dict[str, Any] = {}
    if d.op == "Shape" and d.opset >= 15:
        attrs = {name: int(d.rng.integers(-5, 6)) for name in ("start", "end") if d.chance(0.5)}
    if d.op == "Flatten" and d.chance(0.8):
        attrs = {"axis": int(d.rng.integers(-x.ndim, x.ndim + 1))}
    if d.op == "Transpose" and d.chance(0.7):
        attrs = {"perm": [int(axis) for axis in d.rng.permutation(x.ndim)]} if x.ndim else {}
    return [x], attrs


@recipe("Constant")
def _constant(d: Draw) -> tuple[Operands, dict[str, Any]]:
    names = ["value"] + (["value_float", "value_floats", "value_int", "value_ints"] if d.opset >= 12 else [])
    name = d.one(*names)
    if name == "value":
        return [], {name: d.data(d.shape())}
    d.types["T"] = TensorProto.FLOAT if "float" in name else TensorProto.INT64
    values = d.data(d.shape(1, 1, empty=False) if name.endswith("s") else ()).tolist()
    return [], {name: values}


@recipe("ConstantOfShape")
def _constant_of_shape(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {0}
    given = d.chance(0.8)
    if not given:
        d.types["T2"] = TensorProto.FLOAT
    return [_i64(d.shape())], {"value": d.data((1,), "T2")} if given else {}


@recipe("Range")
def _range(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {0, 1, 2}
    dtype = helper.tensor_dtype_to_np_dtype(d.types["T"])
    start, stop, step = (int(v) for v in d.rng.integers(-9, 10, 3))
    values = [start, stop, step or 2]
    if np.dtype(dtype).kind == "f":
        values = [v / d.one(1, 4, 10) for v in values]
    return [np.array(v).astype(dtype) for v in values], {}


@recipe("Reshape")
def _reshape(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    x = d.data(d.shape())
    sizes = list(x.shape)
    if 0 in sizes:  # a size of 0 copies
        return [x, _i64(sizes)], {}
    if len(sizes) > 1 and d.chance(0.5):
        sizes = [sizes[0] * sizes[1], *sizes[2:]]
    if d.chance(0.3):
        sizes.append(1)
    attrs: dict[str, Any] = {}
    if d.opset >= 14 and d.chance(0.3):
        attrs["allowzero"] = 1
    elif sizes and x.ndim and d.chance(0.3) and sizes[0] == x.shape[0]:
        sizes[0] = 0
    if sizes and d.chance(0.4):
        sizes[int(d.rng.integers(len(sizes)))] = -1
    return [x, _i64(sizes)], attrs


def _axes_operand(d: Draw, x: np.ndarray, axes: list[int] | None) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    if d.opset >= 13:
        return [x, None if axes is None else _i64(axes)], {}
    return [x], {} if axes is None else {"axes": axes}


@recipe("Squeeze")
def _squeeze(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = d.data([1 if d.chance(0.5) else size for size in d.shape()])
    ones = [axis - x.ndim if d.chance(0.3) else axis for axis, size in enumerate(x.shape) if size == 1]
    return _axes_operand(d, x, ones[: int(d.rng.integers(len(ones) + 1))] or None)


@recipe("Unsqueeze")
def _unsqueeze(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x, more = d.data(d.shape(0, 3)), int(d.rng.integers(1, 3))
    total = x.ndim + more
    axes = [int(axis - total if d.chance(0.3) else axis) for axis in d.rng.permutation(total)[:more]]
    return _axes_operand(d, x, axes)


@recipe("Slice")
def _slice(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1, 2, 3, 4}
    x = d.data(d.shape(1, 4))
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(d.types["Tind"]))
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    bounds = [0, 1, 2, 5, 6, -1, -2, -5, -6, -7, low, low + 1, high, high - 1, -(2**31), 1 - 2**31, 2**31 - 1]
    axes = d.axes(x.ndim) if d.chance(0.7) else list(range(int(d.rng.integers(0, x.ndim + 1))))
    given = d.chance(0.8) or axes != list(range(len(axes)))
    starts, ends = ([d.one(*bounds) for _ in axes] for _ in range(2))
    steps = [d.one(1, 1, 2, 3, -1, -2, high, low + 1) for _ in axes] if d.chance(0.7) else None
    listed = [starts, ends, axes if given else None, steps]
    return [x, *(None if v is None else np.array(v, dtype) for v in listed)], {}


@recipe("Split")
def _split(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    x = d.data(d.shape(1, 4, empty=False))
    axis = d.axis(x.ndim)
    size, attrs = x.shape[axis], {"axis": axis} if axis or d.chance(0.5) else {}
    cuts = sorted(int(c) for c in d.rng.integers(0, size + 1, int(d.rng.integers(0, 3))))
    parts = [b - a for a, b in zip([0, *cuts], [*cuts, size])]
    if d.chance(0.3):
        d.wanted = d.one(
            *(n for n in range(1, size + 1) if size % n == 0 or d.opset >= 18 and -(-size // n) * (n - 1) < size)
        )
        return [x], attrs | ({"num_outputs": d.wanted} if d.opset >= 18 else {})
    d.wanted = len(parts)
    return ([x, _i64(parts)], attrs) if d.opset >= 13 else ([x], attrs | {"split": parts})


@recipe("Concat")
def _concat(d: Draw) -> tuple[Operands, dict[str, Any]]:
    shape = d.shape(1, 4)
    axis = d.axis(len(shape))
    parts = []
    for _ in range(int(d.rng.integers(1, 4))):
        own = list(shape)
        own[axis] = int(d.rng.integers(0, 4))
        parts.append(d.data(own))
    return parts, {"axis": axis}


@recipe("Pad")
def _pad(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1, 2, 3}
    x = d.data(d.shape(1, 4, empty=False))
    d.types["Tind"] = TensorProto.INT64  # ONNX Runtime has no axes of int32
    mode = d.one("constant", "constant", "reflect", "edge", *(["wrap"] if d.opset >= 19 else []))
    axes = d.axes(x.ndim) if d.opset >= 18 and d.chance(0.4) else None
    sizes = [x.shape[axis] for axis in (range(x.ndim) if axes is None else axes)]
    most = [size - 1 if mode == "reflect" else size for size in sizes]
    crops = mode == "constant" and x.dtype.kind == "f"  # onnx's evaluator cannot crop, ONNX Runtime pads few types
    least = [0 if d.chance(0.8) or not crops else -((size - 1) // 2) for size in sizes]
    pads = [int(d.rng.integers(a, b + 1)) for a, b in zip(least * 2, most * 2)]
    value = d.data(()) if d.chance(0.6) and mode == "constant" else None
    return [x, _i64(pads), value, None if axes is None else _i64(axes)], {"mode": mode}


@recipe("Trilu")
def _trilu(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    k = np.array(d.one(0, 1, -1, 2, -7, 9, 2**62, -(2**62)), np.int64) if d.chance(0.7) else None
    return [d.data(d.shape(2, 4)), k], {}


@recipe("Expand")
def _expand(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    whole = d.shape()
    own = [1 if d.chance(0.4) else size for size in whole[int(d.rng.integers(len(whole) + 1)) :]]
    target = [1 if d.chance(0.2) else size for size in whole[int(d.rng.integers(len(whole) + 1)) :]]
    return [d.data(own), _i64(target)], {}


@recipe("Tile")
def _tile(d: Draw) -> tuple[Operands, dict[str, Any]]:
    d.known |= {1}
    x = d.data(d.shape())
    return [x, _i64(d.one(0, 1, 1, 2, 3) for _ in x.shape)], {}


def _indices(d: Draw, shape: Sequence[int], size: int) -> np.ndarray:
    dtype = helper.tensor_dtype_to_np_dtype(d.types["Tind"])
    return d.rng.integers(-size, size, shape).astype(dtype) if size else np.zeros([0, *shape[1:]], dtype)


@recipe("Gather")
def _gather(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = d.data(d.shape(1, 4, empty=False))
    axis = d.axis(x.ndim)
    return [x, _indices(d, d.shape(0, 2), x.shape[axis])], {"axis": axis} if axis or d.chance(0.5) else {}


@recipe("GatherElements")
def _gather_elements(d: Draw) -> tuple[Operands, dict[str, Any]]:
    x = d.data(d.shape(1, 4, empty=False))
    axis = d.axis(x.ndim)
    shape = [int(d.rng.integers(1, size + 1)) for size in x.shape]
    shape[axis] = int(d.rng.integers(0, 5))
    return [x, _indices(d, shape, x.shape[axis])], {"axis": axis} if axis or d.chance(0.5) else {}


@recipe("DepthToSpace", "SpaceToDepth")
def _blocks(d: Draw) -> tuple[Operands, dict[str, Any]]:
    batch, channels, height, width, b = (int(d.one(1, 2, 3)) for _ in range(5))
    has_mode = d.op == "DepthToSpace" or d.opset >= 28
    attrs = {"blocksize": b, **({"mode": d.one("DCR", "CRD")} if has_mode and d.chance(0.7) else {})}
    if d.op == "DepthToSpace":
        return [d.data((batch, channels * b * b, height, width))], attrs
    return [d.data((batch, channels, height * b, width * b))], attrs


@recipe("Resize", bound="scaled")
def _resize(d: Draw) -> tuple[Operands, dict[str, Any]]:
    spatial = d.shape(1, 3, empty=False)
    x = d.data((1, 2, *spatial), "T1", tame=True)
    mode = d.one("nearest", "nearest", "linear", "linear", "cubic")
    coordinates = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    coordinates += ["half_pixel_symmetric"] if d.opset >= 19 else []
    attrs: dict[str, Any] = {"mode": mode}
    if d.chance(0.8):
        attrs["coordinate_transformation_mode"] = d.one(*coordinates)
    if mode == "nearest" and d.chance(0.8):
        attrs["nearest_mode"] = d.one("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    if mode != "nearest" and d.chance(0.15):
        attrs["exclude_outside"] = 1
    if mode != "nearest" and d.opset >= 18 and d.chance(0.15):
        attrs["antialias"] = 1
    d.known |= {1, 2, 3}
    lead = (1, 1)
    if d.opset >= 18 and d.chance(0.3):
        attrs["axes"], lead = list(range(2, x.ndim)), ()
    absent = np.zeros(0, np.float32) if d.opset < 13 else None
    roi = None if absent is None else d.values((0,), helper.tensor_dtype_to_np_dtype(d.types["T2"]))
    if d.chance(0.4):
        sizes = [int(d.rng.integers(1, 12)) for _ in spatial]
        return [x, roi, absent, _i64([*(x.shape[:2] if lead else ()), *sizes])], attrs
    factors = [d.one(1.0, 2.0, 3.0, 0.5, 1.1, 1.25, 0.7, 1.7, 2.6, 0.34, 7.3) for _ in spatial]
    scaled = [int(np.float32(size) * np.float32(f)) for size, f in zip(spatial, factors)]
    copied = scaled == list(spatial) and set(factors) != {1.0}  # ONNX Runtime does not interpolate then
    if 0 in scaled or copied or len(spatial) == 3:  # which ONNX Runtime leaves to the evaluator, which rounds otherwise
        factors = [1.5, 2.0, 2.0][: len(spatial)]
    return [x, roi, np.array([*lead, *factors], np.float32), None], attrs
