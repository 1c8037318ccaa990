"""An ONNX node as the functions that give meanings see it, and the table of these functions.

A value is a Proxy, or a numpy array if it is known at import: initializers, constants, and sizes computed from shapes.
An array that holds a symbolic size is an array of objects. A list is a sequence of values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qcompiler.dims import Dim
from qcompiler.errors import TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.array_ops import kind_of, lift
from qcompiler.frontend.onnx_ops.codes import Codes, CodeType, Sums, as_integers, element_of, real
from qcompiler.frontend.ranges import size_value
from qcompiler.frontend.recorder import Trace, Traced
from qcompiler.frontend.sizes import Size
from qcompiler.interpreter import evaluate_node
from qcompiler.ir import Const, Value
from qcompiler.ops.shape import Size as SizeOp
from qcompiler.types import DType, QuantParams, TensorType

DTYPES = {
    1: DType.F32,
    2: DType.U8,
    3: DType.I8,
    5: DType.I16,
    6: DType.I32,
    7: DType.I64,
    9: DType.BOOL,
    10: DType.F32,
    11: DType.F32,
}
"""The element types of ONNX (`TensorProto.DataType`) that a graph has, by number; all floats are f32."""

Meaning = Callable[["OnnxNode"], Any]
TABLE: dict[str, Meaning] = {}
REQUIRED = object()
MAX_FOLDED_BYTES = 64 * 2**20
"""Of one constant computed at import; the pass constant-fold has the same limit."""
_LARGEST_ITEM = 8
_MOST_SIZES = 16
"""An array of at most so many sizes can be read as data; of a larger one the sizes become numbers."""
MAX_FOLDED_ELEMENTS = 2**16
"""Of a result that import computes from constants only because shapes may depend on it; larger ones are left to the
pass constant-fold."""
_INT32 = 6
_HELD = (DType.F32, DType.U8, DType.I8, DType.I16, DType.I32, DType.I64, DType.BOOL)
"""The element types of traced values."""


def check_held(value: np.ndarray, what: str, trace: Trace) -> None:
    """Raise unless the graph has the element type of a known array."""
    if not any(value.dtype == dtype.numpy for dtype in _HELD):
        raise TraceError(
            f"{what}: the element type is not supported",
            where=trace.place(),
            expected=", ".join(map(str, _HELD)),
            got=str(value.dtype),
        )


def folded(value: Any) -> Any:
    """A value that an op made of known operands, as an array; as it is if it is large, or if codes are behind it."""
    if not isinstance(value, Traced):
        return value
    found = _computed(value.value)
    return value if found is None else found


def of_sizes(value: Any) -> Any:
    """A value that was computed from constants and sizes of inputs alone, as the example's number, which the sizes then
    have everywhere; any other value as it is."""
    if not isinstance(value, Traced):
        return value
    dims: dict[Dim, None] = {}
    if _computed(value.value, dims) is None:
        return value
    numbers = {dim: Size(dim, value.trace).bake() for dim in dims}
    return _computed(value.value, numbers)


def _computed(value: Value, sizes: dict[Dim, Any] | None = None) -> np.ndarray | None:
    """The number of a value that was made of constants, and of `sizes` if they are given: 1 for those without a number,
    which are noted there."""
    if isinstance(value, Const):
        return None if value.type.is_quantized else value.data
    producer, type = value.producer, value.type
    if sizes is not None and producer is not None and producer.op == "size":
        dim = SizeOp(producer).x.type.shape[SizeOp(producer).axis]
        return np.asarray((sizes.setdefault(dim, None) or 1) if isinstance(dim, Dim) else dim, np.int64)
    if producer is None or type.is_quantized or producer.op == "dequantize" or not type.is_static:
        return None
    if math.prod(type.sizes) > MAX_FOLDED_ELEMENTS:
        return None
    operands = [None if operand is None else _computed(operand, sizes) for operand in producer.operands]
    if any(found is None and operand is not None for found, operand in zip(operands, producer.operands)):
        return None
    return np.asarray(evaluate_node(producer, operands)[value.index])


def type_proto(value: Any) -> Any:
    """The type of a value of the import, as a TypeProto."""
    from onnx import TypeProto, helper

    if value is None:
        return TypeProto()
    if isinstance(value, list):
        return helper.make_sequence_type_proto(type_proto(value[0] if value else None))
    if isinstance(value, np.ndarray):
        dtype = np.dtype(np.int64) if value.dtype == object else value.dtype
        return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(dtype), value.shape)
    number = value.element.number if isinstance(value, Codes) else _INT32 if isinstance(value, Sums) else None
    if number is None:
        number = helper.np_dtype_to_tensor_dtype(value.value.type.dtype.numpy)
    sizes = [size if isinstance(size, int) else str(size) for size in value.value.type.shape]
    return helper.make_tensor_type_proto(number, sizes)


def onnx(*names: str) -> Callable[[Meaning], Meaning]:
    """Register a meaning under op types."""

    def add(meaning: Meaning) -> Meaning:
        for name in names:
            TABLE[name] = meaning
        return meaning

    return add


@dataclass
class OnnxNode:
    """The operands, attributes and outputs of one node.

    Attributes:
        op, name: as in the file.
        values: the operands in order, None where absent.
        attrs: the attributes as Python values.
        outputs: the names of the outputs, "" where unused.
        opset: the opset of the op's domain.
        moves_codes: the op moves the elements of its operands, so that codes keep their quantization.
        moved: an operand of codes that such an op was given as real numbers, if any.
    """

    op: str
    name: str
    values: Sequence[Any]
    attrs: dict[str, Any]
    outputs: Sequence[str]
    opset: int
    trace: Trace
    moves_codes: bool = False
    moved: Codes | None = field(default=None)

    # -- operands

    def has(self, index: int) -> bool:
        return index < len(self.values) and self.values[index] is not None

    def raw(self, index: int) -> Any:
        """An operand without conversion, or None if it is absent."""
        return self.values[index] if index < len(self.values) else None

    def x(self, index: int) -> Any:
        """An operand as a traced value. Codes are plain integers, or real numbers for an op that moves elements."""
        traced = self.held(index)
        if not isinstance(traced, Codes):
            return traced
        if not self.moves_codes or traced.value.type.params.axis is not None:
            return as_integers(traced)
        self.moved = traced
        return real(traced)

    def alike(self, indices: Sequence[int]) -> list[Any]:
        """Operands as traced values of one meaning: like `x` if they have one quantization, or else plain integers."""
        values = [self.raw(index) for index in indices]
        first = next((value for value in values if isinstance(value, Codes)), None)
        if first is None or not self.moves_codes or first.value.type.params.axis is not None:
            return [self.x(index) for index in indices]
        quant = first.value.type.params
        found: list[Any] = []
        for value in values:
            if isinstance(value, np.ndarray) and element_of(value) == first.element:
                value = self.constant_codes(value, first.element, quant)
            if not isinstance(value, Codes) or (value.element, value.value.type.quant) != (first.element, quant):
                break
            found.append(value)
        if len(found) < len(values):
            return [
                as_integers(value) if isinstance(value, Codes) else lift(self.representable(value), self.trace)
                for value in values
            ]
        self.moved = first
        return [real(value) for value in found]

    def held(self, index: int) -> Any:
        """An operand as a traced value in its own element type, quantized or not."""
        value = self.raw(index)
        if value is None:
            raise self.refuse(f"operand {index} is missing")
        self._check_tensor(index, value)
        if isinstance(value, Sums):
            return value.integers()
        if isinstance(value, np.ndarray) and value.dtype == object and 0 < value.size <= _MOST_SIZES:
            items = [ops.reshape(lift(size_value(item, self.trace), self.trace), (1,)) for item in value.ravel()]
            return ops.reshape(ops.concat(items), value.shape)
        return lift(self.representable(value), self.trace)

    def _check_tensor(self, index: int, value: Any) -> None:
        if isinstance(value, list):
            raise self.refuse(f"operand {index} is a sequence", expected="a tensor")

    def dtype(self, index: int) -> DType:
        """The element type of an operand, of codes that of the integers."""
        value = self.raw(index)
        self._check_tensor(index, value)
        if isinstance(value, Codes):
            return value.element.dtype
        if isinstance(value, Sums):
            return DType.I32
        if isinstance(value, np.ndarray) and value.dtype != object:
            return DType.from_numpy(self.representable(value).dtype)
        return kind_of(value)

    def floats(self, index: int) -> Any:
        """Like `x`, of an op that has a meaning here for floats alone, although its schema allows integers."""
        if not self.dtype(index).is_float:
            raise self.refuse("integers are not supported", expected="f32", got=str(self.dtype(index)))
        return self.x(index)

    def representable(self, value: Any) -> Any:
        """A known operand as an array of an element type that the graph has. Wider floats become f32."""
        value = self.sizes_as_ints(value)
        if isinstance(value, np.ndarray) and value.dtype not in (np.float16, np.float64):
            check_held(value, self.op, self.trace)
        return value

    def as_f32(self, value: np.ndarray) -> np.ndarray:
        """Known floats as f32, with a note if they were of another type."""
        if value.dtype not in (np.float16, np.float64) and str(value.dtype) != "bfloat16":
            return value
        self.trace.note(f"constant {self.outputs[0]}: {value.dtype} became f32")
        with np.errstate(over="ignore"):
            return value.astype(np.float32)

    def optional(self, index: int) -> Any:
        return self.x(index) if self.has(index) else None

    def known(self, index: int, default: Any = REQUIRED) -> Any:
        """An operand that must be known at import, as a numpy array."""
        value = self.raw(index)
        if value is None and default is not REQUIRED:
            return default
        if isinstance(value, Traced) and isinstance(value.value, Const):
            value = value.value.data
        value = of_sizes(value)
        if not isinstance(value, np.ndarray):
            raise self.refuse(f"operand {index} is computed from data", expected="a constant, or sizes of an input")
        return value

    def ints(self, index: int) -> list[Any]:
        """A known operand as a list of ints (or symbolic sizes)."""
        return [v.item() if isinstance(v, np.generic) else v for v in np.ravel(self.known(index))]

    def optional_ints(self, index: int) -> list[Any] | None:
        """Like `ints`, or None if the operand is absent."""
        return self.ints(index) if self.has(index) else None

    def is_known(self, elements: int | None = None) -> bool:
        """Whether every operand is known at import, and the result is small enough to compute there.

        elements: of the result; None: as many as the operands broadcast to.
        """
        arrays = [value for value in self.values if value is not None]
        if not all(isinstance(array, np.ndarray) for array in arrays):
            return False
        if elements is None:
            elements = math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))
        return elements * _LARGEST_ITEM <= MAX_FOLDED_BYTES

    def small(self, elements: int) -> None:
        """Raise if import would have to compute a constant of so many elements, which is too large."""
        if elements * _LARGEST_ITEM > MAX_FOLDED_BYTES:
            raise self.refuse(
                "the constant is too large to compute at import",
                expected=f"at most {MAX_FOLDED_BYTES // _LARGEST_ITEM} elements",
                got=elements,
            )

    @staticmethod
    def sizes_as_ints(value: Any) -> Any:
        """Arrays of objects as i64 arrays: symbolic sizes become the example's numbers, with a guard."""
        if isinstance(value, np.ndarray) and value.dtype == object:
            return np.array([int(item) for item in value.ravel()], np.int64).reshape(value.shape)
        return value

    # -- attributes

    def attr(self, name: str, default: Any = REQUIRED) -> Any:
        if name in self.attrs:
            return self.attrs[name]
        if default is REQUIRED:
            raise self.refuse(f"the attribute {name} is missing")
        return default

    def axes(self, index: int, name: str = "axes") -> list[int] | None:
        """Axes from operand `index` (newer opsets) or an attribute (older ones)."""
        if self.has(index):
            return [int(axis) for axis in self.ints(index)]
        found = self.attr(name, None)
        return None if found is None else [int(axis) for axis in found]

    def number(self, name: str, default: float) -> float:
        """A float attribute as the shortest decimal that rounds to it in f32: what the exporter was given. Stored in
        f32, 1e-05 would read as 9.999999747378752e-06, and the graph would differ from that of the same model. Not for
        thresholds: numbers of f32 are compared with them."""
        return float(str(np.float32(self.attr(name, default))))

    def only(self, name: str, *values: Any) -> None:
        """Raise unless an attribute has one of these values, of which the first is its default."""
        found = self.attr(name, values[0])
        if found not in values:
            raise self.refuse(f"{name}={found!r} is not supported", expected=" | ".join(map(repr, values)))

    def unused(self, *indices: int) -> None:
        """Raise if one of these outputs is used."""
        for index in indices:
            if index < len(self.outputs) and self.outputs[index]:
                raise self.refuse(f"output {index} ({self.outputs[index]}) is not supported")

    # -- results

    def emit(self, op: str, operands: Sequence[Any], **attrs: Any) -> Any:
        return self.trace.emit(op, [None if o is None else lift(o, self.trace) for o in operands], attrs)

    def quantized_constant(self, data: np.ndarray, quant: QuantParams, dtype: DType) -> Any:
        """A constant of codes as the IR holds them."""
        return self.trace.wrap(
            self.trace.graph.add_const(f"{self.name or self.op}.q", data, TensorType(dtype, data.shape, quant))
        )

    def constant_codes(self, data: np.ndarray, element: CodeType, quant: QuantParams) -> Codes:
        """A constant of codes of the file; `quant`: the IR's parameters."""
        held = np.ascontiguousarray(element.held(data))
        return Codes(self.quantized_constant(held, quant, element.dtype), element)

    def quantize(self, x: Any, quant: QuantParams, element: CodeType, output: int = 0) -> Codes:
        """x quantized; `output`: which output of the node that is."""
        traced = lift(x, self.trace)
        self.trace.graph.stage = "qdq"
        node = self.trace.graph.create(
            "quantize",
            [traced.value],
            types=TensorType(element.dtype, traced.value.type.shape, quant),
            names=f"{self.outputs[output]}",
            loc=self.trace.loc,
        )
        return Codes(self.trace.wrap(node.result), element)

    def as_moved(self, results: Any) -> Any:
        """The results of an op that moves elements: codes again, if its operands were."""
        if self.moved is None:
            return results
        quant, element = self.moved.value.type.params, self.moved.element
        many = results if isinstance(results, tuple) else (results,)
        codes = tuple(
            self.quantize(result, quant, element, index) if index < len(self.outputs) and self.outputs[index] else None
            for index, result in enumerate(many)
        )
        return codes if isinstance(results, tuple) else codes[0]

    def refuse(self, what: str, **details: Any) -> TraceError:
        return TraceError(f"{self.op}: {what}", where=self.trace.place(), **details)
